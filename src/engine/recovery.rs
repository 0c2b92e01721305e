//! Bringing a received space back after a stop of any kind.
//!
//! The catalog says up to where the log was durable and verified (the
//! checkpoint) and which runs exist. What lies behind the checkpoint was
//! written, perhaps acknowledged, perhaps cut off in mid-record:
//!
//! ```text
//!   run        | 0 ............ | 1 .................. | 2 ...... | 3, open
//!   bytes      verified before    verified    |#### torn, zero or damaged
//!                         ^ checkpoint        ^ cut
//!   outcome    kept               kept         saved and cut        moved away
//! ```
//!
//! Each file behind the checkpoint is synced, dropped from the page cache and
//! read again, past the cache if some of it stays there, so that what is
//! verified is what the disk holds, also after a sync that failed in an earlier
//! life. The first record that is not whole
//! ends the stream. The primary ships everything from there on again, which
//! is why cutting is safe; yet what is cut is copied to the quarantine first,
//! later files are moved there, and each step is a [`Notice`].
//!
//! Below the checkpoint nothing is ever cut: a file that is missing, short or
//! different there is a [`RecoveryError`], because corruption is not absence.
//!
//! A stop in the midst of recovery is harmless: bytes are saved before they
//! are cut, and doing it again comes to the same end.

#![forbid(unsafe_code)]

mod boundary;
mod error;
mod notice;
mod place;
mod reading;
mod subject;
mod survey;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use boundary::{Found, boundary_along, nearest, search};
pub use error::RecoveryError;
pub use notice::Notice;
pub(super) use place::{bearer, paths};
pub use place::{path_of, retired_path};
pub use reading::{ends_with, is_within_record, record_before, stands_before};
pub use subject::Subject;
pub use survey::{Rotten, Survey, survey};

use self::place::{Place, locate_files, wal_directory};
use self::reading::{Watched, describe, find_backwards, read_error, verify_run};
use super::quarantine::{Extent, Manifest, Quarantine, Reason};
use super::verifier::Verifier;
use crate::ids::{Epoch, SegmentName, SpaceId};
use crate::limits::{MAX_NAMED_FILES, VERIFY_PIECE_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::planted::{self, Bug};
use crate::state::catalog::{Change, SpaceRecord};
use crate::state::host::{Host, make_directories};
use crate::state::runs::Run;
use crate::wal::record::Checksums;

/// What recovery came to.
#[derive(Debug)]
pub struct Recovered {
    /// The end of the stream: every record before it is durable, and verified.
    pub mark: Mark,
    /// What the catalog must be told, before the space is received again.
    pub changes: Vec<Change>,
    /// What an operator must be told.
    pub notices: Vec<Notice>,
}

/// To where a space is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Behind the last whole record.
    Whole,
    /// The same, although something does not hold below the checkpoint.
    Damaged,
    /// Its checkpoint, because an epoch says so.
    Checkpoint(Epoch),
    /// The same, although something does not hold below it.
    DamagedCheckpoint(Epoch),
    /// Its checkpoint, because its primary's stream is the same up to there.
    Matched,
}

/// Bring the files of a space to their end. `between` is called now and then
/// while much is copied.
fn settle(
    subject: Subject<'_>,
    to: To,
    between: &mut dyn FnMut(),
) -> Result<Recovered, RecoveryError> {
    let Subject { host, data_root, space, record, quarantine, .. } = subject;
    let state_dir = quarantine.parent().unwrap_or(data_root);
    let directory = wal_directory(data_root, space);
    make_directories(&**host, data_root, &directory).map_err(io_error("create", &directory))?;
    // Made by a process that was stopped before it had synced the names.
    for parent in directory.ancestors().skip(1).take_while(|parent| parent.starts_with(data_root)) {
        host.sync_directory(parent).map_err(io_error("sync", parent))?;
    }
    let mut recovery = Recovery::of(subject, to);
    recovery.restore_names(state_dir)?;
    if matches!(to, To::Whole | To::Checkpoint(_)) {
        recovery.check_lengths()?;
        recovery.check_record_before_checkpoint()?;
    }
    let end = match to {
        To::Checkpoint(_) | To::DamagedCheckpoint(_) => recovery.at_checkpoint(),
        To::Matched => End { mark: record.checkpoint, runs: record.runs.len(), cut: true },
        To::Whole | To::Damaged => recovery.walk()?,
    };
    recovery.enforce(&end, between)?;
    recovery.notice_unknown()?;
    host.sync_directory(&recovery.directory).map_err(io_error("sync", &recovery.directory))?;

    let mut changes = Vec::new();
    if end.cut {
        changes.push(Change::Truncate { end: end.mark.lsn, runs: end.runs });
    }
    if end.mark != record.checkpoint {
        changes.push(Change::Checkpoint(end.mark));
    }
    Ok(Recovered { mark: end.mark, changes, notices: recovery.notices })
}

