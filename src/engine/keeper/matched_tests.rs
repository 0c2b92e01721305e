//! Truncations of received spaces, also those that are stopped half way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, unbounded};

use super::super::retention::Rule;
use super::*;
use crate::engine::keeper::{Job, Mailbox, News, Places, Received, Unmatched};
use crate::engine::mortal::Mortal;
use crate::engine::quarantine::{self, Reason};
use crate::ids::{SegmentName, StreamId};
use crate::io::Waker;
use crate::limits::CUT_SLICE_BYTES;
use crate::protocol::message::{Boundary, Retirement};
use crate::state::catalog::{Catalog, SpaceRecord};
use crate::state::host::{Host, ThisHost};
use crate::state::pins::Pins;
use crate::state::runs::Run;
use crate::wal::record::{self, Checksums, Header};

pub(in crate::engine::keeper) struct Rig {
    pub(in crate::engine::keeper) keeper: Keeper,
    news: Receiver<News>,
}

impl Rig {
    pub(in crate::engine::keeper) fn open(root: &Path, host: &Arc<dyn Host>) -> Self {
        Self::open_with(root, &root.join(".saltus"), host)
    }

    /// With the state directory there.
    pub(in crate::engine::keeper) fn open_with(
        root: &Path,
        state_dir: &Path,
        host: &Arc<dyn Host>,
    ) -> Self {
        let state_dir = state_dir.to_path_buf();
        let catalog = Arc::new(Catalog::open_on(host, &state_dir).unwrap());
        let pins = Pins::open_on(host, &state_dir).unwrap();
        let places = Places { data_root: root.to_path_buf(), state_dir, host: host.clone() };
        let received = Received::default();
        let rule =
            Rule { max_bytes: None, max_age: None, max_disk_share: 20, replicas: Vec::new() };
        let mut keeper =
            Keeper::new(places, catalog, pins, Checksums::Required, rule, received).unwrap();
        let (tell, news) = unbounded();
        keeper.mailboxes = vec![Mailbox { news: tell, waker: Waker::new(|| {}) }];
        Self { keeper, news }
    }

    pub(in crate::engine::keeper) fn batch(&mut self, jobs: Vec<Job>) -> Vec<News> {
        self.keeper.batch(jobs.into_iter());
        self.news.try_iter().collect()
    }

    pub(in crate::engine::keeper) fn loan(&mut self, job: Job) -> Result<Loan, Denial> {
        match self.batch(vec![job]).pop() {
            Some(News::ReplicaOpened { result, .. }) => result.map(|loan| *loan),
            other => panic!("{other:?}"),
        }
    }

