//! A received space that begins anew: what the replica had is moved aside, and
//! removed once something better is durable.
//!
//! ```text
//!   Reseed --> what is kept, durable --> Change::Seed --> files moved aside
//!                                            |                  |
//!          a stop behind it: moved at the start                 v
//!                                            |         Change::SeedMoved
//!                                            v                  |
//!                        superseded/<space>/<base>/...          v
//!                                                    the stream from the base
//!                                                               |
//!   removed, or kept <--- Change::SeedDone <--- flushed what the head was then
//! ```
//!
//! Until the move is durable nothing is received, so the files of the old copy
//! and of the new one are never taken for each other.

use std::io;

use super::{Denial, Keeper, Lease, Loan, Space, remember};
use crate::ids::SpaceId;
use crate::limits::SEED_SPARE_BYTES;
use crate::protocol::message::{ErrorCode, OpenSpace, Reseed};
use crate::state::catalog::{Change, Role, SpaceRecord};

impl Keeper {
    /// Give up what was received of a borrowed space and begin anew. Refused,
    /// it stays here.
    pub(super) fn reseed(
        &mut self,
        shard: usize,
        open: &OpenSpace,
        reseed: &Reseed,
    ) -> Result<Loan, Denial> {
        // What was told before must be in the catalog before this is.
        self.publish();
        let space = &open.space;
        let planned = self.plan_anew(space, reseed);
        let Some(mut entry) = self.spaces.remove(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        if !matches!(entry.lease, Lease::Lent(_)) {
            self.spaces.insert(space.clone(), entry);
            return Err((ErrorCode::Protocol, format!("space {space} is not lent")).into());
        }
        let begin = |()| self.begin_anew(space, reseed, &mut entry.record);
        let result = planned.and_then(begin);
        match (&result, self.unrecorded.get(space)) {
            (Ok(()), _) => {
                // What was read before is no longer what lies here.
                entry.recoveries += 1;
                entry.lease = Lease::Here(reseed.base);
            }
            (Err(_), Some(why)) => entry.lease = Lease::Broken(why.clone()),
            (Err(_), None) => self.recover(space, &mut entry),
        }
        self.keep(space.clone(), entry);
        result?;
        self.enter(space, Change::Adopt(open.history.clone()));
        self.lend(shard, open, reseed.base)
    }

    /// Decide what is kept of a borrowed space, while it is where others find it.
    fn plan_anew(&mut self, space: &SpaceId, reseed: &Reseed) -> Result<(), (ErrorCode, String)> {
        let lent = |entry: &&Space| matches!(entry.lease, Lease::Lent(_));
        let Some(entry) = self.spaces.get(space).filter(lent) else { return Ok(()) };
        let record = entry.record.clone();
        self.may_begin_anew(space, reseed, &record)?;
        let storage = |error: io::Error| (ErrorCode::Storage, format!("space {space}: {error}"));
        self.plan_move(space, &record, reseed).map_err(storage)
    }

    fn may_begin_anew(
        &self,
        space: &SpaceId,
        reseed: &Reseed,
        record: &SpaceRecord,
    ) -> Result<(), (ErrorCode, String)> {
        if record.role == Role::Primary {
            let why = format!("space {space} is written on this node: it does not begin anew");
            return Err((ErrorCode::Role, why));
        }
        if let Some(why) = self.unrecorded.get(space) {
            return Err((ErrorCode::Storage, format!("space {space}: {why}")));
        }
        if !self.unwritten.changes.is_empty() {
            let why = "the catalog cannot be written now".to_owned();
            return Err((ErrorCode::Storage, format!("space {space}: {why}")));
        }
        // Where nothing can be found, nothing would be moved aside.
        self.in_place().map_err(|error| (ErrorCode::Storage, format!("space {space}: {error}")))?;
        let base = reseed.base;
        let bytes = reseed.head.bytes_since(base.lsn);
        if let Ok(free) = crate::io::free_bytes(&self.places.data_root)
            && free < bytes.saturating_add(SEED_SPARE_BYTES)
        {
            return Err((
                ErrorCode::Limit,
                format!(
                    "filling space {space} anew takes {bytes} bytes, and {free} are free on {}: \
                     make room; what this node has of the space is needed until the seed is here, \
                     unless you decide otherwise and remove it",
                    self.places.data_root.display()
                ),
            ));
        }
        Ok(())
    }

    /// As it was planned.
    fn begin_anew(
        &mut self,
        space: &SpaceId,
        reseed: &Reseed,
        record: &mut SpaceRecord,
    ) -> Result<(), (ErrorCode, String)> {
        // Others may have been looked after since.
        self.may_begin_anew(space, reseed, record)?;
        let base = reseed.base;
        let bytes = reseed.head.bytes_since(base.lsn);
        let storage = |what: String| (ErrorCode::Storage, format!("space {space}: {what}"));
        let change = Change::Seed { base, first_run: reseed.first_run, target: reseed.head };
        self.commit_now(space, record, change).map_err(storage)?;
        tracing::warn!(
            %space, base = %base.lsn, head = %reseed.head, bytes,
            "this replica is filled anew: what it needed is gone from the primary. Its old copy is \
             kept in {} until the new one is here",
            self.superseded_by(space, &base).display()
        );
        if !reseed.vouched {
            tracing::warn!(
                %space,
                "the primary cannot say whether what this replica has is what it shipped: the old \
                 copy goes to the quarantine when the new one is here"
            );
        }
        self.supersede(space, record).map_err(|error| storage(error.to_string()))?;
        self.commit_now(space, record, Change::SeedMoved).map_err(storage)
    }

    /// One change, durable at once.
    fn commit_now(
        &mut self,
        space: &SpaceId,
        record: &mut SpaceRecord,
        change: Change,
    ) -> Result<(), String> {
        let batch = [(space.clone(), change)];
        let result = self.catalog.commit(&batch);
        let [(_, change)] = batch;
        if let Err(error) = result {
            let why = format!("the catalog could not be written: {error}; restart this node");
            self.unrecorded.insert(space.clone(), why.clone());
            return Err(why);
        }
        remember(record, &change);
        Ok(())
    }

    /// Bring to its end a move that was interrupted.
    pub(super) fn finish_move(
        &mut self,
        space: &SpaceId,
        record: &mut SpaceRecord,
    ) -> io::Result<()> {
        if record.seed.is_some_and(|seed| !seed.moved) {
            self.supersede(space, record)?;
            remember(record, &Change::SeedMoved);
            self.changes.push((space.clone(), Change::SeedMoved));
        }
        Ok(())
    }

    /// A checkpoint of a seed that has come to its target ends the seed.
    pub(super) fn settle_seed(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let at = entry.record.checkpoint.lsn;
        if entry.record.seed.is_some_and(|seed| seed.moved && at >= seed.target) {
            remember(&mut entry.record, &Change::SeedDone);
            self.changes.push((space.clone(), Change::SeedDone));
            self.seeded.push(space.clone());
        }
    }
}
