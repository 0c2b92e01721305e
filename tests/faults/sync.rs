//! A disk that fails while it makes bytes durable.

use std::fs;

use saltus::engine::status::ReplicaState;
use saltus::io::BackendChoice;

use crate::cluster::{BACKENDS, Cluster, assert_prefix, until};
use crate::disk::{Disk, own_mounts};
use crate::feed::Segment;
use crate::shim::Shim;

/// A cluster whose node of that name has its data root on a device that does
/// not have what it promises: first the disk, then the one below it.
fn cluster(backend: BackendChoice, on_thin: &str) -> Option<(Cluster, Disk, Disk)> {
    let disks = std::cell::RefCell::new(None);
    let cluster = Cluster::with(
        1,
        |spec| {
            spec.backend = backend;
            if spec.id.as_str() == on_thin && disks.borrow().is_none() {
                let below = Disk::memory(spec.directory.join("below"), 72);
                let disk = Disk::thin(spec.data_root.clone(), &below, 64);
                *disks.borrow_mut() = disk.map(|disk| (disk, below));
            }
        },
        |_| {},
    );
    disks.into_inner().map(|(disk, below)| (cluster, disk, below))
}

#[test]
fn a_replica_whose_disk_fails_to_sync_acknowledges_nothing_until_it_was_verified_again() {
    if !own_mounts() {
        return;
    }
    for backend in BACKENDS {
        let Some((mut cluster, mut disk, below)) = cluster(backend, "replica-1") else { return };
        let mut segment = cluster.fill("alpha", 3, 1000);
        disk.settle();
        let ballast = below.fill();
        // Enough to need blocks that were never written.
        for _ in 0..40 {
            segment.records(10, 3000);
        }
        let status = cluster.primary.await_problem("alpha", "failed");
        let flushed = status.replicas[0].flushed_lsn;
        assert!(flushed < segment.len());
        cluster.replicas[0].await_problem("alpha", "alpha");
        // What was acknowledged is on the disk, not only in the cache.
        cluster.replicas[0].kill();
        fs::remove_file(ballast).unwrap();
        disk.reread();
        let name = segment.path.file_name().unwrap();
        let there = fs::read(cluster.replicas[0].wal("alpha").join(name)).unwrap();
        let flushed = usize::try_from(flushed).unwrap();
        assert!(there.len() >= flushed && there[..flushed] == segment.content[..flushed]);
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", segment.len());
        cluster.replicas[0].terminate();
        disk.reread();
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_replica_goes_on_by_itself_when_its_disk_is_well_again() {
    if !own_mounts() {
        return;
    }
    for backend in BACKENDS {
        let Some((mut cluster, mut disk, below)) = cluster(backend, "replica-1") else { return };
        let mut segment = cluster.fill("alpha", 3, 1000);
        disk.settle();
        let ballast = below.fill();
        segment.records(400, 3000);
        cluster.primary.await_problem("alpha", "failed");
        fs::remove_file(ballast).unwrap();
        cluster.await_flushed("alpha", segment.len());
        let status = cluster.replica(0, "alpha").unwrap();
        assert_eq!((status.problem, status.state), (None, ReplicaState::Healthy));
        cluster.replicas[0].terminate();
        disk.reread();
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_primary_whose_catalog_fails_to_sync_ships_no_new_run_until_it_is_written() {
    if !own_mounts() {
        return;
    }
    let Some((mut cluster, mut disk, below)) = cluster(BACKENDS[0], "primary") else { return };
    let mut first = Segment::create(&cluster.primary.wal("alpha"), 1);
    first.records(3, 1000);
    cluster.await_flushed("alpha", first.len());
    disk.settle();
    let ballast = below.fill();
    // Each is numbered, pinned and recorded.
    let mut segments: Vec<_> =
        (2..60).map(|n| Segment::create(&cluster.primary.wal("alpha"), n)).collect();
    let problem = until("the node says so", || cluster.primary.status().problem);
    assert!(problem.contains("catalog") && problem.contains("tried again"), "{problem}");
    fs::remove_file(ballast).unwrap();
    until("it is well again", || cluster.primary.status().problem.is_none().then_some(()));
    let mut total = first.len();
    for segment in &mut segments {
        total += segment.records(1, 100).len();
    }
    cluster.await_flushed("alpha", total);
    // Nothing of the catalog is only in the cache.
    cluster.primary.kill();
    drop((first, segments));
    disk.reread();
    cluster.primary.restart();
    total += Segment::create(&cluster.primary.wal("alpha"), 100).records(1, 1000).len();
    cluster.await_flushed("alpha", total);
    cluster.assert_identical("alpha");
}

#[test]
fn a_sync_that_fails_poisons_the_log_and_what_is_there_is_verified_before_it_goes_on() {
    let mut cluster = Cluster::start(BackendChoice::Portable, 1);
    let Some(shim) = Shim::build(cluster.directory.path()) else { return };
    cluster.replicas[0].terminate();
    cluster.replicas[0].spec.program = shim.program();
    cluster.replicas[0].restart();
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
    segment.records(3, 1000);
    cluster.await_flushed("alpha", segment.len());
    let before = segment.len();
    shim.set("fail-sync", "");
    segment.records(3, 1000);
    let status = cluster.primary.await_problem("alpha", "failed: Input/output error");
    assert_eq!(status.replicas[0].flushed_lsn, before, "nothing more is acknowledged");
    cluster.replicas[0].await_problem("alpha", "Input/output error");
    assert_prefix(&cluster.replicas[0].wal("alpha"), &cluster.primary.wal("alpha"));
    shim.clear("fail-sync");
    cluster.await_flushed("alpha", segment.len());
    other.records(3, 1000);
    cluster.await_flushed("beta", other.len());
    cluster.assert_identical("alpha");
    assert!(cluster.replicas[0].log().contains("nothing more of it is acknowledged"));
}
