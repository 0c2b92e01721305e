//! Machinery that fails, for real: full disks, disks that fail, networks that
//! are cut, descriptors that run out, processes that hang, clocks that jump.
//!
//! ```text
//!   test --- breaks ---> the machine      a file system, a link, a limit, a clock
//!     |                      |
//!     |                   the node        says so, in status and log
//!     +--- mends ----------> |
//!                            v
//!                         goes on by itself; nothing acknowledged was lost
//! ```
//!
//! What needs root finds out at run time whether it has it, and says SKIPPED
//! if not. Everything is done in namespaces of the test's own thread: nothing
//! of the machine's is touched, and all of it is gone with the test.
//!
//! `docs/FAULTS.md` has one line for each fault, with the test that shows it.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "faults/clock.rs"]
mod clock;
#[allow(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/compaction.rs"]
mod compaction;
#[path = "faults/descriptors.rs"]
mod descriptors;
#[path = "faults/disk.rs"]
mod disk;
#[allow(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/feed.rs"]
mod feed;
#[path = "faults/full.rs"]
mod full;
#[path = "faults/gone.rs"]
mod gone;
#[path = "faults/hang.rs"]
mod hang;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/seeding.rs"]
mod seeding;
#[path = "faults/shim.rs"]
mod shim;
#[path = "../src/skipped.rs"]
mod skipped;
#[path = "faults/stalled.rs"]
mod stalled;
#[path = "faults/sync.rs"]
mod sync;
