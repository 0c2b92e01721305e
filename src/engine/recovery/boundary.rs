//! Record boundaries of a received space, by headers alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{RecoveryError, io_error};
use crate::limits::MAX_WALK_BYTES_PER_TURN;
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::SpaceRecord;
use crate::state::runs::Run;
use crate::wal::cursor::{Cursor, Stop};
use crate::wal::record::Checksums;
use crate::wal::segment::{Segment, SegmentError};

/// The last boundary at or before `at` of a space that is durable up to
/// `flushed`, with all that is known there, of files that lie where `locate`
/// says. Walks from the nearest boundary that the catalog has, and reads headers
/// only.
///
/// # Errors
///
/// [`RecoveryError::Rotten`] if a record before `at` is not whole any more, and
/// [`RecoveryError::Missing`] if its file is gone: that tells nothing about where
/// the stream ends. Or a file cannot be read.
pub fn boundary_along(
    record: &SpaceRecord,
    flushed: &Mark,
    at: Lsn,
    checksums: Checksums,
    locate: &dyn Fn(&Run) -> PathBuf,
) -> Result<Mark, RecoveryError> {
    let mut from = None;
    loop {
        let mut budget = MAX_WALK_BYTES_PER_TURN;
        match search(record, flushed, from, at, checksums, locate, &mut budget)? {
            Found::At(mark) => return Ok(mark),
            Found::Behind(mark) => from = Some(mark),
        }
    }
}

/// Where a turn of a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is this boundary.
    At(Mark),
    /// It is this one or one behind it: the next turn begins here.
    Behind(Mark),
}

/// The nearest boundary at or before `at` that the catalog has: where a search
/// begins. Nothing if none is known: what lies before was never here.
#[must_use]
pub fn nearest(record: &SpaceRecord, at: Lsn) -> Option<Mark> {
    // What a run begins with holds as long as it is where the run begins.
    let firsts = record.runs.firsts();
    let begins = record.begins.iter().filter(|(file, mark)| firsts.get(file) == Some(&mark.lsn));
    let known = record.marks.iter().chain([&record.checkpoint, &record.base]);
    let known = known.chain(begins.map(|(_, mark)| mark));
    known.filter(|mark| mark.lsn <= at).max_by_key(|mark| mark.lsn).copied()
}

/// One turn of [`boundary_along`], from where the last one has come to: walks
/// at most `budget` bytes and one record, and takes them off it.
///
/// # Errors
///
/// As [`boundary_along`].
pub fn search(
    record: &SpaceRecord,
    flushed: &Mark,
    from: Option<Mark>,
    at: Lsn,
    checksums: Checksums,
    locate: &dyn Fn(&Run) -> PathBuf,
    budget: &mut u64,
) -> Result<Found, RecoveryError> {
    if at >= flushed.lsn {
        return Ok(Found::At(*flushed));
    }
    let Some(mut best) = from.or_else(|| nearest(record, at)) else {
        return Ok(Found::At(Mark::START));
    };
    let first = record.runs.locate(best.lsn).map_or(record.runs.first(), |(ordinal, _)| ordinal);
    for (_, run) in record.runs.iter().filter(|(ordinal, _)| *ordinal >= first) {
        let end = run.bytes.map_or(flushed.lsn, |bytes| run.start.advance(bytes));
        let goal = end.min(at);
        if best.lsn >= goal && end <= at {
            continue;
        }
        if record.is_gone(run.file) {
            // Retired with everything in it; what is known lies before it.
            break;
        }
        let path = locate(run);
        let segment = Segment::open_as(run.segment, &path).map_err(|error| {
            let source = match error {
                SegmentError::Io { source, .. } | SegmentError::Permission { source, .. } => source,
                other => io::Error::other(other),
            };
            let (path, expected) = (path.clone(), run.offset + goal.bytes_since(run.start));
            match source.kind() {
                io::ErrorKind::NotFound => RecoveryError::Missing { path, expected },
                _ => io_error("read", &path)(source),
            }
        })?;
        let offset = run.offset + best.lsn.bytes_since(run.start);
        let mut cursor = Cursor::new(Arc::new(segment), offset, best, checksums);
        while cursor.mark().lsn < goal {
            if *budget == 0 {
                return Ok(Found::Behind(best));
            }
            let missing = goal.bytes_since(cursor.mark().lsn);
            let advance = cursor.advance(missing.min(*budget), &mut |mark| {
                if mark.lsn <= goal {
                    best = *mark;
                }
            });
            *budget = budget.saturating_sub(advance.bytes);
            match advance.stop {
                _ if cursor.mark().lsn >= goal => {}
                Stop::Budget => {}
                Stop::Failed { error, .. } => return Err(io_error("read", &path)(error)),
                stop => {
                    let offset = cursor.offset();
                    let found = format!("{stop:?}");
                    return Err(RecoveryError::Rotten { path, offset, lsn: best.lsn, found });
                }
            }
        }
        if end > at {
            break;
        }
    }
    Ok(Found::At(best))
}

#[cfg(test)]
#[path = "boundary_tests.rs"]
mod tests;
