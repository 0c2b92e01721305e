//! Somebody else writes where a space is received: a database that was started
//! on a copy, with the state directory still there.

use std::fs;
use std::io::Write;
use std::process::Command;

use saltus::engine::status::ReplicaState;

use crate::cluster::{BACKENDS, Cluster, NATIVE, until};
use crate::feed::{Segment, record};

/// The bytes of all segments that the replica received, and the intruder's.
fn files(cluster: &Cluster) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(cluster.replicas[0].wal("alpha")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_segment_that_a_database_wrote_into_a_copy_stops_the_space_by_name() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
        segment.records(5, 400);
        other.records(1, 10);
        cluster.await_flushed("alpha", segment.len());
        let mut intruder = Segment::create(&cluster.replicas[0].wal("alpha"), 77);
        // An empty file is nobody's log. Once it is looked at, no name changes
        // any more.
        segment.records(1, 400);
        cluster.await_flushed("alpha", segment.len());
        let before = segment.len();
        intruder.records(3, 100);
        // While nothing is shipped, as when the primary is dead.
        let name = intruder.path.file_name().unwrap().to_str().unwrap().to_owned();
        let why = format!("{name} was not received by this node");
        let status = cluster.replicas[0].await_problem("alpha", &why);
        assert!(status.blocked);
        let found = files(&cluster);
        segment.records(5, 400);
        let status = cluster.primary.await_problem("alpha", &why);
        assert_eq!(status.replicas[0].flushed_lsn, before);
        // Nor after a restart of either; and nothing there is touched.
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        cluster.replicas[0].await_problem("alpha", &why);
        segment.records(1, 400);
        cluster.primary.await_problem("alpha", &why);
        assert_eq!(cluster.replica(0, "alpha").unwrap().flushed_lsn, before);
        assert_eq!(files(&cluster), found);
        other.records(1, 10);
        cluster.await_flushed("beta", other.len());
        // Who moves it away has decided.
        fs::rename(&intruder.path, cluster.directory.path().join(&name)).unwrap();
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        until("it is well again", || {
            cluster.replicas[0].space("alpha")?.problem.is_none().then_some(())
        });
    }
}

/// `saltus verify` of the primary against the replica, and what it says.
fn verify(cluster: &mut Cluster) -> (Option<i32>, String) {
    let admin = cluster.primary.process().ready().admin.to_string();
    let other = cluster.replicas[0].process().ready().admin.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(["verify", "--admin", &admin, "--against", &other, "--space", "alpha"])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_replica_that_was_stopped_is_well_again_although_nothing_is_written() {
    let mut cluster = Cluster::start(NATIVE, 1);
    let segment = cluster.fill("alpha", 5, 400);
    let mut intruder = Segment::create(&cluster.replicas[0].wal("alpha"), 77);
    intruder.records(3, 100);
    let await_state = |cluster: &mut Cluster, state| {
        until(&format!("it is {state:?}"), || {
            let replica = cluster.replica(0, "alpha")?;
            (replica.state == state).then_some(replica)
        })
    };
    let replica = await_state(&mut cluster, ReplicaState::Degraded);
    assert_eq!(replica.flushed_lsn, segment.len());
    assert!(replica.problem.is_some());
    // Nothing is durable in the catalog yet of what the session had: what it knew
    // is told all the same, and that nobody knows whether it still holds.
    let space = cluster.replicas[0].space("alpha").unwrap();
    let told = (space.flushed_lsn, space.head_lsn, space.head_known);
    assert_eq!(told, (Some(segment.len()), segment.len(), false), "{space:?}");
    let (code, text) = verify(&mut cluster);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("NOT COMPARED") && text.contains("replica-1 does not know"), "{text}");
    fs::remove_file(&intruder.path).unwrap();
    let replica = await_state(&mut cluster, ReplicaState::Healthy);
    assert_eq!((replica.problem, replica.flushed_lsn), (None, segment.len()));
    until("it knows what it has", || {
        let space = cluster.replicas[0].space("alpha")?;
        (space.head_known && space.flushed_lsn == Some(segment.len())).then_some(())
    });
    let (code, text) = verify(&mut cluster);
    assert_eq!(code, Some(0), "{text}");
    // Nor is it remembered against the connection that comes next.
    cluster.replicas[0].terminate();
    until("it is known to be away", || {
        (cluster.replica(0, "alpha")?.state != ReplicaState::Healthy).then_some(())
    });
    cluster.replicas[0].restart();
    await_state(&mut cluster, ReplicaState::Healthy);
}

#[test]
fn records_that_a_database_appended_to_a_copy_are_never_acknowledged_as_the_primarys() {
    // Of another length than the primary's next one, of the same, and no record.
    let intrusions = [record(9, 300), record(9, 400), vec![7; 5000]];
    for (running, intrusion) in intrusions.iter().flat_map(|bytes| [(true, bytes), (false, bytes)])
    {
        let mut cluster = Cluster::start(BACKENDS[0], 1);
        let mut segment = cluster.fill("alpha", 5, 400);
        let before = segment.len();
        let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
        if !running {
            cluster.replicas[0].terminate();
        }
        fs::File::options().append(true).open(&copy).unwrap().write_all(intrusion).unwrap();
        segment.records(3, 400);
        if running {
            until("it is noticed before it is written over", || {
                let log = cluster.replicas[0].log();
                log.contains("another process writes to it").then_some(())
            });
        } else {
            cluster.replicas[0].restart();
        }
        if intrusion[0] == 7 {
            // Nothing that a log could be: it is set aside, and all goes on.
            cluster.await_flushed("alpha", segment.len());
            cluster.assert_identical("alpha");
            let root = cluster.replicas[0].spec.data_root.join(".saltus/quarantine");
            let kept = saltus::engine::quarantine::list(&root).unwrap();
            assert_eq!(kept.len(), 1, "{kept:?}");
            continue;
        }
        let why = format!("the replica holds other records than this node behind {before}");
        let replica = until("the primary says whose they are not", || {
            let replica = cluster.replica(0, "alpha")?;
            replica.problem.as_ref()?.contains(&why).then_some(replica)
        });
        assert!(replica.flushed_lsn <= before, "{replica:?}");
        // What was acknowledged is there, and what somebody wrote behind it.
        let bytes = fs::read(&copy).unwrap();
        let whole = fs::read(&segment.path).unwrap();
        let before = usize::try_from(before).unwrap();
        assert_eq!(bytes[..before], whole[..before]);
        assert_eq!(&bytes[before..], intrusion);
    }
}
