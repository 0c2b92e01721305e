//! The backend over readiness and threads, for wherever io_uring is not.
//!
//! ```text
//!   sockets   try ── would block ──▶ poller ──▶ try again
//!   files     ──▶ disk threads ──▶ result, and a notification of the poller
//!   watches   ──▶ the watcher's thread ──▶ change, and a notification
//! ```
//!
//! The same contract as the ring, with two differences: a `sendfile` of cold
//! pages waits for the disk on the shard's own thread, and every strategy is
//! either `sendfile` or a copy.

#![forbid(unsafe_code)]

mod tasks;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use saltus_fallback::{Change, DirectoryWatch, DiskThreads, Interest, Readiness};

use super::sockets::LowWater;
use super::{Backend, Completion, Op, Outcome, Token, Waker, WatchEvent, WatchId};
use tasks::{Next, Task};

/// Threads that wait for the disk: one may flush while the other writes.
const DISK_THREADS: usize = 2;

/// See the module.
pub(super) struct Portable {
    readiness: Readiness,
    disk: DiskThreads,
    low_water: LowWater,
    tasks: HashMap<u64, (Token, Task)>,
    next_name: u64,
    ready: Vec<Completion>,
    woken: Arc<AtomicBool>,
    watching: Option<Watching>,
    fired: Vec<u64>,
}

struct Watching {
    watch: DirectoryWatch,
    ids: HashMap<PathBuf, WatchId>,
    /// Which directory it was that bore the name.
    inodes: HashMap<PathBuf, u64>,
    next_id: u64,
}

impl Portable {
    /// A backend for the calling thread.
    ///
    /// # Errors
    ///
    /// Descriptors or threads ran out.
    pub(super) fn open() -> io::Result<Self> {
        let readiness = Readiness::new()?;
        let disk = DiskThreads::new(DISK_THREADS, readiness.notifier())?;
        Ok(Self {
            readiness,
            disk,
            low_water: LowWater::default(),
            tasks: HashMap::new(),
            next_name: 0,
            ready: Vec::new(),
            woken: Arc::default(),
            watching: None,
            fired: Vec::new(),
        })
    }

    /// Take steps with a task until it ends or has something to wait for.
    fn step(&mut self, name: u64, token: Token, mut task: Task) {
        let next = task.step(&mut self.low_water);
        let result = match next {
            Next::Done(result) => result,
            Next::Disk(job) => {
                self.tasks.insert(name, (token, task));
                self.disk.submit(name, job);
                return;
            }
            Next::Wait(direction) => match task.socket() {
                Some(socket) => match self.readiness.register(&socket, direction, name) {
                    Ok(()) => {
                        drop(socket);
                        self.tasks.insert(name, (token, task));
                        return;
                    }
                    Err(error) => Err(error),
                },
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        };
        self.ready.push(Completion { token, result });
    }

    fn reap(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let mut fired = std::mem::take(&mut self.fired);
        self.readiness.wait(deadline, &mut fired)?;
        for name in fired.drain(..) {
            if let Some((token, task)) = self.tasks.remove(&name) {
                self.step(name, token, task);
            }
        }
        self.fired = fired;
        while let Some((name, result)) = self.disk.take_result() {
            if let Some((token, task)) = self.tasks.remove(&name) {
                let result = result.map(|()| task.disk_outcome());
                self.ready.push(Completion { token, result });
            }
        }
        Ok(())
    }

    fn watch_for(&mut self, directory: &Path, interest: Interest) -> io::Result<WatchId> {
        // Some systems name what changed by its real path only.
        let directory = directory.canonicalize()?;
        let watching = match &mut self.watching {
            Some(watching) => watching,
            none => none.insert(Watching {
                watch: DirectoryWatch::new(self.readiness.notifier())?,
                ids: HashMap::new(),
                inodes: HashMap::new(),
                next_id: 0,
            }),
        };
        let inode = directory.metadata()?.ino();
        let before = watching.inodes.insert(directory.clone(), inode);
        if let Some(id) = watching.ids.get(&directory) {
            if before != Some(inode) {
                // The name means another directory now; the watch is still on
                // the one that is gone.
                watching.watch.remove(&directory);
                watching.watch.add(&directory, interest)?;
            }
            return Ok(*id);
        }
        watching.watch.add(&directory, interest)?;
        let id = WatchId(watching.next_id);
        watching.next_id += 1;
        watching.ids.insert(directory, id);
        Ok(id)
    }

    fn has_news(&self) -> bool {
        let changed = |watching: &Watching| watching.watch.has_changes();
        !self.ready.is_empty()
            || self.woken.load(Ordering::Acquire)
            || self.watching.as_ref().is_some_and(changed)
    }
}

impl Backend for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn submit(&mut self, token: Token, op: Op) {
        let name = self.next_name;
        self.next_name += 1;
        match Task::of(op) {
            Ok(task) => self.step(name, token, task),
            Err(error) => self.ready.push(Completion { token, result: Err(error) }),
        }
    }

