//! Filling a replica anew: from where, and whether it can come to an end.

use std::time::Duration;

use super::retention::{Base, Unresumable};
use super::space::Space;
use crate::engine::keeper::Job;
use crate::limits::{SEED_BACKOFF, SEED_BACKOFF_MOST};
use crate::lsn::{Chain, Lsn, Mark};
use crate::state::slots::SlotRecord;

impl Space {
    /// Where a replica can be filled anew from: the beginning of the oldest
    /// segment that has a name, so that it gets every segment of the directory
    /// and the tail. `None` while that is being walked or opened.
    pub fn seed_base(&mut self, jobs: &mut Vec<Job>) -> Option<Result<Base, Unresumable>> {
        // What a replica has when it is filled must be all that stands here now.
        let walking = self.obstacle.is_none() && !self.is_walked();
        if !self.known || walking {
            return None;
        }
        let Some((first_run, start)) = self.oldest_named() else {
            let why = "no segment has a name here: there is nothing to fill a replica with";
            return Some(Err(Unresumable::Gone(why.to_owned())));
        };
        let file = self.runs.get(first_run).map(|run| run.file);
        let begin = file.and_then(|file| self.begins.get(&file)).copied();
        let begin = begin.or_else(|| self.saved.iter().find(|mark| mark.lsn == start).copied());
        let begin = begin.or((start == Mark::START.lsn).then_some(Mark::START));
        let Some(mark) = begin.filter(|mark| mark.lsn == start) else {
            let why =
                format!("the chain at {start}, where the oldest segment begins, is not known");
            return Some(Err(Unresumable::Gone(why)));
        };
        match self.ready_from(start, jobs) {
            Ok(true) => Some(Ok(Base { mark, first_run })),
            Ok(false) => None,
            Err(why) => Some(Err(why)),
        }
    }

    /// Whether what a replica has up to a position, with that chain, is this
    /// stream: because a boundary says so, or because nobody but this process
    /// has shipped what lies there. What an earlier one shipped may be another
    /// stream than this, and once its segments are gone nobody can compare.
    #[must_use]
    pub fn vouches_for(&self, lsn: Lsn, chain: Chain) -> bool {
        let known = self.saved.iter().chain(self.begins.values()).chain([&self.head]);
        let known = known.copied().chain(self.index.boundaries()).find(|mark| mark.lsn == lsn);
        match known {
            Some(mark) => mark.chain == chain,
            None => lsn == Lsn::ZERO || !self.past.is_unsure(lsn),
        }
    }
}

/// How long after a seed was lost the next one may begin; nothing if it may
/// now. So a replica that is lost again and again is not filled in a loop.
#[must_use]
pub fn pause_left(slot: &SlotRecord, now_ns: u64) -> Option<Duration> {
    let doublings = slot.lost_seeds.checked_sub(1)?;
    let pause = SEED_BACKOFF.saturating_mul(1 << doublings.min(16)).min(SEED_BACKOFF_MOST);
    // A clock that was set back must not make the pause longer.
    let passed = Duration::from_nanos(now_ns.checked_sub(slot.since_ns)?);
    pause.checked_sub(passed).filter(|left| !left.is_zero())
}

/// Why a seed would never come to an end: the log grows faster than the link
/// carries it. Nothing while either rate is unknown.
#[must_use]
pub fn outrun(growth: Option<f64>, measured: Option<f64>, limit: Option<u64>) -> Option<String> {
    let growth = growth?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let limit = limit.map(|limit| limit as f64);
    let rate = [measured, limit].into_iter().flatten().reduce(f64::min)?;
    // A log that stands still comes to its end at any rate, also at one that was
    // measured while the replica's disk stood still.
    if growth < rate || growth <= 0.0 {
        return None;
    }
    let (what, remedy) = if limit.is_some_and(|limit| limit <= rate) {
        ("retention.seed_bytes_per_second allows", "raise it")
    } else {
        ("the link was measured to carry", "give it a faster link or disk")
    };
    Some(format!(
        "filling this replica anew would never end: the log grows by {growth:.0} bytes a second, \
         and {what} {rate:.0}; {remedy}, or slow the writer down"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::slots::SlotState;

    #[test]
    fn a_seed_that_was_lost_is_not_begun_again_at_once() {
        let slot = |lost_seeds| SlotRecord {
            state: SlotState::Lost,
            lost_seeds,
            since_ns: 1_000,
            ..SlotRecord::default()
        };
        assert_eq!(pause_left(&slot(0), 1_000), None, "the first one begins at once");
        assert_eq!(pause_left(&slot(1), 1_000), Some(SEED_BACKOFF));
        assert_eq!(pause_left(&slot(2), 1_000), Some(2 * SEED_BACKOFF));
        assert_eq!(pause_left(&slot(40), 1_000), Some(SEED_BACKOFF_MOST));
        let later = 1_000 + u64::try_from(SEED_BACKOFF.as_nanos()).unwrap();
        assert_eq!(pause_left(&slot(1), later), None);
        assert_eq!(pause_left(&slot(1), 999), None, "a clock that was set back");
    }

    #[test]
    fn a_seed_that_the_writer_outruns_is_refused_with_both_rates() {
        assert_eq!(outrun(None, Some(1.0), Some(1)), None);
        assert_eq!(outrun(Some(100.0), None, None), None, "nothing was measured yet");
        assert_eq!(outrun(Some(100.0), Some(200.0), Some(150)), None);
        assert_eq!(outrun(Some(0.0), Some(0.0), None), None, "nothing has to be outrun");
        let why = outrun(Some(100.0), Some(200.0), Some(50)).unwrap();
        assert!(why.contains("100 bytes") && why.contains("allows 50"), "{why}");
        let why = outrun(Some(100.0), Some(80.0), None).unwrap();
        assert!(why.contains("carry 80"), "{why}");
    }
}
