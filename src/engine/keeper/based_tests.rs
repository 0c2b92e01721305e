//! Truncations of copies that begin at a base.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;

use super::tests::{Rig, alive, cut, log, open, space};
use super::*;
use crate::engine::keeper::{Job, News};
use crate::engine::quarantine;
use crate::ids::SegmentName;
use crate::protocol::message::Reseed;
use crate::state::runs::Run;
use crate::wal::record::{self, Header};

/// A host crash had set the primary back to before the base of a replica that it
/// had filled anew. The catalog refused the cut, and after a restart the space
/// was refused for good: verified up to 0, with runs that began at the base.
#[test]
fn a_copy_that_begins_behind_the_cut_begins_again_from_nothing() {
    // At the base itself its primary numbers its runs anew: the copy was refused
    // for good, having recorded more of them than there were.
    for at in [0, 700, 1000] {
        let root = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(root.path(), &alive());
        rig.loan(open(&[(1, 0)])).unwrap();
        let base = Mark { lsn: Lsn(1000), records: 9, ..Mark::START };
        let reseed = Reseed { base, head: Lsn(1000), first_run: 4, vouched: true };
        let job = open(&[(1, 0)]);
        let Job::OpenReplica { open: told, .. } = job else { panic!() };
        let job = Job::Reseed { shard: 0, ticket: 1, open: told, reseed };
        assert_eq!(rig.loan(job).unwrap().mark, base);
        let run = Run { start: base.lsn, segment: SegmentName(7), file: 7, offset: 0, bytes: None };
        let job =
            Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 4, run, known: false };
        let news = rig.batch(vec![job]);
        let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
        let header = Header::new(9, 1000, 1, &[1; 100]).unwrap();
        let bytes = [&header.encode()[..], &[1; 100]].concat();
        files.buffered.write_all_at(&bytes, 0).unwrap();
        let mark = record::step(&base, &header.encode(), &header);
        let mut record = rig.keeper.spaces[&space()].record.clone();
        record.checkpoint = mark;
        let state = Ok(Box::new((record, mark)));
        rig.batch(vec![Job::CloseReplica { space: space(), state }]);

        // What is compared is nothing, wherever up to the base the epoch began.
        let history = [(1, 0), (2, at)];
        let loan = rig.loan(open(&history)).unwrap();
        assert_eq!((loan.mark, loan.common), (mark, Lsn::ZERO));
        let loan = rig.loan(cut(&history, &Mark::START)).unwrap();
        assert_eq!((loan.mark, loan.common, loan.record.runs.len()), (Mark::START, Lsn::ZERO, 0));
        assert!(log(root.path()).is_empty());
        let kept = quarantine::list(&rig.keeper.places.quarantine()).unwrap();
        let extents: Vec<_> = kept
            .iter()
            .flat_map(|piece| &piece.manifest.as_ref().unwrap().extents)
            .map(|extent| (extent.lsn, extent.bytes))
            .collect();
        assert_eq!(extents, [(base.lsn.0, bytes.len() as u64)]);
        let state = Ok(Box::new((loan.record, loan.mark)));
        rig.batch(vec![Job::CloseReplica { space: space(), state }]);
        drop(rig);
        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.loan(open(&history)).unwrap().mark, Mark::START, "a start finds it so");
    }
}
