//! The way from a shard to the keeper. A data core never waits for it: what
//! the keeper's full queue does not take stays here and goes later, and until
//! it has gone, no peer is listened to whose frames would add to it.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use crossbeam::channel::{Sender, TrySendError};

use crate::engine::keeper::Job;

/// See the module.
#[derive(Debug)]
pub(super) struct Jobs {
    keeper: Sender<Job>,
    /// In order. Bounded by what may add to it: each peer by its own limit,
    /// each space, its positions and each directory once.
    waiting: RefCell<VecDeque<Job>>,
}

impl Jobs {
    pub(super) fn new(keeper: Sender<Job>) -> Self {
        Self { keeper, waiting: RefCell::default() }
    }

    /// Give a job to the keeper, behind all that wait.
    pub(super) fn send(&self, job: Job) {
        let mut waiting = self.waiting.borrow_mut();
        supersede(&mut waiting, &job);
        // To list a directory twice finds nothing more than to list it later. Only for a
        // scan is what waits gone through: many pins may be let go of at once.
        let is_scan = matches!(job, Job::ScanRoot { .. } | Job::ScanSpace { .. });
        if !is_scan || !waiting.iter().any(|earlier| is_same_scan(earlier, &job)) {
            waiting.push_back(job);
        }
        drop(waiting);
        self.flush();
    }

    /// The keeper's queue is full.
    pub(super) fn is_congested(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Give the keeper what it takes. True if nothing waits any more.
    pub(super) fn flush(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(job) = waiting.pop_front() {
            match self.keeper.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    waiting.push_front(job);
                    return false;
                }
                Err(TrySendError::Disconnected(_)) => {
                    tracing::error!("the keeper is gone: nothing new can be recorded");
                    waiting.clear();
                }
            }
        }
        true
    }
}

fn is_same_scan(earlier: &Job, job: &Job) -> bool {
    match (earlier, job) {
        (Job::ScanRoot { .. }, Job::ScanRoot { .. }) => true,
        (Job::ScanSpace { space, .. }, Job::ScanSpace { space: other, .. }) => space == other,
        _ => false,
    }
}

/// Where the replicas of a space are now makes void where they were.
fn supersede(waiting: &mut VecDeque<Job>, job: &Job) {
    let Job::Positions { spaces, .. } = job else { return };
    let told: BTreeSet<_> = spaces.iter().map(|positions| &positions.space).collect();
    waiting.retain_mut(|earlier| match earlier {
        Job::Positions { spaces, .. } => {
            spaces.retain(|positions| !told.contains(&positions.space));
            !spaces.is_empty()
        }
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crossbeam::channel::bounded;

    use super::*;
    use crate::engine::keeper::retention::Positions;
    use crate::lsn::Lsn;
    use crate::protocol::Now;

    fn open(file: u64) -> Job {
        Job::Release { shard: 0, space: "alpha".parse().unwrap(), file }
    }

    fn number(job: &Job) -> u64 {
        match job {
            Job::Release { file, .. } => *file,
            _ => u64::MAX,
        }
    }

    #[test]
    fn a_full_queue_holds_nobody_up_and_nothing_is_lost_or_overtaken() {
        let (send, queue) = bounded(4);
        let jobs = Jobs::new(send);
        for file in 0..10 {
            jobs.send(open(file));
        }
        assert!(jobs.is_congested());
        let mut seen = Vec::new();
        while jobs.is_congested() || !queue.is_empty() {
            seen.push(number(&queue.recv().unwrap()));
            jobs.flush();
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_directory_waits_to_be_listed_once() {
        let (send, queue) = bounded(1);
        let jobs = Jobs::new(send);
        let scan = |space: &str| Job::ScanSpace { shard: 0, space: space.parse().unwrap() };
        jobs.send(open(1));
        for _ in 0..1000 {
            jobs.send(scan("alpha"));
            jobs.send(scan("beta"));
            jobs.send(Job::ScanRoot { shard: 0 });
        }
        let mut left = 0;
        while jobs.is_congested() || !queue.is_empty() {
            queue.recv().unwrap();
            left += 1;
            jobs.flush();
        }
        assert_eq!(left, 4);
    }

    /// The keeper was busy for minutes, and what it then had to look at first
    /// was where the replicas had been every two seconds since.
    #[test]
    fn of_each_space_only_the_last_positions_wait() {
        let (send, queue) = bounded(1);
        let jobs = Jobs::new(send);
        jobs.send(open(1));
        let now = Now { instant: std::time::Instant::now(), unix_ns: 0 };
        let at = |space: &str, head| Positions {
            space: space.parse().unwrap(),
            head: Lsn(head),
            spare: BTreeSet::new(),
            slots: Vec::new(),
        };
        for head in 0..100 {
            let spaces = match head {
                99 => vec![at("beta", head)],
                _ => vec![at("alpha", head), at("beta", head)],
            };
            jobs.send(Job::Positions { shard: 0, now, spaces });
        }
        let mut told = Vec::new();
        while jobs.is_congested() || !queue.is_empty() {
            if let Job::Positions { spaces, .. } = queue.recv().unwrap() {
                told.extend(spaces.into_iter().map(|at| (at.space.to_string(), at.head.0)));
            }
            jobs.flush();
        }
        assert_eq!(told, [("alpha".into(), 98), ("beta".into(), 99)]);
    }
}
