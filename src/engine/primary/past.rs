//! What a space knows of its own past, and how it notices that the source was
//! changed behind it (T6).
//!
//! ```text
//!   stream     |=======|=======|=======|====> head
//!   remembered         ^sure   ^       ^      boundaries with their chains
//!   source     |=======|===~~~~~~~~             the tail was lost, or is another
//!                          ^ a new epoch begins
//! ```
//!
//! A file is looked at whenever it was touched: it may not be shorter than what
//! was walked of it, and the last record must be the one that was walked.
//! Whenever a part of the stream is walked again, it must meet the boundaries
//! that were remembered of it. If it does not, the stream is cut at the last
//! boundary that it still has, and a new epoch begins there: durable first, then
//! the replicas are told, and cut what they have beyond it.
//!
//! Damage is no change of that kind: it stops the walk, and cuts nothing.
//!
//! After a restart nobody here knows what earlier processes shipped. There a
//! replica's word counts: it holds what was shipped to it. What this process
//! was the first to ship is another matter: if a replica holds other records
//! of that, and the source is what it was, nothing is cut.

use std::collections::VecDeque;

use super::fenced;

use super::space::{Space, Turn, Turned};
use super::walk::Tail;
use crate::engine::keeper::Job;
use crate::ids::Epoch;
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Standing;
use crate::protocol::sender::Found;
use crate::state::catalog::{Change, SpaceRecord};

/// The past of one space.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The epochs, and where each began.
    pub(super) history: Vec<(Epoch, Lsn)>,
    /// The highest one ever heard of; 0 before the catalog has answered.
    highest: u64,
    /// Boundaries that the present walk must meet again.
    pub(super) checks: VecDeque<Mark>,
    /// One of them was missed.
    pub(super) missed: bool,
    /// The last one that was met, or where the walk began.
    pub(super) sure: Mark,
    /// Where the present walk began. Nothing was met yet while `sure` is there.
    pub(super) began: Lsn,
    /// The run before whose beginning a record was looked for that lies across it.
    pub(super) across: Option<u32>,
    /// Where an epoch would have begun if the walk had not gone back to meet the
    /// boundary before it, and up to where the stream was sure.
    pub(super) instead: Option<(Mark, Mark)>,
    /// The part of the stream that only replicas know: shipped, perhaps, by an
    /// earlier process.
    pub(super) unsure: Option<(Lsn, Lsn)>,
    /// Something before this was changed: the stream has to be walked again.
    pub(super) suspect: Option<Lsn>,
    /// The walk over what was walked before goes no further than to here: one file
    /// is looked at that may have changed.
    pub(super) until: Option<Lsn>,
    /// The catalog is being told of a new epoch.
    turning: bool,
    /// The last boundary that the catalog remembered at the start, or that was met
    /// again before an epoch began: what a replica had acknowledged up to there is of
    /// this stream.
    pub(super) vouched: Lsn,
}

/// What becomes of a space whose replica holds other records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new epoch begins: stop the space on all links, and open it again once
    /// the keeper has answered.
    NewEpoch,
    /// The walk is on its way: ask again when it has moved.
    Wait,
    /// The source is walked again for this: ask again when that is done.
    Look,
    /// The source is what it was. It is the replica that holds something else.
    Replica,
    /// It holds something else, and what could tell from where on was let go of:
    /// why it is not here.
    Incomparable(String),
}

impl Past {
    /// Whether the walk, being at `mark`, is where it was before.
    #[inline]
    pub(super) fn meets(&mut self, mark: &Mark) -> bool {
        self.checks.is_empty() || self.compare(mark)
    }

    #[cold]
    fn compare(&mut self, mark: &Mark) -> bool {
        if let Some(next) = self.checks.front()
            && mark.lsn >= next.lsn
        {
            if (mark.lsn, mark.chain) != (next.lsn, next.chain) {
                self.missed = true;
            } else if !self.missed {
                self.sure = *next;
                self.checks.pop_front();
                self.instead = self.instead.filter(|_| !self.checks.is_empty());
            }
        }
        !self.missed
    }

    /// The walk has gone past a boundary that cannot be missed.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    /// The walk goes over what was walked before.
    pub(super) fn is_checking(&self) -> bool {
        !self.checks.is_empty() || self.until.is_some()
    }

