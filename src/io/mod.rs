//! Moving bytes between files, memory and sockets, without knowing what they
//! mean.
//!
//! A [`Backend`] is a completion queue: the shard loop submits an [`Op`] under
//! a [`Token`], and gets the token back in a [`Completion`]. Two
//! implementations stand behind it:
//!
//! ```text
//!                 uring (Linux)                  portable (anywhere)
//!   Receive       RECV, armed by poll            polling + recv
//!   Transmit      sendfile inline + poll,        sendfile or read/write
//!                 splice chain, SEND_ZC, send
//!   Write, Flush  WRITEV, FSYNC (datasync)       threads of its own
//!   Prefetch      MADVISE (populate)             threads of its own
//!   watch         inotify, read by the ring      the notify crate
//! ```
//!
//! Whatever an operation in flight touches (buffer, file, socket) it owns,
//! until its completion hands it back or drops it.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Instant;

pub mod bulk;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod bulk_ring;
#[cfg(not(all(target_os = "linux", feature = "uring")))]
#[path = "bulk_no_ring.rs"]
mod bulk_ring;
pub mod disk;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod hot;
#[cfg(target_os = "linux")]
mod lease;
mod outgoing;
mod portable;
pub mod slab;
pub mod sockets;
pub mod terminal;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod uring;

#[cfg(target_os = "linux")]
pub use lease::has_writer;
pub use saltus_fallback::free_bytes;
pub use slab::{Slab, SlabPool, Slice};
pub use socket2::Socket;

/// Names an operation to its submitter. The backend only carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u64);

/// How the bytes of an extent get from a file to a socket.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// Chosen per extent: `sendfile` for pages in the cache, `splice` for
    /// others.
    #[default]
    Auto,
    /// Non-blocking `sendfile` from the page cache.
    Sendfile,
    /// File to pipe to socket through the ring: the kernel's workers wait for
    /// the disk.
    Splice,
    /// `SEND_ZC` from the memory map.
    SendZc,
    /// A plain `send` from the memory map: the last rung.
    Copy,
}

impl Strategy {
    /// The name, as settings and reports have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::SendZc => "send_zc",
            Self::Copy => "copy",
        }
    }

    /// Whether it can be had without `io_uring`. The portable backend sends by
    /// `sendfile` where it is told to splice, and copies where it is told
    /// `SEND_ZC`.
    #[must_use]
    pub const fn is_portable(self) -> bool {
        !matches!(self, Self::Splice | Self::SendZc)
    }
}

/// A readable memory map of the file that an extent lies in.
pub type Mapped = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The bytes of one extent.
#[derive(Clone)]
pub struct Source {
    /// The segment, open for reading.
    pub file: Arc<File>,
    /// Where the bytes start in the file.
    pub offset: u64,
    /// How many there are.
    pub bytes: u32,
    /// The same bytes, mapped: exactly `bytes` long. Needed by `SendZc` and
    /// `Copy`; without it those fall back to reading.
    pub mapped: Option<Mapped>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("offset", &self.offset)
            .field("bytes", &self.bytes)
            .field("mapped", &self.mapped.is_some())
            .finish()
    }
}

