//! Holes: what of a file is in no stream.

use crate::ids::SegmentName;
use crate::lsn::Lsn;
use crate::state::runs::Run;

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

impl Hole {
    /// Whether this is the run that begins behind it. Without that run the
    /// bytes are not left out any more: the walk comes to them again.
    #[must_use]
    pub fn ends_before(&self, run: &Run) -> bool {
        (self.lsn, self.segment, self.file, self.offset.checked_add(self.bytes))
            == (run.start, run.segment, run.file, Some(run.offset))
    }
}
