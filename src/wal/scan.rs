//! Reading a segment whole, every checksum included.
//!
//! Where the [cursor](crate::wal::cursor) trusts payloads to be checked by
//! the receiver, a scan checks all of them, and goes on behind damage: it is
//! what `saltus wal verify` and `inspect` do. It takes a file as it is at one
//! moment; a record that is being written shows as a torn tail.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;

use crate::limits::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use crate::lsn::Mark;
use crate::wal::record::{self, Checksums, Header, RecordError};
use crate::wal::search::{self, Found};

/// Bytes read at a time; grows to hold a larger record.
const BUFFER_BYTES: usize = 1 << 20;

const HEADER_BYTES: u64 = RECORD_HEADER_BYTES as u64;

/// A range of a segment that holds no good record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// Where it starts in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong at its start.
    pub error: RecordError,
    /// True if the segment ends in it and it may be a record whose writing
    /// did not finish: a beginning without an end, or zeroes.
    pub torn_tail: bool,
    /// True if every byte of it is zero. A file that a replica mirrors has such
    /// a range where its primary has left debris out of the stream; the file
    /// alone cannot say whether it is that.
    pub zeroes: bool,
}

/// What a range of zero bytes that is no record can be, in words for a person
/// who sees the files and not the catalog.
#[must_use]
pub fn explain_zeroes(bytes: u64) -> String {
    format!(
        "{bytes} zero bytes: on a replica this can be debris that was left out on the primary, see \
         `saltus status`"
    )
}

impl BadRange {
    /// Where the next good record starts; `None` if the segment ends here.
    #[must_use]
    pub const fn next_record(&self, segment_bytes: u64) -> Option<u64> {
        let behind = self.offset + self.bytes;
        if behind < segment_bytes { Some(behind) } else { None }
    }
}

/// What a scan comes upon, in the order of the file.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Item {
    /// A record whose header and payload hold.
    Record {
        /// Where it starts in the file.
        offset: u64,
        /// Its header.
        header: Header,
    },
    /// Something else.
    Bad(BadRange),
}

/// What a scan came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes that were looked at: the length of the file when it began.
    pub bytes: u64,
    /// Good records, their bytes and their chain, as if nothing else were
    /// there.
    pub mark: Mark,
    /// Sequence of the first good record.
    pub first_sequence: Option<u64>,
    /// The smallest timestamp of a good record, nanoseconds since the epoch.
    pub first_timestamp_ns: Option<u64>,
    /// The largest.
    pub last_timestamp_ns: Option<u64>,
    /// Ranges that hold no good record, a torn tail included.
    pub bad_ranges: u64,
    /// Bytes in them.
    pub bad_bytes: u64,
    /// Good records that carry no checksum (T12): nothing vouches for them.
    pub unverified_records: u64,
}

impl Summary {
    /// True if every byte belongs to a good record.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.bad_ranges == 0
    }
}

/// Reads a file once, from front to back.
struct Reader<'a> {
    file: &'a File,
    end: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts, and how much of it is filled.
    start: u64,
    filled: usize,
}

impl Reader<'_> {
    /// `bytes` bytes from `offset` on, or fewer if the file ends before.
    fn at(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let within = offset
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|&skip| skip + bytes <= self.filled);
        let skip = if let Some(skip) = within {
            skip
        } else {
            if bytes > self.buffer.len() {
                self.buffer.resize(bytes, 0);
            }
            // A scan sees the file as long as it was when it began.
            let visible = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
            let most = self.buffer.len().min(visible);
            self.filled = search::read_up_to(self.file, &mut self.buffer[..most], offset)?;
            self.start = offset;
            0
        };
        Ok(&self.buffer[skip..self.filled.min(skip + bytes)])
    }

    /// The record at `offset`: its header, or what is wrong with it.
    fn record(
        &mut self,
        offset: u64,
        checksums: Checksums,
    ) -> io::Result<Result<([u8; RECORD_HEADER_BYTES], Header), RecordError>> {
        let bytes = self.at(offset, RECORD_HEADER_BYTES)?;
        let Some(&raw) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
            let have = bytes.len() as u64;
            return Ok(Err(RecordError::Truncated { need: HEADER_BYTES, have }));
        };
        let header = match Header::parse(&raw, checksums) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        // Bounded: a header that parses announces no more than the limit.
        let need = header.record_bytes().min(MAX_RECORD_BYTES);
        let whole = self.at(offset, usize::try_from(need).unwrap_or(usize::MAX))?;
        Ok(header.check_payload(&whole[RECORD_HEADER_BYTES..]).map(|()| (raw, header)))
    }
}

