//! What a shard may ask of the keeper, and what it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::Offer;
use super::retention::{Positions, SlotView};
use crate::engine::replica::log::{Failure, SegmentFiles};
use crate::engine::shard::Standing;
use crate::ids::{Epoch, NodeId, SegmentName, SpaceId};
use crate::io::Waker;
use crate::lsn::{Lsn, Mark};
use crate::protocol::Now;
use crate::protocol::message::{
    Boundary, ErrorCode, Fetch, OpenSpace, Reseed, Retirement, Truncate,
};
use crate::state::catalog::{Change, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::record::RecordError;
use crate::wal::segment::Segment;

/// Something that a data core must not do itself.
#[derive(Debug)]
pub enum Job {
    /// List the spaces of the data root.
    ScanRoot {
        /// Who asks.
        shard: usize,
    },
    /// List the segments of a space: pin, number and open what is new.
    ScanSpace {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
    },
    /// Open a segment again that was delivered, or skipped, before.
    OpenSegment {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
    },
    /// Let go of a pin, once everything before this is durable.
    Release {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
    },
    /// How far the replicas are; the slots' budgets are looked at.
    Positions {
        /// Who asks.
        shard: usize,
        /// When this was so.
        now: Now,
        /// Spaces whose replicas moved, or are behind.
        spaces: Vec<Positions>,
    },
    /// Hold everything from `base` on for a replica that is filled anew.
    Reserve {
        /// Who asks.
        shard: usize,
        /// When.
        now: Now,
        /// The space.
        space: SpaceId,
        /// The replica.
        replica: NodeId,
        /// Where its seed begins.
        base: Mark,
        /// Where the head is.
        target: Lsn,
    },
    /// Make a change durable. News come only if a ticket is given.
    Commit {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: Option<u64>,
        /// The space.
        space: SpaceId,
        /// What changes.
        change: Change,
    },
    /// The source of a space that this node ships was changed behind the
    /// stream: cut the stream at a boundary, and begin a new epoch there.
    BeginEpoch {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
        /// The boundary.
        at: Mark,
        /// Up to here the stream is known to be what it was.
        sure: Lsn,
        /// How many runs remain.
        runs: u32,
    },
    /// A record of a space that this node ships does not hold, and no replica
    /// has it: leave it out of the stream, and begin a new epoch behind it.
    LeaveOut {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
        /// The boundary before the record.
        at: Mark,
        /// How it was found. It is looked at once more.
        bad: BadRecord,
        /// The time, nanoseconds since the Unix epoch.
        unix_ns: u64,
    },
    /// Borrow a space in order to receive it.
    OpenReplica {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// What the primary says of the space.
        open: Box<OpenSpace>,
    },
    /// Find a boundary of a borrowed space that has received nothing yet.
    Match {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// The space.
        space: SpaceId,
        /// At or before this.
        at: Lsn,
    },
    /// Save and cut what lies behind a boundary of a borrowed space, and take
    /// over the epochs of its primary. The space comes back first: after a
    /// refusal it stays with the keeper.
    Truncate {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// What the primary has said of the space.
        open: Box<OpenSpace>,
        /// Where, and the chain there.
        to: Truncate,
    },
    /// Make the file of a run, or open it again.
    OpenRun {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// The space.
        space: SpaceId,
        /// Its ordinal.
        ordinal: u32,
        /// The run.
        run: Run,
        /// True if the catalog has it already.
        known: bool,
    },
    /// A received file has no name on the primary any more, or is gone there.
    Retire {
        /// The space, borrowed.
        space: SpaceId,
        /// The file's number.
        file: u64,
        /// What becomes of it.
        what: Retirement,
        /// What is durable here.
        flushed: Mark,
    },
    /// Give up what was received of a borrowed space, and begin anew.
    Reseed {
        /// Who asks.
        shard: usize,
        /// Comes back in the news, as of a space that is lent.
        ticket: u64,
        /// What the primary has said of the space.
        open: Box<OpenSpace>,
        /// From where.
        reseed: Reseed,
    },
    /// Give a borrowed space back.
    CloseReplica {
        /// The space.
        space: SpaceId,
        /// Its state: what is durable and verified; or the failure, and then
        /// the log is recovered from the disk before it is lent again.
        state: Result<Box<(SpaceRecord, Mark)>, Failure>,
    },
    /// Names have changed in the directory of a received space: look whether it
    /// is still as it was left.
    LookAt {
        /// The space.
        space: SpaceId,
    },
    /// Read a range of the stream, because the peer asks for it.
    ReadRange {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// The space.
        space: SpaceId,
        /// What to read.
        fetch: Fetch,
    },
    /// Look whether the record at a position holds at rest.
    CheckRecord {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// The space.
        space: SpaceId,
        /// Where the record begins.
        at: Lsn,
    },
    /// Say where a space stands, as far as the keeper knows.
    Standing {
        /// The space.
        space: SpaceId,
        /// Where the answer goes; nothing for a space that is in no catalog.
        reply: Sender<Option<Kept>>,
    },
    /// Open the file of a run for reading.
    OpenAtRest {
        /// The space.
        space: SpaceId,
        /// The run.
        run: Run,
        /// Where the answer goes.
        reply: Sender<AtRest>,
    },
    /// Put files that were built in the place of damaged ones, once nobody
    /// writes to the space.
    Adopt {
        /// The space.
        space: SpaceId,
        /// The files; none of them is put in place unless what they were built
        /// for still stands.
        offer: Offer,
        /// Where the answer goes: where the damaged files are now, or why
        /// nothing more was done.
        reply: Sender<Result<Vec<PathBuf>, String>>,
    },
    /// Stop when everything before this has been done.
    Stop,
}

/// Why a numbered file is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Neither its name nor its pin leads to it: what it held is gone.
    Gone {
        /// A sentence.
        why: String,
        /// Neither of them exists any more, or another file has taken the name over,
        /// and the directory is the one that it was: as after a crash of the host that
        /// came before the names were on the disk. Anything else is a mistake, or was
        /// meant.
        lost: bool,
    },
    /// It may be there: a later attempt can help.
    Unreadable(String),
}