    fn cancel(&mut self, token: Token) {
        let found = self
            .tasks
            .iter()
            .find(|(_, (own, task))| *own == token && task.is_cancellable())
            .map(|(name, _)| *name);
        if let Some((_, task)) = found.and_then(|name| self.tasks.remove(&name)) {
            if let (Some(socket), Some(direction)) = (task.socket(), task.direction()) {
                self.readiness.forget(&socket, direction);
            }
            self.ready.push(Completion {
                token,
                result: Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            });
        }
    }

    fn wait(
        &mut self,
        deadline: Option<Instant>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        loop {
            let until = if self.has_news() { Some(Instant::now()) } else { deadline };
            self.reap(until)?;
            let late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
            if self.has_news() || late() {
                break;
            }
        }
        self.woken.swap(false, Ordering::AcqRel);
        completions.append(&mut self.ready);
        Ok(())
    }

    fn waker(&self) -> Waker {
        let woken = Arc::clone(&self.woken);
        let notify = self.readiness.notifier();
        Waker::new(move || {
            if !woken.swap(true, Ordering::AcqRel) {
                notify();
            }
        })
    }

    fn watch(&mut self, directory: &Path) -> io::Result<WatchId> {
        self.watch_for(directory, Interest::All)
    }

    fn watch_names(&mut self, directory: &Path) -> io::Result<WatchId> {
        self.watch_for(directory, Interest::Names)
    }

    fn unwatch(&mut self, id: WatchId) {
        if let Some(watching) = &mut self.watching {
            let directory = watching.ids.iter().find(|(_, own)| **own == id);
            if let Some(directory) = directory.map(|(directory, _)| directory.clone()) {
                watching.watch.remove(&directory);
                watching.ids.remove(&directory);
                watching.inodes.remove(&directory);
            }
        }
    }

    fn take_watch_events(&mut self, events: &mut Vec<WatchEvent>) {
        if let Some(watching) = &mut self.watching {
            while let Some(change) = watching.watch.take() {
                let event = watching.event(change);
                if event.is_some() && event.as_ref() != events.last() {
                    events.extend(event);
                }
            }
        }
    }
}

impl Watching {
    /// What a change means to who watches; nothing when nobody watches that.
    fn event(&mut self, change: Change) -> Option<WatchEvent> {
        let event = match change {
            Change::Appeared(parent, name) => WatchEvent::Appeared(self.id(&parent)?, name),
            Change::Modified(parent, name) => WatchEvent::Modified(self.id(&parent)?, name),
            Change::Vanished(parent, name) => WatchEvent::Vanished(self.id(&parent)?, name),
            Change::Gone(path) => {
                let id = self.ids.remove(&path)?;
                self.watch.remove(&path);
                WatchEvent::Ended(id)
            }
            Change::Lost => WatchEvent::Overflow,
        };
        Some(event)
    }

    fn id(&self, directory: &Path) -> Option<WatchId> {
        self.ids.get(directory).copied()
    }
}

impl Drop for Portable {
    /// Sockets are let go at once; the disk threads end their writes first.
    fn drop(&mut self) {
        for (_, (_, task)) in self.tasks.drain() {
            if let (Some(socket), Some(direction)) = (task.socket(), task.direction()) {
                self.readiness.forget(&socket, direction);
            }
        }
    }
}

/// An outcome of a disk job, by the kind of its operation.
fn disk_outcome(of: tasks::DiskWork) -> Outcome {
    match of {
        tasks::DiskWork::Write => Outcome::Written,
        tasks::DiskWork::Flush => Outcome::Flushed,
        tasks::DiskWork::Prefetch => Outcome::Prefetched,
    }
}
