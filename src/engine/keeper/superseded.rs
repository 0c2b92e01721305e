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
//! A file that cannot be read is kept, and where the plan cannot be read all
//! files are: neither holds up a seed.
//!
//! Of a seed that did not come to its end little else is kept when the next one
//! begins: the old copy, which it was to replace, is still here. If the primary
//! does not vouch for it, its end is: a host that crashed has lost what it had
//! shipped last.
//!
//! A primary that is set back to before where the seed began may have lost what
//! it had vouched for. Then all that still stands aside goes to the quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind::NotFound};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::unnamed::{Held, Unnamed};
use super::{Keeper, Places};
use crate::engine::quarantine::{Manifest, Quarantine, Reason};
use crate::ids::{SegmentName, SpaceId};
use crate::limits::{CATALOG_RETRY_DELAY, SEED_WALK_BYTES, UNVOUCHED_END_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Reseed;
use crate::state::catalog::SpaceRecord;
use crate::state::host::{Host, make_directories, write_whole};
use crate::state::runs::Run;
use crate::wal::discover;

const PLAN_FILE: &str = "keep.json";

/// What becomes of the files of a copy.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Plan {
    /// The copy is of a seed that did not come to its end.
    unfinished: bool,
    /// Where in the stream it lay.
    #[serde(default)]
    range: (u64, u64),
    /// Where the seed is to come to before the files are needed no more.
    #[serde(default)]
    head: u64,
    keep: Vec<Kept>,
    /// What is to be removed, and kept after all if the primary loses it.
    #[serde(default)]
    spare: Vec<Kept>,
}

/// A file that goes to the quarantine, or may have to.
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
    /// The one in `directory`; an empty one if there is none. Where it cannot be
    /// read, all that is there is kept.
    fn read(directory: &Path, space: &SpaceId) -> io::Result<Self> {
        let text = match fs::read(directory.join(PLAN_FILE)) {
            Err(error) if error.kind() == NotFound => return Ok(Self::default()),
            other => other,
        };
        let plan = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
        let error = match plan {
            Ok(plan) => return Ok(plan),
            Err(error) => error,
        };
        tracing::warn!(
            %space, %error, directory = %directory.display(),
            "{PLAN_FILE} cannot be read: all that lies beside it is kept"
        );
        let mut plan = Self::default();
        plan.keep_all(directory, space)?;
        Ok(plan)
    }

    /// Have all that lies in its `directory` kept.
    fn keep_all(&mut self, directory: &Path, space: &SpaceId) -> io::Result<()> {
        self.keep.append(&mut self.spare);
        let named: BTreeSet<_> = self.keep.iter().map(|kept| directory.join(&kept.to)).collect();
        let of_plan = |path: &&PathBuf| is_plan(path) || named.contains(*path);
        for path in listed(directory)?.iter().filter(|path| !of_plan(path)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let run = unknown(&name);
            let manifest = Manifest {
                space: space.clone(),
                segment: run.segment,
                file: run.file,
                offset: 0,
                bytes: fs::symlink_metadata(path).map_or(0, |found| found.len()),
                reason: Reason::Superseded,
                extents: Vec::new(),
                epochs: Vec::new(),
                superseded_by: None,
            };
            self.keep.push(Kept { from: String::new(), to: name.into_owned(), manifest });
        }
        Ok(())
    }

    fn write(&self, host: &dyn Host, directory: &Path) -> io::Result<()> {
        write_whole(host, &directory.join(PLAN_FILE), &serde_json::to_vec_pretty(self)?)
    }
}

