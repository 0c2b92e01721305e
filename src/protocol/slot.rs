//! One space on one connection, as the primary sees it.
//!
//! ```text
//!   Waiting --OpenSpace--> Opening --OpenAck--> Matching --mark--> Streaming
//!      |                      ^ |                   |                  |
//!      |                      | |      Truncate <---+                  |
//!      |                      +-|---------+         |                  |
//!      |                        +--- Error out -----+------------------+
//!      v                                            v
//!    (gone) <------------- Error in ------------ Closing
//! ```
//!
//! What happens between `OpenAck` and the first byte stands in `opening`.
//!
//! A space that was opened ends with exactly one `Error` each way, whoever
//! begins. So a space can be opened again under the same handle, and no frame
//! of the earlier attempt is ever taken for one of the later.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::Now;
use super::fetch::Questions;
use super::frame::{FrameHeader, Handle, Kind};
use super::message::{ErrorCode, OpenSpace, SegmentOpen};
use super::opening::Matching;
use super::window::Window;
use crate::ids::Epoch;
use crate::limits::{MAX_EXTENT_BYTES, MAX_FRAME_PAYLOAD_BYTES};
use crate::lsn::{Lsn, Mark};

/// When a batch is shipped while another is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRule {
    /// Records that are enough.
    pub max_records: u64,
    /// Time that is enough.
    pub max_delay: Duration,
    /// Bytes that are enough, and the most of one frame.
    pub max_bytes: u32,
}

/// What the sender asks about the logs it ships. Memory only, never blocks.
pub trait Streams {
    /// The head: the mark behind the last complete record.
    fn head(&self, handle: Handle) -> Mark;

    /// The run with that ordinal, if it exists and its opening is durable in
    /// the primary's own catalog.
    fn run(&self, handle: Handle, ordinal: u32) -> Option<SegmentOpen>;

    /// The farthest known record boundary of run `ordinal` that lies behind
    /// `from` and at most `max_bytes` after it (or the end of a single larger
    /// record), and the sequence of the first record after `from`.
    fn cut(&self, handle: Handle, ordinal: u32, from: &Mark, max_bytes: u32)
    -> Option<(Mark, u64)>;
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// Stands in the queue of spaces that may have something to ship.
    pub(super) queued: bool,
    /// When the batch that gathers is shipped, whatever its size.
    pub(super) gather: Option<Instant>,
    /// Ranges that one end has asked the other for.
    pub(super) questions: Questions,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// `OpenSpace` is not sent yet.
    Waiting(OpenSpace),
    /// `OpenSpace` or `Truncate` is sent.
    Opening {
        /// The replica was told to cut its stream there.
        cut: Option<Lsn>,
    },
    /// The two histories are compared.
    Matching(Box<Matching>),
    /// Data flows.
    Streaming(Stream),
    /// Our `Error` is sent, the peer's is not here yet.
    Closing { reopen: Option<OpenSpace> },
}

/// How far the data of one space is.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) window: Window,
    /// The run that holds the next byte; `None` before the first.
    current: Option<u32>,
    /// Runs that the replica knows: recorded there or sent on this connection.
    announced: u32,
    /// `current` has been looked up.
    located: bool,
}

/// What a space does with its turn.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing to ship. News will queue it again.
    Idle,
    /// The window is full. An ack will queue it again.
    Blocked,
    /// Something is in flight and the batch is small: until then.
    Gather(Instant),
    /// A run begins here: tell the replica, then ask again.
    Announce(SegmentOpen),
    /// A frame.
    Ship { header: FrameHeader, ordinal: u32 },
    /// It cannot go on.
    Stop(ErrorCode, String),
}

impl Slot {
    pub(super) fn new(epoch: Epoch, open: OpenSpace) -> Self {
        let phase = Phase::Waiting(open);
        Self { epoch, phase, queued: false, gather: None, questions: Questions::default() }
    }

    /// The replica is told to go on at a position; it answers as when the space was
    /// opened. Whatever was asked before is not answered any more, on either side.
    pub(super) fn goes_on_at(&mut self, cut: Lsn) {
        self.phase = Phase::Opening { cut: Some(cut) };
        self.questions = Questions::default();
    }

    /// The next step of a streaming space; any other has none.
    pub(super) fn step(
        &mut self,
        now: Now,
        handle: Handle,
        rule: &BatchRule,
        streams: &dyn Streams,
    ) -> Step {
        match &mut self.phase {
            Phase::Streaming(stream) => {
                stream.step(now, handle, self.epoch, rule, self.gather, streams)
            }
            _ => Step::Idle,
        }
    }
}

impl Stream {
    /// Streams from `mark` on, to a replica that has recorded `runs` runs.
    pub(super) fn new(mark: Mark, runs: u32) -> Self {
        Self { window: Window::new(mark), current: None, announced: runs, located: false }
    }

