//! A primary's catalog, made anew: its streams go on.

use std::fs;
use std::process::Output;

use saltus::cli::node::NodeSpec;
use saltus::ids::Epoch;

use crate::cluster::{BACKENDS, Cluster, Node, spec, until};
use crate::compaction::{beginning_gone, compact};
use crate::feed::Segment;
use crate::{flip, foreign, in_turns, lose, pieces, rebuilding, said};

/// `saltus rebuild` of the primary, from a replica.
fn rebuild(cluster: &Cluster, replica: usize, more: &[&str]) -> Output {
    let from = cluster.replicas[replica].spec.admin;
    rebuilding(&cluster.primary, from, more).output().unwrap()
}

/// The streams go on on every replica, with at most so many bytes for each.
#[track_caller]
fn assert_goes_on(cluster: &mut Cluster, lsn: u64, most: &[u64]) {
    cluster.primary.restart();
    cluster.await_flushed("alpha", lsn);
    cluster.assert_identical("alpha");
    for (index, most) in most.iter().enumerate() {
        let replica = cluster.replica(index, "alpha").unwrap();
        let sent: u64 = replica.sent_bytes_by_strategy.values().sum();
        assert!(sent <= *most, "{sent} bytes were shipped, {most} were missing");
    }
    until("all is well", || {
        let status = cluster.primary.space("alpha")?;
        (status.problem.is_none() && status.replicas.iter().all(|r| r.problem.is_none()))
            .then_some(())
    });
}

#[test]
fn a_primary_without_its_state_directory_goes_on_with_its_stream() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let (mut first, mut second) = in_turns(&mut cluster);
        let had = first.len() + second.len();
        cluster.primary.kill();
        lose(&cluster.primary);
        second.records(3, 700);
        first.records(2, 700);
        let text = said(&rebuild(&cluster, 0, &["--check"]), 0);
        assert!(text.contains(&format!("alpha: can be rebuilt up to lsn {had}:")), "{text}");
        let text = said(&rebuild(&cluster, 0, &[]), 0);
        assert!(text.contains(&format!("alpha: REBUILT up to lsn {had}:")), "{text}");
        assert_goes_on(&mut cluster, had + 5 * 764, &[5 * 764; 2]);
        assert!(cluster.replicas.iter().all(|replica| pieces(replica).is_empty()));
        let status = cluster.primary.space("alpha").unwrap();
        assert_eq!(status.epoch, Epoch(2), "nobody knows what the lost catalog told others");
        // As a catalog that was never lost.
        cluster.primary.kill();
        first.records(1, 700);
        Segment::create(&cluster.primary.wal("alpha"), 4).records(1, 700);
        cluster.primary.restart();
        cluster.await_flushed("alpha", had + 7 * 764);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_replica_that_has_more_than_the_one_that_was_asked_is_matched() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 10, 400);
    cluster.replicas[0].terminate();
    segment.records(5, 400);
    let mut next = Segment::create(&cluster.primary.wal("alpha"), 2);
    next.records(5, 400);
    until("the second replica has all of it", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == 20 * 464).then_some(())
    });
    cluster.primary.kill();
    lose(&cluster.primary);
    cluster.replicas[0].restart();
    let text = said(&rebuild(&cluster, 0, &[]), 0);
    assert!(text.contains("REBUILT up to lsn 4640:"), "{text}");
    assert_goes_on(&mut cluster, 20 * 464, &[10 * 464; 2]);
    let kept: u64 = pieces(&cluster.replicas[1]).iter().map(|piece| piece.bytes).sum();
    assert_eq!(kept, 10 * 464, "what it had in addition is kept");
}

#[test]
fn segments_that_the_database_has_removed_are_not_needed() {
    for idle in [true, false] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let wal = cluster.primary.wal("alpha");
        let mut old = Segment::create(&wal, 1);
        old.records(10, 400);
        cluster.await_flushed("alpha", old.len());
        let mut live = Segment::create(&wal, 2);
        live.records(10, 400);
        let mut lsn = old.len() + live.len();
        cluster.await_flushed("alpha", lsn);
        // A restart records how far it is.
        cluster.replicas[0].terminate();
        cluster.replicas[0].restart();
        if !idle {
            live.records(3, 400);
            lsn += 3 * 464;
            cluster.await_flushed("alpha", lsn);
        }
        cluster.primary.terminate();
        old.unlink();
        lose(&cluster.primary);
        let text = said(&rebuild(&cluster, 0, &[]), 0);
        assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
        assert!(text.contains("1 segment of the stream removed"), "{text}");
        live.records(2, 400);
        lsn += 2 * 464;
        cluster.primary.restart();
        cluster.await_flushed("alpha", lsn);
        let copy = cluster.replicas[0].wal("alpha").join(live.path.file_name().unwrap());
        assert_eq!(fs::read(copy).unwrap(), live.content);
        assert_eq!(cluster.primary.space("alpha").unwrap().problem, None);
    }
}

