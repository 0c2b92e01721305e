//! The old copy of a space that is filled anew, and what of it is kept for good.
//!
//! ```text
//!   superseded/<space>/<base>/wal-...     segments of the old copy
//!                             retired-..  those that had no name
//!                             keep.json   which of them go to the quarantine
//! ```
//!
//! What is kept is decided while the catalog still knows where in the stream
//! the files lay, and written down durably before it forgets: records that the
//! primary may have nowhere; or everything, if the primary does not vouch for
//! what was here. When the seed is complete that goes to the quarantine, and the
//! rest is removed.
//!
//! Of a seed that did not come to its end nothing else is kept when the next
//! one begins: the old copy, which it was to replace, is still here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::unnamed::{Held, Unnamed};
use super::{Keeper, Places};
use crate::engine::quarantine::{Manifest, Quarantine, Reason};
use crate::ids::{SegmentName, SpaceId};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Reseed;
use crate::state::catalog::SpaceRecord;
use crate::state::host::{make_directories, write_whole};
use crate::state::runs::Run;
use crate::wal::discover;

const PLAN_FILE: &str = "keep.json";

/// What becomes of the files of a copy.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Plan {
    /// The copy is of a seed that did not come to its end.
    unfinished: bool,
    keep: Vec<Kept>,
}

/// A file that goes to the quarantine.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// What it is called before it is moved.
    from: String,
    /// Its name beside the plan.
    to: String,
    /// What it is.
    manifest: Manifest,
}

