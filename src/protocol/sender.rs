//! The primary's half of a connection. API contract, bodies to be written.

use std::time::{Duration, Instant};

use super::Now;
use super::frame::{FrameHeader, Handle};
use super::message::{Ack, ErrorCode, Identity, OpenSpace, SegmentOpen, Standing};
use crate::ids::Epoch;
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

/// Something to put on the socket, in the order given.
#[derive(Debug)]
pub enum Transmit {
    /// One or more control frames.
    Control(Vec<u8>),
    /// A data frame: its header, then the bytes of the stream from `start` on.
    Data {
        /// The space.
        handle: Handle,
        /// The frame header.
        header: [u8; 64],
        /// The run the bytes lie in.
        ordinal: u32,
        /// First byte.
        start: Lsn,
        /// How many.
        bytes: u32,
    },
}

/// Something the engine should know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is done.
    Established {
        /// Who answered.
        peer: Identity,
    },
    /// The replica says where it stands: find the mark at `standing.flushed`
    /// and answer with [`Sender::handle_resume`].
    Resume {
        /// The space.
        handle: Handle,
        /// The replica's position.
        standing: Standing,
    },
    /// Positions moved. `flushed` is the mark of the flushed position, if it moved.
    Acked {
        /// The space.
        handle: Handle,
        /// As received, chain already compared.
        ack: Ack,
        /// Mark at `ack.flushed`.
        flushed: Option<Mark>,
    },
    /// This space is shipped no more on this connection. `retry` tells
    /// whether a later attempt can help without a person (Busy).
    Stopped {
        /// The space.
        handle: Handle,
        /// Why.
        code: ErrorCode,
        /// A sentence for the operator.
        reason: String,
        /// Reopen the space after a pause.
        retry: bool,
    },
    /// The connection is finished: send what `poll_transmit` still has, close.
    Closed {
        /// Why.
        code: ErrorCode,
        /// A sentence for the operator.
        reason: String,
        /// Whether a later attempt may succeed by itself.
        retry: bool,
    },
}

/// The machine. See the module for the calling order.
#[derive(Debug)]
pub struct Sender;

impl Sender {
    /// A session on a connection that has just been made.
    #[must_use]
    pub fn new(_now: Now, _me: Identity, _shard: u16, _batch: BatchRule) -> Self {
        todo!()
    }

    /// Ship this space from now on (may be called at any time, also again
    /// after `Stopped`).
    pub fn open_space(&mut self, _now: Now, _handle: Handle, _open: OpenSpace) {
        todo!()
    }

    /// The answer to [`Event::Resume`]: the primary's own mark at the
    /// replica's position and the run it lies in, or why there is none. The
    /// machine compares chain and epoch and either streams or stops the space.
    pub fn handle_resume(&mut self, _now: Now, _handle: Handle, _found: Result<Mark, String>) {
        todo!()
    }

    /// The space has a new head, or a new run.
    pub fn handle_head(&mut self, _now: Now, _handle: Handle) {
        todo!()
    }

    /// Stop shipping a space and tell the replica why.
    pub fn stop_space(&mut self, _now: Now, _handle: Handle, _code: ErrorCode, _reason: String) {
        todo!()
    }

    /// A frame from the replica: header decoded, body complete. A failure
    /// shows as [`Event::Closed`].
    pub fn handle_frame(&mut self, _now: Now, _header: &FrameHeader, _body: &[u8]) {
        todo!()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Now) {
        todo!()
    }

    /// When to call [`Sender::handle_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// What to put on the socket next. Call when the socket has taken the
    /// last one.
    pub fn poll_transmit(&mut self, _now: Now, _streams: &dyn Streams) -> Option<Transmit> {
        todo!()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// How far this space has been sent on this connection.
    #[must_use]
    pub fn sent(&self, _handle: Handle) -> Option<Lsn> {
        todo!()
    }

    /// The epoch under which the space is shipped.
    #[must_use]
    pub fn epoch(&self, _handle: Handle) -> Option<Epoch> {
        todo!()
    }
}
