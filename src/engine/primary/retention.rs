//! Which segments are still needed, and which are still there.
//!
//! A pin keeps a segment that the database has unlinked for as long as a
//! replica may ask for it. It is let go once nobody can: every replica that is
//! configured has made all of it durable, its name is gone, and nothing was
//! appended to it for a while. (A writer may go on with a file whose name is
//! gone: its descriptor here stays open, so that is still noticed and shipped.)

use std::time::Instant;

use super::space::Space;
use crate::engine::keeper::Job;
use crate::limits::RELEASE_AFTER;
use crate::lsn::Lsn;
use crate::state::catalog::Change;

impl Space {
    /// True if every file from the run at `from` on is open, so that the walk
    /// can begin there again. Asks for those that are not.
    ///
    /// # Errors
    ///
    /// One of them is gone: what it held cannot be shipped again.
    pub(super) fn ready_from(&mut self, from: Lsn, jobs: &mut Vec<Job>) -> Result<bool, String> {
        let first = self.runs.locate(from).map_or(0, |(ordinal, _)| ordinal);
        let mut ready = true;
        let mut asked = 0;
        for (ordinal, run) in self.runs.iter().filter(|(ordinal, _)| *ordinal >= first) {
            if run.bytes == Some(0) {
                continue;
            }
            let Some(tracked) = self.files.get_mut(&run.file) else { continue };
            if tracked.lost && ordinal + 1 == self.runs.len() {
                // The walk will find that the stream ends before it.
                continue;
            }
            if tracked.gone {
                return Err(format!(
                    "the log from {} to the end of run {ordinal} is no longer here: {} was \
                     retired. The replica must be filled anew: copy the segments to it by hand, \
                     or empty it once re-seeding exists",
                    run.start, run.segment
                ));
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

    /// Let go of pins that nobody needs; `lowest` is flushed by every replica.
    pub fn release(&mut self, lowest: Lsn, now: Instant) -> Vec<Job> {
        let newest = self.files.keys().next_back().copied();
        let mut released = Vec::new();
        for (file, tracked) in &mut self.files {
            // After a start nobody knows when it last grew: the time begins now.
            let at = *tracked.grown_at.get_or_insert(now);
            let idle = now.duration_since(at) >= RELEASE_AFTER;
            if !tracked.vanished || tracked.released || !idle || Some(*file) == newest {
                continue;
            }
            let passed =
                self.runs.iter().filter(|(_, run)| run.file == *file).all(|(_, run)| {
                    run.bytes.is_some_and(|bytes| run.start.advance(bytes) <= lowest)
                });
            if passed {
                tracked.released = true;
                released.push(*file);
            }
        }
        if released.is_empty() {
            return Vec::new();
        }
        // A restart must not look for them: it goes on from here.
        self.saved.push(self.head);
        let (shard, space) = (self.shard, self.id.clone());
        let mark = Change::AddMark(self.head);
        let mut jobs = vec![Job::Commit { shard, ticket: None, space, change: mark }];
        for file in released {
            jobs.push(Job::Release { space: self.id.clone(), file });
        }
        jobs
    }
}
