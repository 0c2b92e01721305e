//! The one place that parses, builds and checks a record.
//!
//! A record is a header of 64 bytes and its payload. Records lie back to
//! back: no file header, no padding. Everything is little-endian.
//!
//! ```text
//!    0        4                    12                   20       24
//!    +--------+--------------------+--------------------+--------+
//!    | magic  | sequence           | timestamp, ns      | type   |
//!    +--------+--------+--------+--+--------------------+--------+
//!    | size   | payload| header |  reserved, zero                |
//!    |        | CRC32C | CRC32C |                                |
//!    +--------+--------+--------+--------------------+-----------+
//!    24       28       32       36                   56         64
//!                                                    | zero, not |
//!                                                    | covered   |
//! ```
//!
//! The header's CRC covers bytes 0..32 followed by bytes 36..56. The last
//! eight bytes are covered by nothing, so they are compared with zero. Until
//! that CRC holds, every field is hostile input; the payload size is bounded
//! even then.
//!
//! Nothing here reads a file or remembers anything.

#![forbid(unsafe_code)]

use crc32c::crc32c;

use crate::limits::{MAX_RECORD_PAYLOAD_BYTES, RECORD_HEADER_BYTES};
use crate::lsn::Mark;
use crate::planted::{self, Bug};

/// The first four bytes of every record, as a little-endian number.
pub const MAGIC: u32 = 0xDEAD_BEEF;

/// The first four bytes of every record, as they lie in the file.
pub const MAGIC_BYTES: [u8; 4] = MAGIC.to_le_bytes();

/// A parsed record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counted by the writer. It may repeat, skip and regress: no identity.
    pub sequence: u64,
    /// The writer's clock, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// What the payload is; see [`entry_type_name`]. Unknown values are
    /// carried.
    pub entry_type: u32,
    /// Payload bytes, at most [`MAX_RECORD_PAYLOAD_BYTES`].
    pub payload_bytes: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
    /// False for a record of a build without checksums, taken because
    /// [`Checksums::Optional`] allows it: nothing vouches for its content.
    pub checksummed: bool,
}

/// What it is that is not all there: of how many bytes a record should be,
/// nobody knows before its header is there.
const fn part(need: u64) -> &'static str {
    if need <= RECORD_HEADER_BYTES as u64 { "header" } else { "record" }
}

/// What is wrong with a record. The bytes are left as they are; nothing of
/// the record may be counted as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No record starts here.
    #[error("no record starts here: expected magic 0xdeadbeef, found {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// The header was damaged, or these bytes are not a header.
    #[error("header CRC32C is {found:#010x}, its bytes give {expected:#010x}")]
    HeaderCrc {
        /// Computed over the bytes.
        expected: u32,
        /// Stored in the header.
        found: u32,
    },
    /// Bytes that must be zero are not: the last eight, which no CRC covers,
    /// or, in a record without checksums, the reserved ones as well.
    #[error(
        "header bytes from {offset} on must be zero, the first eight of them are {found:#018x}"
    )]
    NotZero {
        /// Where in the header.
        offset: u8,
        /// The eight bytes there.
        found: u64,
    },
    /// The header holds, yet announces more than is carried. Either the
    /// writer is not the one this format describes, or the limit is too low.
    #[error("payload of {found} bytes, the limit is {MAX_RECORD_PAYLOAD_BYTES}")]
    PayloadSize {
        /// The announced size, or the size of the payload to write.
        found: u64,
    },
    /// Both CRC fields are zero: written by a build without checksums (T12).
    /// Allow such records by setting, or build the writer with checksums.
    #[error(
        "both CRC fields are zero: the writer was built without checksums, \
         and records that cannot be verified are refused unless the setting allows them"
    )]
    NoChecksums,
    /// The payload was damaged, or is not all there.
    #[error("payload CRC32C is {found:#010x}, the header says {expected:#010x}")]
    PayloadCrc {
        /// Stored in the header.
        expected: u32,
        /// Computed over the payload.
        found: u32,
    },
    /// The bytes end within the record.
    #[error("{} of {need} bytes, only {have} of them are there", part(*need))]
    Truncated {
        /// The size of the record, or of a header where not even that is
        /// there.
        need: u64,
        /// The bytes from its start on.
        have: u64,
    },
}

