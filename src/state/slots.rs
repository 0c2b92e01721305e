//! What a primary remembers of one replica for one space, across restarts.
//!
//! ```text
//!   Retaining --past a budget--> Lost --the replica is back--> Seeding
//!       ^                          |                              |
//!       +--- it needs nothing  ----+                              |
//!       +----------------- the seed has caught up ----------------+
//! ```
//!
//! The position is written now and then only. That is safe, because a stored
//! position is never ahead of the replica's: at worst more is kept than needed.
//!
//! ```text
//!   slot (96), key (space, replica)
//!    0  1  state: 1 retaining, 2 lost, 3 seeding
//!    1  1  1: what it has made durable is in doubt
//!    2  2  zero
//!    4  4  seeds that were lost in a row
//!    8 40  what the replica has made durable, a mark
//!   48  8  since when it is in this state, ns since the Unix epoch
//!   56  8  since when it is behind, ns since the Unix epoch; 0: it is not
//!   64  8  seeding: where the seed begins
//!   72  8  seeding: where the head was when it began
//!   80  8  in doubt: from where on
//!   88  8  zero
//! ```

use super::layout;
use crate::lsn::{Lsn, Mark};

/// Bytes of a slot in the catalog.
pub(super) const SLOT_BYTES: usize = 96;

/// What a slot does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotState {
    /// It holds every segment from its position on.
    #[default]
    Retaining,
    /// It holds nothing: its budget was spent.
    Lost,
    /// The replica is being filled anew; the slot holds everything from its
    /// position on, which began at the base of the seed.
    Seeding,
}

/// One slot, as the catalog has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRecord {
    /// What it does.
    pub state: SlotState,
    /// Seeds of this replica that were lost in a row.
    pub lost_seeds: u32,
    /// What the replica has made durable, at least.
    pub flushed: Mark,
    /// What it has made durable of the present stream may end here: a primary
    /// that started since had no boundary behind this one, or met none again before
    /// it began an epoch. So a crash may have taken what was acknowledged there, and
    /// something else stand in its place.
    /// Until the replica is heard of, or its position is met again with its
    /// chain, what comes from here on is held for it.
    pub doubted: Option<Lsn>,
    /// Since when it is in this state, nanoseconds since the Unix epoch.
    pub since_ns: u64,
    /// Since when there is something that it has not made durable,
    /// nanoseconds since the Unix epoch; 0 when there is nothing.
    pub behind_ns: u64,
    /// While seeding: where the seed begins.
    pub base: Lsn,
    /// While seeding: where the head was when the seed began.
    pub target: Lsn,
}

impl SlotRecord {
    /// True if segments are kept for it.
    #[must_use]
    pub fn retains(&self) -> bool {
        self.state != SlotState::Lost
    }

    /// From here on segments are kept for it.
    #[must_use]
    pub fn held_from(&self) -> Lsn {
        self.doubted.map_or(self.flushed.lsn, |from| from.min(self.flushed.lsn))
    }

    /// The stream was cut at `at`, in a new epoch: no position lies behind it
    /// any more. Behind `sure` something else may stand than was acknowledged. True
    /// if something changed.
    pub fn cut(&mut self, at: Mark, sure: Lsn) -> bool {
        let before = *self;
        self.doubt(sure);
        if self.flushed.lsn > at.lsn {
            self.flushed = at;
        }
        self.doubted = self.doubted.filter(|from| *from < self.flushed.lsn);
        self.base = self.base.min(at.lsn);
        self.target = self.target.min(at.lsn);
        *self != before
    }

    /// The stream was walked no further than to `known` before this process
    /// started. True if something changed.
    pub fn doubt(&mut self, known: Lsn) -> bool {
        let doubted = self.flushed.lsn > known && self.doubted.is_none_or(|from| known < from);
        if doubted {
            self.doubted = Some(known);
        }
        doubted
    }
}

