//! What scrubbing has found, and what became of it.

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::engine::status::{self, PassOutcome, ScrubStatus};
use crate::ids::SpaceId;
use crate::limits::MAX_LISTED_BAD_RANGES;
use crate::lsn::Lsn;

/// A range of a segment that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// The space.
    pub space: SpaceId,
    /// The segment.
    pub path: PathBuf,
    /// Where the range begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong at its beginning.
    pub reason: String,
    /// Where it lies in the stream, if it is known to be a part of one.
    pub lsn: Option<Lsn>,
    /// The pass that saw it last, from 1.
    pub pass: u64,
}

/// What scrubbing has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Passes that were finished.
    pub passes: u64,
    /// True while a pass is under way.
    pub running: bool,
    /// Segments read, over all passes.
    pub segments: u64,
    /// Bytes read, over all passes.
    pub bytes: u64,
    /// Records that held, over all passes.
    pub records: u64,
    /// Segments of the present or last pass that end in an unfinished record.
    pub unfinished_tails: u64,
    /// Segments and directories of the present or last pass that could not be
    /// read. The log says why.
    pub unreadable: u64,
    /// Damaged ranges of the present or last pass, listed or not.
    pub bad_ranges: u64,
    /// Bytes in damaged ranges of the present or last pass.
    pub bad_bytes: u64,
    /// The damaged ranges, at most [`MAX_LISTED_BAD_RANGES`]. One that a later
    /// pass no longer finds is dropped at that pass's end.
    pub bad: Vec<BadRange>,
    /// Ranges that were mended, over all passes.
    pub healed_ranges: u64,
    /// The ranges that the last passes have mended, at most
    /// [`MAX_LISTED_BAD_RANGES`], the newest last.
    pub healed: VecDeque<BadRange>,
    /// What the last passes that were asked for came to, the newest last.
    pub outcomes: VecDeque<PassOutcome>,
}

impl From<ScrubReport> for ScrubStatus {
    fn from(report: ScrubReport) -> Self {
        let status = |range: BadRange| status::BadRange {
            space: range.space,
            segment: range
                .path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            offset: range.offset,
            bytes: range.bytes,
            problem: range.reason,
            lsn: range.lsn.map(|lsn| lsn.0),
        };
        Self {
            segments: report.segments,
            bytes: report.bytes,
            passes: report.passes,
            running: report.running,
            bad_ranges: report.bad.into_iter().map(status).collect(),
            healed_ranges: report.healed_ranges,
            healed: report.healed.into_iter().map(status).collect(),
            outcomes: report.outcomes.into(),
        }
    }
}

impl ScrubReport {
    /// A range was mended.
    pub(super) fn mended(&mut self, range: BadRange) {
        self.healed_ranges += 1;
        if self.healed.len() >= MAX_LISTED_BAD_RANGES {
            self.healed.pop_front();
        }
        self.healed.push_back(range);
    }
}
