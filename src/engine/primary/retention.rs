//! Which segments are still needed, and which are still there.
//!
//! A pin keeps a segment that the database has unlinked for as long as a
//! replica may ask for it. It is let go once nobody can:
//!
//! - every slot that retains has made all of it durable;
//! - its name is gone, and nobody has it open for writing any more. A writer
//!   may go on with a file that its own compaction has unlinked; the kernel
//!   says whether one still can, and where it does not say, ten minutes
//!   without growth must do;
//! - it lies before the oldest segment that has a name: what lies behind is
//!   part of what a new replica would be filled with.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::earlier::Earlier;
use super::slot::Slot;
use super::space::Space;
use crate::engine::keeper::Job;
use crate::engine::writers::Writers;
use crate::limits::{RELEASE_AFTER, RELEASE_PROBE_AFTER};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::{Retirement, SegmentRetire};
use crate::protocol::sender::Found;
use crate::state::catalog::Change;
use crate::state::runs::Run;

/// Why shipping cannot go on at a replica's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresumable {
    /// What lies behind the position is no longer here.
    Gone(String),
    /// It may be here: a later attempt can help.
    Unreadable(String),
}

/// What replicas must be told of files that have no name any more. Looked for
/// again when something has changed, and not with each look at the slots: in the
/// end that are all files that there ever were.
#[derive(Debug, Default)]
pub(super) struct Retirements {
    list: Vec<SegmentRetire>,
    /// Counts the changes of the list.
    version: u64,
    /// Nothing has changed since it was made.
    fresh: bool,
}

impl Retirements {
    /// A file got or lost a name, or is gone, or the stream was cut.
    pub(super) fn outdate(&mut self) {
        self.fresh = false;
    }
}

/// Where a replica can be filled anew from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where in the stream.
    pub mark: Mark,
    /// The run that begins there.
    pub first_run: u32,
}

impl Space {
    /// True if every file from the run at `from` on is open, so that a walk
    /// can begin there. Asks for those that are not.
    ///
    /// # Errors
    ///
    /// [`Unresumable::Gone`]: what one of them held cannot be shipped again;
    /// [`Unresumable::Unreadable`]: one of them could not be opened.
    pub(super) fn ready_from(
        &mut self,
        from: Lsn,
        jobs: &mut Vec<Job>,
    ) -> Result<bool, Unresumable> {
        self.ready_between(from, Lsn(u64::MAX), jobs)
    }

    /// The same for a walk from a position that ends at another one.
    pub(super) fn ready_between(
        &mut self,
        from: Lsn,
        to: Lsn,
        jobs: &mut Vec<Job>,
    ) -> Result<bool, Unresumable> {
        self.ready_around(from..to, Lsn(u64::MAX), jobs)
    }

    /// The same for a walk that must meet the stream again: from `suspect` on it
    /// passes what was let go of, and ends before what a crash took.
    pub(super) fn ready_around(
        &mut self,
        walk: Range<Lsn>,
        suspect: Lsn,
        jobs: &mut Vec<Job>,
    ) -> Result<bool, Unresumable> {
        let Range { start: from, end: to } = walk;
        let first = self.runs.locate(from).map_or(self.runs.first(), |(ordinal, _)| ordinal);
        let head = self.head.lsn;
        let mut ready = true;
        let mut asked = 0;
        let is_walked =
            |ordinal: u32, run: &Run| ordinal >= first && run.bytes != Some(0) && run.start < to;
        for (ordinal, run) in self.runs.iter().filter(|(o, run)| is_walked(*o, run)) {
            let Some(tracked) = self.files.get_mut(&run.file) else { continue };
            if tracked.lost && ordinal + 1 == self.runs.len() {
                // The walk will find that the stream ends before it.
                continue;
            }
            if tracked.gone && run.bytes.is_none() && head <= from {
                // After a cut it is the last one, and nothing more comes of it.
                continue;
            }
            if (tracked.let_go || tracked.lost) && run.start >= suspect {
                continue;
            }
            if tracked.gone {
                return Err(Unresumable::Gone(format!(
                    "the log from {} to the end of run {ordinal} is no longer here: {} was retired",
                    run.start, run.segment
                )));
            }
            if let Some(why) = tracked.unreadable.take() {
                return Err(Unresumable::Unreadable(why));
            }
            if tracked.segment.is_none() {
                ready = false;
                if std::mem::replace(&mut tracked.asked, true) {
                    continue;
                }
                let (shard, space) = (self.shard, self.id.clone());
                jobs.push(Job::OpenSegment { shard, space, file: run.file });
                asked += 1;
            }
        }
        // The walk waits for the answers, as for those that it asks for itself.
        self.opening += asked;
        Ok(ready)
    }

