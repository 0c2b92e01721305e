//! A disk that takes no more.

use std::fs;

use nix::sys::signal::Signal;
use saltus::engine::status::ReplicaState;

use crate::cluster::{Cluster, NATIVE, assert_prefix, until};
use crate::disk::{Disk, own_mounts};
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
    // A file keeps what it has of its last block; names need room of their own.
    let mut segments: Vec<_> =
        (0..300).map(|n| Segment::create(&cluster.primary.wal(&format!("space-{n}")), 1)).collect();
    let ballast = disk.fill();
    until("the node says so", || {
        let problem = cluster.primary.status().problem?;
        problem.contains("No space left on device").then_some(())
    });
    fs::remove_file(ballast).unwrap();
    first.records(3, 1000);
    cluster.await_flushed("alpha", first.len());
    for (number, segment) in segments.iter_mut().enumerate() {
        let space = format!("space-{number}");
        segment.records(1, 100);
        cluster.await_flushed(&space, segment.len());
    }
    until("it is well again", || cluster.primary.status().problem.is_none().then_some(()));
}
