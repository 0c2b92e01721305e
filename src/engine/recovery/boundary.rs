//! Record boundaries of a received space, by headers alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::is_gone;
use super::{RecoveryError, io_error, path_of};
use crate::ids::SpaceId;
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::SpaceRecord;
use crate::state::runs::Run;
use crate::wal::cursor::{Cursor, Stop};
use crate::wal::record::Checksums;
use crate::wal::segment::{Segment, SegmentError};

/// The last boundary at or before `at` of a space that is durable up to
/// `flushed`, with all that is known there. Walks from the nearest boundary
/// that the catalog has, and reads headers only.
///
/// # Errors
///
/// [`RecoveryError::Rotten`] if a record before `at` is not whole any more: that
/// tells nothing about where the stream ends. Or a file cannot be read.
pub fn boundary(
    data_root: &Path,
    state_dir: &Path,
    space: &SpaceId,
    record: &SpaceRecord,
    flushed: &Mark,
    at: Lsn,
    checksums: Checksums,
) -> Result<Mark, RecoveryError> {
    let locate = |run: &Run| path_of(data_root, state_dir, space, record, run);
    boundary_along(record, flushed, at, checksums, &locate)
}

/// As [`boundary`], of files that lie where `locate` says.
///
/// # Errors
///
/// As [`boundary`].
pub fn boundary_along(
    record: &SpaceRecord,
    flushed: &Mark,
    at: Lsn,
    checksums: Checksums,
    locate: &dyn Fn(&Run) -> PathBuf,
) -> Result<Mark, RecoveryError> {
    if at >= flushed.lsn {
        return Ok(*flushed);
    }
    let known = record.marks.iter().chain([&record.checkpoint, &record.base]);
    let start = known.filter(|mark| mark.lsn <= at).max_by_key(|mark| mark.lsn);
    // What lies before the base was never here.
    let Some(mut best) = start.copied() else { return Ok(Mark::START) };
    let first = record.runs.locate(best.lsn).map_or(record.runs.first(), |(ordinal, _)| ordinal);
    for (_, run) in record.runs.iter().filter(|(ordinal, _)| *ordinal >= first) {
        let end = run.bytes.map_or(flushed.lsn, |bytes| run.start.advance(bytes));
        let goal = end.min(at);
        if best.lsn >= goal && end <= at {
            continue;
        }
        if is_gone(record, run.file) {
            // Retired with everything in it; what is known lies before it.
            break;
        }
        let path = locate(run);
        let segment = Segment::open_as(run.segment, &path).map_err(|error| {
            let source = match error {
                SegmentError::Io { source, .. } | SegmentError::Permission { source, .. } => source,
                other => io::Error::other(other),
            };
            io_error("read", &path)(source)
        })?;
        let offset = run.offset + best.lsn.bytes_since(run.start);
        let mut cursor = Cursor::new(Arc::new(segment), offset, best, checksums);
        while cursor.mark().lsn < goal {
            let missing = goal.bytes_since(cursor.mark().lsn);
            let advance = cursor.advance(missing, &mut |mark| {
                if mark.lsn <= goal {
                    best = *mark;
                }
            });
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
    Ok(best)
}
