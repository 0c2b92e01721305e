#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::unbounded;

use super::*;
use crate::engine::mortal::Mortal;
use crate::engine::recovery;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::io::Waker;
use crate::lsn::Lsn;
use crate::protocol::message::{ErrorCode, OpenSpace, Reseed, Retirement};
use crate::state::catalog::Retired;
use crate::state::host::ThisHost;
use crate::state::runs::Run;

/// A keeper that takes over what lies there.
pub(in crate::engine) fn keeper_of(places: &Places) -> Keeper {
    let catalog = Arc::new(Catalog::open(&places.state_dir).unwrap());
    let pins = Pins::open(&places.state_dir).unwrap();
    let rule = retention::Rule {
        max_bytes: None,
        max_age: None,
        max_disk_share: 20,
        replicas: Vec::new(),
    };
    let received = Received::default();
    Keeper::new(places.clone(), catalog, pins, Checksums::Required, rule, received).unwrap()
}

struct Rig {
    _directory: tempfile::TempDir,
    keeper: Keeper,
    news: Receiver<News>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join(".saltus");
        let data_root = directory.path().to_path_buf();
        let mut keeper = keeper_of(&Places { data_root, state_dir, host: Arc::new(ThisHost) });
        let (tell, news) = unbounded();
        keeper.mailboxes = vec![Mailbox { news: tell, waker: Waker::new(|| {}) }];
        Self { _directory: directory, keeper, news }
    }

    /// One batch of jobs, and the news that come of it.
    fn batch(&mut self, jobs: Vec<Job>) -> Vec<News> {
        jobs.into_iter().for_each(|job| self.keeper.handle(job));
        self.keeper.publish();
        self.news.try_iter().collect()
    }

    /// As [`Rig::batch`], with a change that the catalog refuses.
    fn failing_batch(&mut self, mut jobs: Vec<Job>) -> Vec<News> {
        jobs.push(Job::Commit {
            shard: 0,
            ticket: None,
            space: "nobody".parse().unwrap(),
            change: Change::Checkpoint(Mark::START),
        });
        self.batch(jobs)
    }

    fn runs(&self) -> u32 {
        self.keeper.catalog.load().unwrap()[&space()].runs.len()
    }
}

fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

fn open() -> Job {
    open_in(vec![(Epoch::FIRST, Lsn::ZERO)])
}

fn open_in(history: Vec<(Epoch, Lsn)>) -> Job {
    let open = OpenSpace { space: space(), stream: StreamId(5), history, head: Lsn::ZERO };
    Job::OpenReplica { shard: 0, ticket: 1, open: Box::new(open) }
}

fn run(file: u64, start: u64, offset: u64) -> Run {
    Run { start: Lsn(start), segment: SegmentName(file), file, offset, bytes: None }
}

fn open_run(ordinal: u32, run: Run) -> Job {
    Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false }
}

fn loan(news: &[News]) -> Result<Loan, Denial> {
    match news {
        [News::ReplicaOpened { result: Ok(loan), .. }, ..] => Ok((**loan).clone()),
        [News::ReplicaOpened { result: Err(denial), .. }, ..] => Err(denial.clone()),
        other => panic!("{other:?}"),
    }
}

fn lent(news: &[News]) -> Result<(SpaceRecord, Mark), ErrorCode> {
    loan(news).map(|loan| (loan.record, loan.mark)).map_err(|denial| denial.code)
}

