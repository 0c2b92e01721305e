//! What every backend must do, over every strategy: real sockets, real files,
//! the real kernel. A backend that this machine refuses is named and skipped.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unsafe_code)]

#[path = "io/rig.rs"]
mod rig;
#[path = "../src/skipped.rs"]
mod skipped;

#[path = "io/files.rs"]
mod files;
#[cfg(all(target_os = "linux", feature = "uring"))]
#[path = "io/refusal.rs"]
mod refusal;
#[path = "io/sockets.rs"]
mod sockets;
#[path = "io/transmit.rs"]
mod transmit;
#[path = "io/watches.rs"]
mod watches;
