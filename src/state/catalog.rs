//! The catalog: one redb database in the state directory.

use std::collections::BTreeMap;
use std::path::Path;

use super::runs::{Run, Runs};
use crate::ids::{Epoch, NodeUuid, SpaceId, StreamId};
use crate::lsn::{Lsn, Mark};

/// Which way a space flows through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The local database writes it; this node ships it.
    Primary,
    /// This node receives it.
    Replica,
}

/// A file the primary has numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The number: `Run::file`.
    pub file: u64,
    /// Name at first sight.
    pub segment: crate::ids::SegmentName,
    /// Device, inode, birth time ns.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Birth, ns.
    pub birth_ns: u64,
}

/// Everything remembered of one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRecord {
    /// Which way it flows.
    pub role: Role,
    /// Which stream it is.
    pub stream: StreamId,
    /// Epochs and where each began; the last is the present one.
    pub history: Vec<(Epoch, Lsn)>,
    /// Highest epoch ever seen.
    pub highest_epoch: Epoch,
    /// Where the stream lies.
    pub runs: Runs,
    /// The primary's numbered files.
    pub files: Vec<FileRecord>,
    /// A replica: everything up to here is durable and was verified.
    pub checkpoint: Mark,
    /// A primary: boundaries remembered, sparse, ascending.
    pub marks: Vec<Mark>,
}

/// One change; a batch of them is one durable transaction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A space appears in the catalog.
    Create {
        /// Which way.
        role: Role,
        /// Which stream.
        stream: StreamId,
        /// Its history.
        history: Vec<(Epoch, Lsn)>,
    },
    /// A run begins; the one before it ends there.
    OpenRun(Run),
    /// A file gets its number.
    AddFile(FileRecord),
    /// A replica's verified and durable position.
    Checkpoint(Mark),
    /// A boundary worth remembering on a primary; `keep` bounds how many.
    AddMark(Mark),
    /// Recovery cut the stream: runs that start behind are forgotten, the last is open again.
    Truncate {
        /// New end.
        end: Lsn,
        /// How many runs remain.
        runs: u32,
    },
    /// A higher epoch was seen.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// Where it began.
        start: Lsn,
    },
}

/// Why the catalog failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// placeholder
    #[error("catalog")]
    Placeholder,
}

/// The open catalog; `Send + Sync`, commits block.
#[derive(Debug)]
pub struct Catalog;

impl Catalog {
    /// Open or create the state directory `state_dir` (mode 0700) and its
    /// database; draws the node's uuid on first use. A second process on the
    /// same directory is refused by name.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn open(_state_dir: &Path) -> Result<Self, CatalogError> {
        todo!()
    }

    /// This node's number.
    #[must_use]
    pub fn node(&self) -> NodeUuid {
        todo!()
    }

    /// Everything.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn load(&self) -> Result<BTreeMap<SpaceId, SpaceRecord>, CatalogError> {
        todo!()
    }

    /// Apply all changes in one durable transaction.
    ///
    /// # Errors
    /// See [`CatalogError`]; nothing was applied.
    pub fn commit(&self, _changes: &[(SpaceId, Change)]) -> Result<(), CatalogError> {
        todo!()
    }
}