    fn matched(&mut self, at: u64) -> Result<Boundary, Unmatched> {
        let job = Job::Match { shard: 0, ticket: 1, space: space(), at: Lsn(at) };
        match self.batch(vec![job]).pop() {
            Some(News::Matched { result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }
}

pub(in crate::engine::keeper) fn alive() -> Arc<dyn Host> {
    Arc::new(ThisHost)
}

pub(in crate::engine::keeper) fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

fn in_epochs(history: &[(u64, u64)]) -> Box<OpenSpace> {
    let history: Vec<_> = history.iter().map(|&(e, start)| (Epoch(e), Lsn(start))).collect();
    Box::new(OpenSpace { space: space(), stream: StreamId(5), history, head: Lsn(1 << 20) })
}

pub(in crate::engine::keeper) fn open(history: &[(u64, u64)]) -> Job {
    Job::OpenReplica { shard: 0, ticket: 1, open: in_epochs(history) }
}

pub(in crate::engine::keeper) fn cut(history: &[(u64, u64)], at: &Mark) -> Job {
    let to = Truncate { lsn: at.lsn, chain: at.chain };
    Job::Truncate { shard: 0, ticket: 1, open: in_epochs(history), to }
}

/// 20 records over three runs in two files, as a session leaves them: 5 in
/// file 1, 10 in file 2, 5 more in file 1. Gives every mark.
pub(in crate::engine::keeper) fn fill(root: &Path) -> (Vec<Mark>, Vec<u8>) {
    fill_runs(root, &[(1, 0, 0..5), (2, 0, 5..15), (1, 0, 15..20)])
}

/// The same in these runs: each with its file, the bytes there that are left out
/// before it, and its records.
fn fill_runs(root: &Path, runs: &[(u64, u64, Range<usize>)]) -> (Vec<Mark>, Vec<u8>) {
    let mut rig = Rig::open(root, &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let mut marks = vec![Mark::START];
    let mut stream = Vec::new();
    for number in 0..20_u64 {
        let payload = vec![u8::try_from(number).unwrap(); 100 + usize::try_from(number).unwrap()];
        let header = Header::new(number, 1000 + number, 1, &payload).unwrap();
        marks.push(record::step(marks.last().unwrap(), &header.encode(), &header));
        stream.extend(header.encode());
        stream.extend(payload);
    }
    let mut ends = BTreeMap::new();
    for (ordinal, (file, left_out, records)) in (0..).zip(runs.iter().cloned()) {
        let (start, end) = (marks[records.start].lsn, marks[records.end].lsn);
        let offset = ends.get(&file).unwrap_or(&0) + left_out;
        ends.insert(file, offset + end.bytes_since(start));
        let run = Run { start, segment: SegmentName(file), file, offset, bytes: None };
        let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false };
        let news = rig.batch(vec![job]);
        let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
        let range = usize::try_from(start.0).unwrap()..usize::try_from(end.0).unwrap();
        files.buffered.write_all_at(&stream[range], offset).unwrap();
    }
    // The session checkpoints now and then, and at its end.
    for mark in [marks[3], marks[12]] {
        let change = Change::AddMark(mark);
        rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
    }
    let mut record = rig.keeper.spaces[&space()].record.clone();
    record.checkpoint = marks[20];
    let state = Ok(Box::new((record, marks[20])));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    (marks, stream)
}

/// All segments of the space, by name.
pub(in crate::engine::keeper) fn log(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(root.join("alpha/wal")).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Each record of the stream that neither a segment nor the quarantine holds.
fn lost(root: &Path, stream: &[u8], marks: &[Mark]) -> Vec<u64> {
    let mut kept: Vec<Vec<u8>> = log(root).into_values().collect();
    for piece in quarantine::list(&root.join(".saltus/quarantine")).unwrap() {
        kept.push(fs::read(&piece.path).unwrap());
    }
    let holds =
        |record: &[u8]| kept.iter().any(|text| text.windows(record.len()).any(|w| w == record));
    let within = |pair: &[Mark]| {
        let range =
            usize::try_from(pair[0].lsn.0).unwrap()..usize::try_from(pair[1].lsn.0).unwrap();
        (!holds(&stream[range])).then_some(pair[0].records)
    };
    marks.windows(2).filter_map(within).collect()
}

#[test]
fn boundaries_are_found_by_headers_from_wherever_the_catalog_knows_one() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    for lsn in 0..marks[20].lsn.0 + 100 {
        let expected = marks[marks.partition_point(|mark| mark.lsn.0 <= lsn) - 1];
        let found = rig.matched(lsn).unwrap();
        let Mark { lsn, chain, records, .. } = expected;
        assert_eq!(found, Boundary { lsn, chain, records });
    }
}

/// A replica had let go of what was compacted away. After a crash of the
/// primary's host it was asked for boundaries near its end, and named the start
/// of the stream each time: so the stream was cut there.
#[test]
fn boundaries_behind_files_that_are_gone_are_found_where_the_next_one_begins() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill_runs(root.path(), &[(1, 0, 0..5), (2, 0, 5..15), (3, 0, 15..20)]);
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let begin = Change::Begin { file: 3, mark: marks[15] };
    let mut jobs = vec![Job::Commit { shard: 0, ticket: None, space: space(), change: begin }];
    for file in [1, 2] {
        let (what, flushed) = (Retirement::Gone, marks[20]);
        jobs.push(Job::Retire { space: space(), file, what, flushed });
    }
    rig.batch(jobs);
    assert_eq!(log(root.path()).len(), 1, "only the last file is left");
    for lsn in marks[15].lsn.0..marks[20].lsn.0 {
        let found = rig.matched(lsn).unwrap();
        let expected = marks[marks.partition_point(|mark| mark.lsn.0 <= lsn) - 1];
        let Mark { lsn, chain, records, .. } = expected;
        assert_eq!(found, Boundary { lsn, chain, records });
    }
}

#[test]
fn diverged_bytes_stand_in_quarantine_before_they_are_cut() {
    for kept in 0..=20 {
        let root = tempfile::tempdir().unwrap();
        let (marks, stream) = fill(root.path());
        let mut rig = Rig::open(root.path(), &alive());
        let epochs = [(1, 0), (4, marks[kept].lsn.0)];
        let loan = rig.loan(open(&epochs)).unwrap();
        assert_eq!((loan.common, loan.mark), (marks[kept].lsn, marks[20]));
        let loan = rig.loan(cut(&epochs, &marks[kept])).unwrap();
        assert_eq!((loan.common, loan.mark), (marks[kept].lsn, marks[kept]), "{kept} kept");
        assert_eq!(loan.record.history, in_epochs(&epochs).history);
        assert_eq!(loan.record.checkpoint, marks[kept]);
        assert!(loan.record.runs.iter().all(|(_, run)| run.start < marks[kept].lsn));
        drop(rig);
        assert_eq!(lost(root.path(), &stream, &marks), [0; 0]);
        let mut quarantined = 0;
        for piece in quarantine::list(&root.path().join(".saltus/quarantine")).unwrap() {
            let manifest = piece.manifest.unwrap();
            assert_eq!(
                (manifest.reason, manifest.superseded_by),
                (Reason::Diverged, Some(Epoch(4)))
            );
            assert_eq!(manifest.bytes, piece.bytes);
            let extents: u64 = manifest.extents.iter().map(|extent| extent.bytes).sum();
            assert_eq!(extents, piece.bytes, "each byte has its place in the stream");
            assert!(manifest.extents.iter().all(|extent| extent.lsn >= marks[kept].lsn.0));
            quarantined += piece.bytes;
        }
        assert_eq!(quarantined, marks[20].lsn.bytes_since(marks[kept].lsn));
        // A restart finds what was left.
        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.loan(open(&epochs)).unwrap().mark, marks[kept]);
    }
}

/// A record was left out at the end of a segment, and nothing came behind it
/// there. The copy was neither opened nor cut again: its file was held to be too
/// short for the place behind that record.
#[test]
fn a_place_behind_what_was_left_out_asks_nothing_of_a_file() {
    let runs = [(1, 0, 0..5), (1, 5000, 5..5), (2, 0, 5..15), (3, 0, 15..20)];
    for kept in 0..=20 {
        let root = tempfile::tempdir().unwrap();
        let (marks, stream) = fill_runs(root.path(), &runs);
        let mut rig = Rig::open(root.path(), &alive());
        let epochs = [(1, 0), (4, marks[kept].lsn.0)];
        assert_eq!(rig.loan(open(&epochs)).unwrap().mark, marks[20]);
        assert_eq!(rig.loan(cut(&epochs, &marks[kept])).unwrap().mark, marks[kept]);
        assert_eq!(lost(root.path(), &stream, &marks), [0; 0]);
        let left: usize = log(root.path()).into_values().map(|file| file.len()).sum();
        assert_eq!(left as u64, marks[kept].lsn.0, "{kept} kept");
    }
}

#[test]
fn a_truncation_killed_at_any_step_leaves_a_prefix_and_loses_nothing() {
    let mut steps = 0;
    let epochs = |marks: &[Mark]| [(1, 0), (4, marks[7].lsn.0)];
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let (marks, stream) = fill(root.path());
        let epochs = epochs(&marks);
        // The steps of starting and opening are not in question.
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        rig.loan(open(&epochs)).unwrap();
        host.0.store(budget, Ordering::SeqCst);
        let done = rig.loan(cut(&epochs, &marks[7])).is_ok();
        host.0.store(0, Ordering::SeqCst);
        drop(rig);
        assert_eq!(lost(root.path(), &stream, &marks), [0; 0], "killed at step {budget}");

        let mut rig = Rig::open(root.path(), &alive());
        let record = rig.keeper.catalog.load().unwrap()[&space()].clone();
        assert_eq!(record.highest_epoch, Epoch(4), "no lower epoch is obeyed again");
        let loan = rig.loan(open(&epochs)).unwrap();
        let at = usize::try_from(loan.mark.records).unwrap();
        assert_eq!(loan.mark, marks[at], "killed at step {budget}: a prefix");
        assert!((7..=20).contains(&at) && (!done || at == 7));
        assert_eq!(loan.common, marks[7].lsn, "killed at step {budget}: {at} records");
        if loan.common < loan.mark.lsn {
            assert_eq!(rig.loan(cut(&epochs, &marks[7])).unwrap().mark, marks[7]);
        }
        assert_eq!(lost(root.path(), &stream, &marks), [0; 0], "killed at step {budget}");
        let left: u64 = log(root.path()).values().map(|content| content.len() as u64).sum();
        assert_eq!(left, marks[7].lsn.0, "killed at step {budget}: nothing else is left");
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 20, "only {steps} steps");
}

