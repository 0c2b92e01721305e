//! The durable append of one received space.
//!
//! Verified frames come in stream order. They leave on one of two lanes:
//!
//! ```text
//!   large frames   whole blocks, O_DIRECT     slab ===== DMA ====> disk
//!                  the rest of the last block is carried to the next frame
//!   small frames   buffered, several at once  slab -> page cache -> disk
//! ```
//!
//! and become durable by group flush: while one `fdatasync` runs, the next
//! batch gathers; when it ends, everything written by then is covered by the
//! next one.
//!
//! Invariants: nothing is written that was not verified; no byte is written
//! beyond a whole record's end; a block is written by one lane only (so the
//! page cache and the disk cannot disagree about it); `flushed` moves only
//! after every file touched since the last flush has been synced, and is found
//! where it was; after the first failure nothing moves any more, and the log must be recovered.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::{Held, Names};
use crate::ids::{Epoch, SegmentName, SpaceId};
use crate::io::{Op, Slice};
use crate::limits::{CHECKPOINT_BYTES, DIRECT_BLOCK_BYTES, MIN_DIRECT_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::planted::{self, Bug};
use crate::protocol::message::SegmentOpen;
use crate::state::catalog::SpaceRecord;
use crate::state::runs::{Run, RunError};

/// The block size as a file offset.
pub(super) const BLOCK: u64 = DIRECT_BLOCK_BYTES as u64;

/// One segment, open for appending.
#[derive(Clone, Debug)]
pub struct SegmentFiles {
    /// Through the page cache.
    pub buffered: Arc<File>,
    /// Past the page cache, where the file system can.
    pub direct: Option<Arc<File>>,
    /// What it is called.
    pub names: Names,
}

/// Why nothing is received into a segment that went here: it would go with it, when this
/// node starts again.
#[must_use]
pub fn went_here(segment: SegmentName) -> String {
    format!(
        "{segment} was gone from the primary, and went here: a primary that has it again was set \
         back; to receive from it, stop this node, and set its copy of the space and its state \
         directory aside"
    )
}

/// Where the run that is being written lies.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) start: Lsn,
    pub(super) offset: u64,
    pub(super) files: SegmentFiles,
    /// It went here when it was gone from the primary.
    gone: Option<SegmentName>,
}

/// A verified frame that is not yet submitted.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) slice: Slice,
    /// Bytes of the slice that go before the frame: a copy of the carry.
    pub(super) carried: usize,
    /// It lies at the same offset within a block, in memory and in the file.
    pub(super) placed: bool,
}

/// What the log does next, in stream order.
#[derive(Debug)]
pub(super) enum Next {
    /// Go on in this run, once its file is ready.
    Run(u32),
    Piece(Piece),
}

/// The bytes of the last block that is not yet whole.
#[derive(Debug)]
pub(super) struct Carry {
    pub(super) start: Lsn,
    pub(super) bytes: Vec<u8>,
}

/// A write in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: u64,
    pub(super) end: Lsn,
    pub(super) file: Arc<File>,
    pub(super) done: bool,
}

/// A flush in flight.
#[derive(Debug)]
pub(super) struct Flushing {
    pub(super) to: Mark,
    pub(super) files_left: usize,
}

/// Which positions an operation has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// [`Log::written`].
    pub written: bool,
    /// [`Log::flushed`].
    pub flushed: bool,
}

/// What an operation of this log was, so that its completion finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// The write of that number.
    Write(u64),
    /// One file of the flush.
    Flush,
    /// The write of that number, and the flush of all that was written then.
    WriteFlush(u64),
}

/// Why a log cannot be gone on with as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In a sentence.
    pub why: String,
    /// What was durable, and acknowledged, when it failed. Whether it still is
    /// tells only recovery.
    pub flushed: Mark,
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self { why: why.to_owned(), flushed: Mark::START }
    }
}