fn opened(news: &[News]) -> bool {
    match news {
        [News::RunOpened { result, .. }, ..] => result.is_ok(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_space_is_lent_once_at_a_time() {
    let mut rig = Rig::new();
    let (record, mark) = lent(&rig.batch(vec![open()])).unwrap();
    assert_eq!(lent(&rig.batch(vec![open()])), Err(ErrorCode::Busy));
    let state = Ok(Box::new((record, mark)));
    assert!(lent(&rig.batch(vec![Job::CloseReplica { space: space(), state }, open()])).is_ok());
}

#[test]
fn a_higher_epoch_is_durable_before_it_is_obeyed() {
    let mut rig = Rig::new();
    let (record, _) = lent(&rig.batch(vec![open()])).unwrap();
    assert_eq!(record.highest_epoch, Epoch::FIRST);
    let at = Mark { lsn: Lsn(100), ..Mark::START };
    let close = || Job::CloseReplica { space: space(), state: Ok(Box::new((record.clone(), at))) };
    let next = vec![(Epoch(1), Lsn::ZERO), (Epoch(2), Lsn(100)), (Epoch(4), Lsn(100))];
    let (lent, _) = lent(&rig.batch(vec![close(), open_in(next.clone())])).unwrap();
    let durable = &rig.keeper.catalog.load().unwrap()[&space()];
    assert_eq!((lent.highest_epoch, durable.highest_epoch), (Epoch(4), Epoch(4)));
    assert_eq!(durable.history, next);
}

#[test]
fn what_was_lent_in_a_batch_that_failed_can_be_lent_again() {
    let mut rig = Rig::new();
    let (record, mark) = lent(&rig.batch(vec![open()])).unwrap();
    let state = Ok(Box::new((record, mark)));
    rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    assert_eq!(lent(&rig.failing_batch(vec![open()])), Err(ErrorCode::Storage));
    assert!(lent(&rig.batch(vec![open()])).is_ok(), "nobody has it");
}

#[test]
fn a_space_whose_run_was_not_recorded_is_not_lent_again() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(!opened(&rig.failing_batch(vec![open_run(0, run(1, 0, 0))])));
    assert_eq!(rig.runs(), 0);
    let close = Job::CloseReplica { space: space(), state: Err("the disk".into()) };
    assert_eq!(lent(&rig.batch(vec![close, open()])), Err(ErrorCode::Storage));
}

#[test]
fn a_run_that_could_not_be_opened_is_not_taken_from_the_session() {
    let mut rig = Rig::new();
    let (mut record, mark) = lent(&rig.batch(vec![open()])).unwrap();
    // The session has begun a run that the keeper has not recorded.
    record.runs.open(run(1, 0, 0));
    let close = Job::CloseReplica { space: space(), state: Ok(Box::new((record, mark))) };
    let (record, _) = lent(&rig.batch(vec![close, open()])).unwrap();
    assert_eq!((record.runs.len(), rig.runs()), (0, 0), "the catalog's word counts");
}

#[test]
fn a_run_may_follow_bytes_that_are_still_on_their_way() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    // Nothing of the first run is on the disk yet when its file is opened for
    // the third.
    let turns = [run(1, 0, 0), run(2, 500, 0), run(1, 900, 500)];
    for (ordinal, run) in (0..).zip(turns) {
        assert!(opened(&rig.batch(vec![open_run(ordinal, run)])), "run {ordinal}");
    }
}

#[test]
fn a_run_over_bytes_that_are_there_is_refused_and_not_recorded() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])));
    assert!(opened(&rig.batch(vec![open_run(1, run(2, 500, 0))])));
    assert!(!opened(&rig.batch(vec![open_run(2, run(1, 900, 499))])));
    // A file that the catalog does not know has bytes already.
    let stranger = rig.keeper.places.wal(&space()).join(SegmentName(3).to_string());
    std::fs::write(stranger, b"bytes").unwrap();
    assert!(!opened(&rig.batch(vec![open_run(2, run(3, 900, 0))])));
    assert_eq!(rig.runs(), 2);
}

#[test]
fn a_run_that_is_announced_again_under_another_number_is_refused() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])));
    assert!(!opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])), "run 0 is there");
    assert!(!opened(&rig.batch(vec![open_run(2, run(2, 500, 0))])), "run 1 is not");
    assert!(opened(&rig.batch(vec![open_run(1, run(2, 500, 0))])));
    assert_eq!(rig.runs(), 2);
}

/// What a scan of the space finds: its files, and what is wrong.
fn scanned(rig: &mut Rig) -> Option<(Vec<u64>, Vec<String>)> {
    match rig.batch(vec![Job::ScanSpace { shard: 0, space: space() }]).as_slice() {
        [News::Access { obstacle: None, .. }] => None,
        [News::Space { found, problems, .. }, News::Access { obstacle: None, .. }] => {
            Some((found.iter().map(|(file, _)| *file).collect(), problems.clone()))
        }
        other => panic!("{other:?}"),
    }
}

/// A replica makes the directory of a space before the space is durable in its
/// catalog. Killed between the two, it used to find the directory at its next
/// start, hold the space for one that is written here, and refuse it to its
/// primary for ever.
#[test]
fn a_directory_without_a_segment_is_nobodys_log() {
    let mut rig = Rig::new();
    let directory = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&directory).unwrap();
    assert_eq!(scanned(&mut rig), None);
    assert!(lent(&rig.batch(vec![open()])).is_ok());
    assert!(rig.keeper.catalog.load().unwrap()[&space()].role == Role::Replica);
}

