//! Received files that have no name on the primary any more.
//!
//! ```text
//!   <space>/wal/wal-X.log --Aside--> retired/<space>/<file> --Gone--> removed
//!                                                              |
//!                     records that no named file ever had  ----+--> quarantine/
//! ```
//!
//! They are copied before the catalog is told that the file is gone, and the
//! file is removed after it: killed in between, the replica has all of it.
//!
//! A replica's directory mirrors the primary's: after a compaction it holds
//! the snapshot, and the files that the snapshot replaced are moved aside. They
//! can still grow: a writer goes on with a file that its own compaction has
//! unlinked. Such records stand in no named file of the primary, and the
//! primary itself loses them when the writer ends. Here they stand in the
//! retired file, and when that goes they are put into the quarantine, for a
//! person to look at: nothing that was acknowledged is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::unnamed::Held;
use super::{Keeper, Lease, Space};
use crate::engine::quarantine::{Quarantine, Reason};
use crate::engine::recovery;
use crate::ids::SpaceId;
use crate::limits::{CATALOG_RETRY_DELAY, RETIREMENT_DOUBLINGS, RETIREMENTS_PER_TURN};
use crate::lsn::Mark;
use crate::protocol::message::Retirement;
use crate::state::catalog::{Change, Retired, SpaceRecord};
use crate::state::host::{Host, make_directories};
use crate::state::runs::Run;

/// Files of a space that are gone from the primary, and cannot go here.
#[derive(Debug, Default)]
pub(super) struct Unretired {
    /// Of each why, as it was said last.
    files: BTreeMap<u64, String>,
    /// So many attempts at all of them have failed, one after the other.
    failed: u32,
    /// So many times of [`CATALOG_RETRY_DELAY`] pass before the next one.
    pauses: u32,
}

impl Keeper {
    /// A session was told that a file has no name on the primary any more, or is
    /// gone there. `flushed` is what is durable here, all that stands instead of
    /// it included. One whose last run has not ended is tried again when the next one
    /// begins, and one that cannot go for another reason after a while as well.
    pub(super) fn told_to_retire(
        &mut self,
        space: &SpaceId,
        file: u64,
        what: Retirement,
        flushed: Mark,
    ) {
        let result = if self.unwritten.changes.is_empty() {
            self.in_place().and_then(|()| self.retire(space, file, what, flushed))
        } else {
            Err(io::Error::other("the catalog cannot be written now"))
        };
        // A primary tells it once on a connection, so it is remembered here.
        if !matches!(result, Ok(true))
            && what == Retirement::Gone
            && let Some(entry) = self.spaces.get_mut(space)
        {
            entry.going.insert(file, flushed);
        }
        match result {
            Ok(_) if what == Retirement::Gone => self.goes(space, file),
            Ok(_) => {}
            Err(error) if what == Retirement::Gone => self.cannot_go(space, file, &error),
            Err(error) => tracing::warn!(%space, file, %error, "a file cannot be retired yet"),
        }
        if self.retirements >= RETIREMENTS_PER_TURN {
            self.retirements = 0;
            self.look_after_others(space);
        }
    }

    fn cannot_go(&mut self, space: &SpaceId, file: u64, error: &io::Error) {
        // The same again is no news, nor is how much room is missing now.
        let why = match error.kind() {
            kind @ io::ErrorKind::StorageFull => kind.to_string(),
            _ => error.to_string(),
        };
        let unretired = self.unretired.entry(space.clone()).or_default();
        if unretired.files.insert(file, why.clone()).as_ref() != Some(&why) {
            tracing::warn!(
                %space, file, %error,
                "a file that is gone from the primary cannot go here yet; it is tried again after \
                 {CATALOG_RETRY_DELAY:?}, and then after longer and longer, up to {:?}",
                CATALOG_RETRY_DELAY * (1 << RETIREMENT_DOUBLINGS)
            );
        }
    }

    /// It has gone, or waits for the end of its last run alone.
    fn goes(&mut self, space: &SpaceId, file: u64) {
        let Some(unretired) = self.unretired.get_mut(space) else { return };
        if unretired.files.remove(&file).is_none() {
            return;
        }
        if unretired.files.is_empty() {
            self.unretired.remove(space);
        }
        let gone = |entry: &Space| entry.record.is_gone(file);
        if self.spaces.get(space).is_some_and(gone) {
            tracing::info!(%space, file, "what is gone from the primary goes here, too");
        }
    }

    /// Try again what could not go. A stop begins no copy anew.
    pub(super) fn retire_again(&mut self) {
        let can = self.unwritten.changes.is_empty() && !self.is_to_stop();
        if self.unretired.is_empty() || !can || self.in_place().is_err() {
            return;
        }
        for space in self.unretired.keys().cloned().collect::<Vec<_>>() {
            let (entry, unretired) = (self.spaces.get(&space), self.unretired.get_mut(&space));
            let (Some(entry), Some(unretired)) = (entry, unretired) else {
                self.unretired.remove(&space);
                continue;
            };
            // A session that has begun since is told anew what is gone.
            unretired.files.retain(|file, _| entry.going.contains_key(file));
            if unretired.files.is_empty() {
                self.unretired.remove(&space);
                continue;
            }
            if matches!(entry.lease, Lease::Broken(_)) {
                continue;
            }
            unretired.pauses = unretired.pauses.saturating_sub(1);
            if unretired.pauses > 0 {
                continue;
            }
            self.retire_ended(&space);
            if let Some(unretired) = self.unretired.get_mut(&space) {
                unretired.pauses = 1 << unretired.failed.min(RETIREMENT_DOUBLINGS);
                unretired.failed += 1;
            }
        }
        self.publish();
    }

