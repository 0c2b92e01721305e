//! The two lanes on which verified bytes leave for the disk; see
//! [`super::log`] for the picture.

use super::log::{BLOCK, Carry, Flushing, InFlight, Log, LogOp, Next, Piece, add};
use crate::io::{Op, SlabPool, Slice};
use crate::limits::{DIRECT_BLOCK_BYTES, MIN_DIRECT_BYTES};
use crate::lsn::Lsn;

impl Log {
    /// Where a position lies in the file that is being written.
    pub(super) fn file_offset(&self, at: Lsn) -> u64 {
        self.writing.as_ref().map_or(0, |w| w.offset + at.bytes_since(w.start))
    }

    /// Whole blocks past the page cache; edges through it, or carried.
    pub(super) fn submit_direct(&mut self, piece: &Piece, submit: &mut impl FnMut(LogOp, Op)) {
        let Some(direct) = self.writing.as_ref().and_then(|w| w.files.direct.clone()) else {
            return;
        };
        let offset = self.file_offset(piece.start);
        let payload = piece.slice.as_ref().len() - piece.carried;
        // `from` and `to` are positions in the slice, `at` the file offset there.
        let (mut from, mut at) = (piece.carried, offset);
        if piece.carried > 0 && self.carry.as_ref().is_some_and(|c| c.bytes.len() == piece.carried)
        {
            self.carry = None;
            from = 0;
            at = offset - piece.carried as u64;
        } else {
            // What was carried has gone out meanwhile, or goes out now.
            self.settle(submit);
            let edge = usize::try_from(offset.next_multiple_of(BLOCK) - offset).unwrap_or(0);
            let edge = edge.min(payload);
            if edge > 0 {
                let slice = piece.slice.part(from..from + edge);
                let end = piece.start.advance(edge as u64);
                self.write(false, offset, vec![slice], end, submit);
                from += edge;
                at += edge as u64;
            }
        }
        let whole = (piece.slice.as_ref().len() - from) / DIRECT_BLOCK_BYTES * DIRECT_BLOCK_BYTES;
        let to = from + whole;
        if whole > 0 {
            let rest = (piece.slice.as_ref().len() - to) as u64;
            let end = Lsn(piece.end.0 - rest);
            let slices = vec![piece.slice.part(from..to)];
            let id = self.number(end);
            submit(LogOp::Write(id), Op::Write { file: direct, offset: at, slices, bulk: true });
        }
        let rest = &piece.slice.as_ref()[to..];
        if !rest.is_empty() {
            let start = Lsn(piece.end.0 - rest.len() as u64);
            self.carry = Some(Carry { start, bytes: rest.to_vec() });
        }
    }

    /// All frames at the front of the queue in one write through the page
    /// cache, the carry first.
    pub(super) fn submit_buffered(&mut self, submit: &mut impl FnMut(LogOp, Op)) {
        let mut slices = Vec::new();
        let mut start = None;
        if let Some(carry) = self.carry.take() {
            start = Some(carry.start);
            slices.push(owned(&carry.bytes));
        }
        let mut end = Lsn::ZERO;
        let mut bytes = 0;
        let direct = self.writing.as_ref().is_some_and(|w| w.files.direct.is_some());
        while slices.len() < 64 {
            let Some(Next::Piece(piece)) = self.queue.front() else { break };
            if piece.placed && direct {
                break;
            }
            start.get_or_insert(piece.start);
            end = piece.end;
            let len = piece.slice.as_ref().len();
            bytes += len - piece.carried;
            slices.push(piece.slice.part(piece.carried..len));
            self.queue.pop_front();
        }
        if let Some(start) = start {
            let offset = self.file_offset(start);
            let bulk = bytes >= MIN_DIRECT_BYTES as usize;
            if bulk || !self.queue.is_empty() || !self.is_quiet() {
                self.write(bulk, offset, slices, end, submit);
            } else {
                self.write_flush(offset, slices, end, submit);
            }
        }
    }

    /// Nothing is in flight, nothing else waits for a flush, and flushes are
    /// not put off: a single append can take its flush along.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
            && self.flushing.is_none()
            && self.dirty.is_empty()
            && self.flush_delay.is_zero()
    }

    /// One write through the page cache with its flush behind it: a wake-up
    /// less on the way of a single record.
    pub(super) fn write_flush(
        &mut self,
        offset: u64,
        slices: Vec<Slice>,
        end: Lsn,
        submit: &mut impl FnMut(LogOp, Op),
    ) {
        let Some(file) = self.writing.as_ref().map(|w| w.files.buffered.clone()) else { return };
        let Some(to) = self.ends.iter().rfind(|mark| mark.lsn == end).copied() else { return };
        let id = self.number(end);
        self.dirty.clear();
        self.flushing = Some(Flushing { to, files_left: 1 });
        submit(LogOp::WriteFlush(id), Op::WriteFlush { file, offset, slices, alone: false });
    }

    /// The carry goes out through the page cache.
    pub(super) fn settle(&mut self, submit: &mut impl FnMut(LogOp, Op)) {
        if let Some(carry) = self.carry.take() {
            let offset = self.file_offset(carry.start);
            let end = carry.start.advance(carry.bytes.len() as u64);
            self.write(false, offset, vec![owned(&carry.bytes)], end, submit);
        }
    }

    /// One write through the page cache.
    pub(super) fn write(
        &mut self,
        bulk: bool,
        offset: u64,
        slices: Vec<Slice>,
        end: Lsn,
        submit: &mut impl FnMut(LogOp, Op),
    ) {
        let Some(file) = self.writing.as_ref().map(|w| w.files.buffered.clone()) else { return };
        let id = self.number(end);
        submit(LogOp::Write(id), Op::Write { file, offset, slices, bulk });
    }

    /// Enter a write that ends at `end`.
    pub(super) fn number(&mut self, end: Lsn) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.reached(self.file_offset(end));
        if let Some(writing) = &self.writing {
            // Synced through the buffered descriptor whichever lane wrote.
            let file = writing.files.buffered.clone();
            add(&mut self.dirty, &file);
            self.in_flight.push_back(InFlight { id, end, file, done: false });
        }
        id
    }
}

/// A slice of its own for a few bytes.
fn owned(bytes: &[u8]) -> Slice {
    let mut slab = SlabPool::oversized(bytes.len());
    slab.push(bytes);
    slab.slice(0..bytes.len())
}
