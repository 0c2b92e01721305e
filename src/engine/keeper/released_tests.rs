//! Facts about a stream whose older segments were let go of, on a host that
//! crashes.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use crossbeam::channel::unbounded;

use super::tests::keeper_of;
use super::*;
use crate::engine::primary;
use crate::io::Waker;
use crate::limits::{RELEASE_AFTER, RELEASE_PROBE_AFTER};
use crate::lsn::Lsn;
use crate::protocol::frame::Handle;
use crate::protocol::sender::Found;
use crate::state::host::ThisHost;
use crate::wal::record::Header;

const RECORD: u64 = 264;

/// A primary: a space, and the keeper that it has its files from.
struct Node {
    keeper: Keeper,
    news: Receiver<News>,
    space: primary::space::Space,
    /// Where new epochs began.
    epochs: Vec<Lsn>,
    /// Files that end otherwise than an earlier process had walked them.
    otherwise: BTreeMap<u64, Lsn>,
}

fn alpha() -> SpaceId {
    "alpha".parse().unwrap()
}

impl Node {
    /// A process that takes over what lies there.
    fn start(root: &Path) -> Self {
        let state_dir = root.join(".saltus");
        let places = Places { data_root: root.to_path_buf(), state_dir, host: Arc::new(ThisHost) };
        let mut keeper = keeper_of(&places);
        let (tell, news) = unbounded();
        keeper.mailboxes = vec![Mailbox { news: tell, waker: Waker::new(|| {}) }];
        let space = primary::space::Space::new(alpha(), Handle(0), 0, Checksums::Required);
        let (epochs, otherwise) = (Vec::new(), BTreeMap::new());
        let mut node = Self { keeper, news, space, epochs, otherwise };
        node.look();
        node
    }

    /// List the directory, and walk to the end of what is there.
    fn look(&mut self) {
        self.keep(vec![Job::ScanSpace { shard: 0, space: alpha() }]);
        while self.space.wants_turn() {
            let turn = self.space.advance(Instant::now());
            for (_, start, _) in turn.prefetch {
                self.space.prefetched(start);
            }
            self.keep(turn.jobs);
        }
    }

    /// As one batch of the keeper; its news reach the space.
    fn keep(&mut self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.keeper.handle(job));
        self.keeper.publish();
        for news in self.news.try_iter().collect::<Vec<_>>() {
            match news {
                News::Space { record, found, otherwise, named, .. } => {
                    if let Some(record) = record {
                        self.space.learn(*record);
                    }
                    self.space.found(found);
                    self.space.names(&named.unwrap());
                    self.space.end_otherwise(&otherwise);
                    self.otherwise.extend(otherwise);
                }
                News::Segment { file, result, .. } => self.space.reopened(file, result),
                News::EpochBegun { result, .. } => {
                    let record = result.unwrap();
                    self.epochs.push(record.history.last().unwrap().1);
                    self.space.reign(*record);
                }
                _ => {}
            }
        }
    }

    /// The stream ends there, and who stands at its end is served.
    fn stands_at(&mut self, lsn: u64) {
        assert_eq!(self.space.head().lsn, Lsn(lsn));
        let found = self.space.answer_at(Lsn(lsn), Lsn(lsn), u32::MAX, &mut Vec::new());
        assert!(matches!(found, Some(Found::Mark(mark)) if mark.lsn == Lsn(lsn)), "{found:?}");
    }
}

/// A root with a space in which nothing is written yet.
fn with_a_wal() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("alpha/wal")).unwrap();
    directory
}

fn segment(root: &Path, number: u64) -> PathBuf {
    root.join("alpha/wal").join(crate::ids::SegmentName(number).to_string())
}

fn write(root: &Path, number: u64) {
    let payload = [u8::try_from(number).unwrap(); 200];
    let header = Header::new(0, 1, 1, &payload).unwrap();
    std::fs::write(segment(root, number), [&header.encode()[..], &payload].concat()).unwrap();
}

