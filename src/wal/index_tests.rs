//! Facts about remembered boundaries.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::MAX_EXTENT_BYTES;
use crate::lsn::Chain;

fn mark(lsn: u64, records: u64) -> Mark {
    Mark { lsn: Lsn(lsn), chain: Chain(lsn), records, sequence: records, timestamp_ns: 0 }
}

/// `count` records of `bytes` each, from the start on.
fn index_of(count: u64, bytes: u64) -> Index {
    let mut index = Index::new(Mark::START);
    for n in 1..=count {
        index.push(mark(n * bytes, n));
    }
    index
}

/// Cut from the start to the head; returns the sizes of the extents.
fn sizes(index: &Index, mut from: Mark, max_bytes: u32) -> Vec<u64> {
    let mut sizes = Vec::new();
    loop {
        match index.cut(&from, max_bytes) {
            Cut::Nothing => return sizes,
            Cut::To(to) => {
                assert!(to.lsn > from.lsn);
                sizes.push(to.lsn.0 - from.lsn.0);
                from = to;
            }
            Cut::Walk { .. } => panic!("no walk expected"),
        }
    }
}

#[test]
fn extents_are_nearly_full_and_never_over() {
    let index = index_of(100_000, 320);
    let sizes = sizes(&index, Mark::START, MAX_EXTENT_BYTES);
    let most = u64::from(MAX_EXTENT_BYTES);
    let nearly = most - MARK_SPACING_BYTES..=most;
    assert!(sizes[..sizes.len() - 1].iter().all(|bytes| nearly.contains(bytes)));
    assert_eq!(sizes.iter().sum::<u64>(), 32_000_000);
    assert!(index.len() < 32_000_000 / 250_000);
}

#[test]
fn a_position_that_is_not_remembered_is_cut_from() {
    let index = index_of(100_000, 320);
    let from = mark(320 * 777, 777);
    let total: u64 = sizes(&index, from, MAX_EXTENT_BYTES).iter().sum();
    assert_eq!(total, 320 * (100_000 - 777));
}

#[test]
fn a_single_record_over_the_limit_is_an_extent() {
    let mut index = Index::new(Mark::START);
    index.push(mark(100, 1));
    index.push(mark(5_000_100, 2));
    index.push(mark(5_000_200, 3));
    assert_eq!(sizes(&index, Mark::START, MAX_EXTENT_BYTES), [100, 5_000_000, 100]);
}

#[test]
fn no_extent_reaches_across_the_end_of_a_run() {
    let mut index = Index::new(Mark::START);
    index.push(mark(100, 1));
    index.push(mark(200, 2));
    index.push_boundary();
    index.push_boundary();
    index.push(mark(300, 3));
    assert_eq!(sizes(&index, Mark::START, MAX_EXTENT_BYTES), [200, 100]);
}

#[test]
fn a_smaller_limit_than_the_spacing_asks_for_a_walk() {
    let mut index = index_of(10_000, 320);
    let Cut::Walk { from, to } = index.cut(&Mark::START, 64_000) else {
        panic!("boundaries within the reach are not remembered");
    };
    assert_eq!(from, Mark::START);
    assert!(to.lsn.0 > 64_000);
    index.insert(mark(320 * 150, 150));
    assert_eq!(index.cut(&Mark::START, 64_000), Cut::To(mark(48_000, 150)));
}

#[test]
fn memory_is_bounded_and_what_was_dropped_can_be_walked_again() {
    // One record fills an extent, two do not fit into one.
    let record = u64::from(MAX_EXTENT_BYTES) - 1000;
    let count = 5 * MAX_MARKS_PER_SPACE as u64;
    let mut index = index_of(count, record);
    assert!(index.len() <= MAX_MARKS_PER_SPACE);
    // The recent past is dense.
    let recent = mark((count - 100) * record, count - 100);
    assert_eq!(sizes(&index, recent, MAX_EXTENT_BYTES).len(), 100);
    // The far past asks for walks, and they help.
    let mut from = Mark::START;
    let mut walks = 0;
    while from.lsn.0 < 100 * record {
        match index.cut(&from, MAX_EXTENT_BYTES) {
            Cut::To(to) => from = to,
            Cut::Walk { from, to } => {
                walks += 1;
                for n in from.records + 1..to.records {
                    index.insert(mark(n * record, n));
                }
            }
            Cut::Nothing => panic!("not at the head"),
        }
    }
    assert!(walks > 0);
    assert!(index.len() <= MAX_MARKS_PER_SPACE);
}

#[test]
fn ends_of_runs_alone_do_not_break_the_bound() {
    let mut index = Index::new(Mark::START);
    for n in 1..=3 * MAX_MARKS_PER_SPACE as u64 {
        index.push(mark(n * 64, n));
        index.push_boundary();
    }
    assert!(index.len() <= MAX_MARKS_PER_SPACE);
    assert!(index.nearest_at_or_before(Lsn(64)).is_none());
}

#[test]
fn nearest_is_at_or_before() {
    let index = index_of(100_000, 320);
    for lsn in [0, 319, 320, 1 << 20, 31_999_999] {
        let near = index.nearest_at_or_before(Lsn(lsn)).unwrap();
        assert!(near.lsn.0 <= lsn && lsn - near.lsn.0 <= 2 * MARK_SPACING_BYTES);
    }
    assert_eq!(index.nearest_at_or_before(Lsn(u64::MAX)), Some(index.head()));
}

#[test]
fn forgetting_keeps_the_position_findable() {
    let mut index = index_of(100_000, 320);
    index.forget_before(Lsn(20_000_000));
    assert!(index.nearest_at_or_before(Lsn(20_000_000)).is_some());
    assert!(index.nearest_at_or_before(Lsn(1_000_000)).is_none());
    let from = index.oldest();
    assert_eq!(sizes(&index, from, MAX_EXTENT_BYTES).iter().sum::<u64>(), 32_000_000 - from.lsn.0);
}
