//! Waking the ring's thread from others, by an eventfd that the ring reads.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd is read whole, as one `u64`.
const COUNTER_BYTES: u32 = 8;

/// The half that wakers share.
pub(super) struct Wake {
    event: EventFd,
    /// Set while a wake-up is on its way: more of them cost no system call.
    pending: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        // Blocking, because the ring would fail a read of an empty counter
        // that is marked non-blocking instead of waiting for it.
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { event, pending: AtomicBool::new(false) })
    }

    pub(super) fn ring(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full, which is a wake-up too.
            let _ = self.event.write(1);
        }
    }
}

/// The half that the ring reads.
pub(super) struct Armed {
    wake: Arc<Wake>,
    /// Where the kernel puts the counter.
    counter: Box<[u8; COUNTER_BYTES as usize]>,
}

impl Armed {
    pub(super) fn new(wake: Arc<Wake>) -> Self {
        Self { wake, counter: Box::default() }
    }

    /// Read the counter, once more. A waker that comes between the end of the
    /// last read and here finds `pending` set; its news is seen all the same,
    /// because the wait that it wanted to end is returning.
    pub(super) fn again(&mut self) -> Entry {
        self.wake.pending.swap(false, Ordering::AcqRel);
        let fd = types::Fd(self.wake.event.as_raw_fd());
        let bytes = COUNTER_BYTES;
        opcode::Read::new(fd, self.counter.as_mut_ptr(), bytes).build()
    }
}
