//! What the sender hands out: frames for the socket, events for the engine.

#![forbid(unsafe_code)]

use super::frame::Handle;
use super::message::{Ack, ErrorCode, Fetch, Fetched, Identity, Standing};
use crate::ids::Epoch;
use crate::lsn::{Lsn, Mark};

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
    /// Find this node's own mark at a position, and answer with
    /// [`Sender::handle_resume`](super::sender::Sender::handle_resume). Comes
    /// once when the replica has said where it stands, and again for each
    /// boundary that is compared when the two do not agree.
    Resume {
        /// The space.
        handle: Handle,
        /// The position.
        at: Lsn,
        /// Where the replica stands.
        standing: Standing,
    },
    /// The two hold different records before a position at which their epochs
    /// agree: one of them was changed behind the other's back. Either stop the
    /// space on all links and begin a new epoch at `common`, or answer with
    /// [`Sender::handle_diverged`](super::sender::Sender::handle_diverged).
    Diverged {
        /// The space.
        handle: Handle,
        /// The last boundary that both have, with this node's mark.
        common: Mark,
        /// Up to here their epochs agree.
        expected: Lsn,
        /// Where the replica stands.
        standing: Standing,
    },
    /// The replica has seen a higher epoch than the one this space is shipped
    /// in: another primary reigns. [`Event::Stopped`] follows.
    Fenced {
        /// The space.
        handle: Handle,
        /// The epoch that it has seen.
        highest: Epoch,
    },
    /// Positions moved. `flushed` is the mark of the flushed position, if it moved.
    Acked {
        /// The space.
        handle: Handle,
        /// As it came, chain already compared.
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
    /// The replica found this record damaged, in a frame that was otherwise
    /// whole, and has stopped the space. Look at the record at rest: if it
    /// holds, it was damaged on its way; else ship up to it. Then open the
    /// space again.
    Damaged {
        /// The space.
        handle: Handle,
        /// Where the record begins.
        at: Lsn,
        /// What the replica says.
        reason: String,
    },
    /// The replica asks for a range of the stream: answer with
    /// [`Sender::serve`](super::sender::Sender::serve).
    Fetch {
        /// The space.
        handle: Handle,
        /// What it asks for.
        fetch: Fetch,
    },
    /// The answer to [`Sender::fetch`](super::sender::Sender::fetch).
    Fetched {
        /// The space.
        handle: Handle,
        /// The answer.
        fetched: Fetched,
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
