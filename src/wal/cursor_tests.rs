//! Facts about walking a segment that a writer is busy with.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::lsn::Chain;

fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(sequence, sequence, 1, payload).unwrap().encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A segment, its writer, and a cursor at its start.
struct Bench {
    _directory: tempfile::TempDir,
    path: PathBuf,
    writer: File,
    cursor: Cursor,
}

impl Bench {
    fn new(bytes: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal-0000000000000001.log");
        fs::write(&path, bytes).unwrap();
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let segment = Arc::new(Segment::open(&path).unwrap());
        let cursor = Cursor::new(segment, 0, Mark::START, Checksums::Required);
        Self { _directory: directory, path, writer, cursor }
    }

    fn write(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.writer, bytes).unwrap();
    }

    /// Advance without a budget; the sequences passed, and why it stopped.
    fn advance(&mut self) -> (Vec<u64>, Stop) {
        let mut sequences = Vec::new();
        let done = self.cursor.advance(u64::MAX, &mut |mark| sequences.push(mark.sequence));
        (sequences, done.stop)
    }
}

#[test]
fn every_boundary_is_reported_and_the_mark_is_complete() {
    let (one, two) = (record(1, b"one"), record(2, &[5; 10_000]));
    let mut bench = Bench::new(&[one.clone(), two.clone()].concat());
    let mut marks = Vec::new();
    let done = bench.cursor.advance(u64::MAX, &mut |mark| marks.push(*mark));
    assert!(matches!(done.stop, Stop::End));
    assert_eq!(done.bytes, (one.len() + two.len()) as u64);
    let chain = Chain::START.extend(one.first_chunk().unwrap());
    assert_eq!(marks[0], Mark { lsn: Lsn(67), chain, records: 1, sequence: 1, timestamp_ns: 1 });
    assert_eq!(marks[1], bench.cursor.mark());
    assert_eq!(
        bench.cursor.mark(),
        record::verify(&Mark::START, &[one, two].concat(), Checksums::Required).unwrap()
    );
}

#[test]
fn a_budget_is_kept_to_the_record() {
    let bytes: Vec<u8> = (0..100).flat_map(|n| record(n, &[1; 36])).collect();
    let mut bench = Bench::new(&bytes);
    let mut total = 0;
    let mut turns = 0;
    loop {
        let done = bench.cursor.advance(250, &mut |_| {});
        assert!(done.bytes <= 300);
        total += done.bytes;
        turns += 1;
        match done.stop {
            Stop::Budget => assert_eq!(done.bytes, 300),
            Stop::End => break,
            stop => panic!("{stop:?}"),
        }
    }
    assert_eq!((total, turns), (10_000, 34));
}

#[test]
fn t1_t2_sequences_may_restart_repeat_skip_and_regress() {
    let sequences = [0, 1, 2, 0, 0, 7, 3, u64::MAX, 0];
    let bytes: Vec<u8> = sequences.iter().flat_map(|&n| record(n, b"payload")).collect();
    let mut bench = Bench::new(&bytes);
    let (seen, stop) = bench.advance();
    assert!(matches!(stop, Stop::End));
    assert_eq!(seen, sequences);
    assert_eq!(bench.cursor.mark().records, 9);
}

#[test]
fn t3_an_unlinked_segment_is_followed_on() {
    let mut bench = Bench::new(&record(1, b"before"));
    assert_eq!(bench.advance().0, [1]);
    fs::remove_file(&bench.path).unwrap();
    bench.write(&record(2, b"after"));
    bench.write(&record(3, &[3; 9000]));
    let (seen, stop) = bench.advance();
    assert_eq!(seen, [2, 3]);
    assert!(matches!(stop, Stop::End));
}

#[test]
fn t5_a_record_is_waited_for_byte_by_byte() {
    let good = record(1, b"first");
    let coming = record(2, &[9; 100]);
    let mut bench = Bench::new(&good);
    assert_eq!(bench.advance().0, [1]);
    for (n, byte) in coming.iter().enumerate() {
        if n > 0 {
            let (seen, stop) = bench.advance();
            assert!(seen.is_empty());
            let Stop::Incomplete { need } = stop else { panic!("at {n}: {stop:?}") };
            let until = if n < 64 { 64 } else { coming.len() };
            assert_eq!(need, (until - n) as u64);
        }
        bench.write(&[*byte]);
    }
    let (seen, stop) = bench.advance();
    assert_eq!(seen, [2]);
    assert!(matches!(stop, Stop::End));
}

#[test]
fn t5_a_write_into_allocated_space_is_waited_for() {
    let bytes: Vec<u8> = (1..4).flat_map(|n| record(n, &[9; 100])).collect();
    let mut bench = Bench::new(&[]);
    let file = OpenOptions::new().write(true).open(&bench.path).unwrap();
    file.set_len(3_000_000).unwrap();
    let mut passed = Vec::new();
    for (n, byte) in bytes.iter().enumerate() {
        // Allocated space is searched a bounded part at a time.
        loop {
            let (seen, stop) = bench.advance();
            passed.extend(seen);
            match stop {
                Stop::Budget => {}
                Stop::Incomplete { .. } => break,
                stop => panic!("at {n}: {stop:?}"),
            }
        }
        assert_eq!(passed.len(), n / 164, "at {n}");
        file.write_at(&[*byte], n as u64).unwrap();
    }
    let (seen, stop) = bench.advance();
    assert_eq!((passed.len(), seen), (2, vec![3]));
    assert!(matches!(stop, Stop::Incomplete { .. }));
}