pub(super) fn encode(slot: &SlotRecord) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[0] = match slot.state {
        SlotState::Retaining => 1,
        SlotState::Lost => 2,
        SlotState::Seeding => 3,
    };
    bytes[1] = slot.doubted.is_some().into();
    bytes[4..8].copy_from_slice(&slot.lost_seeds.to_le_bytes());
    bytes[8..48].copy_from_slice(&layout::encode_mark(&slot.flushed));
    let doubted = slot.doubted.unwrap_or_default().0;
    let words = [slot.since_ns, slot.behind_ns, slot.base.0, slot.target.0, doubted];
    for (to, word) in bytes[48..88].chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<SlotRecord> {
    if bytes.len() != SLOT_BYTES {
        return None;
    }
    let state = match bytes[0] {
        1 => SlotState::Retaining,
        2 => SlotState::Lost,
        3 => SlotState::Seeding,
        _ => return None,
    };
    let doubted = match bytes[1] {
        0 => None,
        1 => Some(Lsn(layout::word(bytes, 80)?)),
        _ => return None,
    };
    Some(SlotRecord {
        state,
        lost_seeds: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
        flushed: layout::decode_mark(&bytes[8..48])?,
        doubted,
        since_ns: layout::word(bytes, 48)?,
        behind_ns: layout::word(bytes, 56)?,
        base: Lsn(layout::word(bytes, 64)?),
        target: Lsn(layout::word(bytes, 72)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lsn::Chain;

    #[test]
    fn a_slot_lies_as_drawn() {
        let flushed =
            Mark { lsn: Lsn(1), chain: Chain(2), records: 3, sequence: 4, timestamp_ns: 5 };
        let slot = SlotRecord {
            state: SlotState::Seeding,
            lost_seeds: 6,
            flushed,
            doubted: Some(Lsn(11)),
            since_ns: 7,
            behind_ns: 8,
            base: Lsn(9),
            target: Lsn(10),
        };
        let bytes = encode(&slot);
        let at = |offset: usize| bytes[offset];
        assert_eq!((at(0), at(4), at(8), at(16)), (3, 6, 1, 2));
        assert_eq!((at(48), at(56), at(64), at(72)), (7, 8, 9, 10));
        assert_eq!((at(1), at(80)), (1, 11));
        assert_eq!(decode(&bytes), Some(slot));
        assert_eq!(decode(&bytes[1..]), None);
        assert_eq!(decode(&[0; SLOT_BYTES]), None, "a state that does not exist");
        let other = SlotRecord { doubted: None, ..slot };
        assert_eq!(decode(&encode(&other)), Some(other));
    }

    #[test]
    fn a_doubt_only_ever_grows_until_it_is_over_or_the_stream_is_cut_before_it() {
        let at = |lsn| Mark { lsn: Lsn(lsn), ..Mark::START };
        let mut slot = SlotRecord { flushed: at(100), ..SlotRecord::default() };
        assert!(!slot.doubt(Lsn(100)), "nothing is behind what is known");
        assert!(slot.doubt(Lsn(60)) && !slot.doubt(Lsn(80)) && slot.doubt(Lsn(50)));
        assert_eq!(slot.doubted, Some(Lsn(50)));
        assert!(slot.cut(at(70), Lsn(70)));
        assert_eq!((slot.flushed, slot.doubted), (at(70), Some(Lsn(50))));
        assert!(slot.cut(at(50), Lsn(50)));
        assert_eq!((slot.flushed, slot.doubted), (at(50), None));
    }

    #[test]
    fn what_was_acknowledged_behind_what_is_sure_is_in_doubt_wherever_an_epoch_begins() {
        let at = |lsn| Mark { lsn: Lsn(lsn), ..Mark::START };
        for (flushed, cut_to, doubted) in
            [(100, 70, Some(Lsn(40))), (60, 60, Some(Lsn(40))), (40, 40, None)]
        {
            let mut slot = SlotRecord { flushed: at(flushed), ..SlotRecord::default() };
            assert_eq!(slot.cut(at(70), Lsn(40)), doubted.is_some());
            assert_eq!((slot.flushed, slot.doubted), (at(cut_to), doubted));
        }
    }
}
