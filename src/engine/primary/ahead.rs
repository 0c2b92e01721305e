//! Reading ahead of a walk.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::limits::{MAX_WALK_BYTES_PER_TURN, PREFETCH_AHEAD_BYTES, PREFETCH_BYTES};
use crate::wal::cursor::Cursor;
use crate::wal::segment::Segment;

/// What was asked into the cache for a cursor, in the file that it walks.
///
/// There are always several requests under way, so that the disk never waits
/// for the walk; the walk goes on in what has come.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Up to where.
    asked: u64,
    /// Where ranges begin that are on their way.
    reading: BTreeSet<u64>,
    /// The walk waits for the first of them.
    awaited: bool,
}

impl Ahead {
    /// For a cursor that begins there.
    pub(super) fn from(offset: u64) -> Self {
        Self { asked: offset, ..Self::default() }
    }

    /// Ask for what the cursor will read. True if it must wait for it.
    pub(super) fn of(&mut self, cursor: &Cursor, ask: &mut Vec<(Arc<Segment>, u64, u64)>) -> bool {
        let offset = cursor.offset();
        self.asked = self.asked.max(offset);
        let wanted = offset + PREFETCH_AHEAD_BYTES;
        if self.asked + PREFETCH_BYTES <= wanted {
            let segment = cursor.segment();
            // A segment that cannot be looked at is the cursor's to report.
            let end = segment.len().map_or(wanted, |length| wanted.min(length));
            // What has just been appended is in the cache.
            let appended = end.saturating_sub(offset) <= PREFETCH_BYTES / 8;
            while !appended && self.asked < end {
                let step = PREFETCH_BYTES.min(end - self.asked);
                ask.push((segment.clone(), self.asked, step));
                self.reading.insert(self.asked);
                self.asked += step;
            }
        }
        let next = offset + MAX_WALK_BYTES_PER_TURN;
        self.awaited = self.reading.first().is_some_and(|&start| start < next);
        self.awaited
    }

    /// The walk waits for pages.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// A range that begins there has come. If it was one of another cursor, a
    /// wait ends too soon: then the walk touches a page or two that are not
    /// there yet.
    pub(super) fn came(&mut self, start: u64) {
        self.reading.remove(&start);
        self.awaited = false;
    }
}
