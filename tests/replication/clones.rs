//! A primary whose data root and catalog were copied, disk and all, as the clone
//! of a virtual machine is: the same node twice, and each goes on by itself.
//!
//! There is one directory here, which is now the one and now the other: a clone
//! has the same inodes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, until};
use crate::feed::{Segment, record};

/// Everything below a directory.
#[derive(Clone, Debug)]
struct Disk(Vec<(PathBuf, Vec<u8>)>);

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

impl Disk {
    fn of(root: &Path) -> Self {
        let mut found = Vec::new();
        files(root, &mut found);
        Self(found.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect())
    }

    /// As it was, in the same inodes.
    fn restore(&self, root: &Path) {
        let mut found = Vec::new();
        files(root, &mut found);
        for path in found.iter().filter(|path| !self.0.iter().any(|(known, _)| known == *path)) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &self.0 {
            fs::write(path, bytes).unwrap();
        }
    }
}

/// Bytes of one of the records here.
const RECORD: u64 = 464;

/// Five records on every replica, then a clone of the primary, which is down.
fn cloned(replicas: usize) -> (Cluster, Segment, Disk) {
    let mut cluster = Cluster::with(replicas, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 5, 400);
    cluster.primary.terminate();
    let disk = Disk::of(&cluster.primary.spec.data_root);
    (cluster, segment, disk)
}

/// Let the source have so many records of those that were shipped, and three of
/// its own.
fn goes_on(segment: &Segment, kept: u64, seed: u64) -> Vec<u8> {
    let mut content = segment.content[..usize::try_from(kept * RECORD).unwrap()].to_vec();
    content.extend((0..3).flat_map(|number| record(seed + number, 400)));
    fs::write(&segment.path, &content).unwrap();
    content
}

fn copy(cluster: &Cluster, replica: usize, segment: &Segment) -> Vec<u8> {
    let name = segment.path.file_name().unwrap();
    fs::read(cluster.replicas[replica].wal("alpha").join(name)).unwrap()
}

#[test]
fn two_clones_that_began_the_same_epoch_are_told_apart_and_nothing_is_cut() {
    let (mut cluster, segment, disk) = cloned(2);
    let root = cluster.primary.spec.data_root.clone();
    let both = cluster.primary.spec.replicas.clone();
    // One of them loses a record to a crash, and the first replica follows it
    // into epoch 2.
    let first = goes_on(&segment, 4, 100);
    cluster.primary.spec.replicas = vec![both[0].clone()];
    cluster.primary.restart();
    until("the first replica follows the first clone", || {
        (copy(&cluster, 0, &segment) == first
            && cluster.replica(0, "alpha")?.flushed_lsn == first.len() as u64)
            .then_some(())
    });
    assert_eq!(cluster.primary.space("alpha").unwrap().epoch.0, 2);
    cluster.primary.terminate();
    let one = Disk::of(&root);
    // The other one loses three, and the second replica follows that.
    disk.restore(&root);
    let second = goes_on(&segment, 2, 200);
    cluster.primary.spec.replicas = vec![both[1].clone()];
    cluster.primary.restart();
    until("the second replica follows the second clone", || {
        (copy(&cluster, 1, &segment) == second
            && cluster.replica(1, "alpha")?.flushed_lsn == second.len() as u64)
            .then_some(())
    });
    assert_eq!(cluster.primary.space("alpha").unwrap().epoch.0, 2);
    cluster.primary.terminate();
    let other = Disk::of(&root);
    // Now each of them meets the other's replica.
    for (clone, stranger, held) in [(other, 0, first), (one, 1, second)] {
        clone.restore(&root);
        cluster.primary.spec.replicas = both.clone();
        cluster.primary.restart();
        let why = "two primaries with copies of one catalog have each begun it";
        until("it is refused by name", || {
            let problem = cluster.replica(stranger, "alpha")?.problem?;
            problem.contains(why).then_some(())
        });
        assert_eq!(copy(&cluster, stranger, &segment), held, "nothing was cut");
        cluster.primary.terminate();
    }
}

#[test]
fn two_clones_that_go_on_in_one_epoch_never_mix() {
    let (mut cluster, segment, disk) = cloned(1);
    let root = cluster.primary.spec.data_root.clone();
    let first = goes_on(&segment, 5, 100);
    cluster.primary.restart();
    cluster.await_flushed("alpha", first.len() as u64);
    cluster.primary.terminate();
    let one = Disk::of(&root);
    // The other clone cannot know that it is one: for all it sees, its host went
    // down with the last records. It says so, and reigns from where they part.
    disk.restore(&root);
    let second = goes_on(&segment, 5, 200);
    cluster.primary.restart();
    cluster.await_flushed("alpha", second.len() as u64);
    let status = cluster.primary.space("alpha").unwrap();
    assert_eq!((status.epoch.0, status.epochs[1].start_lsn), (2, 5 * RECORD));
    assert_eq!(copy(&cluster, 0, &segment), second);
    let quarantine = cluster.replicas[0].spec.data_root.join(".saltus/quarantine");
    let kept = saltus::engine::quarantine::list(&quarantine).unwrap();
    assert_eq!(
        kept.iter().map(|piece| piece.manifest.as_ref().unwrap().bytes).sum::<u64>(),
        3 * RECORD,
        "{kept:?}"
    );
    cluster.primary.terminate();
    // The first one is fenced from then on.
    one.restore(&root);
    cluster.primary.restart();
    let status = cluster.primary.await_problem("alpha", "fenced");
    assert_eq!(status.epoch.0, 1);
    assert_eq!(copy(&cluster, 0, &segment), second);
}
