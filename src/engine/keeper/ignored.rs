//! Directories of the data root that hold a log and are no space: told once in
//! the log, and listed in the status for as long as they are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Keeper;
use crate::engine::status;
use crate::ids::SpaceId;
use crate::limits::MAX_LISTED_IGNORED;
use crate::wal::discover;

/// What the control plane sees of them. No data core touches it.
#[derive(Clone, Debug, Default)]
pub struct Ignored(Arc<Mutex<status::Ignored>>);

impl Ignored {
    /// For the status.
    #[must_use]
    pub fn status(&self) -> status::Ignored {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replace what was there; warn of what was not.
    pub(super) fn publish(&self, found: Vec<discover::Ignored>) {
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = found.len();
        let before = std::mem::take(&mut *listed);
        let told: BTreeMap<_, _> =
            before.directories.iter().map(|d| (&d.name, &d.reason)).collect();
        let directories = found.into_iter().take(MAX_LISTED_IGNORED).map(|ignored| {
            let name = ignored.name.to_string_lossy().into_owned();
            status::IgnoredDirectory { name, reason: ignored.reason }
        });
        let directories: Vec<_> = directories.collect();
        for status::IgnoredDirectory { name, reason } in &directories {
            if told.get(name) != Some(&reason) {
                tracing::warn!("the directory {name:?} is not shipped: {reason}");
            }
        }
        if count > MAX_LISTED_IGNORED && count > before.count {
            tracing::warn!(
                "{count} directories with logs are not shipped; the first {MAX_LISTED_IGNORED} by \
                 name are named here and in the status"
            );
        }
        *listed = status::Ignored { count, directories };
    }
}

impl Keeper {
    /// The directories that are left alone, for the control plane.
    #[must_use]
    pub fn ignored(&self) -> Ignored {
        self.ignored.clone()
    }

    /// Which other space the log of this one is shipped as. A log gets one
    /// name, also if a link to it appears only now.
    pub(super) fn shipped_as(&mut self, space: &SpaceId) -> Option<SpaceId> {
        let identity = discover::identity(&self.places.data_root, space)?;
        let other = self.logs.get(&identity).filter(|other| *other != space).cloned();
        // What bore the number before may be gone.
        let other =
            other.filter(|o| discover::identity(&self.places.data_root, o) == Some(identity));
        if other.is_none() {
            self.logs.insert(identity, space.clone());
        }
        other
    }
}
