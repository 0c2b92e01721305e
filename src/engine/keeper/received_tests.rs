//! Which file bears a name, when the one that had taken it over is cut off.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::engine::keeper::Job;
use crate::engine::keeper::matched::tests::{Rig, alive, cut, open, space};
use crate::engine::keeper::mending::Failure as Unwritten;
use crate::engine::keeper::retired::tests::{
    Received, close, pieces, receive, receive_named, retire,
};
use crate::engine::mortal::Mortal;
use crate::ids::SegmentName;
use crate::lsn::Lsn;
use crate::protocol::message::Retirement;
use crate::state::host::Host;

const NAME: u64 = 7;
const FIRST: [(u64, u64); 5] = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)];
const SECOND: [(u64, u64); 1] = [(5, 7)];

/// Where the file that has the name lies, and where the other one does.
fn places(root: &Path) -> [PathBuf; 2] {
    let named = root.join("alpha/wal").join(SegmentName(NAME).to_string());
    [named, recovery::retired_path(&root.join(".saltus"), &space(), 1)]
}

/// File 1 is durable. Then comes file 3, in which nothing is whole, and behind that file
/// 2, which takes the name over.
fn taken_over(rig: &mut Rig, root: &Path) -> Received {
    let runs: [(u64, u64, &[_]); 3] = [(1, NAME, &FIRST), (3, 9, &SECOND), (2, NAME, &SECOND)];
    let received = receive_named(rig, Lsn::ZERO, 0, &runs);
    let change = Change::Checkpoint(received.marks[FIRST.len()]);
    rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
    std::fs::write(root.join("alpha/wal").join(SegmentName(9).to_string()), b"torn").unwrap();
    received
}

fn lost(flushed: Mark) -> Job {
    let failure = Failure { why: "the connection is lost".to_owned(), flushed };
    Job::CloseReplica { space: space(), state: Err(failure) }
}

fn open_run(ordinal: u32, run: Run) -> Job {
    Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false }
}

/// It has its name, and is as it was.
fn assert_given_back(rig: &Rig, root: &Path, received: &Received, at: &str) {
    let [named, aside] = places(root);
    assert!(std::fs::read(named).ok().as_deref() == Some(received.bytes(0..5)), "{at}");
    assert!(!aside.exists(), "{at}");
    assert_eq!(rig.keeper.received.damages().len(), 0, "{at}: nothing is wrong");
    let mark = match &rig.keeper.spaces[&space()].lease {
        Lease::Here(mark) => Some(*mark),
        Lease::Lent(lessee) => Some(lessee.mark),
        Lease::Broken(_) => None,
    };
    assert_eq!(mark, Some(received.marks[5]), "{at}");
}

/// The name was given back by what the catalog was yet to be told. Killed before that,
/// the file was looked for where it no longer was: what it durably held was damaged, and
/// the file was set aside as one behind the end.
#[test]
fn a_name_is_given_back_when_the_catalog_has_forgotten_who_took_it() {
    let begin = |rig: &mut Rig, root: &Path| {
        let received = taken_over(rig, root);
        let jobs = vec![lost(received.marks[5]), Job::LookAt { space: space() }];
        (received, jobs)
    };
    killed_at_every_step(begin, assert_as_left);
}

/// A batch, killed at every step, and what the next start makes of it.
fn killed_at_every_step(
    begin: impl Fn(&mut Rig, &Path) -> (Received, Vec<Job>),
    look: impl Fn(&mut Rig, &Path, &Received, &str),
) {
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        rig.loan(open(&[(1, 0)])).unwrap();
        let (received, jobs) = begin(&mut rig, root.path());
        host.0.store(budget, Ordering::SeqCst);
        rig.batch(jobs);
        let done = host.0.swap(0, Ordering::SeqCst) > 0;
        drop(rig);
        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.keeper.received.damages().len(), 0, "step {budget}: nothing is wrong");
        look(&mut rig, root.path(), &received, &format!("killed at step {budget}"));
        if done {
            assert!(budget > 10, "only {budget} steps");
            break;
        }
    }
}

/// What stands of [`taken_over`] is as it was left.
fn assert_as_left(rig: &mut Rig, root: &Path, received: &Received, at: &str) {
    assert_given_back(rig, root, received, at);
    rig.batch(vec![Job::LookAt { space: space() }]);
    let entry = &rig.keeper.spaces[&space()];
    assert_eq!((entry.trouble.clone(), entry.recoveries), (None, 1), "{at}");
}

