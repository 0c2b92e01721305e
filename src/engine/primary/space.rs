//! One space that this node ships: its files, its runs, its head.
//!
//! ```text
//!   watch event --> touched files --> cursor --> index (boundaries, head)
//!                                       |
//!                     head moves to another file: a new run,
//!                     durable in the catalog before it is shipped
//! ```
//!
//! A stream is the history of what was seen, in the order in which it was
//! seen. Any of the files may grow at any time: also one whose name is gone.
//! The walk finishes the file it is in, then goes on where something was
//! touched; each change of file begins a run.
//!
//! The space never guesses: bytes that are no record stop it where it is, by
//! name. A file that no longer holds what was walked of it begins a new epoch;
//! see `past`.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::access::Taken;
use super::ahead::Ahead;
use super::damage::{Block, Debris};
use super::earlier::Earlier;
use super::past::Past;
use super::retention::Retirements;
use super::unfinished::Unfinished;
use super::walk::Tail;
use crate::engine::keeper::{Job, Unopened};
use crate::engine::rate::Rate;
use crate::engine::writers::{Kernel, Writers};
use crate::ids::{SegmentName, SpaceId, StreamId};
use crate::limits::{MARK_SPACING_BYTES, MAX_LSN, SAVED_MARK_SPACING_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::protocol::frame::Handle;
use crate::protocol::message::{OpenSpace, SegmentOpen};
use crate::state::catalog::{Change, Hole, SpaceRecord};
use crate::state::runs::Runs;
use crate::state::thin;
use crate::wal::cursor::Cursor;
use crate::wal::index::{Cut, Index};
use crate::wal::map::Map;
use crate::wal::record::Checksums;
use crate::wal::segment::Segment;

/// One file of the space.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) name: SegmentName,
    /// Open, unless it was finished long ago.
    pub(super) segment: Option<Arc<Segment>>,
    /// Everything before is in the stream.
    pub(super) walked: u64,
    /// Something may have been appended since the walk was last here.
    pub(super) touched: bool,
    /// Its name has gone from the directory.
    pub(super) vanished: bool,
    /// It could not be opened again: neither its name nor its pin is left.
    pub(super) gone: bool,
    /// It was let go of on purpose: all that it had is in the stream, and there
    /// it cannot be compared with anything any more.
    pub(super) let_go: bool,
    /// It does not exist any more, and nobody has taken it away in order.
    pub(super) lost: bool,
    /// The keeper was asked to open it.
    pub(super) asked: bool,
    /// Why it could not be opened, although it may be there.
    pub(super) unreadable: Option<String>,
    /// The last record that was walked.
    pub(super) tail: Option<Tail>,
    /// The last record that an earlier process is known to have walked is not there.
    pub(super) otherwise: bool,
    /// What an earlier process walked of it was looked at again.
    pub(super) compared: bool,
    /// Its pin was let go.
    pub(super) released: bool,
    /// That is not durable yet.
    pub(super) going: bool,
    /// The directory was listed without it, and whatever stands there instead
    /// is known.
    pub(super) unnamed: bool,
    /// A replica that has made that much durable holds everything that stands
    /// in the directory instead of it.
    pub(super) retire_after: Option<Lsn>,
    /// When the walk last found something in it.
    pub(super) grown_at: Option<Instant>,
}

/// What a turn of walking came to.
#[derive(Debug, Default)]
pub struct Turn {
    /// The head has moved.
    pub moved: bool,
    /// There is more to walk: come again.
    pub more: bool,
    /// Bring this range into the cache; the walk goes on when it is there.
    pub prefetch: Vec<(Arc<Segment>, u64, u64)>,
    /// For the keeper.
    pub jobs: Vec<Job>,
    /// A new epoch begins: stop the space on all links.
    pub turned: Option<Turned>,
}

/// Where a new epoch begins.
#[derive(Clone, Copy, Debug)]
pub struct Turned {
    /// The boundary.
    pub at: Mark,
    /// Up to here the stream is known to be what it was; between the two something
    /// else may stand now.
    pub sure: Lsn,
}

