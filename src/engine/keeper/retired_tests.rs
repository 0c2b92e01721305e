//! Files that leave a replica, also when the process is killed meanwhile.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::matched::tests::{Rig, alive, cut, open, space};
use super::*;
use crate::engine::keeper::{Job, News};
use crate::engine::mortal::Mortal;
use crate::engine::quarantine::{Piece, list};
use crate::ids::SegmentName;
use crate::limits::KEEPING_FREE_BYTES;
use crate::lsn::Lsn;
use crate::state::meddler::{Call, Meddler};
use crate::wal::record::{self, Header};

/// Records that were received, and the boundaries between them.
pub(in crate::engine::keeper) struct Received {
    pub(in crate::engine::keeper) marks: Vec<Mark>,
    pub(in crate::engine::keeper) stream: Vec<u8>,
}

impl Received {
    pub(in crate::engine::keeper) fn bytes(&self, records: Range<usize>) -> &[u8] {
        let base = self.marks[0].lsn;
        let at =
            |records: usize| usize::try_from(self.marks[records].lsn.bytes_since(base)).unwrap();
        &self.stream[at(records.start)..at(records.end)]
    }

    pub(in crate::engine::keeper) fn end(&self) -> Mark {
        *self.marks.last().unwrap()
    }
}

/// Receive runs in a session: of each the file, which is also the second in its
/// name, and the records with (sequence, timestamp). From sequence 1000 on they
/// are of 1 MiB.
pub(in crate::engine::keeper) fn receive(rig: &mut Rig, runs: &[(u64, &[(u64, u64)])]) -> Received {
    receive_from(rig, Lsn::ZERO, 0, runs)
}

/// As [`receive`], from a base on.
pub(in crate::engine::keeper) fn receive_from(
    rig: &mut Rig,
    base: Lsn,
    first_run: u32,
    runs: &[(u64, &[(u64, u64)])],
) -> Received {
    let named = runs.iter().map(|(file, records)| (*file, *file, *records));
    receive_named(rig, base, first_run, &named.collect::<Vec<_>>())
}

/// The number of a file, the second in its name, and its records.
pub(in crate::engine::keeper) type NamedRun<'a> = (u64, u64, &'a [(u64, u64)]);

/// As [`receive_from`], of files that are not named by their numbers.
pub(in crate::engine::keeper) fn receive_named(
    rig: &mut Rig,
    base: Lsn,
    first_run: u32,
    runs: &[NamedRun<'_>],
) -> Received {
    let from = Mark { lsn: base, ..Mark::START };
    let mut received = Received { marks: vec![from], stream: Vec::new() };
    let mut ends = std::collections::BTreeMap::new();
    for (ordinal, (file, name, records)) in (first_run..).zip(runs) {
        let start = received.end().lsn;
        let from = received.stream.len();
        for (sequence, timestamp) in *records {
            let bytes = if *sequence < 1000 { 100 } else { 1 << 20 };
            let payload = vec![u8::try_from(received.marks.len()).unwrap(); bytes];
            let header = Header::new(*sequence, *timestamp, 1, &payload).unwrap();
            let mark = record::step(&received.end(), &header.encode(), &header);
            received.marks.push(mark);
            received.stream.extend(header.encode());
            received.stream.extend(payload);
        }
        let offset = ends.get(file).copied().unwrap_or(0);
        let segment = SegmentName(*name);
        let run = Run { start, segment, file: *file, offset, bytes: None };
        let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false };
        let news = rig.batch(vec![job]);
        let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
        files.buffered.write_all_at(&received.stream[from..], offset).unwrap();
        ends.insert(*file, offset + (received.stream.len() - from) as u64);
    }
    received
}

pub(in crate::engine::keeper) fn retire(file: u64, what: Retirement, flushed: Mark) -> Job {
    Job::Retire { space: space(), file, what, flushed }
}

/// A session gives the space back, durable up to `end`, with the checkpoint there.
pub(in crate::engine::keeper) fn close(rig: &Rig, checkpoint: Mark, end: Mark) -> Job {
    let record = rig.keeper.spaces[&space()].record.clone();
    let state = Ok(Box::new((SpaceRecord { checkpoint, ..record }, end)));
    Job::CloseReplica { space: space(), state }
}

