//! Which records of a received file no segment of its primary's directory may
//! ever have had.
//!
//! ```text
//!   wal-100 |== a ==|== b ==|-- c --|        |-- d --|
//!   wal-107                         |== s ==|            a snapshot, instead of it
//!                           ^ the clock is at 107
//! ```
//!
//! A compaction writes a snapshot, gives it the time as its name, and unlinks
//! the rest; its writer goes on with the file that it had. What comes into that
//! file behind the beginning of the snapshot (d) is not in the snapshot, nor is
//! what came before the walk was there (c): there only the clock tells. A
//! segment that merely carries on from another replaces nothing.
//!
//! A replica that was filled anew does not have a and b, but s and then d: what
//! comes behind a younger name, or from the middle of a file on, had lost its
//! own before. None of that is in any segment. A name that a wrong clock gave
//! is younger than all that come later: it counts until its file has lost it.
//!
//! Where the clock was set back while the file was written, all from there on is
//! taken for such records: what is stamped too early may have come late.
//!
//! Where nothing tells, all of the file is taken for such records. The error
//! is to keep what was not needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::Places;
use crate::engine::quarantine::{Extent, Manifest, Reason};
use crate::engine::recovery;
use crate::ids::{SegmentName, SpaceId};
use crate::limits::{CARRIED_ON_WITHIN, CLOCK_STEP_NS, CUT_SLICE_BYTES, RECORD_HEADER_BYTES};
use crate::lsn::Lsn;
use crate::state::catalog::SpaceRecord;
use crate::state::runs::Run;
use crate::wal::record::{Checksums, Header};
use crate::wal::search::read_up_to;

/// A received space, and where it lies.
pub(super) struct Held<'a> {
    places: &'a Places,
    space: &'a SpaceId,
    record: &'a SpaceRecord,
    checksums: Checksums,
}

/// What may have replaced a file.
#[derive(Debug, Default)]
struct Instead {
    /// The first runs of the files that begin next behind it.
    next: Vec<Run>,
    /// The least name of all others.
    others: Option<SegmentName>,
}

/// Where such records begin in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// At this offset.
    From(u64),
    /// There, as nothing is known that could have replaced it.
    Untold(u64),
    /// At the first one that is not older than something else, or behind which
    /// the clock was set back; if there is none, at `rest`.
    Since {
        /// Where to look.
        path: PathBuf,
        /// In which parts of it, ascending.
        within: Vec<Range<u64>>,
        /// When the file got its name, nanoseconds since the Unix epoch. What a
        /// snapshot took from others is older, and in any order.
        named_ns: u64,
        /// Not older than that, nanoseconds since the Unix epoch.
        timestamp_ns: u64,
        /// Whether the last record is not.
        by_end: bool,
        /// Behind all of them.
        rest: Option<u64>,
    },
}

impl<'a> Held<'a> {
    pub(super) fn new(
        places: &'a Places,
        space: &'a SpaceId,
        record: &'a SpaceRecord,
        checksums: Checksums,
    ) -> Self {
        Self { places, space, record, checksums }
    }