#[test]
fn a_space_is_taken_up_with_its_first_segment() {
    let mut rig = Rig::new();
    let directory = rig.keeper.places.wal(&space());
    assert_eq!(scanned(&mut rig), None);
    std::fs::create_dir_all(&directory).unwrap();
    assert_eq!(scanned(&mut rig), None);
    std::fs::write(directory.join(SegmentName(1).to_string()), b"").unwrap();
    assert_eq!(scanned(&mut rig), Some((vec![1], vec![])));
    assert!(rig.keeper.catalog.load().unwrap()[&space()].role == Role::Primary);
}

/// Some file systems have another device number after each boot. The segment
/// was taken for a new one then, and the one that the stream stands in for gone.
#[test]
fn a_segment_is_known_again_when_its_disk_has_another_number() {
    let mut rig = Rig::new();
    let directory = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(SegmentName(1).to_string()), b"").unwrap();
    assert_eq!(scanned(&mut rig), Some((vec![1], vec![])));
    let entry = rig.keeper.spaces.get_mut(&space()).unwrap();
    entry.record.files[0].device += 1;
    entry.delivered.clear();
    assert_eq!(scanned(&mut rig), Some((vec![1], vec![])));
    rig.keeper.open_segment(&space(), 1).unwrap();
    // Another file is another one, whatever the disk is called.
    rig.keeper.spaces.get_mut(&space()).unwrap().record.files[0].birth_ns += 1;
    rig.keeper.open_segment(&space(), 1).unwrap_err();
}

/// A primary pins a segment before its number is durable in the catalog. Killed
/// between the two, while the database took the name away, it has bytes that it
/// can ship under no name. That was said once, and forgotten at the next start.
#[test]
fn a_pin_that_nobody_knows_is_named_after_each_start() {
    let mut rig = Rig::new();
    let directory = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&directory).unwrap();
    for number in [1, 2, 3] {
        std::fs::write(directory.join(SegmentName(number).to_string()), b"").unwrap();
    }
    let pin = |rig: &Rig, file: u64, name: u64| {
        let source = directory.join(SegmentName(name).to_string());
        let found = std::os::unix::fs::MetadataExt::ino(&source.metadata().unwrap());
        let device = std::os::unix::fs::MetadataExt::dev(&source.metadata().unwrap());
        let space = space();
        let mut pinning = rig.keeper.pins.pin(&space);
        let path = pinning.add(file, &source, (device, found)).unwrap();
        pinning.finish().1.unwrap();
        path
    };
    // One whose name is gone, and one that is numbered by its name.
    let left = pin(&rig, 7, 3);
    let other = pin(&rig, 8, 2);
    std::fs::remove_file(directory.join(SegmentName(3).to_string())).unwrap();
    let (found, problems) = scanned(&mut rig).unwrap();
    assert_eq!(found, [1, 2]);
    assert!(problems.len() == 1 && problems[0].contains("0000000000000007"), "{problems:?}");
    assert!(left.exists() && !other.exists());
}

/// A node that started beside a thousand segments synced the directory of their
/// pins two thousand times before anything was shipped.
#[test]
fn however_many_segments_are_found_their_pins_are_synced_at_once() {
    const SEGMENTS: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let data_root = directory.path().to_path_buf();
    let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
    let changes = || u64::MAX - host.0.load(Ordering::SeqCst);
    let places = Places { state_dir: data_root.join(".saltus"), data_root, host: host.clone() };
    std::fs::create_dir_all(places.wal(&space())).unwrap();
    for number in 1..=SEGMENTS {
        let path = places.wal(&space()).join(SegmentName(number).to_string());
        std::fs::write(path, b"").unwrap();
    }
    for start in ["the first", "another"] {
        let mut keeper = keeper_of(&places);
        keeper.pins = Pins::open_on(&(host.clone() as _), &places.state_dir).unwrap();
        let before = changes();
        keeper.handle(Job::ScanSpace { shard: 0, space: space() });
        assert_eq!(keeper.spaces[&space()].kept.pinned.len() as u64, SEGMENTS, "{start} start");
        let others = changes() - before - SEGMENTS;
        assert!(others < 5, "{start} start: {others} changes of the host beside the links");
        keeper.publish();
    }
}