impl Keeper {
    /// Decide what is kept of a space that begins anew, durably. Between its files
    /// the jobs of other spaces are done: there may be as many as there ever were.
    pub(super) fn plan_move(
        &mut self,
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
        let mut plan = Plan::read(&directory, space)?;
        for files in [&mut plan.keep, &mut plan.spare] {
            let mut moved = Vec::new();
            for file in std::mem::take(files) {
                if is_there(&directory.join(&file.to))? {
                    moved.push(file);
                }
            }
            *files = moved;
        }
        plan.range = (record.base.lsn.0, record.checkpoint.lsn.0);
        plan.head = plan.head.max(reseed.head.0);
        // What was rebuilt beside an older copy may be the better one.
        plan.unfinished = record.seed.is_some() && record.base.lsn > Lsn::ZERO;
        let (places, checksums) = (self.places.clone(), self.checksums);
        let held = Held::new(&places, space, record, checksums);
        let runs = held.files();
        let end = held.end_of(UNVOUCHED_END_BYTES);
        let mut budget = SEED_WALK_BYTES;
        for (from, path) in files {
            if self.is_to_stop() {
                // Nothing has been moved: the primary asks for it again.
                return Err(io::Error::other("this node is stopping"));
            }
            let known = runs.get(&path);
            // What a seed had received counts for little before its end.
            let doubted = !reseed.vouched
                && (!plan.unfinished || known.is_none_or(|run| end.contains(&run.file)));
            let unnamed = match known {
                Some(run) if !doubted => {
                    let mut between = || self.look_after_others(space);
                    between();
                    let judge = |found: Unnamed| match found {
                        Unnamed::Since { .. } => {
                            let there = found.are_there(checksums, &mut budget, &mut between)?;
                            Ok(there.then_some(Unnamed::From(0)))
                        }
                        found => Ok(Some(found)),
                    };
                    let found = match held.unnamed_in(run.file) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                        found => found,
                    };
                    found.and_then(|found| found.map_or(Ok(None), judge)).unwrap_or_else(|error| {
                        tracing::warn!(
                            %space, %error, path = %path.display(),
                            "what only this replica has of it cannot be told: all of it is kept"
                        );
                        Some(Unnamed::From(0))
                    })
                }
                _ => None,
            };
            let reason = match unnamed {
                _ if doubted => Some(Reason::Superseded),
                // The primary held all of it until this seed was given up.
                Some(Unnamed::Untold(_)) if plan.unfinished => continue,
                None if plan.unfinished => continue,
                None => None,
                Some(_) => Some(Reason::Unnamed),
            };
            let bytes = match fs::symlink_metadata(&path) {
                Ok(found) if found.len() == 0 => continue,
                // It is kept as what it is.
                found => found.map_or(0, |found| found.len()),
            };
            let run = known.copied().unwrap_or_else(|| unknown(&from));
            let manifest = held.manifest(run, reason.unwrap_or(Reason::Superseded), 0..bytes);
            let to = free_name(&directory, &from)?;
            let of_it = if reason.is_some() { &mut plan.keep } else { &mut plan.spare };
            of_it.push(Kept { from, to, manifest });
        }
        plan.write(&*self.places.host, &directory)
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
        let plan = Plan::read(&to, space)?;
        let (mut kept, mut removed) = (BTreeMap::new(), 0);
        for file in plan.keep.iter().chain(&plan.spare) {
            if !is_there(&to.join(&file.to))? {
                kept.insert(file.from.as_str(), file.to.as_str());
            }
        }
        for (name, path) in &files {
            match kept.get(name.as_str()) {
                Some(kept) => host.rename(path, &to.join(kept))?,
                None if plan.unfinished => {
                    removed += fs::metadata(path).map_or(0, |found| found.len());
                    host.remove(path)?;
                }
                None => host.rename(path, &to.join(free_name(&to, name)?))?,
            }
        }
        if removed > 0 {
            let (from, until) = plan.range;
            tracing::warn!(
                %space, bytes = removed, from, until, kept = kept.len(),
                "what an earlier seed had received is removed: it did not come to its end, and the \
                 next one begins"
            );
        }
        host.sync_directory(&to)?;
        for directory in [self.places.wal(space), self.retired(space)] {
            if directory.try_exists()? {
                host.sync_directory(&directory)?;
            }
        }
        Ok(())
    }

    /// Decide that all that still stands aside of older copies of a space goes to
    /// the quarantine, durably: the primary may have nothing of it any more.
    pub(super) fn keep_old_copies(&self, space: &SpaceId) -> io::Result<()> {
        for seed in listed(&self.places.old_copies(space))? {
            let mut plan = Plan::read(&seed, space)?;
            plan.keep_all(&seed, space)?;
            plan.write(&*self.places.host, &seed)?;
        }
        Ok(())
    }

    /// Remove what a stop between the end of a seed and its removal has left.
    pub(super) fn sweep_superseded(&mut self, space: &SpaceId) {
        if self.spaces.get(space).is_some_and(|entry| entry.record.seed.is_none()) {
            self.remove_superseded(space);
        }
    }

    /// The old copy is needed no more: the catalog knows of a better one. What
    /// was to be kept of it goes to the quarantine.
    pub(super) fn remove_superseded(&mut self, space: &SpaceId) {
        let directory = self.places.old_copies(space);
        let mut bytes = 0;
        // What is away with the root is not gone.
        let there = self.in_place().and_then(|()| directory.try_exists());
        let result = there.and_then(|there| match there {
            true => self.clear(space, &directory, &mut bytes),
            false => Ok(()),
        });
        if bytes > 0 {
            tracing::info!(
                %space, bytes,
                "this replica has been filled anew: its old copy is removed"
            );
        }
        let Err(error) = result else {
            self.uncleared.remove(space);
            return;
        };
        // The same again is no news.
        let why = error.to_string();
        if self.uncleared.insert(space.clone(), why.clone()).as_ref() != Some(&why) {
            tracing::warn!(
                %space, %error,
                "not all of an old copy can be put away; it is needed no more, but for what \
                 {PLAN_FILE} in it names: {}. It is tried again every {CATALOG_RETRY_DELAY:?}",
                directory.display()
            );
        }
    }

    /// Try again what could not be put away.
    pub(super) fn clear_again(&mut self) {
        if !self.unwritten.changes.is_empty() {
            return;
        }
        for space in self.uncleared.keys().cloned().collect::<Vec<_>>() {
            // It may be filled anew once more meanwhile.
            if self.spaces.get(&space).is_some_and(|entry| entry.record.seed.is_none()) {
                self.remove_superseded(&space);
            } else {
                self.uncleared.remove(&space);
            }
        }
    }

    /// Counts in `removed` how many bytes were. What nobody needs goes first:
    /// to keep the rest may take the room that it leaves.
    fn clear(&self, space: &SpaceId, directory: &Path, removed: &mut u64) -> io::Result<()> {
        let host = &self.places.host;
        let mut plans = Vec::new();
        for seed in listed(directory)? {
            let plan = Plan::read(&seed, space)?;
            let kept: BTreeSet<_> = plan.keep.iter().map(|kept| seed.join(&kept.to)).collect();
            for file in listed(&seed)? {
                if !file.ends_with(PLAN_FILE) && !kept.contains(&file) {
                    let bytes = fs::symlink_metadata(&file)?.len();
                    host.remove(&file)?;
                    *removed += bytes;
                }
            }
            plans.push((plan, seed));
        }
        let quarantine = Quarantine::new(host.clone(), &self.places.quarantine(), space);
        for (plan, seed) in &plans {
            for Kept { to, manifest, .. } in &plan.keep {
                let path = seed.join(to);
                if !is_there(&path)? {
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
        for (_, seed) in plans {
            // Until then it says what was to be kept.
            for file in listed(&seed)? {
                host.remove(&file)?;
            }
            host.remove_directory(&seed)?;
        }
        host.remove_directory(directory)
    }

    /// The segments of a space by the name that they get when they are moved
    /// aside, and where they are.
    fn files_of(&self, space: &SpaceId) -> io::Result<Vec<(String, PathBuf)>> {
        let wal = self.places.wal(space);
        let names = match discover::segments(&wal) {
            Ok(names) => names,
            Err(error) if error.kind() == NotFound => Vec::new(),
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

    /// Where a replica of the space is to come to before what lies there is
    /// needed no more, as far as that is known; nothing if no segment does.
    pub(in crate::engine) fn old_copies_until(&self, space: &SpaceId) -> io::Result<Option<Lsn>> {
        let mut until = None;
        for seed in listed(&self.old_copies(space))? {
            let of_segment = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                ["wal-", "retired-"].iter().any(|start| name.starts_with(start))
            };
            if listed(&seed)?.iter().any(of_segment) {
                // A plan that cannot be read says nothing.
                let head = Plan::read(&seed, space)?.head;
                until = until.max(Some(Lsn(head)));
            }
        }
        Ok(until)
    }
}

impl Held<'_> {
    /// The files at the end of what was received that hold so many bytes, or a
    /// few more.
    fn end_of(&self, bytes: u64) -> BTreeSet<u64> {
        let (mut files, mut sum) = (BTreeSet::new(), 0_u64);
        for run in self.last_first() {
            if sum >= bytes {
                break;
            }
            if files.insert(run.file) {
                sum += fs::metadata(self.path_of(&run)).map_or(0, |found| found.len());
            }
        }
        files
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
    while is_there(&directory.join(&free))? {
        number += 1;
        free = format!("{name}.{number}");
    }
    Ok(free)
}

/// Whether a name is taken, by whatever it is.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether that is a plan, or one that was being written.
fn is_plan(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PLAN_FILE))
}

/// The entries of a directory; none if there is no such directory.
fn listed(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "superseded_tests.rs"]
mod tests;
