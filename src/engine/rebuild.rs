//! A node that has lost its catalog gets a new one: from the bytes that it has,
//! and from the [chart](super::proof::chart) of the other node of the pair. A
//! replica asks its primary; a primary, in [`Shipped`], a replica.
//!
//! ```text
//!   chart     runs, epochs, stream: which bytes of which file are which LSN
//!     |
//!   survey    every record along the runs, verified; nothing is changed
//!     |
//!   common    the chain there, held against the other node's: equal chains
//!     |       prove that everything before is the same
//!     |
//!   settle    what is no part of the stream goes to the quarantine
//!     |
//!   commit    one transaction
//! ```
//!
//! Of files alone nobody could tell where they lie in the stream: names are in
//! no order, segments grow in turn, and a gap may be a hole. So nothing is
//! guessed; without the other node there is no rebuilding.
//!
//! Stopped anywhere, it can be begun again: until the commit the catalog knows
//! nothing of the space, and what was moved to the quarantine was no part of
//! the stream.

#![forbid(unsafe_code)]

mod shipped;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use self::shipped::Shipped;
use super::keeper::Places;
use super::quarantine::{Manifest, Quarantine, Reason};
use super::recovery::{self, Notice, RecoveryError, Subject, Survey};
use crate::ids::{SegmentName, SpaceId};
use crate::limits::MAX_EPOCHS_PER_SPACE;
use crate::lsn::{Chain, Lsn, Mark};
use crate::protocol::matching::Search;
use crate::protocol::message::Boundary;
use crate::state::catalog::{Change, Retired, Role, SpaceRecord};
use crate::state::runs::{Run, Runs};
use crate::wal::discover;
use crate::wal::record::Checksums;

/// Why a space has no new catalog entry. Nothing of it was changed, but for
/// what a [`RebuildError::Recovery`] may have moved to the quarantine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// A file cannot be read, synced or moved. It can be tried again.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The directory cannot be listed, or a file of it not be moved. It can be
    /// tried again.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The other node cannot say what it has at a position. Try again when it
    /// can.
    #[error("it cannot be compared: {why}")]
    Other {
        /// Why not.
        why: String,
    },
    /// Of a space that this node ships, nothing is left that the other node has:
    /// the segments in which that lay are gone. A new stream has to begin.
    #[error(
        "no segment is left in {} of what the other node has of the space: nothing proves where it \
         lay. Nothing was changed",
        directory.display()
    )]
    Gone {
        /// The directory.
        directory: PathBuf,
    },
    /// There have been as many epochs as there may be.
    #[error("the space has had {MAX_EPOCHS_PER_SPACE} epochs, the most there are")]
    Epochs,
    /// What is here is not the stream that the other node has. The directory is
    /// of another history: look at both, and set the wrong one aside.
    #[error(
        "{} holds {records} records, and not even the first that could be compared is the other \
         node's: it is another log. Nothing was changed",
        directory.display()
    )]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// How many whole records it holds, along the other node's runs.
        records: u64,
    },
}

/// What the other node has at positions of the stream.
pub trait Other {
    /// The chain at a position; nothing if no record ends there.
    ///
    /// # Errors
    ///
    /// A sentence: it cannot be asked, or cannot tell.
    fn chain_at(&mut self, lsn: Lsn) -> Result<Option<Chain>, String>;
}

/// What was found of a space, with nothing changed yet.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What the catalog is to have.
    record: SpaceRecord,
    /// What the files hold.
    pub survey: Survey,
    /// Up to here it is the other node's stream.
    pub common: Mark,
    /// Behind this the other node's chart knows of nothing.
    charted: Lsn,
    /// Segments that no part of it lies in.
    pub strangers: Vec<SegmentName>,
    /// Bytes that are no part of it, in those and at the ends of others. The
    /// unfinished record that a stop leaves is not counted.
    pub unmatched_bytes: u64,
}

/// One received space that is to be rebuilt.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild<'a> {
    /// Where things lie.
    pub places: &'a Places,
    /// Which records are taken.
    pub checksums: Checksums,
    /// The space.
    pub space: &'a SpaceId,
}

