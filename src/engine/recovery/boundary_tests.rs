//! Where a search begins.

use super::*;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::state::catalog::Role;
use crate::state::runs::looked_at;

/// For each beginning that is known all runs were looked through.
#[test]
fn the_nearest_boundary_of_a_long_stream_is_known_at_once() {
    const RUNS: u64 = 10_000;
    let mut record = SpaceRecord::new(Role::Replica, StreamId(5), vec![(Epoch::FIRST, Lsn::ZERO)]);
    let mark = |lsn: u64| Mark { lsn: Lsn(lsn), records: lsn, ..Mark::START };
    // Two files in turn; of the others nothing lies there any more.
    for number in 0..RUNS {
        let (start, file, offset) = (Lsn(64 * number), number % 2, 64 * (number / 2));
        let run = Run { start, segment: SegmentName(file), file, offset, bytes: None };
        record.runs.open(run);
        record.begins.insert(number, mark(start.0));
    }
    for (at, known) in [(6400, 64), (63, 0)] {
        let (found, runs) = looked_at(|| nearest(&record, Lsn(at)));
        assert_eq!(found, Some(mark(known)));
        assert!(runs <= RUNS, "{runs} runs were looked at, of {RUNS}");
    }
}
