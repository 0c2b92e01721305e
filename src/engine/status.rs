//! What a node says about itself, in the shape that `/status` serves.
//!
//! ```text
//!   {"node", "cluster", "version", "pid", "backend", "problem",
//!    "spaces": [{"space", "role", "epoch", "head_lsn", "head_sequence", ...,
//!                "replicas": [{"id", "state", "sent_lsn", "received_lsn",
//!                              "written_lsn", "flushed_lsn",
//!                              "lag": {"bytes", "records", "seconds"}, ...}]}],
//!    "scrub": {...}, "ignored": {"count", "directories": [{"name", "reason"}]}}
//! ```
//!
//! Plain values without invariants of their own: the engine fills them from
//! what its shards publish, the admin plane serves them, a client reads them.
//! A reader ignores keys that it does not know, so keys may be added. What is
//! unknown is `null`, never 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Epoch, NodeId, SpaceId};
use crate::lsn::Lsn;

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who answers.
    pub node: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `"uring"` or `"portable"`: the backend in use, not the one asked for.
    pub backend: String,
    /// Where it receives; `None` if it does not.
    pub replication_address: Option<SocketAddr>,
    /// What is wrong with the node as a whole, in a sentence.
    #[serde(default)]
    pub problem: Option<String>,
    /// True until the data root was listed: there may be more spaces than
    /// these.
    #[serde(default)]
    pub starting: bool,
    /// The replicas of its configuration.
    #[serde(default)]
    pub ships_to: Vec<NodeId>,
    /// Its spaces, in the order of their names.
    pub spaces: Vec<SpaceStatus>,
    /// The verification of segments at rest.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Frames that came damaged since the process started, by the id of the
    /// node at the other end; `"unknown"` is one that had not said who it is.
    /// Each was refused as a whole, and its connection was renewed.
    #[serde(default)]
    pub corrupt_frames: BTreeMap<String, u64>,
    /// Directories of the data root that hold a log and are not shipped.
    #[serde(default)]
    pub ignored: Ignored,
}

/// A node that does not say is one that always knew.
fn yes() -> bool {
    true
}

/// What this node is to a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// It ships the space.
    Primary,
    /// It receives the space.
    Replica,
}

impl Role {
    /// The name, as JSON has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// One space on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// The space.
    pub space: SpaceId,
    /// What this node is to it.
    pub role: Role,
    /// The reign under which it is shipped.
    pub epoch: Epoch,
    /// The position behind the last complete record on this node, in bytes of
    /// the stream; a lower bound while `head_known` is false.
    pub head_lsn: u64,
    /// False while records may lie in the log that this node has not seen: it
    /// cannot read to the end, or has not come there yet. Nobody's lag is
    /// known then. On a replica: while it cannot say what it has; `head_lsn`
    /// and `flushed_lsn` are what it last knew.
    #[serde(default = "yes")]
    pub head_known: bool,
    /// True if `problem` keeps records from being shipped or received.
    #[serde(default)]
    pub blocked: bool,
    /// The sequence of that record; 0 when there is none. Not an identity.
    pub head_sequence: u64,
    /// On a replica: the position that is durable here; while `head_known` is
    /// false, the last one that is known to have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flushed_lsn: Option<u64>,
    /// On a replica: who ships it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<NodeId>,
    /// On a replica: it is being filled anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<Seeding>,
    /// On a replica: for how long no primary has been connected that ships
    /// it. `None` while one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_primary_seconds: Option<f64>,
    /// What is wrong with the space, in a sentence: it is stopped, or a range
    /// was skipped.
    #[serde(default)]
    pub problem: Option<String>,
    /// On a primary: bytes of its files that were left out of the stream for
    /// good, because they did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<HoleStatus>,
    /// On a primary: each replica, in the order of the configuration.
    #[serde(default)]
    pub replicas: Vec<ReplicaStatus>,
    /// The reigns of this node's copy, oldest first.
    #[serde(default)]
    pub epochs: Vec<EpochStatus>,
    /// The highest epoch that this node has ever heard of for the space. Higher
    /// than `epoch`: another primary reigns.
    #[serde(default)]
    pub highest_epoch: Option<Epoch>,
    /// Bytes that were taken out of the space and kept.
    #[serde(default)]
    pub quarantine: QuarantineStatus,
}

