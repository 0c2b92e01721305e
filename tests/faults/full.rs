//! A disk that takes no more.

use std::ffi::OsStr;
use std::fs;

use nix::sys::signal::Signal;
use saltus::cli::node::{NodeError, NodeSpec};
use saltus::engine::status::ReplicaState;

use crate::cluster::{Cluster, NATIVE, Node, assert_prefix, spec, until};
use crate::disk::{Disk, own_mounts, run};
use crate::feed::Segment;

/// A cluster with one replica, where `small` is the node whose data root is a
/// small disk.
fn cluster(small: &str, mib: u64) -> Option<(Cluster, Disk)> {
    let disk = std::cell::RefCell::new(None);
    let cluster = Cluster::with(
        1,
        |spec| {
            spec.backend = NATIVE;
            if spec.id.as_str() == small && disk.borrow().is_none() {
                *disk.borrow_mut() = Disk::ext4(spec.data_root.clone(), mib);
            }
        },
        |_| {},
    );
    disk.into_inner().map(|disk| (cluster, disk))
}

/// Room that a database has taken in advance is there when nobody else has any.
fn take_room(segment: &Segment) {
    let how = ["--keep-size", "--length", "1MiB"].map(OsStr::new);
    run("fallocate", &[&how[..], &[segment.path.as_os_str()]].concat());
}

#[test]
fn a_replica_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    if !own_mounts() {
        return;
    }
    let Some((mut cluster, disk)) = cluster("replica-1", 80) else { return };
    let mut segment = cluster.fill("alpha", 3, 1000);
    let ballast = disk.fill();
    segment.records(20, 1 << 20);
    let status = cluster.primary.await_problem("alpha", "No space left on device");
    let flushed = status.replicas[0].flushed_lsn;
    assert!(flushed < segment.len());
    cluster.replicas[0].await_problem("alpha", "No space left on device");
    until("the torn end is gone although there was no room to keep it", || {
        cluster.replicas[0].log().contains("as the disk is full").then_some(())
    });
    // Nor is there room for a space that is new.
    let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
    other.records(20, 1 << 20);
    cluster.primary.await_problem("beta", "No space left on device");
    // With its primary held still, nothing is tried any more.
    cluster.primary.signal(Signal::SIGSTOP);
    let (copy, original) = (cluster.replicas[0].wal("alpha"), cluster.primary.wal("alpha"));
    until("no file ends within a record", || {
        std::panic::catch_unwind(|| assert_prefix(&copy, &original)).ok()
    });
    cluster.primary.signal(Signal::SIGCONT);
    fs::remove_file(ballast).unwrap();
    cluster.await_flushed("alpha", segment.len());
    cluster.await_flushed("beta", other.len());
    for space in ["alpha", "beta"] {
        cluster.assert_identical(space);
        let status = cluster.replica(0, space).unwrap();
        assert_eq!((status.problem, status.state), (None, ReplicaState::Healthy));
    }
}

#[test]
fn a_primary_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    if !own_mounts() {
        return;
    }
    let Some((mut cluster, disk)) = cluster("primary", 48) else { return };
    let mut first = Segment::create(&cluster.primary.wal("alpha"), 1);
    first.records(3, 1000);
    cluster.await_flushed("alpha", first.len());
    take_room(&first);
    assert_eq!(cluster.primary.get("/healthz").0, 200);
    // A file keeps what it has of its last block; names need room of their own.
    let mut segments: Vec<_> =
        (0..300).map(|n| Segment::create(&cluster.primary.wal(&format!("space-{n}")), 1)).collect();
    let ballast = disk.fill();
    let says_so = |cluster: &mut Cluster| {
        let problem = cluster.primary.status().problem?;
        problem.contains("No space left on device").then_some(problem)
    };
    until("the node says so", || says_so(&mut cluster));
    // What is recorded is shipped on, and each time it is as full as before.
    for _ in 0..3 {
        first.records(20, 4000);
        cluster.await_flushed("alpha", first.len());
        let problem = says_so(&mut cluster).expect("nothing has made room");
        let (code, answer) = cluster.primary.get("/healthz");
        assert!(code == 503 && answer.contains(&problem), "{code}: {answer}");
    }
    fs::remove_file(ballast).unwrap();
    first.records(3, 1000);
    cluster.await_flushed("alpha", first.len());
    for (number, segment) in segments.iter_mut().enumerate() {
        let space = format!("space-{number}");
        segment.records(1, 100);
        cluster.await_flushed(&space, segment.len());
    }
    until("it is well again", || cluster.primary.status().problem.is_none().then_some(()));
    until("and healthy", || (cluster.primary.get("/healthz").0 == 200).then_some(()));
}

