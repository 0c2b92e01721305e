//! Holes: what of a file is in no stream.

use crate::ids::SegmentName;
use crate::lsn::Lsn;

/// Bytes of a segment that were left out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where in the stream they would have been: the records before end here,
    /// those behind begin here.
    pub lsn: Lsn,
    /// The segment.
    pub segment: SegmentName,
    /// Which file of that name.
    pub file: u64,
    /// Where in the file they begin.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// When they were left out, nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// What was wrong with them, at most 64 KiB.
    pub reason: String,
}