pub(in crate::engine::keeper) fn pieces(root: &Path) -> Vec<Piece> {
    list(&root.join(".saltus/quarantine")).unwrap()
}

fn retired(root: &Path, file: u64) -> PathBuf {
    recovery::retired_path(&root.join(".saltus"), &space(), file)
}

const EARLY: [(u64, u64); 5] = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)];

/// Segment 1 had lost its name to 2 and was written on with; then came 3.
pub(in crate::engine::keeper) const UNNAMED: [(u64, &[(u64, u64)]); 4] =
    [(1, &EARLY), (2, &EARLY), (1, &EARLY), (3, &EARLY)];

#[test]
fn a_retirement_killed_at_any_step_leaves_the_stream_whole_and_loses_nothing() {
    let mut steps = 0;
    // With and without a checkpoint behind what is retired.
    for (budget, checkpoint) in (0..).flat_map(|budget| [(budget, None), (budget, Some(18))]) {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        rig.loan(open(&[(1, 0)])).unwrap();
        let received = receive(&mut rig, &UNNAMED);
        if let Some(records) = checkpoint {
            let change = Change::Checkpoint(received.marks[records]);
            rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
        }
        rig.batch(vec![retire(1, Retirement::Aside, received.end())]);
        host.0.store(budget, Ordering::SeqCst);
        rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
        let done = host.0.swap(0, Ordering::SeqCst) > 0;
        drop(rig);

        let at = format!("killed at step {budget}, checkpoint {checkpoint:?}");
        let tail = received.bytes(10..15);
        let stands = fs::read(retired(root.path(), 1)).is_ok_and(|all| all.ends_with(tail));
        let kept = || pieces(root.path()).iter().any(|one| fs::read(&one.path).unwrap() == tail);
        assert!(stands || kept(), "{at}: records that exist nowhere else");

        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.keeper.received.damages().len(), 0, "{at}: nothing is wrong");
        assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.end(), "{at}");
        // The primary tells it again with the next session.
        rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
        assert!(!retired(root.path(), 1).exists(), "{at}");
        let whole: Vec<_> =
            pieces(root.path()).into_iter().filter(|one| one.manifest.is_some()).collect();
        assert_eq!(whole.len(), 1, "{at}: once");
        let manifest = whole[0].manifest.as_ref().unwrap();
        assert_eq!((manifest.reason, manifest.bytes), (Reason::Unnamed, tail.len() as u64));
        assert_eq!(manifest.extents[0].lsn, received.marks[10].lsn.0);
        assert!(kept(), "{at}");
        drop(rig);
        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.end(), "{at}: and stays so");
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn a_move_is_done_when_it_is_durable_whoever_made_it() {
    let root = tempfile::tempdir().unwrap();
    let state_dir = root.path().join(".saltus");
    let named = root.path().join("alpha/wal/wal-1");
    let to = retired(root.path(), 1);
    for directory in [named.parent().unwrap(), to.parent().unwrap()] {
        fs::create_dir_all(directory).unwrap();
    }
    // An attempt that was stopped behind its rename.
    fs::write(&to, b"moved").unwrap();
    let step =
        |budget: u64| move_aside(&Mortal(AtomicU64::new(budget)), &state_dir, &named, &to).is_ok();
    // Two directories are made, each with its name; the rename; two syncs.
    let done: Vec<_> = (0..=8).map(step).collect();
    assert_eq!(done, [false, false, false, false, false, false, false, true, true]);
}

/// It was to go with the next run; the stream was cut within it first.
#[test]
fn what_was_told_of_a_file_that_is_cut_since_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, &[(1, &EARLY)]);
    rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    let record = rig.keeper.spaces[&space()].record.clone();
    let state = Ok(Box::new((record, received.end())));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    let history = [(1, 0), (2, received.marks[2].lsn.0)];
    rig.loan(open(&history)).unwrap();
    rig.loan(cut(&history, &received.marks[2])).unwrap();
    let start = received.marks[2].lsn;
    let run = Run { start, segment: SegmentName(2), file: 2, offset: 0, bytes: None };
    let (ordinal, known) = (1, false);
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known };
    rig.batch(vec![job]);
    assert!(fs::read(retired(root.path(), 1)).unwrap() == received.bytes(0..2));
    let record = rig.keeper.catalog.load().unwrap()[&space()].clone();
    assert_eq!((record.checkpoint, record.retired[&1]), (received.marks[2], Retired::Aside));
}

