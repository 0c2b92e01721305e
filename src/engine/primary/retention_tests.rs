//! Facts about segments without a name: who holds them, and when they go.

use super::*;
use crate::engine::primary::slot::Slot;
use crate::engine::primary::space::Turned;
use crate::io::Strategy;
use crate::limits::{RELEASE_PROBE_AFTER, UNFINISHED_AFTER};
use crate::protocol::message::Retirement;
use crate::state::runs::looked_at;
use crate::state::slots::SlotRecord;

/// Both names are gone, and a snapshot stands there instead. The writer has
/// closed the first one, and goes on with the second one.
#[test]
fn only_what_nobody_writes_is_held_by_slots_alone() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2, 3] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    let writer = OpenOptions::new().append(true).open(bed.path(2)).unwrap();
    bed.walk();
    bed.space.vanished(name(1));
    bed.space.vanished(name(2));
    assert!(bed.space.spare(bed.now).is_empty(), "they grew a moment ago");
    let later = bed.now + RELEASE_PROBE_AFTER;
    assert_eq!(bed.space.spare(later), [1].into());
    drop(writer);
    assert_eq!(bed.space.spare(later), [1, 2].into());
    bed.write(2, &record(1, b"two"));
    assert_eq!(bed.space.spare(later), [1].into(), "not all of it was walked");
}

/// The disk took no pin of it, a compaction removed it while the node was down,
/// and a new epoch began. From the next start on the status named nothing.
#[test]
fn a_segment_that_is_gone_with_nothing_of_it_in_the_stream_is_named_after_each_start() {
    let mut bed = Bed::new(&[1, 2]);
    bed.write(2, &record(0, b"snapshot"));
    bed.found(2);
    let asked = bed.walk();
    assert!(matches!(asked[..], [Job::OpenSegment { file: 1, .. }]), "{asked:?}");
    let why = "the first is gone, and so is its pin".to_owned();
    bed.space.reopened(1, Err(Unopened::Gone { why, lost: false }));
    bed.walk();
    assert_eq!(bed.space.head().records, 1, "it holds up nothing");
    assert_eq!(bed.space.blocked(), None);
    let problem = bed.space.problem().unwrap();
    assert!(problem.starts_with("the first is gone"), "{problem}");
}

/// What may have been a copy, because another file has its name, was gone without a word.
#[test]
fn an_older_segment_that_is_gone_is_named_but_one_that_was_let_go_of() {
    for let_go in [false, true] {
        let mut bed = Bed::new(&[]);
        for number in [1, 2] {
            bed.write(number, &record(0, b"one"));
            bed.found(number);
            bed.walk();
        }
        let tracked = bed.space.files.get_mut(&1).unwrap();
        (tracked.segment, tracked.let_go) = (None, let_go);
        let why = "the first is gone, and so is its pin".to_owned();
        bed.space.reopened(1, Err(Unopened::Gone { why, lost: false }));
        let problem = bed.space.problem();
        let named = "the first is gone, and so is its pin: what was written to it behind offset 67, \
                     if anything, was not shipped and is lost here";
        assert_eq!(problem.as_deref(), Some(named).filter(|_| !let_go));
    }
}

/// It was told for as long as the process ran.
#[test]
fn a_segment_that_a_crash_took_is_told_until_all_replicas_are_cut() {
    let mut bed = Bed::new(&[]);
    let mut ends = Vec::new();
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
        bed.walk();
        ends.push(bed.space.head());
    }
    bed.space.files.get_mut(&2).unwrap().segment = None;
    let why = "the second is gone, and so is its pin".to_owned();
    bed.space.reopened(2, Err(Unopened::Gone { why: why.clone(), lost: true }));
    bed.space.followed();
    assert_eq!(bed.space.problem().as_ref(), Some(&why), "nothing is cut yet");
    let mut record = SpaceRecord { runs: bed.space.runs.clone(), ..fresh() };
    record.runs.truncate(1);
    record.history.push((Epoch(2), ends[0].lsn));
    record.marks.push(ends[0]);
    bed.space.reign(record);
    assert_eq!(bed.space.problem(), Some(why), "replicas have it");
    assert!(bed.space.is_to_be_followed());
    bed.space.followed();
    assert_eq!((bed.space.problem(), bed.space.is_to_be_followed()), (None, false));
}