    fn step(
        &mut self,
        now: Now,
        handle: Handle,
        epoch: Epoch,
        rule: &BatchRule,
        gather: Option<Instant>,
        streams: &dyn Streams,
    ) -> Step {
        if !self.located {
            match self.locate(handle, streams) {
                Ok(current) => (self.current, self.located) = (current, true),
                Err(reason) => return Step::Stop(ErrorCode::Diverged, reason),
            }
        }
        match self.enter_next_run(handle, streams) {
            Ok(None) => {}
            Ok(Some(run)) => return Step::Announce(run),
            Err(reason) => return Step::Stop(ErrorCode::Diverged, reason),
        }
        let Some(ordinal) = self.current else {
            return Step::Idle;
        };
        let (sent, head) = (self.window.sent(), streams.head(handle));
        if head.lsn <= sent.lsn {
            return Step::Idle;
        }
        if !self.window.is_empty() && !is_enough(&sent, &head, rule) {
            let deadline = gather.unwrap_or(now.instant + rule.max_delay);
            if now.instant < deadline {
                return Step::Gather(deadline);
            }
        }
        let max_bytes = rule.max_bytes.min(MAX_EXTENT_BYTES);
        let Some((end, first_sequence)) = streams.cut(handle, ordinal, &sent, max_bytes) else {
            return Step::Idle;
        };
        if !self.window.has_room(end.lsn) {
            return Step::Blocked;
        }
        let header = data_header(handle, epoch, &sent, &end, first_sequence);
        self.window.ship(end);
        Step::Ship { header, ordinal }
    }

    /// The run that holds the position from which to stream.
    ///
    /// A replica records a run as soon as it is told, before the data in front
    /// of the run is durable. After a crash it may thus know runs that begin
    /// behind its flushed position: look back from the last one it knows.
    fn locate(&self, handle: Handle, streams: &dyn Streams) -> Result<Option<u32>, String> {
        let at = self.window.sent().lsn;
        let mut ordinal = self.announced;
        while let Some(candidate) = ordinal.checked_sub(1) {
            let Some(run) = streams.run(handle, candidate) else {
                return Err(format!(
                    "the replica has recorded {} runs, this primary has no run {candidate}",
                    self.announced
                ));
            };
            if run.start <= at {
                return Ok(Some(candidate));
            }
            ordinal = candidate;
        }
        if at == Lsn::ZERO {
            Ok(None)
        } else {
            Err(format!(
                "the replica has flushed {at}, but none of its {} runs begins before",
                self.announced
            ))
        }
    }

    /// Moves on to the last run that begins at the sent position. One that the
    /// replica does not know yet is returned, to be announced first.
    fn enter_next_run(
        &mut self,
        handle: Handle,
        streams: &dyn Streams,
    ) -> Result<Option<SegmentOpen>, String> {
        let at = self.window.sent().lsn;
        loop {
            let next = self.current.map_or(0, |current| current + 1);
            let Some(run) = streams.run(handle, next) else {
                return Ok(None);
            };
            assert_eq!(run.ordinal, next, "asked for one run, given another");
            if run.start > at {
                return Ok(None);
            }
            if run.start < at {
                return Err(format!(
                    "run {next} begins at {}, but the replica has {at} and only {} runs",
                    run.start, self.announced
                ));
            }
            self.current = Some(next);
            if next >= self.announced {
                self.announced = next + 1;
                return Ok(Some(run));
            }
        }
    }
}

/// Enough has gathered to ship it while something is in flight.
fn is_enough(sent: &Mark, head: &Mark, rule: &BatchRule) -> bool {
    head.records.saturating_sub(sent.records) >= rule.max_records
        || head.lsn.bytes_since(sent.lsn) >= u64::from(rule.max_bytes.min(MAX_EXTENT_BYTES))
}

fn data_header(
    handle: Handle,
    epoch: Epoch,
    sent: &Mark,
    end: &Mark,
    first_sequence: u64,
) -> FrameHeader {
    let bytes = end.lsn.bytes_since(sent.lsn);
    let records = end.records.saturating_sub(sent.records);
    assert!((1..=u64::from(MAX_FRAME_PAYLOAD_BYTES)).contains(&bytes), "a cut of {bytes} bytes");
    assert!((1..=bytes / 64).contains(&records), "a cut of {records} records, {bytes} bytes");
    #[expect(clippy::cast_possible_truncation, reason = "asserted to fit into 32 bits")]
    let (bytes, records) = (bytes as u32, records as u32);
    FrameHeader {
        records,
        start: sent.lsn,
        first_sequence,
        payload_bytes: bytes,
        raw_bytes: bytes,
        ..FrameHeader::bare(Kind::Data, handle, epoch)
    }
}
