//! Waiting until sockets can be read or written.
//!
//! A poller knows a socket once, but a connection is received from and sent to
//! at the same time. Each socket that somebody waits for has one registration
//! here, for one waiter or for both; it ends with its last waiter, so a
//! descriptor is never closed, or reused, while the poller knows it.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use polling::{Event, Events, Poller};
use socket2::Socket;

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Bytes, a connection, or the end have come.
    Read,
    /// There is room, or the connection stands or has failed.
    Write,
}

#[derive(Debug)]
struct Entry {
    socket: Arc<Socket>,
    reader: Option<u64>,
    writer: Option<u64>,
}

impl Entry {
    fn place(&mut self, direction: Direction) -> &mut Option<u64> {
        match direction {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.writer,
        }
    }

    fn interest(&self, fd: RawFd) -> Event {
        Event::new(key(fd), self.reader.is_some(), self.writer.is_some())
    }

    fn is_idle(&self) -> bool {
        self.reader.is_none() && self.writer.is_none()
    }
}

/// Who waits for which socket.
#[derive(Debug)]
pub struct Readiness {
    poller: Arc<Poller>,
    entries: HashMap<RawFd, Entry>,
    events: Events,
}

impl Readiness {
    /// A poller with nothing to wait for.
    ///
    /// # Errors
    ///
    /// Descriptors ran out.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poller: Arc::new(Poller::new()?),
            entries: HashMap::new(),
            events: Events::new(),
        })
    }

    /// A function that ends the present wait, or the next, from any thread.
    pub fn notifier(&self) -> impl Fn() + Send + Sync + Clone + use<> {
        let poller = Arc::clone(&self.poller);
        // Fails only when the poller is broken; then its own wait fails too.
        move || drop(poller.notify())
    }

    /// Let `waiter` know, once, when the socket is ready.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` when somebody waits for that already, or the poller's
    /// own.
    pub fn register(
        &mut self,
        socket: &Arc<Socket>,
        direction: Direction,
        waiter: u64,
    ) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        let entry = self.entries.entry(fd).or_insert_with(|| Entry {
            socket: Arc::clone(socket),
            reader: None,
            writer: None,
        });
        let known = !entry.is_idle();
        if entry.place(direction).is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        *entry.place(direction) = Some(waiter);
        let interest = entry.interest(fd);
        let result = if known {
            self.poller.modify(&*entry.socket, interest)
        } else {
            // SAFETY: the entry owns a share of the socket, and is deleted
            // from the poller before that share is dropped.
            unsafe { self.poller.add(&*entry.socket, interest) }
        };
        if result.is_err() {
            *entry.place(direction) = None;
            if entry.is_idle() {
                self.entries.remove(&fd);
            }
        }
        result
    }

    /// Forget a waiter; it will not be heard of again.
    pub fn forget(&mut self, socket: &Socket, direction: Direction) {
        let fd = socket.as_raw_fd();
        if let Some(entry) = self.entries.get_mut(&fd)
            && entry.place(direction).take().is_some()
        {
            self.rearm(fd);
        }
    }

    /// Append the waiters whose sockets are ready, waiting for the first until
    /// `deadline` or a notification.
    ///
    /// # Errors
    ///
    /// The poller is broken.
    pub fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.events.clear();
        match deadline {
            Some(deadline) => self.poller.wait_deadline(&mut self.events, deadline)?,
            None => self.poller.wait(&mut self.events, None)?,
        };
        let fired: Vec<Event> = self.events.iter().collect();
        for event in fired {
            let Ok(fd) = RawFd::try_from(event.key) else {
                continue;
            };
            let Some(entry) = self.entries.get_mut(&fd) else {
                continue;
            };
            if event.readable {
                ready.extend(entry.reader.take());
            }
            if event.writable {
                ready.extend(entry.writer.take());
            }
            self.rearm(fd);
        }
        Ok(())
    }

    /// An event disarms its socket: arm it for who still waits, or end it.
    fn rearm(&mut self, fd: RawFd) {
        let Some(entry) = self.entries.get(&fd) else {
            return;
        };
        // Either fails only for a descriptor that the poller does not know,
        // which an entry's is by construction.
        if entry.is_idle() {
            let _ = self.poller.delete(&*entry.socket);
            self.entries.remove(&fd);
        } else {
            let _ = self.poller.modify(&*entry.socket, entry.interest(fd));
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        for entry in self.entries.values() {
            let _ = self.poller.delete(&*entry.socket);
        }
    }
}

/// Descriptors are small and not negative, so each is its own key.
fn key(fd: RawFd) -> usize {
    fd.unsigned_abs() as usize
}