/// A disk that was full when a space was taken up: its stream was told to the
/// replicas and was in no catalog. After a restart the space had another one,
/// and every replica refused it.
#[test]
fn a_stream_is_told_to_nobody_before_it_is_durable() {
    let mut rig = Rig::new();
    let directory = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(SegmentName(1).to_string()), b"").unwrap();
    let scan = || vec![Job::ScanSpace { shard: 0, space: space() }];
    match rig.failing_batch(scan()).as_slice() {
        [News::Space { record: None, found, problems, .. }, News::Access { .. }] => {
            assert!(found.is_empty() && problems.len() == 1, "{problems:?}");
        }
        other => panic!("{other:?}"),
    }
    match rig.batch(scan()).as_slice() {
        [News::Space { record: Some(record), found, .. }, News::Access { .. }] => {
            assert_eq!(record.stream, rig.keeper.catalog.load().unwrap()[&space()].stream);
            assert_eq!(found.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_run_that_is_taken_up_again_is_counted_as_the_catalog_counts_it() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    // Two empty segments, and then the first of them gets its first record.
    for (ordinal, file) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
        assert!(opened(&rig.batch(vec![open_run(ordinal, run(file, 0, 0))])), "run {ordinal}");
    }
    assert_eq!(rig.runs(), 4);
    assert_eq!(rig.keeper.spaces[&space()].record, rig.keeper.catalog.load().unwrap()[&space()]);
}

fn reseed(base: u64, head: u64) -> Job {
    let base = Mark { lsn: Lsn(base), records: 9, ..Mark::START };
    let reseed = Reseed { base, head: Lsn(head), first_run: 4, vouched: true };
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    let open = OpenSpace { space: space(), stream: StreamId(5), history, head: Lsn(head) };
    Job::Reseed { shard: 0, ticket: 1, open: Box::new(open), reseed }
}

#[test]
fn a_space_that_begins_anew_keeps_its_old_copy_until_the_seed_is_there() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])));
    let wal = rig.keeper.places.wal(&space());
    let old = wal.join(SegmentName(1).to_string());
    std::fs::write(&old, b"what it had").unwrap();
    let (record, mark) = lent(&rig.batch(vec![reseed(900, 1000)])).unwrap();
    assert_eq!((mark.lsn, record.runs.len(), record.runs.is_empty()), (Lsn(900), 4, true));
    assert!(!old.exists(), "the directory is free for the seed");
    let superseded = rig.keeper.places.state_dir.join("superseded/alpha/0000000000000384");
    let kept = superseded.join(SegmentName(1).to_string());
    assert_eq!(std::fs::read(&kept).unwrap(), b"what it had");
    // The name is used again, by a run that continues the primary's ordinals.
    assert!(opened(&rig.batch(vec![open_run(4, run(1, 900, 0))])));
    let commit = |lsn| Job::Commit {
        shard: 0,
        ticket: None,
        space: space(),
        change: Change::Checkpoint(Mark { lsn: Lsn(lsn), ..Mark::START }),
    };
    rig.batch(vec![commit(999)]);
    assert!(kept.exists(), "the head was at 1000");
    rig.batch(vec![commit(1000)]);
    assert!(!kept.exists() && !superseded.exists());
    let durable = &rig.keeper.catalog.load().unwrap()[&space()];
    assert_eq!((durable.seed, durable.base.lsn, durable.runs.first()), (None, Lsn(900), 4));
}

#[test]
fn a_move_aside_that_was_interrupted_is_done_by_the_next_process() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])));
    assert!(opened(&rig.batch(vec![open_run(1, run(2, 0, 0))])));
    let places = rig.keeper.places.clone();
    let named = |number| places.wal(&space()).join(SegmentName(number).to_string());
    std::fs::write(named(1), b"first").unwrap();
    std::fs::write(named(2), b"second").unwrap();
    // Killed after the first of the two was moved.
    let base = Mark { lsn: Lsn(900), ..Mark::START };
    let seed = Change::Seed { base, first_run: 4, target: Lsn(1000) };
    rig.keeper.catalog.commit(&[(space(), seed)]).unwrap();
    let superseded = places.state_dir.join("superseded/alpha/0000000000000384");
    std::fs::create_dir_all(&superseded).unwrap();
    std::fs::rename(named(1), superseded.join(SegmentName(1).to_string())).unwrap();
    let Rig { _directory, keeper, .. } = rig;
    drop(keeper);
    let keeper = keeper_of(&places);
    let received = keeper.received.clone();
    assert!(!named(1).exists() && !named(2).exists());
    for (number, content) in [(1, "first"), (2, "second")] {
        let path = superseded.join(SegmentName(number).to_string());
        assert_eq!(std::fs::read_to_string(path).unwrap(), content);
    }
    let durable = &keeper.catalog.load().unwrap()[&space()];
    assert!(durable.seed.is_some_and(|seed| seed.moved));
    let status = &received.statuses()[&space()];
    assert_eq!((status.flushed_lsn, status.problem.as_ref()), (Some(900), None));
    assert_eq!(status.seeding.map(|seeding| seeding.total_bytes), Some(100));
}

