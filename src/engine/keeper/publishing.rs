//! What the status shows of received spaces that no session has.

use super::{Keeper, Lease, Space};
use crate::engine::quarantine;
use crate::engine::report::received_seed;
use crate::engine::status::{self, EpochStatus, QuarantineStatus, SpaceStatus};
use crate::ids::SpaceId;
use crate::state::catalog::Role;

impl Keeper {
    /// Enter or replace a space, and publish where it stands.
    pub(super) fn keep(&mut self, id: SpaceId, space: Space) {
        if space.record.role == Role::Replica {
            let state = match &space.lease {
                Lease::Here(mark) => Some((*mark, space.trouble.clone())),
                Lease::Broken(why) => Some((space.record.checkpoint, Some(why.clone()))),
                // The session that has it knows better.
                Lease::Lent(_) => None,
            };
            if let Some((mark, problem)) = state {
                let status = SpaceStatus {
                    space: id.clone(),
                    role: status::Role::Replica,
                    epoch: space.record.highest_epoch,
                    head_lsn: mark.lsn.0,
                    head_sequence: mark.sequence,
                    flushed_lsn: Some(mark.lsn.0),
                    primary: None,
                    seeding: received_seed(&space.record, mark.lsn),
                    no_primary_seconds: None,
                    head_known: true,
                    blocked: problem.is_some(),
                    problem,
                    holes: Vec::new(),
                    replicas: Vec::new(),
                    epochs: EpochStatus::of(&space.record.history),
                    highest_epoch: Some(space.record.highest_epoch),
                    quarantine: QuarantineStatus::default(),
                };
                self.received.publish(status);
            }
        }
        self.count_quarantine(&id);
        self.spaces.insert(id, space);
    }

    /// Publish what a space has in quarantine.
    pub(super) fn count_quarantine(&self, space: &SpaceId) {
        match quarantine::tally(&self.places.quarantine(), space) {
            Ok((pieces, bytes)) => {
                self.received.publish_quarantine(space.clone(), QuarantineStatus { pieces, bytes });
            }
            Err(error) => tracing::warn!(%space, %error, "the quarantine cannot be listed"),
        }
    }
}
