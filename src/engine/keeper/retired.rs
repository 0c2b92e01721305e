//! Received files that have no name on the primary any more.
//!
//! ```text
//!   <space>/wal/wal-X.log --Aside--> retired/<space>/<file> --Gone--> removed
//!                                                              |
//!                     records that no named file ever had  ----+--> quarantine/
//! ```
//!
//! A replica's directory mirrors the primary's: after a compaction it holds
//! the snapshot, and the files that the snapshot replaced are moved aside. They
//! can still grow: a writer goes on with a file that its own compaction has
//! unlinked. Such records stand in no named file of the primary, and the
//! primary itself loses them when the writer ends. Here they stand in the
//! retired file, and when that goes they are put into the quarantine, for a
//! person to look at: nothing that was acknowledged is dropped.

use std::io;
use std::path::Path;

use super::{Keeper, remember};
use crate::engine::quarantine::{Extent, Manifest, Quarantine, Reason};
use crate::engine::recovery;
use crate::ids::SpaceId;
use crate::lsn::Mark;
use crate::protocol::message::Retirement;
use crate::state::catalog::{Change, Retired, SpaceRecord};
use crate::state::host::{Host, make_directories};
use crate::state::runs::Run;

impl Keeper {
    /// A file has no name on the primary any more, or is gone there.
    /// `flushed` is what is durable here, all that stands instead of it
    /// included.
    pub(super) fn retire(
        &mut self,
        space: &SpaceId,
        file: u64,
        what: Retirement,
        flushed: Mark,
    ) -> io::Result<()> {
        if !self.unwritten.changes.is_empty() {
            // It is told again with the next session.
            return Ok(());
        }
        let state_dir = self.places.state_dir.clone();
        let quarantine = self.places.quarantine();
        let host = self.places.host.clone();
        let Some(entry) = self.spaces.get_mut(space) else { return Ok(()) };
        let Some(run) = entry.record.runs.first_in(file).map(|(_, run)| *run) else {
            // It lies before what was received.
            return Ok(());
        };
        let known = entry.record.retired.get(&file).copied();
        if known == Some(Retired::Gone) || (known.is_some() && what == Retirement::Aside) {
            return Ok(());
        }
        let retired = recovery::retired_path(&state_dir, space, file);
        let named =
            recovery::path_of(&self.places.data_root, &state_dir, space, &entry.record, &run);
        if named != retired {
            move_aside(&*host, &state_dir, &named, &retired)?;
            tracing::info!(
                %space, segment = %run.segment, to = %retired.display(),
                "it has no name on the primary any more: moved out of the directory"
            );
        }
        let last = entry.record.runs.latest_in(file).map(|(_, run)| *run);
        let ended = last.is_some_and(|last| last.bytes.is_some());
        if what == Retirement::Gone && ended {
            if let Some(offset) = unnamed_from(&entry.record, file)
                && retired.try_exists()?
            {
                let manifest = unnamed(space, &entry.record, run, offset);
                let kept = Quarantine::new(host, &quarantine, space).cut(
                    &retired,
                    &manifest,
                    &mut || {},
                )?;
                tracing::warn!(
                    %space, segment = %run.segment, offset, kept = %kept.display(),
                    "records that its writer appended after its name was gone stand in no segment \
                     of the primary: kept"
                );
            }
            // What recovery would verify again must not need it.
            if flushed.lsn > entry.record.checkpoint.lsn {
                let change = Change::Checkpoint(flushed);
                remember(&mut entry.record, &change);
                self.changes.push((space.clone(), change));
            }
        }
        let what = match what {
            Retirement::Gone if ended => Retired::Gone,
            Retirement::Gone => {
                // The word has overtaken the beginning of the next run.
                entry.going.insert(file, flushed);
                Retired::Aside
            }
            Retirement::Aside => Retired::Aside,
        };
        let change = Change::Retire { file, what };
        remember(&mut entry.record, &change);
        self.changes.push((space.clone(), change));
        if what == Retired::Gone {
            self.removals.push(retired);
        }
        Ok(())
    }

    /// A run has begun, so the one before it has ended: a file that was gone
    /// already can go here.
    pub(super) fn retire_ended(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        for (file, flushed) in std::mem::take(&mut entry.going) {
            if let Err(error) = self.retire(space, file, Retirement::Gone, flushed) {
                tracing::warn!(%space, file, %error, "a file cannot be retired");
            }
        }
    }

    /// Remove what was left of retired files: they are gone by the catalog.
    pub(super) fn sweep_retired(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get(space) else { return };
        let gone = entry.record.retired.iter().filter(|(_, what)| **what == Retired::Gone);
        for (file, _) in gone {
            let path = recovery::retired_path(&self.places.state_dir, space, *file);
            remove(&*self.places.host, &path);
        }
    }
}

/// Take a file out of the directory of its space. Both directories are durable
/// when this returns.
pub(super) fn move_aside(
    host: &dyn Host,
    state_dir: &Path,
    named: &Path,
    retired: &Path,
) -> io::Result<()> {
    let (Some(from), Some(to)) = (named.parent(), retired.parent()) else { return Ok(()) };
    make_directories(host, state_dir, to)?;
    match host.rename(named, retired) {
        Ok(()) => {}
        // It was moved by an attempt that the catalog does not know of.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    host.sync_directory(to)?;
    host.sync_directory(from)
}

/// What the records of a retired file from `offset` on are.
fn unnamed(space: &SpaceId, record: &SpaceRecord, first: Run, offset: u64) -> Manifest {
    let file = first.file;
    let mut extents = Vec::new();
    for (_, run) in record.runs.iter().filter(|(_, run)| run.file == file && run.offset >= offset) {
        let bytes = run.bytes.unwrap_or(0);
        extents.push(Extent { lsn: run.start.0, offset: run.offset, bytes });
    }
    extents.retain(|extent| extent.bytes > 0);
    Manifest {
        space: space.clone(),
        segment: first.segment,
        file,
        offset,
        bytes: extents.iter().map(|extent| extent.bytes).sum(),
        reason: Reason::Unnamed,
        extents,
        epochs: record.history.iter().map(|(epoch, _)| *epoch).collect(),
        superseded_by: None,
    }
}

/// Where in a file the records begin that were appended after another file had
/// begun. A snapshot that replaced the file may not have them.
fn unnamed_from(record: &SpaceRecord, file: u64) -> Option<u64> {
    let (first, _) = record.runs.first_in(file)?;
    let of_others = |run: &Run| run.file != file;
    let (other, _) = record.runs.iter().find(|(o, run)| *o > first && of_others(run))?;
    record
        .runs
        .iter()
        .filter(|(ordinal, run)| *ordinal > other && run.file == file && run.bytes != Some(0))
        .map(|(_, run)| run.offset)
        .min()
}

/// Remove a file that is gone by the catalog. One that comes back after a crash
/// is removed again.
pub(super) fn remove(host: &dyn Host, path: &Path) {
    match host.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a retired file cannot be removed");
        }
        _ => {}
    }
}
