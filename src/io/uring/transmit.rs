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
use std::sync::Arc;

use io_uring::{cqueue, opcode, types};
use socket2::Socket;

use super::Shared;
use super::pipes::Pipe;
use super::tasks::Next;
use crate::io::outgoing::{Moved, Outgoing, ReadAhead, explain, moved};
use crate::io::{Mapped, Outcome, Source, Strategy};

/// The second result of a `SEND_ZC`: the kernel no longer reads the memory.
pub(super) fn is_notification(flags: u32) -> bool {
    cqueue::notif(flags)
}

pub(super) struct Transmit {
    outgoing: Outgoing,
    asked: Strategy,
    way: Way,
    waiting: Waiting,
    /// Notifications that zero-copy sends still owe.
    notifications: u32,
}

/// An extent of at most this is sent without asking whether it is cached:
/// finding where its records end has read its only page, or most of its few.
const SMALL_BYTES: u32 = 16 << 10;

enum Way {
    Undecided,
    Sendfile,
    Splice(Pipe),
    SendZc(Mapped),
    CopyMapped(Mapped),
    CopyRead(ReadAhead),
}

/// Which result is to come.
#[derive(Clone, Copy)]
enum Waiting {
    Room,
    Fill,
    ZeroCopy,
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
            outgoing: Outgoing::new(socket, header, source),
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
                self.way = self.copy();
            }
            _ if result < 0 => {
                let error = explain(io::Error::from_raw_os_error(-result));
                return self.end(Err(error), shared);
            }
            _ if result == 0 => {
                return self.end(Err(io::ErrorKind::UnexpectedEof.into()), shared);
            }
            Waiting::Fill => {
                if let Way::Splice(pipe) = &mut self.way {
                    pipe.held = result.unsigned_abs();
                }
            }
            Waiting::ZeroCopy => self.outgoing.sent += result.unsigned_abs(),
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
        let mapped = self.outgoing.source.mapped.take();
        mapped
            .filter(|_| self.notifications > 0)
            .map(|mapped| Linger { _mapped: mapped, notifications: self.notifications })
    }

    fn choose(&mut self, shared: &mut Shared) {
        let source = &self.outgoing.source;
        let asked = match self.asked {
            // What is this small was looked at a moment ago.
            Strategy::Auto if source.bytes <= SMALL_BYTES => Strategy::Sendfile,
            Strategy::Auto
                if shared.temperature.is_hot(&source.file, source.offset, source.bytes.into()) =>
            {
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
            Strategy::SendZc => self.outgoing.mapped().map_or_else(Way::read, Way::SendZc),
            Strategy::Copy => self.copy(),
            Strategy::Sendfile | Strategy::Auto => Way::Sendfile,
        };
    }

    fn copy(&self) -> Way {
        self.outgoing.mapped().map_or_else(Way::read, Way::CopyMapped)
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
        let outgoing = &mut self.outgoing;
        if !outgoing.send_header()? {
            return Ok(Some(self.wait_for_room()));
        }
        while outgoing.rest() > 0 {
            let moved = match &mut self.way {
                Way::Sendfile | Way::Undecided => outgoing.send_file()?,
                Way::Splice(pipe) if pipe.held == 0 => {
                    let source = &outgoing.source.file;
                    let next = fill(pipe, source, outgoing.offset(), outgoing.rest());
                    self.waiting = Waiting::Fill;
                    return Ok(Some(next));
                }
                Way::Splice(pipe) => {
                    let more = pipe.held < outgoing.rest();
                    let moved = drain(pipe, outgoing.socket.as_raw_fd(), more)?;
                    if let Moved::Bytes(bytes) = moved {
                        pipe.held -= bytes;
                        outgoing.sent += bytes;
                    }
                    moved
                }
                Way::SendZc(mapped) => {
                    let next = send_zero_copy(outgoing, mapped);
                    self.waiting = Waiting::ZeroCopy;
                    return Ok(Some(next));
                }
                Way::CopyMapped(mapped) => outgoing.send_mapped(mapped)?,
                Way::CopyRead(ahead) => outgoing.send_read(ahead)?,
            };
            if moved == Moved::Full {
                return Ok(Some(self.wait_for_room()));
            }
        }
        if let Way::SendZc(_) | Way::CopyMapped(_) = self.way {
            outgoing.check_not_shrunk()?;
        }
        Ok(None)
    }

    fn wait_for_room(&mut self) -> Next {
        self.waiting = Waiting::Room;
        let fd = types::Fd(self.outgoing.socket.as_raw_fd());
        let events = libc::POLLOUT.unsigned_abs().into();
        Next::Wait(opcode::PollAdd::new(fd, events).build())
    }
}

impl Way {
    fn read() -> Self {
        Self::CopyRead(ReadAhead::default())
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

/// The socket cannot, or the user's memory for notifications is used up.
fn refuses_zero_copy(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS)
}

fn send_zero_copy(outgoing: &Outgoing, mapped: &Mapped) -> Next {
    let fd = types::Fd(outgoing.socket.as_raw_fd());
    let bytes = &(**mapped).as_ref()[outgoing.sent as usize..];
    let entry = opcode::SendZc::new(fd, bytes.as_ptr(), outgoing.rest())
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build();
    Next::Wait(entry)
}

fn fill(pipe: &Pipe, file: &File, offset: u64, bytes: u32) -> Next {
    let entry = opcode::Splice::new(
        types::Fd(file.as_raw_fd()),
        offset.cast_signed(),
        types::Fd(pipe.write.as_raw_fd()),
        -1,
        bytes,
    )
    .flags(libc::SPLICE_F_MOVE)
    .build();
    Next::Wait(entry)
}

fn drain(pipe: &Pipe, socket: RawFd, more: bool) -> io::Result<Moved> {
    let more = if more { libc::SPLICE_F_MORE } else { 0 };
    moved(|| {
        // SAFETY: descriptors of ours, and no memory.
        let result = unsafe {
            libc::splice(
                pipe.read.as_raw_fd(),
                std::ptr::null_mut(),
                socket,
                std::ptr::null_mut(),
                pipe.held as usize,
                libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | more,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    })
}
