//! What an operator may change, and what scripts do to files.

use std::fs;

use saltus::ids::SegmentName;
use saltus::wal::discover;

use crate::cluster::{Cluster, Node, spec, until};
use crate::feed::Segment;

#[test]
fn a_replica_that_joins_late_gets_everything_also_what_has_no_name() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    let mut new = Segment::create(&wal, 2);
    for _ in 0..3 {
        old.records(3, 700);
        cluster.await_flushed("alpha", old.len() + new.len());
        new.records(2, 300_000);
        cluster.await_flushed("alpha", old.len() + new.len());
    }
    // Another file takes the name of the first, and the second loses its.
    new.unlink();
    let mut third = Segment::at(wal.join("third.tmp"));
    third.records(4, 100);
    third.rename(wal.join(SegmentName(1).to_string()));
    let total = old.len() + new.len() + third.len();
    cluster.await_flushed("alpha", total);

    let late = Node::start(spec("replica-2", cluster.directory.path(), true));
    cluster.primary.terminate();
    cluster.primary.spec.replicas.push(late.as_replica());
    cluster.replicas.push(late);
    cluster.primary.restart();
    cluster.await_flushed("alpha", total);
    cluster.await_identical("alpha");
    for replica in &cluster.replicas {
        let named = fs::read(replica.wal("alpha").join(SegmentName(1).to_string())).unwrap();
        assert!(named == third.content);
        assert!(fs::read(replica.retired("alpha", 1)).unwrap() == old.content);
        assert!(fs::read(replica.retired("alpha", 2)).unwrap() == new.content);
    }
}

#[test]
fn the_number_of_shards_may_change() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let mut segments: Vec<_> = (0..8)
        .map(|number| {
            let space = format!("space-{number}");
            let mut segment = Segment::create(&cluster.primary.wal(&space), 1);
            segment.records(20, 1000);
            (space, segment)
        })
        .collect();
    for (primary, replica) in [(3, 1), (2, 4), (1, 1)] {
        for (space, segment) in &mut segments {
            cluster.await_flushed(space, segment.len());
            segment.records(20, 1000);
        }
        cluster.primary.kill();
        cluster.primary.spec.shards = primary;
        cluster.primary.restart();
        cluster.replicas[0].kill();
        cluster.replicas[0].spec.shards = replica;
        cluster.replicas[0].restart();
    }
    for (space, segment) in &segments {
        cluster.await_flushed(space, segment.len());
        cluster.assert_identical(space);
    }
}

/// A segment that has another name since what it holds was flushed.
fn renamed() -> (Cluster, Segment) {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut segment = Segment::create(&wal, 1);
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    segment.rename(wal.join(SegmentName(2).to_string()));
    (cluster, segment)
}

#[test]
fn a_segment_that_is_renamed_is_followed() {
    let (mut cluster, mut segment) = renamed();
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    // To a name that is none of a segment: a script archives it.
    segment.rename(cluster.primary.wal("alpha").join(".archive-2"));
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    let copy = cluster.replicas[0].wal("alpha").join(SegmentName(1).to_string());
    assert!(fs::read(copy).unwrap() == segment.content);
}

/// Its runs before the restart said the first name, and those behind it the second: a
/// replica looked for what it had under neither, when it was started again.
#[test]
fn a_segment_that_is_renamed_is_one_file_over_restarts() {
    let (mut cluster, mut segment) = renamed();
    let mut other = Segment::create(&cluster.primary.wal("alpha"), 3);
    other.records(3, 100);
    cluster.await_flushed("alpha", segment.len() + other.len());
    cluster.primary.kill();
    cluster.primary.restart();
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len() + other.len());
    cluster.replicas[0].kill();
    cluster.replicas[0].restart();
    other.records(3, 100);
    cluster.await_flushed("alpha", segment.len() + other.len());
    let status = cluster.replicas[0].status();
    assert_eq!(status.spaces[0].problem, None);
    let copies = cluster.replicas[0].wal("alpha");
    for (name, segment) in [(1, segment), (3, other)] {
        let copy = fs::read(copies.join(SegmentName(name).to_string())).unwrap();
        assert!(copy == segment.content, "{name}");
    }
    assert_eq!(discover::segments(&copies).unwrap().len(), 2);
}

#[test]
fn a_directory_that_is_made_anew_is_followed() {
    for whole in [true, false] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let wal = cluster.primary.wal("alpha");
        let mut segment = Segment::create(&wal, 1);
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        fs::remove_dir_all(if whole { wal.parent().unwrap() } else { &wal }).unwrap();
        let mut again = Segment::create(&wal, 2);
        again.records(3, 100);
        cluster.await_flushed("alpha", segment.len() + again.len());
        again.records(3, 100);
        cluster.await_flushed("alpha", segment.len() + again.len());
        let copy = cluster.replicas[0].wal("alpha").join(SegmentName(2).to_string());
        assert!(fs::read(copy).unwrap() == again.content);
    }
}

#[test]
fn wait_and_status_say_how_it_stands() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 3, 100);
    let admin = cluster.primary.spec.admin.to_string();
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_saltus"))
            .args(args)
            .args(["--admin", &admin])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(run(&["wait", "--space", "alpha"]).0, Some(0));
    assert!(run(&["status"]).1.contains("alpha"));
    // After a restart with nothing to do it is known to be caught up.
    cluster.primary.terminate();
    cluster.primary.restart();
    assert_eq!(run(&["wait", "--space", "alpha"]).0, Some(0));
    cluster.replicas[0].terminate();
    segment.records(3, 100);
    until("the primary has noticed", || {
        (cluster.primary.space("alpha")?.head_lsn == segment.len()).then_some(())
    });
    assert_eq!(run(&["wait", "--space", "alpha", "--timeout", "100ms"]).0, Some(1));
    cluster.replicas[0].restart();
    assert_eq!(run(&["wait", "--space", "alpha"]).0, Some(0));
}
