//! The walk of a space: from the newest boundary to the end of what is there.

use std::sync::Arc;
use std::time::Instant;

use super::ahead::Ahead;
use super::space::{Space, Turn};
use crate::engine::keeper::Job;
use crate::limits::MAX_WALK_BYTES_PER_TURN;
use crate::lsn::{Chain, Lsn, Mark};
use crate::state::catalog::Change;
use crate::state::runs::Run;
use crate::wal::cursor::{Advance, Cursor, Stop};
use crate::wal::segment::Segment;

/// The last record that was walked in a file: what must still be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Where its header is.
    pub(super) offset: u64,
    /// The chain before it, and behind it.
    pub(super) before: Chain,
    pub(super) after: Chain,
}

impl Space {
    /// Walk some of what is new.
    pub fn advance(&mut self, now: Instant) -> Turn {
        let mut turn = Turn::default();
        if self.wants_walk() {
            self.advance_head(now, &mut turn);
        }
        if self.wants_earlier() {
            self.advance_earlier(&mut turn);
        }
        turn.more = self.wants_turn();
        self.note_end();
        if self.is_walked() {
            self.bound_doubt();
        }
        if turn.moved {
            self.sample(now);
            self.save(&mut turn);
        }
        turn
    }

    /// The walk that moves the head.
    fn advance_head(&mut self, now: Instant, turn: &mut Turn) {
        let before = self.head.lsn;
        let mut budget = MAX_WALK_BYTES_PER_TURN;
        self.look_back(turn);
        while budget > 0 && self.problem.is_none() && turn.turned.is_none() {
            if self.past.is_suspect() {
                self.recheck(turn);
                if self.past.is_suspect() {
                    break;
                }
            }
            if self.cursor.is_none() && !self.enter(now, turn) {
                break;
            }
            let cursor = self.cursor.as_mut();
            if cursor.is_some_and(|cursor| self.ahead.of(cursor, &mut turn.prefetch)) {
                break;
            }
            let walked = self.walk(budget, now, turn);
            budget = budget.saturating_sub(walked.max(1));
        }
        turn.moved = self.head.lsn > before;
    }

    /// The limit of the run that is being walked, as an offset in its file.
    fn run_end(&self) -> Option<u64> {
        let run = self.runs.get(self.ordinal)?;
        run.bytes.map(|bytes| run.offset + bytes)
    }

