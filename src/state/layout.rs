//! The values of the catalog, byte by byte. All numbers are little-endian and
//! unsigned; a value of any other length is damage.
//!
//! ```text
//!   mark (40)                     run (40), key (space, ordinal u32)
//!    0  8  lsn                     0  8  start lsn
//!    8  8  chain                   8  8  segment number
//!   16  8  records                16  8  file number
//!   24  8  sequence               24  8  offset in the file
//!   32  8  timestamp, ns          32  8  bytes; all ones: open
//!
//!   file (32), key (space, number u64)    space (144 + 16 n), key space
//!    0  8  segment number          0  1  role: 1 primary, 2 replica
//!    8  8  device                  1  1  seed: 0 none, 1 the old copy is being
//!   16  8  inode                         moved aside, 2 it is being received
//!   24  8  birth, ns               2  2  zero
//!                                  4  4  n, entries of the history, >= 1
//!   meta "schema" (4): 2           8 16  stream id
//!   meta "node" (16): uuid        24  8  highest epoch seen
//!                                 32 40  checkpoint, a mark
//!   retired (1), key (space,      72  4  ordinal of the first run
//!   number u64)                   76  4  zero
//!    0  1  1 out of the           80 40  base: where the first run begins, a mark
//!          directory, 2 gone     120  8  seed: where the primary's head was
//!                                128 16  zero
//!                                144 16n epoch (8), where it began (8)
//! ```
//!
//!   hole (40 + n), key (space, file u64, offset u64)
//!    0  8  lsn
//!    8  8  segment number
//!   16  8  bytes
//!   24  8  when, ns since the Unix epoch
//!   32  8  n, bytes of the reason
//!   40  n  the reason, UTF-8
//!
//! A mark in the table of marks has the key (space, lsn u64) and a mark as
//! its value; one in the table of begins has the key (space, file number u64),
//! and is where the first run of that file begins. A slot is drawn in `slots`.

use super::catalog::{FileRecord, Hole, Retired, Role, SeedRecord};
use super::runs::Run;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::lsn::{Chain, Lsn, Mark};

/// The version of the layouts in this file.
pub(super) const SCHEMA: u32 = 2;

/// Bytes of a mark.
pub(super) const MARK_BYTES: usize = 40;
/// Bytes of a run.
pub(super) const RUN_BYTES: usize = 40;
/// Bytes of a file.
pub(super) const FILE_BYTES: usize = 32;
/// Bytes of a space before its history.
const SPACE_BYTES: usize = 144;
/// Bytes of one entry of a history.
const HISTORY_ENTRY_BYTES: usize = 16;
/// The length of a run that may still grow.
const OPEN: u64 = u64::MAX;

/// What the table of spaces holds: a `SpaceRecord` without its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Which way it flows.
    pub(super) role: Role,
    /// Which stream it is.
    pub(super) stream: StreamId,
    /// Epochs and where each began.
    pub(super) history: Vec<(Epoch, Lsn)>,
    /// Highest epoch ever seen.
    pub(super) highest_epoch: Epoch,
    /// A replica's verified and durable position.
    pub(super) checkpoint: Mark,
    /// The ordinal of the first run.
    pub(super) first_run: u32,
    /// Where the first run begins.
    pub(super) base: Mark,
    /// A seed under way.
    pub(super) seed: Option<SeedRecord>,
}

/// The eight-byte word at `at`, or nothing behind the end.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Words, one behind the other.
fn words<const BYTES: usize>(values: &[u64]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (to, value) in bytes.chunks_exact_mut(8).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

pub(super) fn encode_mark(mark: &Mark) -> [u8; MARK_BYTES] {
    words(&[mark.lsn.0, mark.chain.0, mark.records, mark.sequence, mark.timestamp_ns])
}

pub(super) fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    if bytes.len() != MARK_BYTES {
        return None;
    }
    Some(Mark {
        lsn: Lsn(word(bytes, 0)?),
        chain: Chain(word(bytes, 8)?),
        records: word(bytes, 16)?,
        sequence: word(bytes, 24)?,
        timestamp_ns: word(bytes, 32)?,
    })
}

pub(super) fn encode_run(run: &Run) -> [u8; RUN_BYTES] {
    words(&[run.start.0, run.segment.0, run.file, run.offset, run.bytes.unwrap_or(OPEN)])
}

