//! Slices to a file, and `fdatasync`.
//!
//! Bulk writes carry `RWF_DONTCACHE`: the pages go to the disk right away and
//! leave the cache, so a catch-up of any size costs no memory and its flush
//! finds little left to do. A file system that does not know the flag is asked
//! once per ring.
//!
//! A write with a flush behind it carries `RWF_DSYNC`: one worker does what
//! `fdatasync` would do for the range, and one result comes back. Two linked
//! entries would come to the same, but their second is handed to the worker
//! by the submitting thread, which has to wake up for it. When nothing else
//! waits, and the disk is quick, it is done on the thread itself: a worker's
//! two wake-ups would be a tenth of the way of a single record.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::Shared;
use super::tasks::Next;
use crate::io::{Outcome, Slice};

/// `RWF_DONTCACHE` of the kernel's `fs.h`, Linux 6.14.
const RWF_DONTCACHE: i32 = 0x80;

/// `RWF_DSYNC` of the kernel's `fs.h`.
const RWF_DSYNC: i32 = 0x02;

/// Slices of one write entry: the kernel's `UIO_MAXIOV`.
const MOST_VECTORS: usize = 1024;

pub(super) struct Write {
    file: Arc<File>,
    /// Where the first unwritten byte goes.
    offset: u64,
    slices: Vec<Slice>,
    /// The first slice that is not wholly written, and how far it is.
    at: usize,
    within: usize,
    /// What the kernel is looking at.
    vectors: Vec<libc::iovec>,
    bulk: bool,
    /// Make it durable, and do not try again if that fails.
    durable: bool,
    /// Nothing else waits: do it on this thread.
    alone: bool,
}

impl Write {
    pub(super) fn new(file: Arc<File>, offset: u64, slices: Vec<Slice>, bulk: bool) -> Self {
        Self {
            file,
            offset,
            slices,
            at: 0,
            within: 0,
            vectors: Vec::new(),
            bulk,
            durable: false,
            alone: false,
        }
    }

    /// The same for a few bytes, with a flush behind them.
    pub(super) fn and_flush(file: Arc<File>, offset: u64, slices: Vec<Slice>, alone: bool) -> Self {
        Self { durable: true, alone, ..Self::new(file, offset, slices, false) }
    }

    pub(super) fn begin(&mut self, shared: &mut Shared) -> Next {
        self.bulk &= shared.dont_cache;
        self.skip(0);
        let outcome = if self.durable { Outcome::Flushed } else { Outcome::Written };
        if std::mem::take(&mut self.alone)
            && shared.disk_is_quick()
            && let Err(error) = self.write_here(shared)
        {
            return Next::Done(Err(error));
        }
        self.entry().map_or(Next::Done(Ok(outcome)), Next::Wait)
    }

    pub(super) fn resume(&mut self, result: i32, shared: &mut Shared) -> Next {
        match result {
            _ if result == -libc::EOPNOTSUPP && self.bulk => {
                shared.dont_cache = false;
                self.bulk = false;
            }
            // The bytes may have been written and not flushed: that is no
            // attempt to be repeated.
            ..0 if self.durable => return Next::failed(result),
            _ if result == -libc::EINTR || result == -libc::EAGAIN => {}
            0 => return Next::Done(Err(io::ErrorKind::WriteZero.into())),
            1.. => self.skip(result.unsigned_abs() as usize),
            _ => return Next::failed(result),
        }
        self.begin(shared)
    }

    /// Write and flush on this thread. What is left after a short write goes
    /// the usual way.
    fn write_here(&mut self, shared: &mut Shared) -> io::Result<()> {
        if self.entry().is_none() {
            return Ok(());
        }
        let count = libc::c_int::try_from(self.vectors.len()).unwrap_or(libc::c_int::MAX);
        let offset = libc::off_t::try_from(self.offset).map_err(io::Error::other)?;
        let began = Instant::now();
        // SAFETY: the vectors were just made from slices that `self` owns; the
        // descriptor is open.
        let written = unsafe {
            libc::pwritev2(self.file.as_raw_fd(), self.vectors.as_ptr(), count, offset, RWF_DSYNC)
        };
        shared.disk_took(began);
        match usize::try_from(written) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.skip(written);
                Ok(())
            }
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Count bytes as written, and step over empty slices.
    fn skip(&mut self, mut bytes: usize) {
        self.offset += bytes as u64;
        while let Some(slice) = self.slices.get(self.at) {
            let left = slice.as_ref().len() - self.within;
            if bytes < left {
                self.within += bytes;
                return;
            }
            bytes -= left;
            self.at += 1;
            self.within = 0;
        }
    }

    /// Write what is left. Nothing when nothing is.
    fn entry(&mut self) -> Option<Entry> {
        let mut within = self.within;
        self.vectors.clear();
        for slice in self.slices.iter().skip(self.at).take(MOST_VECTORS) {
            let bytes = &slice.as_ref()[within..];
            within = 0;
            self.vectors.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            });
        }
        let first = self.vectors.first()?;
        let fd = types::Fd(self.file.as_raw_fd());
        let flags =
            if self.durable { RWF_DSYNC } else { 0 } | if self.bulk { RWF_DONTCACHE } else { 0 };
        let entry = if self.vectors.len() == 1 {
            let length = u32::try_from(first.iov_len).unwrap_or(u32::MAX);
            opcode::Write::new(fd, first.iov_base.cast(), length)
                .offset(self.offset)
                .rw_flags(flags)
                .build()
        } else {
            let count = u32::try_from(self.vectors.len()).unwrap_or(u32::MAX);
            opcode::Writev::new(fd, self.vectors.as_ptr(), count)
                .offset(self.offset)
                .rw_flags(flags)
                .build()
        };
        Some(entry)
    }
}

pub(super) struct Flush {
    file: Arc<File>,
}

impl Flush {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    pub(super) fn begin(&mut self) -> Next {
        Next::Wait(flush(&self.file))
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        flushed(result)
    }
}

fn flush(file: &File) -> Entry {
    opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
}

/// Success or failure, never a second attempt: after a failed flush the kernel
/// has forgotten what it could not write.
fn flushed(result: i32) -> Next {
    if result < 0 { Next::failed(result) } else { Next::Done(Ok(Outcome::Flushed)) }
}
