//! Threads that wait for the disk, so that the data core does not.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, unbounded};

/// Something that may block.
pub type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A few threads, and the results of what they did.
#[derive(Debug)]
pub struct DiskThreads {
    /// Not bounded here: each job owns a slab or a file of its submitter, who
    /// has only so many.
    jobs: Option<Sender<(u64, Job)>>,
    results: Receiver<(u64, io::Result<()>)>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskThreads {
    /// Start `count` threads. Each calls `notify` when a result is there.
    ///
    /// # Errors
    ///
    /// The system refuses threads.
    pub fn new(count: usize, notify: impl Fn() + Send + Clone + 'static) -> io::Result<Self> {
        let (jobs, queue) = unbounded::<(u64, Job)>();
        let (report, results) = unbounded();
        let mut threads = Vec::with_capacity(count);
        for at in 0..count {
            let (queue, report, notify) = (queue.clone(), report.clone(), notify.clone());
            let thread =
                thread::Builder::new().name(format!("saltus-disk-{at}")).spawn(move || {
                    for (name, job) in queue {
                        let result = job();
                        if report.send((name, result)).is_err() {
                            return;
                        }
                        notify();
                    }
                })?;
            threads.push(thread);
        }
        Ok(Self { jobs: Some(jobs), results, threads })
    }

    /// Do it when a thread is free; its result comes under `name`.
    pub fn submit(&self, name: u64, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Fails only when every thread has died of a panic in a job, and
            // a job that panics is a bug that the process does not survive.
            let _ = jobs.send((name, job));
        }
    }

    /// The next result that is there.
    #[must_use]
    pub fn take_result(&self) -> Option<(u64, io::Result<()>)> {
        self.results.try_recv().ok()
    }
}

impl Drop for DiskThreads {
    /// Waits for the jobs that were submitted.
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
