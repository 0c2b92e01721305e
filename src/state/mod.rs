//! What a node remembers across restarts: its identity, where each stream lies
//! in files, its epochs, and the hard links that keep segments readable.
//!
//! ```text
//!   <state directory>              default <data_root>/.saltus, mode 0700
//!     catalog.redb                 node uuid, spaces, runs, files, marks   -> catalog
//!     pins/<space>/<file>          hard links to segments                  -> pins
//!     quarantine/<space>/...       bytes that recovery took out of a log
//! ```
//!
//! Three things hold:
//!
//! - The state directory lies on the file system of the data root, because a
//!   pin is a hard link.
//! - Everything here can be rebuilt from segments and peers. Losing it costs a
//!   re-verification, never data.
//! - A batch of changes is one durable transaction: after a crash all of it is
//!   there, or nothing.
//!
//! Commits block on the disk and belong on the maintenance plane, never on a
//! data core. This module knows files by name and number; it never reads a
//! record.
#![forbid(unsafe_code)]

mod batch;
pub mod catalog;
mod layout;
pub mod pins;
pub mod runs;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// 128 bits from the kernel's generator, for a
/// [`NodeUuid`](crate::ids::NodeUuid) or a [`StreamId`](crate::ids::StreamId).
///
/// # Errors
///
/// `/dev/urandom` cannot be read: a container without `/dev`. The error names
/// the file.
pub fn random_u128() -> io::Result<u128> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; 16];
    File::open(SOURCE)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| io::Error::new(error.kind(), format!("{SOURCE}: {error}")))?;
    Ok(u128::from_le_bytes(bytes))
}

/// Make the names in a directory durable.
///
/// # Errors
///
/// The directory cannot be opened or synced. As with every failed sync, what
/// is durable is then unknown; do not try again, start over from the disk.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn two_random_numbers_differ() {
        assert_ne!(super::random_u128().unwrap(), super::random_u128().unwrap());
    }
}
