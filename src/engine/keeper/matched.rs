//! Received spaces and the history of their primary: compared, cut, adopted.
//!
//! ```text
//!   save to the quarantine         |  old state, all of it
//!   commit: checkpoint at the cut  |  old state: recovery verifies it again
//!   cut                            |  some boundary between the cut and the old end
//!   commit: runs, epochs           v  new state
//! ```
//!
//! A stop between any two steps leaves a prefix of the old stream under its old
//! epochs, and every byte that is missing from it in the quarantine. The new
//! epoch was seen durably before, so no older primary is obeyed meanwhile.

use super::{Denial, Keeper, Lease, Lessee, Loan, remember};
use crate::engine::recovery::{self, Found, RecoveryError, Subject};
use crate::ids::{Epoch, SpaceId};
use crate::limits::MAX_WALK_BYTES_PER_TURN;
use crate::lsn::{Lsn, Mark};
use crate::protocol::matching::common_point;
use crate::protocol::message::{ErrorCode, OpenSpace, Truncate};
use crate::state::catalog::{Change, SpaceRecord};

impl Keeper {
    /// Lend a space that is here and durable up to `mark`. It gets the
    /// primary's epochs, unless they contradict what it holds.
    pub(super) fn lend(
        &mut self,
        shard: usize,
        open: &OpenSpace,
        mark: Mark,
    ) -> Result<Loan, Denial> {
        let space = &open.space;
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        let common = shared(&entry.record, mark.lsn, open);
        if common == mark.lsn && entry.record.history != open.history {
            // The new epoch's first run may be another than the one that was
            // told, and never written to, before.
            if entry.record.runs.last().is_some_and(|last| last.start >= mark.lsn) {
                self.cut(open, mark)?;
            }
            let change = Change::Adopt(open.history.clone());
            self.enter(space, change);
        }
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        let epoch = open.epoch().unwrap_or(Epoch::FIRST);
        entry.lease = Lease::Lent(Lessee { shard, epoch, mark });
        // What is gone is told again, as it is in this stream.
        entry.going.clear();
        self.lending.push(space.clone());
        Ok(Loan { record: entry.record.clone(), mark, common })
    }

    /// The last boundary at or before a position of a space that is here, and
    /// durable up to `flushed`. While it is far the jobs of other spaces are done.
    pub(super) fn boundary(
        &mut self,
        space: &SpaceId,
        flushed: &Mark,
        at: Lsn,
    ) -> Result<Mark, RecoveryError> {
        let mut from = None;
        loop {
            let Some(entry) = self.spaces.get(space) else { return Ok(Mark::START) };
            let record = &entry.record;
            let locate = |run: &_| self.place_of(space, record, run);
            let mut budget = MAX_WALK_BYTES_PER_TURN;
            let checksums = self.checksums;
            match recovery::search(record, flushed, from, at, checksums, &locate, &mut budget)? {
                Found::At(mark) => return Ok(mark),
                Found::Behind(mark) => from = Some(mark),
            }
            self.look_after_others(space);
        }
    }

    /// Cut a space that was lent and has come back, and lend it again. `found` is
    /// its last boundary at or before the cut. Refused, it stays here.
    pub(super) fn truncate_replica(
        &mut self,
        shard: usize,
        open: &OpenSpace,
        to: &Truncate,
        found: Result<Mark, RecoveryError>,
    ) -> Result<Loan, Denial> {
        let space = &open.space;
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        let Lease::Lent(lessee) = entry.lease else {
            return Err((ErrorCode::Protocol, format!("space {space} is not lent")).into());
        };
        if let Some(why) = self.unrecorded.get(space) {
            entry.lease = Lease::Broken(why.clone());
            return Err((ErrorCode::Storage, format!("space {space}: {why}")).into());
        }
        entry.lease = Lease::Here(lessee.mark);
        for adoption in std::mem::take(&mut entry.adoptions) {
            adoption.refuse("the space is being cut");
        }
        let epoch = open.epoch().unwrap_or(Epoch::FIRST);
        let highest = entry.record.highest_epoch;
        if epoch < highest {
            let why = format!("space {space} has seen epoch {highest} meanwhile");
            return Err(Denial { code: ErrorCode::Fenced, why, highest: Some(highest) });
        }
        let common = shared(&entry.record, lessee.mark.lsn, open);
        let base = entry.record.base;
        if to.lsn < common || to.lsn > lessee.mark.lsn {
            let why = format!(
                "space {space} is not cut at {}: by the epochs it is its primary's up to {common}",
                to.lsn
            );
            return Err((ErrorCode::Diverged, why).into());
        }
        let mark =
            found.map_err(|error| (ErrorCode::Storage, format!("space {space}: {error}")))?;
        if (mark.lsn, mark.chain) != (to.lsn, to.chain) {
            let why = format!(
                "space {space} is not cut at {}: the primary has chain {:?} there, and the last \
                 boundary here is {} with chain {:?}",
                to.lsn, to.chain, mark.lsn, mark.chain
            );
            return Err((ErrorCode::Diverged, why).into());
        }
        if mark.lsn < base.lsn {
            // Nothing that is here is of the stream any more: with this batch the
            // copy is one of which nothing has come yet. That includes the copy
            // that it was to replace: its primary may have lost what it had
            // vouched for.
            self.keep_old_copies(space).map_err(|error| {
                let directory = self.places.old_copies(space);
                let directory = directory.display();
                let why = format!("space {space}: what is kept of {directory}: {error}");
                (ErrorCode::Storage, why)
            })?;
            self.cut(open, base)?;
            let seed = Change::Seed { base: mark, first_run: 0, target: mark.lsn };
            for change in [seed, Change::SeedMoved, Change::SeedDone] {
                self.enter(space, change);
            }
            self.seeded.push(space.clone());
        } else {
            self.cut(open, mark)?;
        }
        self.enter(space, Change::Adopt(open.history.clone()));
        self.lend(shard, open, mark)
    }

