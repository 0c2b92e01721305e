//! The replica's half of a connection. API contract, bodies to be written.

use std::time::Instant;

use super::Now;
use super::frame::{FrameHeader, Handle};
use super::message::{ErrorCode, Identity, OpenSpace, SegmentOpen, Standing};
use crate::lsn::{Lsn, Mark};

/// What the engine must do about a frame.
#[derive(Debug)]
#[non_exhaustive]
pub enum Intent {
    /// The peer is known: who it is, and which of its shards this is.
    Established {
        /// Who.
        peer: Identity,
        /// Its shard.
        shard: u16,
    },
    /// Open the space; answer with [`Receiver::handle_opened`].
    Open {
        /// Handle for the rest of the connection.
        handle: Handle,
        /// What the primary says.
        open: OpenSpace,
    },
    /// A run begins: create or open the file, record it durably. Data of the
    /// run may follow at once. (Duplicates of known runs are dropped by the
    /// machine after comparison... a difference stops the space.)
    Run {
        /// The space.
        handle: Handle,
        /// The run.
        run: SegmentOpen,
    },
    /// Verify the payload from byte `skip` on (what lies before is a
    /// duplicate), then call [`Receiver::handle_verified`] and append it.
    Data {
        /// The space.
        handle: Handle,
        /// LSN of the first new byte.
        start: Lsn,
        /// Bytes at the beginning of the payload that are already here.
        skip: u32,
    },
    /// The primary has stopped this space: give up its lease.
    Stopped {
        /// The space.
        handle: Handle,
        /// Why.
        code: ErrorCode,
        /// A sentence.
        reason: String,
    },
    /// The connection is finished: send what `poll_transmit` still has, close.
    Closed {
        /// Why.
        code: ErrorCode,
        /// A sentence for the operator.
        reason: String,
    },
}

/// The machine.
#[derive(Debug)]
pub struct Receiver;

impl Receiver {
    /// A session on a connection that has just been accepted.
    #[must_use]
    pub fn new(_now: Now, _me: Identity) -> Self {
        todo!()
    }

    /// A frame header has arrived, its payload has not yet: may it come?
    /// (Handle known and streaming, epoch current, LSN not beyond a gap.)
    /// Errors show as an `Intent::Closed` or the space's stop.
    /// A frame from the primary, payload complete. For `Data` the payload is
    /// not passed: the engine holds and verifies it.
    pub fn handle_frame(
        &mut self,
        _now: Now,
        _header: &FrameHeader,
        _body: &[u8],
    ) -> Option<Intent> {
        todo!()
    }

    /// The answer to [`Intent::Open`].
    pub fn handle_opened(
        &mut self,
        _now: Now,
        _handle: Handle,
        _standing: Result<Standing, (ErrorCode, String)>,
    ) {
        todo!()
    }

    /// The payload held: the stream is verified up to `end`.
    pub fn handle_verified(&mut self, _now: Now, _handle: Handle, _end: Mark) {
        todo!()
    }

    /// Handed to the file system up to here.
    pub fn handle_written(&mut self, _now: Now, _handle: Handle, _to: Lsn) {
        todo!()
    }

    /// Durable up to here.
    pub fn handle_flushed(&mut self, _now: Now, _handle: Handle, _to: Mark) {
        todo!()
    }

    /// The space cannot go on here: tell the primary.
    pub fn stop_space(&mut self, _now: Now, _handle: Handle, _code: ErrorCode, _reason: String) {
        todo!()
    }

    /// Close the connection with an error (bad frame, storage, shutdown).
    pub fn close(&mut self, _now: Now, _code: ErrorCode, _reason: String) {
        todo!()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Now) -> Option<Intent> {
        todo!()
    }

    /// When to call [`Receiver::handle_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Control frames to send next: acks coalesced, one per space with news.
    pub fn poll_transmit(&mut self, _now: Now) -> Option<Vec<u8>> {
        todo!()
    }
}