impl Plan {
    /// The one in `directory`, if there is one.
    fn read(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(PLAN_FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Keeper {
    /// Decide what is kept of a space that begins anew, durably.
    pub(super) fn plan_move(
        &self,
        space: &SpaceId,
        record: &SpaceRecord,
        reseed: &Reseed,
    ) -> io::Result<()> {
        let files = self.files_of(space)?;
        if files.is_empty() {
            return Ok(());
        }
        let directory = self.superseded_by(space, &reseed.base);
        make_directories(&*self.places.host, &self.places.state_dir, &directory)?;
        // Another seed may have begun at the same base.
        let mut plan = Plan::read(&directory)?.unwrap_or_default();
        let mut moved = Vec::new();
        for kept in plan.keep {
            if directory.join(&kept.to).try_exists()? {
                moved.push(kept);
            }
        }
        plan = Plan { unfinished: record.seed.is_some(), keep: moved };
        let held = Held::new(&self.places, space, record, self.checksums);
        let runs: BTreeMap<PathBuf, Run> =
            held.files().map(|run| (held.path_of(run), *run)).collect();
        for (from, path) in files {
            let known = runs.get(&path);
            // What a seed had received counts for nothing before its end.
            let doubted = !reseed.vouched && !plan.unfinished;
            let unnamed = match known {
                Some(run) if !doubted => held.unnamed_in(run.file)?,
                _ => None,
            };
            let reason = match unnamed {
                _ if doubted => Reason::Superseded,
                // The primary held all of it until this seed was given up.
                Some(Unnamed::Untold(_)) if plan.unfinished => continue,
                None => continue,
                Some(_) => Reason::Unnamed,
            };
            let bytes = fs::metadata(&path)?.len();
            if bytes == 0 {
                continue;
            }
            let run = known.copied().unwrap_or_else(|| unknown(&from));
            let manifest = held.manifest(run, reason, 0..bytes);
            let to = free_name(&directory, &from)?;
            plan.keep.push(Kept { from, to, manifest });
        }
        let text = serde_json::to_vec_pretty(&plan)?;
        write_whole(&*self.places.host, &directory.join(PLAN_FILE), &text)
    }

    /// Move every segment of the space aside, those without a name too. What is
    /// not needed of an unfinished seed is removed.
    pub(super) fn supersede(&self, space: &SpaceId, record: &SpaceRecord) -> io::Result<()> {
        let host = &*self.places.host;
        let files = self.files_of(space)?;
        if files.is_empty() {
            return Ok(());
        }
        let to = self.superseded_by(space, &record.base);
        make_directories(host, &self.places.state_dir, &to)?;
        let plan = Plan::read(&to)?.unwrap_or_default();
        let mut kept = BTreeMap::new();
        for file in &plan.keep {
            if !to.join(&file.to).try_exists()? {
                kept.insert(file.from.as_str(), file.to.as_str());
            }
        }
        for (name, path) in &files {
            match kept.get(name.as_str()) {
                Some(kept) => host.rename(path, &to.join(kept))?,
                None if plan.unfinished => host.remove(path)?,
                None => host.rename(path, &to.join(free_name(&to, name)?))?,
            }
        }
        host.sync_directory(&to)?;
        for directory in [self.places.wal(space), self.retired(space)] {
            if directory.try_exists()? {
                host.sync_directory(&directory)?;
            }
        }
        Ok(())
    }

    /// Remove what a stop between the end of a seed and its removal has left.
    pub(super) fn sweep_superseded(&self, space: &SpaceId) {
        if self.spaces.get(space).is_some_and(|entry| entry.record.seed.is_none()) {
            self.remove_superseded(space);
        }
    }

    /// The old copy is needed no more: the catalog knows of a better one. What
    /// was to be kept of it goes to the quarantine.
    pub(super) fn remove_superseded(&self, space: &SpaceId) {
        let directory = self.places.old_copies(space);
        if !directory.exists() {
            return;
        }
        match self.clear(space, &directory) {
            Ok(bytes) => tracing::info!(
                %space, bytes,
                "this replica has been filled anew: its old copy is removed"
            ),
            Err(error) => tracing::warn!(
                %space, %error,
                "an old copy cannot be removed; it is needed no more, but for what {PLAN_FILE} in \
                 it names: {}. It is tried again at the next start",
                directory.display()
            ),
        }
    }

    /// Returns how many bytes were removed.
    fn clear(&self, space: &SpaceId, directory: &Path) -> io::Result<u64> {
        let host = &self.places.host;
        let quarantine = Quarantine::new(host.clone(), &self.places.quarantine(), space);
        let mut plans = Vec::new();
        for seed in listed(directory)? {
            plans.push((Plan::read(&seed)?.unwrap_or_default(), seed));
        }
        for (plan, seed) in &plans {
            for Kept { to, manifest, .. } in &plan.keep {
                let path = seed.join(to);
                if !path.try_exists()? {
                    continue;
                }
                let kept = quarantine.take(&path, manifest)?;
                tracing::warn!(
                    %space, segment = %manifest.segment, bytes = manifest.bytes,
                    reason = manifest.reason.as_str(), kept = %kept.display(),
                    "the primary may not have all that this segment of the old copy holds: kept"
                );
                self.count_quarantine(space);
            }
        }
        let mut bytes = 0;
        for (_, seed) in plans {
            // The plan last: until then it says what was to be kept.
            let mut files = listed(&seed)?;
            files.sort_by_key(|file| file.ends_with(PLAN_FILE));
            for file in files {
                bytes += file.metadata()?.len();
                host.remove(&file)?;
            }
            host.remove_directory(&seed)?;
        }
        host.remove_directory(directory)?;
        Ok(bytes)
    }

    /// The segments of a space by the name that they get when they are moved
    /// aside, and where they are.
    fn files_of(&self, space: &SpaceId) -> io::Result<Vec<(String, PathBuf)>> {
        let wal = self.places.wal(space);
        let names = match discover::segments(&wal) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let named = names.iter().map(|name| (name.to_string(), wal.join(name.to_string())));
        let mut files: Vec<_> = named.collect();
        for path in listed(&self.retired(space))? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            files.push((format!("retired-{}", name.unwrap_or_default()), path));
        }
        Ok(files)
    }

    fn retired(&self, space: &SpaceId) -> PathBuf {
        self.places.state_dir.join("retired").join(space.as_str())
    }

    /// Where the copy is moved that a seed from `base` on replaces.
    pub(super) fn superseded_by(&self, space: &SpaceId, base: &Mark) -> PathBuf {
        self.places.old_copies(space).join(format!("{:016x}", base.lsn.0))
    }
}

impl Places {
    /// Where old copies of a space are that is being filled anew.
    #[must_use]
    pub fn old_copies(&self, space: &SpaceId) -> PathBuf {
        self.state_dir.join("superseded").join(space.as_str())
    }
}

/// A file that no run lies in.
fn unknown(name: &str) -> Run {
    let segment = name.parse().unwrap_or(SegmentName(0));
    // Its number is nobody's, so that no run is taken for one of it.
    Run { start: Lsn::ZERO, segment, file: u64::MAX, offset: 0, bytes: None }
}

/// A name in `directory` that nothing bears yet: an earlier copy may have been
/// moved there.
fn free_name(directory: &Path, name: &str) -> io::Result<String> {
    let mut free = name.to_owned();
    let mut number = 0;
    while directory.join(&free).try_exists()? {
        number += 1;
        free = format!("{name}.{number}");
    }
    Ok(free)
}

/// The entries of a directory; none if there is no such directory.
fn listed(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "superseded_tests.rs"]
mod tests;
