//! Facts about a space that is shipped: runs, heads, and what is kept.

#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::engine::primary::Verdict;
use crate::ids::Epoch;
use crate::limits::{PREFETCH_BYTES, RELEASE_AFTER, UNFINISHED_AFTER};
use crate::lsn::Chain;
use crate::protocol::message::ErrorCode;
use crate::protocol::sender::Found;
use crate::state::catalog::{FileRecord, Role};
use crate::state::runs::Run;
use crate::wal::record::Header;

/// A record as a writer leaves it.
fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(sequence, 1, 1, payload).unwrap();
    [&header.encode()[..], payload].concat()
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn name(number: u64) -> SegmentName {
    SegmentName(number)
}

/// What the catalog knows of a new space.
fn fresh() -> SpaceRecord {
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    SpaceRecord::new(Role::Primary, StreamId(7), history)
}

/// True if a job only keeps a boundary for a later start.
fn is_remembered(job: &Job) -> bool {
    let change = |change: &Change| matches!(change, Change::AddMark(_) | Change::Begin { .. });
    matches!(job, Job::Commit { change: made, .. } if change(made))
}

/// A space over a directory of its own; files are numbered by the test.
struct Bed {
    _root: tempfile::TempDir,
    directory: PathBuf,
    space: Space,
    now: Instant,
}

impl Bed {
    fn new(files: &[u64]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().to_path_buf();
        let id = "alpha".parse().unwrap();
        let mut space = Space::new(id, Handle(0), 0, Checksums::Required);
        let known = |&number: &u64| FileRecord {
            file: number,
            segment: name(number),
            device: 0,
            inode: number,
            birth_ns: 0,
        };
        space.learn(SpaceRecord { files: files.iter().map(known).collect(), ..fresh() });
        Self { _root: root, directory, space, now: Instant::now() }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(name(number).to_string())
    }

    fn write(&self, number: u64, bytes: &[u8]) {
        append(&self.path(number), bytes);
    }

    fn found(&mut self, number: u64) {
        let segment = Segment::open(&self.path(number)).unwrap();
        self.space.found(vec![(number, Arc::new(segment))]);
    }

    /// Let go of what is spare then, as the shard does.
    fn release(&mut self, lowest: Lsn, then: Instant) -> Vec<Job> {
        let spare = self.space.spare(then);
        self.space.release(lowest, &spare)
    }

    /// Walk until there is nothing more, as the shard does.
    fn walk(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        while self.space.wants_turn() {
            let turn = self.space.advance(self.now);
            jobs.extend(turn.jobs.into_iter().filter(|job| !is_remembered(job)));
            for (_, start, _) in turn.prefetch {
                self.space.prefetched(start);
            }
        }
        jobs
    }
}

#[test]
fn two_segments_that_grow_in_turn_alternate_in_runs() {
    let one = record(0, b"one");
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &one);
        bed.found(number);
    }
    let mut opened = bed.walk().len();
    for number in [1, 2] {
        bed.write(number, &one);
        bed.space.touch(Some(name(number)));
        opened += bed.walk().len();
    }
    assert_eq!(opened, 4, "each change of file begins a run, which is committed");
    let runs: Vec<_> = bed.space.runs.iter().map(|(_, run)| (run.file, run.offset)).collect();
    let len = one.len() as u64;
    assert_eq!(runs, [(1, 0), (2, 0), (1, len), (2, len)]);
    assert_eq!(bed.space.head().lsn, Lsn(4 * len));
    assert_eq!(bed.space.head().records, 4);
    assert!(bed.space.run(0).is_none(), "no run is shipped before it is durable");
    bed.space.runs_durable(4);
    assert_eq!(bed.space.run(3).unwrap().offset, len);
}

#[test]
fn the_walk_waits_for_all_that_was_asked_into_the_cache_and_asks_again_half_way() {
    let mut bed = Bed::new(&[]);
    let mib = 1 << 20;
    for sequence in 0..40 {
        bed.write(1, &record(sequence, &vec![7; mib - 64]));
    }
    bed.found(1);
    let starts = |turn: &Turn| turn.prefetch.iter().map(|(_, start, _)| *start).collect::<Vec<_>>();
    let step = PREFETCH_BYTES;
    let turn = bed.space.advance(bed.now);
    assert_eq!(starts(&turn), [0, step, 2 * step, 3 * step], "as far ahead as it may");
    assert!(!turn.moved && !turn.more && !bed.space.is_walked(), "nothing has come");
    for range in [3, 0, 2] {
        bed.space.prefetched(range * step);
        assert!(!bed.space.wants_turn() && !bed.space.advance(bed.now).moved, "one is missing");
    }
    bed.space.prefetched(step);
    let mut asked = Vec::new();
    while bed.space.wants_turn() {
        asked.extend(starts(&bed.space.advance(bed.now)));
    }
    assert_eq!(bed.space.head().lsn, Lsn(2 * step), "half of it");
    assert_eq!(asked, [4 * step, 5 * step], "as much as was walked");
    for range in 4..6 {
        bed.space.prefetched(range * step);
    }
    bed.walk();
    assert!(bed.space.is_walked() && bed.space.head().lsn == Lsn(40 * mib as u64));
}

