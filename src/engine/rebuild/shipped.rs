//! A space that this node ships, after its catalog was lost: the stream goes on,
//! from what a replica has of it.
//!
//! ```text
//!   replica   runs, epochs 1..4    |=======|=======|====|
//!   here      (compacted away)             |=======|====|----  not shipped yet
//!                                          ^ mark       ^ common: epoch 5 begins
//! ```
//!
//! The database owns the files: nothing of them is changed. A new epoch begins
//! where the two agree, since nobody knows what the lost catalog has told
//! others: a replica that has more, or knows of other runs, is matched with it
//! like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Other, Rebuild, RebuildError, begins};
use crate::engine::recovery::{self, Survey, bearer};
use crate::ids::{Epoch, SegmentName};
use crate::limits::MAX_EPOCHS_PER_SPACE;
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::{Change, FileRecord, Hole, Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::segment::{Segment, SegmentError};

/// What was found of a space that this node ships. Nothing is changed.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// What the catalog is to have, but for its files, marks and holes.
    record: SpaceRecord,
    files: Vec<FileRecord>,
    /// What the files hold, from the first position that could be compared.
    pub survey: Survey,
    /// Up to here it is what the replica has. A new epoch begins there.
    pub common: Mark,
    /// Segments of the stream that the database has removed.
    pub removed: Vec<SegmentName>,
}

