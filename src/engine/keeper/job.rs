//! What a shard may ask of the keeper, and what it hears.

use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::engine::replica::log::SegmentFiles;
use crate::ids::SpaceId;
use crate::io::Waker;
use crate::lsn::Mark;
use crate::protocol::message::{ErrorCode, OpenSpace};
use crate::state::catalog::{Change, SpaceRecord};
use crate::state::runs::Run;
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
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
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
    /// Borrow a space in order to receive it.
    OpenReplica {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// What the primary says of the space.
        open: Box<OpenSpace>,
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
    /// Give a borrowed space back.
    CloseReplica {
        /// The space.
        space: SpaceId,
        /// Its state: what is durable and verified; nothing after a failure,
        /// and then the log is recovered from the disk before it is lent
        /// again.
        state: Option<Box<(SpaceRecord, Mark)>>,
    },
    /// Stop when everything before this has been done.
    Stop,
}

/// The answer to a job.
#[derive(Debug)]
pub enum News {
    /// The spaces of the data root that exist as directories.
    Spaces(Vec<SpaceId>),
    /// What is known of a primary's space, and segments not delivered before.
    Space {
        /// The space.
        space: SpaceId,
        /// The catalog's record, with the first news of a space.
        record: Option<Box<SpaceRecord>>,
        /// New segments, by number.
        found: Vec<(u64, Arc<Segment>)>,
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
        result: Result<Arc<Segment>, String>,
    },
    /// The change is durable, or why not.
    Committed {
        /// As given.
        ticket: u64,
        /// The outcome.
        result: Result<(), String>,
    },
    /// A space is lent, or why not.
    ReplicaOpened {
        /// As given.
        ticket: u64,
        /// The catalog's record and the durable end.
        result: Result<Box<(SpaceRecord, Mark)>, (ErrorCode, String)>,
    },
    /// A run can be written to, or why not.
    RunOpened {
        /// As given.
        ticket: u64,
        /// The open files.
        result: Result<SegmentFiles, String>,
    },
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
