//! Receive buffers that are filled at the end while their beginning is being
//! written to disk.

use std::ops::Range;

/// A bounded pool of slabs of one size.
#[derive(Clone, Debug)]
pub struct SlabPool;

impl SlabPool {
    /// A pool that allocates up to `most` slabs of `bytes` each, on demand.
    #[must_use]
    pub fn new(_most: usize, _bytes: usize) -> Self {
        todo!()
    }

    /// An empty slab, or nothing while all are in use.
    #[must_use]
    pub fn take(&self) -> Option<Slab> {
        todo!()
    }

    /// An empty slab outside the pool, for a single frame larger than a slab.
    #[must_use]
    pub fn oversized(_bytes: usize) -> Slab {
        todo!()
    }
}

/// A buffer with a filled beginning and a spare end; unique owner of its spare
/// end. Returns to its pool when it and all its slices are gone.
#[derive(Debug)]
pub struct Slab;

impl Slab {
    /// The bytes received so far.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        todo!()
    }

    /// How many bytes still fit.
    #[must_use]
    pub fn spare(&self) -> usize {
        todo!()
    }

    /// Append a copy of `bytes`; they must fit.
    pub fn push(&mut self, _bytes: &[u8]) {
        todo!()
    }

    /// A shared view of filled bytes.
    #[must_use]
    pub fn slice(&self, _range: Range<usize>) -> Slice {
        todo!()
    }
}

/// A shared, immutable view of filled bytes of a slab.
#[derive(Clone, Debug)]
pub struct Slice;

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        todo!()
    }
}
