//! The receiving half of a shard: connections from primaries, and the logs
//! that they fill.

#![forbid(unsafe_code)]

mod lanes;
pub mod log;
mod mending;
pub mod names;
pub mod peer;
pub mod primaries;