#[test]
fn a_restart_needs_no_file_of_an_earlier_run() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.walk();
    let start = bed.space.runs.last().unwrap().start;
    assert_eq!(bed.space.saved.last().unwrap().lsn, start);
}

#[test]
fn a_partial_record_is_no_reason_to_leave_a_segment() {
    let one = record(0, b"one");
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &one);
        bed.found(number);
    }
    bed.walk();
    bed.write(1, &one[..70.min(one.len() - 1)]);
    bed.space.touch(Some(name(1)));
    assert!(bed.walk().is_empty());
    assert_eq!(bed.space.runs.len(), 2);
    bed.write(1, &one[70.min(one.len() - 1)..]);
    bed.space.touch(Some(name(1)));
    assert_eq!(bed.walk().len(), 1);
    assert_eq!(bed.space.head().records, 3);
}

#[test]
fn a_pin_is_released_only_when_nobody_needs_it() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.walk();
    let head = bed.space.head().lsn;
    let later = bed.now + RELEASE_AFTER;
    assert!(bed.release(head, later).is_empty(), "it still has its name");
    bed.space.vanished(name(1));
    assert!(bed.release(Lsn(10), later).is_empty(), "a replica still needs it");
    assert!(bed.release(head, bed.now).is_empty(), "it grew a moment ago");
    let jobs = bed.release(head, later);
    assert!(
        matches!(&jobs[..], [Job::Commit { .. }, Job::Release { file: 1, .. }]),
        "a restart must not look for it: {jobs:?}"
    );
    assert!(bed.release(head, later).is_empty(), "once");
}

#[test]
fn a_pin_is_kept_while_its_file_holds_what_was_not_walked() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.write(2, &[0xff; 100]);
    bed.walk();
    assert!(bed.space.problem().unwrap().contains("damaged"), "only that file may be walked");
    bed.space.vanished(name(1));
    bed.write(1, &record(1, b"two"));
    bed.space.touch(Some(name(1)));
    bed.write(3, &record(0, b"three"));
    bed.found(3);
    bed.space.vanished(name(3));
    bed.write(4, &record(0, b"four"));
    bed.found(4);
    bed.walk();
    let later = bed.now + RELEASE_AFTER;
    for _ in 0..2 {
        assert!(bed.release(Lsn(u64::MAX), later).is_empty(), "nobody has the rest of it");
    }
}

#[test]
fn nobody_is_filled_anew_from_what_was_not_walked_to_its_end() {
    let mut bed = Bed::new(&[]);
    for sequence in 0..6 {
        bed.write(1, &record(sequence, &vec![7; (1 << 20) - 64]));
    }
    bed.found(1);
    let turn = bed.space.advance(bed.now);
    for (_, start, _) in turn.prefetch {
        bed.space.prefetched(start);
    }
    let mut jobs = Vec::new();
    assert!(bed.space.advance(bed.now).more, "a part of it");
    assert!(bed.space.head().records > 0 && bed.space.seed_base(&mut jobs).is_none());
    bed.walk();
    assert!(matches!(bed.space.seed_base(&mut jobs), Some(Ok(base)) if base.mark == Mark::START));
}