#[test]
fn a_scan_that_was_not_recorded_is_delivered_again() {
    let mut rig = Rig::new();
    let wal = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&wal).unwrap();
    let scan = || Job::ScanSpace { shard: 0, space: space() };
    let found = |news: &[News]| match news {
        [News::Space { found, .. }, News::Access { obstacle: None, .. }] => {
            found.iter().map(|(file, _)| *file).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    std::fs::write(wal.join(SegmentName(6).to_string()), b"records").unwrap();
    assert_eq!(found(&rig.batch(vec![scan()])), [1]);
    std::fs::write(wal.join(SegmentName(7).to_string()), b"records").unwrap();
    assert_eq!(found(&rig.failing_batch(vec![scan()])), [0_u64; 0], "it is in no catalog");
    assert_eq!(found(&rig.batch(vec![scan()])), [2]);
    let files = &rig.keeper.catalog.load().unwrap()[&space()].files;
    assert_eq!(files.len(), 2, "and now it is");
    assert_eq!(found(&rig.batch(vec![scan()])), [0_u64; 0], "once");
}

#[test]
fn a_file_whose_end_is_told_before_the_next_run_goes_with_that_run() {
    let mut rig = Rig::new();
    lent(&rig.batch(vec![open()])).unwrap();
    assert!(opened(&rig.batch(vec![open_run(0, run(1, 0, 0))])));
    let named = rig.keeper.places.wal(&space()).join(SegmentName(1).to_string());
    let retired = recovery::retired_path(&rig.keeper.places.state_dir, &space(), 1);
    std::fs::write(&named, [0; 100]).unwrap();
    let flushed = Mark { lsn: Lsn(100), ..Mark::START };
    let gone = || Job::Retire { space: space(), file: 1, what: Retirement::Gone, flushed };
    rig.batch(vec![gone()]);
    assert!(!named.exists() && retired.exists(), "it may still grow");
    assert!(opened(&rig.batch(vec![open_run(1, run(2, 100, 0))])));
    assert!(!retired.exists());
    let durable = &rig.keeper.catalog.load().unwrap()[&space()];
    assert_eq!(durable.retired[&1], Retired::Gone);
    assert_eq!(durable.checkpoint, flushed, "nothing looks for it again");
    rig.batch(vec![gone()]);
    assert_eq!(rig.keeper.catalog.load().unwrap()[&space()].retired.len(), 1, "once");
}

/// A shipped space of five records of 67 bytes, walked to its end.
fn shipped(rig: &mut Rig) -> (std::path::PathBuf, Vec<Mark>) {
    use crate::wal::record::{Header, step};
    let directory = rig.keeper.places.wal(&space());
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(SegmentName(1).to_string());
    let header = Header::new(0, 1, 1, b"one").unwrap();
    let one = [&header.encode()[..], b"one"].concat();
    std::fs::write(&path, one.repeat(5)).unwrap();
    let mut marks = vec![Mark::START];
    for _ in 0..5 {
        marks.push(step(marks.last().unwrap(), &header.encode(), &header));
    }
    let (found, _) = scanned(rig).unwrap();
    let change = Change::OpenRun(Run { segment: SegmentName(1), ..run(found[0], 0, 0) });
    rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
    (path, marks)
}

fn flip(path: &std::path::Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn checked(rig: &mut Rig, at: u64) -> Verdict {
    let job = Job::CheckRecord { shard: 0, ticket: 9, space: space(), at: Lsn(at) };
    match rig.batch(vec![job]).as_slice() {
        [News::RecordChecked { verdict, .. }] => verdict.clone(),
        other => panic!("{other:?}"),
    }
}

fn left_out(rig: &mut Rig, at: Mark, bad: BadRecord) -> Result<SpaceRecord, String> {
    let job = Job::LeaveOut { shard: 0, space: space(), at, bad, unix_ns: 7 };
    match rig.batch(vec![job]).as_slice() {
        [News::LeftOut { result, .. }] => result.clone().map(|record| *record),
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_that_have_rotted_together_are_left_out_together_and_durably() {
    let mut rig = Rig::new();
    let (path, marks) = shipped(&mut rig);
    flip(&path, 67 + 65);
    flip(&path, 2 * 67 + 65);
    let Verdict::Damaged(bad) = checked(&mut rig, 67) else { panic!("it has rotted") };
    assert_eq!((bad.offset, bad.span), (67, Some(2 * 67)));
    let record = left_out(&mut rig, marks[1], bad).unwrap();
    assert_eq!(record.history, [(Epoch(1), Lsn::ZERO), (Epoch(2), Lsn(67))]);
    let runs: Vec<_> = record.runs.iter().map(|(_, run)| (run.start.0, run.offset)).collect();
    assert_eq!(runs, [(0, 0), (67, 3 * 67)]);
    assert_eq!((record.holes[0].lsn, record.holes[0].bytes), (Lsn(67), 2 * 67));
    assert_eq!(rig.keeper.catalog.load().unwrap()[&space()], record);
    assert_eq!(checked(&mut rig, 67), Verdict::Whole, "the next record is there now");
}

#[test]
fn a_stream_with_a_hole_that_is_not_durable_is_not_shipped() {
    let mut rig = Rig::new();
    let (path, marks) = shipped(&mut rig);
    flip(&path, 67 + 65);
    let Verdict::Damaged(bad) = checked(&mut rig, 67) else { panic!("it has rotted") };
    let job = Job::LeaveOut { shard: 0, space: space(), at: marks[1], bad, unix_ns: 7 };
    let news = rig.failing_batch(vec![job]);
    assert!(matches!(&news[..], [News::EpochBegun { result: Err(_), .. }]), "{news:?}");
}

/// A replica that calls good records damaged must not get them left out.
#[test]
fn a_record_that_holds_is_never_left_out() {
    let mut rig = Rig::new();
    let (path, marks) = shipped(&mut rig);
    flip(&path, 67 + 65);
    let Verdict::Damaged(bad) = checked(&mut rig, 67) else { panic!("it has rotted") };
    flip(&path, 67 + 65);
    let before = rig.keeper.catalog.load().unwrap();
    assert!(left_out(&mut rig, marks[1], bad.clone()).unwrap_err().contains("whole"));
    // Nor anything else than what was found.
    flip(&path, 2 * 67 + 65);
    assert!(left_out(&mut rig, marks[2], bad).is_err());
    assert_eq!(rig.keeper.catalog.load().unwrap(), before);
}

#[test]
fn a_header_that_does_not_hold_is_left_out_up_to_the_next_record() {
    let mut rig = Rig::new();
    let (path, _) = shipped(&mut rig);
    flip(&path, 2 * 67 + 20);
    let Verdict::Damaged(bad) = checked(&mut rig, 2 * 67) else { panic!("it has rotted") };
    assert_eq!(bad.span, Some(67));
    flip(&path, 4 * 67 + 20);
    let Verdict::Damaged(bad) = checked(&mut rig, 4 * 67) else { panic!("it has rotted") };
    assert_eq!(bad.span, None, "nobody knows where the next one would begin");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(4 * 67 - 1).unwrap();
    let Verdict::Damaged(bad) = checked(&mut rig, 3 * 67) else { panic!("it is cut short") };
    assert_eq!(bad.span, None, "a file that is shorter than it was has not rotted");
}

/// What is behind it has been left out before, or is another run's.
#[test]
fn a_last_header_that_does_not_hold_is_left_out_up_to_the_end_of_its_run() {
    let mut rig = Rig::new();
    let (path, marks) = shipped(&mut rig);
    flip(&path, 3 * 67 + 20);
    let Verdict::Damaged(bad) = checked(&mut rig, 3 * 67) else { panic!("it has rotted") };
    left_out(&mut rig, marks[3], bad).unwrap();
    flip(&path, 2 * 67 + 20);
    let Verdict::Damaged(bad) = checked(&mut rig, 2 * 67) else { panic!("it has rotted") };
    assert_eq!(bad.span, Some(67));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(3 * 67 - 1).unwrap();
    let Verdict::Damaged(bad) = checked(&mut rig, 2 * 67) else { panic!("it is cut short") };
    assert_eq!(bad.span, None, "a file that is shorter than it was has not rotted");
}