#[test]
fn t6_a_file_that_became_shorter_is_noticed() {
    let bytes: Vec<u8> = (0..1000).flat_map(|n| record(n, &[1; 36])).collect();
    let mut bench = Bench::new(&bytes);
    let done = bench.cursor.advance(50_000, &mut |_| {});
    assert_eq!(done.bytes, 50_000);
    bench.writer.set_len(20_000).unwrap();
    assert!(matches!(bench.advance().1, Stop::Shrunk { len: 20_000 }));
    bench.writer.set_len(50_000).unwrap();
    assert!(matches!(bench.advance().1, Stop::End));
}

#[test]
fn t6_a_file_that_shrinks_during_the_walk_is_noticed() {
    let bytes: Vec<u8> = (0..1000).flat_map(|n| record(n, &[1; 36])).collect();
    let mut bench = Bench::new(&bytes);
    let writer = bench.writer.try_clone().unwrap();
    let mut seen = 0;
    let done = bench.cursor.advance(u64::MAX, &mut |mark| {
        seen = mark.records;
        if seen == 100 {
            writer.set_len(50_050).unwrap();
        }
    });
    // The last page still has a file behind it, and reads as zeroes there.
    assert!((490..=501).contains(&seen), "{seen}");
    match done.stop {
        Stop::Incomplete { .. } | Stop::Shrunk { len: 50_050 } => {}
        stop => panic!("{stop:?}"),
    }
    assert!(matches!(bench.advance().1, Stop::Incomplete { need: 14 }));
    assert_eq!(bench.cursor.mark().records, 500);
}

#[test]
fn t6_a_zeroed_tail_is_not_shipped() {
    let mut bench = Bench::new(&record(1, b"first"));
    bench.write(&[0; 5000]);
    let (seen, stop) = bench.advance();
    assert_eq!(seen, [1]);
    assert!(matches!(stop, Stop::Incomplete { .. }));
}

#[test]
fn t7_debris_between_records_is_named_and_skipped() {
    let half = record(2, &[2; 500]);
    for debris in [vec![0; 4096], b"no record at all".to_vec(), half[..300].to_vec()] {
        let mut bench = Bench::new(&[record(1, b"one"), debris.clone()].concat());
        bench.advance();
        bench.write(&record(3, b"three"));
        bench.write(&record(4, &[4; 4000]));
        let (seen, stop) = bench.advance();
        let Stop::Corrupt { offset, resync, .. } = stop else { panic!("{stop:?}") };
        assert!(seen.is_empty());
        assert_eq!((offset, resync), (67, Some(67 + debris.len() as u64)));
        // Asked again, the same answer.
        let Stop::Corrupt { offset, resync, .. } = bench.advance().1 else { panic!() };
        assert_eq!((offset, resync), (67, Some(67 + debris.len() as u64)));
        bench.cursor.skip_to(resync.unwrap());
        let (seen, stop) = bench.advance();
        assert_eq!(seen, [3, 4]);
        assert!(matches!(stop, Stop::End));
        assert_eq!(bench.cursor.mark().lsn, Lsn(67 + 69 + 4064));
    }
}

#[test]
fn t7_a_cut_payload_is_noticed_by_what_follows() {
    // Seen for the first time when everything is there already.
    let half = record(2, &[2; 500]);
    let bytes = [record(1, b"one"), half[..300].to_vec(), record(3, &[3; 500]), record(4, b"four")]
        .concat();
    let mut bench = Bench::new(&bytes);
    let (seen, stop) = bench.advance();
    assert_eq!(seen, [1]);
    let Stop::Corrupt { offset, error, resync, .. } = stop else { panic!("{stop:?}") };
    assert!(matches!(error, RecordError::PayloadCrc { .. }));
    assert_eq!((offset, resync), (67, Some(367)));
}

#[test]
fn t7_a_magic_within_a_payload_is_no_record() {
    let mut payload = vec![0; 300];
    payload[100..104].copy_from_slice(&MAGIC_BYTES);
    let mut second = record(2, &payload);
    second[5] ^= 1;
    let bytes = [record(1, b"one"), second, record(3, b"three")].concat();
    let mut bench = Bench::new(&bytes);
    let (_, stop) = bench.advance();
    let Stop::Corrupt { offset, resync, .. } = stop else { panic!("{stop:?}") };
    assert_eq!((offset, resync), (67, Some(67 + 364)));
}

