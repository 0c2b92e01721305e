//! Why the catalog cannot be used, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::catalog::Role;
use super::runs::RunError;
use crate::ids::{Epoch, SpaceId, StreamId};
use crate::lsn::Lsn;

/// What to do about a directory that cannot be used.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "nothing was done: have its file system mounted so that it can be written to (the \
             kernel's log says whether it was turned read-only for damage), and begin again"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on its file system, and begin again"
        }
        _ => {
            "it must belong to the user that runs this process, which is the user that runs the \
             database"
        }
    }
}

/// Why the catalog failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The state directory cannot be made or read. Nothing was opened.
    #[error("cannot use the state directory {path}: {source}; {}", remedy(source))]
    Directory {
        /// The directory or the file in it.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has the catalog open. Nothing was opened; stop the
    /// other process, or give this one a state directory of its own.
    #[error(
        "{path} is open in another process, a node that runs: only one may use a state \
         directory. Stop that one first; a second node has a state directory of its own"
    )]
    AlreadyOpen {
        /// The database.
        path: PathBuf,
    },
    /// The database bears its name no more: what is written to it is gone with
    /// this process. What was written is kept there as long as that runs.
    #[error(
        "the catalog {path} was removed or moved away, or another one is in its place; put it \
         back where it was, or restart the node"
    )]
    Gone {
        /// Where it should be.
        path: PathBuf,
    },
    /// The database is damaged. Nothing was opened or changed.
    #[error(
        "the catalog {path} is damaged ({detail}). It is made anew from the segments and the other \
         node of the pair, which has it verify all logs and loses no record: saltus rebuild \
         --config FILE --from ADDR, the other node's admin address; the damaged file is kept"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The database was written by another version. Nothing was changed.
    #[error(
        "the catalog {path} has schema {found}, this version reads {expected}; run the version \
         that wrote it, or move the file away and have it made anew with saltus rebuild"
    )]
    Schema {
        /// The database.
        path: PathBuf,
        /// What it has.
        found: u32,
        /// What is understood.
        expected: u32,
    },
    /// A change of a space that was never created. Nothing of its batch was
    /// applied.
    #[error("space {space} is not in the catalog: its first change must create it")]
    UnknownSpace {
        /// The space.
        space: SpaceId,
    },
    /// The space exists, as another stream or in another role. Nothing of the
    /// batch was applied.
    #[error(
        "space {space} is in the catalog as {found:?} of stream {found_stream:?}, not as \
         {wanted:?} of stream {wanted_stream:?}"
    )]
    OtherStream {
        /// The space.
        space: SpaceId,
        /// The role that the catalog has.
        found: Role,
        /// The stream that the catalog has.
        found_stream: StreamId,
        /// The role of the change.
        wanted: Role,
        /// The stream of the change.
        wanted_stream: StreamId,
    },
    /// A run that does not continue the space. Nothing of the batch was
    /// applied.
    #[error("space {space}: {source}")]
    Run {
        /// The space.
        space: SpaceId,
        /// Why not.
        source: RunError,
    },
    /// A truncation that leaves more runs than there are, or an end that does
    /// not lie in the last run left. Nothing of the batch was applied.
    #[error("space {space} cannot be cut at {end} leaving {runs} of {present} runs")]
    Truncation {
        /// The space.
        space: SpaceId,
        /// The end asked for.
        end: Lsn,
        /// Runs to be left.
        runs: u32,
        /// Runs that there are.
        present: u32,
    },
    /// An epoch that contradicts the history, an empty history, or one epoch
    /// too many. Nothing of the batch was applied.
    #[error(
        "space {space}: epoch {epoch} from {start} does not continue a history that ends with \
         epoch {last} from {last_start}"
    )]
    History {
        /// The space.
        space: SpaceId,
        /// The epoch of the change.
        epoch: Epoch,
        /// Where it is said to begin.
        start: Lsn,
        /// The last epoch of the catalog.
        last: Epoch,
        /// Where that began.
        last_start: Lsn,
    },
    /// The database could not read, write or sync. Nothing of the batch was
    /// applied, or, if it was the last sync that failed, all of it; later
    /// commits fail too, until the catalog is
    /// [reopened](super::catalog::Catalog::reopen).
    #[error("the catalog {path} failed: {source}")]
    Storage {
        /// The database.
        path: PathBuf,
        /// The database's reason.
        source: Box<redb::Error>,
    },
}