/// One space that this node ships.
#[derive(Debug)]
pub struct Space {
    /// Its name.
    pub id: SpaceId,
    /// What it is called on every connection of this shard.
    pub handle: Handle,
    /// Where its segments lie, for sentences.
    pub directory: PathBuf,
    pub(super) shard: usize,
    pub(super) checksums: Checksums,
    /// Who has its segments open.
    pub writers: Arc<dyn Writers>,
    /// What does not hold is left out of the stream if no replica has it.
    pub skips_damage: bool,
    pub(super) stream: StreamId,
    pub(super) past: Past,
    /// True once the catalog's record has come.
    pub(in crate::engine) known: bool,
    pub(super) runs: Runs,
    /// How many of them the catalog has made durable.
    pub(super) durable_runs: u32,
    pub(super) files: BTreeMap<u64, Tracked>,
    /// A file may have another name than the one it is known by.
    renamed: bool,
    pub(super) retirements: Retirements,
    /// The run that is being walked, and where.
    pub(super) ordinal: u32,
    pub(super) cursor: Option<Cursor>,
    pub(super) ahead: Ahead,
    /// Segments that are being opened; the walk waits for all of them.
    pub(super) opening: u32,
    pub(super) index: Index,
    /// The walk over a part before the index.
    pub(super) earlier: Option<Earlier>,
    /// Where the last walk began, and the sequence of the first record there:
    /// what a tail frame asks for, without another look.
    pub(super) first: Option<(Lsn, u64)>,
    /// Highest head ever, also while an earlier part is walked again.
    pub(super) head: Mark,
    pub(super) saved: Vec<Mark>,
    /// Where the first run of each file begins.
    pub(super) begins: BTreeMap<u64, Mark>,
    pub(super) samples: VecDeque<(Lsn, Instant)>,
    /// How fast it grows.
    pub growth: Rate,
    pub(super) send_map: Option<(u64, Arc<Map>)>,
    pub(super) problem: Option<String>,
    /// What stands in the way of the walk now; looked at afresh whenever the
    /// file changes, since a write in progress can look like damage.
    pub(super) damage: Option<String>,
    /// Debris in mid-file that the walk stands before.
    pub(super) debris: Option<Debris>,
    /// Records that do not hold at rest, by where they begin.
    pub(super) blocks: BTreeMap<Lsn, Block>,
    /// Bytes that were left out of the stream.
    pub(super) holes: Vec<Hole>,
    /// Files that were left at a record that is not whole.
    pub(super) unfinished: BTreeMap<u64, Unfinished>,
    /// What keeps the directory or a segment from being read.
    pub(super) obstacle: Option<String>,
    /// The keeper has looked for it.
    pub(super) looked_for: bool,
    /// The head when the walk was at the end of what is there for the first
    /// time: what lies before was there before anybody looked.
    pub(super) first_end: Option<Lsn>,
    pub(super) notices: Vec<String>,
    /// What a crash took of the stream: see [`Space::followed`].
    pub(super) taken: Vec<Taken>,
    /// What could not be opened when the directory was listed last.
    pub(super) unopened: Vec<String>,
}

impl Space {
    /// A space of which nothing is known yet.
    #[must_use]
    pub fn new(id: SpaceId, handle: Handle, shard: usize, checksums: Checksums) -> Self {
        Self {
            id,
            handle,
            directory: PathBuf::new(),
            shard,
            checksums,
            writers: Arc::new(Kernel),
            skips_damage: false,
            stream: StreamId::default(),
            past: Past::default(),
            known: false,
            runs: Runs::default(),
            durable_runs: 0,
            files: BTreeMap::new(),
            renamed: false,
            retirements: Retirements::default(),
            ordinal: 0,
            cursor: None,
            ahead: Ahead::default(),
            opening: 0,
            index: Index::new(Mark::START),
            earlier: None,
            first: None,
            head: Mark::START,
            saved: Vec::new(),
            begins: BTreeMap::new(),
            samples: VecDeque::new(),
            growth: Rate::default(),
            send_map: None,
            problem: None,
            damage: None,
            debris: None,
            blocks: BTreeMap::new(),
            holes: Vec::new(),
            unfinished: BTreeMap::new(),
            obstacle: None,
            looked_for: false,
            first_end: None,
            notices: Vec::new(),
            taken: Vec::new(),
            unopened: Vec::new(),
        }
    }