/// A node ends by itself, with the exit code of a failure and this as its last words.
#[track_caller]
fn assert_refused(spec: &NodeSpec, why: &str) {
    match spec.clone().spawn() {
        Err(NodeError::Ended { status, log, .. }) => {
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(last, format!("saltus: cannot start the engine: {why}"));
            assert_eq!(status.code(), Some(3), "{log}");
        }
        other => panic!("it is to end by itself: {other:?}"),
    }
}

#[test]
fn a_node_without_room_for_a_state_directory_starts_once_there_is_some() {
    if !own_mounts() {
        return;
    }
    for small in ["replica-1", "primary"] {
        let directory = tempfile::tempdir().unwrap();
        let mut replica = spec("replica-1", directory.path(), true);
        let mut primary = spec("primary", directory.path(), false);
        let full = if small == "primary" { &primary } else { &replica };
        let Some(disk) = Disk::ext4(full.data_root.clone(), 16) else { return };
        let ballast = disk.fill();
        let state = full.data_root.join(".saltus");
        let why = format!(
            "cannot use the state directory {}: No space left on device (os error 28); make room \
             on its file system, and begin again",
            state.display()
        );
        // What the first start has left behind does not mislead the second one.
        assert_refused(full, &why);
        assert_refused(full, &why);
        fs::remove_file(ballast).unwrap();
        (replica.backend, primary.backend) = (NATIVE, NATIVE);
        let replica = Node::start(replica);
        primary.replicas = vec![replica.as_replica()];
        let primary = Node::start(primary);
        let mut cluster = Cluster { primary, replicas: vec![replica], directory };
        cluster.fill("alpha", 3, 1000);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_killed_replica_without_room_to_mend_its_catalog_starts_once_there_is_some() {
    if !own_mounts() {
        return;
    }
    let Some((mut cluster, disk)) = cluster("replica-1", 48) else { return };
    let mut segment = cluster.fill("alpha", 3, 1000);
    let acknowledged = segment.len();
    cluster.replicas[0].kill();
    let ballast = disk.fill();
    segment.records(3, 1000);
    let catalog = cluster.replicas[0].spec.data_root.join(".saltus/catalog.redb");
    let why = format!(
        "the catalog {} failed: I/O error: No space left on device (os error 28)",
        catalog.display()
    );
    for _ in 0..2 {
        assert_refused(&cluster.replicas[0].spec, &why);
    }
    fs::remove_file(ballast).unwrap();
    cluster.primary.signal(Signal::SIGSTOP);
    cluster.replicas[0].restart();
    let there = cluster.replicas[0].space("alpha").unwrap();
    assert_eq!((there.flushed_lsn, there.problem), (Some(acknowledged), None));
    cluster.primary.signal(Signal::SIGCONT);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

#[test]
fn a_node_that_was_stopped_in_order_starts_on_a_full_disk_and_says_so() {
    if !own_mounts() {
        return;
    }
    for small in ["replica-1", "primary"] {
        let Some((mut cluster, disk)) = cluster(small, 48) else { return };
        let mut segment = cluster.fill("alpha", 3, 1000);
        take_room(&segment);
        let primary = small == "primary";
        let node = if primary { &mut cluster.primary } else { &mut cluster.replicas[0] };
        node.terminate();
        let ballast = disk.fill();
        node.restart();
        segment.records(20, 4000);
        until("it says so", || {
            let status = node.status();
            let space = status.spaces.into_iter().find_map(|space| space.problem);
            let problem = if primary { status.problem } else { space }?;
            problem.contains("No space left on device").then_some(())
        });
        assert_eq!(node.get("/healthz").0, 503);
        if primary {
            // What is recorded is shipped on, and it is as full as before.
            cluster.await_flushed("alpha", segment.len());
            let problem = cluster.primary.status().problem.expect("nothing has made room");
            assert!(problem.contains("No space left on device"), "{problem}");
            assert_eq!(cluster.primary.get("/healthz").0, 503);
        }
        fs::remove_file(ballast).unwrap();
        cluster.await_flushed("alpha", segment.len());
        let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
        other.records(3, 1000);
        cluster.await_flushed("beta", other.len());
        for space in ["alpha", "beta"] {
            cluster.assert_identical(space);
        }
        let node = if primary { &cluster.primary } else { &cluster.replicas[0] };
        until("it is well again", || (node.get("/healthz").0 == 200).then_some(()));
    }
}
