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
    let mut segment = cluster.fill("alpha", 3, 1000);
    let before = segment.len();
    let root = cluster.replicas[0].spec.data_root.clone();
    until("it is removed, whatever the node makes in it meanwhile", || {
        // Removed by halves, it is removed again.
        let _ = fs::remove_dir_all(&root);
        (!root.exists()).then_some(())
    });
    segment.records(3, 1000);
    let status = cluster.primary.await_problem("alpha", "alpha");
    assert_eq!(status.replicas[0].flushed_lsn, before);
    until("the replica says so", || {
        let status = cluster.replicas[0].status();
        let problem = status.problem.or_else(|| status.spaces.first()?.problem.clone())?;
        problem.contains(&format!("the data root {} is gone", root.display())).then_some(())
    });
    // A restart begins with an empty one.
    cluster.replicas[0].kill();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

/// Bytes that are synced into a file that is not where it was are not where a
/// restart looks for them.
#[test]
fn nothing_is_acknowledged_into_files_that_were_moved_away() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
        other.records(1, 100);
        let wal = cluster.replicas[0].wal("alpha");
        let aside = cluster.directory.path().join("aside");
        let name = segment.path.file_name().unwrap().to_owned();
        let things = [wal.join(&name), wal.clone(), wal.parent().unwrap().to_path_buf()];
        for (moved, thing) in things.into_iter().enumerate() {
            segment.records(3, 1000);
            cluster.await_flushed("alpha", segment.len());
            fs::rename(&thing, aside.join(moved.to_string()))
                .or_else(|_| {
                    fs::create_dir_all(&aside)?;
                    fs::rename(&thing, aside.join(moved.to_string()))
                })
                .unwrap();
            // Noticed by itself: nothing is shipped meanwhile.
            until("the replica says so", || {
                let log = cluster.replicas[0].log();
                let lines = log.lines().filter(|line| {
                    line.contains("alpha") && line.contains("nothing more of it is acknowledged")
                });
                (lines.count() == moved + 1).then_some(())
            });
            // It has it all again where it belongs, before a record counts.
            segment.records(3, 1000);
            cluster.await_flushed("alpha", segment.len());
            cluster.assert_identical("alpha");
        }
        other.records(1, 100);
        cluster.await_flushed("beta", other.len());
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        segment.records(1, 1000);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}

/// A directory of the same name is not the one that the node was started on:
/// what is received there is in no catalog that a restart would find.
#[test]
fn nothing_is_acknowledged_below_another_root_of_the_same_name() {
    let mut cluster = Cluster::start(NATIVE, 1);
    let mut segment = cluster.fill("alpha", 3, 1000);
    let before = segment.len();
    let root = cluster.replicas[0].spec.data_root.clone();
    let aside = root.with_extension("aside");
    fs::rename(&root, &aside).unwrap();
    fs::create_dir(&root).unwrap();
    segment.records(3, 1000);
    let why = "is another directory than the one this node was started on";
    let status = cluster.primary.await_problem("alpha", why);
    assert_eq!(status.replicas[0].flushed_lsn, before);
    until("the replica says so", || {
        cluster.replicas[0].status().problem?.contains(why).then_some(())
    });
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is made there");
    // Put back, it is the old one.
    fs::remove_dir(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    until("it is well again", || cluster.replicas[0].status().problem.is_none().then_some(()));
}

/// What is recorded in a catalog without a name is in none.
#[test]
fn nothing_new_is_recorded_in_a_catalog_that_was_moved_away() {
    let mut cluster = Cluster::start(NATIVE, 1);
    let segment = cluster.fill("alpha", 3, 1000);
    for node in [&mut cluster.replicas[0], &mut cluster.primary] {
        let state = node.spec.data_root.join(".saltus");
        fs::rename(&state, state.with_extension("aside")).unwrap();
        until("the node says so, although it records nothing", || {
            let problem = node.status().problem?;
            problem.contains("catalog.redb was removed or moved away").then_some(())
        });
        fs::rename(state.with_extension("aside"), &state).unwrap();
        until("and that it is back", || node.status().problem.is_none().then_some(()));
    }
    let state = cluster.replicas[0].spec.data_root.join(".saltus");
    fs::rename(&state, state.with_extension("aside")).unwrap();
    // A second segment is a second run.
    let mut second = Segment::create(&cluster.primary.wal("alpha"), 2);
    second.records(3, 1000);
    cluster.primary.await_problem("alpha", "catalog");
    assert_eq!(cluster.replica(0, "alpha").unwrap().flushed_lsn, segment.len());
    fs::rename(state.with_extension("aside"), &state).unwrap();
    cluster.await_flushed("alpha", segment.len() + second.len());
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
        let mut segment = cluster.fill("alpha", 30, 1000);
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