/// The commit that lowers the checkpoint failed once, and the space was not
/// received again before the node was restarted.
#[test]
fn a_cut_whose_commit_failed_is_made_once_the_catalog_can_be_written_again() {
    let root = tempfile::tempdir().unwrap();
    let (marks, stream) = fill(root.path());
    let epochs = [(1, 0), (4, marks[7].lsn.0)];
    let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
    let seen: Arc<dyn Host> = host.clone();
    let mut rig = Rig::open(root.path(), &seen);
    rig.loan(open(&epochs)).unwrap();
    let before = log(root.path());
    host.0.store(0, Ordering::SeqCst);
    let denial = rig.loan(cut(&epochs, &marks[7])).unwrap_err();
    assert_eq!(denial.code, ErrorCode::Storage);
    assert!(denial.why.contains("the catalog could not be written"), "{denial:?}");
    assert!(rig.keeper.needs_mending());
    rig.keeper.mend();
    assert_eq!(rig.loan(open(&epochs)).unwrap_err().code, ErrorCode::Storage, "not yet");
    assert_eq!(log(root.path()), before, "nothing was cut");
    host.0.store(u64::MAX, Ordering::SeqCst);
    rig.keeper.mend();
    assert!(!rig.keeper.needs_mending());
    let loan = rig.loan(open(&epochs)).unwrap();
    assert_eq!((loan.mark, loan.common), (marks[20], marks[7].lsn));
    assert_eq!(rig.loan(cut(&epochs, &marks[7])).unwrap().mark, marks[7]);
    assert_eq!(lost(root.path(), &stream, &marks), [0; 0]);
    let record = rig.keeper.catalog.load().unwrap()[&space()].clone();
    assert_eq!((record.checkpoint, record.runs.len()), (marks[7], 2));
}

