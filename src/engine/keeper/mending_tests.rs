//! What the disk has of changes that seemed to have failed.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::engine::keeper::matched::tests::{Rig, alive, open, space};
use crate::engine::keeper::{Job, remember};
use crate::ids::SegmentName;
use crate::lsn::{Lsn, Mark};
use crate::state::runs::Run;

/// Three empty runs were in the catalog although its commit had failed; with a change
/// that had come behind them they were written again, as runs of their own.
#[test]
fn what_is_there_of_a_commit_that_failed_is_not_written_a_second_time() {
    for is_there in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(root.path(), &alive());
        rig.loan(open(&[(1, 0)])).unwrap();
        let keeper = &mut rig.keeper;
        let runs = [1, 2, 3].map(|file| {
            let segment = SegmentName(file);
            let run = Run { start: Lsn::ZERO, segment, file, offset: 0, bytes: None };
            (space(), Change::OpenRun(run))
        });
        for (_, change) in &runs {
            remember(&mut keeper.spaces.get_mut(&space()).unwrap().record, change);
        }
        if is_there {
            keeper.catalog.commit(&runs).unwrap();
        }
        let failure = Failure { why: "the last sync failed".to_owned(), waits: true };
        keeper.withdraw(runs.to_vec(), Vec::new(), &failure);
        let change = Change::AddMark(Mark { lsn: Lsn(72), ..Mark::START });
        keeper.handle(Job::Commit { shard: 0, ticket: None, space: space(), change });
        keeper.publish();
        keeper.mend();
        assert!(!keeper.catalog_waits(), "{is_there}");
        let record = &keeper.spaces[&space()].record;
        assert_eq!(record.runs.len(), 3, "{is_there}");
        assert_eq!(keeper.catalog.load().unwrap()[&space()], *record, "{is_there}");
    }
}
