//! The header that stands before every frame.
//!
//! A frame is 64 header bytes and `payload length` bytes after them. All
//! numbers are little-endian.
//!
//! ```text
//!        0        1        2        3        4        5        6        7
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//!  0 |          magic "SLTS"             |version |  kind  |      flags      |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//!  8 |              handle               |              records              |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 16 |                                 epoch                                 |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 24 |                               start LSN                               |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 32 |                            first sequence                             |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 40 |          payload length           |            raw length             |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 48 |          payload CRC32C           |        reserved, all zero         |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! 56 |        reserved, all zero         |    CRC32C of bytes 0 to 59        |
//!    +--------+--------+--------+--------+--------+--------+--------+--------+
//! ```
//!
//! A length is a peer's claim until the header's CRC holds, and even then it
//! is bounded by the kind of the frame before anybody reserves a byte for it.

#![forbid(unsafe_code)]

use crate::ids::Epoch;
use crate::limits::{FRAME_HEADER_BYTES, MAX_CONTROL_PAYLOAD_BYTES, MAX_FRAME_PAYLOAD_BYTES};
use crate::lsn::Lsn;

/// The first four bytes of every frame, "SLTS", as a little-endian number.
pub const MAGIC: u32 = u32::from_le_bytes(*b"SLTS");

/// The version of the frame layout and of all bodies. `Hello` and `HelloAck`
/// are of version 1 in every version to come, so that two builds that have no
/// version in common can still say so.
pub const VERSION: u8 = 1;

/// The payload has a CRC32C, at offset 48. Always set on control frames. Set
/// on `Data` only where the records carry no checksums of their own.
pub const FLAG_PAYLOAD_CRC: u16 = 1;

/// Every flag of this version; a frame with another one is refused.
const KNOWN_FLAGS: u16 = FLAG_PAYLOAD_CRC;

/// Where the reserved bytes begin.
const RESERVED_OFFSET: usize = 52;

/// Where the header's own CRC stands; it covers all bytes before it.
const CRC_OFFSET: usize = 60;

const _: () = assert!(CRC_OFFSET + 4 == FRAME_HEADER_BYTES);

/// Names a space on one connection; chosen by the primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle(pub u32);

impl Handle {
    /// Frames that concern the connection, not a space.
    pub const CONNECTION: Self = Self(u32::MAX);
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
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
    /// Primary to replica: what do you hold at this position?
    Match = 10,
    /// Replica to primary: this boundary.
    Matched = 11,
    /// Primary to replica: cut your stream here, the rest is of an earlier epoch.
    Truncate = 12,
    /// Either way: give me this range of the stream again.
    Fetch = 13,
    /// Either way: that range, as it lies here.
    Fetched = 14,
    /// Primary to replica: a file has no name any more, or is gone.
    SegmentRetire = 15,
    /// Primary to replica: what you need is gone, begin anew from here.
    Reseed = 16,
}

impl Kind {
    /// The kind with that number on the wire.
    #[must_use]
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::OpenSpace,
            4 => Self::OpenAck,
            5 => Self::SegmentOpen,
            6 => Self::Data,
            7 => Self::Ack,
            8 => Self::Heartbeat,
            9 => Self::Error,
            10 => Self::Match,
            11 => Self::Matched,
            12 => Self::Truncate,
            13 => Self::Fetch,
            14 => Self::Fetched,
            15 => Self::SegmentRetire,
            16 => Self::Reseed,
            _ => return None,
        })
    }

    /// The most payload bytes that a frame of this kind may announce.
    #[must_use]
    pub const fn max_payload_bytes(self) -> u32 {
        match self {
            Self::Data => MAX_FRAME_PAYLOAD_BYTES,
            _ => MAX_CONTROL_PAYLOAD_BYTES,
        }
    }
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
    /// `Data`: whole records in the payload; else 0.
    pub records: u32,
    /// The epoch of the sender for this space; 0 on connection frames.
    pub epoch: Epoch,
    /// `Data`: the LSN of the first payload byte; else 0.
    pub start: Lsn,
    /// `Data`: the sequence of the first record; else 0.
    pub first_sequence: u64,
    /// Bytes that follow.
    pub payload_bytes: u32,
    /// Bytes after decompression; equal to `payload_bytes` without.
    pub raw_bytes: u32,
    /// CRC32C of the payload, when flagged; else 0.
    pub payload_crc: u32,
}

