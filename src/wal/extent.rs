//! A range of whole records in one segment: what the log hands to the data
//! plane.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::wal::segment::Segment;

/// A range of whole records that lies contiguously in one segment.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where the range starts in the file.
    pub offset: u64,
    /// How long it is, bytes.
    pub bytes: u32,
}
