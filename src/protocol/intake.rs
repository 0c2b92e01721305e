//! One space on one connection, as the replica sees it.
//!
//! ```text
//!   Opening --standing--> Open --------+--- Error out --> Closing
//!      |        |  |       ^  |        |                     |
//!      |        |  +-> Unmatched       |                     |
//!      |        |        | Truncate,   |                  Error in
//!      |        |        v or Reseed   |                     |
//!      |        |     Opening          |                     |
//!      |        +------> Fenced -------+                     v
//!      |                    |
//!      +---- Error in ------+------- Error in, answered -> (gone)
//! ```
//!
//! `Match` and `Truncate` may come until the first run or data of the session,
//! one at a time. An unmatched space holds bytes that the primary's epochs have
//! ended: nothing is received before they are cut.
//!
//! Positions of an open space, each at most the one before it:
//!
//! ```text
//!   expected   the end of the last frame that was admitted
//!   received   verified in memory
//!   written    with the file system
//!   flushed    durable
//! ```

#![forbid(unsafe_code)]

use super::fetch::Questions;
use super::frame::FrameHeader;
use super::message::{Ack, Boundary, ErrorCode, SegmentOpen, SegmentRetire, Standing, Truncate};
use crate::ids::Epoch;
use crate::limits::RECORD_HEADER_BYTES;
use crate::lsn::{Lsn, Mark};

/// News of verified or written bytes that is worth an ack without a flush. A
/// flush takes the rest along, so at full speed an ack tells of megabytes.
const ACK_BYTES: u64 = 4 << 20;

/// Why a frame may not come.
pub(super) type Refused = (ErrorCode, String);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The engine opens the space.
    Opening,
    /// Data may come.
    Open,
    /// What is here contradicts the primary's epochs: data may come only after
    /// a `Truncate`.
    Unmatched,
    /// The replica has seen a higher epoch: the primary is told, no data may come.
    Fenced,
    /// Our `Error` is on its way; what comes before the primary's is dropped.
    Closing,
}

#[derive(Debug)]
pub(super) struct Intake {
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// Stands in the queue of spaces with news to acknowledge.
    pub(super) queued: bool,
    /// A `Match` is with the engine: for the boundary at or before this.
    asked: Option<Lsn>,
    /// A run or data has come: there is nothing to be matched any more.
    streaming: bool,
    highest_epoch: Epoch,
    common: Lsn,
    expected: Lsn,
    received: Lsn,
    written: Lsn,
    flushed: Mark,
    /// Runs that are known here: the next one has this ordinal.
    runs: u32,
    /// The last run announced on this connection.
    last_run: Option<SegmentOpen>,
    /// `received` and `written` of the last ack.
    told: (Lsn, Lsn),
    /// Ranges that one end has asked the other for.
    pub(super) questions: Questions,
}

/// What an admitted `Data` frame brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admitted {
    /// Nothing new.
    Duplicate,
    /// New bytes from `start` on, behind `skip` known ones.
    New { start: Lsn, skip: u32 },
}

