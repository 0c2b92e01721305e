//! A replica that is being filled anew, on a disk that takes no more.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;

use nix::sys::signal::Signal;
use saltus::cli::node::NodeSpec;
use saltus::engine::status::ReplicaState;

use crate::cluster::{Cluster, NATIVE, assert_prefix, until};
use crate::compaction::{beginning_gone, compact};
use crate::disk::{Disk, own_mounts, run};
use crate::feed::Segment;

/// The data root of `node` is a disk of that size, as soon as `disk` holds it.
fn on(node: &str, mib: u64, disk: &RefCell<Option<Disk>>, spec: &mut NodeSpec) {
    spec.backend = NATIVE;
    if spec.id.as_str() == node && disk.borrow().is_none() {
        *disk.borrow_mut() = Disk::ext4(spec.data_root.clone(), mib);
    }
}

/// The sentence names where there is no room, and what to do.
#[track_caller]
fn assert_helps(problem: &str, cluster: &Cluster, replica: usize) {
    let root = cluster.replicas[replica].spec.data_root.display().to_string();
    assert!(problem.contains(&root) && problem.contains("make room"), "{problem}");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_seed_costs_nothing_but_time() {
    if !own_mounts() {
        return;
    }
    let disk = RefCell::new(None);
    let (mut cluster, _segment, total) = beginning_gone(
        |spec| {
            on("replica-2", 192, &disk, spec);
            spec.more = "[retention]\nseed_bytes_per_second = \"2MiB\"\n".into();
        },
        400,
    );
    let Some(disk) = disk.into_inner() else { return };
    cluster.primary.restart();
    until("the seed goes on", || {
        (cluster.replica(1, "alpha")?.seeding?.done_bytes > 1 << 20).then_some(())
    });
    let ballast = disk.fill();
    let status = cluster.primary.await_problem("alpha", "No space left on device");
    assert_helps(status.replicas[1].problem.as_ref().unwrap(), &cluster, 1);
    let status = cluster.replicas[1].await_problem("alpha", "No space left on device");
    assert_helps(&status.problem.unwrap(), &cluster, 1);
    let kept = cluster.replica(1, "alpha").unwrap();
    let seeding = kept.seeding.expect("it has not ended");
    assert!(seeding.done_bytes > 1 << 20 && seeding.done_bytes < seeding.total_bytes);
    assert_eq!(kept.flushed_lsn, seeding.base_lsn + seeding.done_bytes);
    // With its primary held still, nothing is tried any more.
    cluster.primary.signal(Signal::SIGSTOP);
    let (copy, original) = (cluster.replicas[1].wal("alpha"), cluster.primary.wal("alpha"));
    until("no file ends within a record", || {
        std::panic::catch_unwind(|| assert_prefix(&copy, &original)).ok()
    });
    cluster.primary.signal(Signal::SIGCONT);
    fs::remove_file(ballast).unwrap();
    until("the seed goes on by itself, from where it was", || {
        let replica = cluster.replica(1, "alpha")?;
        assert!(replica.flushed_lsn >= kept.flushed_lsn, "what was acknowledged stays so");
        (replica.flushed_lsn == total).then_some(())
    });
    cluster.await_flushed("alpha", total);
    cluster.await_identical("alpha");
    assert_eq!(cluster.primary.log().matches("is filled anew from").count(), 1, "one seed did");
    let status = cluster.replica(1, "alpha").unwrap();
    assert_eq!((status.problem, status.state), (None, ReplicaState::Healthy));
}

#[test]
fn a_seed_for_which_there_is_no_room_is_not_begun_and_the_old_copy_stays() {
    if !own_mounts() {
        return;
    }
    let disk = RefCell::new(None);
    let mut cluster = Cluster::with(
        1,
        |spec| {
            on("replica-1", 192, &disk, spec);
            spec.more = "[retention]\nmax_bytes = \"64KiB\"\n".into();
        },
        |_| {},
    );
    let Some(disk) = disk.into_inner() else { return };
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    cluster.replicas[0].kill();
    let copy = cluster.replicas[0].wal("alpha").join(old.path.file_name().unwrap());
    let had = fs::read(&copy).unwrap();
    old.records(100, 1000);
    let total = old.len();
    let new = compact(&cluster.primary, "alpha", 2, 9, &[old]);
    until("the slot is lost", || {
        cluster.replica(0, "alpha")?.retention.is_some_and(|kept| kept.lost).then_some(())
    });
    let ballast = disk.path.join("ballast");
    run("fallocate", &[OsStr::new("--length"), OsStr::new("150M"), ballast.as_os_str()]);
    cluster.replicas[0].restart();
    let status = cluster.primary.await_problem("alpha", "are free");
    assert_helps(status.replicas[0].problem.as_ref().unwrap(), &cluster, 0);
    assert!(fs::read(&copy).unwrap() == had, "what it has is needed until the seed is there");
    fs::remove_file(ballast).unwrap();
    cluster.await_flushed("alpha", total + new.len());
    cluster.await_identical("alpha");
}