/// The pin was released and the descriptor closed, and a map of the file, or a
/// walk that a lost replica had asked for, kept its bytes on the disk.
#[test]
fn nothing_here_keeps_what_was_released() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, &[7; 1000]));
        bed.found(number);
        bed.walk();
    }
    let one = Arc::downgrade(bed.space.files[&1].segment.as_ref().unwrap());
    assert!(bed.space.source(0, Lsn::ZERO, 1064, Strategy::Copy).is_some());
    assert!(bed.space.send_map.is_some());
    // As after a start: the beginning is behind the index, and somebody asks.
    bed.space.index = Index::new(bed.space.head());
    assert!(bed.space.resume_at(Lsn(1064), &mut Vec::new()).is_none());
    let mut turn = Turn::default();
    let mut earlier = bed.space.earlier.take().unwrap();
    bed.space.step(&mut earlier, 1, &mut turn);
    bed.space.earlier = Some(earlier);
    bed.space.vanished(name(1));
    let later = bed.now + RELEASE_PROBE_AFTER;
    assert!(!bed.release(Lsn(u64::MAX), later).is_empty());
    assert!(one.upgrade().is_none() && bed.space.send_map.is_none());
}

/// All files that had ever been were gone through every other second.
#[test]
fn what_is_told_of_unnamed_files_is_looked_for_when_something_has_changed() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2, 3] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    let named = |files: &[u64]| files.iter().copied().collect();
    bed.space.names(&named(&[3]));
    let told = |bed: &mut Bed| {
        let (list, version) = bed.space.retirements();
        (list.iter().map(|retire| (retire.file, retire.what)).collect::<Vec<_>>(), version)
    };
    assert_eq!(told(&mut bed), (vec![], 0), "what replaced them is not in the stream");
    bed.walk();
    let aside = vec![(1, Retirement::Aside), (2, Retirement::Aside)];
    assert_eq!(told(&mut bed), (aside.clone(), 1));
    // Nothing is looked at: this has not been told to it.
    bed.space.files.get_mut(&1).unwrap().gone = true;
    assert_eq!(told(&mut bed), (aside.clone(), 1));
    let later = bed.now + RELEASE_PROBE_AFTER;
    assert!(!bed.release(Lsn(u64::MAX), later).is_empty());
    // The host may go down, and come back with a part of them to be compared.
    assert_eq!(told(&mut bed), (aside, 1), "nobody lets go before that is durable here");
    bed.space.released(1);
    assert!(bed.space.holds_unnamed(), "the other one is looked at until replicas are told");
    bed.space.released(2);
    assert!(!bed.space.holds_unnamed());
    assert_eq!(told(&mut bed), (vec![(1, Retirement::Gone), (2, Retirement::Gone)], 2));
    // The last name goes: somebody has emptied the directory.
    bed.space.vanished(name(3));
    assert_eq!(told(&mut bed), (vec![], 3));
    bed.space.names(&named(&[3]));
    assert_eq!(told(&mut bed).0.len(), 2);
    bed.space.names(&named(&[1, 3]));
    assert_eq!(told(&mut bed).0, [(2, Retirement::Gone)]);
}

/// For each of them all runs were gone through, on a data core.
#[test]
fn what_is_told_of_a_long_log_is_found_at_once() {
    let mut bed = Bed::new(&[]);
    let mut record = fresh();
    for number in 1..=100_000 {
        let (segment, file) = (name(number), number);
        record.files.push(FileRecord { file, segment, device: 0, inode: number, birth_ns: 0 });
        let start = Lsn((number - 1) * 10);
        record.runs.open(Run { start, segment, file, offset: 0, bytes: None });
    }
    bed.space.learn(record);
    for (_, tracked) in bed.space.files.range_mut(..100_000) {
        tracked.unnamed = true;
        (tracked.vanished, tracked.gone, tracked.retire_after) = (true, true, Some(Lsn::ZERO));
    }
    bed.space.retirements.outdate();
    let (list, _) = bed.space.retirements();
    assert_eq!(list.len(), 99_999);
    assert!(list.iter().all(|retire| retire.after == Lsn(retire.file * 10)));
}