/// Records of these seconds, numbered from `sequence` on.
pub(in crate::engine::keeper) fn at_seconds<const N: usize>(
    sequence: u64,
    seconds: [f64; N],
) -> [(u64, u64); N] {
    let mut next = sequence;
    seconds.map(|at| {
        next += 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
        (next - 1, (at * 1e9) as u64)
    })
}

/// What is kept of segment 5 when it goes: which records.
#[track_caller]
fn kept_of(runs: &[(u64, &[(u64, u64)])], expected: Option<Range<usize>>) {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, runs);
    rig.batch(vec![retire(5, Retirement::Aside, received.end())]);
    rig.batch(vec![retire(5, Retirement::Gone, received.end())]);
    assert!(!retired(root.path(), 5).exists());
    let kept = pieces(root.path());
    let found: Vec<_> = kept.iter().map(|piece| fs::read(&piece.path).unwrap()).collect();
    let expected: Vec<_> = expected.into_iter().map(|at| received.bytes(at).to_vec()).collect();
    assert!(found == expected, "{} bytes kept", found.iter().map(Vec::len).sum::<usize>());
}

#[test]
fn records_that_are_no_older_than_the_snapshot_are_kept_when_their_segment_goes() {
    let live = at_seconds(0, [6.0, 7.0, 9.9, 10.0, 11.0]);
    let snapshot = at_seconds(0, [2.0, 6.0, 7.0]);
    kept_of(&[(5, &live), (10, &snapshot)], Some(3..5));
    // And all that came into it behind the beginning of the snapshot.
    let more = at_seconds(5, [12.0]);
    let more: &[_] = &more;
    let old = &live[..3];
    kept_of(&[(5, old), (10, &snapshot), (5, more), (20, &[])], Some(6..7));
    kept_of(&[(5, old), (10, &snapshot)], None);
}

#[test]
fn a_segment_that_was_carried_on_in_the_next_leaves_nothing() {
    // Within one second the first was full and the second begun.
    let full = at_seconds(0, [6.0, 10.2, 10.4]);
    let next = at_seconds(3, [10.6, 11.0]);
    kept_of(&[(5, &full), (10, &next)], None);
    let snapshot = at_seconds(0, [6.0, 10.2]);
    kept_of(&[(5, &full), (10, &next), (12, &snapshot)], None);
    // The same as a snapshot would be one.
    kept_of(&[(5, &full), (10, &snapshot)], Some(1..3));
}

#[test]
fn where_no_clock_tells_all_of_a_segment_is_kept() {
    let live = at_seconds(0, [26.0, 27.0]);
    let snapshot = at_seconds(0, [2.0]);
    // The clock was set back before the snapshot was made.
    kept_of(&[(5, &live), (10, &snapshot)], Some(0..2));
    // What bears a name came first, and nothing came instead.
    kept_of(&[(3, &snapshot), (5, &live), (3, &[])], Some(1..3));
}

#[test]
fn records_of_a_clock_that_was_set_back_are_kept_when_their_segment_goes() {
    let snapshot = at_seconds(0, [2.0, 6.0, 7.0]);
    // The last record is older than the snapshot, what it is about is not.
    kept_of(&[(5, &at_seconds(0, [6.0, 9.9, 10.5, 3.0])), (10, &snapshot)], Some(2..4));
    // No record is younger, but the clock cannot be what it was.
    kept_of(&[(5, &at_seconds(0, [6.0, 9.9, 3.0, 4.0])), (10, &snapshot)], Some(2..4));
    // What a snapshot took from others is older than its name, in any order.
    kept_of(&[(5, &at_seconds(0, [3.0, 1.0, 2.0, 6.0])), (10, &snapshot)], None);
}

