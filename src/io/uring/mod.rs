//! The backend over io_uring. One ring per shard, made and used by the
//! shard's own thread.
//!
//! ```text
//!   submit(op) ── begin ──┬── done already ──────────────▶ ready ──▶ wait()
//!                         └── entry ──▶ ring ──▶ result ── resume ──┬──▶ ready
//!                                        ▲                          │
//!                                        └────────── entry ─────────┘
//! ```
//!
//! Every operation is a [`Task`] that takes steps. A step either ends the
//! operation or names the one ring entry that it waits for, so a task in the
//! table has exactly one entry in the ring (two while a `SEND_ZC` waits for
//! its notification), and whatever that entry points to is owned by the task.
//! This is the invariant that each `SAFETY` line of this module leans on:
//! *a task leaves the table only when the kernel is done with it.*
//!
//! Hot bytes are sent inline, by non-blocking system calls in the step itself;
//! the ring is only asked to wait for room. Nothing here blocks but
//! [`Backend::wait`].

mod connect;
mod pipes;
mod prefetch;
mod queue;
mod receive;
mod tasks;
mod transmit;
mod wake;
mod watch;
mod write;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::hot::Temperature;
use super::sockets::LowWater;

use crate::limits::{MAX_INLINE_FLUSH, SLOW_DISK_PAUSE};

use super::{Backend, Completion, Op, Outcome, Token, Waker, WatchEvent, WatchId};
use pipes::Pipes;
use queue::{Queue, Support};
use tasks::{Next, Owner, Task, Tasks};
use wake::Wake;
use watch::Watcher;

/// What the steps of all tasks share.
struct Shared {
    support: Support,
    low_water: LowWater,
    pipes: Pipes,
    temperature: Temperature,
    /// False once the file system has refused `RWF_DONTCACHE`.
    dont_cache: bool,
    /// A flush on this thread took long: the workers have them until then.
    slow_until: Option<Instant>,
}

impl Shared {
    /// True unless a flush on this thread has taken long lately.
    fn disk_is_quick(&self) -> bool {
        self.slow_until.is_none_or(|until| Instant::now() >= until)
    }

    /// A flush on this thread began then and has ended.
    fn disk_took(&mut self, began: Instant) {
        let now = Instant::now();
        if now.duration_since(began) > MAX_INLINE_FLUSH {
            self.slow_until = Some(now + SLOW_DISK_PAUSE);
        }
    }
}

/// See the module.
pub(super) struct Uring {
    // Before everything that the kernel may still write to: see `Drop`.
    queue: Queue,
    tasks: Tasks,
    shared: Shared,
    wake: Arc<Wake>,
    woken: bool,
    watcher: Option<Watcher>,
    ready: Vec<Completion>,
    /// The last `wait` had something to give without asking the kernel.
    passed_by: bool,
    results: Vec<queue::Result>,
}