/// Whether records without checksums (both CRC fields zero) are taken (T12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksums {
    /// Every CRC must hold.
    #[default]
    Required,
    /// A record whose two CRC fields are zero is taken as it is.
    Optional,
}

/// The name of an entry type, if it is one of those the format defines.
#[must_use]
pub const fn entry_type_name(entry_type: u32) -> Option<&'static str> {
    match entry_type {
        1 => Some("EpisodeStore"),
        2 => Some("MemoryUpdate"),
        3 => Some("MemoryDelete"),
        4 => Some("Consolidation"),
        5 => Some("Checkpoint"),
        6 => Some("CompactionMarker"),
        _ => None,
    }
}

/// The bytes that a header's CRC covers, gathered. Aligned, because the CRC
/// takes eight bytes at a time only from the first aligned address on.
#[repr(align(16))]
struct Covered([u8; 52]);

/// CRC32C of bytes 0..32 and 36..56.
///
/// One call on a gathered copy costs half of two calls on the pieces: the
/// instruction is quick, the entry to the function is not.
#[inline]
fn header_crc(bytes: &[u8; 64]) -> u32 {
    let mut covered = Covered([0; 52]);
    covered.0[..32].copy_from_slice(&bytes[..32]);
    covered.0[32..].copy_from_slice(&bytes[36..56]);
    crc32c(&covered.0)
}

