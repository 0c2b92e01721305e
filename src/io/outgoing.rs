//! A frame header and an extent on their way to a socket: what both backends
//! do inline, without blocking for the socket.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use socket2::Socket;

use super::{Mapped, Source};

/// Bytes read at a time where there is no map to copy from.
const READ_BYTES: usize = 256 << 10;

/// What an attempt to move bytes came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// That many, at least one.
    Bytes(u32),
    /// None: the socket takes nothing now.
    Full,
}

/// The transfer, and how far it is.
pub(super) struct Outgoing {
    pub(super) socket: Arc<Socket>,
    pub(super) source: Source,
    /// Bytes of the source that are with the socket.
    pub(super) sent: u32,
    header: [u8; 64],
    header_sent: usize,
}

impl Outgoing {
    pub(super) fn new(socket: Arc<Socket>, header: [u8; 64], source: Source) -> Self {
        Self { socket, source, sent: 0, header, header_sent: 0 }
    }

    /// Bytes of the source that are not with the socket.
    pub(super) fn rest(&self) -> u32 {
        self.source.bytes - self.sent
    }

    /// Where the rest starts in the file.
    pub(super) fn offset(&self) -> u64 {
        self.source.offset + u64::from(self.sent)
    }

    /// The map, when it is what it must be: the extent's bytes, all of them.
    pub(super) fn mapped(&self) -> Option<Mapped> {
        let bytes = self.source.bytes as usize;
        self.source
            .mapped
            .as_ref()
            .filter(|mapped| (***mapped).as_ref().len() == bytes)
            .map(Arc::clone)
    }

    /// Send what is left of the header. True when nothing is.
    pub(super) fn send_header(&mut self) -> io::Result<bool> {
        while self.header_sent < self.header.len() {
            let rest = &self.header[self.header_sent..];
            match send(&self.socket, rest, self.source.bytes > 0)? {
                Moved::Bytes(bytes) => self.header_sent += bytes as usize,
                Moved::Full => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Send some of the rest by the system's `sendfile`.
    pub(super) fn send_file(&mut self) -> io::Result<Moved> {
        let moved = moved(|| {
            let rest = self.rest() as usize;
            saltus_fallback::send_file(&self.socket, &self.source.file, self.offset(), rest)
        })?;
        Ok(self.count(moved))
    }

    /// Send some of the rest out of its map.
    pub(super) fn send_mapped(&mut self, mapped: &Mapped) -> io::Result<Moved> {
        let rest = &(**mapped).as_ref()[self.sent as usize..];
        let moved = send(&self.socket, rest, false)?;
        Ok(self.count(moved))
    }

    /// Send some of the rest by reading it first.
    pub(super) fn send_read(&mut self, ahead: &mut ReadAhead) -> io::Result<Moved> {
        let (offset, rest) = (self.offset(), self.rest());
        let bytes = ahead.unsent(&self.source.file, offset, rest)?;
        let moved = send(&self.socket, bytes, bytes.len() < rest as usize)?;
        if let Moved::Bytes(bytes) = moved {
            ahead.sent += bytes as usize;
        }
        Ok(self.count(moved))
    }

    fn count(&mut self, moved: Moved) -> Moved {
        if let Moved::Bytes(bytes) = moved {
            self.sent += bytes;
        }
        moved
    }

    /// A map shows zeros behind the end of a file that shrank within a page;
    /// those must not count as sent.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file has shrunk.
    pub(super) fn check_not_shrunk(&self) -> io::Result<()> {
        let end = self.source.offset + u64::from(self.source.bytes);
        if self.source.file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Bytes read from the file and not yet sent.
#[derive(Default)]
pub(super) struct ReadAhead {
    bytes: Vec<u8>,
    sent: usize,
}

impl ReadAhead {
    /// Unsent bytes of the file from `offset` on, at least one.
    fn unsent(&mut self, file: &File, offset: u64, rest: u32) -> io::Result<&[u8]> {
        if self.sent == self.bytes.len() {
            self.bytes.resize(READ_BYTES.min(rest as usize), 0);
            self.sent = 0;
            let read = file.read_at(&mut self.bytes, offset);
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.bytes[self.sent..])
    }
}

fn send(socket: &Socket, bytes: &[u8], more: bool) -> io::Result<Moved> {
    moved(|| saltus_fallback::send(socket, bytes, more))
}

/// Make a call that moves bytes, again when a signal came first. No bytes at
/// all mean that the source has ended too early.
pub(super) fn moved(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Moved> {
    loop {
        match call() {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // One call never moves more than an extent, whose length is a u32.
            Ok(bytes) => return Ok(Moved::Bytes(u32::try_from(bytes).unwrap_or(u32::MAX))),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(Moved::Full),
                _ => return Err(explain(error)),
            },
        }
    }
}

/// The kernel cannot read a map behind the end of a file that has shrunk, and
/// calls that a bad address.
pub(super) fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::EFAULT) {
        io::ErrorKind::UnexpectedEof.into()
    } else {
        error
    }
}
