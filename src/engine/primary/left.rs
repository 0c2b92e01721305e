//! A segment that an earlier process had left for another, and that has grown since, or
//! ends in another record.
//!
//! ```text
//!   stream      |== F =====|== G =====|== H ====> head
//!   remembered     ^  ^    ^          ^        ^
//!   walked again   |------>                    |-->
//!                          ^ until              then F, from its end on
//! ```
//!
//! A writer that is started again after a crash of its host may go on in a segment
//! whose end the crash took: what is in the stream of it is another now, and may be as
//! long. What lies in the segments behind is not looked at for that: they may be many,
//! and damage in them concerns only who needs them.

use std::collections::BTreeMap;

use super::past::undecided;
use super::space::{Space, Tracked, Turn};
use crate::engine::keeper::Job;
use crate::lsn::Lsn;
use crate::state::runs::Run;

impl Space {
    /// The last record that an earlier process is known to have walked of these files is
    /// not there: the one that ended at that position.
    pub fn end_otherwise(&mut self, files: &BTreeMap<u64, Lsn>) {
        for file in files.keys() {
            if let Some(tracked) = self.files.get_mut(file) {
                tracked.otherwise = true;
            }
        }
        // The walk may have begun behind it in the newest, which nothing makes it enter.
        let newest = self.runs.last().and_then(|run| Some((run.segment, *files.get(&run.file)?)));
        let Some((name, at)) = newest else { return };
        let checks = self.past.is_checking() || self.past.is_suspect();
        if checks && self.past.suspect.unwrap_or(self.past.began) < at {
            // It is met again as it is.
            return;
        }
        if self.goes_back_before(at) {
            // A walk that must meet the stream again stays one.
            self.past.until = (!checks).then_some(self.head.lsn);
        } else {
            tracing::warn!(
                space = %self.id,
                "{name} holds another record before {at} than it did, and what lies before \
                 that is gone: it is not compared"
            );
        }
    }

    /// A file has grown that an earlier process had left for another, or ends
    /// otherwise: what the stream has of it may be another now, and as long. True if
    /// that is looked at first, or will be when what is needed for it is open: of the
    /// stream only the part from the last boundary that is remembered of the file to
    /// the end of what it has, however much has come since. Where a file on the way is
    /// gone, nothing speaks against it either.
    pub(super) fn looks_back_at(&mut self, file: u64, jobs: &mut Vec<Job>) -> bool {
        let is_new = |tracked: &&Tracked| tracked.tail.is_none() && !tracked.compared;
        if self.files.get(&file).filter(is_new).is_none() {
            return false;
        }
        let ends = |run: &Run| Some(run.start.advance(run.bytes.filter(|bytes| *bytes > 0)?));
        let runs = self.runs.iter().filter(|(_, run)| run.file == file);
        let Some(end) = runs.filter_map(|(_, run)| ends(run)).max() else { return false };
        let last = Lsn(end.0 - 1);
        let ready = self.ready_between(self.known_before(last).lsn, end, jobs);
        if ready != Ok(false)
            && let Some(tracked) = self.files.get_mut(&file)
        {
            tracked.compared = true;
        }
        if ready == Ok(true) {
            self.suspect(last);
            self.past.until = Some(end);
        }
        ready.is_ok()
    }

    /// The walk has moved. If that was all that was to be looked at, it goes on at the
    /// head.
    pub(super) fn looked(&mut self) {
        let at = self.index.head().lsn;
        if self.past.until.is_none_or(|until| at < until) {
            return;
        }
        if at < self.head.lsn {
            self.go_on_at_the_head();
        } else {
            self.past.until = None;
        }
    }

    /// All that was walked before is known to have been: nothing has to be looked
    /// at again.
    fn go_on_at_the_head(&mut self) {
        self.past.until = None;
        self.past.check(self.head, Vec::new());
        self.walk_from(self.head);
    }

    /// What was to be looked at cannot be. That says nothing against it, and damage
    /// in an earlier part concerns only who needs it: the walk goes on at the head, or
    /// the stream ends where it would have ended without that, unless another record
    /// than the one that was there shows that it must not. False if it is a walk that
    /// must meet the stream again.
    pub(super) fn looks_no_further(&mut self, why: &str, turn: &mut Turn) -> bool {
        if let Some((_, sure)) = self.past.instead {
            if self.is_another_before(&sure) {
                let why = undecided(sure.lsn, why);
                self.stop(why);
            } else {
                self.end_instead(turn);
            }
            return true;
        }
        let Some(until) = self.past.until else { return false };
        let end = if until == self.head.lsn { self.head } else { self.known_before(until) };
        if end.lsn == until && self.is_another_before(&end) {
            let why = undecided(until, why);
            self.stop(why);
            return true;
        }
        tracing::warn!(
            space = %self.id,
            "a segment was written to since another process had walked it, and whether it still \
             holds what is in the stream of it cannot be told: {why}"
        );
        self.past.suspect = None;
        self.go_on_at_the_head();
        true
    }
}
