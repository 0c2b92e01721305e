//! Finding the next record behind bytes that are none (T7).
//!
//! A failed write leaves debris in mid-file: the beginning of a record,
//! zeroes, anything; then good records follow. The next record is where the
//! magic stands, *and* the header CRC holds, *and* the payload CRC holds as
//! far as the payload is there. The magic alone proves nothing: payloads may
//! contain it.
//!
//! The search reads with `pread` or its like, never through a map, and is bounded: who
//! searches far calls several times.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::limits::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use crate::wal::record::{Checksums, Header, MAGIC_BYTES, RecordError};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A good record starts here.
    Record(u64),
    /// None starts before this offset; what lies from there on has not been
    /// searched, or is not there yet.
    NoneBefore(u64),
}

/// A file, or what is read like one.
pub trait ReadAt {
    /// Read into `buffer` from `offset` on. Fewer bytes than fit are not the
    /// end, 0 are.
    ///
    /// # Errors
    ///
    /// As `pread`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes there are.
    ///
    /// # Errors
    ///
    /// As `fstat`.
    fn bytes(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Read as much as there is, up to the size of `buffer`.
pub(crate) fn read_up_to(file: &impl ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The CRC32C of `bytes` bytes from `offset` on; `None` if the file ends
/// before.
fn crc_of(file: &impl ReadAt, offset: u64, bytes: u64) -> io::Result<Option<u32>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut crc, mut done) = (0, 0);
    while done < bytes {
        let most = usize::try_from(bytes - done).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let count = read_up_to(file, &mut buffer[..most], offset + done)?;
        if count == 0 {
            return Ok(None);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
        done += count as u64;
    }
    Ok(Some(crc))
}

/// Check the payload of the record whose header lies at `offset`.
///
/// # Errors
///
/// As `pread`. The inner error is what is wrong with the payload;
/// [`RecordError::Truncated`] if the file ends within it.
pub fn check_payload_at(
    file: &impl ReadAt,
    offset: u64,
    header: &Header,
) -> io::Result<Result<(), RecordError>> {
    let payload = offset + RECORD_HEADER_BYTES as u64;
    Ok(match crc_of(file, payload, u64::from(header.payload_bytes))? {
        Some(crc) => header.check_payload_crc(crc),
        None => Err(RecordError::Truncated {
            need: header.record_bytes(),
            have: file.bytes()?.saturating_sub(offset),
        }),
    })
}

/// Search `from..from + most` for the first good record. `end` is the length
/// of the file, or where in it the last record ends that may be found. Fewer bytes are searched if the payloads of candidates have
/// cost as much already: what looks like a header may announce a lot.
///
/// # Errors
///
/// As `pread`.
pub fn find_record(
    file: &impl ReadAt,
    from: u64,
    most: u64,
    end: u64,
    checksums: Checksums,
) -> io::Result<Found> {
    let stop = end.min(from.saturating_add(most));
    let mut payload_budget = most.max(MAX_RECORD_BYTES);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < stop {
        // A header that begins near the end of the chunk is read anew, as the
        // first thing of the next one.
        let count = read_up_to(file, &mut buffer, at)?;
        let chunk = &buffer[..count];
        let searched = match next_magic(chunk) {
            None => count.saturating_sub(MAGIC_BYTES.len() - 1),
            Some(position) => {
                let candidate = at + position as u64;
                if candidate >= end {
                    return Ok(Found::NoneBefore(end));
                }
                let raw = chunk[position..].first_chunk::<RECORD_HEADER_BYTES>();
                let header = raw.map(|raw| Header::parse(raw, checksums));
                match header {
                    None => position,
                    Some(Err(_)) => position + 1,
                    Some(Ok(header)) => {
                        let cost = u64::from(header.payload_bytes);
                        let Some(left) = payload_budget.checked_sub(cost) else {
                            return Ok(Found::NoneBefore(candidate));
                        };
                        payload_budget = left;
                        if is_record(file, candidate, &header, end)? {
                            return Ok(Found::Record(candidate));
                        }
                        position + 1
                    }
                }
            }
        };
        if searched == 0 {
            // Too few bytes are left to tell: they may become a header.
            return Ok(Found::NoneBefore(at));
        }
        at += searched as u64;
    }
    Ok(Found::NoneBefore(at))
}

/// Is there a good record behind this header?
fn is_record(file: &impl ReadAt, offset: u64, header: &Header, end: u64) -> io::Result<bool> {
    let behind = offset + header.record_bytes();
    if !header.checksummed {
        // Nothing vouches for it but what follows: the end, or a magic.
        let mut magic = [0; 4];
        return Ok(
            behind == end || (read_up_to(file, &mut magic, behind)? == 4 && magic == MAGIC_BYTES)
        );
    }
    if behind > end {
        // The payload is still to come; the header's CRC is all there is.
        return Ok(true);
    }
    Ok(check_payload_at(file, offset, header)?.is_ok())
}

/// The position of the first whole magic in `bytes`.
fn next_magic(bytes: &[u8]) -> Option<usize> {
    let first = MAGIC_BYTES[0];
    let mut at = 0;
    while at < bytes.len() {
        // Blocks without the first byte are passed over at the speed of
        // memory: the inner loop has no exit, so it is vectorised.
        let skip = bytes[at..]
            .chunks_exact(64)
            .take_while(|block| !block.iter().fold(false, |any, &byte| any | (byte == first)))
            .count();
        at += skip * 64;
        let within = bytes[at..].iter().take(64).position(|&byte| byte == first);
        match within {
            None => at += 64,
            Some(position) => {
                at += position;
                if bytes[at..].starts_with(&MAGIC_BYTES) {
                    return Some(at);
                }
                at += 1;
            }
        }
    }
    None
}

/// The offset of the first byte in `from..to` that is not zero.
///
/// # Errors
///
/// As `pread`.
pub(crate) fn first_nonzero(file: &impl ReadAt, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let most = usize::try_from(to - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let count = read_up_to(file, &mut buffer[..most], at)?;
        if count == 0 {
            break;
        }
        let chunk = &buffer[..count];
        if chunk.iter().fold(0, |any, &byte| any | byte) != 0 {
            return Ok(chunk.iter().position(|&byte| byte != 0).map(|byte| at + byte as u64));
        }
        at += count as u64;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
