//! What recovery tells an operator.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::wal::record::RecordError;

/// Something that recovery found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The last record was not whole: usual after a kill.
    TornTail {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// How much of it is there.
        bytes: u64,
    },
    /// Only zeroes follow: usual after the host went down.
    Zeroes {
        /// The file.
        path: PathBuf,
        /// Where they begin.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// A record behind the checkpoint is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        error: RecordError,
        /// Where a good record follows in the same file: then it is no torn
        /// tail. Writes that were never synced may have reached the disk out
        /// of order; without a stop of the host, the disk is failing.
        good_after: Option<u64>,
    },
    /// A file behind the checkpoint is shorter than its run.
    Short {
        /// The file.
        path: PathBuf,
        /// The size that the catalog speaks of.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A file behind the checkpoint is not there.
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The end of a file was cut off, after it was saved.
    Cut {
        /// The file.
        path: PathBuf,
        /// Its size now.
        offset: u64,
        /// How much went.
        bytes: u64,
        /// Where it is now.
        saved: PathBuf,
    },
    /// The unfinished record at the end of a file was cut off, and not saved:
    /// the disk is full. No whole record was in it.
    Dropped {
        /// The file.
        path: PathBuf,
        /// Its size now.
        offset: u64,
        /// How much went.
        bytes: u64,
    },
    /// A file that lies behind the cut was moved.
    Moved {
        /// Where it was.
        path: PathBuf,
        /// Where it is now.
        to: PathBuf,
    },
    /// A file got its name back, because the one that was to replace it never
    /// came into being.
    Renamed {
        /// Where it was.
        path: PathBuf,
        /// Where it is now.
        to: PathBuf,
    },
    /// Files that no run names. They were left alone.
    Unknown {
        /// The directory.
        directory: PathBuf,
        /// The first of them by name, at most [`MAX_NAMED_FILES`](crate::limits::MAX_NAMED_FILES).
        names: Vec<OsString>,
        /// How many there are.
        count: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { path, offset, bytes } => {
                let path = path.display();
                write!(f, "{path} ends in a torn record: {bytes} bytes of it from offset {offset}")
            }
            Self::Zeroes { path, offset, bytes } => {
                write!(f, "{} ends in {bytes} zero bytes from offset {offset}", path.display())
            }
            Self::Damaged { path, offset, error, good_after } => {
                write!(f, "{} is damaged at offset {offset}: {error}", path.display())?;
                match good_after {
                    Some(at) => write!(
                        f,
                        "; a good record follows at {at}: writes reached the disk out of their \
                         order when the host stopped, or the disk is failing"
                    ),
                    None => f.write_str("; nothing good follows in the file"),
                }
            }
            Self::Short { path, expected, found } => {
                let path = path.display();
                write!(f, "{path} has {found} bytes, its run reaches to {expected}")
            }
            Self::Missing { path } => {
                write!(f, "{} is missing; its bytes are received again", path.display())
            }
            Self::Cut { path, offset, bytes, saved } => write!(
                f,
                "{} was cut to {offset} bytes; the {bytes} bytes behind are kept in {}",
                path.display(),
                saved.display()
            ),
            Self::Dropped { path, offset, bytes } => write!(
                f,
                "{} was cut to {offset} bytes; the {bytes} bytes of an unfinished record behind \
                 are not kept, as the disk is full",
                path.display()
            ),
            Self::Moved { path, to } => write!(
                f,
                "{} lies behind the end of the stream and was moved to {}",
                path.display(),
                to.display()
            ),
            Self::Renamed { path, to } => {
                write!(f, "{} got its name {} back", path.display(), to.display())
            }
            Self::Unknown { directory, names, count } => write!(
                f,
                "{count} files of {} are in no run and were left alone, the first are {names:?}",
                directory.display()
            ),
        }
    }
}