pub(super) fn decode_run(bytes: &[u8]) -> Option<Run> {
    if bytes.len() != RUN_BYTES {
        return None;
    }
    Some(Run {
        start: Lsn(word(bytes, 0)?),
        segment: SegmentName(word(bytes, 8)?),
        file: word(bytes, 16)?,
        offset: word(bytes, 24)?,
        bytes: Some(word(bytes, 32)?).filter(|bytes| *bytes != OPEN),
    })
}

pub(super) fn encode_file(file: &FileRecord) -> [u8; FILE_BYTES] {
    words(&[file.segment.0, file.device, file.inode, file.birth_ns])
}

pub(super) fn decode_file(number: u64, bytes: &[u8]) -> Option<FileRecord> {
    if bytes.len() != FILE_BYTES {
        return None;
    }
    Some(FileRecord {
        file: number,
        segment: SegmentName(word(bytes, 0)?),
        device: word(bytes, 8)?,
        inode: word(bytes, 16)?,
        birth_ns: word(bytes, 24)?,
    })
}

pub(super) fn encode_retired(what: Retired) -> [u8; 1] {
    match what {
        Retired::Aside => [1],
        Retired::Gone => [2],
    }
}

pub(super) fn decode_retired(bytes: &[u8]) -> Option<Retired> {
    match bytes {
        [1] => Some(Retired::Aside),
        [2] => Some(Retired::Gone),
        _ => None,
    }
}

/// Bytes of a hole before its reason.
const HOLE_BYTES: usize = 40;

pub(super) fn encode_hole(hole: &Hole) -> Vec<u8> {
    let reason = hole.reason.as_bytes();
    let words: [u8; HOLE_BYTES] =
        words(&[hole.lsn.0, hole.segment.0, hole.bytes, hole.unix_ns, reason.len() as u64]);
    [&words, reason].concat()
}

pub(super) fn decode_hole(file: u64, offset: u64, bytes: &[u8]) -> Option<Hole> {
    let (fixed, reason) = bytes.split_at_checked(HOLE_BYTES)?;
    if usize::try_from(word(fixed, 32)?).ok()? != reason.len() {
        return None;
    }
    Some(Hole {
        lsn: Lsn(word(fixed, 0)?),
        segment: SegmentName(word(fixed, 8)?),
        file,
        offset,
        bytes: word(fixed, 16)?,
        unix_ns: word(fixed, 24)?,
        reason: String::from_utf8(reason.to_vec()).ok()?,
    })
}

pub(super) fn encode_space(space: &Space) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SPACE_BYTES + space.history.len() * HISTORY_ENTRY_BYTES);
    bytes.push(match space.role {
        Role::Primary => 1,
        Role::Replica => 2,
    });
    bytes.push(match space.seed {
        None => 0,
        Some(SeedRecord { moved: false, .. }) => 1,
        Some(SeedRecord { moved: true, .. }) => 2,
    });
    bytes.extend_from_slice(&[0; 2]);
    let entries = u32::try_from(space.history.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&space.stream.0.to_le_bytes());
    bytes.extend_from_slice(&space.highest_epoch.0.to_le_bytes());
    bytes.extend_from_slice(&encode_mark(&space.checkpoint));
    bytes.extend_from_slice(&space.first_run.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&encode_mark(&space.base));
    let target = space.seed.map_or(0, |seed| seed.target.0);
    bytes.extend_from_slice(&target.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    for (epoch, start) in &space.history {
        bytes.extend_from_slice(&epoch.0.to_le_bytes());
        bytes.extend_from_slice(&start.0.to_le_bytes());
    }
    bytes
}

