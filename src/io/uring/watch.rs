//! inotify, waited for through the ring and read when there is something. (A
//! read in the ring would be handed to a worker: inotify cannot be asked not
//! to block.)
//!
//! ```text
//!   event   | wd i32 | mask u32 | cookie u32 | length u32 | name, padded with 0 |
//!           0        4          8            12           16             16 + length
//! ```

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::io::{WatchEvent, WatchId};

/// Room for some thousand events of usual names at a time.
const BUFFER_BYTES: usize = 64 << 10;

const POLL_IN: u32 = libc::POLLIN as u32;

/// Events kept for the shard. When it does not take them the descriptor is not
/// read on, and the kernel's own queue (16,384 by default) overflows and says
/// so.
const MOST_EVENTS: usize = 16 << 10;

const EVENT_HEADER_BYTES: usize = 16;

/// The wait for the descriptor to have something.
pub(super) struct Reading {
    inotify: Arc<Inotify>,
}

impl Reading {
    pub(super) fn again(&self) -> Entry {
        let fd = types::Fd(self.inotify.as_fd().as_raw_fd());
        opcode::PollAdd::new(fd, POLL_IN).build()
    }
}

pub(super) struct Watcher {
    inotify: Arc<Inotify>,
    reading: bool,
    ids: HashMap<i32, WatchId>,
    descriptors: HashMap<WatchId, WatchDescriptor>,
    next_id: u64,
    events: Vec<WatchEvent>,
    buffer: Box<[u8]>,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            inotify: Arc::new(inotify),
            reading: false,
            ids: HashMap::new(),
            descriptors: HashMap::new(),
            next_id: 0,
            events: Vec::new(),
            buffer: vec![0; BUFFER_BYTES].into(),
        })
    }

    pub(super) fn add(&mut self, directory: &Path) -> io::Result<WatchId> {
        self.add_for(directory, AddWatchFlags::IN_MODIFY)
    }

    pub(super) fn add_names(&mut self, directory: &Path) -> io::Result<WatchId> {
        // It may be watched for more already.
        self.add_for(directory, AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD))
    }

    fn add_for(&mut self, directory: &Path, more: AddWatchFlags) -> io::Result<WatchId> {
        let flags = more
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self.inotify.add_watch(directory, flags)?;
        // The same directory has the same descriptor, and then the same id.
        if let Some(id) = self.ids.get(&descriptor.as_raw()) {
            return Ok(*id);
        }
        let id = WatchId(self.next_id);
        self.next_id += 1;
        self.ids.insert(descriptor.as_raw(), id);
        self.descriptors.insert(id, descriptor);
        Ok(id)
    }

    pub(super) fn remove(&mut self, id: WatchId) {
        if let Some(descriptor) = self.descriptors.remove(&id) {
            self.ids.remove(&descriptor.as_raw());
            // Fails only when the directory, and the watch, are gone already.
            let _ = self.inotify.rm_watch(descriptor);
        }
    }

    /// What to read with, unless a read is under way or too much is untaken.
    pub(super) fn arm(&mut self) -> Option<Reading> {
        if self.reading || self.events.len() >= MOST_EVENTS {
            return None;
        }
        self.reading = true;
        Some(Reading { inotify: Arc::clone(&self.inotify) })
    }

    /// Read what is there, and wait for more, or not for now.
    pub(super) fn take_in(&mut self, reading: &Reading, result: i32) -> Option<Entry> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = if result < 0 {
            Err(Errno::from_raw(-result))
        } else {
            nix::unistd::read(self.inotify.as_fd(), &mut buffer)
        };
        match read {
            Ok(bytes) => self.parse(&buffer[..bytes]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The queue cannot be read: the shard must look for itself.
            Err(_) => self.events.push(WatchEvent::Overflow),
        }
        self.buffer = buffer;
        if self.events.len() < MOST_EVENTS {
            return Some(reading.again());
        }
        self.reading = false;
        None
    }

    pub(super) fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn take_events(&mut self, events: &mut Vec<WatchEvent>) {
        events.append(&mut self.events);
    }

    fn parse(&mut self, mut bytes: &[u8]) {
        while let Some((header, rest)) = bytes.split_first_chunk::<EVENT_HEADER_BYTES>() {
            let word = |at: usize| {
                u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let length = (word(12) as usize).min(rest.len());
            let (name, rest) = rest.split_at(length);
            bytes = rest;
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(length);
            let name = OsStr::from_bytes(&name[..end]);
            self.note(word(0).cast_signed(), word(4), name);
        }
    }

    fn note(&mut self, descriptor: i32, mask: u32, name: &OsStr) {
        let mask = AddWatchFlags::from_bits_truncate(mask);
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.events.push(WatchEvent::Overflow);
            return;
        }
        let Some(&id) = self.ids.get(&descriptor) else {
            // A watch that was removed while its events were on their way.
            return;
        };
        if mask.intersects(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED) {
            self.ids.remove(&descriptor);
            self.descriptors.remove(&id);
            self.events.push(WatchEvent::Ended(id));
        } else if mask.contains(AddWatchFlags::IN_MOVE_SELF) {
            // The inode lives on under another name, and would be watched on.
            self.remove(id);
            self.events.push(WatchEvent::Ended(id));
        } else if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            self.events.push(WatchEvent::Appeared(id, name.into()));
        } else if mask.contains(AddWatchFlags::IN_MODIFY) {
            self.note_modified(id, name);
        } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            self.events.push(WatchEvent::Vanished(id, name.into()));
        }
    }

    /// A busy writer repeats itself; once is enough until the shard has looked.
    fn note_modified(&mut self, id: WatchId, name: &OsStr) {
        let repeats = matches!(
            self.events.last(),
            Some(WatchEvent::Modified(last, known)) if *last == id && known == name
        );
        if !repeats {
            let name = OsString::from(name);
            self.events.push(WatchEvent::Modified(id, name));
        }
    }
}