#[test]
fn other_spaces_are_served_while_much_is_cut() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = unbounded();
    rig.keeper.inbox = Some(inbox);
    rig.loan(open(&[(1, 0)])).unwrap();
    let run = Run { start: Lsn::ZERO, segment: SegmentName(1), file: 1, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 0, run, known: false };
    let news = rig.batch(vec![job]);
    let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
    // Three slices and a piece of one.
    let payload = vec![7; 1 << 20];
    let mut marks = vec![Mark::START];
    let mut bytes = 0;
    for number in 0.. {
        let header = Header::new(number, 1000 + number, 1, &payload).unwrap();
        files.buffered.write_all_at(&header.encode(), bytes).unwrap();
        files.buffered.write_all_at(&payload, bytes + 64).unwrap();
        marks.push(record::step(marks.last().unwrap(), &header.encode(), &header));
        bytes = marks.last().unwrap().lsn.0;
        if bytes > 3 * CUT_SLICE_BYTES + 1 {
            break;
        }
    }
    let end = *marks.last().unwrap();
    let record = rig.keeper.spaces[&space()].record.clone();
    let state = Ok(Box::new((SpaceRecord { checkpoint: end, ..record }, end)));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    let epochs = [(1, 0), (2, marks[1].lsn.0)];
    assert_eq!(rig.loan(open(&epochs)).unwrap().common, marks[1].lsn);

    let beta: SpaceId = "beta".parse().unwrap();
    let mut other = in_epochs(&[(1, 0)]);
    other.space = beta.clone();
    jobs.send(Job::OpenReplica { shard: 0, ticket: 77, open: other }).unwrap();
    let standing = unbounded();
    jobs.send(Job::Standing { space: space(), reply: standing.0 }).unwrap();
    jobs.send(Job::Stop).unwrap();
    jobs.send(Job::LookAt { space: beta }).unwrap();
    let news = rig.batch(vec![cut(&epochs, &marks[1])]);
    let tickets: Vec<_> = (news.iter())
        .filter_map(|news| match news {
            News::ReplicaOpened { ticket, result: Ok(_) } => Some(*ticket),
            _ => None,
        })
        .collect();
    assert_eq!(tickets, [77, 1], "the other space first: {news:?}");
    let kept = standing.1.try_recv().unwrap().unwrap();
    assert_eq!(kept.standing.mark, marks[1], "what is asked of this one is answered behind it");
    assert!(rig.keeper.stopped, "and the end is not forgotten");
    assert!(rig.keeper.deferred.is_empty());
}