/// One received space.
#[derive(Debug)]
pub struct Log {
    /// Which.
    pub space: SpaceId,
    /// Catalog state: runs, stream, epochs.
    pub record: SpaceRecord,
    /// The epoch it is received under.
    pub epoch: Epoch,
    pub(super) received: Mark,
    pub(super) written: Mark,
    pub(super) flushed: Mark,
    pub(super) checkpoint: Lsn,
    pub(super) writing: Option<Writing>,
    /// The file that is written to, and before it those of which something is
    /// not flushed yet.
    pub(super) held: Vec<Held>,
    /// Files written to since the last flush began.
    pub(super) dirty: Vec<Arc<File>>,
    pub(super) queue: VecDeque<Next>,
    pub(super) ready: VecDeque<(u32, SegmentFiles)>,
    pub(super) carry: Option<Carry>,
    /// Ends of verified frames that are not yet flushed.
    pub(super) ends: VecDeque<Mark>,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) next_id: u64,
    pub(super) flushing: Option<Flushing>,
    /// How long written bytes may wait for a flush.
    pub(super) flush_delay: Duration,
    /// When the bytes that wait must be flushed.
    pub(super) flush_due: Option<Instant>,
    pub(super) failed: Option<String>,
    pub(super) stopped: Option<String>,
}

impl Log {
    /// A log that goes on at `flushed`, as recovery found it.
    #[must_use]
    pub fn new(
        space: SpaceId,
        record: SpaceRecord,
        flushed: Mark,
        epoch: Epoch,
        flush_delay: Duration,
    ) -> Self {
        Self {
            space,
            epoch,
            received: flushed,
            written: flushed,
            flushed,
            checkpoint: record.checkpoint.lsn,
            record,
            writing: None,
            held: Vec::new(),
            dirty: Vec::new(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            carry: None,
            ends: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_id: 0,
            flushing: None,
            flush_delay,
            flush_due: None,
            failed: None,
            stopped: None,
        }
    }

    /// Verified up to here.
    #[must_use]
    pub fn received(&self) -> &Mark {
        &self.received
    }

    /// With the file system up to here.
    #[must_use]
    pub fn written(&self) -> &Mark {
        &self.written
    }

    /// Durable up to here.
    #[must_use]
    pub fn flushed(&self) -> &Mark {
        &self.flushed
    }

    /// Why nothing moves any more.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The disk refused: nothing moves any more, and the log must be
    /// recovered before it is received again.
    pub fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    /// Take nothing more, but bring what is here to the disk.
    pub fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }

