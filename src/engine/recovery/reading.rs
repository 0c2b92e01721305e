//! Reading what a run holds, forwards to the first record that is not whole,
//! and backwards to the last one before a mark.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Notice, RecoveryError, io_error};
use crate::engine::verifier::Verifier;
use crate::io::disk::{DiskError, DiskFile};
use crate::limits::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES, VERIFY_PIECE_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::SpaceRecord;
use crate::state::host::Host;
use crate::state::runs::Run;
use crate::wal::record::{Checksums, Header, MAGIC_BYTES, RecordError};
use crate::wal::search::{self, Found, ReadAt};

/// Verify one run from `begin` on. Nothing if it is whole, or why it ends
/// early; the verifier then stands behind its last whole record.
pub(super) fn verify_run(
    host: &dyn Host,
    path: &Path,
    run: &Run,
    begin: u64,
    verifier: &mut Verifier,
    buffer: &mut [u8],
) -> Result<Option<Notice>, RecoveryError> {
    let failed = io_error("read", path);
    let expected = run.bytes.map(|bytes| run.offset + bytes);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // An open run may have no file yet.
            let lost = expected.is_some_and(|expected| expected > begin);
            return Ok(lost.then(|| Notice::Missing { path: path.to_path_buf() }));
        }
        Err(error) => return Err(failed(error)),
    };
    let file = Watched { host, path, file: reread(host, file, path, begin)? };
    let found = file.bytes().map_err(&failed)?;
    let failed = |error| read_error(path, error);
    let stop = expected.map_or(found, |expected| expected.min(found));
    let start = verifier.mark().lsn;
    let mut at = begin;
    while at < stop {
        let most = usize::try_from(stop - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = search::read_up_to(&file, &mut buffer[..most], at).map_err(failed)?;
        if count == 0 {
            break;
        }
        at += count as u64;
        if let Err(error) = verifier.feed(&buffer[..count]) {
            let offset = begin + verifier.mark().lsn.bytes_since(start);
            return describe(&file, path, offset, error, verifier).map(Some).map_err(failed);
        }
    }
    Ok(end_of_run(path, expected, at, verifier))
}

/// What is wrong with a run whose file was read up to `at`, and in which
/// everything held; nothing if it is whole. `expected` is where it must end, if
/// that is known.
pub(super) fn end_of_run(
    path: &Path,
    expected: Option<u64>,
    at: u64,
    verifier: &Verifier,
) -> Option<Notice> {
    let (path, bytes) = (path.to_path_buf(), verifier.pending());
    match expected {
        Some(expected) if at < expected => Some(Notice::Short { path, expected, found: at }),
        _ if bytes == 0 => None,
        Some(expected) => {
            // The run ends within a record: it was never cut there.
            let error = RecordError::Truncated { need: verifier.needed(), have: bytes };
            Some(Notice::Damaged { path, offset: expected - bytes, error, good_after: None })
        }
        None => Some(Notice::TornTail { path, offset: at - bytes, bytes }),
    }
}

/// Have a file read from `begin` on as the disk holds it: synced, and past what
/// the kernel remembers.
pub(super) fn reread(
    host: &dyn Host,
    file: File,
    path: &Path,
    begin: u64,
) -> Result<DiskFile, RecoveryError> {
    host.sync_data(&file).map_err(io_error("sync", path))?;
    DiskFile::new(file, path, begin).map_err(|error| match error {
        DiskError::System(source) => io_error("read", path)(source),
        source => RecoveryError::Cached { path: path.to_path_buf(), source },
    })
}

impl ReadAt for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Self::read_at(self, buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Self::bytes(self)
    }
}

/// A segment, and the host that knows where its disk fails. What cannot be read
/// is an [`Unreadable`].
pub(in crate::engine) struct Watched<'a, F> {
    pub(in crate::engine) host: &'a dyn Host,
    pub(in crate::engine) path: &'a Path,
    pub(in crate::engine) file: F,
}

impl<F: ReadAt> ReadAt for Watched<'_, F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.host
            .may_read(self.path, offset, buffer.len() as u64)
            .and_then(|()| self.file.read_at(buffer, offset))
            .map_err(|source| match source.kind() {
                // It is tried again, or says nothing of the disk.
                io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory => source,
                kind => io::Error::new(kind, Unreadable { offset, source }),
            })
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

/// The disk does not give back what lies there.
#[derive(Debug, thiserror::Error)]
#[error("at offset {offset}: {source}")]
pub(in crate::engine) struct Unreadable {
    pub(in crate::engine) offset: u64,
    pub(in crate::engine) source: io::Error,
}

/// Why a file cannot be read.
pub(super) fn read_error(path: &Path, error: io::Error) -> RecoveryError {
    match error.downcast() {
        Ok(Unreadable { offset, source }) => {
            RecoveryError::Unreadable { path: path.to_path_buf(), offset, source }
        }
        Err(error) => io_error("read", path)(error),
    }
}

/// Say what a damaged record at `offset` looks like.
pub(super) fn describe(
    file: &impl ReadAt,
    path: &Path,
    offset: u64,
    error: RecordError,
    verifier: &Verifier,
) -> io::Result<Notice> {
    let path = path.to_path_buf();
    let size = file.bytes()?;
    if search::first_nonzero(file, offset, size)?.is_none() {
        return Ok(Notice::Zeroes { path, offset, bytes: size - offset });
    }
    let found = search::find_record(file, offset + 1, size - offset, size, verifier.checksums())?;
    let good_after = match found {
        Found::Record(at) => Some(at),
        Found::NoneBefore(_) => None,
    };
    Ok(Notice::Damaged { path, offset, error, good_after })
}

