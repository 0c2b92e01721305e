//! The ordered list of runs of one space: the one place that maps a position
//! in the stream to a position in a file.
//!
//! ```text
//!   stream   0 ............ 900 ........ 1400 ....... 2100 ....>
//!   run      | 0: file 0      | 1: file 1  | 2: file 0  | 3: file 1, open
//!   offset   0                0            900          500
//! ```
//!
//! Runs touch: each ends where the next begins. Usually a segment holds one
//! run; where two segments grow in turn, each turn is a run. A run may be
//! empty (a segment was opened and nothing written).
//!
//! A replica that was seeded has the stream from a base on: its first run has
//! the ordinal that it has on the primary, and begins at the base.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::SegmentName;
use crate::limits::MAX_FILE_OFFSET;
use crate::lsn::Lsn;

/// A piece of the stream that lies contiguously in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the stream it begins.
    pub start: Lsn,
    /// The segment's file name.
    pub segment: SegmentName,
    /// Which file of that name, as the primary numbered it.
    pub file: u64,
    /// Where in the file the run begins, bytes.
    pub offset: u64,
    /// Its length in bytes; `None` while it is the last and may grow.
    pub bytes: Option<u64>,
}

impl Run {
    /// True if both begin at the same place of the stream and of the same
    /// file; how long they are does not matter.
    #[must_use]
    pub fn begins_like(&self, other: &Self) -> bool {
        (self.start, self.segment, self.file, self.offset)
            == (other.start, other.segment, other.file, other.offset)
    }

    /// Up to where its file must reach to hold what it has of the stream before
    /// `end`: 0 if it has nothing of that. An empty run asks nothing of its file,
    /// also where it begins behind bytes that were left out of the stream.
    #[must_use]
    pub fn reach(&self, end: Lsn) -> u64 {
        let before = end.bytes_since(self.start);
        let bytes = self.bytes.map_or(before, |bytes| bytes.min(before));
        if bytes == 0 { 0 } else { self.offset.saturating_add(bytes) }
    }

    /// Whether there can be a file that holds it.
    ///
    /// # Errors
    ///
    /// [`RunError::Beyond`].
    pub fn fits(&self) -> Result<(), RunError> {
        if self.offset > MAX_FILE_OFFSET {
            return Err(RunError::Beyond { file: self.file, offset: self.offset });
        }
        Ok(())
    }
}

/// Why a run cannot follow the runs that are there. They are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It begins before the last run does: the sender of the run has another
    /// history.
    #[error("a run at {start} cannot follow one that begins at {last}")]
    Backwards {
        /// Where the refused run begins.
        start: Lsn,
        /// Where the last run begins.
        last: Lsn,
    },
    /// It would lie over bytes of an earlier run in the same file.
    #[error("a run at offset {offset} of file {file} overlaps bytes up to {used} of that file")]
    Overlap {
        /// The file's number.
        file: u64,
        /// Where in the file the refused run begins.
        offset: u64,
        /// Up to where the file is taken.
        used: u64,
    },
    /// No file is that long.
    #[error("a run at offset {offset} of file {file} lies behind what any file can hold")]
    Beyond {
        /// The file's number.
        file: u64,
        /// Where in the file the refused run begins.
        offset: u64,
    },
    /// The last run once more, under another number: the peer has lost count.
    #[error("the run of {segment} that begins at {start} is announced a second time")]
    Repeated {
        /// Where it begins in the stream.
        start: Lsn,
        /// The segment that it lies in.
        segment: SegmentName,
    },
    /// The list is full.
    #[error("more than {most} runs in one space")]
    Full {
        /// The limit.
        most: u32,
    },
}

#[cfg(test)]
thread_local! {
    static LOOKED_AT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many runs were gone through one by one on this thread, to do that: what is
/// done at once goes through all of a long log once at most.
#[cfg(test)]
pub(crate) fn looked_at<T>(done: impl FnOnce() -> T) -> (T, u64) {
    let before = LOOKED_AT.get();
    let outcome = done();
    (outcome, LOOKED_AT.get() - before)
}

/// The runs of one space, by ordinal. Only the last may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    list: Vec<Run>,
    /// The ordinal of the first, whether it is there yet or not.
    first: u32,
    /// Where the first begins.
    base: Lsn,
    /// Of each file its first and its latest run, as indices of the list: a long log
    /// is asked for each of its files, and each run that follows for its own.
    of_file: BTreeMap<u64, (u32, u32)>,
}