/// What is wrong with a frame.
///
/// After any of these the two ends no longer agree on where a frame begins, or
/// on what one means: nothing of the frame may be used, and the connection is
/// closed with [`ErrorCode::Protocol`](super::message::ErrorCode::Protocol).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are no frame: the peer speaks another protocol.
    #[error("not a frame: it begins with {found:#010x}, expected {MAGIC:#010x}")]
    Magic {
        /// The first four bytes, little-endian.
        found: u32,
    },
    /// The header was damaged on its way, or the two ends lost step.
    #[error("frame header has CRC {found:#010x}, its bytes have {expected:#010x}")]
    HeaderCrc {
        /// What the bytes 0 to 59 have.
        expected: u32,
        /// What byte 60 to 63 say.
        found: u32,
    },
    /// An intact header of a version that was not agreed on.
    #[error("frame is of protocol version {found}, expected {VERSION}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// An intact header of a kind that this version does not have.
    #[error("frame is of unknown kind {found}")]
    Kind {
        /// The kind byte.
        found: u8,
    },
    /// An intact header with flags that this version does not have.
    #[error("frame has unknown flags {found:#06x}")]
    Flags {
        /// All flags.
        found: u16,
    },
    /// An intact header with something where this version has nothing.
    #[error("frame header byte {offset} is {found:#04x}, expected 0")]
    Reserved {
        /// Where in the header.
        offset: usize,
        /// What stands there.
        found: u8,
    },
    /// An intact header that announces more than its kind may carry.
    #[error("{kind:?} frame announces {found} payload bytes, the limit is {limit}")]
    PayloadLength {
        /// What the frame is.
        kind: Kind,
        /// What it announces.
        found: u32,
        /// What it may.
        limit: u32,
    },
    /// The payload is not the one that was sent.
    #[error("{kind:?} frame has payload CRC {found:#010x}, its payload has {expected:#010x}")]
    PayloadCrc {
        /// What the frame is.
        kind: Kind,
        /// What the payload has.
        expected: u32,
        /// What the header says.
        found: u32,
    },
}

impl FrameError {
    /// True if the bytes are not those that were sent, as opposed to bytes that
    /// the peer meant and that make no sense here. A wrong magic is damage only
    /// where frames were understood before.
    #[must_use]
    pub const fn is_damage(&self, established: bool) -> bool {
        match self {
            Self::Magic { .. } => established,
            Self::HeaderCrc { .. } | Self::PayloadCrc { .. } => true,
            _ => false,
        }
    }
}

/// `N` bytes of a header, from `offset` on.
const fn bytes_at<const N: usize>(header: &[u8; FRAME_HEADER_BYTES], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut index = 0;
    while index < N {
        bytes[index] = header[offset + index];
        index += 1;
    }
    bytes
}