pub(super) fn decode_space(bytes: &[u8]) -> Option<Space> {
    let (fixed, rest) = bytes.split_at_checked(SPACE_BYTES)?;
    let role = match fixed[0] {
        1 => Role::Primary,
        2 => Role::Replica,
        _ => return None,
    };
    let target = Lsn(word(fixed, 120)?);
    let seed = match fixed[1] {
        0 => None,
        1 => Some(SeedRecord { target, moved: false }),
        2 => Some(SeedRecord { target, moved: true }),
        _ => return None,
    };
    let entries = u32::from_le_bytes(fixed[4..8].try_into().ok()?);
    let history: Vec<_> = rest
        .chunks_exact(HISTORY_ENTRY_BYTES)
        .filter_map(|entry| Some((Epoch(word(entry, 0)?), Lsn(word(entry, 8)?))))
        .collect();
    let whole = usize::try_from(entries).ok()?.checked_mul(HISTORY_ENTRY_BYTES)? == rest.len();
    if !whole || history.is_empty() {
        return None;
    }
    Some(Space {
        role,
        stream: StreamId(u128::from_le_bytes(fixed[8..24].try_into().ok()?)),
        highest_epoch: Epoch(word(fixed, 24)?),
        checkpoint: decode_mark(&fixed[32..72])?,
        first_run: u32::from_le_bytes(fixed[72..76].try_into().ok()?),
        base: decode_mark(&fixed[80..120])?,
        seed,
        history,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mark() -> Mark {
        Mark { lsn: Lsn(1), chain: Chain(2), records: 3, sequence: 4, timestamp_ns: 5 }
    }

    #[test]
    fn marks_lie_as_drawn() {
        let bytes = encode_mark(&mark());
        assert_eq!(bytes.map(u64::from).iter().sum::<u64>(), 15);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24], bytes[32]), (1, 2, 3, 4, 5));
        assert_eq!(decode_mark(&bytes), Some(mark()));
        assert_eq!(decode_mark(&bytes[1..]), None);
    }

    #[test]
    fn an_open_run_has_all_ones_as_its_length() {
        let run = Run { start: Lsn(1), segment: SegmentName(2), file: 3, offset: 4, bytes: None };
        let bytes = encode_run(&run);
        assert_eq!(bytes[32..], [0xff; 8]);
        assert_eq!(decode_run(&bytes), Some(run));
        let closed = Run { bytes: Some(0), ..run };
        assert_eq!(decode_run(&encode_run(&closed)), Some(closed));
    }

    #[test]
    fn a_space_lies_as_drawn() {
        let space = Space {
            role: Role::Replica,
            stream: StreamId(0xabcd),
            history: vec![(Epoch(1), Lsn(0)), (Epoch(7), Lsn(99))],
            highest_epoch: Epoch(9),
            checkpoint: mark(),
            first_run: 11,
            base: Mark { lsn: Lsn(12), ..mark() },
            seed: Some(SeedRecord { target: Lsn(13), moved: true }),
        };
        let bytes = encode_space(&space);
        assert_eq!(bytes.len(), 144 + 32);
        assert_eq!((bytes[0], bytes[4], bytes[8], bytes[24], bytes[32]), (2, 2, 0xcd, 9, 1));
        assert_eq!((bytes[1], bytes[72], bytes[80], bytes[120]), (2, 11, 12, 13));
        assert_eq!((bytes[144], bytes[160], bytes[168]), (1, 7, 99));
        assert_eq!(decode_space(&bytes), Some(space.clone()));
        assert_eq!(decode_space(&bytes[..160]), None, "a history shorter than announced");
        let moving = Space { seed: Some(SeedRecord { target: Lsn(13), moved: false }), ..space };
        assert_eq!(decode_space(&encode_space(&moving)), Some(moving.clone()));
        let none = Space { seed: None, ..moving };
        assert_eq!(decode_space(&encode_space(&none)), Some(none));
        assert_eq!(decode_space(&bytes[..40]), None);
    }

    #[test]
    fn a_hole_lies_as_drawn() {
        let hole = Hole {
            lsn: Lsn(1),
            segment: SegmentName(2),
            file: 8,
            offset: 9,
            bytes: 3,
            unix_ns: 4,
            reason: "rot".into(),
        };
        let bytes = encode_hole(&hole);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24], bytes[32]), (1, 2, 3, 4, 3));
        assert_eq!(bytes[40..], *b"rot");
        assert_eq!(decode_hole(8, 9, &bytes), Some(hole));
        assert_eq!(decode_hole(8, 9, &bytes[..42]), None);
    }

    #[test]
    fn a_file_lies_as_drawn() {
        let file =
            FileRecord { file: 8, segment: SegmentName(1), device: 2, inode: 3, birth_ns: 4 };
        let bytes = encode_file(&file);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24]), (1, 2, 3, 4));
        assert_eq!(decode_file(8, &bytes), Some(file));
    }
}
