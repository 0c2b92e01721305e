//! `RECV` into slabs, woken in batches, and `SEND` from memory.
//!
//! Two thirds of the throughput depend on how often a receiver is woken. A
//! receive that can wait for many bytes raises `SO_RCVLOWAT` and starts with a
//! poll (`IORING_RECVSEND_POLL_FIRST`): without it, the first attempt would
//! take whatever little is there.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use socket2::Socket;

use super::Shared;
use super::tasks::Next;
use crate::io::{Outcome, Slab};

/// `IORING_RECVSEND_POLL_FIRST` of the kernel's `io_uring.h`.
const POLL_FIRST: u16 = 1;

pub(super) struct Receive {
    socket: Arc<Socket>,
    slab: Option<Slab>,
    low_water: usize,
    most: usize,
}

impl Receive {
    pub(super) fn new(socket: Arc<Socket>, slab: Slab, low_water: usize, most: usize) -> Self {
        let most = most.min(slab.spare());
        Self { socket, slab: Some(slab), low_water, most }
    }

    pub(super) fn begin(&mut self, shared: &mut Shared) -> Next {
        let set = shared.low_water.set(&self.socket, self.low_water, self.most);
        match set {
            Ok(low_water) => {
                self.low_water = low_water;
                self.wait()
            }
            Err(error) => Next::Done(Err(error)),
        }
    }

    fn wait(&mut self) -> Next {
        let Some(slab) = &mut self.slab else {
            return Next::failed(-libc::EINVAL);
        };
        if self.most == 0 {
            // The kernel would answer 0, which means end of stream.
            return Next::failed(-libc::ENOBUFS);
        }
        let fd = types::Fd(self.socket.as_raw_fd());
        let most = u32::try_from(self.most).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(fd, slab.spare_start(), most)
            .ioprio(if self.low_water > 1 { POLL_FIRST } else { 0 })
            .build();
        Next::Wait(entry)
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return self.wait();
        }
        let Ok(bytes) = usize::try_from(result) else {
            return Next::failed(result);
        };
        match self.slab.take() {
            Some(mut slab) => {
                // SAFETY: the kernel wrote that many bytes, at most `most`, to
                // the spare start; the slab was untouched meanwhile.
                unsafe { slab.grow(bytes) };
                Next::Done(Ok(Outcome::Received(slab, bytes)))
            }
            None => Next::failed(-libc::EINVAL),
        }
    }
}

pub(super) struct Send {
    socket: Arc<Socket>,
    bytes: Vec<u8>,
    sent: usize,
}

impl Send {
    pub(super) fn new(socket: Arc<Socket>, bytes: Vec<u8>) -> Self {
        Self { socket, bytes, sent: 0 }
    }

    pub(super) fn begin(&mut self) -> Next {
        if self.sent == self.bytes.len() {
            return Next::Done(Ok(Outcome::Sent));
        }
        Next::Wait(self.entry())
    }

    fn entry(&self) -> Entry {
        let rest = &self.bytes[self.sent..];
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        // With WAITALL the kernel itself waits for room and goes on.
        opcode::Send::new(types::Fd(self.socket.as_raw_fd()), rest.as_ptr(), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        match result {
            _ if result == -libc::EINTR || result == -libc::EAGAIN => {}
            0 => return Next::Done(Err(io::ErrorKind::WriteZero.into())),
            1.. => self.sent += result.unsigned_abs() as usize,
            _ => return Next::failed(result),
        }
        self.begin()
    }
}
