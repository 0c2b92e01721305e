//! Reading ahead of a walk.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::limits::{PREFETCH_AHEAD_BYTES, PREFETCH_BYTES};
use crate::wal::cursor::Cursor;
use crate::wal::segment::Segment;

/// What was asked into the cache for a cursor, in the file that it walks.
///
/// The walk waits until all of it has come, and asks again when it has walked half.
/// The disk rests meanwhile; to walk in what has come while more is on its way was no
/// more than a few parts in a hundred faster, and took the sender more processor time
/// for each byte (the cold rows of `saltus bench strategies`).
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Up to where.
    asked: u64,
    /// Where ranges begin that are on their way.
    reading: BTreeSet<u64>,
}

impl Ahead {
    /// For a cursor that begins there.
    pub(super) fn from(offset: u64) -> Self {
        Self { asked: offset, ..Self::default() }
    }

    /// Ask for what the cursor will read. True if it must wait for it.
    pub(super) fn of(
        &mut self,
        cursor: &mut Cursor,
        ask: &mut Vec<(Arc<Segment>, u64, u64)>,
    ) -> bool {
        let offset = cursor.offset();
        self.asked = self.asked.max(offset);
        if self.is_awaited() {
            return true;
        }
        let wanted = offset + PREFETCH_AHEAD_BYTES;
        // A segment that cannot be looked at is the cursor's to report.
        let end = cursor.look_at_end().map_or(wanted, |length| wanted.min(length));
        // What has just been appended is in the cache.
        let appended = end.saturating_sub(offset) <= PREFETCH_BYTES / 8;
        if !appended && self.asked + PREFETCH_AHEAD_BYTES / 2 <= wanted {
            let segment = cursor.segment();
            while self.asked < end {
                let step = PREFETCH_BYTES.min(end - self.asked);
                ask.push((segment.clone(), self.asked, step));
                self.reading.insert(self.asked);
                self.asked += step;
            }
        }
        self.is_awaited()
    }

    /// The walk waits for pages.
    pub(super) fn is_awaited(&self) -> bool {
        !self.reading.is_empty()
    }

    /// A range that begins there has come. If it was one of another cursor, a
    /// wait ends too soon: then the walk touches a page or two that are not
    /// there yet.
    pub(super) fn came(&mut self, start: u64) {
        self.reading.remove(&start);
    }
}
