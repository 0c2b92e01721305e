//! Facts about the search behind damage.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use proptest::prelude::*;

use super::*;

fn record(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(1, 2, 3, payload).unwrap().encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn find(bytes: &[u8]) -> Found {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let end = bytes.len() as u64;
    find_record(&file, 0, end, end, Checksums::Required).unwrap()
}

#[test]
fn a_record_behind_debris_is_found() {
    for debris in [0, 1, 63, 64, 65, CHUNK_BYTES - 70, CHUNK_BYTES - 2, CHUNK_BYTES + 5] {
        let bytes = [vec![0xEF; debris], record(b"good")].concat();
        assert_eq!(find(&bytes), Found::Record(debris as u64), "{debris} bytes of debris");
    }
}

#[test]
fn a_bare_magic_or_a_damaged_record_is_passed_over() {
    let mut damaged = record(b"damaged");
    damaged[66] ^= 1;
    let mut bytes = [&MAGIC_BYTES[..], &[0; 100], &damaged].concat();
    let good = bytes.len() as u64;
    bytes.extend(record(b"good"));
    assert_eq!(find(&bytes), Found::Record(good));
}

#[test]
fn a_header_cut_off_by_the_end_is_looked_at_again_later() {
    let whole = record(b"good");
    let bytes = [&[1; 1000], &whole[..40]].concat();
    assert_eq!(find(&bytes), Found::NoneBefore(1000));
    let bytes = [&[1; 1000], &whole[..2]].concat();
    assert_eq!(find(&bytes), Found::NoneBefore(1000 - 1));
}

#[test]
fn a_record_behind_the_end_is_not_found() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[vec![1; 1000], record(b"another's")].concat()).unwrap();
    for (end, found) in [(1001, Found::Record(1000)), (1000, Found::NoneBefore(1000))] {
        assert_eq!(find_record(&file, 0, end, end, Checksums::Required).unwrap(), found);
    }
}

#[test]
fn the_work_of_one_search_is_bounded() {
    let bytes = [vec![1; 300_000], record(b"good")].concat();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let end = bytes.len() as u64;
    let mut from = 0;
    let mut calls = 0;
    loop {
        calls += 1;
        match find_record(&file, from, 70_000, end, Checksums::Required).unwrap() {
            Found::Record(at) => break assert_eq!(at, 300_000),
            Found::NoneBefore(at) => {
                assert!(at > from);
                from = at;
            }
        }
    }
    assert!(calls > 2);
}

#[test]
fn headers_that_announce_a_lot_do_not_multiply_the_work() {
    let mut liar = Header::new(1, 2, 3, b"").unwrap();
    (liar.payload_bytes, liar.payload_crc) = (9 << 20, 1);
    let mut bytes: Vec<u8> = (0..10).flat_map(|_| liar.encode()).collect();
    bytes.resize(10 << 20, 0);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let end = bytes.len() as u64;
    // One candidate is checked, the second would be beyond the budget.
    let found = find_record(&file, 0, 1 << 20, end, Checksums::Required).unwrap();
    assert_eq!(found, Found::NoneBefore(64));
    let found = find_record(&file, 64, 1 << 20, end, Checksums::Required).unwrap();
    assert_eq!(found, Found::NoneBefore(128));
}

#[test]
fn the_first_byte_that_is_not_zero_is_found() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0; 200_000]).unwrap();
    assert_eq!(first_nonzero(&file, 0, 200_000).unwrap(), None);
    file.write_at(&[1], 150_000).unwrap();
    assert_eq!(first_nonzero(&file, 0, 200_000).unwrap(), Some(150_000));
    assert_eq!(first_nonzero(&file, 0, 150_000).unwrap(), None);
}

proptest! {
    #[test]
    fn the_first_good_record_is_found_whatever_lies_before(
        debris in proptest::collection::vec(
            prop_oneof![
                3 => any::<u8>().prop_map(|byte| vec![byte]),
                1 => Just(MAGIC_BYTES.to_vec()),
                1 => Just(record(b"to be cut")[..70].to_vec()),
            ],
            0..60,
        ),
        payload in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        // 70 bytes of a record of 73: each such piece is damaged by whatever
        // follows, except with a probability of 2^-24.
        let debris = debris.concat();
        let bytes = [debris.clone(), record(&payload)].concat();
        prop_assert_eq!(find(&bytes), Found::Record(debris.len() as u64));
    }
}