#[test]
fn who_needs_what_is_gone_is_refused_and_the_others_go_on() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.walk();
    let head = bed.space.head();
    // As after a restart behind the first segment, which is gone.
    bed.space.index = Index::new(head);
    bed.space.files.get_mut(&1).unwrap().segment = None;
    let mut jobs = Vec::new();
    assert!(bed.space.resume_at(Lsn::ZERO, &mut jobs).is_none());
    assert!(matches!(jobs[..], [Job::OpenSegment { file: 1, .. }]));
    bed.space.reopened(1, Err(Unopened::Unreadable("no descriptors".into())));
    let Some(Found::Unavailable(code, _)) = bed.space.resume_at(Lsn::ZERO, &mut jobs) else {
        panic!()
    };
    assert_eq!(code, ErrorCode::Storage, "it is asked again");
    assert!(bed.space.resume_at(Lsn::ZERO, &mut jobs).is_none());
    bed.space.reopened(1, Err(Unopened::Gone { why: "gone".into(), lost: false }));
    let Some(Found::Gone(refused)) = bed.space.resume_at(Lsn::ZERO, &mut jobs) else { panic!() };
    assert!(refused.contains("no longer here"), "{refused}");
    assert_eq!(bed.space.resume_at(head.lsn, &mut jobs), Some(Found::Mark(head)));
    bed.write(2, &record(1, b"two"));
    bed.space.touch(Some(name(2)));
    bed.walk();
    assert_eq!(bed.space.head().records, 3);
}

#[test]
fn damage_that_was_a_write_in_progress_is_taken_back() {
    let mut bed = Bed::new(&[]);
    let (first, second) = (record(0, b"first"), record(1, b"second"));
    bed.write(1, &first);
    bed.write(1, b"no record at all, and longer than a header is, in fact longer than 64");
    bed.found(1);
    bed.walk();
    assert!(bed.space.problem().unwrap().contains("damaged at offset"));
    OpenOptions::new().write(true).open(bed.path(1)).unwrap().set_len(first.len() as u64).unwrap();
    bed.write(1, &second);
    bed.space.touch(Some(name(1)));
    bed.walk();
    assert_eq!(bed.space.head().records, 2);
    assert_eq!(bed.space.problem(), None);
}

/// The epoch that the jobs ask for.
fn epoch_asked(jobs: &[Job]) -> Option<(Mark, u32)> {
    jobs.iter().find_map(|job| match job {
        Job::BeginEpoch { at, runs, .. } => Some((*at, *runs)),
        _ => None,
    })
}

#[test]
fn a_shrunken_segment_is_cut_at_its_last_whole_record() {
    // To a boundary, into a record, and to nothing.
    for (left, records, runs) in [(264, 1, 1), (100, 0, 0), (300, 1, 1), (0, 0, 0)] {
        let mut bed = Bed::new(&[]);
        for number in 0..3 {
            bed.write(1, &record(number, &[1; 200]));
        }
        bed.found(1);
        bed.walk();
        OpenOptions::new().write(true).open(bed.path(1)).unwrap().set_len(left).unwrap();
        bed.space.touch(Some(name(1)));
        let (at, kept) = epoch_asked(&bed.walk()).unwrap();
        assert_eq!((at.lsn.0, at.records, kept), (264 * records, records, runs), "{left} bytes");
        assert!(bed.space.open().is_none(), "nothing is shipped before the epoch is durable");
        assert!(!bed.space.wants_turn());
        assert_eq!(bed.space.problem(), None);
    }
}

#[test]
fn records_that_are_replaced_are_noticed_by_the_last_one() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, &[1; 200]));
    bed.write(1, &record(1, &[2; 200]));
    bed.found(1);
    bed.walk();
    std::fs::write(bed.path(1), [record(0, &[1; 200]), record(1, &[3; 200])].concat()).unwrap();
    bed.space.touch(Some(name(1)));
    let (at, _) = epoch_asked(&bed.walk()).unwrap();
    assert!(at.lsn.0 <= 264, "the first record may be kept, the second is not: {at:?}");
}

#[test]
fn a_file_that_was_touched_and_is_the_same_begins_nothing() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, &[1; 200]));
    bed.found(1);
    bed.walk();
    let head = bed.space.head();
    for _ in 0..3 {
        bed.space.suspect(Lsn::ZERO);
        assert_eq!(epoch_asked(&bed.walk()), None);
        assert_eq!(bed.space.walked(), head);
    }
    bed.write(1, &record(1, &[1; 200]));
    bed.space.touch(Some(name(1)));
    bed.walk();
    assert_eq!(bed.space.head().records, 2);
}

/// A standing that tells nothing but a position.
fn standing(flushed: u64) -> crate::protocol::message::Standing {
    let standing = crate::protocol::message::Standing::EMPTY;
    crate::protocol::message::Standing { flushed: Lsn(flushed), ..standing }
}