/// One operation.
#[derive(Debug)]
#[non_exhaustive]
pub enum Op {
    /// Wait for one connection. Completes with [`Outcome::Accepted`].
    Accept {
        /// Listening and non-blocking.
        listener: Arc<Socket>,
    },
    /// Open a connection. Completes with [`Outcome::Connected`]. The caller
    /// bounds its duration by dropping interest: see [`Backend::cancel`].
    Connect {
        /// The peer.
        address: SocketAddr,
    },
    /// Receive at most `most` bytes behind what `slab` holds already. Wakes
    /// when `low_water` bytes have arrived, or at end of stream. Completes
    /// with [`Outcome::Received`]; 0 bytes mean that the peer closed.
    Receive {
        /// The connection.
        socket: Arc<Socket>,
        /// Where to; its spare room must be at least `most`.
        slab: Slab,
        /// Bytes that should be there before a wake-up; at least 1.
        low_water: usize,
        /// The most to take.
        most: usize,
    },
    /// Send all of `bytes`. Completes with [`Outcome::Sent`].
    Send {
        /// The connection.
        socket: Arc<Socket>,
        /// What to send.
        bytes: Vec<u8>,
    },
    /// Send a frame header, then the bytes of an extent, all of both.
    /// Completes with [`Outcome::Transmitted`].
    Transmit {
        /// The connection.
        socket: Arc<Socket>,
        /// Sent first, coalesced with what follows.
        header: [u8; 64],
        /// Sent behind it.
        source: Source,
        /// How.
        strategy: Strategy,
    },
    /// Write the slices one behind the other, from `offset` on, all of them.
    /// Completes with [`Outcome::Written`].
    Write {
        /// Open for writing.
        file: Arc<File>,
        /// Where in the file.
        offset: u64,
        /// What to write.
        slices: Vec<Slice>,
        /// True in catch-up: the pages need not stay in the cache.
        bulk: bool,
    },
    /// A `Write` and, when all of it is written, a `Flush`, for the price of
    /// one wake-up. Completes once, with [`Outcome::Flushed`].
    WriteFlush {
        /// Open for writing.
        file: Arc<File>,
        /// Where in the file.
        offset: u64,
        /// What to write.
        slices: Vec<Slice>,
        /// Nothing else waits for this thread or this disk: the backend may
        /// do it at once, on the calling thread, and save the two wake-ups
        /// of a worker. It does not while the disk is slow.
        alone: bool,
    },
    /// `fdatasync`. Completes with [`Outcome::Flushed`]. Never retried.
    Flush {
        /// The file.
        file: Arc<File>,
    },
    /// Bring a range of a mapped file into the page cache without blocking
    /// the caller. Completes with [`Outcome::Prefetched`].
    Prefetch {
        /// The file.
        file: Arc<File>,
        /// Where the range starts.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// What an operation came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A new connection, non-blocking, and who opened it.
    Accepted(Socket, SocketAddr),
    /// The connection, non-blocking.
    Connected(Socket),
    /// The slab, filled further by that many bytes.
    Received(Slab, usize),
    /// All bytes are with the socket.
    Sent,
    /// All bytes are with the socket, and how they got there.
    Transmitted(Strategy),
    /// All bytes are with the file system.
    Written,
    /// All that was written before the submission is durable.
    Flushed,
    /// The range is in the page cache, as far as the file goes.
    Prefetched,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub token: Token,
    /// What it came to. After an error, whatever the operation owned is gone.
    pub result: io::Result<Outcome>,
}

/// Names one watched directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct WatchId(pub u64);

/// What happened in a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The entry appeared (created or moved in).
    Appeared(WatchId, std::ffi::OsString),
    /// The file grew, shrank or was written.
    Modified(WatchId, std::ffi::OsString),
    /// The entry went away (removed or moved out).
    Vanished(WatchId, std::ffi::OsString),
    /// The directory itself went away; its watch has ended.
    Ended(WatchId),
    /// Events were lost: scan everything.
    Overflow,
}

/// Wakes a shard out of [`Backend::wait`], from any thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// A handle that wakes by calling `wake`, from any thread.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Make the next, or the present, `wait` return.
    pub fn wake(&self) {
        (self.0)();
    }
}

/// A completion queue. Owned by one thread.
pub trait Backend {
    /// `"uring"` or `"portable"`.
    fn name(&self) -> &'static str;

    /// Start an operation. Errors come as completions, never from here.
    fn submit(&mut self, token: Token, op: Op);

    /// Ask a `Connect` or `Accept` to end early; its completion still comes,
    /// with an error unless it won the race. Other operations end when their
    /// socket is shut down.
    fn cancel(&mut self, token: Token);

    /// Append what has completed, waiting for the first until `deadline`, a
    /// wake-up or a watch event. Returns at once when something is there
    /// already, and as long as watch events are not taken.
    ///
    /// # Errors
    ///
    /// Only when the queue itself has failed: the shard cannot go on.
    fn wait(
        &mut self,
        deadline: Option<Instant>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()>;

    /// A handle that wakes this queue.
    fn waker(&self) -> Waker;

    /// Watch a directory (not its children's children).
    ///
    /// # Errors
    ///
    /// The directory's own, or `ENOSPC` when the user's watches are used up:
    /// then scan instead, and say so.
    fn watch(&mut self, directory: &Path) -> io::Result<WatchId>;

    /// As [`Backend::watch`], for who writes there himself: of what is written
    /// to an entry nothing need be told, where that can be asked for.
    ///
    /// # Errors
    ///
    /// As [`Backend::watch`].
    fn watch_names(&mut self, directory: &Path) -> io::Result<WatchId> {
        self.watch(directory)
    }

    /// End a watch.
    fn unwatch(&mut self, id: WatchId);

    /// Append the events that have come in since the last call.
    fn take_watch_events(&mut self, events: &mut Vec<WatchEvent>);
}

/// Which backend a setting asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendChoice {
    /// `uring` where it works, else `portable`, with one log line.
    #[default]
    Auto,
    /// `uring`, or an error.
    Uring,
    /// `portable`.
    Portable,
}

