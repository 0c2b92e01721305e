//! Read-only memory maps that cannot kill the process.
//!
//! A page of a mapped file that has no byte of the file behind it, or whose
//! read from the disk fails, raises SIGBUS when it is touched. Nobody here
//! touches a byte beyond a length that was checked before; but a file can
//! shrink between the check and the touch (a crash that was repaired, a
//! careless script), and disks fail. So a handler stands behind:
//!
//! ```text
//!   touch ──> page fault ──> SIGBUS ──> handler
//!                                        │ looks the address up in WINDOWS
//!                          not ours ─────┴───── ours
//!                              │                 │ marks the window damaged,
//!              previous handler, as ever         │ maps a page of zeroes there
//!                                                └──> the touch is repeated, reads 0
//! ```
//!
//! Zeroes are no record, so a reader that meets one asks [`Map::is_damaged`]
//! before it draws conclusions, and drops the map. When the kernel itself
//! reads the map for a `send`, there is no signal: the call fails with
//! `EFAULT`.
//!
//! The table of windows is fixed in size and free of locks, because a signal
//! handler reads it. When it is full, or the process has no maps left, a
//! [`Map`] is a copy of the bytes instead, smaller than asked for.
//!
//! The bytes of a map may change while they are looked at: they belong to
//! another process. Headers are therefore copied out before they are judged,
//! and what is judged is the copy.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use crate::limits::{MAX_COPIED_WINDOW_BYTES, MAX_MAPPED_WINDOWS, RECORD_HEADER_BYTES};

/// One mapped range of addresses, as the handler sees it.
///
/// `start` is [`FREE`], [`CLAIMED`], or the first address. It is written last
/// when a window is entered and first when it leaves, so a handler that reads
/// the same `start` before and after `end` has read a pair.
struct Watched {
    start: AtomicUsize,
    end: AtomicUsize,
    damaged: AtomicBool,
}

const FREE: usize = 0;
const CLAIMED: usize = 1;

static WINDOWS: [Watched; MAX_MAPPED_WINDOWS] = [const {
    Watched {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MAX_MAPPED_WINDOWS];

/// Slots that may be in use: the handler looks no further.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Where the next search for a free slot begins.
static HINT: AtomicUsize = AtomicUsize::new(0);

/// What the handler needs; set before the handler is installed.
static PREVIOUS: OnceLock<Result<Guard, Errno>> = OnceLock::new();

/// The state of the process before the handler.
struct Guard {
    previous: libc::sigaction,
    page_bytes: usize,
}

/// The place of one window in the table; leaves it on drop.
struct Slot(usize);

impl Slot {
    /// Enter a range of addresses. `None` when the table is full.
    fn enter(start: usize, end: usize) -> Option<Self> {
        let first = HINT.load(Ordering::Relaxed);
        for step in 0..MAX_MAPPED_WINDOWS {
            let index = (first + step) % MAX_MAPPED_WINDOWS;
            let slot = &WINDOWS[index];
            if slot.start.load(Ordering::Relaxed) == FREE
                && slot
                    .start
                    .compare_exchange(FREE, CLAIMED, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
            {
                slot.end.store(end, Ordering::SeqCst);
                slot.damaged.store(false, Ordering::SeqCst);
                USED.fetch_max(index + 1, Ordering::SeqCst);
                slot.start.store(start, Ordering::SeqCst);
                HINT.store((index + 1) % MAX_MAPPED_WINDOWS, Ordering::Relaxed);
                return Some(Self(index));
            }
        }
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        WINDOWS[self.0].start.store(FREE, Ordering::SeqCst);
        // Low slots first: the handler then has less to look through.
        HINT.fetch_min(self.0, Ordering::Relaxed);
    }
}

/// Mark the window that holds `address` as damaged. `None` if none does.
/// Called by the signal handler: touches atomics only.
fn mark_damaged(address: usize) -> Option<()> {
    for slot in &WINDOWS[..USED.load(Ordering::SeqCst)] {
        let start = slot.start.load(Ordering::SeqCst);
        let end = slot.end.load(Ordering::SeqCst);
        if start > CLAIMED
            && (start..end).contains(&address)
            && slot.start.load(Ordering::SeqCst) == start
        {
            slot.damaged.store(true, Ordering::SeqCst);
            return Some(());
        }
    }
    None
}

/// Put a page of zeroes where `address` lies.
///
/// # Safety
///
/// The page must belong to a window of this process that is still mapped.
unsafe fn cover_with_zeroes(address: usize, page_bytes: usize) -> bool {
    let page = address & !(page_bytes - 1);
    // SAFETY: the caller vouches that the page belongs to one of our
    // read-only windows, so replacing it takes nothing from anybody else.
    let covered = unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            page_bytes,
            libc::PROT_READ,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANON,
            -1,
            0,
        )
    };
    covered != libc::MAP_FAILED
}

/// The handler. Async-signal-safe: atomics, `mmap`, `sigaction`, `raise`.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let Some(Ok(guard)) = PREVIOUS.get() else {
        return;
    };
    let errno = Errno::last_raw();
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // A code of 0 or less: sent by a process, not raised by an access.
    let healed = code > 0
        && mark_damaged(address).is_some()
        // SAFETY: the address lies in a window of the table. The thread that
        // touched it holds that window, so it stays mapped until this returns.
        && unsafe { cover_with_zeroes(address, guard.page_bytes) };
    if !healed {
        // SAFETY: the same arguments, on the same stack, in the same signal.
        unsafe { pass_on(&guard.previous, code, signal, info, context) };
    }
    Errno::set_raw(errno);
}