#[test]
fn a_replica_is_believed_only_where_this_process_has_shipped_nothing() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, &[1; 200]));
    bed.write(1, &record(1, &[2; 200]));
    bed.found(1);
    bed.walk();
    let mut turn = Turn::default();
    // All of it was walked and shipped here: the source is looked at first.
    let common = bed.space.index.boundaries().next().unwrap();
    let verdict = bed.space.judge(common, &standing(528), false, &mut turn);
    assert_eq!(verdict, Verdict::Look);
    assert_eq!(bed.space.judge(common, &standing(528), true, &mut turn), Verdict::Wait);
    assert_eq!(epoch_asked(&bed.walk()), None, "it is what it was");
    assert_eq!(bed.space.judge(common, &standing(528), true, &mut turn), Verdict::Replica);
    assert!(turn.jobs.is_empty());

    // The same after a restart that knows of no boundary.
    let mut record = fresh();
    record.runs = bed.space.runs.clone();
    let mut again = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    again.learn(record);
    std::mem::swap(&mut bed.space, &mut again);
    bed.found(1);
    bed.walk();
    assert_eq!(bed.space.head().records, 2);
    let verdict = bed.space.judge(common, &standing(528), false, &mut turn);
    assert_eq!(verdict, Verdict::NewEpoch);
    assert_eq!(epoch_asked(&turn.jobs), Some((common, 0)));
}

#[test]
fn a_position_is_vouched_for_where_a_boundary_or_this_process_can_tell() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, &[1; 200]));
    bed.write(1, &record(1, &[2; 200]));
    bed.found(1);
    bed.walk();
    let head = bed.space.head();
    let (at, within) = (head.lsn, Lsn(head.lsn.0 - 1));
    let other = Chain(head.chain.0 ^ 1);
    assert!(bed.space.vouches_for(at, head.chain) && !bed.space.vouches_for(at, other));
    assert!(bed.space.vouches_for(within, other), "nobody else has shipped it");

    // After a restart somebody else may have.
    let runs = bed.space.runs.clone();
    let mut again = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    again.learn(SpaceRecord { runs, ..fresh() });
    std::mem::swap(&mut bed.space, &mut again);
    bed.found(1);
    bed.walk();
    assert!(bed.space.vouches_for(at, head.chain) && !bed.space.vouches_for(at, other));
    assert!(!bed.space.vouches_for(within, other));
    assert!(bed.space.vouches_for(Lsn::ZERO, Chain::START), "nothing is nothing");
    bed.write(1, &record(2, &[3; 200]));
    bed.space.touch(None);
    bed.walk();
    assert!(bed.space.vouches_for(Lsn(bed.space.head().lsn.0 - 1), other), "shipped since");
}

#[test]
fn a_fenced_space_says_so_and_opens_nothing() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, &[1; 200]));
    bed.found(1);
    bed.walk();
    let mut jobs = Vec::new();
    bed.space.fence(Epoch(5), &mut jobs);
    assert!(matches!(jobs[..], [Job::Commit { change: Change::SawEpoch(Epoch(5)), .. }]));
    assert!(bed.space.open().is_none());
    let problem = bed.space.problem().unwrap();
    assert!(problem.contains("epoch 1") && problem.contains("epoch 5"), "{problem}");
    // Neither a change of the source nor a restart helps it out.
    OpenOptions::new().write(true).open(bed.path(1)).unwrap().set_len(0).unwrap();
    bed.space.touch(Some(name(1)));
    assert!(bed.walk().is_empty());
    let mut record = fresh();
    record.highest_epoch = Epoch(5);
    bed.space.learn(record);
    assert!(bed.space.open().is_none() && bed.space.is_fenced());
}

#[test]
fn a_start_looks_at_what_lies_before_the_last_saved_boundary() {
    for changed in [false, true] {
        let mut bed = Bed::new(&[]);
        for number in 0..3 {
            bed.write(1, &record(number, &[1; 200]));
        }
        bed.found(1);
        bed.walk();
        let marks: Vec<_> = (1..=3)
            .map(|records| match bed.space.resume_at(Lsn(264 * records), &mut Vec::new()) {
                Some(Found::Mark(mark)) => mark,
                other => panic!("{other:?}"),
            })
            .collect();
        let mut record = fresh();
        record.runs = bed.space.runs.clone();
        record.marks = marks[..2].to_vec();
        if changed {
            // The second record is another one, and just as long.
            let other = super::tests::record(9, &[7; 200]);
            let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &other, 264).unwrap();
        }
        let mut space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
        space.learn(record);
        bed.space = space;
        bed.found(1);
        let asked = epoch_asked(&bed.walk());
        assert_eq!(asked, changed.then_some((marks[0], 1)));
        if !changed {
            assert_eq!(bed.space.head(), marks[2]);
        }
    }
}