/// One reign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStatus {
    /// Its number.
    pub epoch: Epoch,
    /// Where in the stream it began.
    pub start_lsn: u64,
}

impl EpochStatus {
    /// A history.
    #[must_use]
    pub fn of(history: &[(Epoch, Lsn)]) -> Vec<Self> {
        history.iter().map(|(epoch, start)| Self { epoch: *epoch, start_lsn: start.0 }).collect()
    }
}

/// What a space has in quarantine; `saltus quarantine list` names the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuarantineStatus {
    /// How many pieces.
    pub pieces: u64,
    /// How long they are together.
    pub bytes: u64,
}

/// Bytes of a segment that are in no stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoleStatus {
    /// The file's name.
    pub segment: String,
    /// Where they begin in the file.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// Where in the stream they would have been.
    pub lsn: u64,
    /// What was wrong with them.
    pub reason: String,
    /// When they were left out, nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

/// How a replica is doing, as its primary sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReplicaState {
    /// Heard from recently, and close behind the head.
    Healthy,
    /// Heard from recently, and behind.
    Lagging,
    /// Several attempts in a row have failed; still trying.
    Degraded,
    /// Stopped: it will not recover without somebody's help.
    Failed,
    /// Not heard from on a connection that is up now.
    Connecting,
    /// Heard from recently; whether it is behind is not known, because the
    /// head is not, or because it has not told since its stream was cut.
    Unknown,
}

impl ReplicaState {
    /// The name, as JSON has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Lagging => "lagging",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Connecting => "connecting",
            Self::Unknown => "unknown",
        }
    }
}

/// One replica of one space, as its primary knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The replica.
    pub id: NodeId,
    /// How it is doing.
    pub state: ReplicaState,
    /// Everything before it is with the socket.
    pub sent_lsn: u64,
    /// Everything before it was verified by the replica.
    pub received_lsn: u64,
    /// Everything before it is with the replica's file system.
    pub written_lsn: u64,
    /// Everything before it is durable there.
    pub flushed_lsn: u64,
    /// How far it is behind.
    pub lag: Lag,
    /// From the timestamp in a record, which its writer put there, to the
    /// flushed acknowledgement that covers it; of the last record of each
    /// acknowledged frame. Microseconds, within 1.6 %, by the primary's clock,
    /// since the process started.
    ///
    /// Counted are records that were written after the replica was first heard
    /// to be close behind (at most a second) on the connection that carried
    /// them: not those of a catch-up.
    pub append_to_flushed_us: Latency,
    /// The same, of the last half minute at least and the last minute at most.
    #[serde(default)]
    pub recent_append_to_flushed_us: Latency,
    /// Bytes of records by the transmit strategy that carried them, since the
    /// process started.
    #[serde(default)]
    pub sent_bytes_by_strategy: BTreeMap<String, u64>,
    /// What is kept for it; `None` until that was looked at.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// It is being filled anew.
    #[serde(default)]
    pub seeding: Option<Seeding>,
    /// What is wrong with it, in a sentence.
    #[serde(default)]
    pub problem: Option<String>,
    /// Frames between the two nodes that came damaged, of all spaces of the
    /// shard, since the process started.
    #[serde(default)]
    pub corrupt_frames: u64,
    /// How the connection to it is.
    #[serde(default)]
    pub connection: Connection,
}

/// The connection to a replica. Ages, not times of day: a clock that is set
/// changes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Connection {
    /// It is made, and both ends know each other.
    pub up: bool,
    /// For how long it has been up, or down. `None` before the first attempt
    /// has had an outcome.
    pub since_seconds: Option<f64>,
    /// Failures in a row; 0 once something was made durable over it, or it has
    /// lasted ten seconds.
    pub failures: u32,
    /// When it is tried again, from now on; `None` while it is up or being
    /// tried.
    pub next_attempt_seconds: Option<f64>,
}

/// What a primary keeps for one replica of one space.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// Bytes of segments without a name that are held because the replica
    /// still needs them: what its slot costs.
    pub retained_bytes: u64,
    /// The most that may be; the smaller of the limit in bytes and what the
    /// share of the disk leaves. `None`: the disk's size is unknown, and no
    /// limit in bytes is set.
    pub budget_bytes: Option<u64>,
    /// At the present growth the slot is lost in that time. `None`: nothing is
    /// held, it is not growing, that is not known for long enough, or it is
    /// farther off than a year.
    pub forecast_seconds: Option<f64>,
    /// Its budget was spent, and nothing is kept for it: it will be filled
    /// anew if it needs what is gone.
    pub lost: bool,
}

