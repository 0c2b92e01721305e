//! Receive buffers that are filled at the end while their beginning is being
//! written to disk.
//!
//! ```text
//!   chunk   |<--------------- capacity, page-aligned --------------->|
//!           |  filled: shared by slices  |  spare: the slab's alone  |
//!           0                        filled                     capacity
//! ```
//!
//! One [`Slab`] at a time owns the spare end of a chunk, and only the spare
//! end is ever written. Slices see filled bytes only, and filled bytes never
//! change, so reading and receiving at the same time is sound. A chunk goes
//! back to its pool when its slab and all slices are gone; its memory is
//! reused as it is, never zeroed.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::Socket;

use crate::limits::MAX_OVERSIZED_SLABS;

/// Chunks start on a page: the kernel copies whole pages at its best speed,
/// and direct writes stay possible.
const ALIGN_BYTES: usize = 4096;

/// Page-aligned memory that is freed on drop; its contents are unknown.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned by this value alone and is not tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives out a pointer only; what may be read or
// written through it is the business of `Slab` and `Slice`.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN_BYTES)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<[u8; ALIGN_BYTES]>()));
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

struct Shelf {
    most: usize,
    bytes: usize,
    stock: Mutex<Stock>,
}

struct Stock {
    idle: Vec<Memory>,
    allocated: usize,
    /// Slabs larger than the pool's own that are in use.
    oversized: usize,
}

impl Shelf {
    fn stock(&self) -> std::sync::MutexGuard<'_, Stock> {
        // The stock is consistent at every step; a panic elsewhere while it
        // was held says nothing about it.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded pool of slabs of one size.
#[derive(Clone)]
pub struct SlabPool {
    shelf: Arc<Shelf>,
}

impl SlabPool {
    /// A pool that allocates up to `most` slabs of `bytes` each, on demand.
    #[must_use]
    pub fn new(most: usize, bytes: usize) -> Self {
        Self {
            shelf: Arc::new(Shelf {
                most,
                bytes,
                stock: Mutex::new(Stock {
                    idle: Vec::with_capacity(most),
                    allocated: 0,
                    oversized: 0,
                }),
            }),
        }
    }

    /// An empty slab, or nothing while all are in use.
    #[must_use]
    pub fn take(&self) -> Option<Slab> {
        let mut stock = self.shelf.stock();
        let memory = match stock.idle.pop() {
            Some(memory) => memory,
            None if stock.allocated < self.shelf.most => {
                stock.allocated += 1;
                Memory::new(self.shelf.bytes)
            }
            None => return None,
        };
        drop(stock);
        Some(Slab::over(memory, Some(Arc::clone(&self.shelf))))
    }

    /// An empty slab for a single frame of `bytes`, more than the pool's slabs
    /// have; nothing while [`MAX_OVERSIZED_SLABS`] of them are in use.
    #[must_use]
    pub fn take_oversized(&self, bytes: usize) -> Option<Slab> {
        let mut stock = self.shelf.stock();
        if stock.oversized >= MAX_OVERSIZED_SLABS {
            return None;
        }
        stock.oversized += 1;
        drop(stock);
        let memory = Memory::new(bytes.max(self.shelf.bytes + 1));
        Some(Slab::over(memory, Some(Arc::clone(&self.shelf))))
    }

    /// An empty slab of no pool; who makes it bounds how many there are.
    #[must_use]
    pub fn oversized(bytes: usize) -> Slab {
        Slab::over(Memory::new(bytes), None)
    }

    /// How many slabs are in use, or have slices in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let stock = self.shelf.stock();
        stock.allocated - stock.idle.len()
    }
}

impl fmt::Debug for SlabPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabPool")
            .field("most", &self.shelf.most)
            .field("bytes", &self.shelf.bytes)
            .field("in_use", &self.in_use())
            .finish()
    }
}

/// Memory on loan from a shelf.
struct Chunk {
    memory: Option<Memory>,
    start: NonNull<u8>,
    shelf: Option<Arc<Shelf>>,
}

// SAFETY: `start` points into `memory`, which the chunk owns; see `Memory`.
unsafe impl Send for Chunk {}
// SAFETY: as for `Memory`: access is ruled by `Slab` and `Slice`.
unsafe impl Sync for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let (Some(shelf), Some(memory)) = (&self.shelf, self.memory.take()) {
            let mut stock = shelf.stock();
            if memory.bytes() > shelf.bytes {
                stock.oversized -= 1;
            } else {
                stock.idle.push(memory);
            }
        }
    }
}

/// A buffer with a filled beginning and a spare end; unique owner of its spare
/// end. Returns to its pool when it and all its slices are gone.
pub struct Slab {
    chunk: Arc<Chunk>,
    filled: usize,
    capacity: usize,
}

impl Slab {
    fn over(memory: Memory, shelf: Option<Arc<Shelf>>) -> Self {
        let capacity = memory.bytes();
        let start = memory.start;
        let chunk = Chunk { memory: Some(memory), start, shelf };
        Self { chunk: Arc::new(chunk), filled: 0, capacity }
    }

