//! The whole, end to end: real nodes as processes, real logs, real signals.
//!
//! ```text
//!   test ---- writes ----> primary/<space>/wal
//!     |                      | ships
//!     | compares             v
//!     +------------------> replica-n/<space>/wal
//! ```
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "replication/answers.rs"]
mod answers;
#[path = "replication/change.rs"]
mod change;
#[path = "replication/clones.rs"]
mod clones;
#[path = "replication/cluster.rs"]
mod cluster;
#[path = "replication/compaction.rs"]
mod compaction;
#[path = "replication/epochs.rs"]
mod epochs;
#[path = "replication/feed.rs"]
mod feed;
#[path = "replication/fencing.rs"]
mod fencing;
#[path = "replication/hostile.rs"]
mod hostile;
#[path = "replication/identical.rs"]
mod identical;
#[path = "replication/identity.rs"]
mod identity;
#[path = "replication/intruder.rs"]
mod intruder;
#[path = "replication/isolation.rs"]
mod isolation;
#[path = "replication/loss.rs"]
mod loss;
#[path = "replication/pressure.rs"]
mod pressure;
#[path = "replication/proof.rs"]
mod proof;
#[path = "replication/proving.rs"]
mod proving;
#[path = "replication/reserved.rs"]
mod reserved;
#[path = "replication/restart.rs"]
mod restart;
#[path = "replication/retention.rs"]
mod retention;
#[path = "replication/seeding.rs"]
mod seeding;
#[path = "../src/skipped.rs"]
mod skipped;
#[path = "replication/spaces.rs"]
mod spaces;
#[path = "replication/talker.rs"]
mod talker;
#[path = "replication/traps.rs"]
mod traps;
