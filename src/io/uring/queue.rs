//! The ring itself: entries in, results out, none of either lost.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode};

use super::tasks::Tasks;

/// Entries that fit between two system calls; more are submitted early.
const SUBMISSIONS: u32 = 256;

/// Results that fit before the kernel must keep them for us, which it does.
const COMPLETIONS: u32 = 4096;

/// The user data of a cancellation, whose own result nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What became of an entry.
pub(super) struct Result {
    /// The task that it was for.
    pub(super) name: u64,
    /// What the system call would return, or a negated error number.
    pub(super) value: i32,
    pub(super) flags: u32,
}

/// What this kernel can do beyond what is required.
#[derive(Clone, Copy, Debug)]
pub(super) struct Support {
    /// `SEND_ZC`, Linux 6.0.
    pub(super) send_zc: bool,
}

pub(super) struct Queue {
    ring: IoUring,
    /// Entries that the ring had no room for, oldest first.
    backlog: VecDeque<Entry>,
}

impl Queue {
    pub(super) fn open() -> io::Result<(Self, Support)> {
        let ring = build(true)
            .or_else(|error| match error.raw_os_error() {
                // NO_SQARRAY is younger (6.6) than what is required.
                Some(libc::EINVAL) => build(false),
                _ => Err(error),
            })
            .map_err(explain_refusal)?;
        let support = probe(&ring)?;
        Ok((Self { ring, backlog: VecDeque::new() }, support))
    }

    /// Hand an entry to the kernel, now or as soon as there is room.
    pub(super) fn push(&mut self, entry: Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
            self.drain_backlog();
        }
    }

    /// Ask the kernel to end what the task of that name waits for.
    pub(super) fn push_cancel(&mut self, name: u64) {
        self.push(opcode::AsyncCancel::new(name).build().user_data(NOBODY));
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: what the entry points to is owned by the task it is named
        // for, which stays in the table until the result is there.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.front().cloned() {
            if self.try_push(&entry) {
                self.backlog.pop_front();
            } else if self.ring.submit().is_err() || self.ring.submission().is_full() {
                // The kernel takes no more before results are reaped.
                return;
            }
        }
    }

    /// Submit what is queued. With `block`, also wait until at least one
    /// result is there or the deadline is past.
    ///
    /// # Errors
    ///
    /// The ring is unusable.
    pub(super) fn enter(&mut self, block: bool, deadline: Option<Instant>) -> io::Result<()> {
        self.drain_backlog();
        let pause = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let expired = pause.is_some_and(|pause| pause.is_zero());
        // A backlog means that the kernel wants its results reaped first.
        let outcome = if block && !expired && self.backlog.is_empty() {
            if !self.ring.completion().is_empty() {
                self.ring.submit()
            } else if let Some(pause) = pause {
                let pause = Timespec::from(pause);
                let args = SubmitArgs::new().timespec(&pause);
                self.ring.submitter().submit_with_args(1, &args)
            } else {
                self.ring.submit_and_wait(1)
            }
        } else {
            let queue = self.ring.submission();
            let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
            drop(queue);
            if idle { Ok(0) } else { self.ring.submit() }
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time is up, a signal came, or the kernel is short of room:
                // the caller reaps and comes again.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Append each result that is there.
    pub(super) fn take_results(&mut self, results: &mut Vec<Result>) {
        let completions = self.ring.completion();
        results.extend(completions.filter(|entry| entry.user_data() != NOBODY).map(|entry| {
            Result { name: entry.user_data(), value: entry.result(), flags: entry.flags() }
        }));
    }

    /// Drop the entries that the kernel has not seen, and their tasks.
    pub(super) fn forget_backlog(&mut self, tasks: &mut Tasks) {
        for entry in self.backlog.drain(..) {
            tasks.remove(entry.get_user_data());
        }
    }
}

fn build(without_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS)
        .dontfork();
    if without_array {
        builder.setup_no_sqarray();
    }
    builder.build(SUBMISSIONS)
}

/// Say why the kernel refused, and what to do about it.
fn explain_refusal(error: io::Error) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "the kernel has no io_uring, or a seccomp filter hides it; \
             use Linux 6.1 or later and allow io_uring_setup"
        }
        Some(libc::EPERM) => {
            "io_uring is forbidden; set kernel.io_uring_disabled = 0, \
             or allow io_uring_setup in the seccomp filter of the service or container"
        }
        Some(libc::EINVAL) => {
            "the kernel is too old for single-issuer rings with deferred task work; \
             use Linux 6.1 or later"
        }
        Some(libc::ENOMEM) => "the locked-memory limit is used up; raise LimitMEMLOCK (ulimit -l)",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{remedy} ({error})"))
}

fn probe(ring: &IoUring) -> io::Result<Support> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        ("ACCEPT", opcode::Accept::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("MADVISE", opcode::Madvise::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("READ", opcode::Read::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("SPLICE", opcode::Splice::CODE),
        ("WRITEV", opcode::Writev::CODE),
    ];
    for (name, code) in needed {
        if !probe.is_supported(code) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the kernel's io_uring lacks {name}; use Linux 6.1 or later"),
            ));
        }
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's io_uring lacks timed waits; use Linux 6.1 or later",
        ));
    }
    Ok(Support { send_zc: probe.is_supported(opcode::SendZc::CODE) })
}