    /// Where each file lies, with its first run.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Run> {
        let Places { data_root, state_dir, .. } = self.places;
        let paths = recovery::paths(data_root, state_dir, self.space, self.record);
        let first = |(file, path)| Some((path, *self.record.runs.first_in(file)?.1));
        paths.into_iter().filter_map(first).collect()
    }

    /// All runs, the last one first.
    pub(super) fn last_first(&self) -> impl Iterator<Item = Run> {
        let mut runs: Vec<_> = self.record.runs.iter().map(|(_, run)| *run).collect();
        runs.reverse();
        runs.into_iter()
    }

    pub(super) fn path_of(&self, run: &Run) -> PathBuf {
        let Places { data_root, state_dir, .. } = self.places;
        recovery::path_of(data_root, state_dir, self.space, self.record, run)
    }

    /// Whether a file has such records, and where; nothing if it has none.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not there.
    pub(super) fn unnamed_in(&self, file: u64) -> io::Result<Option<Unnamed>> {
        let runs = &self.record.runs;
        let Some((first, run)) = runs.first_in(file).map(|(first, run)| (first, *run)) else {
            return Ok(None);
        };
        let path = self.path_of(&run);
        let opened = File::open(&path)?;
        let length = opened.metadata()?.len();
        let within = |run: &Run| {
            let end = run.bytes.map_or(length, |bytes| (run.offset + bytes).min(length));
            run.offset..end
        };
        let all = runs.iter().filter(|(_, run)| run.file == file);
        let parts: Vec<_> = all
            .map(|(ordinal, run)| (ordinal, within(run)))
            .filter(|(_, range)| !range.is_empty())
            .collect();
        if self.had_lost_its_name(first, &run, &opened, &parts)? {
            return Ok(parts.first().map(|(_, range)| Unnamed::From(range.start)));
        }
        let other = runs.iter().find(|(o, run)| *o > first && run.file != file).map(|(o, _)| o);
        let (mut before, mut rest) = (Vec::new(), None);
        for (ordinal, range) in parts {
            if other.is_some_and(|other| ordinal > other) {
                rest = Some(rest.unwrap_or(u64::MAX).min(range.start));
            } else {
                before.push(range);
            }
        }
        let rest_only = Ok(rest.map(Unnamed::From));
        let Some(last) = before.last().cloned() else { return rest_only };
        let Instead { next, others } = self.instead_of(file, first);
        if next.is_empty() && others.is_none() {
            return Ok(Some(Unnamed::Untold(before[0].start)));
        }
        let last = recovery::record_before(&opened, last.start, last.end, self.checksums)?;
        let lacks = |other: &&Run| last.as_ref().is_none_or(|last| !self.carries_on(other, last));
        let lacking: Vec<_> = next.iter().filter(lacks).map(|other| other.segment).collect();
        let Some(least) = lacking.iter().copied().chain(others).min() else { return rest_only };
        let timestamp_ns = named_at(least);
        let by_end = last.is_none_or(|last| last.timestamp_ns >= timestamp_ns);
        if !by_end && lacking.len() < next.len() {
            // Its writer had left it before that was there.
            return rest_only;
        }
        let named_ns = named_at(run.segment);
        Ok(Some(Unnamed::Since { path, within: before, named_ns, timestamp_ns, by_end, rest }))
    }

    /// Whether a file was without its name already when what is here of it
    /// began. A file that has its name comes before those with younger ones, and
    /// from its beginning on. Whatever has become of those names since.
    ///
    /// But one that was named by a clock which was ahead, and set right since, comes
    /// before all that get theirs later. Those the primary found and numbered behind
    /// it, so it had not unlinked them before it was there; and what they hold is
    /// older than its name. As long as it has that name, nobody knows whether they
    /// lost theirs to it all the same.
    fn had_lost_its_name(
        &self,
        first: u32,
        run: &Run,
        opened: &File,
        parts: &[(u32, Range<u64>)],
    ) -> io::Result<bool> {
        let record = self.record;
        if run.offset > 0 && record.base.lsn > Lsn::ZERO {
            return Ok(true);
        }
        let before = record.runs.iter().take_while(|(ordinal, _)| *ordinal < first);
        let mut least = None;
        for (_, other) in before.filter(|(_, other)| other.segment > run.segment) {
            if other.file > run.file || !record.retired.contains_key(&other.file) {
                return Ok(true);
            }
            least = Some(least.unwrap_or(other.segment).min(other.segment));
        }
        let (Some(least), Some((_, begin)), Some((_, end))) = (least, parts.first(), parts.last())
        else {
            return Ok(false);
        };
        let ends = [
            header_at(opened, begin.start, self.checksums)?,
            recovery::record_before(opened, end.start, end.end, self.checksums)?,
        ];
        let is_older =
            |ns: u64| ns.checked_add(CLOCK_STEP_NS).is_some_and(|ns| ns < named_at(least));
        Ok(!ends.iter().all(|end| end.as_ref().is_some_and(|end| is_older(end.timestamp_ns))))
    }

    /// The files that may have replaced one. Those that come behind it; and if it
    /// has lost its name, those before it that have theirs. A log may have more of
    /// them than can be opened for each of its files.
    fn instead_of(&self, file: u64, first: u32) -> Instead {
        let record = self.record;
        let unnamed = record.retired.contains_key(&file);
        let is_named = |run: &Run| {
            !record.retired.contains_key(&run.file)
                && recovery::bearer(record, run.segment) == Some(run.file)
        };
        let begins = |ordinal: u32, run: &Run| {
            record.runs.first_in(run.file).is_some_and(|(begins, _)| begins == ordinal)
        };
        let mut instead = Instead::default();
        for (ordinal, run) in record.runs.iter().filter(|(_, run)| run.file != file) {
            let is_least = instead.others.is_none_or(|least| run.segment < least);
            if ordinal < first {
                if unnamed && is_least && is_named(run) {
                    instead.others = Some(run.segment);
                }
            } else if instead.next.len() < CARRIED_ON_WITHIN {
                if begins(ordinal, run) {
                    instead.next.push(*run);
                }
            } else if is_least && begins(ordinal, run) {
                instead.others = Some(run.segment);
            }
        }
        instead
    }

    /// Whether a file is what its writer went on in when another was full.
    fn carries_on(&self, other: &Run, last: &Header) -> bool {
        let file = File::open(self.path_of(other)).ok();
        let first = file.and_then(|file| header_at(&file, other.offset, self.checksums).ok()?);
        first.is_some_and(|first| {
            Some(first.sequence) == last.sequence.checked_add(1)
                && first.timestamp_ns >= last.timestamp_ns
        })
    }

    /// What the bytes of a file from `offset` to `end` are.
    pub(super) fn manifest(&self, first: Run, reason: Reason, range: Range<u64>) -> Manifest {
        let record = self.record;
        let mut extents = Vec::new();
        for (_, run) in record.runs.iter().filter(|(_, run)| run.file == first.file) {
            let end = run.bytes.map_or(range.end, |bytes| (run.offset + bytes).min(range.end));
            let offset = run.offset.max(range.start);
            if offset < end {
                let lsn = run.start.advance(offset - run.offset).0;
                extents.push(Extent { lsn, offset, bytes: end - offset });
            }
        }
        Manifest {
            space: self.space.clone(),
            segment: first.segment,
            file: first.file,
            offset: range.start,
            bytes: range.end.saturating_sub(range.start),
            reason,
            extents,
            epochs: record.history.iter().map(|(epoch, _)| *epoch).collect(),
            superseded_by: None,
        }
    }
}

