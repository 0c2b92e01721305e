//! A segment of any content: walked, searched, scanned.

use std::sync::Arc;

use saltus::ids::SegmentName;
use saltus::lsn::Mark;
use saltus::wal::cursor::{Cursor, Stop};
use saltus::wal::record::{self, Checksums};
use saltus::wal::scan::{self, Item};
use saltus::wal::segment::{Identity, Segment};

use super::input::Input;
use super::segment::{compose, file_of};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.byte();
    let checksums = if settings & 1 == 0 { Checksums::Required } else { Checksums::Optional };
    let budget = if settings & 2 == 0 { u64::MAX } else { 1 + u64::from(settings) };
    let bytes = compose(&mut input);
    let file = file_of(&bytes);

    // Every byte is part of a good record or of a bad range.
    let (mut at, mut records) = (0, 0_u64);
    let summary = scan::scan(&file, checksums, &mut |item| {
        match item {
            Item::Record { offset, header } => {
                assert_eq!(offset, at);
                at += header.record_bytes();
                records += 1;
                let raw = &bytes[usize::try_from(offset).unwrap()..usize::try_from(at).unwrap()];
                assert!(record::verify(&Mark::START, raw, checksums).is_ok());
            }
            Item::Bad(range) => {
                assert_eq!(range.offset, at);
                assert!(range.bytes > 0, "a range of nothing");
                at += range.bytes;
            }
            _ => {}
        }
        true
    });
    assert_eq!(at, bytes.len() as u64);
    assert_eq!(summary.unwrap().mark.records, records);

    let identity = Identity::of(&file).unwrap();
    let segment = Segment { name: SegmentName(1), identity, file: Arc::new(file) };
    walk(&segment, checksums, budget, bytes.len() as u64);
}

/// The cursor comes to an end, and on its way only forward.
fn walk(segment: &Segment, checksums: Checksums, budget: u64, end: u64) {
    let segment = Segment { file: Arc::clone(&segment.file), ..*segment };
    let mut cursor = Cursor::new(Arc::new(segment), 0, Mark::START, checksums);
    // Each call passes a record, skips a byte at least, or searches a piece.
    let mut left = end / 16 + 64;
    loop {
        assert!(left > 0, "no progress at {} of {end}", cursor.offset());
        left -= 1;
        let mut last = cursor.mark().lsn;
        let from = cursor.offset();
        let advance = cursor.advance(budget, &mut |mark| {
            assert!(mark.lsn > last, "boundaries ascend");
            last = mark.lsn;
        });
        assert_eq!(cursor.mark().lsn, last);
        assert_eq!(cursor.offset(), from + advance.bytes);
        assert!(cursor.offset() <= end, "beyond the end");
        match advance.stop {
            Stop::Budget => {}
            Stop::Corrupt { resync: None, more: true, .. } => {}
            Stop::Corrupt { offset, resync: Some(next), .. } => {
                assert_eq!(offset, cursor.offset());
                assert!(next > offset && next < end, "a record at {next} of {end}");
                cursor.skip_to(next);
            }
            Stop::Failed { error, .. } => panic!("{error}"),
            Stop::Shrunk { len } => panic!("shrunk to {len} of {end}"),
            _ => return,
        }
    }
}
