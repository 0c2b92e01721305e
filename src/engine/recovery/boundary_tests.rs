//! Where a search begins.

use std::time::{Duration, Instant};

use super::*;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::state::catalog::Role;

/// For each beginning that is known all runs were looked through.
#[test]
fn the_nearest_boundary_of_a_long_stream_is_known_at_once() {
    let mut record = SpaceRecord::new(Role::Replica, StreamId(5), vec![(Epoch::FIRST, Lsn::ZERO)]);
    let mark = |lsn: u64| Mark { lsn: Lsn(lsn), records: lsn, ..Mark::START };
    // Two files in turn; of the others nothing lies there any more.
    for number in 0..100_000 {
        let (start, file, offset) = (Lsn(64 * number), number % 2, 64 * (number / 2));
        let run = Run { start, segment: SegmentName(file), file, offset, bytes: None };
        record.runs.open(run);
        record.begins.insert(number, mark(start.0));
    }
    let started = Instant::now();
    assert_eq!(nearest(&record, Lsn(6400)), Some(mark(64)));
    assert_eq!(nearest(&record, Lsn(63)), Some(mark(0)));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
