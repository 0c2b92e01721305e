//! Either side goes away in mid-way and comes back, in any order.

use crate::cluster::{BACKENDS, Cluster, assert_prefix, until};
use crate::feed::{Load, Segment, Steady};

const LOAD: Load =
    Load { segment_bytes: 4 << 20, max_payload: 1 << 20, bytes_per_second: 12 << 20, seed: 7 };

/// Wait until the first replica has flushed some more of `alpha`.
fn progress(cluster: &mut Cluster) {
    let flushed = |cluster: &mut Cluster| cluster.replica(0, "alpha").map_or(0, |r| r.flushed_lsn);
    let before = flushed(cluster);
    until("the replica makes progress", || (flushed(cluster) > before + (1 << 20)).then_some(()));
}

#[test]
fn either_side_may_restart_at_any_moment_in_any_order() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
        progress(&mut cluster);
        cluster.primary.terminate();
        cluster.primary.restart();
        progress(&mut cluster);
        cluster.replicas[0].terminate();
        cluster.replicas[0].restart();
        progress(&mut cluster);
        cluster.primary.kill();
        cluster.replicas[0].terminate();
        cluster.primary.restart();
        cluster.replicas[0].restart();
        progress(&mut cluster);
        cluster.replicas[0].kill();
        cluster.primary.kill();
        cluster.replicas[0].restart();
        assert_prefix(&cluster.replicas[0].wal("alpha"), &cluster.primary.wal("alpha"));
        cluster.primary.restart();
        progress(&mut cluster);
        let written = writer.finish();
        cluster.await_flushed("alpha", written);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn what_is_flushed_is_never_shipped_again() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        segment.records(8, 1 << 20).records(100, 1000);
        cluster.await_flushed("alpha", segment.len());
        let flushed = segment.len();
        // The primary first, then a replica, then both.
        cluster.primary.kill();
        cluster.primary.restart();
        // With nothing to ship, the replicas' positions are known all the same.
        cluster.await_flushed("alpha", segment.len());
        cluster.primary.kill();
        segment.records(10, 1000);
        cluster.primary.restart();
        cluster.await_flushed("alpha", segment.len());
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        segment.records(10, 1000);
        cluster.await_flushed("alpha", segment.len());
        for index in 0..2 {
            let sent = cluster.replica(index, "alpha").unwrap().sent_bytes_by_strategy;
            assert_eq!(sent.values().sum::<u64>(), segment.len() - flushed, "{sent:?}");
        }
        let before = segment.len();
        cluster.primary.terminate();
        cluster.replicas[0].terminate();
        cluster.replicas[1].kill();
        segment.records(1, 2 << 20).records(3, 100);
        for replica in &mut cluster.replicas {
            replica.restart();
        }
        cluster.primary.restart();
        cluster.await_flushed("alpha", segment.len());
        for index in 0..2 {
            let sent = cluster.replica(index, "alpha").unwrap().sent_bytes_by_strategy;
            assert_eq!(sent.values().sum::<u64>(), segment.len() - before, "{sent:?}");
        }
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_replica_under_load_drains_and_keeps_what_it_acknowledged() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
        progress(&mut cluster);
        let acked = cluster.replica(0, "alpha").unwrap().flushed_lsn;
        cluster.replicas[0].terminate();
        let acked = cluster.replica(0, "alpha").unwrap().flushed_lsn.max(acked);
        assert_prefix(&cluster.replicas[0].wal("alpha"), &cluster.primary.wal("alpha"));
        cluster.replicas[0].restart();
        let there = cluster.replicas[0].space("alpha").unwrap().flushed_lsn.unwrap();
        assert!(there >= acked, "{there} of {acked} acknowledged bytes are there");
        let written = writer.finish();
        cluster.await_flushed("alpha", written);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_primary_under_load_ends_soon() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
        progress(&mut cluster);
        cluster.primary.terminate();
        // Past the time for draining it ends all the same, and says so.
        let log = cluster.primary.log();
        assert!(!log.contains("not everything could be brought to an end"), "{log}");
        drop(writer);
    }
}