#[test]
fn rot_that_is_met_while_matching_is_named_and_truncates_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let epochs = [(1, 0), (2, marks[10].lsn.0)];
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&epochs)).unwrap();
    // One bit of the header of the ninth record.
    let path = root.path().join("alpha/wal").join(SegmentName(2).to_string());
    let offset = marks[8].lsn.bytes_since(marks[5].lsn);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 25).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset + 25).unwrap();
    let before = log(root.path());
    let named = |why: &str| {
        assert!(why.contains(path.to_str().unwrap()), "{why}");
        assert!(why.contains(&format!("offset {offset}")), "{why}");
    };
    let Err(Unmatched::Damaged(why)) = rig.matched(marks[10].lsn.0) else {
        panic!("what is damaged is mended")
    };
    named(&why);
    named(&rig.keeper.received.damages()[&space()]);
    let denial = rig.loan(cut(&epochs, &marks[10])).unwrap_err();
    assert_eq!(denial.code, ErrorCode::Storage);
    named(&denial.why);
    assert_eq!(log(root.path()), before);
    assert!(quarantine::list(&root.path().join(".saltus/quarantine")).unwrap().is_empty());
}

/// The last record below a cut had rotted. The cut was refused for that, by a
/// sentence that promised mending from the primary, and again at each attempt: so
/// there never was a session over which the primary could be asked.
#[test]
fn rot_below_a_cut_is_named_and_the_space_is_cut_and_received() {
    for kept in [4, 12, 20] {
        let root = tempfile::tempdir().unwrap();
        let (marks, stream) = fill(root.path());
        let mut rig = Rig::open(root.path(), &alive());
        let epochs = [(1, 0), (4, marks[kept].lsn.0)];
        rig.loan(open(&epochs)).unwrap();
        let (name, at) = match kept {
            4 => (SegmentName(1), marks[4].lsn.0),
            12 => (SegmentName(2), marks[12].lsn.bytes_since(marks[5].lsn)),
            _ => (SegmentName(1), marks[5].lsn.0 + marks[20].lsn.bytes_since(marks[15].lsn)),
        };
        let path = root.path().join("alpha/wal").join(name.to_string());
        let mut rotten = fs::read(&path).unwrap();
        rotten[usize::try_from(at).unwrap() - 1] ^= 1;
        fs::write(&path, &rotten).unwrap();

        let loan = rig.loan(cut(&epochs, &marks[kept])).unwrap();
        assert_eq!((loan.common, loan.mark), (marks[kept].lsn, marks[kept]), "{kept} kept");
        let named = rig.keeper.received.damages();
        assert!(named[&space()].contains(&name.to_string()), "{named:?}");
        let bad = marks[kept].records - 1;
        assert_eq!(lost(root.path(), &stream, &marks), [bad], "nothing else has changed");
        assert!(
            log(root.path())[&name.to_string()]
                .starts_with(&rotten[..usize::try_from(at).unwrap()])
        );
    }
}

#[test]
fn a_truncation_that_is_not_explained_or_not_of_these_records_cuts_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let epochs = [(1, 0), (2, marks[10].lsn.0)];
    let before = log(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    let other_chain = Mark { chain: marks[11].chain, ..marks[10] };
    let no_boundary = Mark { lsn: Lsn(marks[10].lsn.0 + 1), ..marks[10] };
    for (history, at) in [
        (&epochs[..], marks[9]),
        (&epochs[..1], marks[10]),
        (&epochs[..], other_chain),
        (&epochs[..], no_boundary),
    ] {
        // The first one is refused as stale once the second epoch was seen.
        let loan = rig.loan(open(&epochs)).unwrap();
        assert_eq!(loan.mark, marks[20]);
        let denial = rig.loan(cut(history, &at)).unwrap_err();
        assert!(matches!(denial.code, ErrorCode::Diverged | ErrorCode::Fenced), "{denial:?}");
        assert_eq!(log(root.path()), before);
    }
}

#[test]
fn stale_epoch_is_refused_and_a_higher_one_recalls_the_space() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let next = [(1, 0), (3, marks[20].lsn.0)];
    let news = rig.batch(vec![open(&next)]);
    let [News::Recalled { highest: Epoch(3), .. }, News::ReplicaOpened { result: Err(denial), .. }] =
        &news[..]
    else {
        panic!("{news:?}")
    };
    assert_eq!(denial.code, ErrorCode::Busy);
    let record = rig.keeper.catalog.load().unwrap()[&space()].clone();
    assert_eq!(record.highest_epoch, Epoch(3), "durable before it is obeyed");
    // The old session is gone; it may not come back, not even after a restart.
    let state = Ok(Box::new((record, marks[20])));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    for _ in 0..2 {
        let denial = rig.loan(open(&[(1, 0)])).unwrap_err();
        assert_eq!((denial.code, denial.highest), (ErrorCode::Fenced, Some(Epoch(3))));
        drop(rig);
        rig = Rig::open(root.path(), &alive());
    }
    assert_eq!(rig.loan(open(&next)).unwrap().mark, marks[20]);
}

