//! Directories that vanish, and a file system that turns read-only.

use std::fs;

use crate::cluster::{BACKENDS, Cluster, NATIVE, assert_prefix, until};
use crate::disk::{Disk, own_mounts};
use crate::feed::Segment;

#[test]
fn nothing_is_acknowledged_into_a_directory_that_was_removed() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
        segment.records(3, 1000);
        other.records(3, 1000);
        cluster.await_flushed("alpha", segment.len());
        cluster.await_flushed("beta", other.len());
        let before = segment.len();
        fs::remove_dir_all(cluster.replicas[0].wal("alpha")).unwrap();
        segment.records(3, 1000);
        // Nothing was checkpointed, so all of it is received again.
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        let log = cluster.replicas[0].log();
        assert!(log.contains("was removed while it was being received"), "{log}");
        assert!(before < segment.len());
        // What is there now is found by a restart.
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        segment.records(1, 1000);
        other.records(1, 1000);
        cluster.await_flushed("alpha", segment.len());
        cluster.await_flushed("beta", other.len());
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_replica_whose_data_root_was_removed_acknowledges_nothing_more() {
    let mut cluster = Cluster::start(NATIVE, 1);
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(3, 1000);
    cluster.await_flushed("alpha", segment.len());
    let before = segment.len();
    fs::remove_dir_all(&cluster.replicas[0].spec.data_root).unwrap();
    segment.records(3, 1000);
    let status = cluster.primary.await_problem("alpha", "alpha");
    assert_eq!(status.replicas[0].flushed_lsn, before);
    until("the replica says so", || {
        let status = cluster.replicas[0].status();
        let problem = status.problem.or_else(|| status.spaces.first()?.problem.clone())?;
        problem.contains("No such file or directory").then_some(())
    });
    // A restart begins with an empty one.
    cluster.replicas[0].kill();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

#[test]
fn a_file_system_that_turns_read_only_is_named_and_a_restart_goes_on_from_it() {
    if !own_mounts() {
        return;
    }
    for backend in BACKENDS {
        let disk = std::cell::RefCell::new(None);
        let mut cluster = Cluster::with(
            1,
            |spec| {
                spec.backend = backend;
                if spec.replication.is_some() {
                    *disk.borrow_mut() = Disk::ext4(spec.data_root.clone(), 64);
                }
            },
            |_| {},
        );
        let Some(mut disk) = disk.into_inner() else { return };
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        segment.records(30, 1000);
        cluster.await_flushed("alpha", segment.len());
        // What ext4 does when it finds itself damaged.
        disk.abort();
        segment.records(30, 1000);
        cluster.primary.await_problem("alpha", "failed");
        cluster.replicas[0].await_problem("alpha", "alpha");
        cluster.replicas[0].kill();
        disk.reread();
        assert_prefix(&cluster.replicas[0].wal("alpha"), &cluster.primary.wal("alpha"));
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}