/// Scan a segment, giving `each` everything that is there. Returning false
/// from `each` ends the scan early.
///
/// # Errors
///
/// The file could not be read: what was reported so far stands.
pub fn scan(
    file: &File,
    checksums: Checksums,
    each: &mut impl FnMut(Item) -> bool,
) -> io::Result<Summary> {
    let end = file.metadata()?.len();
    let mut reader = Reader { file, end, buffer: vec![0; BUFFER_BYTES], start: 0, filled: 0 };
    let mut summary = Summary { bytes: end, ..Summary::default() };
    let mut offset = 0;
    while offset < end {
        let item = match reader.record(offset, checksums)? {
            Ok((raw, header)) => {
                summary.count(&raw, &header);
                Item::Record { offset, header }
            }
            Err(error) => {
                let bad = measure(&mut reader, offset, error, checksums)?;
                summary.bad_ranges += 1;
                summary.bad_bytes += bad.bytes;
                Item::Bad(bad)
            }
        };
        let goes_on = each(item);
        offset += match item {
            Item::Record { header, .. } => header.record_bytes(),
            Item::Bad(bad) => bad.bytes,
        };
        if !goes_on {
            break;
        }
    }
    Ok(summary)
}

impl Summary {
    fn count(&mut self, raw: &[u8; RECORD_HEADER_BYTES], header: &Header) {
        let time = header.timestamp_ns;
        self.mark = record::step(&self.mark, raw, header);
        self.first_sequence.get_or_insert(header.sequence);
        self.first_timestamp_ns = Some(self.first_timestamp_ns.map_or(time, |t| t.min(time)));
        self.last_timestamp_ns = self.last_timestamp_ns.max(Some(time));
        self.unverified_records += u64::from(!header.checksummed);
    }
}