/// Open a backend on the calling thread.
///
/// # Errors
///
/// `Uring` was asked for and the kernel, a seccomp filter or
/// `io_uring_disabled` refuses it, or descriptors ran out.
pub fn open(choice: BackendChoice) -> io::Result<Box<dyn Backend>> {
    ignore_broken_pipes()?;
    match choice {
        BackendChoice::Portable => open_portable(),
        BackendChoice::Uring => open_uring(),
        BackendChoice::Auto => open_uring().or_else(|reason| {
            // Once, not for each shard.
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::warn!(%reason, "io_uring is not available: using the portable backend");
            });
            open_portable()
        }),
    }
}

/// `sendfile` and `splice` to a dead peer raise SIGPIPE and know no flag
/// against it. An embedder that runs its own handler for it keeps it.
fn ignore_broken_pipes() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal runs no code of ours.
    let before = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    if let SigHandler::Handler(_) | SigHandler::SigAction(_) = before {
        // SAFETY: the handler was in place a moment ago.
        unsafe { signal(Signal::SIGPIPE, before) }?;
    }
    Ok(())
}

/// A second descriptor of a file, for writes past the page cache; nothing
/// where the file system has none, or wants more than [`DIRECT_BLOCK_BYTES`]
/// of alignment.
///
/// [`DIRECT_BLOCK_BYTES`]: crate::limits::DIRECT_BLOCK_BYTES
#[must_use]
pub fn open_direct(path: &Path) -> Option<File> {
    past_the_cache(std::fs::OpenOptions::new().write(true), path)
}

/// As [`open_direct`], for reads.
#[must_use]
pub fn open_direct_reader(path: &Path) -> Option<File> {
    past_the_cache(std::fs::OpenOptions::new().read(true), path)
}

#[cfg(target_os = "linux")]
fn past_the_cache(options: &mut std::fs::OpenOptions, path: &Path) -> Option<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let file = options.custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path).ok()?;
    // SAFETY: all-zero bytes are a valid `statx` result.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, an empty path with AT_EMPTY_PATH, and a
    // buffer that outlives the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut found,
        )
    };
    let blocks = 1..=u32::try_from(crate::limits::DIRECT_BLOCK_BYTES).ok()?;
    let fits = result == 0
        && found.stx_mask & libc::STATX_DIOALIGN != 0
        && blocks.contains(&found.stx_dio_mem_align)
        && blocks.contains(&found.stx_dio_offset_align);
    fits.then_some(file)
}

/// Keep the calling thread on one core, counted from 0.
///
/// # Errors
///
/// There is no such core, or this process may not use it.
#[cfg(target_os = "linux")]
pub fn pin_thread(core: usize) -> io::Result<()> {
    let mut cores = nix::sched::CpuSet::new();
    cores.set(core)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores)?)
}

/// Elsewhere a thread cannot be kept on a core.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn pin_thread(_core: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Elsewhere nothing is known of who writes to a file.
///
/// # Errors
///
/// Always `Unsupported`.
#[cfg(not(target_os = "linux"))]
pub fn has_writer(_file: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Elsewhere the page cache is the only way.
#[cfg(not(target_os = "linux"))]
fn past_the_cache(_options: &mut std::fs::OpenOptions, _path: &Path) -> Option<File> {
    None
}

#[cfg(all(target_os = "linux", feature = "uring"))]
fn open_uring() -> io::Result<Box<dyn Backend>> {
    Ok(Box::new(uring::Uring::open()?))
}

#[cfg(not(all(target_os = "linux", feature = "uring")))]
fn open_uring() -> io::Result<Box<dyn Backend>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this build has no io_uring: it needs Linux and the feature `uring`",
    ))
}

fn open_portable() -> io::Result<Box<dyn Backend>> {
    Ok(Box::new(portable::Portable::open()?))
}