    /// Why the stream cannot be shipped from `from` on any more, if some of it
    /// was let go of.
    pub(super) fn gone_from(&self, from: Lsn) -> Option<String> {
        self.gone_between(from, Lsn(u64::MAX))
    }

    /// The same for a walk that ends at another position.
    pub(super) fn gone_between(&self, from: Lsn, to: Lsn) -> Option<String> {
        let behind = |run: &Run| match run.bytes {
            Some(bytes) => bytes == 0 || run.start.advance(bytes) > from,
            None => self.head.lsn > from,
        };
        let is_gone = |run: &Run| {
            let tracked = self.files.get(&run.file);
            run.bytes != Some(0) && tracked.is_some_and(|tracked| tracked.gone && !tracked.lost)
        };
        let mut newest_first = self.runs.iter().rev().take_while(|(_, run)| behind(run));
        let (_, run) = newest_first.find(|(_, run)| run.start < to && is_gone(run))?;
        Some(format!(
            "the log from {from} to the end of {} is no longer here: it was retired",
            run.segment
        ))
    }

    /// What a replica has made durable of this stream, that was there by the
    /// catalog and was not heard of since. A crash may have taken what it had
    /// acknowledged, and something else may stand in its place: what is there is
    /// held for it until it says where it is.
    #[must_use]
    pub fn vouched(&self, slot: &Slot) -> Lsn {
        let flushed = &slot.flushed;
        if slot.met == Some(true) {
            return flushed.lsn;
        }
        let doubted = slot.view.and_then(|view| view.record.doubted);
        let vouched = doubted.map_or(self.past.vouched, |from| from.min(self.past.vouched));
        flushed.lsn.min(vouched)
    }

    /// Whether what a slot has made durable is of this stream, as [`met`](Self::met)
    /// says. Where an epoch has begun the boundary may be the primary's own: of one in
    /// doubt it tells nothing.
    #[must_use]
    pub fn meets(&self, slot: &Slot) -> Option<bool> {
        let at = &slot.flushed;
        let doubted = slot.view.is_some_and(|view| view.record.doubted.is_some());
        let begins = || self.past.history.iter().any(|(_, start)| *start == at.lsn);
        if doubted && begins() { Some(false) } else { self.met(at) }
    }

    /// Whether the stream is the same up to there; nothing before the walk has been
    /// there. Reads headers: to be asked once.
    #[must_use]
    pub fn met(&self, at: &Mark) -> Option<bool> {
        if self.index.head().lsn < at.lsn {
            return None;
        }
        match self.mark_at(at.lsn)? {
            Found::Mark(mark) => Some(mark.chain == at.chain),
            Found::Nothing | Found::Unavailable(..) => Some(false),
            Found::Gone(_) => None,
        }
    }

    /// The directory was listed: `named` are the files that have a name.
    pub fn names(&mut self, named: &BTreeSet<u64>) {
        for (file, tracked) in &mut self.files {
            let unnamed = !named.contains(file);
            if unnamed != tracked.unnamed {
                tracked.retire_after = None;
            }
            // It may have been moved away and back since it was listed last.
            if (unnamed, unnamed) != (tracked.unnamed, tracked.vanished) {
                (tracked.unnamed, tracked.vanished) = (unnamed, unnamed);
                self.retirements.outdate();
            }
        }
    }

