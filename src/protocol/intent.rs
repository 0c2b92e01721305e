//! What a frame asks of the engine of a replica.

use super::frame::Handle;
use super::message::{
    ErrorCode, Fetch, Fetched, Identity, OpenSpace, Reseed, SegmentOpen, SegmentRetire, Truncate,
};
#[cfg(doc)]
use super::receiver::Receiver;
use crate::lsn::Lsn;

/// What the engine must do about a frame.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intent {
    /// The peer is known: who it is, and which of its shards this is.
    Established {
        /// Who.
        peer: Identity,
        /// Its shard.
        shard: u16,
    },
    /// Open the space; answer with [`Receiver::handle_opened`], unless the
    /// space is stopped first.
    Open {
        /// Handle for the rest of the connection.
        handle: Handle,
        /// What the primary says.
        open: OpenSpace,
    },
    /// A run begins: create or open the file, record it durably. Data of the
    /// run may follow at once. (A run that is announced twice shows once; if
    /// the two differ, the space stops.)
    Run {
        /// The space.
        handle: Handle,
        /// The run.
        run: SegmentOpen,
    },
    /// Verify the payload from byte `skip` on (what lies before is a
    /// duplicate), then call [`Receiver::handle_verified`] and append it.
    Data {
        /// The space.
        handle: Handle,
        /// LSN of the first new byte.
        start: Lsn,
        /// Bytes at the beginning of the payload that are already here.
        skip: u32,
    },
    /// The primary asks for a range of the stream: answer with
    /// [`Receiver::serve`].
    Fetch {
        /// The space.
        handle: Handle,
        /// What it asks for.
        fetch: Fetch,
    },
    /// The answer to [`Receiver::fetch`].
    Fetched {
        /// The space.
        handle: Handle,
        /// The answer.
        fetched: Fetched,
    },
    /// A file has no name on the primary any more, or is gone; what stands
    /// instead of it is durable here.
    Retire {
        /// The space.
        handle: Handle,
        /// Which, and what.
        retire: SegmentRetire,
    },
    /// Give up what was received of the space and begin anew at the base:
    /// answer as [`Intent::Open`].
    Reseed {
        /// The space.
        handle: Handle,
        /// From where.
        reseed: Reseed,
    },
    /// Find the last boundary at or before `lsn`; answer with
    /// [`Receiver::handle_matched`].
    Match {
        /// The space.
        handle: Handle,
        /// The position.
        lsn: Lsn,
    },
    /// Save what lies behind `to.lsn`, cut it off, take over the epochs of the
    /// `OpenSpace`; answer with [`Receiver::handle_opened`]. The epochs explain
    /// it; that the chains agree there is for the engine to check.
    Truncate {
        /// The space.
        handle: Handle,
        /// Where.
        to: Truncate,
    },
    /// This space has come to its end, by the primary's word or by a frame
    /// that could not be taken: give up its lease.
    Stopped {
        /// The space.
        handle: Handle,
        /// Why.
        code: ErrorCode,
        /// A sentence.
        reason: String,
    },
    /// The connection is finished: send what `poll_transmit` still has, close.
    Closed {
        /// Why.
        code: ErrorCode,
        /// A sentence for the operator.
        reason: String,
    },
}