    /// The catalog's record has come: the stream goes on from there.
    pub fn learn(&mut self, record: SpaceRecord) {
        self.stream = record.stream;
        self.learn_epochs(&record);
        self.durable_runs = record.runs.len();
        for file in &record.files {
            let let_go = record.is_gone(file.file);
            let tracked = self.track(file.file, file.segment);
            tracked.gone = file.is_gone() || let_go;
            (tracked.let_go, tracked.released) = (let_go, let_go);
        }
        self.runs = record.runs;
        self.saved = record.marks;
        self.begins = record.begins;
        self.holes = record.holes;
        self.known = true;
        let last = self.saved.last().copied().unwrap_or(Mark::START);
        // Everything up to there was walked before; the head is no earlier.
        self.head = last;
        self.past.vouched = last.lsn;
        self.doubt_tail();
        // From the boundary before, if it is near and in the same file: so the
        // walk must meet the last one again.
        let before = self.saved.iter().rev().nth(1).copied().unwrap_or(Mark::START);
        let near = last.lsn.bytes_since(before.lsn) <= 2 * MARK_SPACING_BYTES;
        let ends_before = near && last.lsn > before.lsn && self.is_one_file(before.lsn, last.lsn);
        self.rewind(if ends_before { before } else { last });
    }

    /// True if the stream from one position to another, and what comes next,
    /// lie in one file that can be walked. What is in no file at all needs none.
    fn is_one_file(&self, from: Lsn, to: Lsn) -> bool {
        let run_of = |lsn: Lsn| self.runs.locate(lsn).map(|(ordinal, _)| ordinal);
        let (Some(first), Some(last)) = (run_of(from), run_of(to)) else { return false };
        let Some(file) = self.runs.get(last).map(|run| run.file) else { return false };
        if self.is_let_go(file) {
            return false;
        }
        let between = self.runs.iter().filter(|(ordinal, _)| (first..=last).contains(ordinal));
        between.into_iter().all(|(_, run)| run.file == file || run.bytes == Some(0))
    }

    fn track(&mut self, file: u64, name: SegmentName) -> &mut Tracked {
        self.files.entry(file).or_insert(Tracked {
            name,
            segment: None,
            walked: 0,
            touched: false,
            vanished: false,
            gone: false,
            let_go: false,
            lost: false,
            asked: false,
            unreadable: None,
            tail: None,
            otherwise: false,
            compared: false,
            released: false,
            going: false,
            unnamed: false,
            retire_after: None,
            grown_at: None,
        })
    }

    /// New segments have been pinned and numbered.
    pub fn found(&mut self, found: Vec<(u64, Arc<Segment>)>) {
        for (file, segment) in found {
            let tracked = self.track(file, segment.name);
            tracked.segment = Some(segment);
            tracked.asked = false;
            tracked.unreadable = None;
            (tracked.gone, tracked.lost) = (false, false);
            // Its name has come back: it can be let go of once more.
            tracked.released &= !std::mem::take(&mut tracked.let_go);
            tracked.touched = true;
            self.retirements.outdate();
        }
    }

    /// A segment that was asked for is open again.
    pub fn reopened(&mut self, file: u64, result: Result<Arc<Segment>, Unopened>) {
        self.opening = self.opening.saturating_sub(1);
        match result {
            Ok(segment) => self.found(vec![(file, segment)]),
            Err(Unopened::Unreadable(why)) => {
                self.notice(why.clone());
                if let Some(tracked) = self.files.get_mut(&file) {
                    tracked.asked = false;
                    tracked.unreadable = Some(why);
                }
            }
            Err(Unopened::Gone { why, lost }) => {
                let current = self.runs.get(self.ordinal).map(|run| run.file);
                let stands_in = current == Some(file);
                let in_stream = self.runs.first_in(file).is_some();
                if in_stream && stands_in {
                    self.notice_gone(why, lost);
                } else if !in_stream || !self.is_let_go(file) {
                    self.notice_unshipped(file, in_stream, &why);
                }
                if let Some(tracked) = self.files.get_mut(&file) {
                    self.retirements.outdate();
                    (tracked.gone, tracked.lost) = (true, lost);
                    tracked.released = true;
                    tracked.vanished = true;
                    // The walk needs what it stands in, and stops without it;
                    // of another file, all that is in the stream lies behind.
                    tracked.touched = stands_in;
                }
            }
        }
    }

