//! Facts about the writer.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::wal::record;

fn options(segment_bytes: u64, clock: fn() -> u64) -> WriterOptions {
    WriterOptions { segment_bytes, fsync: Fsync::Never, clock }
}

/// The sequences of all segments, by name.
fn sequences(directory: &Path) -> Vec<(SegmentName, Vec<u64>)> {
    let names = discover::segments(directory).unwrap();
    names
        .into_iter()
        .map(|name| {
            let bytes = fs::read(directory.join(name.to_string())).unwrap();
            record::verify(&Mark::START, &bytes, Checksums::Required).unwrap();
            let mut found = Vec::new();
            let mut rest = &bytes[..];
            while let Some(raw) = rest.first_chunk() {
                let header = Header::parse(raw, Checksums::Required).unwrap();
                found.push(header.sequence);
                rest = &rest[usize::try_from(header.record_bytes()).unwrap()..];
            }
            (name, found)
        })
        .collect()
}

fn second_five() -> u64 {
    5_000_000_000
}

#[test]
fn segments_rotate_by_size_and_names_stay_unique() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(directory.path(), options(250, second_five)).unwrap();
    for n in 0..5 {
        let position = writer.append(1, &[7; 36]).unwrap();
        assert_eq!(position.sequence, n);
        assert_eq!((position.segment.0, position.offset), (5 + n / 2, n % 2 * 100));
    }
    // A record larger than a segment gets one of its own.
    assert_eq!(writer.append(1, &[7; 1000]).unwrap().segment, SegmentName(8));
    assert_eq!(writer.append(1, &[7; 10]).unwrap().segment, SegmentName(9));
    drop(writer);
    let found: Vec<_> = sequences(directory.path()).into_iter().map(|(_, found)| found).collect();
    assert_eq!(found, [vec![0, 1], vec![2, 3], vec![4], vec![5], vec![6]]);
}

#[test]
fn segments_are_private_to_the_writers_user() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(directory.path(), WriterOptions::default()).unwrap();
    let name = writer.append(1, b"payload").unwrap().segment;
    let mode = fs::metadata(directory.path().join(name.to_string())).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn sequences_go_on_behind_a_torn_tail_in_a_new_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(directory.path(), options(1 << 20, second_five)).unwrap();
    for _ in 0..3 {
        writer.append(1, &[1; 100]).unwrap();
    }
    drop(writer);
    let path = directory.path().join(SegmentName(5).to_string());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let mut writer = Writer::open(directory.path(), options(1 << 20, second_five)).unwrap();
    let position = writer.append(1, b"after").unwrap();
    assert_eq!((position.segment, position.sequence), (SegmentName(6), 2));
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() - 10]);
}

#[test]
fn t8_names_ascend_even_if_the_clock_steps_back() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(SegmentName(99).to_string()), b"").unwrap();
    let mut writer = Writer::open(directory.path(), options(1 << 20, second_five)).unwrap();
    assert_eq!(writer.append(1, b"x").unwrap().segment, SegmentName(100));
}

#[test]
fn opening_alone_leaves_directories_and_no_file() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("space/wal");
    drop(Writer::open(&directory, WriterOptions::default()).unwrap());
    assert!(discover::segments(&directory).unwrap().is_empty());
}

#[test]
fn the_largest_sequence_has_no_successor() {
    let directory = tempfile::tempdir().unwrap();
    let header = Header::new(u64::MAX, 0, 1, b"").unwrap();
    fs::write(directory.path().join(SegmentName(1).to_string()), header.encode()).unwrap();
    let mut writer = Writer::open(directory.path(), WriterOptions::default()).unwrap();
    assert!(matches!(writer.append(1, b"x"), Err(WriteError::SequencesUsedUp { .. })));
}

#[test]
fn a_group_is_written_after_a_thousand_records_or_ten_milliseconds() {
    static NOW: AtomicU64 = AtomicU64::new(1_000_000_000);
    let directory = tempfile::tempdir().unwrap();
    let clock = || NOW.load(Ordering::Relaxed);
    let mut writer = Writer::open(directory.path(), options(1 << 30, clock)).unwrap();
    let path = directory.path().join(SegmentName(1).to_string());
    let written = || fs::metadata(&path).unwrap().len();
    for _ in 0..999 {
        writer.append(1, b"").unwrap();
    }
    assert_eq!(written(), 0);
    writer.append(1, b"").unwrap();
    assert_eq!(written(), 64_000);
    writer.append(1, b"").unwrap();
    NOW.fetch_add(9_000_000, Ordering::Relaxed);
    writer.append(1, b"").unwrap();
    assert_eq!(written(), 64_000);
    NOW.fetch_add(1_000_000, Ordering::Relaxed);
    writer.append(1, b"").unwrap();
    assert_eq!(written(), 64_000 + 3 * 64);
    writer.append(1, b"").unwrap();
    writer.commit().unwrap();
    assert_eq!(written(), 64_000 + 4 * 64);
}

#[test]
fn with_a_sync_per_write_each_record_is_there_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = WriterOptions { fsync: Fsync::EveryWrite, ..WriterOptions::default() };
    let mut writer = Writer::open(directory.path(), options).unwrap();
    let position = writer.append(1, b"payload").unwrap();
    let path = directory.path().join(position.segment.to_string());
    assert_eq!(fs::metadata(path).unwrap().len(), position.bytes);
}

#[test]
fn a_failed_write_poisons_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(directory.path(), WriterOptions::default()).unwrap();
    writer.append(1, b"payload").unwrap();
    // A descriptor that cannot be written stands in for a full disk.
    writer.current.as_mut().unwrap().file = File::open("/dev/null").unwrap();
    assert!(matches!(writer.commit(), Err(WriteError::Io { .. })));
    assert!(matches!(writer.append(1, b"payload"), Err(WriteError::Poisoned { .. })));
    assert!(matches!(writer.commit(), Err(WriteError::Poisoned { .. })));
}
