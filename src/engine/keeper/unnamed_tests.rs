//! What is taken for records that no named file ever had.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use super::super::matched::tests::{Rig, alive, open, space};
use super::super::retired::tests::{at_seconds, pieces, receive, receive_named, retire};
use super::*;
use crate::protocol::message::Retirement;
use crate::state::catalog::Retired;

/// For each segment all others were opened, and for each of these all runs were
/// gone through.
#[test]
fn however_many_segments_a_log_has_a_few_tell_what_replaced_one() {
    const SEGMENTS: u64 = 1000;
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, &[(1000, &at_seconds(0, [1.0, 2.0]))]);
    let mut record = rig.keeper.spaces[&space()].record.clone();
    let wal = rig.keeper.places.wal(&space());
    let bytes = received.end().lsn.0;
    for number in 1..SEGMENTS {
        let (file, start) = (1000 + number, Lsn(number * bytes));
        let segment = SegmentName(file);
        record.runs.open(Run { start, segment, file, offset: 0, bytes: None });
        let first = wal.join(SegmentName(1000).to_string());
        std::fs::hard_link(first, wal.join(segment.to_string())).unwrap();
    }
    let keeper = &rig.keeper;
    let begun = Instant::now();
    for retired in [false, true] {
        for file in 1000..1000 + SEGMENTS {
            let id = space();
            let found = Held::new(&keeper.places, &id, &record, keeper.checksums).unnamed_in(file);
            let found = found.unwrap().unwrap();
            let is_last = file + 1 == 1000 + SEGMENTS;
            match found {
                Unnamed::Untold(0) => assert!(is_last),
                Unnamed::Since { timestamp_ns, by_end: false, .. } => {
                    assert_eq!(timestamp_ns, (file + 1) * 1_000_000_000);
                }
                other => panic!("{file}: {other:?}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "only up to {file}");
        }
        if !retired {
            let all = (1000..1000 + SEGMENTS).map(|file| (file, Retired::Aside));
            record.retired = all.collect();
            let aside = recovery::retired_path(&keeper.places.state_dir, &space(), 0);
            std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
            for file in record.retired.keys() {
                let to = recovery::retired_path(&keeper.places.state_dir, &space(), *file);
                std::fs::rename(wal.join(SegmentName(*file).to_string()), to).unwrap();
            }
        }
    }
}

/// A segment is named in a distant future, and then the clock is set right: which of
/// the later ones are kept when a snapshot has replaced them all. `number` is the
/// first one's, `first_goes` that it has lost its name with them.
#[track_caller]
fn kept_behind_a_younger_name(name: u64, number: u64, first_goes: bool, expected: &[u64]) {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let early = at_seconds(0, [1.0]);
    let (one, two) = (at_seconds(1, [100.0, 101.0]), at_seconds(3, [110.0, 111.0]));
    let three = at_seconds(5, [120.0, 121.0]);
    let snapshot = at_seconds(0, [1.0, 100.0]);
    let runs: [(u64, u64, &[_]); 5] = [
        (number, name, &early),
        (2, 100, &one),
        (3, 110, &two),
        (4, 120, &three),
        (5, 200, &snapshot),
    ];
    let received = receive_named(&mut rig, Lsn::ZERO, 0, &runs);
    let files = if first_goes { &[number, 2, 3, 4][..] } else { &[2, 3, 4] };
    for what in [Retirement::Aside, Retirement::Gone] {
        let all = files.iter().map(|file| retire(*file, what, received.end()));
        rig.batch(all.collect());
    }
    assert!(files.iter().all(|file| { rig.keeper.spaces[&space()].record.is_gone(*file) }));
    let mut kept: Vec<_> =
        pieces(root.path()).iter().map(|piece| piece.manifest.as_ref().unwrap().file).collect();
    kept.sort_unstable();
    assert_eq!(kept, expected);
}

/// From then on, each segment that went was kept whole.
#[test]
fn a_name_in_the_future_that_is_gone_makes_nothing_of_what_came_later_be_kept() {
    kept_behind_a_younger_name(4_000_000_000, 1, true, &[]);
}

#[test]
fn what_may_have_lost_its_name_to_a_younger_one_is_kept() {
    // That one still has its own.
    kept_behind_a_younger_name(4_000_000_000, 1, false, &[2, 3, 4]);
    // It was found when they were there.
    kept_behind_a_younger_name(4_000_000_000, 9, true, &[2, 3, 4]);
    // Some of what they hold is not older than it.
    kept_behind_a_younger_name(112, 1, true, &[3]);
}
