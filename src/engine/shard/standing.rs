//! What a shard, or the keeper, says of a stream when it is asked.

use crate::lsn::Mark;
use crate::state::catalog::{Hole, Role};
use crate::state::runs::Runs;

/// Where a space stands: what of it is durable, and where that lies.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Everything before it is in the files: flushed and acknowledged on a
    /// replica, walked on a primary.
    pub mark: Mark,
    /// Where it begins here: the start, or where a seed began.
    pub base: Mark,
    /// Where it lies.
    pub runs: Runs,
    /// Which way it flows.
    pub role: Role,
    /// Bytes of its files that are in no stream.
    pub holes: Vec<Hole>,
}
