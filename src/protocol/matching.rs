//! Up to where two copies of a stream are one.
//!
//! The epochs say it first. Each side knows which epoch wrote which part of its
//! copy; behind the end of the last part that both have alike, the replica
//! holds bytes of a reign that the primary's history has ended:
//!
//! ```text
//!   primary   epoch 1 ..........| epoch 3 ........>
//!   replica   epoch 1 ..........~~~~~~|               ~ bytes that were lost
//!                               ^ common                at the primary
//! ```
//!
//! The chains then prove it, or not. If they differ although the epochs agree,
//! [`Search`] finds the last boundary where they do not, in a number of rounds
//! that grows with the logarithm of the stream: chains that are equal at one
//! boundary are equal at every one before.

#![forbid(unsafe_code)]

use super::message::Boundary;
use crate::ids::Epoch;
use crate::lsn::{Lsn, Mark};

/// Where the search begins to look, bytes before the position that differs.
const FIRST_STEP_BYTES: u64 = 4096;

/// The position up to which two histories agree. `here` and `flushed` are the
/// replica's epochs and durable end, `there` the primary's epochs.
///
/// At most `flushed`. If it is `flushed`, nothing on the replica contradicts the
/// primary's epochs, and the replica may take them over.
#[must_use]
pub fn common_point(here: &[(Epoch, Lsn)], flushed: Lsn, there: &[(Epoch, Lsn)]) -> Lsn {
    // An epoch in which nothing was received says nothing.
    let received = |index: usize, start: Lsn| index == 0 || start < flushed;
    let here = here.iter().enumerate().filter(|(index, (_, start))| received(*index, *start));
    let mut here = here.map(|(_, entry)| entry);
    let mut there = there.iter();
    let mut agreed = false;
    loop {
        let (ours, theirs) = (here.next(), there.next());
        if ours.is_some() && ours == theirs {
            agreed = true;
            continue;
        }
        if !agreed {
            return Lsn::ZERO;
        }
        let end = |next: Option<&(Epoch, Lsn)>| next.map_or(flushed, |(_, start)| *start);
        return end(ours).min(end(theirs)).min(flushed);
    }
}

/// The first epoch that begins elsewhere in one history than in the other, with
/// its beginning here and there.
///
/// A primary never gives a number twice, so two of them gave it: copies of one
/// catalog, each of which has gone on by itself. Neither reign has ended the
/// other, and nothing may be cut for either.
#[must_use]
pub fn collision(here: &[(Epoch, Lsn)], there: &[(Epoch, Lsn)]) -> Option<(Epoch, Lsn, Lsn)> {
    here.iter().find_map(|(epoch, start)| {
        let (_, other) = there.iter().find(|(known, _)| known == epoch)?;
        (other != start).then_some((*epoch, *start, *other))
    })
}

/// The search for the last boundary that two copies have in common.
///
/// Ask the replica for its boundary at or before [`Search::probe`], compare it
/// with the primary's own mark there, and tell the outcome with
/// [`Search::same`] or [`Search::differs`], until there is nothing left to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The last boundary known to be the same.
    common: Mark,
    /// No other boundary of the replica lies between `common` and here.
    floor: Lsn,
    /// The first boundary of the replica known to differ.
    ceiling: Lsn,
    /// Records of the replica up to the ceiling, once known.
    records: Option<u64>,
    /// How far below the ceiling to look while nothing is known to be the same.
    step_bytes: u64,
}

impl Search {
    /// The copies differ at `ceiling`, or one of them has no boundary there.
    #[must_use]
    pub const fn below(ceiling: Lsn) -> Self {
        Self {
            common: Mark::START,
            floor: Lsn::ZERO,
            ceiling,
            records: None,
            step_bytes: FIRST_STEP_BYTES,
        }
    }

    /// The last boundary known to be the same: the answer, once there is
    /// nothing to ask.
    #[must_use]
    pub const fn common(&self) -> Mark {
        self.common
    }

    /// The position to ask the replica for; nothing when the search is over.
    #[must_use]
    pub fn probe(&self) -> Option<Lsn> {
        let width = self.ceiling.bytes_since(self.floor);
        let adjacent = self.records == Some(self.common.records + 1);
        if width <= 1 || adjacent {
            return None;
        }
        // Copies part near their ends as a rule: from there in growing steps,
        // and once one has gone too far, by halving.
        let back = if self.floor == Lsn::ZERO { self.step_bytes } else { width / 2 };
        Some(Lsn(self.ceiling.0 - back.clamp(1, width - 1)))
    }

    /// The replica's boundary at or before `probe` is the primary's `mark`.
    pub fn same(&mut self, probe: Lsn, mark: Mark) {
        if mark.lsn >= self.common.lsn {
            self.common = mark;
        }
        self.floor = self.floor.max(probe).min(self.ceiling);
    }

    /// What the primary had at the replica's boundary at or before `probe` is
    /// no longer there: only what lies behind can be compared.
    pub fn unknown(&mut self, probe: Lsn) {
        self.floor = self.floor.max(probe).min(self.ceiling);
    }

    /// The primary has no such boundary.
    pub fn differs(&mut self, boundary: &Boundary) {
        if boundary.lsn < self.ceiling {
            self.ceiling = boundary.lsn;
            self.records = Some(boundary.records);
            self.floor = self.floor.min(self.ceiling);
        }
        self.step_bytes = self.step_bytes.saturating_mul(8);
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
