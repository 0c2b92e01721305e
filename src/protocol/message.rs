//! The payloads of all frames but `Data`, byte by byte.

use crate::ids::{ClusterId, Epoch, NodeId, NodeUuid, SegmentName, SpaceId, StreamId};
use crate::lsn::{Chain, Lsn};

/// Who a node is; the body of `Hello` and `HelloAck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// All nodes of one cluster share it.
    pub cluster: ClusterId,
    /// Configured name.
    pub node: NodeId,
    /// Drawn once per state directory.
    pub uuid: NodeUuid,
}

/// The body of `OpenSpace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSpace {
    /// The space.
    pub space: SpaceId,
    /// Which stream.
    pub stream: StreamId,
    /// The epochs of the stream and where each began; the last is the present
    /// one. Bounded; at least one.
    pub history: Vec<(Epoch, Lsn)>,
    /// The primary's head.
    pub head: Lsn,
}

/// Where a replica stands in a space; the body of `OpenAck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Durable and verified up to here.
    pub flushed: Lsn,
    /// The chain there.
    pub chain: Chain,
    /// Records up to there.
    pub records: u64,
    /// CRC32C of the last record's 64 header bytes; 0 at the start.
    pub fingerprint: u32,
    /// The highest epoch this replica has ever seen for the space.
    pub highest_epoch: Epoch,
    /// How many runs it has recorded: the next `SegmentOpen` has this ordinal.
    pub runs: u32,
}

/// The body of `SegmentOpen`: one run of the stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOpen {
    /// Position in the list of runs, from 0.
    pub ordinal: u32,
    /// Where in the stream it begins.
    pub start: Lsn,
    /// The segment's file name.
    pub segment: SegmentName,
    /// Which file of that name: primaries number the files they see, so that
    /// two files that bore one name in turn stay two.
    pub file: u64,
    /// Where in the file the run begins.
    pub offset: u64,
}

/// The body of `Ack`. `sent >= received >= written >= flushed >= applied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ack {
    /// Verified in memory.
    pub received: Lsn,
    /// With the file system.
    pub written: Lsn,
    /// Durable.
    pub flushed: Lsn,
    /// Taken by the replica's database (0 while nothing applies).
    pub applied: Lsn,
    /// Sequence of the last flushed record.
    pub sequence: u64,
    /// The chain at `flushed`.
    pub chain: Chain,
}

/// Why a peer refuses, as a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No protocol version in common.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// The node has reached itself.
    Itself = 3,
    /// The space's epoch is older than one that was seen.
    StaleEpoch = 4,
    /// The space is this node's own, it does not receive it.
    Role = 5,
    /// Another stream of the same name.
    Stream = 6,
    /// The space is held by another connection; try again.
    Busy = 7,
    /// A record failed its checksum.
    Corrupt = 8,
    /// Data that does not continue the stream.
    Gap = 9,
    /// The chains differ: not the same records.
    Diverged = 10,
    /// The replica's log has failed; nothing more is acknowledged.
    Storage = 11,
    /// A frame that makes no sense here.
    Protocol = 12,
    /// Too many connections or spaces.
    Limit = 13,
    /// The peer is going down.
    Shutdown = 14,
}