#[test]
fn other_spaces_are_served_while_much_of_a_retired_segment_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = crossbeam::channel::unbounded();
    rig.keeper.inbox = Some(inbox);
    rig.loan(open(&[(1, 0)])).unwrap();
    let large: Vec<_> = (1000..1028).map(|sequence| (sequence, 7)).collect();
    let received = receive(&mut rig, &[(1, &EARLY), (2, &EARLY), (1, &large), (3, &EARLY)]);
    let Job::OpenReplica { open: mut other, .. } = open(&[(1, 0)]) else { panic!() };
    other.space = "beta".parse().unwrap();
    jobs.send(Job::OpenReplica { shard: 0, ticket: 77, open: other }).unwrap();
    let standing = crossbeam::channel::unbounded();
    jobs.send(Job::Standing { space: space(), reply: standing.0 }).unwrap();
    jobs.send(retire(2, Retirement::Aside, received.end())).unwrap();
    let news = rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    assert!(
        matches!(&news[..], [News::ReplicaOpened { ticket: 77, result: Ok(_) }]),
        "served meanwhile: {news:?}"
    );
    assert!(standing.1.try_recv().is_ok(), "what is asked of this one is answered behind it");
    assert!(rig.keeper.deferred.is_empty());
    let retired = rig.keeper.catalog.load().unwrap()[&space()].retired.clone();
    assert_eq!(retired, [(1, Retired::Gone), (2, Retired::Aside)].into());
}