/// How far does the damage at `offset` reach?
fn measure(
    reader: &mut Reader<'_>,
    offset: u64,
    error: RecordError,
    checksums: Checksums,
) -> io::Result<BadRange> {
    let end = reader.end;
    // A payload that rotted in place leaves its neighbours where they are.
    if let RecordError::PayloadCrc { .. } = error
        && let Some(raw) = reader.at(offset, RECORD_HEADER_BYTES)?.first_chunk()
        && let Ok(header) = Header::parse(raw, checksums)
    {
        let behind = offset + header.record_bytes();
        if behind == end || reader.record(behind, checksums)?.is_ok() {
            let bytes = header.record_bytes();
            return Ok(BadRange { offset, bytes, error, torn_tail: false, zeroes: false });
        }
    }
    let behind = match search::find_record(reader.file, offset + 1, u64::MAX, end, checksums)? {
        // A header alone, its payload missing, ends no bad range.
        Found::Record(at) if at < end => at,
        Found::Record(_) | Found::NoneBefore(_) => end,
    };
    let zeroes = search::first_nonzero(reader.file, offset, behind)?.is_none();
    let torn_tail = behind == end && (matches!(error, RecordError::Truncated { .. }) || zeroes);
    Ok(BadRange { offset, bytes: behind - offset, error, torn_tail, zeroes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Header::new(sequence, sequence, 1, payload).unwrap().encode().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn scan_of(bytes: &[u8]) -> (Summary, Vec<u64>, Vec<BadRange>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (mut sequences, mut bad) = (Vec::new(), Vec::new());
        let summary = scan(&file, Checksums::Required, &mut |item| {
            match item {
                Item::Record { header, .. } => sequences.push(header.sequence),
                Item::Bad(range) => bad.push(range),
            }
            true
        })
        .unwrap();
        assert_eq!(summary.bad_ranges, bad.len() as u64);
        assert_eq!(summary.mark.lsn.0 + summary.bad_bytes, bytes.len() as u64);
        (summary, sequences, bad)
    }

    #[test]
    fn a_whole_segment_agrees_with_verify() {
        let bytes: Vec<u8> =
            (0..50).flat_map(|n| record(n, &vec![1; usize::try_from(n * 2000).unwrap()])).collect();
        let (summary, sequences, _) = scan_of(&bytes);
        assert!(summary.is_whole());
        assert_eq!(sequences.len(), 50);
        let mark = record::verify(&Mark::START, &bytes, Checksums::Required).unwrap();
        assert_eq!(summary.mark, mark);
        assert_eq!((summary.first_sequence, summary.last_timestamp_ns), (Some(0), Some(49)));
    }

    #[test]
    fn a_record_larger_than_the_buffer_is_read_whole() {
        let bytes = [record(1, b"a"), record(2, &vec![5; 3 << 20]), record(3, b"c")].concat();
        assert_eq!(scan_of(&bytes).1, [1, 2, 3]);
    }

    #[test]
    fn every_bad_range_is_named_with_what_follows() {
        let mut rotten = record(2, &[2; 100]);
        rotten[70] ^= 1;
        let parts = [
            record(1, b"one"),
            rotten,
            record(3, b"three"),
            vec![7; 33],
            record(4, b"four"),
            record(5, &[5; 400])[..200].to_vec(),
            record(6, b"six"),
        ];
        let bytes = parts.concat();
        let (_, sequences, bad) = scan_of(&bytes);
        assert_eq!(sequences, [1, 3, 4, 6]);
        let ranges: Vec<_> = bad.iter().map(|range| (range.offset, range.bytes)).collect();
        assert_eq!(ranges, [(67, 164), (67 + 164 + 69, 33), (67 + 164 + 69 + 33 + 68, 200)]);
        assert!(bad.iter().all(|range| !range.torn_tail && !range.zeroes));
        assert_eq!(bad[2].next_record(bytes.len() as u64), Some(bytes.len() as u64 - 67));
    }

    #[test]
    fn a_range_of_zeroes_is_told_from_other_damage() {
        let (one, two) = (record(1, b"one"), record(2, b"two"));
        for (gap, zeroes) in [(vec![0; 333], true), ([vec![0; 332], vec![7]].concat(), false)] {
            let (_, sequences, bad) = scan_of(&[&one[..], &gap, &two].concat());
            assert_eq!(sequences, [1, 2]);
            assert_eq!((bad[0].bytes, bad[0].zeroes, bad[0].torn_tail), (333, zeroes, false));
        }
    }

    #[test]
    fn a_torn_tail_is_told_from_damage() {
        let good = record(1, b"one");
        for (tail, torn) in [
            (record(2, &[2; 100])[..30].to_vec(), true),
            (record(2, &[2; 100])[..64].to_vec(), true),
            (record(2, &[2; 100])[..163].to_vec(), true),
            (vec![0; 5000], true),
            (vec![7; 100], false),
        ] {
            let (_, _, bad) = scan_of(&[good.clone(), tail].concat());
            assert_eq!((bad.len(), bad[0].torn_tail), (1, torn), "{bad:?}");
        }
    }

    #[test]
    fn t10_an_empty_segment_is_whole() {
        assert!(scan_of(&[]).0.is_whole());
    }
}