    /// Set the cursor where the walk goes on. False when there is nothing to
    /// walk now.
    fn enter(&mut self, now: Instant, turn: &mut Turn) -> bool {
        let at = self.index.head();
        let live = self.ordinal + 1 >= self.runs.len();
        let current = self.runs.get(self.ordinal).copied();
        if !live && current.is_some_and(|run| run.bytes == Some(0)) {
            // Nothing of the stream lies in it, and its file may be gone.
            self.index.push_boundary();
            self.ordinal += 1;
            return true;
        }
        let current_file = current.map(|run| run.file);
        let file = if live {
            // The present file first: a change of file begins a run.
            let touched = |file: u64| self.files.get(&file).is_some_and(|f| f.touched);
            if self.damage.is_some() && !current_file.is_some_and(touched) {
                // Nothing behind the damage is shipped before it is dealt with.
                return false;
            }
            match current_file.filter(|file| touched(*file)) {
                Some(file) => file,
                None => match self.files.iter().find(|(_, f)| f.touched) {
                    Some((file, _)) => *file,
                    None => return false,
                },
            }
        } else {
            match current_file {
                Some(file) => file,
                None => return false,
            }
        };
        let Some(tracked) = self.files.get_mut(&file) else {
            self.stop(format!("file {file} of the catalog is unknown"));
            return false;
        };
        let Some(segment) = tracked.segment.clone() else {
            tracked.touched = false;
            let ended = tracked.let_go && live && !self.past.is_checking();
            if tracked.gone && (ended || current_file != Some(file)) {
                // All that it had is in the stream.
                return true;
            }
            if tracked.lost && (live || self.past.is_checking()) {
                self.lost_file(turn);
                return false;
            }
            if tracked.let_go && self.past.is_checking() {
                return self.pass_gap(turn);
            }
            if tracked.gone {
                let name = tracked.name;
                self.stop(format!(
                    "{name} is gone, and so is its pin: what it held behind {} can no longer be \
                     shipped",
                    at.lsn
                ));
                return false;
            }
            // The walk waits for the answer; asking again in every turn would
            // keep a core busy and fill the keeper's queue.
            self.opening += 1;
            turn.jobs.push(Job::OpenSegment { shard: self.shard, space: self.id.clone(), file });
            return false;
        };
        let offset = if live && current_file != Some(file) {
            let in_stream = self.runs.latest_in(file).is_some();
            // However long it is.
            if in_stream && tracked.otherwise && self.looks_back_at(file, &mut turn.jobs) {
                return self.past.is_suspect();
            }
            let Some(tracked) = self.files.get_mut(&file) else { return false };
            let length = match segment.len() {
                Ok(length) => length,
                Err(error) => {
                    self.stop(format!("cannot look at {}: {error}", segment.name));
                    return false;
                }
            };
            let offset = tracked.walked;
            if in_stream && length == offset {
                tracked.touched = false;
                self.unfinished.remove(&file);
                return true;
            }
            let run = Run { start: at.lsn, segment: segment.name, file, offset, bytes: None };
            // A partial record alone is no reason to leave the present run.
            if in_stream && !self.has_record(&segment, offset, at) {
                if let Some(tracked) = self.files.get_mut(&file) {
                    tracked.touched = false;
                }
                self.left(file, now);
                return true;
            }
            if in_stream && self.looks_back_at(file, &mut turn.jobs) {
                return self.past.is_suspect();
            }
            self.unfinished.remove(&file);
            if let Some(current) = current_file {
                self.left(current, now);
            }
            self.index.push_boundary();
            if !in_stream {
                // A replica may have to be filled anew from there.
                self.begins.insert(file, at);
                turn.jobs.push(Job::Commit {
                    shard: self.shard,
                    ticket: None,
                    space: self.id.clone(),
                    change: Change::Begin { file, mark: at },
                });
            }
            self.ordinal = self.runs.open(run);
            self.remember(at, turn);
            turn.jobs.push(Job::Commit {
                shard: self.shard,
                ticket: Some(super::run_ticket(self.handle, self.ordinal)),
                space: self.id.clone(),
                change: Change::OpenRun(run),
            });
            offset
        } else {
            let Some(run) = current else { return false };
            run.offset + at.lsn.bytes_since(run.start)
        };
        self.ahead = Ahead::from(offset);
        self.cursor = Some(Cursor::new(segment, offset, at, self.checksums));
        true
    }

    /// True if a whole record lies there.
    pub(super) fn has_record(&self, segment: &Arc<Segment>, offset: u64, at: Mark) -> bool {
        let mut found = false;
        let mut cursor = Cursor::new(segment.clone(), offset, at, self.checksums);
        let stop = cursor.advance(1, &mut |_| found = true).stop;
        found || matches!(stop, Stop::Corrupt { .. } | Stop::Shrunk { .. })
    }