/// Where verification ended.
struct End {
    mark: Mark,
    /// How many runs remain.
    runs: u32,
    /// True if bytes or runs behind `mark` must go.
    cut: bool,
}

struct Recovery<'a> {
    host: &'a Arc<dyn Host>,
    space: &'a SpaceId,
    record: &'a SpaceRecord,
    checksums: Checksums,
    quarantine: Quarantine,
    files: BTreeMap<u64, Place>,
    to: To,
    notices: Vec<Notice>,
    directory: PathBuf,
}

impl<'a> Recovery<'a> {
    fn of(subject: Subject<'a>, to: To) -> Self {
        let Subject { host, data_root, space, record, quarantine, checksums } = subject;
        let state_dir = quarantine.parent().unwrap_or(data_root);
        Self {
            host,
            space,
            record,
            checksums,
            quarantine: Quarantine::new(host.clone(), quarantine, space),
            files: locate_files(data_root, state_dir, space, record),
            to,
            notices: Vec::new(),
            directory: wal_directory(data_root, space),
        }
    }

    /// A segment is retired before the run of its successor is durable. If
    /// that run never became durable, or was cut off, the segment gets its name
    /// back.
    fn restore_names(&mut self, state_dir: &Path) -> Result<(), RecoveryError> {
        for (number, place) in self.files.iter().filter(|(_, place)| place.named) {
            let retired = retired_path(state_dir, self.space, *number);
            if !retired.try_exists().map_err(io_error("look for", &retired))? {
                continue;
            }
            if place.path.try_exists().map_err(io_error("look for", &place.path))? {
                let found = fs::metadata(&place.path).map_err(io_error("read", &place.path))?;
                let manifest = Manifest {
                    extents: Vec::new(),
                    reason: Reason::Displaced,
                    ..self.manifest(*number, place.segment, 0, found.len())
                };
                let to = self
                    .quarantine
                    .take(&place.path, &manifest)
                    .map_err(io_error("move to the quarantine", &place.path))?;
                self.notices.push(Notice::Moved { path: place.path.clone(), to });
            }
            self.host.rename(&retired, &place.path).map_err(io_error("rename", &retired))?;
            self.host.sync_directory(&self.directory).map_err(io_error("sync", &self.directory))?;
            self.notices.push(Notice::Renamed { path: retired, to: place.path.clone() });
        }
        Ok(())
    }

    /// Every file still has the bytes that lie below the checkpoint.
    fn check_lengths(&self) -> Result<(), RecoveryError> {
        let checkpoint = self.record.checkpoint.lsn;
        let below = |run: &Run| run.start < checkpoint && !self.record.is_gone(run.file);
        for (_, run) in self.record.runs.iter().filter(|(_, run)| below(run)) {
            let expected = run.reach(checkpoint);
            let path = &self.place(run)?.path;
            match fs::metadata(path) {
                Ok(metadata) if metadata.len() < expected => {
                    let (path, found) = (path.clone(), metadata.len());
                    return Err(RecoveryError::Short { path, expected, found });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if expected > 0 {
                        return Err(RecoveryError::Missing { path: path.clone(), expected });
                    }
                }
                Err(error) => return Err(io_error("read", path)(error)),
            }
        }
        Ok(())
    }

    fn place(&self, run: &Run) -> Result<&Place, RecoveryError> {
        self.files.get(&run.file).ok_or_else(|| self.catalog_error())
    }

    fn catalog_error(&self) -> RecoveryError {
        RecoveryError::Catalog {
            space: self.space.clone(),
            checkpoint: self.record.checkpoint.lsn,
            end: self.record.runs.end(),
        }
    }

