//! What a node remembers across restarts: its identity, where each stream lies
//! in files, its epochs, and the hard links that keep segments readable.
//!
//! ```text
//!   <state directory>              default <data_root>/.saltus, mode 0700
//!     catalog.redb                 node uuid, spaces, runs, files, marks,
//!                                  slots                                   -> catalog
//!     pins/<space>/<file>          hard links to segments                  -> pins
//!     quarantine/<space>/...       bytes that recovery took out of a log
//!     retired/<space>/<file>       received segments that have no name on the
//!                                  primary any more
//!     superseded/<space>/<n>/...   what a replica held before it was seeded
//! ```
//!
//! All that changes these files, or makes them durable, goes through a [`Host`](host::Host).
//!
//! Three things hold:
//!
//! - The state directory lies on the file system of the data root, because a
//!   pin is a hard link.
//! - Everything here can be rebuilt from segments and peers (`saltus rebuild`).
//!   Losing it costs a re-verification, never data.
//! - A batch of changes is one durable transaction: after a crash all of it is
//!   there, or nothing.
//!
//! Commits block on the disk and belong on the maintenance plane, never on a
//! data core. This module knows files by name and number; it never reads a
//! record.
#![forbid(unsafe_code)]

mod access;
mod batch;
pub mod catalog;
mod error;
mod history;
mod holes;
pub mod host;
mod layout;
#[cfg(test)]
pub(crate) mod meddler;
mod opening;
pub mod pins;
mod received;
pub mod runs;
pub mod slots;
mod storage;
mod thinning;

pub use thinning::thin;
