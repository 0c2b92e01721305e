//! Nodes that have lost their state directory, or find it damaged, and get a
//! new catalog from the bytes that they have.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/cluster.rs"]
mod cluster;
#[path = "replication/compaction.rs"]
mod compaction;
#[expect(dead_code, reason = "shared with the tests of failing machinery")]
#[path = "faults/disk.rs"]
mod disk;
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/feed.rs"]
mod feed;
#[path = "rebuild/received.rs"]
mod received;
#[path = "rebuild/refused.rs"]
mod refused;
#[path = "rebuild/shipped.rs"]
mod shipped;
#[path = "../src/skipped.rs"]
mod skipped;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use saltus::engine::quarantine::{Piece, list};

use crate::cluster::{Cluster, Node, until};
use crate::feed::{Segment, record};

fn state(node: &Node) -> PathBuf {
    node.spec.data_root.join(".saltus")
}

fn lose(node: &Node) {
    fs::remove_dir_all(state(node)).unwrap();
}

/// `saltus rebuild` of a replica, from the primary.
fn rebuild(cluster: &Cluster, more: &[&str]) -> Output {
    command(cluster, more).output().unwrap()
}

fn command(cluster: &Cluster, more: &[&str]) -> Command {
    rebuilding(&cluster.replicas[0], cluster.primary.spec.admin, more)
}

fn rebuilding(node: &Node, from: SocketAddr, more: &[&str]) -> Command {
    let config = node.spec.directory.join(format!("{}.toml", node.spec.id));
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
    command.arg("rebuild").arg("--config").arg(config);
    command.arg("--from").arg(from.to_string()).args(more);
    command
}

/// What it says, if it ends with this exit code.
#[track_caller]
fn said(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// Bytes of records that the primary has sent to the first replica.
fn sent(cluster: &mut Cluster, space: &str) -> u64 {
    cluster.replica(0, space).unwrap().sent_bytes_by_strategy.values().sum()
}

fn pieces(node: &Node) -> Vec<Piece> {
    list(&state(node).join("quarantine")).unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// The copy of a segment on the first replica.
fn copy(cluster: &Cluster, segment: &Segment) -> PathBuf {
    cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap())
}

/// A log in which two segments grow in turn, the later one with the smaller
/// name. About 90 KiB, all of it on the replica.
fn in_turns(cluster: &mut Cluster) -> (Segment, Segment) {
    let wal = cluster.primary.wal("alpha");
    let mut first = Segment::create(&wal, 9);
    first.records(20, 1000);
    cluster.await_flushed("alpha", first.len());
    let mut second = Segment::create(&wal, 3);
    let mut written = first.len();
    for round in 0..3 {
        for segment in [&mut second, &mut first] {
            let before = segment.len();
            segment.records(10 + round, 1000);
            written += segment.len() - before;
            cluster.await_flushed("alpha", written);
        }
    }
    (first, second)
}

/// The replica goes on from what it has: everything arrives, and less than
/// `most` bytes are shipped for it.
#[track_caller]
fn assert_goes_on(cluster: &mut Cluster, lsn: u64, most: u64) {
    let before = sent(cluster, "alpha");
    cluster.replicas[0].restart();
    // What it has is known once it has said so on a new connection.
    until("the replica has everything", || {
        let replica = cluster.replica(0, "alpha")?;
        (replica.flushed_lsn == lsn && replica.lag.seconds == Some(0.0)).then_some(())
    });
    cluster.await_flushed("alpha", lsn);
    cluster.assert_identical("alpha");
    let shipped = sent(cluster, "alpha") - before;
    assert!(shipped <= most, "{shipped} bytes were shipped, {most} were missing");
    until("all is well", || {
        let status = cluster.primary.space("alpha")?;
        (status.problem.is_none() && status.replicas.iter().all(|r| r.problem.is_none()))
            .then_some(())
    });
}

/// Records that no primary has written.
fn foreign(count: u64) -> Vec<u8> {
    (0..count).flat_map(|number| record(7000 + number, 500)).collect()
}