    /// The record that ends at the checkpoint is found backwards by its own
    /// size, its sequence and its time, and verified. That the file still
    /// holds it shows that it is the file that was checkpointed. Nothing is to
    /// be found at the start of the stream.
    fn check_record_before_checkpoint(&self) -> Result<(), RecoveryError> {
        let checkpoint = &self.record.checkpoint;
        if checkpoint.lsn == self.record.base.lsn {
            // Nothing before it is here.
            return Ok(());
        }
        let Some(byte_before) = checkpoint.lsn.0.checked_sub(1) else { return Ok(()) };
        let (run, last_byte) = self
            .record
            .runs
            .locate(Lsn(byte_before))
            .and_then(|(ordinal, offset)| Some((self.record.runs.get(ordinal)?, offset)))
            .ok_or_else(|| self.catalog_error())?;
        if self.record.is_gone(run.file) {
            // What it held was durable and verified, and is needed no more.
            return Ok(());
        }
        let path = &self.place(run)?.path;
        let end = last_byte + 1;
        let file = File::open(path).map_err(io_error("read", path))?;
        let file = Watched { host: &**self.host, path, file };
        let found = find_backwards(&file, run.offset, end, checkpoint, self.checksums);
        let found = found.map_err(|error| match read_error(path, error) {
            RecoveryError::Unreadable { path, offset, source } => {
                RecoveryError::Lost { path, offset, source }
            }
            other => other,
        })?;
        if found {
            return Ok(());
        }
        Err(RecoveryError::Damaged {
            path: path.clone(),
            offset: end,
            sequence: checkpoint.sequence,
        })
    }

    /// Verify from the checkpoint on, run by run, up to the first record that
    /// is not whole.
    fn walk(&mut self) -> Result<End, RecoveryError> {
        let runs = &self.record.runs;
        let checkpoint = self.record.checkpoint;
        let mut verifier = Verifier::new(checkpoint, self.checksums);
        let Some((first, first_offset)) = runs.locate(checkpoint.lsn) else {
            if runs.is_empty() && checkpoint == self.record.base {
                return Ok(End { mark: checkpoint, runs: runs.first(), cut: false });
            }
            return Err(self.catalog_error());
        };
        let mut buffer = vec![0; VERIFY_PIECE_BYTES];
        for (ordinal, run) in runs.iter().filter(|(ordinal, _)| *ordinal >= first) {
            let begin = if ordinal == first { first_offset } else { run.offset };
            let rest = run.bytes.map(|bytes| run.offset + bytes - begin);
            if self.record.is_gone(run.file) {
                if rest.is_none_or(|rest| rest == 0) {
                    continue;
                }
                // Nothing behind the checkpoint goes before the checkpoint is behind it: an
                // epoch was about to cut the stream before it.
                let runs = ordinal + u32::from(verifier.mark().lsn > run.start);
                return Ok(End { mark: verifier.mark(), runs, cut: true });
            }
            let path = self.place(run)?.path.clone();
            let trouble = verify_run(&**self.host, &path, run, begin, &mut verifier, &mut buffer)?;
            if let Some(notice) = trouble {
                self.notices.push(notice);
                return Ok(End { mark: verifier.mark(), runs: ordinal + 1, cut: true });
            }
        }
        Ok(End { mark: verifier.mark(), runs: runs.len(), cut: false })
    }

    /// The end is where the checkpoint is, whatever lies behind.
    fn at_checkpoint(&self) -> End {
        let mark = self.record.checkpoint;
        // A run that begins there is told again: the primary's may be another.
        let before = self.record.runs.iter().filter(|(_, run)| run.start < mark.lsn).count();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        End { mark, runs: self.record.runs.first().saturating_add(before), cut: true }
    }

