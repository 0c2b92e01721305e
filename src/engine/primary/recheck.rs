//! A walk over what was walked before: where it begins, and what follows where it does
//! not meet all of that.
//!
//! ```text
//!   remembered   ^M0         ^M1         ^M2     ^head
//!   suspected                       ^
//!   first walk               |------~~ ends early, and has met nothing
//!   second       |-----------|------~~ M1 is met: an epoch begins behind it
//! ```
//!
//! That a walk can begin at a boundary tells nothing of it: a crash may have taken more,
//! and others of the same length end there. So one that has met nothing goes back, to a
//! boundary before. Where that cannot be walked, the first one must do.

use std::io;

use super::past::undecided;
use super::retention::Unresumable;
use super::space::{Space, Turn};
use crate::engine::recovery::{is_within_record, record_before, stands_before};
use crate::lsn::{Lsn, Mark};
use crate::wal::index::Index;

impl Space {
    /// Begin the walk anew at an earlier boundary. It must meet the later ones
    /// that are remembered.
    pub(super) fn rewind(&mut self, start: Mark) {
        let mut remembered = self.saved.clone();
        remembered.push(self.head);
        self.past.check(start, remembered);
        self.walk_from(start);
        for (ordinal, run) in self.runs.iter() {
            let Some(file) = self.files.get_mut(&run.file) else { continue };
            let end = match run.bytes {
                Some(bytes) if ordinal < self.ordinal => run.offset + bytes,
                _ if ordinal == self.ordinal => run.offset + start.lsn.bytes_since(run.start),
                _ => continue,
            };
            file.walked = file.walked.max(end);
        }
        // Whatever lies behind has to be looked at again.
        self.touch(None);
    }

    /// Set the walk to a boundary.
    pub(super) fn walk_from(&mut self, start: Mark) {
        self.index = Index::new(start);
        self.earlier = None;
        self.cursor = None;
        self.ordinal = self.runs.locate(start.lsn).map_or(self.runs.first(), |(o, _)| o);
    }

    /// Go back to a boundary well before what is suspected, and walk from there
    /// over everything that is remembered, and around what was let go of.
    pub(super) fn recheck(&mut self, turn: &mut Turn) {
        let Some(lsn) = self.past.suspect else { return };
        let mut remembered = self.saved.clone();
        remembered.extend(self.past.checks.iter());
        // Behind what was met it is not known to be what it was.
        let met = if self.past.is_checking() { self.past.sure.lsn } else { self.head.lsn };
        remembered.extend(self.index.boundaries().filter(|mark| mark.lsn <= met));
        // One of them lies behind whatever was let go of.
        remembered.extend(self.begins.values());
        remembered.push(self.head);
        let until = self.past.until.unwrap_or(Lsn(u64::MAX));
        remembered.retain(|mark| mark.lsn <= until);
        remembered.sort_by_key(|mark| mark.lsn);
        remembered.dedup_by_key(|mark| mark.lsn);
        let before = remembered.partition_point(|mark| mark.lsn <= lsn);
        // The last one before is met again on the way, if its files are there.
        let back = |by| before.checked_sub(by).map_or(Mark::START, |at| remembered[at]);
        let (farther, start) = (back(2), back(1));
        let mut ready = |from: Mark| self.ready_around(from.lsn..until, lsn, &mut turn.jobs);
        let found = ready(farther).map(|ready| (farther, ready));
        match found.or_else(|_| ready(start).map(|ready| (start, ready))) {
            Ok((_, false)) => {}
            Ok((start, true)) => {
                self.past.suspect = None;
                self.rewind(start);
                self.past.check(start, remembered);
            }
            Err(Unresumable::Unreadable(why)) => {
                if !self.looks_no_further(&why, turn) {
                    self.stop(why);
                }
            }
            Err(Unresumable::Gone(why)) => {
                if !self.looks_no_further(&why, turn) {
                    self.stop(undecided(lsn, &why));
                }
            }
        }
    }

    /// Nothing holds at the boundary where a walk over what was walked before has
    /// begun. It may be none any more: true if the walk goes back farther, where it
    /// can. What is damaged is met by a walk that begins before it.
    pub(super) fn goes_back_farther(&mut self) -> bool {
        let at = self.index.head().lsn;
        self.past.is_checking() && self.past.began == at && self.goes_back_before(at)
    }

