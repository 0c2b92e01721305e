//! Which file bears a name, when the one that had taken it over is cut off.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::engine::keeper::Job;
use crate::engine::keeper::matched::tests::{Rig, alive, open, space};
use crate::engine::keeper::mending::Failure as Unwritten;
use crate::engine::keeper::retired::tests::{Received, receive_named};
use crate::engine::mortal::Mortal;
use crate::ids::SegmentName;
use crate::lsn::Lsn;
use crate::state::catalog::Retired;
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
    rig.loan(open(&[(1, 0)])).unwrap();
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

/// It has its name, and is as it was.
fn assert_given_back(rig: &Rig, root: &Path, received: &Received, at: &str) {
    let [named, aside] = places(root);
    assert!(std::fs::read(named).ok().as_deref() == Some(received.bytes(0..5)), "{at}");
    assert!(!aside.exists(), "{at}");
    assert_eq!(rig.keeper.received.damages().len(), 0, "{at}: nothing is wrong");
    let entry = &rig.keeper.spaces[&space()];
    assert!(matches!(entry.lease, Lease::Here(mark) if mark == received.marks[5]), "{at}");
}

/// The name was given back by what the catalog was yet to be told. Killed before that,
/// the file was looked for where it no longer was: what it durably held was damaged, and
/// the file was set aside as one behind the end.
#[test]
fn a_name_is_given_back_when_the_catalog_has_forgotten_who_took_it() {
    let mut steps = 0;
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        let received = taken_over(&mut rig, root.path());
        host.0.store(budget, Ordering::SeqCst);
        rig.batch(vec![lost(received.marks[5]), Job::LookAt { space: space() }]);
        let done = host.0.swap(0, Ordering::SeqCst) > 0;
        let at = format!("killed at step {budget}");
        if done {
            assert_given_back(&rig, root.path(), &received, "not killed");
            assert_eq!(rig.keeper.spaces[&space()].recoveries, 1, "it is as it was left");
        }
        drop(rig);

        let mut rig = Rig::open(root.path(), &alive());
        assert_given_back(&rig, root.path(), &received, &at);
        rig.batch(vec![Job::LookAt { space: space() }]);
        let entry = &rig.keeper.spaces[&space()];
        assert_eq!((entry.trouble.clone(), entry.recoveries), (None, 1), "{at}");
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 10, "only {steps} steps");
}

/// The catalog cannot be written: who looks at the names meanwhile moves nothing, and
/// when it can be, each file has its own.
#[test]
fn a_name_waits_for_a_catalog_that_cannot_be_written() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let received = taken_over(&mut rig, root.path());
    let keeper = &mut rig.keeper;
    keeper.handle(lost(received.marks[5]));
    let changes = std::mem::take(&mut keeper.changes);
    assert!(changes.iter().any(|(_, change)| matches!(change, Change::Truncate { .. })));
    let failure = Unwritten { why: "the disk is full".to_owned(), waits: true };
    keeper.withdraw(changes, Vec::new(), &failure);
    keeper.handle(Job::LookAt { space: space() });
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

/// Its word that it has no name any more outlived the run with which it came.
#[test]
fn a_file_that_has_no_name_takes_none_over() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let change = Change::Retire { file: 2, what: Retired::Aside };
    rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
    let second = recovery::retired_path(&root.path().join(".saltus"), &space(), 2);
    std::fs::create_dir_all(second.parent().unwrap()).unwrap();
    let runs: [(u64, u64, &[_]); 2] = [(1, NAME, &FIRST), (2, NAME, &SECOND)];
    let received = receive_named(&mut rig, Lsn::ZERO, 0, &runs);
    let [named, aside] = places(root.path());
    assert!(std::fs::read(named).unwrap() == received.bytes(0..5));
    assert!(!aside.exists());
    assert!(std::fs::read(second).unwrap() == received.bytes(5..6));
}
