//! The wire, without I/O: two machines that are fed frames and positions, and
//! asked what to send.
//!
//! ```text
//!        PRIMARY                                             REPLICA
//!  head, run, mark                                     verified, written, flushed
//!        v                                                      v
//!   +----------+   Hello OpenSpace SegmentOpen Data     +------------+
//!   |  sender  | -------------------------------------> |  receiver  |
//!   |  slot    |                                        |  intake    |
//!   |  window  | <------------------------------------- |            |
//!   +----------+   HelloAck OpenAck Ack                 +------------+
//!        v               Heartbeat, Error: both ways            v
//!  events, frames to send                              intents, acks to send
//! ```
//!
//! - [`frame`]: the 64 bytes before every frame.
//! - [`message`]: the bodies of all frames but `Data`; `identity` and `refusal`
//!   hold those that make a handshake and an end, `boundary` those that compare two
//!   histories, `field` what all are made of.
//! - [`sender`]: a primary's connection; `event`: what it hands out; `slot`: one
//!   space of it; `opening`: from its `OpenAck` to the first byte; `window`: what
//!   of it is in flight.
//! - [`matching`]: up to where two histories are one: by epochs, then by chains.
//! - [`receiver`]: a replica's connection; `intake`: one space of it.
//! - `fetch`: a range of the stream, asked for again by either end; `mending`:
//!   the replica's half of it.
//! - `link`: what both keep of the connection: handshake, heartbeats, control
//!   frames that wait.
//!
//! Invariants: frames of a stale epoch, and data that does not continue the
//! stream, are refused by their header, before a byte of them is kept. An ack
//! names the end of a frame, and its chain is compared with the mark there.
//! What concerns one space stops that space; the others of the connection go
//! on. Whatever a peer sends, the machines return an error and never panic.
//!
//! Neither machine holds a descriptor, a clock, a thread or randomness. Time is
//! an argument. The shard loop is the only code that joins them to sockets.

#![forbid(unsafe_code)]

mod boundary;
mod event;
mod fetch;
mod field;
pub mod frame;
mod identity;
mod intake;
mod intent;
mod link;
pub mod matching;
mod mending;
pub mod message;
mod opening;
pub mod receiver;
mod refusal;
mod retention;
pub mod sender;
mod slot;
mod window;

use std::time::Instant;

/// What the clocks said when an input arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: time-outs, lag.
    pub instant: Instant,
    /// Nanoseconds since the Unix epoch: sent in heartbeats, never compared
    /// across nodes for a decision.
    pub unix_ns: u64,
}

/// What a person can read: an instant means nothing outside its process.
impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ns", self.unix_ns)
    }
}
