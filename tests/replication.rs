//! The whole, end to end: real nodes as processes, real logs, real signals.
//!
//! ```text
//!   test ---- writes ----> primary/<space>/wal
//!     |                      | ships
//!     | compares             v
//!     +------------------> replica-n/<space>/wal
//! ```
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "replication/cluster.rs"]
mod cluster;
#[path = "replication/feed.rs"]
mod feed;
#[path = "replication/identical.rs"]
mod identical;
#[path = "replication/restart.rs"]
mod restart;
#[path = "replication/traps.rs"]
mod traps;
