//! One open segment.
use crate::ids::SegmentName;
use std::fs::File;
use std::sync::Arc;

/// What makes a file the same file (T13: inode numbers are reused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time, ns since the Unix epoch; 0 where the file system keeps none.
    pub birth_ns: u64,
}

/// One open segment, readable even after its name is gone (T3).
#[derive(Debug)]
pub struct Segment {
    /// The name it had when it was first seen.
    pub name: SegmentName,
    /// Which file it is.
    pub identity: Identity,
    /// Open for reading.
    pub file: Arc<File>,
}