fn assert_whole(rig: &mut Rig, received: &Received, at: &str) {
    let lease = &rig.keeper.spaces[&space()].lease;
    assert!(matches!(lease, Lease::Here(mark) if *mark == received.end()), "{at}: {lease:?}");
}

/// The catalog cannot be written: who looks at the names meanwhile moves nothing, and
/// when it can be, each file has its own.
#[test]
fn a_name_waits_for_a_catalog_that_cannot_be_written() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = taken_over(&mut rig, root.path());
    let keeper = &mut rig.keeper;
    keeper.handle(lost(received.marks[5]));
    let changes = std::mem::take(&mut keeper.changes);
    assert!(changes.iter().any(|(_, change)| matches!(change, Change::Truncate { .. })));
    let failure = Unwritten { why: "the disk is full".to_owned(), waits: true };
    keeper.withdraw(changes, Vec::new(), &failure);
    keeper.handle(Job::LookAt { space: space() });
    let Mark { lsn: start, .. } = received.marks[5];
    let segment = SegmentName(NAME);
    let run = Run { start, segment, file: 1, offset: start.0, bytes: None };
    keeper.open_run(&space(), 2, run, false).unwrap_err();
    let there = places(root.path()).map(|path| path.exists());
    assert_eq!((there, keeper.spaces[&space()].recoveries), ([false, true], 1));
    keeper.mend();
    assert!(!keeper.catalog_waits());
    assert_given_back(&rig, root.path(), &received, "mended");
}

/// Killed between their making and their entry in the catalog, two files that had one
/// name lay in each other's way: the session ended, and a person was told to move one.
#[test]
fn what_was_made_and_never_recorded_is_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let [named, aside] = places(root.path());
    for path in [&named, &aside] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    std::fs::write(&named, b"").unwrap();
    std::fs::write(&aside, b"").unwrap();
    let runs: [(u64, u64, &[_]); 2] = [(1, NAME, &FIRST), (2, NAME, &SECOND)];
    let received = receive_named(&mut rig, Lsn::ZERO, 0, &runs);
    assert!(std::fs::read(named).unwrap() == received.bytes(5..6));
    assert!(std::fs::read(aside).unwrap() == received.bytes(0..5));
}

/// The same by an epoch that begins where the cut leaves the copy, before the catalog
/// has been told of that cut.
#[test]
fn a_name_is_not_given_back_by_a_cut_that_the_catalog_is_yet_to_be_told() {
    let begin = |rig: &mut Rig, root: &Path| {
        let received = taken_over(rig, root);
        rig.keeper.spaces.get_mut(&space()).unwrap().lease = Lease::Broken("as told".to_owned());
        let epoch = open(&[(1, 0), (2, received.marks[5].lsn.0)]);
        (received, vec![epoch])
    };
    killed_at_every_step(begin, assert_as_left);
}

/// It bears the name again when the one that had it has none any more: as long as the
/// catalog does not say so, a start takes it for that one.
#[test]
fn a_name_that_is_free_again_is_given_back_when_the_catalog_knows() {
    let begin = |rig: &mut Rig, _: &Path| {
        let runs: [(u64, u64, &[_]); 2] = [(1, NAME, &FIRST), (2, NAME, &SECOND)];
        let received = receive_named(rig, Lsn::ZERO, 0, &runs);
        let end = received.end();
        (received, vec![retire(2, Retirement::Aside, end), lost(end)])
    };
    killed_at_every_step(begin, |rig, _, received, at| assert_whole(rig, received, at));
}

/// A segment that was put aside and bears its name again by the record was taken for
/// gone, and the session was ended.
#[test]
fn what_was_put_aside_is_not_gone() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let runs: [(u64, u64, &[_]); 2] = [(1, NAME, &FIRST), (2, NAME, &SECOND)];
    let received = receive_named(&mut rig, Lsn::ZERO, 0, &runs);
    rig.batch(vec![retire(2, Retirement::Aside, received.end())]);
    let Lease::Lent(lessee) = &mut rig.keeper.spaces.get_mut(&space()).unwrap().lease else {
        panic!()
    };
    lessee.mark = received.end();
    let news = rig.batch(vec![Job::LookAt { space: space() }]);
    assert!(matches!(news[..], [News::Disturbed(_)]), "{news:?}");
}

