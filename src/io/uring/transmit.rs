//! A frame header and an extent, from the page cache to a socket.
//!
//! ```text
//!   sendfile   send(header, MORE)  sendfile ⟲            inline; POLL_ADD when full
//!   splice     send(header, MORE)  SPLICE file→pipe      by the ring: waits for the disk
//!                                  splice pipe→socket ⟲  inline; POLL_ADD when full
//!   send_zc    send(header, MORE)  SEND_ZC ⟲             by the ring
//!   copy       send(header, MORE)  send ⟲                inline; POLL_ADD when full
//! ```
//!
//! The pipe is emptied before it is filled again, so its residue is known at
//! every step, a short splice included.
//!
//! A zero-copy send is complete when the socket has the bytes; the map stays
//! alive until the kernel's notification says that the peer acknowledged them.
//! Waiting for that before the next extent would cap the stream at one extent
//! per round trip.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use io_uring::{cqueue, opcode, types};
use socket2::Socket;

use super::Shared;
use super::pipes::Pipe;
use super::tasks::Next;
use crate::io::{Mapped, Outcome, Source, Strategy, hot};

/// Bytes read at a time where there is no map to copy from.
const READ_BYTES: usize = 256 << 10;

/// The second result of a `SEND_ZC`: the kernel no longer reads the memory.
pub(super) fn is_notification(flags: u32) -> bool {
    cqueue::notif(flags)
}

pub(super) struct Transmit {
    socket: Arc<Socket>,
    header: [u8; 64],
    header_sent: usize,
    source: Source,
    /// Bytes of the source that are with the socket.
    sent: u32,
    asked: Strategy,
    way: Way,
    waiting: Waiting,
    /// Notifications that zero-copy sends still owe.
    notifications: u32,
}

enum Way {
    Undecided,
    Sendfile,
    Splice(Pipe),
    SendZc(Mapped),
    CopyMapped(Mapped),
    CopyRead(ReadAhead),
}

/// Bytes read from the file and not yet sent.
struct ReadAhead {
    bytes: Vec<u8>,
    sent: usize,
}

/// Which result is to come.
#[derive(Clone, Copy)]
enum Waiting {
    Room,
    Fill,
    ZeroCopy,
}

/// What an attempt to move bytes without blocking came to.
enum Moved {
    Bytes(u32),
    Full,
}

/// A map that the kernel may still read, after its operation has completed.
pub(super) struct Linger {
    _mapped: Mapped,
    notifications: u32,
}

impl Linger {
    /// True when that was the last notification.
    pub(super) fn notified(&mut self) -> bool {
        self.notifications = self.notifications.saturating_sub(1);
        self.notifications == 0
    }
}

impl Transmit {
    pub(super) fn new(
        socket: Arc<Socket>,
        header: [u8; 64],
        source: Source,
        asked: Strategy,
    ) -> Self {
        Self {
            socket,
            header,
            header_sent: 0,
            source,
            sent: 0,
            asked,
            way: Way::Undecided,
            waiting: Waiting::Room,
            notifications: 0,
        }
    }

    pub(super) fn begin(&mut self, shared: &mut Shared) -> Next {
        self.choose(shared);
        self.advance_or_end(shared)
    }

    pub(super) fn resume(&mut self, result: i32, flags: u32, shared: &mut Shared) -> Next {
        if cqueue::more(flags) {
            self.notifications += 1;
        }
        let interrupted = result == -libc::EINTR || result == -libc::EAGAIN;
        match self.waiting {
            _ if interrupted => {}
            // What the poll found, a hang-up included, the next attempt to
            // send finds too, and with the right error.
            Waiting::Room => {}
            Waiting::ZeroCopy if refuses_zero_copy(-result) => {
                self.way = self.mapped().map_or_else(Way::read, Way::CopyMapped);
            }
            _ if result < 0 => {
                return self.end(Err(mapped_error(-result)), shared);
            }
            _ if result == 0 => {
                return self.end(Err(io::ErrorKind::UnexpectedEof.into()), shared);
            }
            Waiting::Fill => {
                if let Way::Splice(pipe) = &mut self.way {
                    pipe.held = result.unsigned_abs();
                }
            }
            Waiting::ZeroCopy => self.sent += result.unsigned_abs(),
        }
        self.advance_or_end(shared)
    }