impl Rebuild<'_> {
    /// Read what is here of a space that this node ships, as far back as there
    /// are segments, and find up to where a replica has it. `record` is the
    /// replica's chart.
    ///
    /// # Errors
    ///
    /// See [`RebuildError`]. Nothing is changed.
    pub fn examine_shipped(
        &self,
        mut record: SpaceRecord,
        other: &mut dyn Other,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Shipped, RebuildError> {
        let here = self.segments(&record)?;
        let directory = self.places.wal(self.space);
        let locate = |run: &Run| -> PathBuf {
            // The name may be another file's by now, and a later run say another name.
            let there = here.get(&run.file).and_then(Option::as_ref);
            there.map_or_else(PathBuf::new, |segment| directory.join(segment.name.to_string()))
        };
        let from = first_mark(&record, &here)
            .ok_or_else(|| RebuildError::Gone { directory: directory.clone() })?;
        let host = &*self.places.host;
        let survey = recovery::survey(host, &record, from, self.checksums, &locate, go_on)?;
        record.marks = std::iter::once(from).chain(survey.marks.iter().copied()).collect();
        let common = self.common(&record, (&from, &survey.mark), &locate, other)?;
        // Where nothing behind proves it, the last record before must be the
        // one that the replica knows.
        if common.lsn == from.lsn
            && survey.mark.lsn > Lsn::ZERO
            && !recovery::ends_with(&record, &from, self.checksums, &locate)?
        {
            return Err(match survey.mark.lsn == from.lsn {
                true => RebuildError::Gone { directory },
                false => self.foreign(&survey),
            });
        }
        let kept = record.runs.iter().filter(|(_, run)| run.start <= common.lsn).count();
        record.runs.truncate(u32::try_from(kept).unwrap_or(u32::MAX));
        record.history.retain(|(_, start)| *start <= common.lsn);
        let last = record.history.last().map_or(Epoch(0), |(epoch, _)| *epoch);
        let next = Epoch(last.max(record.highest_epoch).0 + 1);
        if record.history.len() >= MAX_EPOCHS_PER_SPACE {
            return Err(RebuildError::Epochs);
        }
        record.history.push((next, common.lsn));
        let mut files = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for (_, run) in record.runs.iter() {
            let found = here.get(&run.file).and_then(Option::as_ref);
            if found.is_none() && run.start >= record.base.lsn {
                removed.insert(run.segment);
            }
            // All zero: gone, as the catalog says it.
            let identity = found.map(|segment| segment.identity);
            files.entry(run.file).or_insert(FileRecord {
                file: run.file,
                segment: run.segment,
                device: identity.map_or(0, |identity| identity.device),
                inode: identity.map_or(0, |identity| identity.inode),
                birth_ns: identity.map_or(0, |identity| identity.birth_ns),
            });
        }
        let (files, removed) = (files.into_values().collect(), removed.into_iter().collect());
        Ok(Shipped { record, files, survey, common, removed })
    }

    /// The segments that are here, by the number of the file.
    fn segments(
        &self,
        record: &SpaceRecord,
    ) -> Result<BTreeMap<u64, Option<Segment>>, RebuildError> {
        let mut here = BTreeMap::new();
        for (_, run) in record.runs.iter() {
            if here.contains_key(&run.file) {
                continue;
            }
            if run.start < record.base.lsn {
                // Gone before the replica was filled anew.
                here.insert(run.file, None);
                continue;
            }
            let path = self.places.wal(self.space).join(run.segment.to_string());
            // Of several files of one name, the last has it.
            let found = if bearer(record, run.segment) == Some(run.file) {
                match Segment::open(&path) {
                    Ok(segment) => Some(segment),
                    Err(SegmentError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::NotFound =>
                    {
                        None
                    }
                    Err(error) => {
                        let source = std::io::Error::other(error);
                        return Err(RebuildError::Io { action: "open", path, source });
                    }
                }
            } else {
                None
            };
            here.insert(run.file, found);
        }
        Ok(here)
    }
}

/// The first boundary that the replica knows from which on every segment is
/// here. What the source has lost at its end does not count: the last names, or
/// the end of the last file, as after a crash of the host.
fn first_mark(record: &SpaceRecord, here: &BTreeMap<u64, Option<Segment>>) -> Option<Mark> {
    let reach = |run: &Run| {
        let segment = here.get(&run.file).and_then(Option::as_ref);
        segment.and_then(|segment| segment.len().ok()).unwrap_or(0)
    };
    let begins = |run: &Run| reach(run) > run.offset;
    let holds =
        |run: &Run| run.bytes.is_some_and(|bytes| bytes == 0 || reach(run) >= run.offset + bytes);
    let mut runs = record.runs.iter().rev().map(|(_, run)| run).skip_while(|run| !begins(run));
    let last = runs.next()?;
    let first = runs.take_while(|run| holds(run)).last().unwrap_or(last);
    let marks = std::iter::once(&Mark::START).chain(&record.marks);
    marks.filter(|mark| mark.lsn >= first.start).min_by_key(|mark| mark.lsn).copied()
}

impl Shipped {
    /// What the catalog has to be told, with all of it or nothing.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let record = &self.record;
        let (role, stream) = (Role::Primary, record.stream);
        let mut changes = vec![Change::Create { role, stream, history: record.history.clone() }];
        changes.push(Change::SawEpoch(record.highest_epoch));
        changes.extend(self.files.iter().map(|file| Change::AddFile(*file)));
        let marks = self.survey.marks.iter().filter(|mark| mark.lsn < self.common.lsn);
        let marks = record.marks.first().into_iter().chain(marks).chain([&self.common]);
        let known: BTreeMap<Lsn, Mark> = marks.map(|mark| (mark.lsn, *mark)).collect();
        // The catalog thins out other marks: these are what a seed needs.
        changes.extend(begins(&record.runs, &known));
        let mut ends = BTreeMap::new();
        for (_, run) in record.runs.iter() {
            let end = ends.entry(run.file).or_insert(0);
            // Bytes that the stream goes past in a file: they were left out.
            changes.push(if run.offset > *end {
                let hole = Hole {
                    lsn: run.start,
                    segment: run.segment,
                    file: run.file,
                    offset: *end,
                    bytes: run.offset - *end,
                    unix_ns: 0,
                    reason: "left out before the catalog was lost".to_owned(),
                };
                Change::AddHole { hole, run: *run }
            } else {
                Change::OpenRun(*run)
            });
            *end = run.offset + run.bytes.unwrap_or(0);
        }
        let kept = known.into_values().filter(|mark| mark.lsn > Lsn::ZERO);
        changes.extend(kept.map(Change::AddMark));
        changes
    }

    /// The epoch that begins.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.record.history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch)
    }
}