/// Every replica had the first segment, it had lost its name, and its pin was
/// released. When a crash of the host then took the second one, the first was
/// taken for lost as well, and the stream was cut at 0.
#[test]
fn what_was_let_go_of_is_not_taken_for_lost_in_a_crash_of_the_host() {
    let directory = with_a_wal();
    let root = directory.path();
    write(root, 1);
    let mut node = Node::start(root);
    write(root, 2);
    node.look();
    let aside = root.join("aside");
    std::fs::rename(segment(root, 1), &aside).unwrap();
    node.look();
    let spare = node.space.spare(Instant::now() + RELEASE_AFTER);
    let jobs = node.space.release(Lsn(u64::MAX), &spare);
    assert!(matches!(&jobs[..], [.., Job::Release { file: 1, .. }]), "{jobs:?}");
    node.keep(jobs);
    assert!(!node.keeper.pins.path(&alpha(), 1).exists());
    let pin = node.keeper.pins.path(&alpha(), 2);
    let released = node.keeper.pins.path(&alpha(), 1);
    drop(node);

    // The names of the second one had not reached the disk.
    std::fs::remove_file(segment(root, 2)).unwrap();
    std::fs::remove_file(pin).unwrap();
    // The removal of the pin had not either, nor the end of the file.
    std::fs::File::options().write(true).open(&aside).unwrap().set_len(100).unwrap();
    std::fs::rename(&aside, &released).unwrap();
    let mut node = Node::start(root);
    assert!(!released.exists());
    assert_eq!(node.epochs, [Lsn(RECORD)], "the cut stops where what was let go of ends");
    node.stands_at(RECORD);
    drop(node);

    // Nor by a later start, whether there is something new or not.
    let mut node = Node::start(root);
    node.stands_at(RECORD);
    write(root, 3);
    node.look();
    node.stands_at(2 * RECORD);
    drop(node);
    let mut node = Node::start(root);
    node.stands_at(2 * RECORD);
    assert_eq!(node.epochs, [], "nothing was lost since");
    // What the crash took is named, what was let go of is not.
    let problem = node.space.problem().unwrap_or_default();
    assert!(!problem.contains(&crate::ids::SegmentName(1).to_string()), "{problem}");
    let record = &node.keeper.catalog.load().unwrap()[&alpha()];
    let runs: Vec<_> = record.runs.iter().map(|(_, run)| (run.file, run.start.0)).collect();
    assert_eq!(runs, [(1, 0), (3, RECORD)]);
}

fn append(root: &Path, number: u64) {
    append_as(root, number, 1);
}

fn append_as(root: &Path, number: u64, sequence: u64) {
    use std::io::Write;
    let header = Header::new(sequence, 1, 1, &[9; 200]).unwrap();
    let mut file = std::fs::File::options().append(true).open(segment(root, number)).unwrap();
    file.write_all(&[&header.encode()[..], &[9; 200]].concat()).unwrap();
}

/// A writer went on with a segment when another one had been begun; both lost
/// their names to a snapshot, and the other one was let go of. Of what a crash of
/// the host then took of the first one, nobody found out where it began: the space
/// stopped until a person promoted a replica.
#[test]
fn what_a_crash_took_before_what_was_let_go_of_is_found_by_a_start() {
    for (left, begins) in [(100, 0), (RECORD, 1), (RECORD + 64, 1), (3 * RECORD, 4)] {
        let directory = with_a_wal();
        let root = directory.path();
        write(root, 1);
        append(root, 1);
        let mut node = Node::start(root);
        write(root, 2);
        node.look();
        append(root, 1);
        append(root, 1);
        node.space.touch(Some(crate::ids::SegmentName(1)));
        node.look();
        write(root, 3);
        node.look();
        node.stands_at(6 * RECORD);
        let pin = node.keeper.pins.path(&alpha(), 1);
        let writer = std::fs::File::options().append(true).open(&pin).unwrap();
        for number in [1, 2] {
            std::fs::remove_file(segment(root, number)).unwrap();
        }
        node.look();
        let spare = node.space.spare(Instant::now() + RELEASE_PROBE_AFTER);
        let jobs = node.space.release(Lsn(u64::MAX), &spare);
        assert!(matches!(&jobs[..], [_, Job::Release { file: 2, .. }]), "{jobs:?}");
        node.keep(jobs);
        drop((node, writer));

        std::fs::File::options().write(true).open(&pin).unwrap().set_len(left).unwrap();
        let mut node = Node::start(root);
        assert_eq!(node.epochs, [Lsn(begins * RECORD)], "{left} bytes are left");
        // What is left, and the snapshot.
        node.stands_at((begins + 1) * RECORD);
        drop(node);
        let mut node = Node::start(root);
        assert_eq!(node.epochs, [], "nothing was lost since");
        node.stands_at((begins + 1) * RECORD);
        assert_eq!(node.space.problem(), None);
    }
}