    /// False if it has to be tried again when the next run begins.
    fn retire(
        &mut self,
        space: &SpaceId,
        file: u64,
        what: Retirement,
        flushed: Mark,
    ) -> io::Result<bool> {
        let state_dir = self.places.state_dir.clone();
        let host = self.places.host.clone();
        let Some(entry) = self.spaces.get(space) else { return Ok(true) };
        let Some(run) = entry.record.runs.first_in(file).map(|(_, run)| *run) else {
            // It lies before what was received.
            return Ok(true);
        };
        let known = entry.record.retired.get(&file).copied();
        if known == Some(Retired::Gone) || (known.is_some() && what == Retirement::Aside) {
            return Ok(true);
        }
        self.retirements += 1;
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
        let ended = entry.record.runs.latest_in(file).is_some_and(|(_, run)| run.bytes.is_some());
        // From here on it is looked for where it was moved to.
        self.enter(space, Change::Retire { file, what: Retired::Aside });
        if what == Retirement::Aside || !ended {
            // The word may have overtaken the beginning of the next run.
            return Ok(ended);
        }
        if self.is_to_stop() {
            // What is to be kept may be long.
            return Ok(false);
        }
        // It stays whole until the catalog knows that it is gone: a stop before
        // leaves all that its runs speak of.
        self.keep_unnamed(space, run, &retired)?;
        let checkpoint = self.spaces.get(space).map(|entry| entry.record.checkpoint.lsn);
        if checkpoint.is_some_and(|checkpoint| flushed.lsn > checkpoint) {
            // What recovery would verify again must not need it.
            self.enter(space, Change::Checkpoint(flushed));
        }
        self.enter(space, Change::Retire { file, what: Retired::Gone });
        self.removals.push((space.clone(), retired));
        Ok(true)
    }

    /// Copy to the quarantine what no named file ever had of a file that is
    /// about to go. While much is copied the jobs of other spaces are done.
    fn keep_unnamed(&mut self, space: &SpaceId, first: Run, retired: &Path) -> io::Result<()> {
        let (places, checksums) = (self.places.clone(), self.checksums);
        let Some(entry) = self.spaces.get(space) else { return Ok(()) };
        let held = Held::new(&places, space, &entry.record, checksums);
        let found = match held.unnamed_in(first.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A file that has been moved away with all that is here is not lost.
                self.in_place()?;
                if retired.try_exists()? {
                    return Err(error);
                }
                tracing::warn!(
                    %space, segment = %first.segment, path = %retired.display(),
                    "somebody has removed it: whether records stood in it that stand nowhere \
                     else is not known"
                );
                return Ok(());
            }
            found => found?,
        };
        let Some(found) = found else { return Ok(()) };
        let Some(offset) = found.find(checksums, &mut || self.look_after_others(space))? else {
            return Ok(());
        };
        let Some(entry) = self.spaces.get(space) else { return Ok(()) };
        let held = Held::new(&places, space, &entry.record, checksums);
        let end = fs::metadata(retired)?.len();
        let manifest = held.manifest(first, Reason::Unnamed, offset..end);
        let quarantine = Quarantine::new(places.host.clone(), &places.quarantine(), space)
            .that_leaves_room(self.free_bytes);
        let mut between = || self.look_after_others(space);
        let kept = quarantine.copy(retired, &manifest, &mut between)?;
        self.count_quarantine(space);
        tracing::warn!(
            %space, segment = %first.segment, offset, kept = %kept.display(),
            "records that its writer appended when its name was gone stand in no segment of the \
             primary: kept"
        );
        Ok(())
    }

    /// A run has begun, so the one before it has ended: a file that was gone
    /// already can go here; and so may one that could not go before.
    pub(super) fn retire_ended(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let mut going = std::mem::take(&mut entry.going);
        if let Some(paused) = self.unretired.get(space).filter(|unretired| unretired.pauses > 0) {
            entry.going = going.extract_if(.., |file, _| paused.files.contains_key(file)).collect();
        }
        for (file, flushed) in going {
            self.told_to_retire(space, file, Retirement::Gone, flushed);
        }
    }

    /// Remove what was left of retired files: they are gone by the catalog.
    pub(super) fn sweep_retired(&self, space: &SpaceId, record: &SpaceRecord) {
        let gone = record.retired.iter().filter(|(_, what)| **what == Retired::Gone);
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
        // Moved by an attempt that the catalog does not know of, and that may
        // have been stopped before the move was durable.
        Err(error) if error.kind() == io::ErrorKind::NotFound && retired.try_exists()? => {}
        // Nothing was ever written to it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    host.sync_directory(to)?;
    host.sync_directory(from)
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

#[cfg(test)]
#[path = "retired_tests.rs"]
pub(super) mod tests;
