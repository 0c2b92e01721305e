//! The 64-byte frame header. (Byte-by-byte drawing here; codec.)

use crate::ids::Epoch;
use crate::lsn::Lsn;

/// Names a space on one connection; chosen by the primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle(pub u32);

impl Handle {
    /// Frames that concern the connection, not a space.
    pub const CONNECTION: Self = Self(u32::MAX);
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Primary to replica: who I am.
    Hello = 1,
    /// Replica to primary: who I am, and the version we speak.
    HelloAck = 2,
    /// Primary to replica: a space I ship.
    OpenSpace = 3,
    /// Replica to primary: where I stand in it.
    OpenAck = 4,
    /// Primary to replica: from this LSN on, the stream lies in this segment.
    SegmentOpen = 5,
    /// Primary to replica: whole records.
    Data = 6,
    /// Replica to primary: how far I am.
    Ack = 7,
    /// Either way: I am here.
    Heartbeat = 8,
    /// Either way: a code and a sentence.
    Error = 9,
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: Kind,
    /// See the constants of this module.
    pub flags: u16,
    /// Which space.
    pub handle: Handle,
    /// `Data`: whole records in the payload.
    pub records: u32,
    /// The epoch of the sender for this space; 0 on connection frames.
    pub epoch: Epoch,
    /// `Data`: the LSN of the first payload byte.
    pub start: Lsn,
    /// `Data`: the sequence of the first record.
    pub first_sequence: u64,
    /// Bytes that follow.
    pub payload_bytes: u32,
    /// Bytes after decompression; equal to `payload_bytes` without.
    pub raw_bytes: u32,
    /// CRC32C of the payload, when flagged.
    pub payload_crc: u32,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// placeholder
    #[error("not a frame: magic {found:#010x}")]
    Magic {
        /// found
        found: u32,
    },
}

impl FrameHeader {
    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 64] {
        todo!()
    }

    /// From 64 bytes. Checks magic, version, header CRC, kind, and that the
    /// payload length is within the limit of the kind.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection cannot go on.
    pub fn decode(_bytes: &[u8; 64]) -> Result<Self, FrameError> {
        todo!()
    }
}