/// A crash of the host took the end of a segment, and the database wrote as much again
/// before the node was started: of a segment that it had left for another, or of the
/// newest. Nobody looked at what is as long as it was.
#[test]
fn what_is_as_long_as_it_was_and_ends_otherwise_is_found_by_a_start() {
    for (taken, begins) in [(1, 0), (2, 2), (3, 3)] {
        let directory = with_a_wal();
        let root = directory.path();
        for number in 1..=3 {
            write(root, number);
            let mut node = Node::start(root);
            if number == 1 {
                append(root, number);
                node.space.touch(Some(crate::ids::SegmentName(number)));
                node.look();
            }
            let change = Change::AddMark(node.space.head());
            node.keep(vec![Job::Commit { shard: 0, ticket: None, space: alpha(), change }]);
        }
        let file = std::fs::File::options().write(true).open(segment(root, taken)).unwrap();
        let records = file.metadata().unwrap().len() / RECORD;
        file.set_len(0).unwrap();
        (0..records).for_each(|at| append_as(root, taken, 7 + at));
        let mut node = Node::start(root);
        assert!(node.otherwise.keys().eq(&[taken]), "{:?}", node.otherwise);
        assert_eq!(node.epochs, [Lsn(begins * RECORD)], "segment {taken}");
        node.stands_at(4 * RECORD);
        drop(node);
        let mut node = Node::start(root);
        assert_eq!(node.epochs, [], "nothing was lost since");
        assert_eq!(node.otherwise, [].into());
        node.stands_at(4 * RECORD);
    }
}

/// The database goes on with a segment that it had left, and a crash takes more of that
/// than what it wrote last: what is looked at lies before the segments between.
#[test]
fn what_was_left_and_gone_on_with_is_looked_at_where_it_was_left() {
    let directory = with_a_wal();
    let root = directory.path();
    write(root, 1);
    append(root, 1);
    let mut node = Node::start(root);
    for number in [2, 3] {
        write(root, number);
        node.look();
    }
    append(root, 1);
    node.space.touch(Some(crate::ids::SegmentName(1)));
    node.look();
    node.stands_at(5 * RECORD);
    drop(node);
    let file = std::fs::File::options().write(true).open(segment(root, 1)).unwrap();
    file.set_len(RECORD).unwrap();
    append_as(root, 1, 7);
    append_as(root, 1, 8);
    let node = Node::start(root);
    assert_eq!(node.otherwise, [(1, Lsn(2 * RECORD))].into());
    assert_eq!(node.epochs, [Lsn(0)]);
}

/// A bit of a payload that flips changes no record for another. With zeroes behind it,
/// it looked like a write in progress: an epoch began, and cut what every replica had.
#[test]
fn a_payload_that_rots_is_not_taken_for_another_record() {
    for behind in [0, 300] {
        let directory = with_a_wal();
        let root = directory.path();
        write(root, 1);
        append(root, 1);
        let mut node = Node::start(root);
        write(root, 2);
        node.look();
        drop(node);
        let mut bytes = std::fs::read(segment(root, 1)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        bytes.resize(bytes.len() + behind, 0);
        std::fs::write(segment(root, 1), bytes).unwrap();
        let mut node = Node::start(root);
        assert_eq!((&node.otherwise, &node.epochs[..]), (&BTreeMap::new(), &[][..]));
        node.stands_at(3 * RECORD);
    }
}
