//! Logs whose beginning is gone, as a database's compaction leaves them.

use std::fs;
use std::path::PathBuf;

use saltus::cli::node::NodeSpec;
use saltus::ids::SegmentName;

use crate::cluster::{Cluster, Node, spec, until};
use crate::feed::Segment;

/// A compaction: a snapshot takes the place of every segment, and the writer
/// ends.
pub fn compact(node: &Node, space: &str, number: u64, records: usize, old: &[Segment]) -> Segment {
    let wal = node.wal(space);
    let mut snapshot = Segment::at(wal.join(format!("{}.tmp", SegmentName(number))));
    snapshot.records(records, 700);
    snapshot.rename(wal.join(SegmentName(number).to_string()));
    old.iter().for_each(Segment::unlink);
    snapshot
}

/// The names in a node's directory of pins.
pub fn pins(node: &Node, space: &str) -> Vec<String> {
    let directory: PathBuf = node.spec.data_root.join(".saltus/pins").join(space);
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A space whose first segment is gone, a replica that has all of it, and one
/// that is empty; the primary is still to be started. The second segment holds
/// that many records of 64 KiB behind its snapshot, and the head is at the
/// position that is given.
pub fn beginning_gone(each: impl Fn(&mut NodeSpec), records: usize) -> (Cluster, Segment, u64) {
    let mut cluster = Cluster::with(1, &each, |_| {});
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    let mut total = old.len();
    let mut new = compact(&cluster.primary, "alpha", 2, 9, &[old]);
    new.records(records, 64 << 10);
    total += new.len();
    cluster.await_flushed("alpha", total);
    until("the pin is gone", || (pins(&cluster.primary, "alpha").len() == 1).then_some(()));
    let mut late = spec("replica-2", cluster.directory.path(), true);
    each(&mut late);
    let late = Node::start(late);
    cluster.primary.terminate();
    cluster.primary.spec.replicas.push(late.as_replica());
    cluster.replicas.push(late);
    (cluster, new, total)
}
