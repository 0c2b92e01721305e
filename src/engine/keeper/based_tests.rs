//! Truncations of copies that begin at a base.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::retired::tests::{Received, at_seconds, pieces, receive, receive_from};
use super::tests::{Rig, alive, cut, log, open, space};
use super::*;
use crate::engine::keeper::{Job, News};
use crate::engine::mortal::Mortal;
use crate::engine::quarantine;
use crate::ids::SegmentName;
use crate::lsn::Chain;
use crate::protocol::message::Reseed;
use crate::state::host::Host;
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

/// Where the seed of the next test begins.
const BASE: u64 = 50_000;

/// A replica whose old copy of four segments stands aside, of which the primary
/// vouched to have all but what has no name.
fn being_filled(rig: &mut Rig) -> Received {
    rig.loan(open(&[(1, 0)])).unwrap();
    let full = at_seconds(0, [6.0, 10.2, 10.4]);
    let (next, third) = (at_seconds(3, [10.6, 11.0]), at_seconds(5, [12.0]));
    let fourth = at_seconds(6, [20.0]);
    let received = receive(rig, &[(5, &full), (10, &next), (12, &third), (20, &fourth)]);
    let base = Mark { lsn: Lsn(BASE), chain: Chain(3), records: 90, ..Mark::START };
    let reseed = Reseed { base, head: Lsn(2 * BASE), first_run: 9, vouched: true };
    let Job::OpenReplica { shard, ticket, open: told } = open(&[(1, 0)]) else { panic!() };
    let loan = rig.loan(Job::Reseed { shard, ticket, open: told, reseed }).unwrap();
    let state = Ok(Box::new((loan.record, base)));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    received
}

/// While a replica was being filled anew its primary was set back to within the
/// old copy. That was removed with the next start, as the primary had vouched for
/// it: all that had been acknowledged behind the cut was gone.
#[test]
fn an_old_copy_is_kept_whole_when_its_primary_is_set_back_killed_at_any_step() {
    let mut steps = 0;
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        let received = being_filled(&mut rig);
        let history = [(1, 0), (2, received.marks[2].lsn.0)];
        host.0.store(budget, Ordering::SeqCst);
        let loan = rig.loan(open(&history));
        if loan.is_ok() {
            let loan = rig.loan(cut(&history, &Mark::START));
            assert!(loan.is_err() || loan.unwrap().mark == Mark::START);
        }
        let done = host.0.swap(0, Ordering::SeqCst) > 0;
        let old_copies = rig.keeper.places.old_copies(&space());
        assert!(!done || !old_copies.exists(), "nothing of it waits for the next start");
        drop(rig);

        let at = format!("killed at step {budget}");
        let mut rig = Rig::open(root.path(), &alive());
        let loan = rig.loan(open(&history)).unwrap();
        if loan.mark != Mark::START {
            rig.loan(cut(&history, &Mark::START)).unwrap();
        }
        drop(rig);
        let rig = Rig::open(root.path(), &alive());
        assert!(!old_copies.exists(), "{at}");
        assert_eq!(rig.keeper.spaces[&space()].record.seed, None, "{at}");
        let mut kept = BTreeMap::new();
        for piece in pieces(root.path()) {
            let Some(manifest) = piece.manifest else { continue };
            let bytes = fs::read(&piece.path).unwrap();
            assert_eq!(manifest.bytes, bytes.len() as u64, "{at}");
            let [extent] = manifest.extents[..] else { panic!("{at}: {manifest:?}") };
            assert_eq!((extent.offset, extent.bytes), (0, manifest.bytes), "{at}");
            assert!(kept.insert(extent.lsn, bytes).is_none(), "{at}: each of them once");
        }
        let content: Vec<u8> = kept.into_values().flatten().collect();
        assert!(content == received.stream, "{at}: all that was acknowledged");
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 30, "only {steps} steps");
}

/// A segment that was written on without its name begins within its file on a
/// replica that was filled anew. A torn record there was saved with all of the
/// hole before it: gigabytes of it were read at a start, while every space waited.
#[test]
fn what_is_cut_behind_a_hole_is_saved_without_the_hole() {
    const HOLE: u64 = 16 << 20;
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let base = Mark { lsn: Lsn(1000), records: 9, ..Mark::START };
    let reseed = Reseed { base, head: Lsn(9000), first_run: 4, vouched: true };
    let Job::OpenReplica { shard, ticket, open: told } = open(&[(1, 0)]) else { panic!() };
    rig.loan(Job::Reseed { shard, ticket, open: told, reseed }).unwrap();
    let early = at_seconds(0, [7.0, 7.1]);
    let received = receive_from(&mut rig, base.lsn, 4, &[(7, &early)]);
    let start = received.end();
    let run = Run { start: start.lsn, segment: SegmentName(5), file: 5, offset: HOLE, bytes: None };
    let write = |rig: &mut Rig, known, bytes: &[u8]| {
        let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 5, run, known };
        let news = rig.batch(vec![job]);
        let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
        files.buffered.write_all_at(bytes, HOLE).unwrap();
    };
    write(&mut rig, false, &[7; 100]);
    drop(rig);

    let mut rig = Rig::open(root.path(), &alive());
    let [piece] = &pieces(root.path())[..] else { panic!("the torn record alone") };
    assert_eq!((piece.bytes, piece.manifest.as_ref().unwrap().offset), (100, HOLE));
    assert_eq!(fs::read(&piece.path).unwrap(), [7; 100]);
    assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark.lsn, start.lsn);
    // And it is received there again.
    let header = Header::new(9, 8_000_000_000, 1, &[1; 100]).unwrap();
    write(&mut rig, true, &[&header.encode()[..], &[1; 100]].concat());
    drop(rig);
    let mut rig = Rig::open(root.path(), &alive());
    let mark = rig.loan(open(&[(1, 0)])).unwrap().mark;
    assert_eq!(mark.lsn, start.lsn.advance(header.record_bytes()));
}