impl Runs {
    /// The most runs of one space. With segments of the usual 64 MiB that is
    /// 256 TiB of log; each costs 48 bytes of memory, and each file about 24.
    pub const MOST: u32 = 4 << 20;

    /// No runs yet, of a stream that is here from `base` on; the first will
    /// have the ordinal `first`.
    #[must_use]
    pub fn based(first: u32, base: Lsn) -> Self {
        Self { list: Vec::new(), first, base, of_file: BTreeMap::new() }
    }

    /// The ordinal that the next one has: how many there are, with those that
    /// lie before the base.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.ordinal(self.list.len())
    }

    /// None is here yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The ordinal of the first run that is here, or will be.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Where the stream begins here.
    #[must_use]
    pub fn base(&self) -> Lsn {
        self.base
    }

    fn ordinal(&self, index: usize) -> u32 {
        self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn index(&self, ordinal: u32) -> Option<usize> {
        usize::try_from(ordinal.checked_sub(self.first)?).ok()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, ordinal: u32) -> Option<&Run> {
        self.list.get(self.index(ordinal)?)
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> Option<&Run> {
        self.list.last()
    }

    /// Where the last run begins to be unknown: its end if it is closed, its
    /// start while it is open, the base without runs. The stream never ends
    /// before.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.list.last().map_or(self.base, |last| last.start.advance(last.bytes.unwrap_or(0)))
    }

    /// Whether `run` may follow, without changing anything. A run that is the
    /// last one already may: see [`Runs::open`].
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn accepts(&self, run: &Run) -> Result<(), RunError> {
        run.fits()?;
        let Some(last) = self.last() else {
            if run.start < self.base {
                return Err(RunError::Backwards { start: run.start, last: self.base });
            }
            return Ok(());
        };
        if last.begins_like(run) {
            return Ok(());
        }
        if run.start < last.start {
            return Err(RunError::Backwards { start: run.start, last: last.start });
        }
        if self.len() >= Self::MOST {
            return Err(RunError::Full { most: Self::MOST });
        }
        let used = self.taken(run.file, run.start);
        if run.offset < used {
            return Err(RunError::Overlap { file: run.file, offset: run.offset, used });
        }
        Ok(())
    }

    /// How far a file is taken by the stream before `end`. Within one file, runs lie
    /// in the order of the stream, so the latest that is not empty says so.
    fn taken(&self, file: u64, end: Lsn) -> u64 {
        let range = self.of_file.get(&file).and_then(|(first, latest)| {
            let (first, latest) = (usize::try_from(*first).ok()?, usize::try_from(*latest).ok()?);
            self.list.get(first..=latest)
        });
        let runs = range.unwrap_or_default().iter().rev().filter(|run| run.file == file);
        runs.map(|run| run.reach(end)).find(|reach| *reach > 0).unwrap_or(0)
    }

    /// Close the last run at `run.start` and begin the next, open (its
    /// `bytes` is not looked at); returns its ordinal. Opening the run that is
    /// last already changes nothing and returns that one's ordinal.
    ///
    /// The caller has asked [`Runs::accepts`].
    pub fn open(&mut self, run: Run) -> u32 {
        debug_assert_eq!(self.accepts(&run), Ok(()), "a run that does not follow");
        let ordinal = self.len();
        if let Some(last) = self.list.last_mut() {
            if last.begins_like(&run) {
                return ordinal - 1;
            }
            last.bytes = Some(run.start.bytes_since(last.start));
        }
        self.push(Run { bytes: None, ..run });
        ordinal
    }

    fn push(&mut self, run: Run) {
        let index = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.of_file.entry(run.file).or_insert((index, index)).1 = index;
        self.list.push(run);
    }

    /// Keep the runs with ordinals below `runs` and open the last of them
    /// again: recovery cut the stream. Gives the files in which no run lies any more.
    pub fn truncate(&mut self, runs: u32) -> BTreeSet<u64> {
        let mut list = std::mem::take(&mut self.list);
        let kept = self.index(runs).unwrap_or(0).min(list.len());
        let cut = list.split_off(kept);
        *self = Self::from_stored(self.first, self.base, list);
        if let Some(last) = self.list.last_mut() {
            last.bytes = None;
        }
        let left = cut.iter().map(|run| run.file);
        left.filter(|file| !self.of_file.contains_key(file)).collect()
    }

    /// The run that holds the byte at `lsn` (the last run with start <= lsn;
    /// of several empty ones the last), and where in its file. Nothing for a
    /// position that lies before the first, or behind what any file can hold.
    #[must_use]
    pub fn locate(&self, lsn: Lsn) -> Option<(u32, u64)> {
        let after = self.list.partition_point(|run| run.start <= lsn);
        let index = after.checked_sub(1)?;
        let run = &self.list[index];
        let offset = run.offset.checked_add(lsn.bytes_since(run.start))?;
        Some((self.ordinal(index), offset))
    }

    /// The last run that lies in the file of that number.
    #[must_use]
    pub fn latest_in(&self, file: u64) -> Option<(u32, &Run)> {
        let (_, latest) = self.of_file.get(&file)?;
        let index = usize::try_from(*latest).ok()?;
        Some((self.ordinal(index), self.list.get(index)?))
    }

    /// The first run that lies in the file of that number.
    #[must_use]
    pub fn first_in(&self, file: u64) -> Option<(u32, &Run)> {
        let (first, _) = self.of_file.get(&file)?;
        let index = usize::try_from(*first).ok()?;
        Some((self.ordinal(index), self.list.get(index)?))
    }

    /// Where the first run of each file begins, by number. To look up many of
    /// them: one pass over the runs.
    #[must_use]
    pub fn firsts(&self) -> BTreeMap<u64, Lsn> {
        let mut firsts = BTreeMap::new();
        for (_, run) in self.iter() {
            firsts.entry(run.file).or_insert(run.start);
        }
        firsts
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, &Run)> {
        let looked_at = |(index, run)| {
            #[cfg(test)]
            LOOKED_AT.set(LOOKED_AT.get() + 1);
            (self.ordinal(index), run)
        };
        self.list.iter().enumerate().map(looked_at)
    }

    /// The runs as the catalog has them: every one but the last is closed.
    pub(super) fn from_stored(first: u32, base: Lsn, list: Vec<Run>) -> Self {
        let mut runs = Self { list: Vec::with_capacity(list.len()), ..Self::based(first, base) };
        list.into_iter().for_each(|run| runs.push(run));
        runs
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(start: u64, file: u64, offset: u64) -> Run {
        Run { start: Lsn(start), segment: SegmentName(100 + file), file, offset, bytes: None }
    }

    /// The picture at the top of this file.
    fn turns() -> Runs {
        let mut runs = Runs::default();
        for next in [run(0, 0, 0), run(900, 1, 0), run(1400, 0, 900), run(2100, 1, 500)] {
            runs.open(next);
        }
        runs
    }

    #[test]
    fn each_run_ends_where_the_next_begins() {
        let lengths: Vec<_> = turns().iter().map(|(_, run)| run.bytes).collect();
        assert_eq!(lengths, [Some(900), Some(500), Some(700), None]);
    }

    #[test]
    fn behind_a_base_runs_keep_the_ordinals_of_the_primary() {
        let mut runs = Runs::based(7, Lsn(900));
        assert_eq!((runs.len(), runs.end(), runs.is_empty()), (7, Lsn(900), true));
        assert_eq!(
            runs.accepts(&run(899, 1, 0)),
            Err(RunError::Backwards { start: Lsn(899), last: Lsn(900) })
        );
        for next in [run(900, 1, 0), run(1400, 0, 900), run(2100, 1, 500)] {
            runs.open(next);
        }
        assert_eq!(runs.len(), 10);
        assert_eq!((runs.get(6), runs.get(7).map(|run| run.start)), (None, Some(Lsn(900))));
        assert_eq!(runs.locate(Lsn(1500)), Some((8, 1000)));
        assert_eq!(runs.locate(Lsn(899)), None);
        assert_eq!(runs.latest_in(1).map(|(ordinal, _)| ordinal), Some(9));
        assert_eq!(runs.first_in(1).map(|(ordinal, _)| ordinal), Some(7));
        runs.truncate(8);
        assert_eq!((runs.len(), runs.last().unwrap().bytes), (8, None));
        runs.truncate(7);
        assert_eq!((runs.len(), runs.end()), (7, Lsn(900)));
    }

    #[test]
    fn a_run_that_no_file_can_hold_is_refused_and_a_position_there_is_nowhere() {
        let offset = MAX_FILE_OFFSET + 1;
        let refused = Runs::default().accepts(&run(0, 0, offset));
        assert_eq!(refused, Err(RunError::Beyond { file: 0, offset }));
        let mut runs = Runs::default();
        runs.open(run(0, 0, MAX_FILE_OFFSET));
        assert_eq!(runs.locate(Lsn(5)), Some((0, MAX_FILE_OFFSET + 5)));
        assert_eq!(runs.locate(Lsn(u64::MAX)), None);
        let far = run(u64::MAX, 0, 5);
        assert!(matches!(runs.accepts(&far), Err(RunError::Overlap { .. })));
    }

    #[test]
    fn a_position_is_found_in_its_file() {
        let runs = turns();
        for (lsn, expected) in [
            (0, (0, 0)),
            (899, (0, 899)),
            (900, (1, 0)),
            (1400, (2, 900)),
            (2099, (2, 1599)),
            (2100, (3, 500)),
            (9000, (3, 7400)),
        ] {
            assert_eq!(runs.locate(Lsn(lsn)), Some(expected), "lsn {lsn}");
        }
        assert_eq!(Runs::default().locate(Lsn::ZERO), None);
    }

    #[test]
    fn of_empty_runs_the_last_holds_the_position() {
        let mut runs = Runs::default();
        runs.open(run(0, 0, 0));
        runs.open(run(0, 1, 0));
        runs.open(run(0, 2, 0));
        assert_eq!(runs.locate(Lsn::ZERO), Some((2, 0)));
        assert_eq!(runs.len(), 3);
    }

    #[test]
    fn opening_the_last_run_again_changes_nothing() {
        let mut runs = turns();
        let before = runs.clone();
        assert_eq!(runs.open(run(2100, 1, 500)), 3);
        assert_eq!(runs, before);
    }

    #[test]
    fn a_run_never_goes_back_nor_over_bytes_that_are_there() {
        let runs = turns();
        assert_eq!(
            runs.accepts(&run(2000, 2, 0)),
            Err(RunError::Backwards { start: Lsn(2000), last: Lsn(2100) })
        );
        assert_eq!(
            runs.accepts(&run(2500, 0, 1599)),
            Err(RunError::Overlap { file: 0, offset: 1599, used: 1600 })
        );
        // The open run is taken up to where the next one begins.
        assert_eq!(
            runs.accepts(&run(2500, 1, 899)),
            Err(RunError::Overlap { file: 1, offset: 899, used: 900 })
        );
        assert_eq!(runs.accepts(&run(2500, 0, 1600)), Ok(()));
    }

    /// Each of them went through all that were there.
    #[test]
    fn however_many_files_there_are_each_is_found_at_once() {
        let mut runs = Runs::default();
        // Numbered in another order than they are written in.
        let file = |number: u64| number ^ 1;
        for number in 0..100_000 {
            let next = run(number * 10, file(number), 0);
            assert_eq!(runs.accepts(&next), Ok(()));
            runs.open(next);
        }
        for number in 0..100_000 {
            let ordinal = u32::try_from(number).unwrap();
            assert_eq!(runs.first_in(file(number)).map(|(found, _)| found), Some(ordinal));
            assert_eq!(runs.latest_in(file(number)).map(|(found, _)| found), Some(ordinal));
        }
        assert_eq!(runs.latest_in(100_000), None);
        runs.truncate(7);
        assert_eq!((runs.len(), runs.first_in(file(7)), runs.latest_in(file(7))), (7, None, None));
    }

    #[test]
    fn after_a_cut_the_last_run_is_open_again() {
        let mut runs = turns();
        runs.truncate(2);
        assert_eq!(runs.last().unwrap().bytes, None);
        assert_eq!(runs.end(), Lsn(900));
        // The run of file 0 is the one before the cut.
        assert_eq!(runs.latest_in(0).map(|(ordinal, _)| ordinal), Some(0));
        assert_eq!(runs.open(run(1000, 2, 0)), 2);
        assert_eq!(runs.get(1).unwrap().bytes, Some(100));
    }
}
