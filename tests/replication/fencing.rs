//! Two primaries of one space: the reign that is over is refused, and obeys.

use std::fs;
use std::io::Write;
use std::path::Path;

use saltus::engine::status::ReplicaState;
use saltus::ids::{Epoch, SpaceId};
use saltus::lsn::Lsn;
use saltus::state::catalog::{Catalog, Change};

use crate::cluster::{Cluster, Node, spec, until};
use crate::feed::{Segment, record};

/// Another primary over the same log, as a promotion would leave one: the same
/// files, and a catalog in which epoch `epoch` begins at `start`.
fn successor(cluster: &Cluster, id: &str, replicas: &[usize], epoch: u64, start: u64) -> Node {
    let mut spec = spec(id, cluster.directory.path(), false);
    link_tree(&cluster.primary.spec.data_root, &spec.data_root);
    let catalog = Catalog::open(&spec.data_root.join(".saltus")).unwrap();
    let space: SpaceId = "alpha".parse().unwrap();
    let change = Change::Epoch { epoch: Epoch(epoch), start: Lsn(start) };
    catalog.commit(&[(space, change)]).unwrap();
    drop(catalog);
    spec.replicas = replicas.iter().map(|index| cluster.replicas[*index].as_replica()).collect();
    Node::start(spec)
}

/// A copy of a directory; segments and their pins are the same files.
fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            link_tree(&from, &to);
        } else if entry.file_name() == "catalog.redb" {
            fs::copy(&from, &to).unwrap();
        } else {
            fs::hard_link(&from, &to).unwrap();
        }
    }
}

/// Both replicas of the primary's `alpha` have failed, by an epoch.
#[track_caller]
fn await_fenced(cluster: &mut Cluster, epochs: [&str; 2]) {
    until("the primary is fenced on every link", || {
        let status = cluster.primary.space("alpha")?;
        let problem = status.problem.clone()?;
        let said = epochs.iter().all(|epoch| problem.contains(epoch));
        let failed = status.replicas.iter().all(|replica| replica.state == ReplicaState::Failed);
        (said && failed).then_some(())
    });
}

#[test]
fn a_fenced_primary_stops_on_every_link_and_says_so() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(10, 400);
    let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
    other.records(1, 10);
    cluster.await_flushed("alpha", segment.len());
    cluster.await_flushed("beta", other.len());
    cluster.primary.kill();

    // The first replica sees a higher epoch; the second has never heard of it.
    let mut next = successor(&cluster, "primary-2", &[0], 5, segment.len());
    until("the successor has its replica", || {
        let status = next.space("alpha")?;
        (status.epoch == Epoch(5) && status.replicas[0].lag.seconds == Some(0.0)).then_some(())
    });
    next.kill();

    let before = segment.len();
    cluster.primary.restart();
    segment.records(5, 400);
    await_fenced(&mut cluster, ["epoch 1", "epoch 5"]);
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    assert_eq!(fs::metadata(&copy).unwrap().len(), before, "not a byte of the stale epoch");
    other.records(1, 10);
    cluster.await_flushed("beta", other.len());

    // Nothing but a person unfences it: neither a restart, nor that those who
    // know of it are away, nor a source that changes.
    cluster.replicas[0].kill();
    cluster.primary.kill();
    cluster.primary.restart();
    fs::File::options().write(true).open(&segment.path).unwrap().set_len(464).unwrap();
    other.records(1, 10);
    until("the other space is shipped to who is there", || {
        (cluster.replica(1, "beta")?.flushed_lsn == other.len()).then_some(())
    });
    await_fenced(&mut cluster, ["epoch 1", "epoch 5"]);
    let status = cluster.primary.space("alpha").unwrap();
    assert_eq!((status.epoch, status.highest_epoch), (Epoch(1), Some(Epoch(5))));
}

#[test]
fn a_reign_that_is_over_does_not_hold_up_the_one_that_is() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 10, 400);
    // The old primary lives, is connected, and has the space.
    cluster.primary.signal(nix::sys::signal::Signal::SIGSTOP);
    let mut next = successor(&cluster, "primary-2", &[0], 2, segment.len());
    cluster.primary.signal(nix::sys::signal::Signal::SIGCONT);
    until("the successor ships", || {
        let status = next.space("alpha")?;
        (status.replicas[0].lag.seconds == Some(0.0)).then_some(())
    });
    await_fenced(&mut cluster, ["epoch 1", "epoch 2"]);
    // Directories are watched, so the writer goes on under the successor's name.
    let name = segment.path.file_name().unwrap().to_owned();
    let more: Vec<u8> = (10..13).flat_map(|sequence| record(sequence, 400)).collect();
    let path = next.wal("alpha").join(&name);
    fs::File::options().append(true).open(path).unwrap().write_all(&more).unwrap();
    segment.content.extend(&more);
    until("the successor ships on", || {
        (next.space("alpha")?.replicas[0].flushed_lsn == segment.len()).then_some(())
    });
    let copy = cluster.replicas[0].wal("alpha").join(name);
    assert!(fs::read(copy).unwrap() == segment.content);
}
