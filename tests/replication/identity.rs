//! Who may ship what to whom. Refusals are by name, and nothing is touched.

use std::fs;

use nix::sys::signal::Signal;
use saltus::config::Replica;
use saltus::engine::status::{ReplicaState, Role};

use crate::cluster::{Cluster, Node, spec, until};
use crate::feed::Segment;
use crate::reserved::Reserved;

/// Wait until what the primary says is wrong with its replica contains `text`.
#[track_caller]
fn await_refusal(primary: &mut Node, space: &str, text: &str) {
    let status = primary.await_problem(space, text);
    assert_eq!(status.replicas[0].flushed_lsn, 0);
    // None of them heals by itself.
    assert_eq!(status.replicas[0].state, ReplicaState::Failed);
}

#[test]
fn a_node_that_reaches_itself_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec("alone", directory.path(), true);
    spec.program = env!("CARGO_BIN_EXE_saltus").into();
    // Its own address, under another name, as a copied configuration has it.
    let reserved = Reserved::new();
    let free = reserved.address();
    spec.replication = Some(std::net::SocketAddr::from(([0, 0, 0, 0], free.port())));
    spec.replicas = vec![Replica { id: "other".parse().unwrap(), address: free }];
    let mut node = Node::start(spec);
    let mut segment = Segment::create(&node.wal("alpha"), 1);
    segment.records(3, 100);
    await_refusal(&mut node, "alpha", "itself");
    assert_eq!(fs::read(&segment.path).unwrap(), segment.content);
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::with(
        1,
        |spec| {
            if spec.replication.is_some() {
                spec.cluster = "elsewhere".parse().unwrap();
            }
        },
        |_| {},
    );
    Segment::create(&cluster.primary.wal("alpha"), 1).records(3, 100);
    await_refusal(&mut cluster.primary, "alpha", "elsewhere");
    assert!(!cluster.replicas[0].wal("alpha").exists());
}

#[test]
fn a_replica_of_another_name_is_refused() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.primary.terminate();
    cluster.primary.spec.replicas[0].id = "replica-9".parse().unwrap();
    cluster.primary.restart();
    Segment::create(&cluster.primary.wal("alpha"), 1).records(3, 100);
    await_refusal(&mut cluster.primary, "alpha", "replica-9");
    assert!(!cluster.replicas[0].wal("alpha").exists());
}

#[test]
fn a_space_that_is_written_on_both_nodes_is_refused() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    // The replica has a log of its own under that name.
    let mut theirs = Segment::create(&cluster.replicas[0].wal("alpha"), 1);
    theirs.records(2, 50);
    until("it is the replica's own", || {
        (cluster.replicas[0].space("alpha")?.role == Role::Primary).then_some(())
    });
    Segment::create(&cluster.primary.wal("alpha"), 1).records(3, 100);
    await_refusal(&mut cluster.primary, "alpha", "alpha");
    // Nothing was accepted, so nothing is shipped there.
    assert!(!cluster.replicas[0].log().contains("a primary ships here"));
    assert!(cluster.replicas[0].log().contains("refused"), "{}", cluster.logs());
    let status = cluster.replica(0, "alpha").unwrap();
    assert_eq!(status.state, ReplicaState::Failed);
    assert_eq!(fs::read(&theirs.path).unwrap(), theirs.content);
    // Another space is none the worse.
    let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
    other.records(1, 10);
    cluster.await_flushed("beta", other.len());
    assert_eq!(cluster.replicas[0].log().matches("a primary ships here").count(), 1);
}

#[test]
fn a_primary_that_lost_its_state_is_refused_and_nothing_is_overwritten() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 30, 1000);
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    cluster.primary.kill();
    fs::remove_dir_all(cluster.primary.spec.data_root.join(".saltus")).unwrap();
    let before = segment.content.clone();
    segment.records(5, 1000);
    cluster.primary.restart();
    await_refusal(&mut cluster.primary, "alpha", "another primary filled it");
    assert_eq!(cluster.replica(0, "alpha").unwrap().state, ReplicaState::Failed);
    assert!(fs::read(&copy).unwrap() == before);
}

#[test]
fn second_primary_of_a_name_is_refused_for_as_long_as_the_first_is_there() {
    let mut cluster = Cluster::with(1, |spec| spec.shards = 2, |_| {});
    let mut alpha = Segment::create(&cluster.primary.wal("alpha"), 1);
    alpha.records(3, 100);
    cluster.await_flushed("alpha", alpha.len());
    // Another host, whose configuration was copied from the first one's.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut second = spec("primary", elsewhere.path(), false);
    second.replicas = vec![cluster.replicas[0].as_replica()];
    let mut second = Node::start(second);
    let mut beta = Segment::create(&second.wal("beta"), 1);
    beta.records(3, 100);
    await_refusal(&mut second, "beta", "two nodes are called primary");
    assert!(cluster.replicas[0].log().contains("two nodes are called primary"));
    assert!(!cluster.replicas[0].wal("beta").exists());
    alpha.records(3, 100);
    cluster.await_flushed("alpha", alpha.len());
    // Once the first one has gone, the name is free.
    cluster.primary.terminate();
    until("the second one ships", || {
        let status = second.space("beta")?;
        (status.replicas[0].flushed_lsn == beta.len()).then_some(())
    });
    assert_eq!(second.space("beta").unwrap().replicas[0].state, ReplicaState::Healthy);
}

#[test]
fn two_primaries_cannot_fill_one_space() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 3, 100);
    // A copy of the first one's data and state, as a careless restore makes it.
    cluster.primary.signal(Signal::SIGSTOP);
    let mut second = spec("primary-2", cluster.directory.path(), false);
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(&cluster.primary.spec.data_root)
        .arg(&second.data_root)
        .status()
        .unwrap();
    assert!(copied.success());
    second.replicas = vec![cluster.replicas[0].as_replica()];
    let mut second = Node::start(second);
    let status = until("the second one is refused", || {
        let status = second.space("alpha")?;
        status.replicas[0].problem.is_some().then_some(status)
    });
    let problem = status.replicas[0].problem.as_ref().unwrap();
    assert!(problem.contains("alpha") || problem.contains("another"), "{problem}");
    cluster.primary.signal(Signal::SIGCONT);
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}