/// Do what would have been done without this module.
///
/// # Safety
///
/// Only from the handler, with its own arguments.
unsafe fn pass_on(
    previous: &libc::sigaction,
    code: libc::c_int,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let action = previous.sa_sigaction;
    if action == libc::SIG_DFL || action == libc::SIG_IGN {
        if action == libc::SIG_IGN && code <= 0 {
            return;
        }
        // SAFETY: restoring an action that was in force before, and sending
        // ourselves the signal, which arrives when the handler returns.
        unsafe {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
            libc::raise(signal);
        }
    } else if previous.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the action is a handler of three arguments.
        unsafe {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(action);
            handler(signal, info, context);
        }
    } else {
        // SAFETY: without SA_SIGINFO the action is a handler of one argument.
        unsafe {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(action);
            handler(signal);
        }
    }
}

/// Install the handler, once per process, before the first window exists.
fn guard() -> Result<&'static Guard, io::Error> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    let previous = PREVIOUS.get_or_init(|| {
        // SAFETY: asks for the present action into a zeroed struct, and for
        // the size of a page.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            let asked = libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous);
            Errno::result(asked)?;
            let page_bytes = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            Ok(Guard { previous, page_bytes })
        }
    });
    let guard = previous.as_ref().map_err(|&errno| io::Error::from(errno))?;
    INSTALLED
        .get_or_init(|| {
            // SAFETY: `on_bus_error` has the signature that SA_SIGINFO asks
            // for and is async-signal-safe; PREVIOUS is set.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_bus_error as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                let done = libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
                Errno::result(done).map(drop)
            }
        })
        .map_err(io::Error::from)?;
    Ok(guard)
}

/// Where the bytes of a [`Map`] are. Fields drop in order: a window leaves
/// the table before it is unmapped, so its addresses cannot be taken for
/// those of whatever is mapped there next.
enum Bytes {
    Mapped { slot: Slot, map: MmapRaw },
    Copied(Box<[u8]>),
}

/// A range of a file, readable as memory.
pub struct Map {
    offset: u64,
    bytes: Bytes,
}

impl Map {
    /// Map `bytes` bytes of `file` from `offset` on. The range may reach
    /// beyond the present end of the file: bytes behind it must not be
    /// touched before the file has grown over them.
    ///
    /// If the table of windows or the process's maps are used up, the present
    /// bytes are copied, fewer than asked for: see [`Map::len`].
    ///
    /// # Errors
    ///
    /// The handler could not be installed, or the copy could not be read.
    pub fn new(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let guard = guard()?;
        if bytes > 0
            && let Ok(map) = MmapOptions::new().offset(offset).len(bytes).map_raw_read_only(file)
        {
            let first = map.as_ptr() as usize & !(guard.page_bytes - 1);
            let end = (map.as_ptr() as usize + bytes).next_multiple_of(guard.page_bytes);
            if let Some(slot) = Slot::enter(first, end) {
                return Ok(Self { offset, bytes: Bytes::Mapped { slot, map } });
            }
        }
        Self::copied(file, offset, bytes)
    }

    /// The same by reading.
    fn copied(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let mut buffer = vec![0; bytes.min(MAX_COPIED_WINDOW_BYTES)];
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(Self { offset, bytes: Bytes::Copied(buffer.into()) })
    }