    /// True if there is a segment without a name whose pin is still held, or is not
    /// yet known to be gone for good: only then are replicas told of it.
    #[must_use]
    pub fn holds_unnamed(&self) -> bool {
        let is_held = |tracked: &super::space::Tracked| !tracked.released || tracked.going;
        self.files.values().any(|tracked| tracked.vanished && is_held(tracked))
    }

    /// Where the oldest segment that has a name begins: a replica that is to
    /// hold every one of them needs the stream from there on.
    pub(super) fn oldest_named(&self) -> Option<(u32, Lsn)> {
        let named = |file: &u64| self.files.get(file).is_some_and(|tracked| !tracked.vanished);
        self.runs
            .iter()
            .find(|(_, run)| run.offset == 0 && named(&run.file))
            .map(|(ordinal, run)| (ordinal, run.start))
    }

    /// What replicas must be told of files that have no name any more, and which
    /// version of that it is: who was told all of one need not be told it again.
    ///
    /// Only what was replaced is retired: when nothing has a name, somebody
    /// has emptied the directory, and that is no reason to empty others. And
    /// only once everything that has a name is in the stream, so that a replica
    /// which has flushed that much holds all of it.
    pub fn retirements(&mut self) -> (&[SegmentRetire], u64) {
        if !self.retirements.fresh {
            let (list, fresh) = self.find_retirements();
            let version = self.retirements.version + u64::from(list != self.retirements.list);
            self.retirements = Retirements { list, version, fresh };
        }
        (&self.retirements.list, self.retirements.version)
    }

    /// All of them, and whether no more come of what is known now.
    fn find_retirements(&mut self) -> (Vec<SegmentRetire>, bool) {
        if !self.files.values().any(|tracked| tracked.unnamed) {
            return (Vec::new(), true);
        }
        if self.oldest_named().is_none() {
            return (Vec::new(), false);
        }
        let walked = self.is_walked()
            && !self.past.is_turning()
            && self.problem.is_none()
            && self.damage.is_none();
        let head = self.head.lsn;
        let mut retirements = Vec::new();
        let mut settled = true;
        for (file, tracked) in self.files.iter_mut().filter(|(_, tracked)| tracked.unnamed) {
            if walked && tracked.retire_after.is_none() && self.runs.first_in(*file).is_some() {
                tracked.retire_after = Some(head);
            }
            let Some(after) = tracked.retire_after else {
                settled = false;
                continue;
            };
            // A replica lets go of what it has made durable to the end, and not
            // before it is durable that nobody will ask for it: this host could
            // go down, and come back with a part of the file to be compared.
            let end = (self.runs.latest_in(*file))
                .and_then(|(_, run)| Some(run.start.advance(run.bytes?)))
                .filter(|_| tracked.gone && !tracked.going);
            settled &= end.is_some() || !tracked.gone || tracked.going;
            retirements.push(match end {
                Some(end) => {
                    SegmentRetire { file: *file, after: after.max(end), what: Retirement::Gone }
                }
                None => SegmentRetire { file: *file, after, what: Retirement::Aside },
            });
        }
        (retirements, settled)
    }

    /// Files without a name that would go at once if no replica needed them.
    /// One that is still written, that is not walked to its end or that a new
    /// replica would be filled with is none of them: it stays in any case. Asks
    /// the kernel for each of them, so it is to be called once in a while.
    pub fn spare(&mut self, now: Instant) -> BTreeSet<u64> {
        let newest = self.files.keys().next_back().copied();
        let seedable = self.oldest_named().map_or(Lsn(u64::MAX), |(_, start)| start);
        let mut unnamed = BTreeMap::new();
        for (file, tracked) in &mut self.files {
            // After a start nobody knows when it last grew: the time begins now.
            let at = *tracked.grown_at.get_or_insert(now);
            if tracked.vanished && !tracked.released && Some(*file) != newest {
                unnamed.insert(*file, now.saturating_duration_since(at));
            }
        }
        if unnamed.is_empty() {
            return BTreeSet::new();
        }
        for (_, run) in self.runs.iter() {
            let goes = run.bytes.is_some_and(|bytes| bytes == 0 || run.start < seedable);
            if !goes {
                unnamed.remove(&run.file);
            }
        }
        let is_spare = |file: &u64, idle: Duration| {
            let Some(tracked) = self.files.get(file) else { return false };
            let Some(segment) = &tracked.segment else {
                return !tracked.touched && is_left(None, idle, &*self.writers);
            };
            // An end that is no whole record has come since the last one that is.
            let idle = self
                .unfinished_since(*file)
                .map_or(idle, |since| idle.min(now.saturating_duration_since(since)));
            // What was not walked, nobody has, however it got there. Looked at when
            // nobody can write to it any more: nothing comes after that.
            let walked = || match segment.len() {
                Ok(length) => length <= tracked.walked || self.ends_unfinished(*file, length),
                Err(_) => false,
            };
            !tracked.touched && is_left(Some(segment), idle, &*self.writers) && walked()
        };
        unnamed.retain(|file, idle| is_spare(file, *idle));
        unnamed.into_keys().collect()
    }