/// A replica that is being filled anew.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Seeding {
    /// Where the seed begins.
    pub base_lsn: u64,
    /// Where the head was when it began.
    pub target_lsn: u64,
    /// How much of that is durable on the replica, bytes.
    pub done_bytes: u64,
    /// Of how much.
    pub total_bytes: u64,
    /// How fast it goes now; `None` when that is not known.
    pub bytes_per_second: Option<f64>,
    /// When it will be there at that rate, the growth of the log taken into
    /// account; `None` when that is not known, or never.
    pub eta_seconds: Option<f64>,
}

/// How far a replica is behind the head. What is `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Head minus flushed position. `None` while the head is not known, the
    /// replica was never heard from, or it was last heard from at a position that
    /// the log does not come to any more.
    pub bytes: Option<u64>,
    /// Records in that range. `None` likewise.
    pub records: Option<u64>,
    /// The age of the oldest record that is not flushed there, by this node's
    /// own clock, from when it was noticed. `None` as well for a replica that
    /// is stopped, or that was caught up when it was last heard from and is
    /// not heard from now; 0 only for one that is caught up and was heard from
    /// recently.
    pub seconds: Option<f64>,
}

/// Quantiles of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median; `None` before the first sample.
    pub p50: Option<u64>,
    /// The 99th percentile.
    pub p99: Option<u64>,
    /// The 99.9th percentile.
    #[serde(default)]
    pub p999: Option<u64>,
    /// How many samples there are.
    pub count: u64,
}

/// Directories of the data root that hold a log and are not shipped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ignored {
    /// How many there are.
    pub count: usize,
    /// The first ones by name, at most
    /// [`MAX_LISTED_IGNORED`](crate::limits::MAX_LISTED_IGNORED).
    pub directories: Vec<IgnoredDirectory>,
}

/// A directory that is not shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredDirectory {
    /// Its name; what is no UTF-8 in it is replaced.
    pub name: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// The verification of segments at rest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Segments verified to the end, since the process started.
    pub segments: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// Passes over the whole data root that have ended.
    pub passes: u64,
    /// True while a pass is under way.
    #[serde(default)]
    pub running: bool,
    /// How long ago the last pass ended; `None` before the first.
    #[serde(default)]
    pub last_pass_seconds: Option<f64>,
    /// When the next pass begins, from now on; `None` while one is under way.
    #[serde(default)]
    pub next_pass_seconds: Option<f64>,
    /// What did not verify, and could not be mended.
    #[serde(default)]
    pub bad_ranges: Vec<BadRange>,
    /// Ranges of received spaces that were fetched again from the primary and
    /// put in their place, since the process started.
    #[serde(default)]
    pub healed_ranges: u64,
    /// The last of them.
    #[serde(default)]
    pub healed: Vec<BadRange>,
    /// What the last passes that somebody asked for came to.
    #[serde(default)]
    pub outcomes: Vec<PassOutcome>,
}

/// What one pass came to that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PassOutcome {
    /// Its number, as the answer to the request gave it.
    pub request: u64,
    /// The space, if it was about one.
    pub space: Option<SpaceId>,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged ranges that were found.
    pub found: u64,
    /// How many of them hold again.
    pub healed: u64,
    /// Segments and directories that could not be read.
    pub unreadable: u64,
    /// Good copies that were built of files which the database owns.
    #[serde(default)]
    pub repaired: Vec<RepairedFile>,
}

/// A good copy of a damaged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairedFile {
    /// The damaged file; nothing was written to it.
    pub damaged: PathBuf,
    /// The copy.
    pub repaired: PathBuf,
    /// Where they differ: offset and bytes.
    pub ranges: Vec<(u64, u64)>,
}

/// A range of a segment at rest whose checksums do not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRange {
    /// The space.
    pub space: SpaceId,
    /// The file's name.
    pub segment: String,
    /// Where the range starts in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What was expected and what was found.
    pub problem: String,
    /// Where in the stream it starts, if it is known to be a part of one.
    #[serde(default)]
    pub lsn: Option<u64>,
}
