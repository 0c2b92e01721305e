//! Why a space is not received.

use std::io;
use std::path::PathBuf;

use crate::ids::SpaceId;
use crate::io::disk::DiskError;
use crate::lsn::Lsn;

/// Why a space cannot be received as it is. Nothing below the checkpoint has
/// changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// A file or directory cannot be read, written or synced. What could be
    /// saved is saved; recovery can be repeated.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk does not give back what lies behind the checkpoint, where nothing
    /// else tells what it was. Nothing was cut; recovery can be repeated.
    #[error(
        "{} cannot be read at offset {offset}: {source}; nothing was cut; check the disk; if it \
         stays so, move the file away, to where it is kept: what it held is received again, or \
         mended from the primary",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be told what the disk holds of a file. Recovery can be repeated.
    #[error("cannot verify {}: {source}", path.display())]
    Cached {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        source: DiskError,
    },
    /// A file that holds verified records is gone.
    #[error(
        "{} is missing, and it held durable records up to offset {expected}; it is \
         mended from the primary, or copy the file from a backup, byte for byte, and try again",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// The size that it must have at least.
        expected: u64,
    },
    /// A file lost records that were verified and durable.
    #[error(
        "{} has {found} bytes, and it held durable records up to offset {expected}; check the \
         disk; it is mended from the primary, or copy the file from a backup, byte for byte, and \
         try again",
        path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// The size that it must have at least.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// The last record below the checkpoint is not the one that was verified.
    #[error(
        "{} is damaged below offset {offset}: the record that ends there (sequence {sequence}) \
         was durable and is not whole any more; check the disk; it is mended from the \
         primary, or copy the file from a backup, byte for byte, and try again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record ends: the checkpoint's place in the file.
        offset: u64,
        /// The record's sequence.
        sequence: u64,
    },
    /// The disk does not give back the last record below the checkpoint.
    #[error(
        "{} cannot be read at offset {offset}, where it held durable records: {source}; check the \
         disk; it is mended from the primary, or copy the file from a backup, byte for byte, and \
         try again",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A record that was verified and durable is not whole any more. It was met
    /// while positions were compared, and nothing was cut: damage says nothing
    /// about where a stream ends.
    #[error(
        "{} is damaged at offset {offset} (lsn {lsn}), where a durable record begins: {found}; \
         check the disk; it is mended from the primary, or copy the file from a backup, byte for \
         byte, and try again",
        path.display()
    )]
    Rotten {
        /// The file.
        path: PathBuf,
        /// Where the record begins in it.
        offset: u64,
        /// Where it begins in the stream.
        lsn: Lsn,
        /// What is there instead.
        found: String,
    },
    /// The catalog contradicts itself: a checkpoint without runs that reach
    /// to it.
    #[error(
        "the catalog has space {space} verified up to {checkpoint} and runs up to {end} only; \
         stop the node, move the catalog away, and have it made anew with saltus rebuild"
    )]
    Catalog {
        /// The space.
        space: SpaceId,
        /// The checkpoint.
        checkpoint: Lsn,
        /// How far the runs are known to reach.
        end: Lsn,
    },
}

impl RecoveryError {
    /// True if what is below the checkpoint does not hold: it can be mended
    /// from the primary, and what comes behind it can be received meanwhile.
    #[must_use]
    pub const fn is_below_checkpoint(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Short { .. } | Self::Damaged { .. } | Self::Lost { .. }
        )
    }

    /// True if something that was durable does not hold, wherever it was met.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        self.is_below_checkpoint() || matches!(self, Self::Rotten { .. })
    }
}
