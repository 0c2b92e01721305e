#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::question::Of;
use super::*;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::lsn::Mark;
use crate::state::catalog::{Change, FileRecord, Role};
use crate::state::runs::Run;
use crate::wal::record::{Header, verify};
use crate::wal::segment::Identity;

/// Bytes of each record: 64 of header, 236 of payload.
const RECORD: u64 = 300;

fn stream(records: u64) -> Vec<u8> {
    let record = |sequence: u64| {
        let payload: Vec<u8> = (0..236).map(|at| (sequence as u8) ^ at).collect();
        let header = Header::new(sequence, 1_000 + sequence, 1, &payload).unwrap();
        [header.encode().as_slice(), &payload].concat()
    };
    (0..records).flat_map(record).collect()
}

/// A node with one space, and who answers for it.
struct Node {
    root: tempfile::TempDir,
    catalog: Arc<Catalog>,
    prover: Prover,
}

impl Node {
    /// The stream in runs of these bytes, each in the file of that number.
    fn new(role: Role, stream: &[u8], runs: &[(u64, u64)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state_dir = root.path().join(".saltus");
        let catalog = Arc::new(Catalog::open(&state_dir).unwrap());
        let pins = Pins::open(&state_dir).unwrap();
        let host = Arc::new(crate::state::host::ThisHost);
        let places = Places { data_root: root.path().to_path_buf(), state_dir, host };
        let sources = (places, pins.clone(), Arc::clone(&catalog));
        let prover = Prover::start(sources.0, sources.1, sources.2, Checksums::Required).unwrap();
        let node = Self { root, catalog, prover };
        fs::create_dir_all(node.root.path().join("alpha/wal")).unwrap();
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        node.commit(Change::Create { role, stream: StreamId(5), history });
        let mut start = 0;
        for &(file, bytes) in runs {
            let path = node.segment(file);
            let mut content = fs::read(&path).unwrap_or_default();
            let offset = content.len() as u64;
            content.extend(&stream[start..start + bytes as usize]);
            fs::write(&path, content).unwrap();
            let segment = SegmentName(100 + file);
            if role == Role::Primary && offset == 0 {
                let identity = Identity::of(&File::open(&path).unwrap()).unwrap();
                let Identity { device, inode, birth_ns } = identity;
                node.commit(Change::AddFile(FileRecord { file, segment, device, inode, birth_ns }));
                let space = space();
                let mut pinning = pins.pin(&space);
                pinning.add(file, &path, (device, inode)).unwrap();
                pinning.finish().1.unwrap();
            }
            let run = Run { start: Lsn(start as u64), segment, file, offset, bytes: None };
            node.commit(Change::OpenRun(run));
            start += bytes as usize;
        }
        node
    }

    fn commit(&self, change: Change) {
        self.catalog.commit(&[(space(), change)]).unwrap();
    }

    fn segment(&self, file: u64) -> PathBuf {
        let name = SegmentName(100 + file).to_string();
        self.root.path().join("alpha/wal").join(name)
    }

    /// Change one byte of a file in place.
    fn flip(&self, file: u64, offset: usize) {
        let mut bytes = fs::read(self.segment(file)).unwrap();
        bytes[offset] ^= 1;
        fs::write(self.segment(file), bytes).unwrap();
    }

    fn ask(&self, question: &str) -> Result<Answer, ProofError> {
        let question = format!("space=alpha&{question}").parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.prover.ask(question))
    }
}

use std::fs::File;

fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

/// Files that grow in turn.
const IN_TURN: [(u64, u64); 5] = [(1, 6000), (2, 9000), (1, 3000), (3, 0), (2, 12000)];

fn differing(one: &Answer, other: &Answer) -> Vec<usize> {
    assert_eq!(one.digests.len(), other.digests.len());
    (0..one.digests.len()).filter(|&at| one.digests[at] != other.digests[at]).collect()
}

#[test]
fn one_stream_in_differently_cut_files_has_one_digest() {
    let stream = stream(100);
    let whole = Node::new(Role::Replica, &stream, &[(7, 30_000)]);
    for role in [Role::Primary, Role::Replica] {
        let cut = Node::new(role, &stream, &IN_TURN);
        for of in ["bytes", "headers"] {
            let question = format!("of={of}&from=0&to=30000&part=1024");
            let (one, other) = (whole.ask(&question).unwrap(), cut.ask(&question).unwrap());
            assert_eq!(one, other);
            assert_eq!(one.digests.len(), 30);
            assert!(one.digests.iter().all(Option::is_some));
            let mark = verify(&Mark::START, &stream, Checksums::Required).unwrap();
            let boundary = one.boundary.unwrap();
            assert_eq!((boundary.lsn, boundary.chain), (30_000, Some(format!("{:?}", mark.chain))));
            assert_eq!(one.records[1], Some(900));
        }
    }
}

