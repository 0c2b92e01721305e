//! Writing a log: for programs that embed this crate, and for tests.
//!
//! ```text
//!   append -> buffer --(1000 records, 10 ms, 1 MiB, or commit)--> write
//!                                       fdatasync, as the options say
//! ```
//!
//! The format is the one of [`record`](crate::wal::record). Sequences go on
//! from the largest that is in the directory. Each opening begins a segment
//! of its own, created with the first record: bytes that another process
//! wrote, a torn tail among them, are neither overwritten nor cut off nor
//! continued.
//!
//! A write or a sync that failed poisons the writer: what reached the disk is
//! then unknown, and a sync that is tried again can succeed without having
//! written anything. Open anew; the old segment stays as it is.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ids::SegmentName;
use crate::limits::{MAX_GROUP_BYTES, MAX_GROUP_DELAY, MAX_GROUP_RECORDS, RECORD_HEADER_BYTES};
use crate::lsn::Mark;
use crate::wal::cursor::{Advance, Cursor, Stop};
use crate::wal::discover;
use crate::wal::record::{Checksums, Header, RecordError};
use crate::wal::segment::{Segment, SegmentError};

/// When written records are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Each record is written and synced before `append` returns.
    EveryWrite,
    /// Each group of records is synced when it is written.
    #[default]
    EveryBatch,
    /// The system decides: a host that crashes loses what it had not written.
    Never,
}

/// How a writer writes.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// A segment is not begun upon beyond this size, unless by a single
    /// record that is larger. Bytes.
    pub segment_bytes: u64,
    /// When records are made durable.
    pub fsync: Fsync,
    /// The present time, nanoseconds since the Unix epoch.
    pub clock: fn() -> u64,
}

impl Default for WriterOptions {
    /// 64 MiB segments, a sync per group, the system's clock.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, fsync: Fsync::default(), clock: system_clock }
    }
}

/// The system's clock: nanoseconds since the Unix epoch, 0 before it.
#[must_use]
pub fn system_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|age| u64::try_from(age.as_nanos()).ok())
        .unwrap_or(0)
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The segment.
    pub segment: SegmentName,
    /// Where in the file its header starts.
    pub offset: u64,
    /// The sequence it was given.
    pub sequence: u64,
    /// Header and payload, bytes.
    pub bytes: u64,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The record cannot be written at all. Nothing has changed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The largest sequence is taken. Nothing has changed; begin a new
    /// directory.
    #[error("{} holds the largest sequence there is: no record can follow it", path.display())]
    SequencesUsedUp {
        /// The directory.
        path: PathBuf,
    },
    /// A segment that is there already could not be read for its sequences.
    /// Nothing has changed.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The system refused. The writer is poisoned: how much of the records
    /// since the last commit is on the disk is unknown.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed. Open the directory anew.
    #[error("{}: an earlier write or sync failed, so nothing more is written here", path.display())]
    Poisoned {
        /// The segment, or the directory before there is one.
        path: PathBuf,
    },
}

/// The segment that is being written.
#[derive(Debug)]
struct Current {
    name: SegmentName,
    path: PathBuf,
    file: File,
    /// Bytes of it, those in the buffer included.
    bytes: u64,
}

/// Appends records to the log in one directory. One writer per directory: no
/// lock is taken.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    options: WriterOptions,
    current: Option<Current>,
    /// `None` once the sequences are used up.
    next_sequence: Option<u64>,
    /// The largest segment number in the directory, so that names ascend even
    /// if the clock steps back.
    last_name: Option<SegmentName>,
    buffer: Vec<u8>,
    buffered_records: usize,
    /// When the first record in the buffer came, by the clock.
    buffered_since_ns: u64,
    poisoned: bool,
}