    /// Let go of pins that nobody needs, of files that are [spare](Space::spare)
    /// now; `lowest` is flushed by every replica whose slot retains.
    pub fn release(&mut self, lowest: Lsn, spare: &BTreeSet<u64>) -> Vec<Job> {
        if spare.is_empty() {
            return Vec::new();
        }
        let mut released = spare.clone();
        for (_, run) in self.runs.iter() {
            if run.bytes.is_none_or(|bytes| run.start.advance(bytes) > lowest) {
                released.remove(&run.file);
            }
        }
        for file in &released {
            let Some(tracked) = self.files.get_mut(file) else { continue };
            (tracked.released, tracked.going) = (true, true);
            (tracked.gone, tracked.let_go) = (true, true);
            // The descriptor would keep the bytes on the disk.
            tracked.segment = None;
            tracked.touched = false;
        }
        self.close_all(&released);
        if !released.is_empty() {
            self.retirements.outdate();
        }
        if released.is_empty() {
            return Vec::new();
        }
        // A restart must not look for them: it goes on from here.
        if self.saved.last().is_none_or(|last| last.lsn < self.head.lsn) {
            self.saved.push(self.head);
        }
        let (shard, space) = (self.shard, self.id.clone());
        let mark = Change::AddMark(self.head);
        let mut jobs = vec![Job::Commit { shard, ticket: None, space, change: mark }];
        for file in released {
            jobs.push(Job::Release { shard, space: self.id.clone(), file });
        }
        jobs
    }
}

impl Space {
    /// It is durable that a file was let go of: replicas may be told so.
    pub fn released(&mut self, file: u64) {
        if let Some(tracked) = self.files.get_mut(&file) {
            tracked.going = false;
            self.retirements.outdate();
        }
    }

    /// True of a file that was let go of: what the stream has of it is all that
    /// it had.
    pub(super) fn is_let_go(&self, file: u64) -> bool {
        self.files.get(&file).is_some_and(|tracked| tracked.let_go)
    }

    /// Whatever else keeps the bytes of these files on the disk: the map that
    /// extents are sent from, and a walk that stands in one of them, or would
    /// come to it. Whoever asks for what lies before asks again.
    fn close_all(&mut self, files: &BTreeSet<u64>) {
        if self.send_map.as_ref().is_some_and(|(file, _)| files.contains(file)) {
            self.send_map = None;
        }
        let oldest = self.index.oldest().lsn;
        let mut runs = self.runs.iter().filter(|(_, run)| files.contains(&run.file));
        let is_met = |at: u32| runs.any(|(ordinal, run)| ordinal >= at && run.start < oldest);
        if self.earlier.as_ref().map(Earlier::ordinal).is_some_and(is_met) {
            self.earlier = None;
        }
    }
}

/// True if nobody will append to a segment any more that has lost its name.
fn is_left(
    segment: Option<&crate::wal::segment::Segment>,
    idle: Duration,
    writers: &dyn Writers,
) -> bool {
    if idle < RELEASE_PROBE_AFTER {
        return false;
    }
    match segment.map(|segment| writers.has_writer(&segment.file)) {
        Some(Ok(written)) => !written,
        // No answer: time must tell.
        Some(Err(_)) | None => idle >= RELEASE_AFTER,
    }
}