impl Unopened {
    /// A sentence.
    #[must_use]
    pub fn into_why(self) -> String {
        match self {
            Self::Gone { why, .. } | Self::Unreadable(why) => why,
        }
    }
}

impl Job {
    /// The space that it is about, if it is about one.
    #[must_use]
    pub fn space(&self) -> Option<&SpaceId> {
        match self {
            Self::ScanRoot { .. } | Self::Positions { .. } | Self::Stop => None,
            Self::OpenReplica { open, .. }
            | Self::Truncate { open, .. }
            | Self::Reseed { open, .. } => Some(&open.space),
            Self::ScanSpace { space, .. }
            | Self::OpenSegment { space, .. }
            | Self::Release { space, .. }
            | Self::Commit { space, .. }
            | Self::BeginEpoch { space, .. }
            | Self::Match { space, .. }
            | Self::OpenRun { space, .. }
            | Self::CloseReplica { space, .. }
            | Self::Retire { space, .. }
            | Self::Reserve { space, .. }
            | Self::LookAt { space }
            | Self::LeaveOut { space, .. }
            | Self::ReadRange { space, .. }
            | Self::CheckRecord { space, .. }
            | Self::Standing { space, .. }
            | Self::OpenAtRest { space, .. }
            | Self::Adopt { space, .. } => Some(space),
        }
    }
}

/// Where a space stands, as the keeper knows it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// While a session has the space, its checkpoint: the session knows better.
    pub standing: Standing,
    /// A session has it.
    pub is_lent: bool,
    /// Its epochs, and where each began.
    pub history: Vec<(Epoch, Lsn)>,
    /// How often this process has cut or recovered it.
    pub recoveries: u64,
    /// Boundaries that the catalog knows.
    pub boundaries: BTreeMap<Lsn, Mark>,
}

/// A file of a run.
#[derive(Debug)]
pub struct AtRest {
    /// Where it lies.
    pub path: PathBuf,
    /// Open for reading, or why not.
    pub file: io::Result<File>,
    /// It was let go in order: what it held is not here any more, and that is
    /// no damage.
    pub retired: bool,
}

/// How a record was found at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Whole,
    /// It does not.
    Damaged(BadRecord),
    /// It could not be looked at, and why.
    Unknown(String),
}

/// A record that does not hold at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// The segment.
    pub segment: SegmentName,
    /// Which file of that name.
    pub file: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// How many bytes do not hold, up to where the next record begins; nothing
    /// while that is not known. More than one record if those behind are no
    /// better.
    pub span: Option<u64>,
    /// What is wrong with it.
    pub error: RecordError,
}

