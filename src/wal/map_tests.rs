//! Facts about maps of files that do not hold still.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use super::*;

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_file_that_shrinks_under_a_map_reads_as_zeroes() {
    let file = file_of(&[7; 64 << 10]);
    let map = Map::new(&file, 0, 64 << 10).unwrap();
    assert_eq!(map.header_at(40_000), Some([7; 64]));
    assert!(!map.is_damaged());
    file.set_len(4096).unwrap();
    assert_eq!(map.header_at(40_000), Some([0; 64]));
    assert!(map.is_damaged());
    assert_eq!(map.header_at(0), Some([7; 64]));
}

#[test]
fn only_the_window_that_was_hit_is_damaged() {
    let (one, two) = (file_of(&[1; 8192]), file_of(&[2; 8192]));
    let (map_one, map_two) = (Map::new(&one, 0, 8192).unwrap(), Map::new(&two, 0, 8192).unwrap());
    one.set_len(0).unwrap();
    assert_eq!(map_one.header_at(0), Some([0; 64]));
    assert_eq!(map_two.header_at(0), Some([2; 64]));
    assert!(map_one.is_damaged() && !map_two.is_damaged());
}

#[test]
fn a_map_sees_the_file_grow_into_it() {
    let mut file = file_of(&[1; 100]);
    let map = Map::new(&file, 0, 1 << 20).unwrap();
    assert_eq!(map.header_at(0), Some([1; 64]));
    file.write_all(&[2; 100_000]).unwrap();
    assert_eq!(map.header_at(90_000), Some([2; 64]));
    assert!(!map.is_damaged());
}

#[test]
fn a_map_starts_at_any_offset() {
    let bytes: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let file = file_of(&bytes);
    let map = Map::new(&file, 5001, 9000).unwrap();
    assert_eq!(map.as_ref(), &bytes[5001..14_001]);
    assert_eq!(map.header_at(5000), None);
    assert_eq!(map.header_at(13_938), None);
    assert_eq!(map.header_at(13_937).unwrap(), bytes[13_937..14_001]);
    let window = Arc::new(map).window(6000, 100).unwrap();
    assert_eq!(window.as_ref(), &bytes[6000..6100]);
}

#[test]
fn without_a_place_in_the_table_bytes_are_copied() {
    let file = file_of(&[9; 1000]);
    let map = Map::copied(&file, 10, 1 << 30).unwrap();
    assert_eq!(map.len(), 990);
    assert_eq!(map.header_at(926), Some([9; 64]));
    assert_eq!(map.header_at(937), None);
    assert!(!map.is_damaged());
}

#[test]
fn places_are_given_back() {
    let file = file_of(&[9; 1000]);
    for _ in 0..3 * MAX_MAPPED_WINDOWS {
        let map = Map::new(&file, 0, 1000).unwrap();
        assert!(matches!(map.bytes, Bytes::Mapped { .. }));
    }
}

#[test]
fn many_threads_survive_files_that_shrink() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let file = file_of(&[3; 16 << 10]);
                    let map = Map::new(&file, 0, 16 << 10).unwrap();
                    file.set_len(100).unwrap();
                    assert_eq!(map.header_at(8192), Some([0; 64]));
                    assert!(map.is_damaged());
                }
            });
        }
    });
}