    /// Why nothing more is taken, although nothing has failed.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.iter().all(|write| write.done) && self.flushing.is_none()
    }

    /// Nothing is in flight, and nothing is waiting that could still get to
    /// the disk.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_idle()
            && (self.failed.is_some()
                || (self.queue.iter().all(|next| matches!(next, Next::Run(_)))
                    && self.carry.is_none()
                    && self.flushed.lsn == self.received.lsn))
    }

    /// What the keeper gets back.
    ///
    /// # Errors
    ///
    /// Why the log failed: what is durable is known only after recovery.
    pub fn into_state(mut self) -> Result<Box<(SpaceRecord, Mark)>, Failure> {
        self.checkpoint(true);
        match self.failed {
            Some(why) => Err(Failure { why, flushed: self.flushed }),
            None => Ok(Box::new((self.record, self.flushed))),
        }
    }

    /// Whether a run may begin where the stream stands: the peer's word alone
    /// must not lay one over bytes that are there.
    ///
    /// # Errors
    ///
    /// See [`RunError`]; nothing has changed.
    pub fn accepts_run(&self, open: &SegmentOpen) -> Result<(), RunError> {
        let run = run_of(open);
        if let Some(last) = self.record.runs.last().filter(|last| last.begins_like(&run)) {
            return Err(RunError::Repeated { start: last.start, segment: last.segment });
        }
        self.record.runs.accepts(&run)
    }

    /// A run begins where the stream stands. Returns it as the catalog will
    /// know it; its files come with [`Log::run_ready`]. The caller has asked
    /// [`Log::accepts_run`].
    pub fn begin_run(&mut self, open: &SegmentOpen) -> Run {
        debug_assert_eq!(open.start, self.received.lsn, "the machine admits no gap");
        let run = run_of(open);
        let ordinal = self.record.runs.open(run);
        self.queue.push_back(Next::Run(ordinal));
        run
    }

    /// The run to reopen when a session goes on in the middle of one.
    #[must_use]
    pub fn resume_run(&mut self) -> Option<(u32, Run)> {
        let run = *self.record.runs.last()?;
        let ordinal = self.record.runs.len() - 1;
        self.queue.push_front(Next::Run(ordinal));
        Some((ordinal, run))
    }

    /// The files of a run are open, its name durable, its catalog entry
    /// committed.
    pub fn run_ready(&mut self, ordinal: u32, files: SegmentFiles) {
        self.ready.push_back((ordinal, files));
    }

    /// Where in its block the next frame will start, and the bytes before it
    /// in that block as far as they wait in memory. Nothing when the frame
    /// should not be placed.
    #[must_use]
    pub fn placement(&self, start: Lsn, payload_bytes: u32) -> Option<(usize, Vec<u8>)> {
        if payload_bytes < MIN_DIRECT_BYTES || start != self.received.lsn {
            return None;
        }
        let run = self.record.runs.last()?;
        let offset = run.offset + start.bytes_since(run.start);
        let within = usize::try_from(offset % BLOCK).unwrap_or(0);
        // The carry of all that is queued is only known when nothing is.
        let carry = match &self.carry {
            Some(carry) if self.queue.is_empty() && carry.bytes.len() == within => {
                carry.bytes.clone()
            }
            _ => Vec::new(),
        };
        Some((within, carry))
    }

    /// Take a verified frame. `slice` holds `carried` bytes, the carry that
    /// [`Log::placement`] gave, and then the frame.
    pub fn append(&mut self, slice: Slice, carried: usize, placed: bool, end: Mark) {
        let start = self.received.lsn;
        debug_assert_eq!(
            slice.as_ref().len() as u64 - carried as u64,
            end.lsn.bytes_since(start),
            "a frame is as long as its records"
        );
        self.received = end;
        self.ends.push_back(end);
        self.queue.push_back(Next::Piece(Piece { start, end: end.lsn, slice, carried, placed }));
    }

    /// Submit what can be submitted. With `settle`, nothing more is coming
    /// for now: the carry goes out as well.
    pub fn submit(&mut self, now: Instant, settle: bool, submit: &mut impl FnMut(LogOp, Op)) {
        if self.failed.is_some() {
            return;
        }
        while let Some(next) = self.queue.front() {
            match next {
                Next::Run(ordinal) => {
                    if self.ready.front().is_none_or(|(ready, _)| ready != ordinal) {
                        break;
                    }
                    self.settle(submit);
                    self.queue.pop_front();
                    self.enter_run();
                }
                Next::Piece(piece) => {
                    let Some(writing) = &self.writing else { break };
                    if let Some(segment) = writing.gone {
                        return self.fail(went_here(segment));
                    }
                    let placed = piece.placed;
                    if self.is_idle() && !self.is_undisturbed() {
                        return;
                    }
                    let direct =
                        placed && self.writing.as_ref().is_some_and(|w| w.files.direct.is_some());
                    if direct {
                        if let Some(Next::Piece(piece)) = self.queue.pop_front() {
                            self.submit_direct(&piece, submit);
                        }
                    } else {
                        self.submit_buffered(submit);
                    }
                }
            }
        }
        if settle && self.queue.is_empty() {
            self.settle(submit);
        }
        self.flush(now, submit);
    }

    /// Switch to the run whose files are ready.
    fn enter_run(&mut self) {
        let Some((ordinal, files)) = self.ready.pop_front() else { return };
        self.writing = None;
        if let Some(run) = self.record.runs.get(ordinal) {
            let (file, names) = (files.buffered.clone(), files.names.clone());
            let is_gone = self.record.is_gone(run.file);
            let gone = is_gone.then_some(run.segment);
            self.writing = Some(Writing { start: run.start, offset: run.offset, files, gone });
            self.hold(file, names, self.file_offset(self.written.lsn.max(run.start)));
        }
    }

    /// When [`Log::submit`] must be called for a flush that was put off.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.flush_due.filter(|_| self.flushing.is_none() && self.failed.is_none())
    }

    /// Flush what is written without delay from now on.
    pub fn flush_at_once(&mut self) {
        self.flush_delay = Duration::ZERO;
        self.flush_due = None;
    }

    /// Begin a flush if none runs and there is something to make durable.
    fn flush(&mut self, now: Instant, submit: &mut impl FnMut(LogOp, Op)) {
        if self.flushing.is_some() || self.written.lsn == self.flushed.lsn {
            return;
        }
        if !self.flush_delay.is_zero()
            && *self.flush_due.get_or_insert(now + self.flush_delay) > now
        {
            return;
        }
        self.flush_due = None;
        let files = std::mem::take(&mut self.dirty);
        // A write in flight may or may not be covered by this flush.
        for write in &self.in_flight {
            add(&mut self.dirty, &write.file);
        }
        debug_assert!(!files.is_empty(), "what was written made a file dirty");
        self.flushing = Some(Flushing { to: self.written, files_left: files.len() });
        for file in files {
            submit(LogOp::Flush, Op::Flush { file });
        }
    }

    /// An operation has ended.
    pub fn completed(&mut self, op: LogOp, result: std::io::Result<()>) -> Moved {
        if let Err(error) = result {
            let what = match op {
                LogOp::Write(_) => "write",
                LogOp::Flush => "fdatasync",
                LogOp::WriteFlush(_) => "write or fdatasync",
            };
            let remedy = self.remedy(&error);
            self.fail(format!("{what} of space {} failed: {error}{remedy}", self.space));
        }
        match op {
            LogOp::Write(id) => {
                let written = self.write_done(id);
                if planted::is(Bug::AckBeforeSync) && written {
                    self.flushed = self.written;
                    return Moved { written, flushed: true };
                }
                Moved { written, flushed: false }
            }
            LogOp::Flush => Moved { written: false, flushed: self.flush_done() },
            LogOp::WriteFlush(id) => {
                Moved { written: self.write_done(id), flushed: self.flush_done() }
            }
        }
    }

    fn write_done(&mut self, id: u64) -> bool {
        if let Some(write) = self.in_flight.iter_mut().find(|write| write.id == id) {
            write.done = true;
        }
        let mut end = None;
        while let Some(write) = self.in_flight.front()
            && write.done
        {
            end = Some(write.end);
            self.in_flight.pop_front();
        }
        let Some(end) = end.filter(|_| self.failed.is_none()) else { return false };
        // Only whole frames count: the last mark at or before.
        let marks = self.ends.partition_point(|mark| mark.lsn <= end);
        let Some(mark) = marks.checked_sub(1).and_then(|last| self.ends.get(last)) else {
            return false;
        };
        let moved = mark.lsn > self.written.lsn;
        self.written = *mark;
        moved
    }

    fn flush_done(&mut self) -> bool {
        let Some(flushing) = &mut self.flushing else { return false };
        flushing.files_left -= 1;
        if flushing.files_left > 0 {
            return false;
        }
        let to = flushing.to;
        self.flushing = None;
        if self.failed.is_some() || !self.look() {
            return false;
        }
        self.let_go();
        self.flushed = to;
        while self.ends.front().is_some_and(|mark| mark.lsn <= to.lsn) {
            self.ends.pop_front();
        }
        true
    }

    /// A position worth a checkpoint in the catalog, at most one per
    /// [`CHECKPOINT_BYTES`]; with `closing`, whenever it moved; and when a seed
    /// has come to its target.
    pub fn checkpoint(&mut self, closing: bool) -> Option<Mark> {
        let moved = self.flushed.lsn.bytes_since(self.checkpoint);
        let seeded = self.record.seed.take_if(|seed| self.flushed.lsn >= seed.target).is_some();
        let due = if closing { moved > 0 } else { moved >= CHECKPOINT_BYTES || seeded };
        due.then(|| {
            self.checkpoint = self.flushed.lsn;
            self.record.checkpoint = self.flushed;
            self.flushed
        })
    }
}

fn run_of(open: &SegmentOpen) -> Run {
    Run {
        start: open.start,
        segment: open.segment,
        file: open.file,
        offset: open.offset,
        bytes: None,
    }
}

/// Enter a file once.
pub(super) fn add(files: &mut Vec<Arc<File>>, file: &Arc<File>) {
    if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
        files.push(file.clone());
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