    /// One notification has come while the operation goes on.
    pub(super) fn notified(&mut self) {
        self.notifications = self.notifications.saturating_sub(1);
    }

    /// See [`super::tasks::Task::leave_behind`].
    pub(super) fn leave_behind(&mut self, flags: u32) -> Option<Linger> {
        if cqueue::more(flags) {
            self.notifications += 1;
        }
        let mapped = self
            .source
            .mapped
            .take()
            .filter(|_| self.notifications > 0)?;
        Some(Linger {
            _mapped: mapped,
            notifications: self.notifications,
        })
    }

    fn choose(&mut self, shared: &mut Shared) {
        let source = &self.source;
        let asked = match self.asked {
            Strategy::Auto if hot::is_cached(&source.file, source.offset, source.bytes.into()) => {
                Strategy::Sendfile
            }
            Strategy::Auto => Strategy::Splice,
            Strategy::SendZc if !shared.support.send_zc => Strategy::Copy,
            asked => asked,
        };
        self.way = match asked {
            Strategy::Splice => match shared.pipes.take() {
                Ok(pipe) => Way::Splice(pipe),
                // Out of descriptors: slower in the cold, but it goes on.
                Err(_) => Way::Sendfile,
            },
            Strategy::SendZc => self.mapped().map_or_else(Way::read, Way::SendZc),
            Strategy::Copy => self.mapped().map_or_else(Way::read, Way::CopyMapped),
            Strategy::Sendfile | Strategy::Auto => Way::Sendfile,
        };
    }

    /// The map, when it is what it must be: the extent's bytes, all of them.
    fn mapped(&self) -> Option<Mapped> {
        let bytes = self.source.bytes as usize;
        self.source
            .mapped
            .as_ref()
            .filter(|mapped| (***mapped).as_ref().len() == bytes)
            .map(Arc::clone)
    }

    fn advance_or_end(&mut self, shared: &mut Shared) -> Next {
        match self.advance() {
            Ok(Some(next)) => next,
            Ok(None) => {
                let strategy = self.way.strategy();
                self.end(Ok(Outcome::Transmitted(strategy)), shared)
            }
            Err(error) => self.end(Err(error), shared),
        }
    }

    fn end(&mut self, result: io::Result<Outcome>, shared: &mut Shared) -> Next {
        if let Way::Splice(_) = self.way
            && let Way::Splice(pipe) = std::mem::replace(&mut self.way, Way::Undecided)
        {
            shared.pipes.give_back(pipe);
        }
        Next::Done(result)
    }

    /// Move what can be moved without waiting. Nothing when all is sent.
    fn advance(&mut self) -> io::Result<Option<Next>> {
        let fd = self.socket.as_raw_fd();
        while self.header_sent < self.header.len() {
            let more = self.source.bytes > 0;
            match send(fd, &self.header[self.header_sent..], more)? {
                Moved::Bytes(bytes) => self.header_sent += bytes as usize,
                Moved::Full => return Ok(Some(self.wait_for_room())),
            }
        }
        while self.sent < self.source.bytes {
            let rest = self.source.bytes - self.sent;
            let offset = self.source.offset + u64::from(self.sent);
            let moved = match &mut self.way {
                Way::Sendfile | Way::Undecided => sendfile(fd, &self.source.file, offset, rest)?,
                Way::Splice(pipe) if pipe.held == 0 => {
                    let entry = fill(pipe, &self.source.file, offset, rest);
                    self.waiting = Waiting::Fill;
                    return Ok(Some(entry));
                }
                Way::Splice(pipe) => {
                    let moved = drain(pipe, fd, pipe.held < rest)?;
                    if let Moved::Bytes(bytes) = moved {
                        pipe.held -= bytes;
                    }
                    moved
                }
                Way::SendZc(mapped) => {
                    let bytes = &(**mapped).as_ref()[self.sent as usize..];
                    let entry = opcode::SendZc::new(types::Fd(fd), bytes.as_ptr(), rest)
                        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                        .build();
                    self.waiting = Waiting::ZeroCopy;
                    return Ok(Some(Next::Wait(entry)));
                }
                Way::CopyMapped(mapped) => {
                    send(fd, &(**mapped).as_ref()[self.sent as usize..], false)?
                }
                Way::CopyRead(ahead) => {
                    let bytes = ahead.bytes_at(&self.source.file, offset, rest)?;
                    let moved = send(fd, bytes, (bytes.len() as u64) < u64::from(rest))?;
                    if let Moved::Bytes(bytes) = moved {
                        ahead.sent += bytes as usize;
                    }
                    moved
                }
            };
            match moved {
                Moved::Bytes(bytes) => self.sent += bytes,
                Moved::Full => return Ok(Some(self.wait_for_room())),
            }
        }
        self.check_not_shrunk()?;
        Ok(None)
    }