/// For a writer that allocates its segments in advance that was each of them.
#[test]
fn a_segment_that_ends_in_no_whole_record_goes_when_nobody_writes_it() {
    for behind in [record(9, b"one")[..40].to_vec(), vec![0; 4096]] {
        for before in [true, false] {
            let mut bed = Bed::new(&[]);
            for number in [1, 2] {
                bed.write(number, &record(0, b"one"));
            }
            bed.write(1, &behind);
            let writer = OpenOptions::new().append(true).open(bed.path(1)).unwrap();
            for number in [1, 2] {
                bed.found(number);
                bed.walk();
            }
            if before {
                bed.space.look_at_unfinished(bed.now);
            }
            bed.space.vanished(name(1));
            bed.space.look_at_unfinished(bed.now);
            bed.walk();
            let later = bed.now + UNFINISHED_AFTER;
            drop(writer);
            assert_eq!(bed.space.spare(later), [].into(), "nobody was told of it");
            bed.space.look_at_unfinished(later);
            let writer = OpenOptions::new().append(true).open(bed.path(1)).unwrap();
            assert_eq!(bed.space.spare(later), [].into(), "it may go on");
            drop(writer);
            assert_eq!(bed.space.spare(later), [1].into(), "{} bytes, {before}", behind.len());
            // It was finished a moment ago, and nothing has told of that yet.
            bed.write(1, &record(9, b"one")[40..]);
            assert_eq!(bed.space.spare(later), [].into(), "{} bytes, {before}", behind.len());
        }
    }
}

/// Its pin was released, and a replica that needed it was refused.
#[test]
fn a_segment_that_was_moved_away_and_back_is_not_let_go() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.walk();
    let later = bed.now + RELEASE_PROBE_AFTER;
    bed.space.names(&[1, 2].into());
    bed.space.vanished(name(1));
    assert_eq!(bed.space.spare(later), [1].into());
    bed.space.names(&[1, 2].into());
    assert!(bed.space.spare(later).is_empty());
}

/// A slot was lost and its pins went. When the replica came back, the boundary
/// at which it stood was still in memory: it was taken for one that could be
/// shipped to, and waited for ever for segments that were gone.
#[test]
fn a_replica_is_not_resumed_where_the_segments_behind_are_gone() {
    let mut bed = Bed::new(&[]);
    for number in [1, 2, 3] {
        bed.write(number, &record(0, b"one"));
        bed.found(number);
    }
    bed.walk();
    let second = Lsn(bed.space.head().lsn.0 / 3);
    let at =
        |space: &mut Space, lsn, stands| space.answer_at(lsn, stands, u32::MAX, &mut Vec::new());
    assert!(matches!(at(&mut bed.space, Lsn::ZERO, Lsn::ZERO), Some(Found::Mark(_))));
    bed.space.vanished(name(1));
    let later = bed.now + RELEASE_AFTER;
    assert!(!bed.release(Lsn(u64::MAX), later).is_empty());
    let found = at(&mut bed.space, Lsn::ZERO, Lsn::ZERO);
    assert!(
        matches!(&found, Some(Found::Gone(why)) if why.contains("no longer here")),
        "{found:?}"
    );
    let found = at(&mut bed.space, second, second);
    assert!(matches!(found, Some(Found::Mark(mark)) if mark.lsn == second), "{found:?}");
    let found = at(&mut bed.space, Lsn::ZERO, second);
    assert!(matches!(found, Some(Found::Mark(_))), "it can still be compared: {found:?}");
    bed.space.vanished(name(2));
    assert!(!bed.release(Lsn(u64::MAX), later).is_empty());
    let found = bed.space.answer_at(second, second, 0, &mut Vec::new());
    assert!(matches!(found, Some(Found::Gone(_))), "wherever its records lie: {found:?}");
}

