//! The format is frozen: real bytes must be read, and written again, as they
//! are. The fixture is a whole segment as Engram wrote it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use saltus::lsn::{Chain, Lsn, Mark};
use saltus::wal::cursor::{Cursor, Stop};
use saltus::wal::record::{Checksums, Header, verify};
use saltus::wal::scan::scan;
use saltus::wal::segment::Segment;

/// A header that Engram wrote, of a record with a payload of 3238 bytes.
const GOLDEN: [u8; 64] = [
    0xef, 0xbe, 0xad, 0xde, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x35, 0x28, 0xa9, 0x1a,
    0x02, 0xf6, 0xe9, 0x18, 0x01, 0x00, 0x00, 0x00, 0xa6, 0x0c, 0x00, 0x00, 0x1e, 0x7a, 0x87, 0x4e,
    0xba, 0x75, 0xe0, 0xe4, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/engram/alpha/wal/wal-000000006b01223f.log")
}

#[test]
fn golden_header_is_read_and_written_byte_for_byte() {
    let header = Header::parse(&GOLDEN, Checksums::Required).unwrap();
    assert_eq!(
        header,
        Header {
            sequence: 0,
            timestamp_ns: 0x18e9_f602_1aa9_2835,
            entry_type: 1,
            payload_bytes: 3238,
            payload_crc: 0x4e87_7a1e,
            checksummed: true,
        }
    );
    assert_eq!(header.encode(), GOLDEN);
    assert_eq!(header.record_bytes(), 3302);
}

#[test]
fn crc_is_castagnoli() {
    // The check value that the polynomial is known by.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn real_segment_holds_to_the_last_byte() {
    let bytes = fs::read(fixture()).unwrap();
    assert_eq!(bytes.len(), 79_538);
    assert_eq!(bytes[..64], GOLDEN);
    let mark = verify(&Mark::START, &bytes, Checksums::Required).unwrap();
    assert_eq!((mark.lsn, mark.records), (Lsn(79_538), 24));
}

#[test]
fn cursor_scan_and_verify_agree_on_the_real_segment() {
    let bytes = fs::read(fixture()).unwrap();
    let expected = verify(&Mark::START, &bytes, Checksums::Required).unwrap();
    let segment = Arc::new(Segment::open(&fixture()).unwrap());
    let summary = scan(&segment.file, Checksums::Required, &mut |_| true).unwrap();
    assert!(summary.is_whole());
    assert_eq!(summary.mark, expected);
    let mut cursor = Cursor::new(segment, 0, Mark::START, Checksums::Required);
    let mut boundaries = 0;
    let done = cursor.advance(u64::MAX, &mut |_| boundaries += 1);
    assert!(matches!(done.stop, Stop::End));
    assert_eq!((boundaries, cursor.mark()), (24, expected));
}

#[test]
fn real_records_are_written_again_byte_for_byte() {
    let bytes = fs::read(fixture()).unwrap();
    let mut again = Vec::new();
    let mut rest = &bytes[..];
    while let Some(raw) = rest.first_chunk() {
        let read = Header::parse(raw, Checksums::Required).unwrap();
        let (record, behind) = rest.split_at(usize::try_from(read.record_bytes()).unwrap());
        let payload = &record[64..];
        let header =
            Header::new(read.sequence, read.timestamp_ns, read.entry_type, payload).unwrap();
        again.extend_from_slice(&header.encode());
        again.extend_from_slice(payload);
        rest = behind;
    }
    assert_eq!(again, bytes);
}

/// The chain travels on the wire: nodes of two versions must agree on it.
#[test]
fn golden_chain_values() {
    let one = Chain::START.extend(&GOLDEN);
    let two = one.extend(&GOLDEN);
    let counting: [u8; 64] = std::array::from_fn(|n| u8::try_from(n).unwrap());
    assert_eq!(one, Chain(0x4de8_ff6f_a58b_754f));
    assert_eq!(two, Chain(0x0d0a_5287_eb23_9ad8));
    assert_eq!(Chain::START.extend(&counting), Chain(0x5db1_ac4a_5c33_1a76));
    assert_eq!(Chain::START.extend(&[0; 64]), Chain(0x3962_b2f4_1b95_2bf2));
    let bytes = fs::read(fixture()).unwrap();
    let mark = verify(&Mark::START, &bytes, Checksums::Required).unwrap();
    assert_eq!(mark.chain, Chain(0xf056_1f93_824d_4a9a));
}