#[test]
fn headers_of_large_records_are_found_between_small_ones() {
    let record = |sequence: u64, bytes: usize| {
        let payload = vec![sequence as u8; bytes];
        let header = Header::new(sequence, 1, 1, &payload).unwrap();
        [header.encode().as_slice(), &payload].concat()
    };
    let sizes = [3 << 20, 100, 3 << 20, 2 << 20, 100, 100, 1 << 20, 100, 3 << 20];
    let stream: Vec<u8> =
        (0..).zip(sizes).flat_map(|(sequence, bytes)| record(sequence, bytes)).collect();
    let to = stream.len() as u64;
    let first = 2 * 64 + (3 << 20) + 100;
    let good = Node::new(Role::Replica, &stream, &[(1, to)]);
    let bad = Node::new(Role::Primary, &stream, &[(1, first), (2, to - first)]);
    let question = format!("of=headers&from=0&to={to}&part=262144");
    let (one, other) = (good.ask(&question).unwrap(), bad.ask(&question).unwrap());
    assert_eq!(one, other);
    let mark = verify(&Mark::START, &stream, Checksums::Required).unwrap();
    assert_eq!(one.boundary.unwrap().chain, Some(format!("{:?}", mark.chain)));
    // The header of the fourth record, the second of its run.
    bad.flip(2, 64 + (3 << 20) + 10);
    let one = good.ask(&question).unwrap();
    let other = bad.ask(&question).unwrap();
    let lsn = first + 64 + (3 << 20);
    assert_eq!(differing(&one, &other), [usize::try_from(lsn / 262_144).unwrap()]);
    assert_eq!(other.damaged[0].lsn, lsn);
}

#[test]
fn an_answer_is_gone_on_from_to_the_chain_of_the_whole() {
    let node = Node::new(Role::Replica, &stream(100), &IN_TURN);
    let whole = node.ask("of=bytes&from=0&to=30000&part=10000").unwrap();
    let first = node.ask("of=bytes&from=0&to=10000&part=10000").unwrap();
    let Some(question::Boundary { lsn: 9900, chain: Some(chain) }) = first.boundary else {
        panic!("{first:?}");
    };
    let more = format!("of=bytes&from=10000&to=30000&part=10000&record=9900&chain={chain}");
    let more = node.ask(&more).unwrap();
    assert_eq!([first.digests, more.digests].concat(), whole.digests);
    assert_eq!(more.boundary, whole.boundary);
    // Without a hint the chain is not known, and what is read is the same.
    let bare = node.ask("of=bytes&from=10000&to=30000&part=10000").unwrap();
    assert_eq!(bare.digests, whole.digests[1..]);
    assert_eq!(bare.boundary.unwrap().lsn, 30_000);
}

#[test]
fn rot_beneath_a_good_header_shows_in_the_bytes_alone() {
    let stream = stream(100);
    let good = Node::new(Role::Primary, &stream, &IN_TURN);
    let rotten = Node::new(Role::Replica, &stream, &IN_TURN);
    // Record 25, the sixth of the second run.
    rotten.flip(2, 1500 + 100);
    let question = "of=bytes&from=0&to=30000&part=1024";
    let (one, other) = (good.ask(question).unwrap(), rotten.ask(question).unwrap());
    assert_eq!(differing(&one, &other), [7]);
    assert_eq!(one.boundary, other.boundary);
    let question = "of=headers&from=0&to=30000&part=1024";
    assert_eq!(good.ask(question).unwrap(), rotten.ask(question).unwrap());

    let question = "of=records&from=7500&to=7700&part=1024&record=7200";
    let (one, other) = (good.ask(question).unwrap(), rotten.ask(question).unwrap());
    assert_eq!((one.listed.len(), one.to), (1, 7700));
    let (one, other) = (&one.listed[0], &other.listed[0]);
    assert_eq!(
        (one.lsn, one.sequence, one.entry_type, one.bytes),
        (7500, Some(25), Some(1), RECORD)
    );
    assert_eq!((one.segment.as_str(), one.offset), ("wal-0000000000000066.log", 1500));
    assert_eq!(one.problem, None);
    assert_ne!(one.digest, other.digest);
    assert!(other.problem.as_ref().unwrap().contains("payload CRC32C"), "{other:?}");
}

#[test]
fn a_damaged_header_is_named_and_the_walk_goes_on() {
    let stream = stream(100);
    let good = Node::new(Role::Primary, &stream, &IN_TURN);
    let bad = Node::new(Role::Replica, &stream, &IN_TURN);
    bad.flip(2, 1500 + 6);
    for of in ["bytes", "headers"] {
        let question = format!("of={of}&from=0&to=30000&part=1024");
        let (one, other) = (good.ask(&question).unwrap(), bad.ask(&question).unwrap());
        assert_eq!(differing(&one, &other), [7], "{of}");
        let [damaged] = other.damaged.as_slice() else { panic!("{other:?}") };
        assert_eq!((damaged.lsn, damaged.offset), (7500, 1500));
        assert_eq!(damaged.segment, "wal-0000000000000066.log");
        assert!(damaged.problem.contains("header CRC32C"), "{damaged:?}");
        // It is back on the same records, and does not claim to know the chain.
        assert_eq!(other.records, one.records);
        assert_eq!(other.boundary.unwrap(), question::Boundary { lsn: 30_000, chain: None });
    }
    let question = "of=records&from=7400&to=8000&part=1024";
    let (one, other) = (good.ask(question).unwrap(), bad.ask(question).unwrap());
    let places = |answer: &Answer| {
        let listed = answer.listed.iter().map(|listed| (listed.lsn, listed.bytes));
        listed.collect::<Vec<_>>()
    };
    assert_eq!(places(&one), [(7200, 300), (7500, 300), (7800, 300)]);
    assert_eq!(places(&other), places(&one));
    assert_eq!(other.listed[1].sequence, None);
}

