//! Pages into the cache, waited for by the kernel's workers.
//!
//! `POSIX_FADV_WILLNEED` only starts reading. `MADV_POPULATE_READ` over a map
//! of the range starts and waits, and copies nothing; the ring always runs it
//! on a worker.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::opcode;

use super::tasks::Next;
use crate::io::{Outcome, hot};

pub(super) struct Prefetch {
    file: Arc<File>,
    offset: u64,
    bytes: u64,
    map: Option<Map>,
}

impl Prefetch {
    pub(super) fn new(file: Arc<File>, offset: u64, bytes: u64) -> Self {
        Self { file, offset, bytes, map: None }
    }

    pub(super) fn begin(&mut self) -> Next {
        match self.map_missing() {
            Ok(None) => Next::Done(Ok(Outcome::Prefetched)),
            Ok(Some(map)) => {
                let entry = opcode::Madvise::new(
                    map.start.as_ptr().cast_const(),
                    map.bytes as libc::off_t,
                    libc::MADV_POPULATE_READ,
                )
                .build();
                self.map = Some(map);
                Next::Wait(entry)
            }
            Err(error) => Next::Done(Err(error)),
        }
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        match -result {
            ..=0 => Next::Done(Ok(Outcome::Prefetched)),
            // Interrupted half way, or the kernel had no room to start.
            libc::EINTR | libc::EAGAIN => self.begin(),
            // The file has shrunk: what there is of the range is in. Or the
            // kernel (before 5.14) cannot populate: a prefetch is advice.
            libc::EFAULT | libc::EINVAL => Next::Done(Ok(Outcome::Prefetched)),
            _ => Next::failed(result),
        }
    }

    /// A map of the range, as far as the file goes, unless all of it is hot.
    fn map_missing(&self) -> io::Result<Option<Map>> {
        let end = self.offset.saturating_add(self.bytes).min(self.file.metadata()?.len());
        let start = self.offset - self.offset % hot::page_bytes();
        if end <= self.offset || hot::is_cached(&self.file, start, end - start) {
            return Ok(None);
        }
        Map::new(&self.file, start, end - start).map(Some)
    }
}

/// A map that is never read by us, only populated.
struct Map {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

impl Map {
    fn new(file: &File, offset: u64, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new map at an address of the kernel's choice disturbs no
        // memory of ours; nothing ever dereferences it.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, unmapped once, and the
        // kernel is done with it: its task has left the ring.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}