/// It has never had what lies before its base, and neither has the primary any
/// more: what both have is the stream from there on.
#[test]
fn a_replica_that_was_filled_anew_is_enough() {
    let (mut cluster, mut segment, mut lsn) = beginning_gone(|_| {}, 5);
    cluster.primary.restart();
    cluster.await_flushed("alpha", lsn);
    cluster.await_identical("alpha");
    until("the seed is over", || {
        cluster.replicas[1].space("alpha")?.seeding.is_none().then_some(())
    });
    cluster.primary.kill();
    lose(&cluster.primary);
    let text = said(&rebuild(&cluster, 1, &["--check"]), 0);
    assert!(text.contains(&format!("alpha: can be rebuilt up to lsn {lsn}:")), "{text}");
    let text = said(&rebuild(&cluster, 1, &[]), 0);
    assert!(text.contains(&format!("alpha: REBUILT up to lsn {lsn}:")), "{text}");
    segment.records(3, 700);
    lsn += 3 * 764;
    // Nothing twice, neither to the one that has all of it from the start.
    assert_goes_on(&mut cluster, lsn, &[3 * 764; 2]);
    assert!(cluster.replicas.iter().all(|replica| pieces(replica).is_empty()));
    // A replica can be rebuilt from what was rebuilt.
    cluster.replicas[1].kill();
    lose(&cluster.replicas[1]);
    let from = cluster.primary.spec.admin;
    let text = said(&rebuilding(&cluster.replicas[1], from, &[]).output().unwrap(), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
    cluster.replicas[1].restart();
    // An empty one is filled, and all go on over restarts and a compaction.
    let late = Node::start(spec("replica-3", cluster.directory.path(), true));
    cluster.primary.terminate();
    cluster.primary.spec.replicas.push(late.as_replica());
    cluster.replicas.push(late);
    cluster.primary.restart();
    cluster.await_flushed("alpha", lsn);
    cluster.await_identical("alpha");
    let new = compact(&cluster.primary, "alpha", 3, 9, &[segment]);
    lsn += new.len();
    cluster.await_flushed("alpha", lsn);
    cluster.await_identical("alpha");
    for node in std::iter::once(&mut cluster.primary).chain(&mut cluster.replicas) {
        node.kill();
        node.restart();
    }
    cluster.await_flushed("alpha", lsn);
    cluster.assert_identical("alpha");
}

#[test]
fn a_primary_whose_disk_was_replaced_goes_on_from_a_copy_of_the_replica() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.primary.kill();
    let root = cluster.primary.spec.data_root.clone();
    fs::remove_dir_all(&root).unwrap();
    cluster.replicas[0].terminate();
    fs::create_dir_all(cluster.primary.wal("alpha")).unwrap();
    for segment in [&first, &second] {
        let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
        fs::copy(copy, &segment.path).unwrap();
    }
    cluster.replicas[0].restart();
    let text = said(&rebuild(&cluster, 0, &[]), 0);
    assert!(text.contains("REBUILT"), "{text}");
    // The database begins another segment.
    Segment::create(&cluster.primary.wal("alpha"), 11).records(2, 700);
    assert_goes_on(&mut cluster, first.len() + second.len() + 2 * 764, &[2 * 764; 2]);
}

#[test]
fn what_was_left_out_stays_left_out_and_named() {
    let each = |spec: &mut NodeSpec| spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
    let mut cluster = Cluster::with(1, each, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(5, 400).raw(&[0xab; 333]).records(5, 400);
    let lsn = segment.len() - 333;
    cluster.await_flushed("alpha", lsn);
    cluster.primary.terminate();
    lose(&cluster.primary);
    let text = said(&rebuild(&cluster, 0, &[]), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
    segment.records(1, 400);
    cluster.primary.restart();
    cluster.await_flushed("alpha", lsn + 464);
    let holes = cluster.primary.space("alpha").unwrap().holes;
    let places: Vec<_> = holes.iter().map(|hole| (hole.offset, hole.bytes, hole.lsn)).collect();
    assert_eq!(places, [(5 * 464, 333, 5 * 464)]);
}

/// As a service manager does it: the node begins new streams, which the replica
/// refuses.
#[test]
fn a_primary_that_was_started_without_its_catalog_can_still_be_rebuilt() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.primary.kill();
    lose(&cluster.primary);
    cluster.primary.restart();
    cluster.primary.await_problem("alpha", "see there whether that can be rebuilt");
    cluster.primary.terminate();
    let text = said(&rebuild(&cluster, 0, &[]), 1);
    assert!(text.contains("NOT REBUILT") && text.contains("--space alpha"), "{text}");
    let text = said(&rebuild(&cluster, 0, &["--space", "alpha"]), 0);
    assert!(text.contains("REBUILT"), "{text}");
    assert_goes_on(&mut cluster, first.len() + second.len(), &[0]);
    let text = said(&rebuild(&cluster, 0, &[]), 3);
    assert!(text.contains("open in another process"), "{text}");
    cluster.primary.terminate();
    let text = said(&rebuild(&cluster, 0, &[]), 0);
    assert!(text.contains("in the catalog already"), "{text}");
}

#[test]
fn a_log_that_no_replica_has_is_not_taken_for_the_stream() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 5, 400);
    cluster.primary.terminate();
    lose(&cluster.primary);
    // A rotten payload is the same record, by its header.
    flip(&segment.path, 464 + 100);
    let text = said(&rebuild(&cluster, 0, &["--check"]), 1);
    assert!(text.contains("ROTTEN") && text.contains("saltus repair"), "{text}");
    fs::write(&segment.path, foreign(8)).unwrap();
    let text = said(&rebuild(&cluster, 0, &[]), 1);
    assert!(text.contains("NOT REBUILT") && text.contains("another log"), "{text}");
    fs::remove_file(&segment.path).unwrap();
    Segment::create(&cluster.primary.wal("alpha"), 9).raw(&foreign(3));
    let text = said(&rebuild(&cluster, 0, &[]), 1);
    assert!(text.contains("NOT REBUILT") && text.contains("no segment is left"), "{text}");
    let unused = |node: &Node| node.spec.data_root.join(".saltus/quarantine").exists();
    assert!(!unused(&cluster.primary), "the database owns its files");
}
