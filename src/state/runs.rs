//! The ordered list of runs of one space.

use crate::ids::SegmentName;
use crate::lsn::Lsn;

/// A piece of the stream that lies contiguously in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the stream it begins.
    pub start: Lsn,
    /// The segment's file name.
    pub segment: SegmentName,
    /// Which file of that name, as the primary numbered it.
    pub file: u64,
    /// Where in the file the run begins.
    pub offset: u64,
    /// Its length; `None` while it is the last and may grow.
    pub bytes: Option<u64>,
}

/// The runs of one space, by ordinal. Only the last may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        todo!()
    }

    /// None yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, _ordinal: u32) -> Option<&Run> {
        todo!()
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> Option<&Run> {
        self.0.last()
    }

    /// Close the last run at `run.start` and begin the next.
    pub fn open(&mut self, _run: Run) -> u32 {
        todo!()
    }

    /// The run that holds the byte at `lsn` (the last run with start <= lsn;
    /// of several empty ones the last), and where in its file.
    #[must_use]
    pub fn locate(&self, _lsn: Lsn) -> Option<(u32, u64)> {
        todo!()
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Run)> {
        (0..).zip(self.0.iter())
    }
}