    /// Nothing holds where a run begins, and a record that does lies across: that is no
    /// damage, the file was written over from farther before. True if what was there, or
    /// what an earlier process may have shipped from there, is to be given up.
    pub(super) fn is_written_over(&mut self, offset: u64, turn: &mut Turn) -> bool {
        let run = self.runs.get(self.ordinal).filter(|run| run.offset == offset && offset > 0);
        let doubted = self.past.is_checking() || self.past.is_unsure(self.index.head().lsn);
        // It reads backwards as far as a record can be long: once in a walk.
        if run.is_none() || !doubted || self.past.across == Some(self.ordinal) {
            return false;
        }
        self.past.across = Some(self.ordinal);
        let is_it = self.segment_of(self.ordinal).is_some_and(|segment| {
            is_within_record(&*segment.file, offset, self.checksums).unwrap_or(false)
        });
        if is_it {
            self.ended_early(turn);
        }
        is_it
    }

    /// Have the walk begin before a boundary. True if it can.
    pub(super) fn goes_back_before(&mut self, at: Lsn) -> bool {
        if at == Lsn::ZERO {
            return false;
        }
        let before = Lsn(at.0 - 1);
        let can = self.gone_between(self.known_before(before).lsn, at).is_none();
        if can {
            let (until, instead) = (self.past.until, self.past.instead);
            self.suspect(before);
            (self.past.until, self.past.instead) = (until, instead);
        }
        can
    }

    /// The walk over what was walked before has come to its end without meeting
    /// all of it: the rest is not there any more.
    pub(super) fn ended_early(&mut self, turn: &mut Turn) {
        // Where the walk only began, nothing was met: others may end there by chance.
        let sure = self.past.sure.lsn;
        self.past.instead = Some(self.end());
        if sure > self.past.began || !self.goes_back_before(sure) {
            self.end_instead(turn);
        }
    }

    /// Where the walk over what was walked before has ended, and up to where the stream
    /// is sure.
    fn end(&self) -> (Mark, Mark) {
        let (sure, at) = (self.past.sure, self.index.head());
        let at = if self.past.missed || at.lsn < sure.lsn { sure } else { at };
        (at, sure)
    }

    /// Whether another record than the one that ended at a boundary stands there, or lies
    /// across. One that does not hold tells nothing.
    pub(super) fn is_another_before(&self, mark: &Mark) -> bool {
        let last = mark.lsn.0.checked_sub(1).and_then(|byte| self.runs.locate(Lsn(byte)));
        let Some((ordinal, offset)) = last else { return false };
        let (run, segment) = (self.runs.get(ordinal), self.segment_of(ordinal));
        run.zip(segment).is_some_and(|(run, segment)| {
            let (file, end) = (&*segment.file, offset + 1);
            let is_another = || -> io::Result<bool> {
                Ok(!stands_before(file, run.offset, end, mark, self.checksums)?
                    && (record_before(file, run.offset, end, self.checksums)?.is_some()
                        || is_within_record(file, end, self.checksums)?))
            };
            is_another().unwrap_or(false)
        })
    }

    /// The stream ends where a walk over what was walked before came to its end. True if
    /// one did.
    pub(super) fn end_instead(&mut self, turn: &mut Turn) -> bool {
        let Some((at, sure)) = self.past.instead else { return false };
        let sure = sure.lsn;
        let from = self.past.unsure.map_or(sure, |(from, _)| from.min(sure));
        self.past.unsure = Some((from, at.lsn)).filter(|(from, to)| from < to);
        // What was met last is what it was. A crash may have taken more, and the writer
        // have begun anew behind it.
        self.begin_epoch(at, sure.min(at.lsn), turn);
        true
    }

    /// The file of this run does not exist any more: its name was not on the disk
    /// when the host went down, or nothing kept it when that was taken away.
    pub(super) fn lost_file(&mut self, turn: &mut Turn) {
        let Some(run) = self.runs.get(self.ordinal).copied() else { return };
        let why = format!("{} has vanished with all that was in the stream of it", run.segment);
        tracing::error!(space = %self.id, head = %self.head.lsn, "{why}");
        if self.ordinal + 1 < self.runs.len() {
            // Of the newest it was told when it could not be opened.
            self.notice_gone(why, true);
        }
        if self.index.head().lsn > run.start {
            self.suspect(run.start);
        } else {
            // What lies before it is walked in the new epoch.
            self.past.instead = Some(self.end());
            self.end_instead(turn);
        }
    }
}
