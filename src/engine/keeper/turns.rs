//! Jobs that wait: for one that takes long, or for a cut that is searched for.
//!
//! ```text
//!   inbox --> batch --> handle, takes long --> look_after_others --> handle
//!               |                                      |
//!               +------ has to wait ---> deferred <----+
//!                                            |
//!                        end of the batch ---+--> catch_up --> handle
//! ```
//!
//! What is about one space is done in the order in which it came: a job waits
//! behind every one of its space that does. And no more of them wait than share
//! a commit: the rest stays in the inbox, which has a limit that those who send
//! know of.
//!
//! Only a batch catches up. Were that done by what is caught up with, each job
//! that waited would stand on the stack of the one before it.

use super::{Job, Keeper};
use crate::ids::SpaceId;
use crate::limits::MAX_JOBS_PER_COMMIT;

impl Keeper {
    /// Do a job, unless it has to wait.
    pub(super) fn take(&mut self, job: Job) {
        if self.has_to_wait(&job) {
            self.deferred.push_back(job);
        } else {
            self.handle(job);
        }
    }

    fn has_to_wait(&self, job: &Job) -> bool {
        self.waits_for_cut(job) || self.deferred.iter().any(|earlier| is_after(job, earlier))
    }

    /// Whether one more job may wait: none is taken from the inbox otherwise.
    pub(super) fn has_room(&self) -> bool {
        self.deferred.len() < MAX_JOBS_PER_COMMIT
    }

    /// A long copy is being made: do what waits for other spaces meanwhile.
    /// What is about the space that is being copied from waits, and so does what
    /// may take long itself, and the end.
    pub(super) fn look_after_others(&mut self, space: &SpaceId) {
        let Some(inbox) = self.inbox.clone() else { return };
        if std::mem::replace(&mut self.attending, true) {
            // One of those others copies something: whoever waits, waits for
            // the first.
            return;
        }
        for _ in 0..MAX_JOBS_PER_COMMIT {
            if !self.has_room() {
                break;
            }
            let Ok(job) = inbox.try_recv() else { break };
            if job.space() == Some(space) || self.takes_long(&job) {
                self.deferred.push_back(job);
            } else {
                self.take(job);
            }
        }
        self.go_on_searching(true);
        self.publish();
        self.attending = false;
    }

    /// Whether a job is none to be done while another one takes long.
    fn takes_long(&self, job: &Job) -> bool {
        match job {
            Job::Retire { .. } | Job::Reseed { .. } | Job::Adopt { .. } | Job::Stop => true,
            Job::CloseReplica { space, .. } => {
                self.spaces.get(space).is_some_and(|entry| !entry.adoptions.is_empty())
            }
            // With the run before it files may go, of which much is kept.
            Job::OpenRun { space, .. } => {
                self.spaces.get(space).is_some_and(|entry| !entry.going.is_empty())
            }
            _ => false,
        }
    }

    /// The end of this process waits for what takes long.
    pub(super) fn is_to_stop(&self) -> bool {
        self.stopped || self.deferred.iter().any(|job| matches!(job, Job::Stop))
    }

    /// What took long is done: do what waited for it. What comes meanwhile is
    /// held against what still waits.
    pub(super) fn catch_up(&mut self) {
        loop {
            let next = self.deferred.iter().position(|job| !self.waits_for_cut(job));
            let Some(job) = next.and_then(|at| self.deferred.remove(at)) else { return };
            self.handle(job);
        }
    }
}

/// Whether a job may not be done before an earlier one.
fn is_after(job: &Job, earlier: &Job) -> bool {
    matches!(earlier, Job::Stop) || (job.space().is_some() && job.space() == earlier.space())
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