    /// The bytes received so far.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: the first `filled` bytes are initialised, and nobody writes
        // them while the chunk is shared.
        unsafe { std::slice::from_raw_parts(self.chunk.start.as_ptr(), self.filled) }
    }

    /// How many bytes still fit.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.capacity - self.filled
    }

    /// Append a copy of `bytes`; they must fit.
    ///
    /// # Panics
    ///
    /// They do not fit: the caller lost count of its own buffer.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.spare(), "a slab overflows");
        // SAFETY: the target lies in the spare end, which this slab alone
        // owns, and has room; `bytes` is a live borrow and cannot overlap it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.spare_start(), bytes.len());
        }
        self.filled += bytes.len();
    }

    /// A shared view of filled bytes.
    ///
    /// # Panics
    ///
    /// The range reaches past the filled bytes.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Slice {
        assert!(
            range.start <= range.end && range.end <= self.filled,
            "a slice of bytes that were not received"
        );
        Slice { chunk: Arc::clone(&self.chunk), range }
    }

    /// Receive at most `most` bytes behind the filled ones; as many as fit.
    ///
    /// # Errors
    ///
    /// The socket's: `WouldBlock` when nothing is there.
    pub(super) fn receive(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        let most = most.min(self.spare());
        let start = self.spare_start().cast::<MaybeUninit<u8>>();
        // SAFETY: that much of the spare end is this slab's alone, and may be
        // uninitialised.
        let spare = unsafe { std::slice::from_raw_parts_mut(start, most) };
        let bytes = socket.recv(spare)?;
        // SAFETY: `recv` has initialised that many bytes of the spare end.
        unsafe { self.grow(bytes) };
        Ok(bytes)
    }

    /// Where the spare end starts. [`Self::spare`] bytes from here may be
    /// written, by the owner of this slab only; they are uninitialised.
    pub(super) fn spare_start(&mut self) -> *mut u8 {
        // SAFETY: `filled` is at most the capacity, so the pointer stays
        // within the allocation or one past its end.
        unsafe { self.chunk.start.as_ptr().add(self.filled) }
    }

    /// Count `bytes` more as filled.
    ///
    /// # Safety
    ///
    /// So many have been written at [`Self::spare_start`], and fit there.
    pub(super) unsafe fn grow(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.spare());
        self.filled += bytes;
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("filled", &self.filled)
            .field("capacity", &self.capacity)
            .finish()
    }
}

/// A shared, immutable view of filled bytes of a slab.
#[derive(Clone)]
pub struct Slice {
    chunk: Arc<Chunk>,
    range: Range<usize>,
}

impl Slice {
    /// A part of this view; `range` counts from its own start.
    ///
    /// # Panics
    ///
    /// The range reaches past the end of this view.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.range.len(),
            "a part outside of its slice"
        );
        Self {
            chunk: Arc::clone(&self.chunk),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range was filled when the slice was made, filled bytes
        // are never written again, and the chunk lives as long as `self`.
        unsafe {
            std::slice::from_raw_parts(
                self.chunk.start.as_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slice").field(&self.range).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pool_is_bounded_and_recycles() {
        let pool = SlabPool::new(2, 8192);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert_eq!(pool.in_use(), 2);
        let start = first.chunk.start;
        drop(first);
        let again = pool.take().unwrap();
        assert_eq!(again.chunk.start, start);
        assert_eq!(again.spare(), 8192);
        assert!(again.filled().is_empty());
        drop((second, again));
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn larger_slabs_are_bounded_too() {
        let pool = SlabPool::new(1, 4096);
        let mut held: Vec<_> =
            (0..MAX_OVERSIZED_SLABS).map(|_| pool.take_oversized(9000).unwrap()).collect();
        assert!(held[0].spare() >= 9000);
        assert!(pool.take_oversized(9000).is_none());
        let slab = pool.take().unwrap();
        assert!(pool.take().is_none());
        held[0].push(b"x");
        let slice = held[0].slice(0..1);
        held.clear();
        assert!(pool.take_oversized(5000).is_some());
        drop((slice, slab));
        assert_eq!(pool.in_use(), 0);
        assert_eq!(pool.take().unwrap().spare(), 4096);
    }

    #[test]
    fn a_chunk_returns_only_with_its_last_slice() {
        let pool = SlabPool::new(1, 4096);
        let mut slab = pool.take().unwrap();
        slab.push(b"one and two");
        let one = slab.slice(0..3);
        let two = slab.slice(4..11).part(4..7);
        drop(slab);
        assert!(pool.take().is_none());
        assert_eq!(one.as_ref(), b"one");
        drop(one);
        assert!(pool.take().is_none());
        assert_eq!(two.as_ref(), b"two");
        drop(two);
        assert!(pool.take().is_some());
    }

    #[test]
    fn filled_bytes_stay_while_the_end_is_filled() {
        let mut slab = SlabPool::oversized(10);
        slab.push(b"abcde");
        let slice = slab.slice(1..4);
        slab.push(b"fghij");
        assert_eq!(slice.as_ref(), b"bcd");
        assert_eq!(slab.filled(), b"abcdefghij");
        assert_eq!(slab.spare(), 0);
    }

    #[test]
    fn slices_outlive_the_pool_and_cross_threads() {
        let pool = SlabPool::new(1, 4096);
        let mut slab = pool.take().unwrap();
        slab.push(b"bytes");
        let slice = slab.slice(0..5);
        drop((slab, pool));
        let seen = std::thread::spawn(move || slice.as_ref().to_vec());
        assert_eq!(seen.join().unwrap(), b"bytes");
    }

    #[test]
    fn memory_is_page_aligned() {
        let slab = SlabPool::oversized(5000);
        assert_eq!(slab.chunk.start.as_ptr() as usize % ALIGN_BYTES, 0);
    }
}
