//! What can be asked of the scrubber.

use crate::ids::{NodeId, SpaceId};

/// A pass that somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubAsk {
    /// Only this space.
    pub space: Option<SpaceId>,
    /// Without the limit on bytes per second.
    pub full_speed: bool,
    /// Build good copies of damaged files of a space that this node ships.
    pub repair: bool,
    /// From this replica; otherwise from any that has what is missing.
    pub from: Option<NodeId>,
}

impl ScrubAsk {
    /// One space, as fast as the disk reads.
    #[must_use]
    pub fn space(space: SpaceId) -> Self {
        Self { space: Some(space), full_speed: true, ..Self::default() }
    }

    /// As the query of a URL.
    #[must_use]
    pub fn query(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.space.as_ref().map(|space| format!("space={space}")));
        parts.extend(self.from.as_ref().map(|from| format!("from={from}")));
        parts.extend(self.full_speed.then(|| "full_speed=true".to_owned()));
        parts.join("&")
    }

    /// From the query of a URL.
    ///
    /// # Errors
    ///
    /// A sentence: what is wrong, and what is allowed.
    pub fn parse(repair: bool, query: &str) -> Result<Self, String> {
        let mut ask = Self { repair, ..Self::default() };
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "space" => ask.space = Some(value.parse().map_err(|e| format!("space: {e}"))?),
                "from" if repair => {
                    ask.from = Some(value.parse().map_err(|e| format!("from: {e}"))?);
                }
                "full_speed" if value == "true" || value == "false" => {
                    ask.full_speed = value == "true";
                }
                _ => {
                    return Err(format!(
                        "{part:?} is not understood; there are space=, full_speed=true and, for a \
                         repair, from="
                    ));
                }
            }
        }
        if repair && ask.space.is_none() {
            return Err("a repair names its space".to_owned());
        }
        Ok(ask)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_survives_its_query() {
        for repair in [false, true] {
            let ask = ScrubAsk {
                space: Some("alpha".parse().unwrap()),
                full_speed: true,
                repair,
                from: repair.then(|| "replica-1".parse().unwrap()),
            };
            assert_eq!(ScrubAsk::parse(repair, &ask.query()), Ok(ask));
        }
        assert_eq!(ScrubAsk::parse(false, ""), Ok(ScrubAsk::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (repair, query) in
            [(false, "spce=alpha"), (false, "space=A"), (false, "from=abc"), (true, "")]
        {
            assert!(ScrubAsk::parse(repair, query).is_err(), "{query}");
        }
    }
}
