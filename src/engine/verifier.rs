//! Verifying records that come in pieces of any size, in constant memory.

#![forbid(unsafe_code)]

use crc32c::crc32c_append;

use crate::limits::RECORD_HEADER_BYTES;
use crate::lsn::Mark;
use crate::wal::record::{Checksums, Header, RecordError, step};

/// A record whose payload is passing by.
#[derive(Clone, Copy, Debug)]
struct Passing {
    header: Header,
    /// CRC32C of what has passed.
    crc: u32,
    /// What is still to come.
    left: u64,
}

/// Takes the bytes of a log in order and keeps the mark behind the last whole
/// record that held.
///
/// Feed until an error or the end of the bytes; then [`Verifier::mark`] is the
/// end of what is good and [`Verifier::pending`] says how many bytes of an
/// unfinished record follow it. After an error nothing more may be fed.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    mark: Mark,
    checksums: Checksums,
    /// The header that is arriving, or whose payload is passing.
    head: [u8; RECORD_HEADER_BYTES],
    filled: usize,
    passing: Option<Passing>,
}

impl Verifier {
    /// Begin behind `from`.
    pub(super) fn new(from: Mark, checksums: Checksums) -> Self {
        Self { mark: from, checksums, head: [0; RECORD_HEADER_BYTES], filled: 0, passing: None }
    }

    /// Behind the last whole record.
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Bytes taken of a record that is not whole yet.
    pub(super) fn pending(&self) -> u64 {
        let payload = self
            .passing
            .map_or(0, |passing| u64::from(passing.header.payload_bytes) - passing.left);
        self.filled as u64 + payload
    }

    /// Bytes of the record that is not whole yet, or of a header while its
    /// own is not there.
    pub(super) fn needed(&self) -> u64 {
        self.passing.map_or(RECORD_HEADER_BYTES as u64, |passing| passing.header.record_bytes())
    }

    /// Whether records without checksums are taken.
    pub(super) fn checksums(&self) -> Checksums {
        self.checksums
    }

    /// Take the next bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with the record that begins at [`Verifier::mark`].
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        loop {
            if let Some(passing) = &mut self.passing {
                let there = usize::try_from(passing.left).unwrap_or(usize::MAX).min(bytes.len());
                let (payload, rest) = bytes.split_at(there);
                passing.crc = crc32c_append(passing.crc, payload);
                passing.left -= there as u64;
                bytes = rest;
                if passing.left > 0 {
                    return Ok(());
                }
                passing.header.check_payload_crc(passing.crc)?;
                self.mark = step(&self.mark, &self.head, &passing.header);
                self.filled = 0;
                self.passing = None;
            }
            let there = (RECORD_HEADER_BYTES - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(there);
            self.head[self.filled..self.filled + there].copy_from_slice(part);
            self.filled += there;
            bytes = rest;
            if self.filled < RECORD_HEADER_BYTES {
                return Ok(());
            }
            let header = Header::parse(&self.head, self.checksums)?;
            let left = u64::from(header.payload_bytes);
            self.passing = Some(Passing { header, crc: 0, left });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wal::record::verify;

    fn records(payloads: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, len) in (0_u64..).zip(payloads) {
            let payload = vec![0xa5; *len];
            bytes.extend(Header::new(sequence, 7, 1, &payload).unwrap().encode());
            bytes.extend(payload);
        }
        bytes
    }

    #[test]
    fn pieces_of_any_size_give_what_the_whole_gives() {
        let bytes = records(&[0, 1, 63, 64, 65, 1000, 0, 0]);
        let whole = verify(&Mark::START, &bytes, Checksums::Required).unwrap();
        for size in [1, 7, 64, 65, 500, bytes.len()] {
            let mut verifier = Verifier::new(Mark::START, Checksums::Required);
            for piece in bytes.chunks(size) {
                verifier.feed(piece).unwrap();
            }
            assert_eq!((verifier.mark(), verifier.pending()), (whole, 0), "pieces of {size}");
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_pending() {
        let bytes = records(&[10, 100]);
        for cut in [75, 74 + 64, 74 + 65, 74 + 163] {
            let mut verifier = Verifier::new(Mark::START, Checksums::Required);
            verifier.feed(&bytes[..cut]).unwrap();
            assert_eq!(verifier.mark().lsn.0, 74);
            assert_eq!(verifier.pending(), cut as u64 - 74);
        }
    }

    #[test]
    fn damage_ends_behind_the_last_good_record() {
        for (at, header) in [(74 + 5, true), (74 + 64 + 5, false)] {
            let mut bytes = records(&[10, 100, 10]);
            bytes[at] ^= 1;
            let mut verifier = Verifier::new(Mark::START, Checksums::Required);
            let error = verifier.feed(&bytes).unwrap_err();
            assert_eq!(matches!(error, RecordError::HeaderCrc { .. }), header, "{error}");
            assert_eq!(verifier.mark().lsn.0, 74);
        }
    }
}
