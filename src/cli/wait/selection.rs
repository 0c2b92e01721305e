//! Who is waited for, and how they stand.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Level;
use crate::cli::{UsageError, output};
use crate::engine::status::{NodeStatus, ReplicaState, ReplicaStatus, Role, SpaceStatus};
use crate::ids::{NodeId, SpaceId};

/// The head of each space that is waited for, as it was when it was first
/// known.
pub(super) type Heads = BTreeMap<SpaceId, u64>;

/// A space that is not known to have reached a replica.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Laggard {
    pub(super) space: SpaceId,
    /// `None`: any.
    pub(super) replica: Option<NodeId>,
    pub(super) state: ReplicaState,
    /// `None`: unknown.
    lsn: Option<u64>,
    head_lsn: Option<u64>,
    /// Waiting does not help.
    pub(super) blocked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

impl Laggard {
    /// For a person.
    pub(super) fn sentence(&self) -> String {
        let replica = self.replica.as_ref().map_or("any replica", NodeId::as_str);
        let behind = match (self.lsn, self.head_lsn) {
            (Some(lsn), Some(head)) if lsn < head => {
                format!("is {} behind, at {lsn} of {head}", output::bytes(head - lsn))
            }
            (Some(_), Some(_)) => "had all of it when it was last heard from".into(),
            (_, None) => "is behind by an unknown amount: the head is not known".into(),
            (None, _) => "has not told how far it is".into(),
        };
        let problem = self.problem.as_deref().map_or_else(String::new, |text| format!(": {text}"));
        format!("{} on {replica} ({}) {behind}{problem}", self.space, self.state.as_str())
    }
}

/// What one look has found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Who is not known to have reached the heads.
    pub(super) lagging: Vec<Laggard>,
    /// The replicas that were looked at.
    pub(super) replicas: BTreeSet<NodeId>,
    /// Why there is nothing to wait for, or no telling what.
    pub(super) problem: Option<String>,
    /// The problem does not end by itself.
    hopeless: bool,
}

impl Looked {
    /// There is nothing that could ever be reached.
    pub(super) fn is_final(&self) -> bool {
        self.hopeless
    }

    /// Something stands in the way that does not go away by waiting.
    pub(super) fn is_blocked(&self) -> bool {
        self.lagging.iter().any(|lag| lag.blocked)
    }

    /// Everything that was asked for is known, and is there.
    pub(super) fn is_reached(&self) -> bool {
        self.problem.is_none() && self.lagging.is_empty() && !self.replicas.is_empty()
    }
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Selection {
    space: Option<SpaceId>,
    replica: Option<NodeId>,
    level: Level,
    /// The spaces that were there at the call, once the node could tell: one
    /// that appears later is not waited for.
    spaces: Option<BTreeSet<SpaceId>>,
}

impl Selection {
    pub(super) fn new(space: Option<SpaceId>, replica: Option<NodeId>, level: Level) -> Self {
        Self { space, replica, level, spaces: None }
    }

    /// Look at a status. Heads that are known for the first time are kept in
    /// `heads`, and stay as they are.
    ///
    /// # Errors
    ///
    /// A name that was given is none that the node knows.
    pub(super) fn look(
        &mut self,
        status: &NodeStatus,
        heads: &mut Heads,
    ) -> Result<Looked, UsageError> {
        let mut looked = Looked::default();
        let node = &status.node;
        if let Some(replica) = &self.replica
            && !status.ships_to.contains(replica)
        {
            return Err(UsageError(format!("{node} does not ship to a replica {replica}")));
        }
        if status.ships_to.is_empty() {
            looked.problem =
                Some(format!("{node} has no [[replica]] in its configuration: it ships nothing"));
            looked.hopeless = true;
            return Ok(looked);
        }
        let spaces: Vec<_> = (status.spaces.iter())
            .filter(|space| space.role == Role::Primary)
            .filter(|space| self.space.as_ref().is_none_or(|wanted| *wanted == space.space))
            .filter(|space| self.spaces.as_ref().is_none_or(|all| all.contains(&space.space)))
            .collect();
        if let Some(problem) = &status.problem {
            // Whoever does not answer may have spaces that do not show.
            looked.problem = Some(format!("{node}: {}", output::printable(problem)));
        } else if status.starting {
            looked.problem = Some(format!("{node} is starting: not every space is known yet"));
        } else if spaces.is_empty() && self.spaces.is_none() {
            match &self.space {
                Some(space) => {
                    return Err(UsageError(format!("{node} does not ship a space {space}")));
                }
                None => looked.problem = Some(format!("{node} ships no space")),
            }
        } else {
            let all = || spaces.iter().map(|space| space.space.clone()).collect();
            self.spaces.get_or_insert_with(all);
        }
        for space in &spaces {
            if space.head_known {
                heads.entry(space.space.clone()).or_insert(space.head_lsn);
            }
            self.replicas(space, heads.get(&space.space).copied(), &mut looked);
        }
        for name in self.spaces.iter().flatten() {
            if !spaces.iter().any(|space| space.space == *name) {
                looked.lagging.push(Laggard {
                    space: name.clone(),
                    replica: self.replica.clone(),
                    state: ReplicaState::Failed,
                    lsn: None,
                    head_lsn: heads.get(name).copied(),
                    blocked: false,
                    problem: Some(format!("{node} does not ship this space any longer")),
                });
            }
        }
        Ok(looked)
    }

    /// How the replicas of a space stand to its head.
    fn replicas(&self, space: &SpaceStatus, head: Option<u64>, looked: &mut Looked) {
        for replica in &space.replicas {
            if self.replica.as_ref().is_some_and(|wanted| *wanted != replica.id) {
                continue;
            }
            looked.replicas.insert(replica.id.clone());
            let known = matches!(replica.state, ReplicaState::Healthy | ReplicaState::Lagging);
            // What shows of one that is cut is where, and nothing that it has told.
            let told = replica.state != ReplicaState::Unknown;
            let lsn = self.level.position(replica);
            // While it is filled anew its position says where that began, and
            // nothing of what it has.
            let reached = head.is_some_and(|head| lsn >= head) && replica.seeding.is_none();
            if known && reached && space.head_known && !space.blocked {
                continue;
            }
            looked.lagging.push(Laggard {
                space: space.space.clone(),
                replica: Some(replica.id.clone()),
                state: replica.state,
                lsn: (known || lsn > 0).then_some(lsn).filter(|_| told),
                head_lsn: head.filter(|_| space.head_known),
                blocked: space.blocked || replica.state == ReplicaState::Failed,
                problem: reason(space, replica),
            });
        }
    }
}

/// What keeps a space from a replica, in a sentence.
fn reason(space: &SpaceStatus, replica: &ReplicaStatus) -> Option<String> {
    let of_space = space.problem.clone().filter(|_| space.blocked);
    let mut reasons: Vec<String> = of_space.into_iter().chain(replica.problem.clone()).collect();
    if reasons.is_empty() && !space.head_known {
        reasons.push("the log was not read to its end yet".into());
    }
    (!reasons.is_empty()).then(|| output::printable(&reasons.join("; ")))
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