/// All of the log since the start of a process was held for a replica that was away
/// when an epoch began, and no budget counted it.
#[test]
fn a_position_that_was_compared_is_believed_when_an_epoch_begins_behind_it() {
    let bed = Bed::new(&[]);
    let at = |lsn| Mark { lsn: Lsn(lsn), ..Mark::START };
    let mut slot = Slot::default();
    slot.resumed(at(400), Lsn(800));
    let cut = |lsn| Turned { at: at(lsn), sure: Lsn(lsn) };
    slot.cut(cut(700));
    assert_eq!(bed.space.vouched(&slot), Lsn(400));
    slot.cut(cut(300));
    assert_eq!(bed.space.vouched(&slot), Lsn(300), "it had that as well");

    // Of one that was never heard of, the boundary of a cut tells nothing.
    slot.recall(&SlotRecord { flushed: at(400), ..SlotRecord::default() });
    slot.cut(cut(300));
    assert_eq!((slot.met, bed.space.vouched(&slot)), (Some(false), Lsn::ZERO));
}

/// A host had lost all of a segment, and the same records were written again to another
/// one. A replica that has the first was taken for one that goes on there: what came
/// next had no place behind it, and it was refused for good. Later they were taken for
/// others at its end alone, and cut one by one, each in an epoch of its own.
#[test]
fn a_replica_that_has_the_same_records_in_another_segment_has_others() {
    let mut bed = Bed::new(&[]);
    let records = [record(0, b"one"), record(1, b"two"), record(2, b"three")];
    bed.write(2, &records.concat());
    bed.found(2);
    let mut known = fresh();
    for (file, bytes) in [(1, Some(0)), (2, None)] {
        known.runs.open(Run { start: Lsn::ZERO, segment: name(file), file, offset: 0, bytes });
    }
    bed.space.learn(known);
    bed.found(2);
    bed.walk();
    let end = bed.space.head().lsn;
    let mut at = |lsn, runs| bed.space.answer_at(lsn, end, runs, &mut Vec::new());
    let mut boundary = Lsn::ZERO;
    for record in records {
        assert!(matches!(at(boundary, 2), Some(Found::Mark(mark)) if mark.lsn == boundary));
        boundary = boundary.advance(record.len() as u64);
        assert_eq!(at(boundary, 1), Some(Found::Nothing));
    }
    assert!(matches!(at(end, 2), Some(Found::Mark(mark)) if mark.lsn == end));
    assert!(matches!(at(Lsn::ZERO, 0), Some(Found::Mark(_))));
}

/// All runs were gone through for each file that was touched, on a data core.
#[test]
fn a_long_log_is_looked_back_at_at_once() {
    const RUNS: u64 = 2_000;
    let mut bed = Bed::new(&[]);
    bed.write(1, &record(0, b"one"));
    bed.found(1);
    let segment = bed.space.files[&1].segment.clone();
    let mut known = fresh();
    for number in 1..=RUNS {
        let (segment, file) = (name(number), number);
        known.files.push(FileRecord { file, segment, device: 0, inode: number, birth_ns: 0 });
        let start = Lsn((number - 1) * 67);
        known.runs.open(Run { start, segment, file, offset: 0, bytes: None });
    }
    bed.space.learn(known);
    for tracked in bed.space.files.values_mut() {
        (tracked.segment, tracked.touched) = (segment.clone(), true);
    }
    bed.space.past.check(Mark::START, Vec::new());
    let mut turn = Turn::default();
    let ((), runs) = looked_at(|| bed.space.look_back(&mut turn));
    assert!(runs <= RUNS, "{runs} runs were looked at, of {RUNS}");
    assert!(turn.turned.is_none() && !bed.space.past.is_suspect());
}

#[path = "gap_tests.rs"]
mod gap;

#[path = "recheck_tests.rs"]
mod recheck;