impl Intake {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            phase: Phase::Opening,
            queued: false,
            asked: None,
            streaming: false,
            highest_epoch: epoch,
            common: Lsn::ZERO,
            expected: Lsn::ZERO,
            received: Lsn::ZERO,
            written: Lsn::ZERO,
            flushed: Mark::START,
            runs: 0,
            last_run: None,
            told: (Lsn::ZERO, Lsn::ZERO),
            questions: Questions::default(),
        }
    }

    /// The engine has opened the space and stands here.
    pub(super) fn open(&mut self, standing: &Standing) {
        assert_eq!(self.phase, Phase::Opening, "opened twice");
        let at = standing.flushed;
        assert!(at == Lsn::ZERO || standing.runs > 0, "bytes at {at} that lie in no run");
        self.highest_epoch = standing.highest_epoch.max(self.epoch);
        assert!(standing.common <= at, "histories are common up to {} of {at}", standing.common);
        self.common = standing.common;
        self.phase = if self.highest_epoch > self.epoch {
            Phase::Fenced
        } else if self.common < at {
            Phase::Unmatched
        } else {
            Phase::Open
        };
        (self.expected, self.received, self.written) = (at, at, at);
        self.told = (at, at);
        self.runs = standing.runs;
        self.flushed =
            Mark { lsn: at, chain: standing.chain, records: standing.records, ..Mark::START };
    }

    /// The highest epoch that was seen of this space.
    pub(super) fn highest_epoch(&self) -> Epoch {
        self.highest_epoch
    }

    /// Whether a frame of the space may come; its header alone decides.
    ///
    /// `Closing` admits everything, to drop it.
    pub(super) fn admit(&self, epoch: Epoch) -> Result<(), Refused> {
        match self.phase {
            Phase::Closing => Ok(()),
            Phase::Opening => {
                Err((ErrorCode::Protocol, "a frame of the stream before OpenAck".to_owned()))
            }
            Phase::Fenced => Err((
                ErrorCode::Fenced,
                format!("fenced: epoch {} was seen, the frame has {epoch}", self.highest_epoch),
            )),
            Phase::Open | Phase::Unmatched if epoch != self.epoch => Err((
                ErrorCode::Fenced,
                format!("the space is open in epoch {}, the frame has {epoch}", self.epoch),
            )),
            Phase::Open | Phase::Unmatched => Ok(()),
        }
    }

    /// As [`Intake::admit`], for what continues the stream.
    fn admit_stream(&self, epoch: Epoch) -> Result<(), Refused> {
        self.admit(epoch)?;
        if self.phase == Phase::Unmatched || self.asked.is_some() {
            return Err((
                ErrorCode::Protocol,
                format!(
                    "a frame of the stream before it was matched: the histories are common up to \
                     {} of {}",
                    self.common, self.flushed.lsn
                ),
            ));
        }
        Ok(())
    }

    /// Whether histories can be compared now: not while a question is open,
    /// and not once the stream has gone on.
    fn admit_matching(&self) -> Result<(), Refused> {
        if self.streaming || self.asked.is_some() {
            let why = "a question about the history in the midst of the stream, or of another";
            return Err((ErrorCode::Protocol, why.to_owned()));
        }
        Ok(())
    }

    /// Takes a `Match`: the engine is asked.
    pub(super) fn take_match(&mut self, lsn: Lsn) -> Result<(), Refused> {
        self.admit_matching()?;
        self.asked = Some(lsn);
        Ok(())
    }

    /// The engine's answer to a `Match`; false if nothing was asked.
    pub(super) fn matched(&mut self, boundary: &Boundary) -> bool {
        match self.asked.take() {
            Some(asked) => {
                assert!(boundary.lsn <= asked, "asked before {asked}, found {}", boundary.lsn);
                true
            }
            None => false,
        }
    }

    /// Takes a `Truncate`. One that the epochs do not explain would cut bytes
    /// of the reign that it is sent in: that is never obeyed.
    pub(super) fn take_truncate(&mut self, truncate: &Truncate) -> Result<(), Refused> {
        self.admit_matching()?;
        if truncate.lsn < self.common || truncate.lsn > self.flushed.lsn {
            return Err((
                ErrorCode::Diverged,
                format!(
                    "asked to cut the stream at {}, and by the epochs only what lies between {} \
                     and {} is of an earlier reign: nothing was cut",
                    truncate.lsn, self.common, self.flushed.lsn
                ),
            ));
        }
        self.phase = Phase::Opening;
        self.questions = Questions::default();
        Ok(())
    }

    /// Whether ranges are asked for and given: the space is open, whether or not
    /// it is matched.
    pub(super) fn serves(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Unmatched)
    }

    /// Whether a control frame that continues the stream may come.
    pub(super) fn admit_told(&self, header: &FrameHeader) -> Result<(), Refused> {
        self.admit_stream(header.epoch)
    }

    /// Whether a `Fetch` or a `Fetched` may come: also while the histories are
    /// compared, for they tell nothing of where the stream goes on.
    pub(super) fn admit_fetch(&self, header: &FrameHeader) -> Result<(), Refused> {
        self.admit(header.epoch)
    }

    /// Whether a `Data` frame may come.
    pub(super) fn admit_data(&self, header: &FrameHeader) -> Result<(), Refused> {
        self.admit_stream(header.epoch)?;
        if self.phase == Phase::Closing {
            return Ok(());
        }
        let (records, bytes) = (u64::from(header.records), u64::from(header.payload_bytes));
        if header.raw_bytes != header.payload_bytes {
            return Err((
                ErrorCode::Protocol,
                format!("{bytes} payload bytes stand for {}, uncompressed", header.raw_bytes),
            ));
        }
        if records == 0 || records * RECORD_HEADER_BYTES as u64 > bytes {
            return Err((ErrorCode::Protocol, format!("{records} records in {bytes} bytes")));
        }
        if header.start.0.checked_add(bytes).is_none() {
            return Err((ErrorCode::Protocol, format!("data beyond the end at {}", header.start)));
        }
        if header.start > self.expected {
            return Err((
                ErrorCode::Gap,
                format!("data begins at {}, expected {}", header.start, self.expected),
            ));
        }
        if self.runs == 0 {
            return Err((ErrorCode::Gap, "data before its run was opened".to_owned()));
        }
        Ok(())
    }

    /// Takes an admitted `Data` frame.
    pub(super) fn take_data(&mut self, header: &FrameHeader) -> Admitted {
        self.streaming = true;
        let end = header.start.advance(u64::from(header.payload_bytes));
        let start = self.expected;
        assert!(header.start <= start, "a gap that was admitted");
        if end <= start {
            return Admitted::Duplicate;
        }
        let skip = u32::try_from(start.bytes_since(header.start));
        assert!(skip.is_ok(), "less than the payload");
        self.expected = end;
        Admitted::New { start, skip: skip.unwrap_or_default() }
    }

    /// Takes a `SegmentOpen`; true if the run is new.
    pub(super) fn take_run(&mut self, run: &SegmentOpen) -> Result<bool, Refused> {
        self.streaming = true;
        if run.ordinal < self.runs {
            let known = self.last_run.filter(|last| last.ordinal == run.ordinal);
            return match known {
                Some(last) if last != *run => Err((
                    ErrorCode::Protocol,
                    format!("run {} was announced as {last:?}, now as {run:?}", run.ordinal),
                )),
                _ => Ok(false),
            };
        }
        if run.ordinal > self.runs || run.start != self.expected {
            return Err((
                ErrorCode::Gap,
                format!(
                    "run {} begins at {}, expected run {} at {}",
                    run.ordinal, run.start, self.runs, self.expected
                ),
            ));
        }
        if self.runs == u32::MAX {
            return Err((ErrorCode::Limit, "more runs than ordinals".to_owned()));
        }
        self.runs += 1;
        self.last_run = Some(*run);
        Ok(true)
    }

    /// Whether what stands instead of a retired file is durable here. The
    /// primary knows from the acks; a file is not given up on its word alone.
    pub(super) fn admit_retire(&self, retire: &SegmentRetire) -> Result<(), Refused> {
        if retire.after > self.flushed.lsn {
            return Err((
                ErrorCode::Protocol,
                format!(
                    "file {} is to be retired behind {}, and only {} is durable here",
                    retire.file, retire.after, self.flushed.lsn
                ),
            ));
        }
        Ok(())
    }

    /// The space is to begin anew: as if it had not been opened yet. Only
    /// before anything of the stream has come, and only if what is here is its
    /// primary's: what another reign wrote stands nowhere else.
    pub(super) fn begin_anew(&mut self) -> Result<(), Refused> {
        self.admit_matching()?;
        if self.phase == Phase::Unmatched {
            return Err((
                ErrorCode::Diverged,
                format!(
                    "this replica is to begin anew, and what it has from {} to {} is of another \
                     reign and stands nowhere else: set its directory and its catalog aside by \
                     hand",
                    self.common, self.flushed.lsn
                ),
            ));
        }
        self.phase = Phase::Opening;
        self.questions = Questions::default();
        self.last_run = None;
        Ok(())
    }

    /// Verified up to `end`; true if an ack is due.
    pub(super) fn verified(&mut self, end: &Mark) -> bool {
        assert!(end.lsn <= self.expected, "verified {} beyond {}", end.lsn, self.expected);
        assert!(end.lsn >= self.received, "verified {}, then {}", self.received, end.lsn);
        self.received = end.lsn;
        self.received.bytes_since(self.told.0) >= ACK_BYTES
    }

    /// With the file system up to `to`; true if an ack is due.
    pub(super) fn wrote(&mut self, to: Lsn) -> bool {
        assert!(to <= self.received, "wrote {to}, verified {}", self.received);
        self.written = self.written.max(to);
        self.written.bytes_since(self.told.1) >= ACK_BYTES
    }

    /// Durable up to `to`; true if an ack is due.
    pub(super) fn durable(&mut self, to: &Mark) -> bool {
        assert!(to.lsn <= self.received, "flushed {}, verified {}", to.lsn, self.received);
        assert!(to.lsn >= self.flushed.lsn, "flushed {}, then {}", self.flushed.lsn, to.lsn);
        if to.lsn == self.flushed.lsn {
            return false;
        }
        self.written = self.written.max(to.lsn);
        self.flushed = *to;
        true
    }

    /// The positions, to be told now.
    pub(super) fn ack(&mut self) -> Ack {
        assert!(self.received >= self.written && self.written >= self.flushed.lsn);
        self.told = (self.received, self.written);
        Ack {
            received: self.received,
            written: self.written,
            flushed: self.flushed.lsn,
            applied: Lsn::ZERO,
            sequence: self.flushed.sequence,
            chain: self.flushed.chain,
        }
    }
}