    /// What the bytes of a file from `offset` on are.
    fn manifest(&self, file: u64, segment: SegmentName, offset: u64, found: u64) -> Manifest {
        let mut extents = Vec::new();
        let mut epochs = Vec::new();
        // Where what does not match lay in a stream, nobody knows.
        let named = self.to != To::Matched;
        for (_, run) in self.record.runs.iter().filter(|(_, run)| named && run.file == file) {
            let end = run.bytes.map_or(found, |bytes| (run.offset + bytes).min(found));
            let from = run.offset.max(offset);
            if from >= end {
                continue;
            }
            let lsn = run.start.advance(from - run.offset);
            extents.push(Extent { lsn: lsn.0, offset: from, bytes: end - from });
            let behind = lsn.advance(end - from);
            for (index, (epoch, start)) in self.record.history.iter().enumerate() {
                let ends = self.record.history.get(index + 1).map(|(_, next)| *next);
                let within = *start < behind && ends.is_none_or(|ends| ends > lsn);
                if within && !epochs.contains(epoch) {
                    epochs.push(*epoch);
                }
            }
        }
        Manifest {
            space: self.space.clone(),
            segment,
            file,
            offset,
            bytes: found.saturating_sub(offset),
            reason: match self.to {
                To::Checkpoint(_) | To::DamagedCheckpoint(_) => Reason::Diverged,
                To::Matched => Reason::Unmatched,
                To::Whole | To::Damaged => Reason::Unverified,
            },
            extents,
            epochs,
            superseded_by: match self.to {
                To::Checkpoint(by) | To::DamagedCheckpoint(by) => Some(by),
                To::Matched | To::Whole | To::Damaged => None,
            },
        }
    }

    /// Let every file end where its last run that remains ends. The bytes
    /// behind are saved first; files without such a run are moved.
    fn enforce(&mut self, end: &End, between: &mut dyn FnMut()) -> Result<(), RecoveryError> {
        let mut ends = BTreeMap::new();
        for (_, run) in self.record.runs.iter().filter(|(ordinal, _)| *ordinal < end.runs) {
            // What lies before the first of them is of no stream: a hole, perhaps
            // of gigabytes.
            let last = ends.entry(run.file).or_insert(run.offset);
            *last = run.reach(end.mark.lsn).max(*last);
        }
        for (number, place) in &self.files {
            let path = &place.path;
            let found = match fs::metadata(path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("read", path)(error)),
            };
            match ends.get(number) {
                None => {
                    let manifest = self.manifest(*number, place.segment, 0, found);
                    let to = self
                        .quarantine
                        .take(path, &manifest)
                        .map_err(io_error("move to the quarantine", path))?;
                    self.notices.push(Notice::Moved { path: path.clone(), to });
                }
                Some(&offset) if found > offset => {
                    let offset = offset + u64::from(planted::is(Bug::OneByteTooMany));
                    let manifest = self.manifest(*number, place.segment, offset, found);
                    let torn = |notice: &Notice| matches!(notice, Notice::TornTail { path: of, .. } if of == path);
                    let torn = self.notices.iter().any(torn);
                    let bytes = found - offset;
                    let notice = match self.quarantine.cut(path, &manifest, between) {
                        Ok(saved) => Notice::Cut { path: path.clone(), offset, bytes, saved },
                        // A database could not start on it, and it may be
                        // what fills the disk.
                        Err(error) if torn && error.kind() == io::ErrorKind::StorageFull => {
                            self.quarantine
                                .drop_end(path, offset)
                                .map_err(io_error("cut", path))?;
                            Notice::Dropped { path: path.clone(), offset, bytes }
                        }
                        Err(error) => {
                            return Err(io_error("save and cut the end of", path)(error));
                        }
                    };
                    self.notices.push(notice);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Name what lies around in the directory.
    fn notice_unknown(&mut self) -> Result<(), RecoveryError> {
        let failed = io_error("list", &self.directory);
        let mut names = Vec::new();
        let mut count = 0;
        for entry in fs::read_dir(&self.directory).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let known = |place: &Place| place.named && place.path.file_name() == Some(&name);
            if !self.files.values().any(known) {
                count += 1;
                names.push(name);
                if names.len() > 2 * MAX_NAMED_FILES {
                    names.sort();
                    names.truncate(MAX_NAMED_FILES);
                }
            }
        }
        if count > 0 {
            names.sort();
            names.truncate(MAX_NAMED_FILES);
            let directory = self.directory.clone();
            self.notices.push(Notice::Unknown { directory, names, count });
        }
        Ok(())
    }
}

/// For `map_err`: what was attempted, and on what.
fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> RecoveryError + use<> {
    let path = path.to_path_buf();
    move |source| RecoveryError::Io { action, path: path.clone(), source }
}