/// What all spaces waited for: a compaction lets go of a whole log at once.
#[test]
fn other_spaces_are_served_while_many_segments_are_retired() {
    const SEGMENTS: u64 = 2 * RETIREMENTS_PER_TURN as u64;
    let root = tempfile::tempdir().unwrap();
    let (reply, answer) = crossbeam::channel::unbounded();
    let moved = Arc::new(AtomicU64::new(0));
    let served_behind = Arc::new(AtomicU64::new(u64::MAX));
    let (moves, served, answers) = (moved.clone(), served_behind.clone(), answer.clone());
    let host: Arc<dyn Host> = Arc::new(Meddler(move |call: Call<'_>| {
        if matches!(call, Call::Name(to) if to.to_string_lossy().contains("/retired/")) {
            if !answers.is_empty() {
                served.fetch_min(moves.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            moves.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }));
    let mut rig = Rig::open(root.path(), &host);
    let (jobs, inbox) = crossbeam::channel::unbounded();
    rig.keeper.inbox = Some(inbox);
    rig.loan(open(&[(1, 0)])).unwrap();
    let runs: Vec<(u64, &[_])> = (1..=SEGMENTS + 1).map(|file| (file, &EARLY[..])).collect();
    let received = receive(&mut rig, &runs);
    let Job::OpenReplica { open: mut other, .. } = open(&[(1, 0)]) else { panic!() };
    other.space = "beta".parse().unwrap();
    let beta = other.space.clone();
    jobs.send(Job::OpenReplica { shard: 0, ticket: 77, open: other }).unwrap();
    jobs.send(Job::Standing { space: beta, reply }).unwrap();
    let all = (1..=SEGMENTS).map(|file| retire(file, Retirement::Aside, received.end()));
    rig.batch(all.collect());
    assert!(answer.try_recv().unwrap().is_some());
    assert_eq!(moved.load(Ordering::SeqCst), SEGMENTS);
    assert_eq!(served_behind.load(Ordering::SeqCst), u64::from(RETIREMENTS_PER_TURN));
    assert_eq!(rig.keeper.catalog.load().unwrap()[&space()].retired.len() as u64, SEGMENTS);
}

/// A file is gone from the primary, and something is in the way of keeping what came
/// into it without a name.
fn with_one_that_cannot_go(root: &Path) -> (Rig, Received, PathBuf) {
    let mut rig = Rig::open(root, &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, &UNNAMED);
    let quarantine = root.join(".saltus/quarantine");
    fs::write(&quarantine, b"in the way").unwrap();
    rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    (rig, received, quarantine)
}

fn state_of_the_first(rig: &Rig) -> Retired {
    rig.keeper.catalog.load().unwrap()[&space()].retired[&1]
}

/// There was no room for what is kept of it: the file stayed as long as the
/// session did.
#[test]
fn a_file_that_cannot_go_yet_goes_when_the_next_run_begins() {
    let root = tempfile::tempdir().unwrap();
    let (mut rig, received, quarantine) = with_one_that_cannot_go(root.path());
    assert_eq!(state_of_the_first(&rig), Retired::Aside);
    fs::remove_file(&quarantine).unwrap();
    let start = received.end().lsn;
    let run = Run { start, segment: SegmentName(4), file: 4, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 4, run, known: false };
    rig.batch(vec![job]);
    assert_eq!(state_of_the_first(&rig), Retired::Gone);
    assert!(!retired(root.path(), 1).exists());
    assert!(fs::read(&pieces(root.path())[0].path).unwrap() == received.bytes(10..15));
    assert!(rig.keeper.spaces[&space()].going.is_empty());
}

/// It waited for the next run, and where nothing more was written for the next
/// process.
#[test]
fn a_file_that_cannot_go_yet_goes_after_a_while() {
    let root = tempfile::tempdir().unwrap();
    let (mut rig, received, quarantine) = with_one_that_cannot_go(root.path());
    assert!(rig.keeper.needs_mending());
    rig.keeper.mend();
    assert_eq!((state_of_the_first(&rig), rig.keeper.needs_mending()), (Retired::Aside, true));
    fs::remove_file(&quarantine).unwrap();
    rig.keeper.mend();
    assert_eq!((state_of_the_first(&rig), rig.keeper.needs_mending()), (Retired::Gone, false));
    assert!(!retired(root.path(), 1).exists());
    assert!(fs::read(&pieces(root.path())[0].path).unwrap() == received.bytes(10..15));
    // One whose last run has not ended waits for its end, and for nothing else.
    rig.batch(vec![retire(3, Retirement::Gone, received.end())]);
    assert!(rig.keeper.spaces[&space()].going.contains_key(&3) && !rig.keeper.needs_mending());
}

fn give_back(rig: &mut Rig, end: Mark) {
    let record = rig.keeper.spaces[&space()].record.clone();
    let state = Ok(Box::new((record, end)));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
}

/// A file that is not there because everything is away was taken for one in which
/// nothing stands: it was recorded as gone, and removed when it was back.
#[test]
fn while_the_data_root_is_away_nothing_is_taken_for_gone() {
    for lent in [true, false] {
        let top = tempfile::tempdir().unwrap();
        let (root, away) = (top.path().join("root"), top.path().join("away"));
        fs::create_dir(&root).unwrap();
        let (mut rig, received, quarantine) = with_one_that_cannot_go(&root);
        if !lent {
            give_back(&mut rig, received.end());
        }
        fs::remove_file(&quarantine).unwrap();
        fs::rename(&root, &away).unwrap();
        rig.keeper.mend();
        rig.keeper.mend();
        assert!(rig.keeper.needs_mending(), "{lent}");
        fs::rename(&away, &root).unwrap();
        assert_eq!(state_of_the_first(&rig), Retired::Aside, "{lent}");
        assert!(retired(&root, 1).exists(), "{lent}");
        rig.keeper.mend();
        assert_eq!(state_of_the_first(&rig), Retired::Gone, "{lent}");
        assert!(fs::read(&pieces(&root)[0].path).unwrap() == received.bytes(10..15), "{lent}");
    }
}

/// What was durable when a file was told to be gone is not any more.
#[test]
fn a_file_that_could_not_go_moves_no_checkpoint_behind_what_is_recovered() {
    let root = tempfile::tempdir().unwrap();
    let (mut rig, received, quarantine) = with_one_that_cannot_go(root.path());
    give_back(&mut rig, received.end());
    fs::remove_file(&quarantine).unwrap();
    fs::remove_file(root.path().join("alpha/wal").join(SegmentName(3).to_string())).unwrap();
    rig.batch(vec![Job::LookAt { space: space() }]);
    let Lease::Here(mark) = rig.keeper.spaces[&space()].lease else { panic!("it is here") };
    assert!(mark.lsn < received.end().lsn);
    rig.keeper.mend();
    let record = &rig.keeper.catalog.load().unwrap()[&space()];
    assert!(record.checkpoint.lsn <= mark.lsn, "{:?} {mark:?}", record.checkpoint);
    assert_eq!(record.retired[&1], Retired::Aside, "the primary tells it again");
}

/// Each attempt took all the room there was, and every other space had none meanwhile.
#[test]
fn what_does_not_fit_is_not_begun_to_be_kept_and_asked_for_less_and_less_often() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let root = tempfile::tempdir().unwrap();
    let made = Arc::new(AtomicU64::new(0));
    let makes = made.clone();
    let host: Arc<dyn Host> = Arc::new(Meddler(move |call: Call<'_>| {
        if matches!(call, Call::Open(path) if path.to_string_lossy().contains("/quarantine/")) {
            makes.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }));
    let mut rig = Rig::open(root.path(), &host);
    rig.keeper.free_bytes = |_| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        Ok(KEEPING_FREE_BYTES + (28 << 20))
    };
    rig.loan(open(&[(1, 0)])).unwrap();
    // With their headers a little more than what is free.
    let large: Vec<_> = (1000..1028).map(|sequence| (sequence, 7)).collect();
    let received = receive(&mut rig, &[(1, &EARLY), (2, &EARLY), (1, &large), (3, &EARLY)]);
    rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    assert_eq!(ASKED.swap(0, Ordering::SeqCst), 1);
    let attempts: Vec<_> = (1..=256)
        .filter(|_| {
            rig.keeper.mend();
            ASKED.swap(0, Ordering::SeqCst) > 0
        })
        .collect();
    assert_eq!(attempts, [1, 2, 4, 8, 16, 32, 64, 128, 192, 256], "the pause is 64 at most");
    let start = received.end().lsn;
    let run = Run { start, segment: SegmentName(4), file: 4, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 4, run, known: false };
    rig.batch(vec![job]);
    assert_eq!(ASKED.load(Ordering::SeqCst), 0, "nor with each run that begins");
    assert_eq!(made.load(Ordering::SeqCst), 0, "not a byte was written");
    assert_eq!((state_of_the_first(&rig), rig.keeper.needs_mending()), (Retired::Aside, true));
    rig.keeper.free_bytes = |_| Ok(KEEPING_FREE_BYTES + (29 << 20));
    (0..64).for_each(|_| rig.keeper.mend());
    assert_eq!((state_of_the_first(&rig), rig.keeper.needs_mending()), (Retired::Gone, false));
    assert!(fs::read(&pieces(root.path())[0].path).unwrap() == received.bytes(10..38));
}