impl Rebuild<'_> {
    /// Read everything that is here, and find up to where it is the other
    /// node's. `record` is its chart, as this node would have it. `go_on` is
    /// told how many bytes were read, and says whether to go on.
    ///
    /// # Errors
    ///
    /// See [`RebuildError`]. Nothing is changed.
    pub fn examine(
        &self,
        mut record: SpaceRecord,
        other: &mut dyn Other,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Finding, RebuildError> {
        let Places { data_root, state_dir, host } = self.places;
        let known = record.marks.iter().map(|mark| mark.lsn);
        let charted = known.fold(record.runs.end(), Lsn::max);
        let from = self.beginning(&mut record)?;
        // Runs whose files were put aside when another took over their name.
        let map = record.clone();
        let locate = |run: &Run| recovery::path_of(data_root, state_dir, self.space, &map, run);
        let survey = recovery::survey(&**host, &map, from, self.checksums, &locate, go_on)?;
        record.marks.clone_from(&survey.marks);
        record.marks.insert(0, from);
        let common = self.common(&record, (&from, &survey.mark), &locate, other)?;
        if common.lsn <= from.lsn && survey.mark.lsn > from.lsn {
            return Err(self.foreign(&survey));
        }
        // Of several runs that begin there, none has anything yet; the last is
        // the one that goes on.
        let kept = record.runs.iter().filter(|(_, run)| run.start <= common.lsn).count();
        let left = record.runs.truncate(u32::try_from(kept).unwrap_or(u32::MAX));
        record.retired.retain(|file, _| !left.contains(file));
        record.marks.retain(|mark| mark.lsn < common.lsn);
        record.marks.push(common);
        record.marks.retain(|mark| mark.lsn > Lsn::ZERO);
        record.checkpoint = common;
        let strangers = self.strangers(&record)?;
        let mut unmatched_bytes = self.behind(&record)?;
        let tail = match &survey.trouble {
            Some(Notice::TornTail { bytes, .. } | Notice::Zeroes { bytes, .. })
                if survey.mark == common =>
            {
                *bytes
            }
            _ => 0,
        };
        unmatched_bytes = unmatched_bytes.saturating_sub(tail);
        for name in &strangers {
            unmatched_bytes += self.length(&self.places.wal(self.space).join(name.to_string()))?;
        }
        Ok(Finding { record, survey, common, charted, strangers, unmatched_bytes })
    }

    /// Where what is here begins: at the start of the stream, or behind what was
    /// retired on both nodes. Says in `record` what became of the files that
    /// have no name.
    fn beginning(&self, record: &mut SpaceRecord) -> Result<Mark, RebuildError> {
        let Places { data_root, state_dir, .. } = self.places;
        let mut here = BTreeSet::new();
        for (_, run) in record.runs.clone().iter() {
            let named = recovery::path_of(data_root, state_dir, self.space, record, run);
            let aside = recovery::retired_path(state_dir, self.space, run.file);
            if self.is_there(&named)? {
                here.insert(run.file);
            } else if self.is_there(&aside)? {
                record.retired.insert(run.file, Retired::Aside);
                here.insert(run.file);
            }
        }
        let has_bytes = |run: &Run| run.bytes != Some(0);
        let Some((first, run)) = (record.runs.iter())
            .find(|(_, run)| has_bytes(run) && here.contains(&run.file))
            .map(|(ordinal, run)| (ordinal, *run))
        else {
            return Ok(Mark::START);
        };
        let before = record.runs.iter().take_while(|(ordinal, _)| *ordinal < first);
        let before: BTreeSet<u64> = before.map(|(_, run)| run.file).collect();
        let mut behind = record.runs.iter().filter(|(ordinal, _)| *ordinal >= first);
        let is_apart = behind.all(|(_, run)| !before.contains(&run.file));
        let known = record.marks.iter().find(|mark| mark.lsn == run.start).copied();
        let Some(from) = known.filter(|_| run.offset == 0 && is_apart) else {
            // It is taken for what follows the start, or is no part of it.
            return Ok(Mark::START);
        };
        let gone = before.into_iter().filter(|file| !here.contains(file));
        record.retired.extend(gone.map(|file| (file, Retired::Gone)));
        Ok(from)
    }

    fn is_there(&self, path: &Path) -> Result<bool, RebuildError> {
        path.try_exists().map_err(|source| RebuildError::Io {
            action: "look for",
            path: path.to_path_buf(),
            source,
        })
    }

    /// How many bytes lie behind the end of the stream in the files that hold
    /// it.
    fn behind(&self, record: &SpaceRecord) -> Result<u64, RebuildError> {
        let Places { data_root, state_dir, .. } = self.places;
        let mut ends = BTreeMap::new();
        for (_, run) in record.runs.iter() {
            let path = recovery::path_of(data_root, state_dir, self.space, record, run);
            let last = ends.entry(path).or_insert(0);
            *last = run.reach(record.checkpoint.lsn).max(*last);
        }
        let mut behind = 0;
        for (path, end) in ends {
            behind += self.length(&path)?.saturating_sub(end);
        }
        Ok(behind)
    }

    /// The length of a file; 0 if there is none.
    fn length(&self, path: &Path) -> Result<u64, RebuildError> {
        match fs::metadata(path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(source) => {
                Err(RebuildError::Io { action: "look at", path: path.to_path_buf(), source })
            }
        }
    }

    /// The last boundary that both have, at or behind the one from which the
    /// records here were read.
    fn common(
        &self,
        record: &SpaceRecord,
        (from, end): (&Mark, &Mark),
        locate: &dyn Fn(&Run) -> PathBuf,
        other: &mut dyn Other,
    ) -> Result<Mark, RebuildError> {
        let mut theirs = |lsn: Lsn| match lsn {
            Lsn::ZERO => Ok(Some(Chain::START)),
            lsn => other.chain_at(lsn).map_err(|why| RebuildError::Other { why }),
        };
        if theirs(end.lsn)? == Some(end.chain) {
            return Ok(*end);
        }
        let mut search = Search::below(end.lsn);
        while let Some(probe) = search.probe() {
            // Nothing is known of what lies before.
            let probe = probe.max(from.lsn.advance(1));
            let mark = recovery::boundary_along(record, end, probe, self.checksums, locate)?;
            if theirs(mark.lsn)? == Some(mark.chain) {
                search.same(probe, mark);
            } else {
                let Mark { lsn, chain, records, .. } = mark;
                search.differs(&Boundary { lsn, chain, records });
            }
        }
        let common = search.common();
        Ok(if common.lsn > from.lsn { common } else { *from })
    }

    fn foreign(&self, survey: &Survey) -> RebuildError {
        let directory = self.places.wal(self.space);
        RebuildError::Foreign { directory, records: survey.mark.records }
    }

    /// Segments in the directory that no run lies in.
    fn strangers(&self, record: &SpaceRecord) -> Result<Vec<SegmentName>, RebuildError> {
        let directory = self.places.wal(self.space);
        let known: BTreeSet<_> = record.runs.iter().map(|(_, run)| run.segment).collect();
        let mut names = discover::segments(&directory).map_err(|source| RebuildError::Io {
            action: "list",
            path: directory,
            source,
        })?;
        names.retain(|name| !known.contains(name));
        Ok(names)
    }

    /// Move what is no part of the stream to the quarantine. What the catalog
    /// has to be told, with all of it or nothing, and what an operator must be
    /// told.
    ///
    /// # Errors
    ///
    /// See [`RebuildError`]. It can be done again.
    pub fn settle(&self, finding: &Finding) -> Result<(Vec<Change>, Vec<Notice>), RebuildError> {
        let Places { data_root, host, .. } = self.places;
        let record = &finding.record;
        let quarantine = self.places.quarantine();
        let subject = Subject {
            host,
            data_root,
            space: self.space,
            record,
            quarantine: &quarantine,
            checksums: self.checksums,
        };
        let settled = subject.keep_matched()?;
        let mut notices = settled.notices;
        notices.retain(|notice| !matches!(notice, Notice::Unknown { .. }));
        let kept = Quarantine::new(host.clone(), &quarantine, self.space);
        for name in &finding.strangers {
            let path = self.places.wal(self.space).join(name.to_string());
            let failed = |source| RebuildError::Io {
                action: "move to the quarantine",
                path: path.clone(),
                source,
            };
            let manifest = Manifest {
                space: self.space.clone(),
                segment: *name,
                file: 0,
                offset: 0,
                bytes: fs::metadata(&path).map_err(failed)?.len(),
                reason: Reason::Unmatched,
                extents: Vec::new(),
                epochs: Vec::new(),
                superseded_by: None,
            };
            let to = kept.take(&path, &manifest).map_err(failed)?;
            notices.push(Notice::Moved { path, to });
        }
        let (role, stream) = (Role::Replica, record.stream);
        let mut changes = vec![Change::Create { role, stream, history: record.history.clone() }];
        let until = self.places.old_copies_until(self.space).map_err(|source| {
            RebuildError::Io { action: "list", path: self.places.old_copies(self.space), source }
        })?;
        if let Some(until) = until {
            // It was being filled anew: the older copy is needed until it is. The
            // other node may know of less than what is here.
            let (base, target) = (Mark::START, finding.charted.max(until));
            changes.push(Change::Seed { base, first_run: 0, target });
            changes.push(Change::SeedMoved);
        }
        changes.push(Change::SawEpoch(record.highest_epoch));
        changes.extend(record.runs.iter().map(|(_, run)| Change::OpenRun(*run)));
        let retired = record.retired.iter();
        changes.extend(retired.map(|(file, what)| Change::Retire { file: *file, what: *what }));
        let known = record.marks.iter().map(|mark| (mark.lsn, *mark)).collect();
        changes.extend(begins(&record.runs, &known));
        changes.extend(known.into_values().map(Change::AddMark));
        changes.push(Change::Checkpoint(finding.common));
        Ok((changes, notices))
    }
}

/// Where files begin, of those of which it is known.
fn begins(runs: &Runs, known: &BTreeMap<Lsn, Mark>) -> Vec<Change> {
    let mut seen = BTreeSet::new();
    let firsts = runs.iter().map(|(_, run)| run).filter(|run| seen.insert(run.file));
    let begin = |run: &Run| Some((run.file, *known.get(&run.start)?));
    firsts.filter_map(begin).map(|(file, mark)| Change::Begin { file, mark }).collect()
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
