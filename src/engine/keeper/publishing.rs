//! What the status shows of received spaces that no session has.

use super::{Keeper, Lease, Space};
use crate::engine::quarantine;
use crate::engine::report::received_seed;
use crate::engine::status::{self, EpochStatus, QuarantineStatus, SpaceStatus};
use crate::ids::SpaceId;
use crate::lsn::Mark;
use crate::state::catalog::Role;

impl Keeper {
    /// Enter or replace a space, and publish where it stands.
    pub(super) fn keep(&mut self, id: SpaceId, mut space: Space) {
        if !matches!(space.lease, Lease::Broken(_)) {
            space.last_known = None;
        }
        if space.record.role == Role::Replica {
            let state = match &space.lease {
                Lease::Here(mark) => Some((*mark, space.trouble.clone(), true)),
                Lease::Broken(why) => {
                    // The catalog is told now and then only.
                    let marks = space.last_known.into_iter().chain([space.record.checkpoint]);
                    let last = marks.max_by_key(|mark| mark.lsn).unwrap_or(Mark::START);
                    Some((last, Some(why.clone()), false))
                }
                // The session that has it knows better.
                Lease::Lent(_) => None,
            };
            if let Some((mark, problem, head_known)) = state {
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
                    head_known,
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
