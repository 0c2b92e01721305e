//! The wire, without I/O: two machines that are fed frames and positions, and
//! asked what to send.
//!
//! Neither machine holds a descriptor, a clock, a thread or randomness. Time is
//! an argument. The shard loop is the only code that joins them to sockets.

pub mod frame;
pub mod message;
pub mod receiver;
pub mod sender;

use std::time::Instant;

/// What the clocks said when an input arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: time-outs, lag.
    pub instant: Instant,
    /// Nanoseconds since the Unix epoch: sent in heartbeats, never compared
    /// across nodes for a decision.
    pub unix_ns: u64,
}
