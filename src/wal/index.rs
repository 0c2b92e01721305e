//! The remembered record boundaries of a stream.
//!
//! ```text
//!   remembered   |        |       |         |‖      |      |   | head
//!   stream       =============================================>
//!                 <=256 KiB                   run ends at ‖
//! ```
//!
//! A frame carries whole records, so the sender must know where records end
//! without reading the log again for each replica. Remembering every boundary
//! would cost more memory than it is worth; the index keeps one at least
//! every [`MARK_SPACING_BYTES`], plus every end of a run, plus the head.
//!
//! Past [`MAX_MARKS_PER_SPACE`] every second boundary of the older half is
//! dropped, so memory is bounded and the recent past stays dense. A replica
//! far behind then meets a gap wider than an extent, and [`Index::cut`]
//! answers [`Cut::Walk`]: walk the headers there once and
//! [`insert`](Index::insert) what was found.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::limits::{MARK_SPACING_BYTES, MAX_MARKS_PER_SPACE};
use crate::lsn::{Lsn, Mark};

/// Where the next extent of a replica ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing lies behind the position: it is the head, or beyond it.
    Nothing,
    /// Here. Never across the end of a run; more than was asked for only if
    /// one record alone is larger.
    To(Mark),
    /// No boundary is remembered within reach. Walk the headers from `from`
    /// towards `to`, [`insert`](Index::insert) boundaries, and ask again.
    Walk {
        /// The position asked for.
        from: Mark,
        /// The next remembered boundary. If `from` is older than everything
        /// remembered, ends of runs may lie between.
        to: Mark,
    },
}

/// One remembered boundary.
#[derive(Clone, Copy, Debug)]
struct Entry {
    mark: Mark,
    /// A run ends here: no extent may reach across.
    run_end: bool,
}

/// The remembered boundaries of one stream, ascending.
#[derive(Debug)]
pub struct Index {
    entries: VecDeque<Entry>,
    /// Where the last remembered boundary lies; a copy, so that the common
    /// push touches one cache line.
    last_kept: Lsn,
    head: Mark,
}

impl Index {
    /// An index that knows one boundary, its head.
    #[must_use]
    pub fn new(start: Mark) -> Self {
        let entries = VecDeque::from([Entry { mark: start, run_end: false }]);
        Self { entries, last_kept: start.lsn, head: start }
    }

    /// The newest boundary.
    #[must_use]
    pub const fn head(&self) -> Mark {
        self.head
    }

    /// The oldest remembered boundary.
    #[must_use]
    pub fn oldest(&self) -> Mark {
        self.entries.front().map_or(self.head, |entry| entry.mark)
    }

    /// All that are remembered, ascending, the head excepted.
    pub fn boundaries(&self) -> impl Iterator<Item = Mark> {
        self.entries.iter().map(|entry| entry.mark)
    }

    /// How many boundaries are remembered, without the head.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if only the head is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The head has moved to the next record boundary. Called for each
    /// record, in order; costs a comparison and a copy unless the previous
    /// head must be remembered.
    #[inline]
    pub fn push(&mut self, mark: Mark) {
        debug_assert!(mark.lsn >= self.head.lsn, "boundaries ascend");
        if mark.lsn.0 - self.last_kept.0 > MARK_SPACING_BYTES {
            self.keep_head(false);
        }
        self.head = mark;
    }

    /// A run ends at the head: the next records lie elsewhere. The boundary
    /// is kept for good, and no extent reaches across it.
    pub fn push_boundary(&mut self) {
        self.keep_head(true);
    }

    /// Remember the present head. Does nothing if it is remembered already,
    /// except that it may become the end of a run.
    #[cold]
    fn keep_head(&mut self, run_end: bool) {
        if let Some(last) = self.entries.back_mut()
            && last.mark.lsn == self.head.lsn
        {
            last.run_end |= run_end;
            return;
        }
        if self.entries.len() >= MAX_MARKS_PER_SPACE {
            self.thin();
        }
        self.entries.push_back(Entry { mark: self.head, run_end });
        self.last_kept = self.head.lsn;
    }