#[test]
fn a_stop_begins_no_copy_of_what_could_not_go() {
    let root = tempfile::tempdir().unwrap();
    let (mut rig, received, quarantine) = with_one_that_cannot_go(root.path());
    fs::remove_file(&quarantine).unwrap();
    rig.batch(vec![Job::Stop]);
    rig.keeper.mend();
    rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    assert_eq!((state_of_the_first(&rig), pieces(root.path()).len()), (Retired::Aside, 0));
    assert!(fs::read(retired(root.path(), 1)).unwrap().ends_with(received.bytes(10..15)));
}

/// Two files and two reasons were two warnings with each attempt.
#[test]
fn of_each_file_that_cannot_go_it_is_known_why() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let all = [1, 4, 9, 1, 4, 12].map(|file| (file, &EARLY[..]));
    let received = receive(&mut rig, &all);
    let aside = [1, 4].map(|file| retire(file, Retirement::Aside, received.end()));
    rig.batch(aside.into());
    fs::write(root.path().join(".saltus/quarantine"), b"in the way").unwrap();
    // It can be opened; each read fails.
    fs::remove_file(retired(root.path(), 4)).unwrap();
    fs::create_dir(retired(root.path(), 4)).unwrap();
    let gone = [1, 4].map(|file| retire(file, Retirement::Gone, received.end()));
    rig.batch(gone.into());
    let said = rig.keeper.unretired[&space()].files.clone();
    assert!(said.len() == 2 && said[&1] != said[&4], "{said:?}");
    rig.keeper.mend();
    assert_eq!(rig.keeper.unretired[&space()].files, said, "the same again is no news");
}