    /// Where in the file the range starts.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the range.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Mapped { map, .. } => map.len(),
            Bytes::Copied(bytes) => bytes.len(),
        }
    }

    /// True if the range holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True once a touch of the range has found no file behind it: what was
    /// read since may be zeroes in the place of bytes. Drop the map, and find
    /// out by `fstat` and `pread` whether the file shrank or the disk failed.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        match &self.bytes {
            Bytes::Mapped { slot, .. } => WINDOWS[slot.0].damaged.load(Ordering::SeqCst),
            Bytes::Copied(_) => false,
        }
    }

    /// A copy of the 64 bytes at `offset` of the file; `None` if they do not
    /// lie in the range.
    #[inline]
    #[must_use]
    pub fn header_at(&self, offset: u64) -> Option<[u8; RECORD_HEADER_BYTES]> {
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        match &self.bytes {
            Bytes::Mapped { map, .. } => {
                if at > map.len().checked_sub(RECORD_HEADER_BYTES)? {
                    return None;
                }
                let mut header = [0; RECORD_HEADER_BYTES];
                // SAFETY: `at + 64` lies within the map. Another process may
                // write these bytes meanwhile: no reference to them is
                // formed, and any mixture of old and new is a valid array.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        map.as_ptr().add(at),
                        header.as_mut_ptr(),
                        RECORD_HEADER_BYTES,
                    );
                }
                Some(header)
            }
            Bytes::Copied(bytes) => bytes.get(at..)?.first_chunk().copied(),
        }
    }

    /// Enter the pages of a range into the address space, so that
    /// [`Map::expect`] has something to work with. The range must lie before
    /// the end of the file. Waits for pages that are not in the cache.
    ///
    /// One byte is read in each 64 KiB: that is how much Linux maps around a
    /// fault unless told otherwise, and a third of the price of
    /// `MADV_POPULATE_READ`, which visits every page.
    pub fn enter(&self, offset: u64, bytes: u64) {
        const AROUND: usize = 64 << 10;
        let Bytes::Mapped { map, .. } = &self.bytes else { return };
        let start = offset.saturating_sub(self.offset);
        let end = start.saturating_add(bytes).min(map.len() as u64);
        let start = usize::try_from(start.min(end)).unwrap_or(usize::MAX);
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        for at in (start..end).step_by(AROUND) {
            // SAFETY: `at` lies within the map; the handler of bus errors
            // answers for a file that has shrunk. Another process may write
            // the byte meanwhile, hence volatile, and no reference.
            let _ = unsafe { map.as_ptr().add(at).read_volatile() };
        }
    }

    /// The bytes at `offset` will be read soon: have them in the processor's
    /// cache by then. A hint that costs an instruction; a wrong one costs
    /// nothing more.
    #[inline]
    pub fn expect(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Bytes::Mapped { map, .. } = &self.bytes
            && let Some(at) =
                offset.checked_sub(self.offset).and_then(|at| usize::try_from(at).ok())
            && at < map.len()
        {
            // SAFETY: the address lies within the map, and a prefetch does
            // not fault.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    map.as_ptr().add(at).cast(),
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// A part of the range, to be handed to a transmission. `None` if it does
    /// not lie in the range.
    #[must_use]
    pub fn window(self: &Arc<Self>, offset: u64, bytes: usize) -> Option<Window> {
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        if at.checked_add(bytes)? > self.len() {
            return None;
        }
        Some(Window { map: Arc::clone(self), at, bytes })
    }
}

impl AsRef<[u8]> for Map {
    /// All of the range. The caller has checked that the file reaches as far
    /// as it will look.
    fn as_ref(&self) -> &[u8] {
        match &self.bytes {
            // A page without a file behind it reads as zeroes, see `on_bus_error`.
            // Log bytes that are complete are never changed by their writer; a
            // reader that meets a change all the same finds a wrong checksum.
            // SAFETY: the map is readable for its length and lives as long as
            // `self`, and every byte value is valid.
            Bytes::Mapped { map, .. } => unsafe {
                std::slice::from_raw_parts(map.as_ptr(), map.len())
            },
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("offset", &self.offset)
            .field("len", &self.len())
            .field("mapped", &matches!(self.bytes, Bytes::Mapped { .. }))
            .field("damaged", &self.is_damaged())
            .finish()
    }
}

/// A part of a [`Map`], exactly as long as it was asked for.
#[derive(Clone, Debug)]
pub struct Window {
    map: Arc<Map>,
    at: usize,
    bytes: usize,
}

impl Window {
    /// See [`Map::is_damaged`].
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.map.is_damaged()
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.map.as_ref().as_ref()[self.at..self.at + self.bytes]
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