impl Uring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel refuses io_uring, or lacks what is needed of it; the error
    /// says which, and what to do.
    pub(super) fn open() -> io::Result<Self> {
        let (queue, support) = Queue::open()?;
        let mut uring = Self {
            queue,
            tasks: Tasks::default(),
            shared: Shared {
                support,
                low_water: LowWater::default(),
                pipes: Pipes::default(),
                temperature: Temperature::default(),
                dont_cache: true,
                slow_until: None,
            },
            wake: Arc::new(Wake::new()?),
            woken: false,
            watcher: None,
            ready: Vec::new(),
            passed_by: false,
            results: Vec::new(),
        };
        let wake = wake::Armed::new(Arc::clone(&uring.wake));
        uring.start(Owner::Backend, Task::Wake(wake));
        Ok(uring)
    }

    fn start(&mut self, owner: Owner, mut task: Task) {
        let next = task.begin(&mut self.shared);
        match next {
            Next::Done(result) => self.finish(owner, result),
            next @ Next::Wait(_) => {
                let name = self.tasks.insert(owner, task);
                self.enqueue(name, next);
            }
        }
    }

    /// Put what a task waits for into the ring.
    fn enqueue(&mut self, name: u64, next: Next) {
        match next {
            Next::Wait(entry) => self.queue.push(entry.user_data(name)),
            Next::Done(_) => {}
        }
    }

    fn finish(&mut self, owner: Owner, result: io::Result<Outcome>) {
        if let Owner::Submitter(token) = owner {
            self.ready.push(Completion { token, result });
        }
    }

    /// Give every result that the ring holds to its task.
    fn reap(&mut self) {
        let mut results = std::mem::take(&mut self.results);
        self.queue.take_results(&mut results);
        for result in results.drain(..) {
            self.resume(&result);
        }
        self.results = results;
    }

    fn resume(&mut self, result: &queue::Result) {
        let name = result.name;
        let Some((owner, task)) = self.tasks.get(name) else {
            // The result of a cancellation; what was cancelled reports itself.
            return;
        };
        if transmit::is_notification(result.flags) {
            if task.notified() {
                self.tasks.remove(name);
            }
            return;
        }
        match task {
            Task::Wake(armed) => {
                self.woken = true;
                let entry = armed.again();
                self.queue.push(entry.user_data(name));
                return;
            }
            Task::Watch(reading) => {
                let entry = self
                    .watcher
                    .as_mut()
                    .and_then(|watcher| watcher.take_in(reading, result.value));
                match entry {
                    Some(entry) => self.queue.push(entry.user_data(name)),
                    None => self.tasks.remove(name),
                }
                return;
            }
            _ => {}
        }
        match task.resume(result, &mut self.shared) {
            Next::Done(result) => {
                match task.leave_behind(0) {
                    Some(rest) => *task = rest,
                    None => self.tasks.remove(name),
                }
                self.finish(owner, result);
            }
            next @ Next::Wait(_) => self.enqueue(name, next),
        }
    }

    fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.woken || self.watcher.as_ref().is_some_and(Watcher::has_news)
    }

    fn watcher(&mut self) -> io::Result<&mut Watcher> {
        Ok(match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(Watcher::new()?),
        })
    }

    /// Read the watcher's descriptor, unless that is under way.
    fn arm_watcher(&mut self) {
        if let Some(reading) = self.watcher.as_mut().and_then(Watcher::arm) {
            self.start(Owner::Backend, Task::Watch(reading));
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.start(Owner::Submitter(token), Task::of(op));
    }

    fn cancel(&mut self, token: Token) {
        if let Some(name) = self.tasks.cancellable(token) {
            self.queue.push_cancel(name);
        }
    }

    fn wait(
        &mut self,
        deadline: Option<Instant>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        // What is done already, a lone record's flush above all, is told
        // before a system call is made for what is still to come; but every
        // second time the kernel is asked, whatever is done already.
        self.passed_by = !self.ready.is_empty() && !self.passed_by;
        while !self.passed_by {
            let block = !self.has_news();
            self.queue.enter(block, deadline)?;
            self.reap();
            let late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
            if self.has_news() || late() {
                break;
            }
        }
        self.woken = false;
        completions.append(&mut self.ready);
        Ok(())
    }

    fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        Waker::new(move || wake.ring())
    }

    fn watch(&mut self, directory: &Path) -> io::Result<WatchId> {
        let id = self.watcher()?.add(directory)?;
        self.arm_watcher();
        Ok(id)
    }

    fn watch_names(&mut self, directory: &Path) -> io::Result<WatchId> {
        let id = self.watcher()?.add_names(directory)?;
        self.arm_watcher();
        Ok(id)
    }

    fn unwatch(&mut self, id: WatchId) {
        if let Some(watcher) = &mut self.watcher {
            watcher.remove(id);
        }
    }

    fn take_watch_events(&mut self, events: &mut Vec<WatchEvent>) {
        if let Some(watcher) = &mut self.watcher {
            watcher.take_events(events);
            self.arm_watcher();
        }
    }
}

impl Drop for Uring {
    /// Ends what waits for a peer, lets writes and flushes finish, and frees
    /// nothing before the kernel has let go of it.
    fn drop(&mut self) {
        self.queue.forget_backlog(&mut self.tasks);
        for name in self.tasks.names() {
            if self.tasks.get(name).is_some_and(|(_, task)| task.waits_for_others()) {
                self.queue.push_cancel(name);
            }
        }
        while self.tasks.in_flight() > 0 {
            if self.queue.enter(true, None).is_err() {
                // The ring is broken: whether the kernel still writes to our
                // buffers cannot be known, so they must never be freed.
                break;
            }
            self.queue.take_results(&mut self.results);
            for queue::Result { name, flags, .. } in self.results.drain(..) {
                let Some((_, task)) = self.tasks.get(name) else {
                    continue;
                };
                if transmit::is_notification(flags) {
                    if task.notified() {
                        self.tasks.remove(name);
                    }
                    continue;
                }
                match task.leave_behind(flags) {
                    Some(rest) => *task = rest,
                    None => self.tasks.remove(name),
                }
            }
        }
        // What is left are maps that a zero-copy send may still read from, for
        // as long as the peer takes to acknowledge: too long to wait for.
        std::mem::forget(std::mem::take(&mut self.tasks));
    }
}