impl Unnamed {
    /// Whether there are such records, without reading more than `budget` bytes
    /// of the file, which is lowered by them. Where that is not enough the last
    /// record decides. `between` is called now and then.
    pub(super) fn are_there(
        self,
        checksums: Checksums,
        budget: &mut u64,
        between: &mut dyn FnMut(),
    ) -> io::Result<bool> {
        if let Self::Since { within, by_end, rest, .. } = &self {
            let bytes = within.iter().map(|range| range.end - range.start).sum();
            let Some(left) = budget.checked_sub(bytes).filter(|_| !by_end && rest.is_none()) else {
                return Ok(*by_end || rest.is_some());
            };
            *budget = left;
        }
        self.find(checksums, between).map(|found| found.is_some())
    }

    /// The offset. Reads headers, perhaps of a whole file; `between` is called
    /// now and then.
    pub(super) fn find(
        self,
        checksums: Checksums,
        between: &mut dyn FnMut(),
    ) -> io::Result<Option<u64>> {
        let (path, within, named_ns, timestamp_ns, rest) = match self {
            Self::From(offset) | Self::Untold(offset) => return Ok(Some(offset)),
            Self::Since { path, within, named_ns, timestamp_ns, rest, .. } => {
                (path, within, named_ns, timestamp_ns, rest)
            }
        };
        let file = File::open(path)?;
        let (mut slice, mut newest) = (0, 0);
        for range in &within {
            let mut at = range.start;
            while at < range.end {
                let Some(header) = header_at(&file, at, checksums)? else {
                    // Behind it, nobody knows.
                    return Ok(within.first().map(|range| range.start));
                };
                let written_ns = header.timestamp_ns;
                // Behind a step back the clock tells nothing.
                if written_ns >= timestamp_ns || written_ns.saturating_add(CLOCK_STEP_NS) < newest {
                    return Ok(Some(at));
                }
                if written_ns >= named_ns {
                    newest = newest.max(written_ns);
                }
                at += header.record_bytes();
                slice += header.record_bytes();
                if slice >= CUT_SLICE_BYTES {
                    slice = 0;
                    between();
                }
            }
        }
        Ok(rest)
    }
}

/// The time in a segment's name, nanoseconds since the Unix epoch.
fn named_at(segment: SegmentName) -> u64 {
    segment.0.saturating_mul(1_000_000_000)
}

fn header_at(file: &File, offset: u64, checksums: Checksums) -> io::Result<Option<Header>> {
    let mut raw = [0; RECORD_HEADER_BYTES];
    let count = read_up_to(file, &mut raw, offset)?;
    Ok((count == raw.len()).then(|| Header::parse(&raw, checksums).ok()).flatten())
}

#[cfg(test)]
#[path = "unnamed_tests.rs"]
mod tests;