    /// One step of the cursor. Returns the bytes walked.
    fn walk(&mut self, budget: u64, now: Instant, turn: &mut Turn) -> u64 {
        let end = self.run_end();
        let Some(cursor) = &mut self.cursor else { return 0 };
        let room = end.map_or(budget, |end| budget.min(end.saturating_sub(cursor.offset())));
        let (index, past) = (&mut self.index, &mut self.past);
        let advance = if room > 0 {
            let (from, mut first) = (index.head().lsn, None);
            let advance = cursor.advance(room, &mut |mark| {
                if past.meets(mark) {
                    first.get_or_insert(mark.sequence);
                    index.push(*mark);
                }
            });
            self.first = first.map(|sequence| (from, sequence)).or(self.first);
            advance
        } else {
            Advance { bytes: 0, stop: Stop::Budget }
        };
        let offset = cursor.offset();
        let name = cursor.segment().name;
        let (after, last) = (cursor.mark().chain, cursor.last_record());
        if self.has_missed() {
            self.ended_early(turn);
            return budget;
        }
        if advance.bytes > 0
            && let Some(damage) = self.damage.take()
        {
            tracing::warn!(space = %self.id, "no longer so: {damage}");
            self.debris = None;
        }
        self.head =
            if self.index.head().lsn > self.head.lsn { self.index.head() } else { self.head };
        let file = self.runs.get(self.ordinal).map(|run| run.file);
        if let Some(tracked) = file.and_then(|file| self.files.get_mut(&file)) {
            if let Some((at, before)) = last.filter(|_| offset >= tracked.walked) {
                tracked.tail = Some(Tail { offset: at, before, after });
            }
            tracked.walked = tracked.walked.max(offset);
            if advance.bytes > 0 {
                tracked.grown_at = Some(now);
            }
        }
        if let Some(end) = end {
            // A part of the stream that was walked before.
            if offset == end {
                self.index.push_boundary();
                self.ordinal += 1;
                self.cursor = None;
                self.looked();
            } else if offset > end
                || matches!(advance.stop, Stop::End | Stop::Incomplete { .. } | Stop::Shrunk { .. })
            {
                // The run ended at a boundary once.
                if offset > end {
                    self.past.miss();
                }
                self.ended_early(turn);
                return budget;
            } else if !matches!(advance.stop, Stop::Budget) {
                let is_none = match advance.stop {
                    Stop::Corrupt { offset, .. } => {
                        self.goes_back_farther() || self.is_written_over(offset, turn)
                    }
                    _ => false,
                };
                let why = format!("{name}: {:?}", advance.stop);
                if !is_none && !self.looks_no_further(&why, turn) {
                    self.stop(format!(
                        "{name} no longer holds what was shipped of it: a run ends at offset \
                         {end}, and the records up to {offset} end differently ({:?}); the file \
                         was changed behind the stream",
                        advance.stop
                    ));
                }
            }
            return advance.bytes;
        }
        self.looked();
        match advance.stop {
            // A search that is not at its end: that was this turn's work.
            Stop::Budget | Stop::Corrupt { more: true, .. } if advance.bytes == 0 => {
                return budget;
            }
            Stop::Budget => {}
            Stop::End | Stop::Incomplete { .. } if self.past.is_checking() => {
                self.ended_early(turn);
                return budget;
            }
            Stop::End | Stop::Incomplete { .. } => {
                if let Some(tracked) = file.and_then(|file| self.files.get_mut(&file)) {
                    tracked.touched = false;
                }
                // Keep the cursor and its map while the file stays current.
                if self.has_touched() {
                    self.cursor = None;
                }
                return advance.bytes.max(budget);
            }
            Stop::Corrupt { more: true, .. } => {}
            Stop::Corrupt { offset, .. }
                if self.goes_back_farther() || self.is_written_over(offset, turn) => {}
            Stop::Corrupt { offset, error, .. }
                if self.looks_no_further(&format!("{name}, offset {offset}: {error}"), turn) => {}
            Stop::Corrupt { offset, error, resync, .. } => {
                let next = resync.map_or_else(
                    || "no valid record follows yet".to_owned(),
                    |at| format!("the next valid record is at offset {at}"),
                );
                let damage = format!(
                    "{name} is damaged at offset {offset}: {error}; {next}; nothing behind it is \
                     shipped. Look at it with: saltus wal verify {}",
                    self.directory.join(name.to_string()).display()
                );
                if self.damage.as_ref() != Some(&damage) {
                    tracing::error!(space = %self.id, head = %self.head.lsn, "{damage}");
                    self.damage = Some(damage);
                }
                self.found_debris(now, offset, resync, error);
                if let Some(tracked) = file.and_then(|file| self.files.get_mut(&file)) {
                    tracked.touched = false;
                }
                return advance.bytes.max(budget);
            }
            // Noticed between two looks, or from a boundary that is gone.
            Stop::Shrunk { len } => {
                let lost = file.and_then(|file| self.lsn_of(file, len));
                self.suspect(lost.unwrap_or(Lsn::ZERO));
                return advance.bytes;
            }
            Stop::Failed { offset, error } => {
                let why = format!("{name} cannot be read at offset {offset}: {error}");
                if !self.looks_no_further(&why, turn) {
                    self.stop(why);
                }
            }
        }
        advance.bytes
    }
}
