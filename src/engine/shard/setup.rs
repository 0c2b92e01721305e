//! What a shard is made with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::clock::Clock;
use crate::engine::writers::Writers;
use crate::ids::NodeId;
use crate::io::Strategy;
use crate::protocol::message::Identity;
use crate::protocol::sender::BatchRule;
use crate::wal::record::Checksums;

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its number.
    pub shard: usize,
    /// Of how many.
    pub shards: usize,
    /// This node.
    pub me: Identity,
    /// `<data_root>`.
    pub data_root: PathBuf,
    /// Whom to ship to.
    pub replicas: Vec<(NodeId, SocketAddr)>,
    /// When to ship a batch.
    pub batch: BatchRule,
    /// How.
    pub strategy: Strategy,
    /// How fast a replica is filled anew, at most.
    pub seed_bytes_per_second: Option<u64>,
    /// Which records are taken.
    pub checksums: Checksums,
    /// How long a replica's written bytes may wait for their flush.
    pub flush_delay: Duration,
    /// Leave out what is damaged in mid-file, and say so.
    pub skips_damage: bool,
    /// Who has segments open.
    pub writers: Arc<dyn Writers>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Spreads attempts to connect: any number but that of another shard, of this node
    /// or another.
    pub jitter_seed: u64,
}