/// A crash took the end of the source, and the database wrote as much again. What a
/// replica had acknowledged of the lost part was taken for that of the new one, and
/// a segment was let go of that it does not have.
#[test]
fn what_a_replica_had_acknowledged_is_believed_where_the_source_still_has_it() {
    let mut bed = Bed::new(&[]);
    for sequence in 0..4 {
        bed.write(1, &record(sequence, b"one"));
    }
    bed.found(1);
    bed.walk();
    let acked = bed.space.head();
    let at = |records: u64| Lsn(records * 67);
    for (left, rest, saved, doubted, believed) in [
        (4, 0, 1, None, 4),
        (4, 2, 1, None, 4),
        (2, 0, 1, None, 1),
        (2, 3, 1, None, 1),
        (2, 3, 4, None, 4),
        // A process before this one had no boundary behind the first record.
        (2, 3, 4, Some(1), 1),
        (4, 2, 4, Some(1), 4),
    ] {
        let mut bed = Bed::new(&[]);
        let mut known = fresh();
        known.runs.open(Run {
            start: Lsn::ZERO,
            segment: name(1),
            file: 1,
            offset: 0,
            bytes: None,
        });
        known.marks.push(Mark { lsn: at(saved), ..Mark::START });
        bed.space.learn(known);
        bed.space.rewind(Mark::START);
        bed.space.past.check(Mark::START, Vec::new());
        for sequence in (0..left).chain(10..10 + rest) {
            bed.write(1, &record(sequence, b"one"));
        }
        bed.found(1);
        bed.walk();
        let mut slot = Slot::default();
        let doubted = doubted.map(at);
        slot.recall(&SlotRecord { flushed: acked, doubted, ..SlotRecord::default() });
        slot.met = bed.space.met(&acked);
        let case = format!("{left} are left, and {rest} others, {doubted:?}");
        assert_eq!(bed.space.vouched(&slot), at(believed), "{case}");
    }
}

/// A crash took the end of the source, and the database wrote less than that. The new
/// epoch began behind it, and a replica that had acknowledged the lost part was taken
/// for one that has all before: a segment was let go of that it does not have.
#[test]
fn what_was_acknowledged_is_held_from_where_the_stream_was_met_before_an_epoch() {
    let mut bed = Bed::new(&[]);
    let mut marks = Vec::new();
    for sequence in 0..4 {
        bed.write(1, &record(sequence, b"one"));
        bed.found(1);
        bed.space.touch(Some(name(1)));
        bed.walk();
        marks.push(bed.space.head());
    }
    let ([first, second, _, acked], runs) = (marks[..].try_into().unwrap(), &bed.space.runs);
    let known = SpaceRecord { runs: runs.clone(), marks: vec![first, acked], ..fresh() };
    std::fs::write(bed.path(1), [record(0, b"one"), record(10, b"one")].concat()).unwrap();
    let mut before = std::mem::replace(
        &mut bed.space,
        Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required),
    );
    before.touch(Some(name(1)));
    bed.space.learn(known);
    bed.found(1);
    let at = |jobs: Vec<Job>| {
        jobs.into_iter().find_map(|job| match job {
            Job::BeginEpoch { at, sure, .. } => Some(Turned { at, sure }),
            _ => None,
        })
    };
    let turned = at(bed.walk()).unwrap();
    assert_eq!((turned.at.lsn, turned.sure), (second.lsn, first.lsn));
    for (flushed, held) in [(acked, first), (second, first), (first, first)] {
        let mut slot = Slot::default();
        slot.recall(&SlotRecord { flushed, ..SlotRecord::default() });
        slot.cut(turned);
        assert_eq!(bed.space.vouched(&slot), held.lsn, "from {flushed:?}");
    }

    // The next process knows the boundary of the epoch, and not who has it.
    let history = vec![(Epoch::FIRST, Lsn::ZERO), (Epoch(2), second.lsn)];
    let runs = bed.space.runs.clone();
    let next = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    bed.space = next;
    bed.space.learn(SpaceRecord { history, runs, marks: vec![turned.at], ..fresh() });
    bed.found(1);
    bed.walk();
    for (doubted, held) in [(Some(first.lsn), first.lsn), (None, turned.at.lsn)] {
        let mut slot = Slot::default();
        slot.recall(&SlotRecord { flushed: turned.at, doubted, ..SlotRecord::default() });
        slot.met = bed.space.meets(&slot);
        assert_eq!(bed.space.vouched(&slot), held, "{doubted:?}");
    }

    // The same within a process that has heard of it.
    std::mem::swap(&mut bed.space, &mut before);
    let turned = at(bed.walk()).unwrap();
    assert!(turned.sure < turned.at.lsn, "{turned:?}");
    let mut slot = Slot::default();
    slot.resumed(acked, acked.lsn);
    slot.cut(turned);
    assert!(bed.space.vouched(&slot) <= first.lsn);
}