    /// Save what lies behind `mark`, and cut it off. The catalog learns the
    /// rest with this batch. While much is saved the jobs of other spaces are
    /// done.
    fn cut(&mut self, open: &OpenSpace, mark: Mark) -> Result<(), Denial> {
        let space = &open.space;
        self.record_now(space);
        if let Some(why) = self.unrecorded.get(space).cloned() {
            return Err(self.broken(space, why));
        }
        let epoch = open.epoch().unwrap_or(Epoch::FIRST);
        let lowered = [Change::SawEpoch(epoch), Change::Checkpoint(mark)];
        let lowered = lowered.map(|change| (space.clone(), change));
        let Some(entry) = self.spaces.get_mut(space) else { return Ok(()) };
        entry.recoveries += 1;
        for (_, change) in &lowered {
            remember(&mut entry.record, change);
        }
        let record = entry.record.clone();
        if let Err(failure) = self.commit(&lowered) {
            // Written again with all others; until then the space is not lent,
            // and nothing of it was cut.
            let why = format!("the catalog could not be written: {}", failure.why);
            self.withdraw(lowered.into(), Vec::new(), &failure);
            return Err(self.broken(space, why));
        }
        let (places, quarantine) = (self.places.clone(), self.places.quarantine());
        let subject = Subject {
            host: &places.host,
            data_root: &places.data_root,
            space,
            record: &record,
            quarantine: &quarantine,
            checksums: self.checksums,
        };
        let cut = match subject.truncate(epoch, &mut || self.look_after_others(space)) {
            // The catalog has the mark; and only from who ships it again can it be
            // mended, over the session that this denies.
            Err(damage) if damage.is_below_checkpoint() => {
                tracing::error!(%space, "{damage}");
                self.received.damaged(space, damage.to_string());
                self.have_mended(space);
                subject.truncate_behind_damage(epoch, &mut || self.look_after_others(space))
            }
            other => other,
        };
        match cut {
            Ok(recovered) => {
                for notice in &recovered.notices {
                    tracing::warn!(%space, "{notice}");
                }
                for change in recovered.changes {
                    self.enter(space, change);
                }
                if mark.lsn > Lsn::ZERO {
                    self.enter(space, Change::AddMark(mark));
                }
                self.count_quarantine(space);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%space, %error, "the space cannot be cut");
                Err(self.broken(space, error.to_string()))
            }
        }
    }

    /// One more change of this batch.
    pub(super) fn enter(&mut self, space: &SpaceId, change: Change) {
        if let Some(entry) = self.spaces.get_mut(space) {
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
    }

    /// What is on the disk is known after another recovery only.
    fn broken(&mut self, space: &SpaceId, why: String) -> Denial {
        let denial = (ErrorCode::Storage, format!("space {space}: {why}")).into();
        if let Some(entry) = self.spaces.get_mut(space) {
            entry.lease = Lease::Broken(why);
        }
        denial
    }
}

/// Up to where a copy that is durable to `flushed` is its primary's by the epochs.
/// One that begins at a base has nothing before it that could be compared, and
/// counts its runs from there: if its primary was cut there or before, they share
/// nothing.
fn shared(record: &SpaceRecord, flushed: Lsn, open: &OpenSpace) -> Lsn {
    let base = record.base.lsn;
    let cut = |(epoch, start): &(Epoch, Lsn)| {
        *start <= base && record.history.iter().all(|(known, _)| known != epoch)
    };
    if base > Lsn::ZERO && open.history.iter().any(cut) {
        return Lsn::ZERO;
    }
    common_point(&record.history, flushed, &open.history)
}

#[cfg(test)]
#[path = "matched_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "based_tests.rs"]
mod based;

#[cfg(test)]
#[path = "unreadable_tests.rs"]
mod unreadable;