#[test]
fn damage_without_a_record_behind_it_ends_with_its_run() {
    let stream = stream(100);
    let bad = Node::new(Role::Replica, &stream, &IN_TURN);
    // All of the first run from its second record on.
    let mut bytes = fs::read(bad.segment(1)).unwrap();
    bytes[300..6000].fill(0x55);
    fs::write(bad.segment(1), bytes).unwrap();
    let answer = bad.ask("of=headers&from=0&to=30000&part=1024").unwrap();
    assert_eq!(answer.damaged.len(), 1);
    assert_eq!(answer.damaged[0].lsn, 300);
    assert_eq!(answer.records[5], Some(300));
    assert_eq!(answer.records[6], Some(6000));
    assert_eq!(answer.boundary.unwrap().lsn, 30_000);
}

#[test]
fn a_segment_whose_name_is_gone_is_read_by_its_pin() {
    let stream = stream(100);
    let node = Node::new(Role::Primary, &stream, &IN_TURN);
    let question = "of=bytes&from=0&to=30000&part=1024";
    let before = node.ask(question).unwrap();
    fs::remove_file(node.segment(1)).unwrap();
    assert_eq!(node.ask(question).unwrap(), before);
    // Another file of that name is another file.
    fs::write(node.segment(1), b"new").unwrap();
    assert_eq!(node.ask(question).unwrap(), before);

    fs::remove_file(node.root.path().join(".saltus/pins/alpha/0000000000000001")).unwrap();
    let after = node.ask(question).unwrap();
    let ranges: Vec<_> = after.absent.iter().map(|a| (a.from, a.to, a.retired)).collect();
    assert_eq!(ranges, [(0, 6000, true), (15_000, 18_000, true)]);
    assert_eq!(after.digests[5], None);
    assert_eq!(after.digests[6..14], before.digests[6..14]);
    assert_eq!(after.boundary.unwrap(), question::Boundary { lsn: 30_000, chain: None });
}

#[test]
fn what_a_replica_lost_is_no_retirement() {
    let stream = stream(100);
    let node = Node::new(Role::Replica, &stream, &IN_TURN);
    fs::remove_file(node.segment(1)).unwrap();
    File::options().write(true).open(node.segment(2)).unwrap().set_len(20_000).unwrap();
    let answer = node.ask("of=bytes&from=0&to=30000&part=1024").unwrap();
    let ranges: Vec<_> = answer.absent.iter().map(|a| (a.from, a.to, a.retired)).collect();
    assert_eq!(ranges, [(0, 6000, false), (15_000, 18_000, false), (29_000, 30_000, false)]);
    assert!(answer.absent[0].why.contains("wal-0000000000000065.log is missing"), "{answer:?}");
    assert!(answer.absent[2].why.contains("ends at 20000"), "{answer:?}");
}

#[test]
fn a_received_segment_whose_name_another_bears_is_read_where_it_was_put() {
    let stream = stream(100);
    let node = Node::new(Role::Replica, &stream, &[(1, 15_000), (2, 15_000)]);
    let question = "of=bytes&from=0&to=30000&part=1024";
    let before = node.ask(question).unwrap();
    let retired =
        crate::engine::recovery::retired_path(&node.root.path().join(".saltus"), &space(), 1);
    fs::create_dir_all(retired.parent().unwrap()).unwrap();
    fs::rename(node.segment(1), &retired).unwrap();
    assert_eq!(node.ask(question).unwrap(), before);
    assert_eq!(fs::metadata(&retired).unwrap().nlink(), 1);
}

#[test]
fn a_space_that_is_not_here_is_named() {
    let node = Node::new(Role::Replica, &stream(1), &[(1, 300)]);
    let question: Question = "space=beta-1&from=0&to=1&part=1024".parse().unwrap();
    assert_eq!(question.of, Of::Bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(node.prover.ask(question)).unwrap_err();
    assert_eq!(error.to_string(), "this node has no space beta-1");
}

#[test]
fn a_question_that_nobody_waits_for_is_left() {
    let node = Node::new(Role::Replica, &stream(100), &IN_TURN);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let question: Question = "space=alpha&from=0&to=30000&part=1024".parse().unwrap();
        for _ in 0..10 * MAX_PROOF_QUESTIONS {
            let asked = node.prover.ask(question.clone());
            tokio::select! {
                biased;
                _ = asked => {}
                () = std::future::ready(()) => {}
            }
        }
    });
    // Those before it took their places for a moment only.
    let deadline = Instant::now() + PROOF_TIME;
    loop {
        match node.ask("from=0&to=30000&part=1024") {
            Ok(answer) => {
                assert_eq!(answer.to, 30_000);
                break;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}