    /// Something was written to a file of that name, or may have been to any.
    pub fn touch(&mut self, name: Option<SegmentName>) {
        let mut found = false;
        for tracked in self.files.values_mut() {
            if name.is_none_or(|name| name == tracked.name) {
                tracked.touched = true;
                found = true;
            }
        }
        if !found {
            self.touch_renamed();
        }
    }

    /// A name is gone from the directory. Its file may have got another one,
    /// and may grow under that.
    pub fn vanished(&mut self, name: SegmentName) {
        for tracked in self.files.values_mut().filter(|tracked| tracked.name == name) {
            tracked.vanished = true;
            self.renamed = true;
            self.retirements.outdate();
        }
    }

    /// Something was written to a file that is not known by its name.
    pub fn touch_renamed(&mut self) {
        if self.renamed {
            self.files.values_mut().for_each(|tracked| tracked.touched = true);
        }
    }

    /// True if there may be something to walk.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        self.wants_walk() || self.wants_earlier()
    }

    /// True if there may be something to walk at the head.
    pub(super) fn wants_walk(&self) -> bool {
        self.known
            && self.problem.is_none()
            && !self.is_waiting()
            && !self.past.is_turning()
            && !self.is_fenced()
            && (self.past.is_suspect() || self.ordinal + 1 < self.runs.len() || self.has_touched())
    }

    /// True if a file that the walk may enter was touched. Behind damage, only
    /// the damaged file counts.
    pub(super) fn has_touched(&self) -> bool {
        let current = self.runs.get(self.ordinal).map(|run| run.file);
        (self.files.iter())
            .any(|(file, f)| f.touched && (self.damage.is_none() || Some(*file) == current))
    }

    /// True while the walk waits for segments to be opened or pages to come.
    fn is_waiting(&self) -> bool {
        self.opening > 0 || self.ahead.is_awaited()
    }

    /// A range of a file that begins there is in the cache.
    pub fn prefetched(&mut self, start: u64) {
        self.ahead.came(start);
        if let Some(earlier) = &mut self.earlier {
            earlier.ahead.came(start);
        }
    }

    /// The stream, for `OpenSpace`; nothing until the catalog has answered.
    /// While the walk is on its way, the head is told as far out as it can
    /// be: a replica must not be taken to be ahead of a log that has not been
    /// looked at yet.
    #[must_use]
    pub fn open(&self) -> Option<OpenSpace> {
        let ships = self.known && !self.past.is_turning() && !self.is_fenced();
        ships.then(|| OpenSpace {
            space: self.id.clone(),
            stream: self.stream,
            history: self.past.history.clone(),
            head: self.farthest_head(),
        })
    }

    /// The head, or while the walk is on its way, the farthest that it can be.
    #[must_use]
    pub fn farthest_head(&self) -> Lsn {
        if self.is_walked() {
            return self.head.lsn;
        }
        let unwalked = self.files.values().map(|tracked| {
            let length = tracked.segment.as_ref().and_then(|segment| segment.len().ok());
            length.unwrap_or(0).saturating_sub(tracked.walked)
        });
        // A file may have any length, without having as many bytes.
        let farthest = unwalked.fold(self.head.lsn.0, u64::saturating_add);
        Lsn(farthest.min(MAX_LSN))
    }

    /// The newest boundary.
    #[must_use]
    pub fn head(&self) -> Mark {
        self.head
    }

    /// Where the walk is: behind the head while an earlier part is walked
    /// again.
    #[must_use]
    pub fn walked(&self) -> Mark {
        self.index.head()
    }

    /// Everything that could be walked has been.
    #[must_use]
    pub fn is_walked(&self) -> bool {
        let at_rest = self.known && !self.is_waiting() && self.obstacle.is_none();
        at_rest && (self.problem.is_some() || !self.wants_walk())
    }

    /// The keeper has made that many runs durable.
    pub fn runs_durable(&mut self, runs: u32) {
        self.durable_runs = self.durable_runs.max(runs);
    }

    /// Keep a boundary in the catalog now and then, so that a restart need
    /// not walk the whole stream.
    pub(super) fn save(&mut self, turn: &mut Turn) {
        let last = self.saved.last().map_or(Lsn::ZERO, |mark| mark.lsn);
        if self.head.lsn.bytes_since(last) >= SAVED_MARK_SPACING_BYTES {
            // And one shortly before: a restart begins there, and must meet
            // this one again.
            if let Some(before) = self.index.boundaries().last() {
                self.remember(before, turn);
            }
            self.remember(self.head, turn);
        }
    }

    /// Keep this boundary. The beginning of each run is one of them: a restart
    /// then needs the files of earlier runs only if a replica does.
    pub(super) fn remember(&mut self, mark: Mark, turn: &mut Turn) {
        if self.saved.last().is_some_and(|last| last.lsn >= mark.lsn) || mark.lsn == Lsn::ZERO {
            return;
        }
        self.saved.push(mark);
        // As the catalog does.
        drop(thin(&mut self.saved, |mark| mark.lsn, mark.lsn));
        turn.jobs.push(Job::Commit {
            shard: self.shard,
            ticket: None,
            space: self.id.clone(),
            change: Change::AddMark(mark),
        });
    }

    pub(super) fn segment_of(&self, ordinal: u32) -> Option<Arc<Segment>> {
        let run = self.runs.get(ordinal)?;
        self.files.get(&run.file)?.segment.clone()
    }

    /// The run, if its beginning is durable in the catalog.
    #[must_use]
    pub fn run(&self, ordinal: u32) -> Option<SegmentOpen> {
        if ordinal >= self.durable_runs {
            return None;
        }
        let run = self.runs.get(ordinal)?;
        Some(SegmentOpen {
            ordinal,
            start: run.start,
            segment: run.segment,
            file: run.file,
            offset: run.offset,
        })
    }

    /// Where the next extent of a run ends, and its first sequence.
    pub fn cut(&mut self, ordinal: u32, from: &Mark, max_bytes: u32) -> Option<(Mark, u64)> {
        let run = *self.runs.get(ordinal)?;
        if run.bytes.is_some_and(|bytes| from.lsn >= run.start.advance(bytes)) {
            return None;
        }
        let max_bytes = match self.unblocked(from.lsn, max_bytes) {
            0 => return None,
            most => most,
        };
        let run_end = run.bytes.map_or(Lsn(u64::MAX), |bytes| run.start.advance(bytes));
        let cut = match self.index_at(from.lsn).cut(from, max_bytes) {
            // The index may have forgotten where a run ends; the bytes behind
            // lie elsewhere.
            Cut::To(to) if to.lsn > run_end => Cut::Walk { from: *from, to },
            cut => cut,
        };
        let end = match cut {
            Cut::Nothing => return None,
            Cut::To(mark) => mark,
            Cut::Walk { from, to } => {
                // No boundary is remembered within reach: find the last one.
                let reach = to.lsn.bytes_since(from.lsn).min(u64::from(max_bytes));
                let segment = self.segment_of(ordinal)?;
                let offset = run.offset + from.lsn.bytes_since(run.start);
                let mut cursor = Cursor::new(segment, offset, from, self.checksums);
                let mut found: Option<Mark> = None;
                // Where it stopped does not matter, what it passed does.
                let _ = cursor.advance(reach, &mut |mark: &Mark| {
                    let fits = mark.lsn.bytes_since(from.lsn) <= u64::from(max_bytes);
                    if mark.lsn <= run_end && (fits || found.is_none()) {
                        found = Some(*mark);
                    }
                });
                let found = found?;
                self.index_at_mut(from.lsn).insert(found);
                found
            }
        };
        if let Some((at, sequence)) = self.first
            && at == from.lsn
        {
            return Some((end, sequence));
        }
        let offset = run.offset + from.lsn.bytes_since(run.start);
        let segment = self.segment_of(ordinal)?;
        let sequence = segment.first_sequence_at(offset, self.checksums).ok()?;
        Some((end, sequence))
    }

    /// Boundaries before this position are needed by no replica.
    pub fn forget_before(&mut self, lsn: Lsn) {
        self.index.forget_before(lsn);
        if let Some(earlier) = &mut self.earlier {
            earlier.index.forget_before(lsn);
        }
        while self.samples.len() > 1 && self.samples.front().is_some_and(|(at, _)| *at <= lsn) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
