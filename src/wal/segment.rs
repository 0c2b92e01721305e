//! One open segment.
//!
//! A segment stays readable for as long as it is held, whatever becomes of
//! its name: the writer goes on appending to a file that its own compaction
//! has unlinked (T3).

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::ids::{IdError, SegmentName};
use crate::limits::RECORD_HEADER_BYTES;
use crate::wal::record::{Checksums, Header, RecordError};

/// What makes a file the same file (T13: inode numbers are reused).
///
/// Birth times are as coarse as the kernel's tick, a few milliseconds. A file
/// that is replaced faster than that is told apart by its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time, ns since the Unix epoch; 0 where the file system keeps none.
    pub birth_ns: u64,
}

impl Identity {
    /// The identity of an open file.
    ///
    /// # Errors
    ///
    /// As `fstat`.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let birth_ns = metadata
            .created()
            .ok()
            .and_then(|born| born.duration_since(UNIX_EPOCH).ok())
            .and_then(|age| u64::try_from(age.as_nanos()).ok())
            .unwrap_or(0);
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), birth_ns })
    }
}

/// Why a segment could not be opened or read. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The path does not name a segment: leave the file alone.
    #[error("{}: {source}", path.display())]
    Name {
        /// The path.
        path: PathBuf,
        /// What its last part is not.
        source: IdError,
    },
    /// The path names something else than a regular file: leave it alone.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file exists and may not be read (T11). An operator must act.
    #[error(
        "{} may not be read: segments have mode 0600, so this process must run as \
         the user that runs the writer (set User= in the unit file to the database's user)",
        path.display()
    )]
    Permission {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused for another reason. `NotFound` means that the file
    /// was retired or moved in the meantime: list the directory again.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SegmentError {
    /// The error for what the system said about a path.
    #[must_use]
    pub fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            _ => Self::Io { path, source },
        }
    }
}

/// Why no header could be read at an offset. The segment stays open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file could not be read there. `UnexpectedEof`: it ends before.
    #[error("no header at offset {offset} of {segment}: {source}")]
    Read {
        /// The segment.
        segment: SegmentName,
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes there are no header.
    #[error("no header at offset {offset} of {segment}: {source}")]
    Record {
        /// The segment.
        segment: SegmentName,
        /// Where.
        offset: u64,
        /// What is wrong with them.
        source: RecordError,
    },
}

/// One open segment, readable even after its name is gone (T3).
#[derive(Debug)]
pub struct Segment {
    /// The name it had when it was first seen.
    pub name: SegmentName,
    /// Which file it is.
    pub identity: Identity,
    /// Open for reading.
    pub file: Arc<File>,
}

impl Segment {
    /// Open the segment at `path` for reading. Its last part must be a
    /// segment name.
    ///
    /// # Errors
    ///
    /// See [`SegmentError`].
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let text = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let name = text
            .parse()
            .map_err(|source| SegmentError::Name { path: path.to_path_buf(), source })?;
        Self::open_as(name, path)
    }

    /// Open the segment `name` under another path, as a pin is.
    ///
    /// # Errors
    ///
    /// See [`SegmentError`].
    pub fn open_as(name: SegmentName, path: &Path) -> Result<Self, SegmentError> {
        let failed = |source| SegmentError::from_io(path, source);
        // Without O_NONBLOCK a FIFO of that name would hold the caller up.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(SegmentError::NotAFile { path: path.to_path_buf() });
        }
        let identity = Identity::of(&file).map_err(failed)?;
        Ok(Self { name, identity, file: Arc::new(file) })
    }

    /// Its present length, bytes.
    ///
    /// # Errors
    ///
    /// As `fstat`.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// True while it holds nothing (T10).
    ///
    /// # Errors
    ///
    /// As `fstat`.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The 64 bytes at `offset`, whatever they are.
    ///
    /// # Errors
    ///
    /// As `pread`; `UnexpectedEof` if the file ends before.
    pub fn header_bytes_at(&self, offset: u64) -> io::Result<[u8; RECORD_HEADER_BYTES]> {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The header of the record that starts at `offset`.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`].
    pub fn header_at(&self, offset: u64, checksums: Checksums) -> Result<Header, HeaderError> {
        let segment = self.name;
        let bytes = self.header_bytes_at(offset).map_err(|source| HeaderError::Read {
            segment,
            offset,
            source,
        })?;
        Header::parse(&bytes, checksums).map_err(|source| HeaderError::Record {
            segment,
            offset,
            source,
        })
    }

    /// The sequence of the record that starts at `offset`: the first of an
    /// extent.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`].
    pub fn first_sequence_at(&self, offset: u64, checksums: Checksums) -> Result<u64, HeaderError> {
        Ok(self.header_at(offset, checksums)?.sequence)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn t11_permission_error_says_which_user_to_run_as() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = SegmentError::from_io(Path::new("/data/alpha/wal/x.log"), denied);
        let text = error.to_string();
        assert!(matches!(error, SegmentError::Permission { .. }));
        assert!(text.contains("0600") && text.contains("user that runs the writer"), "{text}");
    }

    #[test]
    fn t13_a_reused_inode_number_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal-0000000000000001.log");
        fs::write(&path, b"one").unwrap();
        let first = Segment::open(&path).unwrap().identity;
        if first.birth_ns == 0 {
            return;
        }
        // Birth times are as coarse as the kernel's tick.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            fs::remove_file(&path).unwrap();
            fs::write(&path, b"two").unwrap();
            let second = Segment::open(&path).unwrap().identity;
            if second.inode != first.inode || second.birth_ns > first.birth_ns {
                assert_ne!(first, second);
                return;
            }
            assert!(Instant::now() < deadline, "the clock of the file system stands still");
        }
    }

    #[test]
    fn a_directory_of_a_segments_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal-0000000000000001.log");
        fs::create_dir(&path).unwrap();
        assert!(matches!(Segment::open(&path), Err(SegmentError::NotAFile { .. })));
    }

    #[test]
    fn other_names_are_no_segments() {
        let path = Path::new("/nowhere/wal-0000000000000001.log.tmp");
        assert!(matches!(Segment::open(path), Err(SegmentError::Name { .. })));
    }
}