#[test]
fn t7_the_search_goes_on_where_it_ended() {
    let mut bytes = record(1, b"one");
    bytes.resize(3_500_000, 7);
    let good = bytes.len() as u64;
    bytes.extend(record(2, b"two"));
    let mut bench = Bench::new(&bytes);
    let mut calls = 0;
    loop {
        calls += 1;
        match bench.advance().1 {
            Stop::Corrupt { resync: None, more: true, .. } => {}
            Stop::Corrupt { resync: Some(at), .. } => break assert_eq!(at, good),
            stop => panic!("{stop:?}"),
        }
    }
    assert!((3..6).contains(&calls));
}

#[test]
fn damage_without_anything_good_behind_is_reported_too() {
    let mut bench = Bench::new(&[record(1, b"one"), vec![7; 100]].concat());
    let (seen, stop) = bench.advance();
    assert_eq!(seen, [1]);
    assert!(matches!(
        stop,
        Stop::Corrupt { offset: 67, resync: None, more: false, error: RecordError::Magic { .. } }
    ));
}

/// A bit of the last header flipped, and it was taken for one that is still being
/// written: walked again, the source seemed to have lost its last record.
#[test]
fn a_header_of_which_all_was_written_is_damaged_and_not_on_its_way() {
    let bytes = [record(1, b"one"), record(2, b"")].concat();
    for (offset, zeroes) in [(4, 0), (20, 0), (34, 0), (60, 0), (20, 5000)] {
        let mut text = bytes.clone();
        text[67 + offset] ^= 1;
        text.resize(text.len() + zeroes, 0);
        let stop = Bench::new(&text).advance().1;
        assert!(matches!(stop, Stop::Corrupt { offset: 67, .. }), "{offset}: {stop:?}");
    }
    let mut begun = bytes;
    begun[67 + 30..].fill(0);
    assert!(matches!(Bench::new(&begun).advance().1, Stop::Incomplete { .. }));
}

#[test]
fn t12_a_log_without_checksums_is_walked_only_if_allowed() {
    let mut header = Header::new(1, 2, 3, b"payload").unwrap();
    (header.checksummed, header.payload_crc) = (false, 0);
    let bytes = [&header.encode()[..], b"payload"].concat();
    let mut bench = Bench::new(&bytes);
    let (_, stop) = bench.advance();
    assert!(matches!(stop, Stop::Corrupt { error: RecordError::NoChecksums, .. }));
    bench.cursor.checksums = Checksums::Optional;
    assert_eq!(bench.advance().0, [1]);
}

#[test]
fn windows_slide_over_a_segment_larger_than_one() {
    let mut bench = Bench::new(&[]);
    let large = record(1, &vec![1; 3_000_000]);
    let count = CURSOR_WINDOW_BYTES / large.len() + 5;
    for _ in 0..count {
        bench.write(&large);
    }
    let (seen, stop) = bench.advance();
    assert_eq!(seen.len(), count);
    assert!(matches!(stop, Stop::End));
}

#[test]
fn a_position_is_found_exactly_or_refused() {
    let bytes: Vec<u8> = (0..100).flat_map(|n| record(n, &[1; 36])).collect();
    let mut bench = Bench::new(&bytes);
    let mark = bench.cursor.seek_forward(Lsn(4200)).unwrap();
    assert_eq!((mark.records, mark.sequence), (42, 41));
    assert!(matches!(
        bench.cursor.seek_forward(Lsn(4250)),
        Err(SeekError::NotABoundary { before: Lsn(4200), behind: Lsn(4300), .. })
    ));
    assert!(matches!(
        bench.cursor.seek_forward(Lsn(20_000)),
        Err(SeekError::Stopped { reached: Lsn(10_000), stop: Stop::End, .. })
    ));
    assert_eq!(bench.cursor.seek_forward(Lsn(10_000)).unwrap().records, 100);
}

proptest! {
    /// Whatever is damaged: the walk ends, positions only grow, and what is
    /// left out is exactly what was reported.
    #[test]
    fn a_damaged_segment_is_walked_to_its_end(
        sizes in proptest::collection::vec(0_usize..300, 1..40),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes: Vec<u8> = (0..).zip(&sizes).flat_map(|(n, &size)| record(n, &vec![0xEF; size])).collect();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let mut bench = Bench::new(&bytes);
        let (mut passed, mut skipped, mut last) = (0, 0, Lsn(0));
        for _ in 0..1000 {
            let done = bench.cursor.advance(500, &mut |mark| {
                assert!(mark.lsn > last);
                last = mark.lsn;
            });
            passed += done.bytes;
            prop_assert_eq!(bench.cursor.offset(), passed + skipped);
            match done.stop {
                Stop::Budget => {}
                Stop::Corrupt { offset, resync: Some(next), .. } => {
                    prop_assert!(next > offset);
                    skipped += next - offset;
                    bench.cursor.skip_to(next);
                }
                Stop::End => {
                    prop_assert_eq!(passed + skipped, bytes.len() as u64);
                    return Ok(());
                }
                Stop::Incomplete { .. } | Stop::Corrupt { resync: None, more: false, .. } => {
                    return Ok(());
                }
                stop => panic!("{stop:?}"),
            }
        }
        prop_assert!(false, "the walk does not end");
    }
}