#[test]
fn a_run_that_was_told_and_never_written_is_told_again_in_a_new_epoch() {
    let root = tempfile::tempdir().unwrap();
    let (marks, stream) = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    let loan = rig.loan(open(&[(1, 0)])).unwrap();
    let start = marks[20].lsn;
    let run = Run { start, segment: SegmentName(3), file: 3, offset: 0, bytes: None };
    let ordinal = loan.record.runs.len();
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false };
    rig.batch(vec![job]);
    let record = rig.keeper.spaces[&space()].record.clone();
    let state = Ok(Box::new((record, marks[20])));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    let loan = rig.loan(open(&[(1, 0), (2, start.0)])).unwrap();
    assert_eq!((loan.mark, loan.common), (marks[20], marks[20].lsn));
    assert_eq!(loan.record.runs.len(), ordinal);
    assert_eq!(lost(root.path(), &stream, &marks), [0; 0]);
    assert_eq!(log(root.path()).len(), 2, "the empty file went with its run");
}

/// 20 records over three files, of which the third took the name of the first.
fn displace(root: &Path) -> (Vec<Mark>, Vec<u8>) {
    let mut rig = Rig::open(root, &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let mut marks = vec![Mark::START];
    let mut stream = Vec::new();
    for number in 0..20_u64 {
        let payload = vec![7; 100];
        let header = Header::new(number, 1000 + number, 1, &payload).unwrap();
        marks.push(record::step(marks.last().unwrap(), &header.encode(), &header));
        stream.extend(header.encode());
        stream.extend(payload);
    }
    let runs = [(1, 1, 0..5), (2, 2, 5..15), (3, 1, 15..20)];
    for (ordinal, (file, name, records)) in (0..).zip(runs) {
        let (start, end) = (marks[records.start].lsn, marks[records.end].lsn);
        let run = Run { start, segment: SegmentName(name), file, offset: 0, bytes: None };
        let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false };
        let news = rig.batch(vec![job]);
        let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
        let range = usize::try_from(start.0).unwrap()..usize::try_from(end.0).unwrap();
        files.buffered.write_all_at(&stream[range], 0).unwrap();
    }
    let mut record = rig.keeper.spaces[&space()].record.clone();
    record.checkpoint = marks[20];
    rig.batch(vec![Job::CloseReplica { space: space(), state: Ok(Box::new((record, marks[20]))) }]);
    (marks, stream)
}

/// File 3 had taken the name of file 1 when the stream was cut within file 2:
/// file 3 went to the quarantine, and file 1 stayed where nobody looks for it.
#[test]
fn a_segment_gets_its_name_back_when_the_one_that_took_it_is_cut_off() {
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let (marks, stream) = displace(root.path());
        let history = [(1, 0), (2, marks[12].lsn.0)];
        let at = |records: usize| usize::try_from(marks[records].lsn.0).unwrap();
        let expected: BTreeMap<_, _> = [
            (SegmentName(1).to_string(), stream[..at(5)].to_vec()),
            (SegmentName(2).to_string(), stream[at(5)..at(12)].to_vec()),
        ]
        .into();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        rig.loan(open(&history)).unwrap();
        host.0.store(budget, Ordering::SeqCst);
        let done = rig.loan(cut(&history, &marks[12])).is_ok();
        if host.0.swap(0, Ordering::SeqCst) > 0 {
            assert!(done && log(root.path()) == expected);
            return;
        }
        drop(rig);
        // Killed at any step, it comes to the same when it is done again.
        let mut rig = Rig::open(root.path(), &alive());
        let loan = rig.loan(open(&history)).unwrap();
        if loan.mark != marks[12] {
            rig.loan(cut(&history, &marks[12])).unwrap();
        }
        assert!(log(root.path()) == expected, "killed at step {budget}");
        assert_eq!(lost(root.path(), &stream, &marks), [0; 0], "killed at step {budget}");
    }
}