impl FrameHeader {
    /// A header with nothing but a kind, a space and an epoch.
    #[must_use]
    pub const fn bare(kind: Kind, handle: Handle, epoch: Epoch) -> Self {
        Self {
            kind,
            flags: 0,
            handle,
            records: 0,
            epoch,
            start: Lsn::ZERO,
            first_sequence: 0,
            payload_bytes: 0,
            raw_bytes: 0,
            payload_crc: 0,
        }
    }

    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.handle.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.start.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From 64 bytes. Checks magic, header CRC, version, kind, flags, reserved
    /// bytes, and that the payload length is within the limit of the kind.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection cannot go on.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let magic = u32::from_le_bytes(bytes_at(bytes, 0));
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let expected = crc32c::crc32c(&bytes[..CRC_OFFSET]);
        let found = u32::from_le_bytes(bytes_at(bytes, CRC_OFFSET));
        if found != expected {
            return Err(FrameError::HeaderCrc { expected, found });
        }
        if bytes[4] != VERSION {
            return Err(FrameError::Version { found: bytes[4] });
        }
        let kind = Kind::from_wire(bytes[5]).ok_or(FrameError::Kind { found: bytes[5] })?;
        let flags = u16::from_le_bytes(bytes_at(bytes, 6));
        if flags & !KNOWN_FLAGS != 0 {
            return Err(FrameError::Flags { found: flags });
        }
        // An unused payload CRC counts as reserved: one frame, one encoding.
        let unused = if flags & FLAG_PAYLOAD_CRC == 0 { 48 } else { RESERVED_OFFSET };
        if let Some(offset) = (unused..CRC_OFFSET).find(|&offset| bytes[offset] != 0) {
            return Err(FrameError::Reserved { offset, found: bytes[offset] });
        }
        let payload_bytes = u32::from_le_bytes(bytes_at(bytes, 40));
        let limit = kind.max_payload_bytes();
        if payload_bytes > limit {
            return Err(FrameError::PayloadLength { kind, found: payload_bytes, limit });
        }
        Ok(Self {
            kind,
            flags,
            handle: Handle(u32::from_le_bytes(bytes_at(bytes, 8))),
            records: u32::from_le_bytes(bytes_at(bytes, 12)),
            epoch: Epoch(u64::from_le_bytes(bytes_at(bytes, 16))),
            start: Lsn(u64::from_le_bytes(bytes_at(bytes, 24))),
            first_sequence: u64::from_le_bytes(bytes_at(bytes, 32)),
            payload_bytes,
            raw_bytes: u32::from_le_bytes(bytes_at(bytes, 44)),
            payload_crc: u32::from_le_bytes(bytes_at(bytes, 48)),
        })
    }

    /// Whether the payload has a CRC of its own.
    #[must_use]
    pub const fn has_payload_crc(&self) -> bool {
        self.flags & FLAG_PAYLOAD_CRC != 0
    }

    /// Flags the payload CRC. For control frames, and for `Data` of logs whose
    /// records carry no checksums.
    #[must_use]
    pub const fn with_payload_crc(mut self, crc: u32) -> Self {
        self.flags |= FLAG_PAYLOAD_CRC;
        self.payload_crc = crc;
        self
    }

    /// Checks the payload against its CRC, where the frame has one.
    ///
    /// # Errors
    /// [`FrameError::PayloadCrc`]: nothing of the payload may be used.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        if !self.has_payload_crc() {
            return Ok(());
        }
        let expected = crc32c::crc32c(payload);
        if expected == self.payload_crc {
            Ok(())
        } else {
            Err(FrameError::PayloadCrc { kind: self.kind, expected, found: self.payload_crc })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> FrameHeader {
        FrameHeader {
            records: 3,
            start: Lsn(4096),
            first_sequence: 17,
            payload_bytes: 1000,
            raw_bytes: 1000,
            ..FrameHeader::bare(Kind::Data, Handle(9), Epoch(2))
        }
    }

    /// The header with `change` applied to its bytes and the CRC made good.
    fn forged(change: impl FnOnce(&mut [u8; 64])) -> Result<FrameHeader, FrameError> {
        let mut bytes = sample().encode();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        FrameHeader::decode(&bytes)
    }

    #[test]
    fn a_header_survives_the_wire() {
        assert_eq!(FrameHeader::decode(&sample().encode()).unwrap(), sample());
        let sealed = sample().with_payload_crc(7);
        assert_eq!(FrameHeader::decode(&sealed.encode()).unwrap(), sealed);
    }

    #[test]
    fn any_single_flipped_bit_is_refused() {
        let good = sample().encode();
        for bit in 0..512 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_protocol_is_named() {
        let mut bytes = [b' '; 64];
        bytes[..4].copy_from_slice(b"GET ");
        assert_eq!(
            FrameHeader::decode(&bytes),
            Err(FrameError::Magic { found: u32::from_le_bytes(*b"GET ") })
        );
    }

    #[test]
    fn an_intact_header_with_foreign_content_is_refused() {
        assert_eq!(forged(|b| b[4] = 2), Err(FrameError::Version { found: 2 }));
        assert_eq!(forged(|b| b[5] = 0), Err(FrameError::Kind { found: 0 }));
        assert_eq!(forged(|b| b[5] = 99), Err(FrameError::Kind { found: 99 }));
        assert_eq!(forged(|b| b[6] = 3), Err(FrameError::Flags { found: 3 }));
        for offset in 48..60 {
            assert_eq!(
                forged(|b| b[offset] = 1),
                Err(FrameError::Reserved { offset, found: 1 }),
                "an unflagged payload CRC is as reserved as the rest"
            );
        }
    }

    #[test]
    fn a_payload_length_is_bounded_by_the_kind() {
        let announce = |kind: Kind, bytes: u32| {
            forged(|b| {
                b[5] = kind as u8;
                b[40..44].copy_from_slice(&bytes.to_le_bytes());
            })
        };
        assert!(announce(Kind::Data, MAX_FRAME_PAYLOAD_BYTES).is_ok());
        assert!(announce(Kind::Data, MAX_FRAME_PAYLOAD_BYTES + 1).is_err());
        for kind in (1..=99).filter_map(Kind::from_wire).filter(|&kind| kind != Kind::Data) {
            assert!(announce(kind, MAX_CONTROL_PAYLOAD_BYTES).is_ok());
            let limit = MAX_CONTROL_PAYLOAD_BYTES;
            assert_eq!(
                announce(kind, limit + 1),
                Err(FrameError::PayloadLength { kind, found: limit + 1, limit })
            );
        }
    }

    #[test]
    fn a_flagged_payload_is_checked() {
        let header = sample().with_payload_crc(crc32c::crc32c(b"payload"));
        assert!(header.check_payload(b"payload").is_ok());
        assert!(header.check_payload(b"Payload").is_err());
        assert!(sample().check_payload(b"anything").is_ok());
    }
}