    /// Drop every second boundary of the older half, ends of runs excepted.
    /// If ends of runs alone fill that half, it is forgotten as a whole: the
    /// catalog of runs still has them.
    fn thin(&mut self) {
        let old = self.entries.len() / 2;
        let before = self.entries.len();
        let mut position = 0;
        self.entries.retain(|entry| {
            position += 1;
            position > old || entry.run_end || position % 2 == 1
        });
        if self.entries.len() > before - before / 8 {
            self.entries.drain(..old);
        }
    }

    /// The farthest boundary at most `max_bytes` behind `from`, which itself
    /// need not be remembered but must be a boundary of this stream.
    ///
    /// If `from` lies before [`oldest`](Self::oldest), ends of runs may have
    /// been forgotten: hold the answer against the catalog of runs.
    #[must_use]
    pub fn cut(&self, from: &Mark, max_bytes: u32) -> Cut {
        if from.lsn >= self.head.lsn {
            return Cut::Nothing;
        }
        let reach = from.lsn.0.saturating_add(u64::from(max_bytes));
        let first = self.entries.partition_point(|entry| entry.mark.lsn <= from.lsn);
        let mut best = None;
        for entry in self.entries.range(first..) {
            if entry.mark.lsn.0 > reach {
                return best.map_or_else(|| Self::beyond(from, &entry.mark), Cut::To);
            }
            best = Some(entry.mark);
            if entry.run_end {
                return Cut::To(entry.mark);
            }
        }
        if self.head.lsn.0 <= reach {
            Cut::To(self.head)
        } else {
            best.map_or_else(|| Self::beyond(from, &self.head), Cut::To)
        }
    }

    /// The next known boundary is out of reach: it is either one record, or
    /// there are boundaries between that are not remembered.
    fn beyond(from: &Mark, to: &Mark) -> Cut {
        if to.records == from.records + 1 {
            Cut::To(*to)
        } else {
            Cut::Walk { from: *from, to: *to }
        }
    }

    /// The last known boundary that is not behind `lsn`.
    #[must_use]
    pub fn nearest_at_or_before(&self, lsn: Lsn) -> Option<Mark> {
        if lsn >= self.head.lsn {
            return Some(self.head);
        }
        let behind = self.entries.partition_point(|entry| entry.mark.lsn <= lsn);
        behind.checked_sub(1).and_then(|last| self.entries.get(last)).map(|entry| entry.mark)
    }

    /// Remember a boundary that a walk has found. One that is known already,
    /// or lies at or beyond the head, changes nothing.
    pub fn insert(&mut self, mark: Mark) {
        if mark.lsn >= self.head.lsn {
            return;
        }
        let mut at = self.entries.partition_point(|entry| entry.mark.lsn < mark.lsn);
        if self.entries.get(at).is_some_and(|entry| entry.mark.lsn == mark.lsn) {
            return;
        }
        if self.entries.len() >= MAX_MARKS_PER_SPACE {
            self.thin();
            at = self.entries.partition_point(|entry| entry.mark.lsn < mark.lsn);
        }
        self.entries.insert(at, Entry { mark, run_end: false });
        self.last_kept = self.last_kept.max(mark.lsn);
    }

    /// Remember what a walk over an earlier part has found; its head is the
    /// oldest boundary of this one.
    pub fn prepend(&mut self, earlier: Self) {
        let joint = self.oldest().lsn;
        debug_assert_eq!(earlier.head.lsn, joint, "the two parts meet");
        for entry in earlier.entries.into_iter().rev() {
            match self.entries.front_mut() {
                Some(first) if first.mark.lsn == entry.mark.lsn => first.run_end |= entry.run_end,
                _ => self.entries.push_front(entry),
            }
        }
        while self.entries.len() > MAX_MARKS_PER_SPACE {
            self.thin();
        }
    }

    /// Forget what lies before `lsn`, except the last boundary at or before
    /// it, from which a position there can still be found.
    pub fn forget_before(&mut self, lsn: Lsn) {
        let behind = self.entries.partition_point(|entry| entry.mark.lsn <= lsn);
        self.entries.drain(..behind.saturating_sub(1));
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