    /// An earlier process may have shipped what comes behind this position.
    pub(super) fn is_unsure(&self, lsn: Lsn) -> bool {
        self.unsure.is_some_and(|(from, to)| (from..=to).contains(&lsn))
    }

    pub(super) fn is_turning(&self) -> bool {
        self.turning
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// The boundary at `end` and those behind it, of the ones that the walk must
    /// meet, if it has met the one at `at`, where it is.
    pub(super) fn passed(&self, at: Lsn, end: Lsn) -> Option<(Mark, Vec<Mark>)> {
        let behind = self.checks.iter().position(|mark| mark.lsn == end)?;
        let rest: Vec<_> = self.checks.range(behind..).copied().collect();
        (self.sure.lsn == at).then(|| (rest[0], rest))
    }

    /// The walk begins anew at `start`, and must meet these.
    pub(super) fn check(&mut self, start: Mark, mut remembered: Vec<Mark>) {
        remembered.sort_by_key(|mark| mark.lsn);
        remembered.dedup_by_key(|mark| mark.lsn);
        remembered.retain(|mark| mark.lsn > start.lsn);
        self.checks = remembered.into();
        self.instead = self.instead.filter(|_| !self.checks.is_empty());
        self.missed = false;
        (self.sure, self.began, self.across) = (start, start.lsn, None);
    }
}

/// Why a space stops where a crash took something that cannot be compared.
pub(super) fn undecided(lsn: Lsn, why: &str) -> String {
    format!(
        "the source may not hold any more what was in the stream at {lsn}, and where a new epoch \
         could begin cannot be found out: {why}. Nothing is cut, and replicas keep what they have: \
         stop the database, and promote one of them"
    )
}

impl Space {
    /// The epochs, and where each began.
    #[must_use]
    pub fn history(&self) -> &[(Epoch, Lsn)] {
        &self.past.history
    }

    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.past.history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch)
    }

    /// The highest epoch ever heard of.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        self.epoch().max(Epoch(self.past.highest))
    }

    /// Another primary reigns: nothing of the space is shipped from here.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.known && self.highest_epoch() > self.epoch()
    }

    /// A replica has seen a higher epoch. Nothing unfences the space but a
    /// person, not a restart either: the epoch goes into the catalog.
    pub fn fence(&mut self, highest: Epoch, jobs: &mut Vec<Job>) {
        if highest <= self.highest_epoch() {
            return;
        }
        self.past.highest = highest.0;
        self.cursor = None;
        tracing::error!(space = %self.id, "{}", fenced(self.epoch(), highest));
        let (shard, space) = (self.shard, self.id.clone());
        let change = Change::SawEpoch(highest);
        jobs.push(Job::Commit { shard, ticket: None, space, change });
    }

    /// The epochs of the catalog's record, at start-up or after a change.
    pub(super) fn learn_epochs(&mut self, record: &SpaceRecord) {
        self.past.history.clone_from(&record.history);
        self.past.highest = record.highest_epoch.0;
    }

    /// After a start: only replicas know what earlier processes shipped. A
    /// saved boundary vouches for what the process that saved it read, and a
    /// replica that was away may hold what another one shipped.
    pub(super) fn doubt_tail(&mut self) {
        self.past.unsure = (!self.runs.is_empty()).then_some((Lsn::ZERO, Lsn(u64::MAX)));
    }

    /// What was read at the start ends here; what comes now is shipped by this
    /// process.
    pub(super) fn bound_doubt(&mut self) {
        if let Some((_, to)) = &mut self.past.unsure
            && *to == Lsn(u64::MAX)
        {
            *to = self.head.lsn;
        }
    }

    /// Look whether the files that were touched still hold what was walked.
    pub(super) fn look_back(&mut self, turn: &mut Turn) {
        if self.past.is_checking() {
            return;
        }
        let mut changed: Option<(Lsn, bool, String)> = None;
        let mut shorter = Vec::new();
        for (file, tracked) in self.files.iter().filter(|(_, tracked)| tracked.touched) {
            let Some(segment) = &tracked.segment else { continue };
            // An error shows when the walk gets there.
            let Ok(length) = segment.len() else { continue };
            // All runs are gone through for it: only where it matters.
            let needs = (length < tracked.walked).then(|| self.needs(*file));
            if needs.is_some_and(|needs| needs <= length) {
                // What was left out of the stream, and is not there any more.
                shorter.push((*file, length));
            }
            let found = if needs.is_some_and(|needs| length < needs) {
                let why = format!(
                    "{} is {length} bytes long, and {} of it were in the stream",
                    tracked.name, tracked.walked
                );
                Some((length, self.reach_in(*file) <= length, why))
            } else {
                let other = |tail: &Tail| {
                    let there = segment.header_bytes_at(tail.offset);
                    there.is_ok_and(|raw| tail.before.extend(&raw) != tail.after)
                };
                tracked.tail.filter(other).map(|tail| {
                    (
                        tail.offset,
                        false,
                        format!("{} holds another record at offset {}", tracked.name, tail.offset),
                    )
                })
            };
            if let Some((offset, place, why)) = found
                && let Some(lsn) = self.lsn_of(*file, offset)
                && changed.as_ref().is_none_or(|(first, ..)| lsn < *first)
            {
                changed = Some((lsn, place, why));
            }
        }
        for (file, length) in shorter {
            if let Some(tracked) = self.files.get_mut(&file) {
                tracked.walked = length;
            }
        }
        if let Some((lsn, place, why)) = changed {
            tracing::error!(space = %self.id, head = %self.head.lsn, "the source was changed behind the stream: {why}");
            match self.mark_at(lsn) {
                // Every record is there; the place behind something that was
                // left out, where the stream was to go on, is not.
                Some(Found::Mark(mark)) if place => self.begin_epoch(mark, mark.lsn, turn),
                _ => self.suspect(lsn),
            }
        }
    }

    /// Up to where the bytes of the stream reach in a file.
    fn reach_in(&self, file: u64) -> u64 {
        let runs = self.runs.iter().map(|(_, run)| run).filter(|run| run.file == file);
        runs.map(|run| run.reach(self.head.lsn)).max().unwrap_or(0)
    }

    /// How long a file must be for all of it that is in the stream to be there,
    /// and the place where the stream goes on.
    fn needs(&self, file: u64) -> u64 {
        let last = self.runs.last().filter(|run| run.file == file);
        self.reach_in(file).max(last.map_or(0, |run| run.offset))
    }

    /// Where in the stream the first byte at or behind an offset of a file is.
    pub(super) fn lsn_of(&self, file: u64, offset: u64) -> Option<Lsn> {
        let walked = self.files.get(&file)?.walked;
        let runs = self.runs.iter().map(|(_, run)| run).filter(|run| run.file == file);
        let behind = runs.filter(|run| {
            let end = run.bytes.map_or(walked, |bytes| run.offset + bytes);
            end > offset
        });
        behind.map(|run| run.start.advance(offset.saturating_sub(run.offset))).min()
    }

    /// The stream at or behind `lsn` may not be what it was.
    pub(super) fn suspect(&mut self, lsn: Lsn) {
        let before = self.past.suspect.unwrap_or(lsn);
        self.past.suspect = Some(lsn.min(before));
        (self.past.until, self.past.instead) = (None, None);
        self.cursor = None;
    }

    /// The walk is where it was before, and nothing is in doubt.
    pub(super) fn is_settled(&self) -> bool {
        let past = &self.past;
        let sure = !past.is_checking() && past.suspect.is_none() && !past.turning;
        sure && self.known && !self.is_fenced()
    }

    /// The stream is about to be cut at a boundary, in a new epoch. What lies
    /// behind is then shipped by this process.
    pub(super) fn turn_at(&mut self, at: Mark) {
        self.past.turning = true;
        self.past.unsure = (self.past.unsure)
            .map(|(from, to)| (from, to.min(at.lsn)))
            .filter(|(from, to)| from < to);
        self.cursor = None;
    }

    /// No new epoch begins after all.
    pub(super) fn go_on(&mut self) {
        self.past.turning = false;
    }

    /// The walk has passed a boundary that is another one now.
    pub(super) fn has_missed(&self) -> bool {
        self.past.missed
    }

    /// Cut the stream, and have a new epoch begin there. Up to `sure` it is known to
    /// be what it was.
    pub(super) fn begin_epoch(&mut self, at: Mark, sure: Lsn, turn: &mut Turn) {
        let lost = self.head.lsn.bytes_since(at.lsn);
        tracing::error!(
            space = %self.id,
            at = at.lsn.0,
            head = self.head.lsn.0,
            "the source no longer holds the last {lost} bytes of the stream: a new epoch begins \
             where it still does, and replicas put what they have beyond it into their quarantine"
        );
        let runs = self.runs.iter().filter(|(_, run)| run.start < at.lsn).count();
        self.past.turning = true;
        self.past.vouched = self.past.vouched.min(sure);
        self.past.checks.clear();
        self.past.missed = false;
        (self.past.suspect, self.past.until, self.past.instead) = (None, None, None);
        self.cursor = None;
        let (shard, space) = (self.shard, self.id.clone());
        let runs = u32::try_from(runs).unwrap_or(u32::MAX);
        turn.jobs.push(Job::BeginEpoch { shard, space, at, sure, runs });
        turn.turned = Some(Turned { at, sure });
    }

    /// The new epoch is durable: the stream goes on from there.
    pub fn reign(&mut self, record: SpaceRecord) {
        self.past.turning = false;
        self.taken.iter_mut().for_each(|taken| taken.cut = true);
        self.learn_epochs(&record);
        let start = self.past.history.last().map_or(Lsn::ZERO, |(_, start)| *start);
        let mark = record.marks.iter().rev().find(|mark| mark.lsn == start);
        let mark = mark.copied().unwrap_or(Mark::START);
        self.durable_runs = record.runs.len();
        self.runs = record.runs;
        self.saved = record.marks;
        self.begins = record.begins;
        self.holes = record.holes;
        // Whether they hold is found out again.
        drop(self.blocks.split_off(&start));
        self.debris = None;
        for tracked in self.files.values_mut() {
            tracked.walked = 0;
            (tracked.tail, tracked.grown_at, tracked.retire_after) = (None, None, None);
            tracked.compared = false;
        }
        (self.head, self.first, self.damage, self.send_map) = (mark, None, None, None);
        self.samples.clear();
        self.retirements.outdate();
        // From a boundary before it in the same file, if there is one: then the
        // last record is known, and its change is noticed.
        let before = self.saved.iter().rev().find(|known| known.lsn < start).copied();
        let before = before.unwrap_or(Mark::START);
        // What was let go of is what it was: the stream goes on at its end.
        let within = (self.runs.last())
            .is_some_and(|run| run.start <= before.lsn && !self.is_let_go(run.file));
        self.rewind(if within && before.lsn < start { before } else { mark });
    }

    /// The new epoch could not be made durable.
    pub fn cannot_reign(&mut self, why: String) {
        self.past.turning = false;
        self.stop(why);
    }

    /// A replica holds other records than this space from `common` on, and the
    /// epochs do not explain it. `looked`: the source was walked again for it.
    pub fn judge(
        &mut self,
        common: Mark,
        standing: &Standing,
        looked: bool,
        turn: &mut Turn,
    ) -> Verdict {
        let walking = self.past.is_checking() || self.past.is_suspect() || !self.is_walked();
        if self.past.turning || (walking && self.problem.is_none()) {
            return Verdict::Wait;
        }
        if self.problem.is_some() || self.damage.is_some() {
            return Verdict::Replica;
        }
        if let Some(why) = self.gone_from(common.lsn) {
            // Where nothing could be compared, nothing is known to differ either:
            // the search has ended at what was let go of.
            return Verdict::Incomparable(why);
        }
        if let Some((from, to)) = self.past.unsure
            && (from..=to).contains(&common.lsn)
        {
            tracing::error!(
                space = %self.id,
                common = common.lsn.0,
                replica = standing.flushed.0,
                "a replica holds what this node shipped before it was started, and the source is \
                 another from there on"
            );
            self.past.unsure = Some((from, common.lsn));
            self.begin_epoch(common, common.lsn, turn);
            return Verdict::NewEpoch;
        }
        if looked {
            return Verdict::Replica;
        }
        self.suspect(common.lsn);
        Verdict::Look
    }
}