/// Whether the record that ends at a mark is in the file of its run, found
/// backwards by its own size, its sequence and its time, and holds. False at the
/// start of a stream, and if the file is not there.
///
/// # Errors
///
/// The file is there, and cannot be read.
pub fn ends_with(
    record: &SpaceRecord,
    mark: &Mark,
    checksums: Checksums,
    locate: &dyn Fn(&Run) -> PathBuf,
) -> Result<bool, RecoveryError> {
    let before = mark.lsn.0.checked_sub(1).and_then(|byte| record.runs.locate(Lsn(byte)));
    let place = before.and_then(|(ordinal, at)| Some((record.runs.get(ordinal)?, at + 1)));
    let Some((run, end)) = place else { return Ok(false) };
    let path = locate(run);
    match File::open(&path) {
        Ok(file) => {
            find_backwards(&file, run.offset, end, mark, checksums).map_err(io_error("read", &path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Whether a record in `lowest..end` ends at `end`, is the last before
/// `mark`, and holds. Searched backwards.
pub(super) fn find_backwards(
    file: &impl ReadAt,
    lowest: u64,
    end: u64,
    mark: &Mark,
    checksums: Checksums,
) -> io::Result<bool> {
    let fits = |found: &Header, offset: u64| {
        Ok(is_last_before(found, mark) && is_whole(file, offset, end, checksums)?)
    };
    Ok(ending_at(file, lowest, end, checksums, &fits)?.is_some())
}

/// Whether the header of the last record before `mark` stands in `lowest..end`, of a
/// record that ends at `end`: what its payload is does not matter. Searched backwards.
///
/// # Errors
///
/// The file cannot be read.
pub fn stands_before(
    file: &impl ReadAt,
    lowest: u64,
    end: u64,
    mark: &Mark,
    checksums: Checksums,
) -> io::Result<bool> {
    let fits = |found: &Header, _| Ok(is_last_before(found, mark));
    Ok(ending_at(file, lowest, end, checksums, &fits)?.is_some())
}

/// Whether it can be the header of the last record before a mark.
fn is_last_before(found: &Header, mark: &Mark) -> bool {
    (found.sequence, found.timestamp_ns) == (mark.sequence, mark.timestamp_ns)
}

/// The record in `lowest..end` that ends at `end` and holds; nothing if there is
/// none.
///
/// # Errors
///
/// The file cannot be read.
pub fn record_before(
    file: &impl ReadAt,
    lowest: u64,
    end: u64,
    checksums: Checksums,
) -> io::Result<Option<Header>> {
    ending_at(file, lowest, end, checksums, &|_, offset| is_whole(file, offset, end, checksums))
}

/// Whether a record that holds begins before `at` and ends behind it.
///
/// # Errors
///
/// The file cannot be read.
pub fn is_within_record(file: &impl ReadAt, at: u64, checksums: Checksums) -> io::Result<bool> {
    let fits = |found: &Header, offset: u64| {
        let end = offset + found.record_bytes();
        Ok(end > at && is_whole(file, offset, end, checksums)?)
    };
    Ok(before(file, 0, at, checksums, &fits)?.is_some())
}

fn ending_at(
    file: &impl ReadAt,
    lowest: u64,
    end: u64,
    checksums: Checksums,
    fits: &dyn Fn(&Header, u64) -> io::Result<bool>,
) -> io::Result<Option<Header>> {
    let fits = |found: &Header, offset: u64| {
        Ok(found.record_bytes() == end - offset && fits(found, offset)?)
    };
    before(file, lowest, end, checksums, &fits)
}

/// The last record that begins in `lowest..end` and fits.
fn before(
    file: &impl ReadAt,
    lowest: u64,
    end: u64,
    checksums: Checksums,
    fits: &dyn Fn(&Header, u64) -> io::Result<bool>,
) -> io::Result<Option<Header>> {
    const MOST_BYTES: u64 = 64 << 10;
    let lowest = lowest.max(end.saturating_sub(MAX_RECORD_BYTES));
    // Most records are short.
    let mut chunk_bytes = 4 << 10;
    let mut buffer = Vec::new();
    let mut above = end;
    while above > lowest {
        let from = above.saturating_sub(chunk_bytes).max(lowest);
        // A header that begins in a chunk may reach into the one above it.
        let most = above - from + RECORD_HEADER_BYTES as u64;
        let most = usize::try_from(most).unwrap_or(0);
        buffer.resize(most.max(buffer.len()), 0);
        let count = search::read_up_to(file, &mut buffer[..most], from)?;
        let starts = usize::try_from(above - from).unwrap_or(usize::MAX).min(count);
        for start in (0..starts).rev() {
            let Some(raw) = buffer[start..count].first_chunk::<RECORD_HEADER_BYTES>() else {
                continue;
            };
            if raw[..4] != MAGIC_BYTES {
                continue;
            }
            let offset = from + start as u64;
            let header = Header::parse(raw, checksums).ok();
            if let Some(found) = header
                && fits(&found, offset)?
            {
                return Ok(header);
            }
        }
        above = from;
        chunk_bytes = MOST_BYTES.min(2 * chunk_bytes);
    }
    Ok(None)
}

/// Whether `offset..end` is one record and holds.
fn is_whole(
    file: &impl ReadAt,
    mut offset: u64,
    end: u64,
    checksums: Checksums,
) -> io::Result<bool> {
    let mut piece = vec![0; VERIFY_PIECE_BYTES];
    let mut verifier = Verifier::new(Mark::START, checksums);
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(piece.len());
        let count = search::read_up_to(file, &mut piece[..most], offset)?;
        if count == 0 || verifier.feed(&piece[..count]).is_err() {
            return Ok(false);
        }
        offset += count as u64;
    }
    Ok(verifier.mark().records == 1 && verifier.pending() == 0)
}