/// The answer to a job.
#[derive(Debug)]
pub enum News {
    /// The spaces of the data root that exist as directories.
    Spaces(Vec<SpaceId>),
    /// Directories that can be no space and hold no log yet; to the first
    /// shard only. Once one holds a log, the root is to be scanned again.
    Strangers(Vec<OsString>),
    /// The directory is no space of its own.
    Refused(SpaceId),
    /// It is durable that a file was let go of: whatever happens to this host, it
    /// does not come back.
    Released {
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
    },
    /// What is known of a primary's space, and segments not delivered before.
    Space {
        /// The space.
        space: SpaceId,
        /// The catalog's record, with the first news of a space.
        record: Option<Box<SpaceRecord>>,
        /// New segments, by number.
        found: Vec<(u64, Arc<Segment>)>,
        /// Of those, where the last record that an earlier process is known to have
        /// walked is another now, or is not there: where in the stream it ended.
        otherwise: BTreeMap<u64, Lsn>,
        /// Every file that has a name, if the directory could be listed.
        named: Option<BTreeSet<u64>>,
        /// What could not be opened, in a sentence each.
        problems: Vec<String>,
    },
    /// Whether a primary's space can be read: comes after every scan of it,
    /// and alone if its directory holds no log yet.
    Access {
        /// The space.
        space: SpaceId,
        /// What keeps its directory or a segment from being read.
        obstacle: Option<String>,
    },
    /// The data root is there again, after it was gone.
    RootBack,
    /// A segment is open again, or why not.
    Segment {
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
        /// The segment.
        result: Result<Arc<Segment>, Unopened>,
    },
    /// What became of the slots of a space.
    Slots {
        /// The space.
        space: SpaceId,
        /// Each of them.
        slots: Vec<(NodeId, SlotView)>,
    },
    /// A seed's segments are held, or why not.
    Reserved {
        /// The space.
        space: SpaceId,
        /// The replica.
        replica: NodeId,
        /// Where the seed begins.
        base: Mark,
        /// The outcome.
        result: Result<(), String>,
    },
    /// The change is durable, or why not.
    Committed {
        /// As given.
        ticket: u64,
        /// The outcome.
        result: Result<(), String>,
    },
    /// A new epoch is durable, with the record as it is now; or why not.
    EpochBegun {
        /// The space.
        space: SpaceId,
        /// The outcome.
        result: Result<Box<SpaceRecord>, String>,
    },
    /// A record is left out, durably, with the space's record as it is now; or
    /// why not, and nothing has changed.
    LeftOut {
        /// The space.
        space: SpaceId,
        /// Where the record begins.
        at: Lsn,
        /// The outcome.
        result: Result<Box<SpaceRecord>, String>,
    },
    /// A space is lent, also after a truncation; or why not.
    ReplicaOpened {
        /// As given.
        ticket: u64,
        /// What is lent.
        result: Result<Box<Loan>, Denial>,
    },
    /// A boundary was found, or why not.
    Matched {
        /// As given.
        ticket: u64,
        /// The boundary.
        result: Result<Boundary, Unmatched>,
    },
    /// A primary with a higher epoch has come for a borrowed space: whoever has
    /// it must end.
    Recalled {
        /// The space.
        space: SpaceId,
        /// The epoch.
        highest: Epoch,
    },
    /// A borrowed space does not lie where it was left, or is not alone there:
    /// whoever has it must end, and nothing more of it counts.
    Evicted {
        /// The space.
        space: SpaceId,
        /// What is wrong, in a sentence.
        why: String,
    },
    /// Names have changed where a borrowed space lies: look whether what is
    /// written to is still where it was.
    Disturbed(SpaceId),
    /// The directory of this space is received into: tell when names change in
    /// it.
    Received(SpaceId),
    /// What was read of a range: fewer bytes than asked for where a run ends,
    /// none if they cannot be had.
    RangeRead {
        /// As given.
        ticket: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// How a record was found at rest.
    RecordChecked {
        /// As given.
        ticket: u64,
        /// The finding.
        verdict: Verdict,
    },
    /// A run can be written to, or why not.
    RunOpened {
        /// As given.
        ticket: u64,
        /// The open files.
        result: Result<SegmentFiles, String>,
    },
}

/// A received space in the hands of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loan {
    /// The catalog's record.
    pub record: SpaceRecord,
    /// The durable end.
    pub mark: Mark,
    /// Up to here the epochs of the space are those of its primary. Less than
    /// the durable end: nothing may be received before it is cut.
    pub common: Lsn,
}

/// Why a space is not lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// For the primary.
    pub code: ErrorCode,
    /// A sentence.
    pub why: String,
    /// The highest epoch that was seen here, if that is why.
    pub highest: Option<Epoch>,
}

impl From<(ErrorCode, String)> for Denial {
    fn from((code, why): (ErrorCode, String)) -> Self {
        Self { code, why, highest: None }
    }
}

/// Why a boundary is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmatched {
    /// What is here is damaged on the way to it. The scrubber was asked to mend
    /// that, over the session that has asked.
    Damaged(String),
    /// For the primary.
    Refused(ErrorCode, String),
}

/// Where a shard takes its news.
#[derive(Clone)]
pub struct Mailbox {
    /// The news.
    pub news: Sender<News>,
    /// To be called after each.
    pub waker: Waker,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}