impl Writer {
    /// Open a directory, creating it if it is missing, and find the largest
    /// sequence in it by walking the headers of all segments.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`] or [`WriteError::Segment`].
    pub fn open(directory: &Path, options: WriterOptions) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Io { path: directory.to_path_buf(), source };
        create_directory(directory, options.fsync != Fsync::Never).map_err(failed)?;
        let names = discover::segments(directory).map_err(failed)?;
        let mut largest = None;
        for name in &names {
            largest = largest.max(largest_sequence(&directory.join(name.to_string()))?);
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            options,
            current: None,
            next_sequence: largest.map_or(Some(0), |sequence| sequence.checked_add(1)),
            last_name: names.last().copied(),
            buffer: Vec::with_capacity(MAX_GROUP_BYTES),
            buffered_records: 0,
            buffered_since_ns: 0,
            poisoned: false,
        })
    }

    /// The sequence of the next record; `None` if there is none left.
    #[must_use]
    pub const fn next_sequence(&self) -> Option<u64> {
        self.next_sequence
    }

    /// Append one record. It is written, and with it everything before it,
    /// when the group is full: at once with [`Fsync::EveryWrite`], else after
    /// [`MAX_GROUP_RECORDS`] records or [`MAX_GROUP_DELAY`], whichever comes
    /// first. The delay is looked at when a record comes; call
    /// [`commit`](Self::commit) when none is to be expected.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    pub fn append(&mut self, entry_type: u32, payload: &[u8]) -> Result<Position, WriteError> {
        if self.poisoned {
            return Err(self.poison());
        }
        let sequence = self
            .next_sequence
            .ok_or_else(|| WriteError::SequencesUsedUp { path: self.directory.clone() })?;
        let now = (self.options.clock)();
        let header = Header::new(sequence, now, entry_type, payload)?;
        let bytes = header.record_bytes();
        let (segment, offset) = self.place(bytes, now)?;

        if self.buffered_records > 0
            && self.buffer.len() + payload.len() + RECORD_HEADER_BYTES > MAX_GROUP_BYTES
        {
            self.commit()?;
        }
        if self.buffered_records == 0 {
            self.buffered_since_ns = now;
        }
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(payload);
        self.buffered_records += 1;
        self.next_sequence = sequence.checked_add(1);

        let waited = Duration::from_nanos(now.saturating_sub(self.buffered_since_ns));
        if self.options.fsync == Fsync::EveryWrite
            || self.buffered_records >= MAX_GROUP_RECORDS
            || waited >= MAX_GROUP_DELAY
        {
            self.commit()?;
        }
        Ok(Position { segment, offset, sequence, bytes })
    }

    /// Write what is buffered, and sync it as the options say.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`], and the writer is poisoned; or it was already.
    pub fn commit(&mut self) -> Result<(), WriteError> {
        if self.poisoned {
            return Err(self.poison());
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if self.buffer.is_empty() {
            return Ok(());
        }
        let done = current.file.write_all(&self.buffer).and_then(|()| match self.options.fsync {
            Fsync::Never => Ok(()),
            Fsync::EveryWrite | Fsync::EveryBatch => current.file.sync_data(),
        });
        self.buffer.clear();
        self.buffered_records = 0;
        done.map_err(|source| {
            self.poisoned = true;
            WriteError::Io { path: current.path.clone(), source }
        })
    }

    /// Where the next record goes; begins a new segment if it must.
    #[inline]
    fn place(&mut self, bytes: u64, now_ns: u64) -> Result<(SegmentName, u64), WriteError> {
        if let Some(current) = &mut self.current
            && (current.bytes == 0 || current.bytes + bytes <= self.options.segment_bytes)
        {
            let offset = current.bytes;
            current.bytes += bytes;
            return Ok((current.name, offset));
        }
        self.commit()?;
        let mut next = self.create(now_ns).map_err(|source| {
            self.poisoned = true;
            WriteError::Io { path: self.directory.clone(), source }
        })?;
        next.bytes = bytes;
        let name = next.name;
        self.current = Some(next);
        Ok((name, 0))
    }

    /// Create the next segment. Its name carries the seconds of the clock, or
    /// the next free number if that is taken.
    #[cold]
    fn create(&mut self, now_ns: u64) -> io::Result<Current> {
        let above = self.last_name.map_or(0, |last| last.0.saturating_add(1));
        let mut number = (now_ns / 1_000_000_000).max(above);
        loop {
            let name = SegmentName(number);
            let path = self.directory.join(name.to_string());
            let created = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
            match created {
                Ok(file) => {
                    if self.options.fsync != Fsync::Never {
                        // The name must survive a crash as the records do.
                        File::open(&self.directory)?.sync_all()?;
                    }
                    self.last_name = Some(name);
                    return Ok(Current { name, path, file, bytes: 0 });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number = number.checked_add(1).ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The error of a poisoned writer.
    #[cold]
    fn poison(&self) -> WriteError {
        let path = self.current.as_ref().map_or(&self.directory, |current| &current.path);
        WriteError::Poisoned { path: path.clone() }
    }
}

impl Drop for Writer {
    /// Writes what is buffered, as far as that succeeds; call
    /// [`commit`](Writer::commit) to know.
    fn drop(&mut self) {
        if !self.poisoned {
            let _ = self.commit();
        }
    }
}

/// Create a directory and those above it that are missing; if `durable`, sync
/// the entry of each.
fn create_directory(directory: &Path, durable: bool) -> io::Result<()> {
    let missing: Vec<_> = directory.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(directory)?;
    if durable {
        for parent in missing.iter().filter_map(|path| path.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

/// The largest sequence of the whole records in a segment, damage skipped.
fn largest_sequence(path: &Path) -> Result<Option<u64>, SegmentError> {
    let segment = Segment::open(path)?;
    let mut cursor = Cursor::new(Arc::new(segment), 0, Mark::START, Checksums::Optional);
    let mut largest = None;
    loop {
        let mut note = |mark: &Mark| largest = largest.max(Some(mark.sequence));
        let Advance { stop, .. } = cursor.advance(u64::MAX, &mut note);
        match stop {
            Stop::Budget | Stop::Corrupt { resync: None, more: true, .. } => {}
            Stop::Corrupt { resync: Some(next), .. } => cursor.skip_to(next),
            Stop::Failed { error, .. } => return Err(SegmentError::from_io(path, error)),
            Stop::Corrupt { .. } | Stop::End | Stop::Incomplete { .. } | Stop::Shrunk { .. } => {
                return Ok(largest);
            }
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