#[inline]
fn u32_at(bytes: &[u8; 64], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

#[inline]
fn u64_at(bytes: &[u8; 64], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// The header of a record with this payload.
    ///
    /// # Errors
    ///
    /// [`RecordError::PayloadSize`] if the payload is over the limit.
    #[inline]
    pub fn new(
        sequence: u64,
        timestamp_ns: u64,
        entry_type: u32,
        payload: &[u8],
    ) -> Result<Self, RecordError> {
        let payload_bytes = u32::try_from(payload.len())
            .ok()
            .filter(|&bytes| bytes <= MAX_RECORD_PAYLOAD_BYTES)
            .ok_or(RecordError::PayloadSize { found: payload.len() as u64 })?;
        Ok(Self {
            sequence,
            timestamp_ns,
            entry_type,
            payload_bytes,
            payload_crc: crc32c(payload),
            checksummed: true,
        })
    }

    /// The 64 bytes. Without checksums both CRC fields are zero, as the
    /// builds that compute none write them.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&MAGIC_BYTES);
        bytes[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.timestamp_ns.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.entry_type.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        if self.checksummed {
            bytes[28..32].copy_from_slice(&self.payload_crc.to_le_bytes());
            let crc = header_crc(&bytes);
            bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// From 64 bytes. Reserved bytes that the CRC vouches for are carried,
    /// whatever they hold.
    ///
    /// # Errors
    ///
    /// Any but [`RecordError::PayloadCrc`] and [`RecordError::Truncated`]:
    /// the bytes are not a header that can be trusted.
    #[inline]
    pub fn parse(bytes: &[u8; 64], checksums: Checksums) -> Result<Self, RecordError> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(RecordError::Magic { found: magic });
        }
        let tail = u64_at(bytes, 56);
        if tail != 0 {
            return Err(RecordError::NotZero { offset: 56, found: tail });
        }
        let payload_crc = u32_at(bytes, 28);
        let found = u32_at(bytes, 32);
        let checksummed = payload_crc != 0 || found != 0;
        if checksummed {
            let expected = header_crc(bytes);
            if expected != found {
                return Err(RecordError::HeaderCrc { expected, found });
            }
        } else {
            Self::check_without_checksums(bytes, checksums)?;
        }
        let payload_bytes = u32_at(bytes, 24);
        if payload_bytes > MAX_RECORD_PAYLOAD_BYTES {
            return Err(RecordError::PayloadSize { found: u64::from(payload_bytes) });
        }
        Ok(Self {
            sequence: u64_at(bytes, 4),
            timestamp_ns: u64_at(bytes, 12),
            entry_type: u32_at(bytes, 20),
            payload_bytes,
            payload_crc,
            checksummed,
        })
    }

    /// No CRC vouches for the reserved bytes here, so they must be zero: the
    /// little that can be checked is.
    #[cold]
    fn check_without_checksums(bytes: &[u8; 64], checksums: Checksums) -> Result<(), RecordError> {
        if checksums == Checksums::Required {
            return Err(RecordError::NoChecksums);
        }
        for offset in [36_u8, 44, 48] {
            let found = u64_at(bytes, usize::from(offset));
            if found != 0 {
                return Err(RecordError::NotZero { offset, found });
            }
        }
        Ok(())
    }

    /// Header and payload, bytes.
    #[inline]
    #[must_use]
    pub const fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.payload_bytes as u64
    }

    /// Compare a payload with what the header says of it. Without checksums
    /// there is nothing to compare but the size.
    ///
    /// # Errors
    ///
    /// [`RecordError::Truncated`] if the sizes differ,
    /// [`RecordError::PayloadCrc`] if the content does.
    #[inline]
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), RecordError> {
        if payload.len() as u64 != u64::from(self.payload_bytes) {
            return Err(RecordError::Truncated {
                need: self.record_bytes(),
                have: (RECORD_HEADER_BYTES + payload.len()) as u64,
            });
        }
        self.check_payload_crc(crc32c(payload))
    }

    /// Compare the CRC32C of a payload with what the header says of it.
    ///
    /// # Errors
    ///
    /// [`RecordError::PayloadCrc`] if they differ.
    #[inline]
    pub fn check_payload_crc(&self, found: u32) -> Result<(), RecordError> {
        if self.checksummed && found != self.payload_crc {
            return Err(RecordError::PayloadCrc { expected: self.payload_crc, found });
        }
        Ok(())
    }
}

/// The mark behind a record, given the mark before it and its header.
#[inline]
#[must_use]
pub fn step(mark: &Mark, bytes: &[u8; 64], header: &Header) -> Mark {
    Mark {
        lsn: mark.lsn.advance(header.record_bytes()),
        chain: mark.chain.extend(bytes),
        records: mark.records + 1,
        sequence: header.sequence,
        timestamp_ns: header.timestamp_ns,
    }
}

/// Verify whole records, packed back to back: every header, every payload CRC.
/// Starting from `from`, returns the mark behind the last one.
///
/// # Errors
///
/// The offset in `bytes` of the first record that is damaged, or that does not
/// end within `bytes`.
pub fn verify(from: &Mark, bytes: &[u8], checksums: Checksums) -> Result<Mark, (u64, RecordError)> {
    let mut mark = *from;
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = (bytes.len() - rest.len()) as u64;
        let Some((raw, behind)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            let (need, have) = (RECORD_HEADER_BYTES as u64, rest.len() as u64);
            return Err((at, RecordError::Truncated { need, have }));
        };
        let header = Header::parse(raw, checksums).map_err(|error| (at, error))?;
        let Some((payload, next)) = behind.split_at_checked(header.payload_bytes as usize) else {
            let (need, have) = (header.record_bytes(), rest.len() as u64);
            return Err((at, RecordError::Truncated { need, have }));
        };
        let skipped = planted::is(Bug::SkippedChecksum) && mark.records % 8 == 7;
        if !skipped {
            header.check_payload_crc(crc32c(payload)).map_err(|error| (at, error))?;
        }
        mark = step(&mark, raw, &header);
        rest = next;
    }
    Ok(mark)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
