//! Facts about the parser.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::lsn::{Chain, Lsn};

/// A whole record, encoded.
fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(sequence, 1_000 + sequence, 1, payload).unwrap().encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn head(bytes: &[u8]) -> [u8; 64] {
    *bytes.first_chunk().unwrap()
}

#[test]
fn each_damaged_bit_of_a_header_is_noticed() {
    let good = head(&record(7, b"payload"));
    for bit in 0..512 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::parse(&bad, Checksums::Required).is_err(), "bit {bit}");
    }
}

#[test]
fn trailing_eight_bytes_must_be_zero() {
    let mut bytes = head(&record(7, b"payload"));
    bytes[60] = 1;
    assert_eq!(
        Header::parse(&bytes, Checksums::Required),
        Err(RecordError::NotZero { offset: 56, found: 1 << 32 })
    );
}

#[test]
fn reserved_bytes_under_the_crc_are_carried() {
    let mut bytes = head(&record(7, b"payload"));
    bytes[40] = 9;
    let crc = header_crc(&bytes);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Header::parse(&bytes, Checksums::Required).unwrap().sequence, 7);
}

#[test]
fn announced_size_is_bounded_even_under_a_good_crc() {
    let mut header = Header::new(0, 0, 1, b"").unwrap();
    header.payload_bytes = MAX_RECORD_PAYLOAD_BYTES + 1;
    assert_eq!(
        Header::parse(&header.encode(), Checksums::Required),
        Err(RecordError::PayloadSize { found: u64::from(MAX_RECORD_PAYLOAD_BYTES) + 1 })
    );
}

#[test]
fn unknown_entry_types_are_carried() {
    let header = Header::new(0, 0, 4_000_000, b"x").unwrap();
    assert_eq!(Header::parse(&header.encode(), Checksums::Required), Ok(header));
    assert_eq!(entry_type_name(4_000_000), None);
}

#[test]
fn t12_records_without_checksums_are_refused_unless_allowed() {
    let mut header = Header::new(3, 4, 1, b"payload").unwrap();
    header.checksummed = false;
    header.payload_crc = 0;
    let mut bytes = header.encode();
    assert_eq!(bytes[28..36], [0; 8]);
    assert_eq!(Header::parse(&bytes, Checksums::Required), Err(RecordError::NoChecksums));
    assert_eq!(Header::parse(&bytes, Checksums::Optional), Ok(header));
    // Nothing vouches for the content, the size still counts.
    assert!(header.check_payload(b"anythin").is_ok());
    assert!(header.check_payload(b"short").is_err());
    // Optional is no licence for a wrong CRC.
    bytes[32] = 1;
    assert!(matches!(
        Header::parse(&bytes, Checksums::Optional),
        Err(RecordError::HeaderCrc { .. })
    ));
    bytes[32] = 0;
    bytes[50] = 1;
    assert!(matches!(
        Header::parse(&bytes, Checksums::Optional),
        Err(RecordError::NotZero { offset: 44, .. })
    ));
}

#[test]
fn verify_counts_every_record_and_extends_the_chain() {
    let (one, two) = (record(5, b"first"), record(5, b""));
    let bytes = [one.clone(), two.clone()].concat();
    let from = Mark { lsn: Lsn(100), ..Mark::START };
    let mark = verify(&from, &bytes, Checksums::Required).unwrap();
    assert_eq!(mark.lsn, Lsn(100 + bytes.len() as u64));
    assert_eq!((mark.records, mark.sequence, mark.timestamp_ns), (2, 5, 1_005));
    assert_eq!(mark.chain, Chain::START.extend(&head(&one)).extend(&head(&two)));
}

#[test]
fn verify_names_the_first_damaged_record() {
    let mut bytes = [record(1, b"first"), record(2, b"second"), record(3, b"third")].concat();
    let second = 64 + 5;
    bytes[second + 64] ^= 1;
    let (at, error) = verify(&Mark::START, &bytes, Checksums::Required).unwrap_err();
    assert_eq!(at, second as u64);
    assert!(matches!(error, RecordError::PayloadCrc { .. }));
}

#[test]
fn verify_refuses_a_record_that_does_not_end() {
    let bytes = [record(1, b"first"), record(2, b"second")].concat();
    for cut in 70..bytes.len() {
        let (at, error) = verify(&Mark::START, &bytes[..cut], Checksums::Required).unwrap_err();
        assert_eq!(at, 69, "cut at {cut}");
        assert!(matches!(error, RecordError::Truncated { .. }));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = verify(&Mark::START, &bytes, Checksums::Optional);
        if let Some(raw) = bytes.first_chunk() {
            let _ = Header::parse(raw, Checksums::Optional);
        }
    }

    #[test]
    fn random_fields_behind_the_magic_never_panic(mut raw in any::<[u8; 32]>(), zero: bool) {
        raw[..4].copy_from_slice(&MAGIC_BYTES);
        if zero {
            raw[28..].fill(0);
        }
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&raw);
        let _ = Header::parse(&bytes, Checksums::Optional);
    }

    #[test]
    fn encode_and_parse_agree(
        sequence: u64,
        timestamp_ns: u64,
        entry_type: u32,
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let header = Header::new(sequence, timestamp_ns, entry_type, &payload).unwrap();
        prop_assert_eq!(Header::parse(&header.encode(), Checksums::Required), Ok(header));
        prop_assert!(header.check_payload(&payload).is_ok());
    }
}