/// Its word that it was gone outlived the runs that it was said of: what came again under
/// its number was removed by the next start.
#[test]
fn what_comes_again_behind_a_cut_is_not_gone() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, &[(1, &FIRST), (2, &SECOND), (3, &SECOND)]);
    rig.batch(vec![retire(2, Retirement::Gone, received.end())]);
    // As long as a run of it is known nothing can come into it.
    let run = Run {
        start: received.end().lsn,
        segment: SegmentName(2),
        file: 2,
        offset: 164,
        bytes: None,
    };
    let news = rig.batch(vec![open_run(3, run)]);
    let [News::RunOpened { result: Err(why), .. }, ..] = &news[..] else { panic!("{news:?}") };
    assert!(why.contains("set back"), "{why}");

    let end = received.marks[5];
    rig.batch(vec![close(&rig, Mark::START, received.end())]);
    let history = [(1, 0), (2, end.lsn.0)];
    rig.loan(open(&history)).unwrap();
    rig.loan(cut(&history, &end)).unwrap();
    let run = Run { start: end.lsn, segment: SegmentName(2), file: 2, offset: 0, bytes: None };
    let news = rig.batch(vec![open_run(1, run)]);
    let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
    files.buffered.write_all_at(received.bytes(5..6), 0).unwrap();
    drop((news, rig));
    let mut rig = Rig::open(root.path(), &alive());
    assert_eq!(rig.loan(open(&history)).unwrap().mark, received.marks[6]);
    let there = root.path().join("alpha/wal").join(SegmentName(2).to_string());
    assert!(std::fs::read(there).unwrap() == received.bytes(5..6));
}

/// The checkpoint was lowered already: a run of which nothing is here any more lay behind
/// it, and the space was refused at every start.
#[test]
fn a_cut_before_what_is_gone_is_gone_on_with() {
    let history = |received: &Received| [(1, 0), (2, received.marks[5].lsn.0)];
    let begin = |rig: &mut Rig, _: &Path| {
        let received = receive(rig, &[(1, &FIRST), (2, &SECOND), (3, &SECOND)]);
        rig.batch(vec![retire(2, Retirement::Gone, received.end())]);
        rig.batch(vec![close(rig, Mark::START, received.end())]);
        rig.loan(open(&history(&received))).unwrap();
        let jobs = vec![cut(&history(&received), &received.marks[5])];
        (received, jobs)
    };
    killed_at_every_step(begin, |rig, _, received, at| {
        let loan = rig.loan(open(&history(received))).unwrap_or_else(|why| panic!("{at}: {why:?}"));
        assert!([received.marks[5], received.end()].contains(&loan.mark), "{at}");
    });
}

/// A segment that lies aside got the name that another gave up, before that was recorded.
#[test]
fn a_segment_gets_no_name_that_is_not_given_up_yet() {
    let begin = |rig: &mut Rig, _: &Path| {
        let runs: [(u64, u64, &[_]); 2] = [(1, NAME, &FIRST), (2, NAME, &SECOND)];
        let received = receive_named(rig, Lsn::ZERO, 0, &runs);
        let (offset, start) = (received.marks[5].lsn.0, received.end().lsn);
        let run = Run { start, segment: SegmentName(NAME), file: 1, offset, bytes: None };
        let jobs = vec![retire(2, Retirement::Aside, received.end()), open_run(2, run)];
        (received, jobs)
    };
    killed_at_every_step(begin, |rig, _, received, at| assert_whole(rig, received, at));
}

/// Left of what the catalog does not know, it would have been taken for the run's own.
#[test]
fn what_lies_aside_of_no_run_is_kept_and_not_received_into() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let [named, aside] = places(root.path());
    std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
    std::fs::write(&aside, b"left").unwrap();
    let quarantine = root.path().join(".saltus/quarantine");
    std::fs::write(&quarantine, b"in the way").unwrap();
    let run = Run { start: Lsn::ZERO, segment: SegmentName(NAME), file: 1, offset: 0, bytes: None };
    let news = rig.batch(vec![open_run(0, run)]);
    assert!(matches!(news[..], [News::RunOpened { result: Err(_), .. }, ..]), "{news:?}");
    assert!(rig.keeper.catalog.load().unwrap()[&space()].runs.is_empty(), "as it is not open");
    std::fs::remove_file(quarantine).unwrap();
    let received = receive_named(&mut rig, Lsn::ZERO, 0, &[(1, NAME, &FIRST)]);
    assert!(std::fs::read(named).unwrap() == received.bytes(0..5) && !aside.exists());
    assert_eq!(std::fs::read(&pieces(root.path())[0].path).unwrap(), b"left");
}
