//! What is taken for records that no named file ever had.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use super::super::matched::tests::{Rig, alive, open, space};
use super::super::retired::tests::{at_seconds, receive};
use super::*;
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