/// A writer whose host had crashed cut its segment and went on in it, past the
/// place where the last run began. The primary, started again, began to read at
/// that place, in the midst of a record, took the source for damaged, and
/// stopped for good; had a record begun there by chance, it would have gone on
/// over records that no replica has.
#[test]
fn a_start_looks_at_what_lies_before_a_run_in_the_midst_of_a_file() {
    for changed in [false, true] {
        let mut bed = Bed::new(&[]);
        bed.write(1, &record(0, &[1; 200]));
        bed.write(1, &record(1, &[1; 200]));
        bed.found(1);
        bed.walk();
        let head = bed.space.head();
        let run = Run { start: head.lsn, segment: name(1), file: 1, offset: 528, bytes: None };
        let mut known = fresh();
        known.runs = bed.space.runs.clone();
        // Nothing came of that one, and its file is gone.
        known.runs.open(Run { segment: name(2), file: 2, offset: 0, ..run });
        known.runs.open(run);
        known.marks = vec![head];
        if changed {
            std::fs::write(bed.path(1), [record(0, &[1; 200]), record(7, &[7; 400])].concat())
                .unwrap();
        } else {
            bed.write(1, &record(2, &[1; 200]));
        }
        let mut space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
        space.learn(known);
        bed.space = space;
        bed.found(1);
        let asked = epoch_asked(&bed.walk());
        assert_eq!(asked, changed.then_some((Mark::START, 0)));
        assert_eq!(bed.space.problem(), None);
        if !changed {
            assert_eq!(bed.space.head().records, 3);
        }
    }
}

#[test]
fn who_is_behind_needs_no_file_in_which_nothing_lies() {
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, b"one"));
    bed.found(1);
    bed.walk();
    let head = bed.space.head().lsn;
    for (number, offset) in [(2, 0), (1, head.0)] {
        let (segment, file) = (name(number), number);
        bed.space.runs.open(Run { start: head, segment, file, offset, bytes: None });
        bed.space.track(file, segment);
    }
    bed.space.files.get_mut(&2).unwrap().gone = true;
    assert_eq!(bed.space.ready_from(Lsn::ZERO, &mut Vec::new()), Ok(true));
}

#[test]
fn an_unfinished_record_in_a_file_that_was_left_is_named_after_a_while() {
    let (one, two) = (record(0, &[1; 200]), record(1, &[2; 200]));
    let mut bed = Bed::new(&[]);
    bed.write(1, &one);
    bed.write(1, &two[..100]);
    bed.found(1);
    bed.walk();
    assert!(!bed.space.needs_attention(), "the file that grows is waited for");
    bed.write(2, &one);
    bed.found(2);
    bed.walk();
    assert!(bed.space.needs_attention() && bed.space.problem().is_none());
    bed.now += UNFINISHED_AFTER / 2;
    bed.space.look_at_unfinished(bed.now);
    // It grows once more, also without anybody's noticing: the time begins anew.
    bed.write(1, &two[100..150]);
    bed.now += UNFINISHED_AFTER / 2;
    bed.space.look_at_unfinished(bed.now);
    assert_eq!(bed.space.problem(), None);
    bed.now += UNFINISHED_AFTER;
    bed.space.look_at_unfinished(bed.now);
    let problem = bed.space.problem().unwrap();
    for part in [name(1).to_string().as_str(), "ends in 150 bytes", "offset 264"] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    assert!(bed.space.blocked().is_none() && bed.space.is_head_known());
    assert!(!bed.space.needs_attention(), "it is said once");

    // A restart comes upon it as well.
    let mut known = fresh();
    known.runs = bed.space.runs.clone();
    let mut again = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    again.learn(known);
    std::mem::swap(&mut bed.space, &mut again);
    bed.found(1);
    bed.found(2);
    bed.walk();
    assert_eq!(bed.space.problem(), None);
    bed.now += UNFINISHED_AFTER;
    bed.space.look_at_unfinished(bed.now);
    assert_eq!(bed.space.problem(), Some(problem));

    // The file goes on after all.
    bed.write(1, &two[150..]);
    bed.space.touch(Some(name(1)));
    bed.walk();
    assert_eq!((bed.space.problem(), bed.space.head().records), (None, 3));
}

#[path = "rot_tests.rs"]
mod rot;

#[path = "earlier_tests.rs"]
mod earlier;

#[path = "retention_tests.rs"]
mod retention;