    fn wait_for_room(&mut self) -> Next {
        self.waiting = Waiting::Room;
        let fd = types::Fd(self.socket.as_raw_fd());
        Next::Wait(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build())
    }

    /// A map shows zeros behind the end of a file that shrank within a page;
    /// those must not count as sent.
    fn check_not_shrunk(&self) -> io::Result<()> {
        if let Way::SendZc(_) | Way::CopyMapped(_) = self.way {
            let end = self.source.offset + u64::from(self.source.bytes);
            if self.source.file.metadata()?.len() < end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Way {
    fn read() -> Self {
        Self::CopyRead(ReadAhead {
            bytes: Vec::new(),
            sent: 0,
        })
    }

    fn strategy(&self) -> Strategy {
        match self {
            Self::Undecided | Self::Sendfile => Strategy::Sendfile,
            Self::Splice(_) => Strategy::Splice,
            Self::SendZc(_) => Strategy::SendZc,
            Self::CopyMapped(_) | Self::CopyRead(_) => Strategy::Copy,
        }
    }
}

impl ReadAhead {
    /// Unsent bytes of the file from `offset` on, at least one.
    fn bytes_at(&mut self, file: &File, offset: u64, rest: u32) -> io::Result<&[u8]> {
        if self.sent == self.bytes.len() {
            self.bytes.resize(READ_BYTES.min(rest as usize), 0);
            let read = file.read_at(&mut self.bytes, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.bytes.truncate(read);
            self.sent = 0;
        }
        Ok(&self.bytes[self.sent..])
    }
}

/// The socket cannot, or the user's memory for notifications is used up.
fn refuses_zero_copy(errno: i32) -> bool {
    matches!(
        errno,
        libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS
    )
}

/// The kernel cannot read a map behind the end of a file that has shrunk.
fn mapped_error(errno: i32) -> io::Error {
    match errno {
        libc::EFAULT => io::ErrorKind::UnexpectedEof.into(),
        _ => io::Error::from_raw_os_error(errno),
    }
}

fn fill(pipe: &Pipe, file: &File, offset: u64, bytes: u32) -> Next {
    let entry = opcode::Splice::new(
        types::Fd(file.as_raw_fd()),
        offset as i64,
        types::Fd(pipe.write.as_raw_fd()),
        -1,
        bytes,
    )
    .flags(libc::SPLICE_F_MOVE)
    .build();
    Next::Wait(entry)
}

fn drain(pipe: &Pipe, socket: RawFd, more: bool) -> io::Result<Moved> {
    let flags =
        libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | if more { libc::SPLICE_F_MORE } else { 0 };
    moved(|| {
        // SAFETY: descriptors of ours, and no memory.
        unsafe {
            libc::splice(
                pipe.read.as_raw_fd(),
                std::ptr::null_mut(),
                socket,
                std::ptr::null_mut(),
                pipe.held as usize,
                flags,
            )
        }
    })
}

fn sendfile(socket: RawFd, file: &File, offset: u64, bytes: u32) -> io::Result<Moved> {
    moved(|| {
        let mut offset = offset as libc::off_t;
        // SAFETY: `offset` outlives the call; the rest are descriptors.
        unsafe { libc::sendfile(socket, file.as_raw_fd(), &raw mut offset, bytes as usize) }
    })
}

fn send(socket: RawFd, bytes: &[u8], more: bool) -> io::Result<Moved> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: pointer and length are those of a live slice.
    moved(|| unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Make a call that moves bytes, again when a signal came first. No bytes at
/// all mean that the source has ended too early.
fn moved(mut call: impl FnMut() -> isize) -> io::Result<Moved> {
    loop {
        match call() {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // One call never moves more than an extent, a `u32`.
            bytes @ 1.. => return Ok(Moved::Bytes(bytes as u32)),
            _ => {
                let error = io::Error::last_os_error();
                match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    libc::EAGAIN => return Ok(Moved::Full),
                    errno => return Err(mapped_error(errno)),
                }
            }
        }
    }
}
