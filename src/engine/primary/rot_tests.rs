//! Facts about records that have rotted at their source.

use std::time::Duration;

use super::*;
use crate::engine::keeper::BadRecord;
use crate::engine::primary::Holder;
use crate::limits::UNHEARD_GRACE;
use crate::protocol::Now;
use crate::wal::record::RecordError;

const AT: Lsn = Lsn(3 * 67);

/// Six records, of which the fourth does not hold.
fn bed() -> Bed {
    let mut bed = Bed::new(&[]);
    for sequence in 0..6 {
        bed.write(1, &record(sequence, b"one"));
    }
    bed.found(1);
    bed.walk();
    bed
}

fn bad() -> BadRecord {
    let error = RecordError::PayloadCrc { expected: 1, found: 2 };
    BadRecord { segment: name(1), file: 1, offset: AT.0, span: Some(67), error }
}

fn holder(has: Option<u64>) -> Holder {
    Holder { replica: "two".parse().unwrap(), has: has.map(Lsn) }
}

/// What comes of it so much later, and what is said.
fn after(bed: &mut Bed, later: Duration, bad: &BadRecord, has: &[Holder]) -> (Turn, String) {
    let now = |instant| Now { instant, unix_ns: 0 };
    bed.space.block(now(bed.now), AT, bad, Some(has));
    let mut turn = Turn::default();
    let then = now(bed.now + later);
    bed.space.block(then, AT, bad, Some(has));
    bed.space.leave_out(then, has, &mut turn);
    (turn, bed.space.problem().unwrap())
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_record_that_nobody_has_is_left_out_at_its_boundary() {
    let mut bed = bed();
    let (turn, _) = after(&mut bed, LONG, &bad(), &[holder(Some(AT.0)), holder(Some(0))]);
    let at = turn.turned.unwrap().at;
    assert_eq!((at.lsn, at.records), (AT, 3));
    assert!(matches!(&turn.jobs[..], [Job::LeaveOut { bad: found, .. }] if *found == bad()));
    assert!(bed.space.open().is_none(), "not shipped until that is durable");
    bed.space.stay(AT, "the record is whole again".into());
    assert!(bed.space.open().is_some());
    assert!(bed.space.problem().unwrap().contains("cannot be left out: the record is whole"));
}

#[test]
fn a_record_that_a_replica_has_in_memory_is_not_left_out() {
    let (turn, said) = after(&mut bed(), LONG, &bad(), &[holder(Some(AT.0 + 67))]);
    assert!(turn.turned.is_none() && said.contains("two has it"), "{said}");
}

#[test]
fn a_replica_that_was_not_heard_of_is_waited_for_but_not_for_ever() {
    let (turn, said) = after(&mut bed(), LONG, &bad(), &[holder(None)]);
    assert!(turn.turned.is_none() && said.contains("when two was heard"), "{said}");
    let (turn, _) = after(&mut bed(), UNHEARD_GRACE, &bad(), &[holder(None)]);
    assert!(turn.turned.is_some());
}

#[test]
fn what_has_just_been_found_bad_may_be_a_write_in_progress() {
    let (turn, _) = after(&mut bed(), Duration::from_secs(2), &bad(), &[]);
    assert!(turn.turned.is_none());
}

#[test]
fn what_has_no_end_is_not_left_out() {
    let (turn, said) = after(&mut bed(), LONG, &BadRecord { span: None, ..bad() }, &[]);
    assert!(turn.turned.is_none() && said.contains("no record follows"), "{said}");
}

/// A bed whose space was started again, over a log whose second record has a
/// header that rotted.
fn started() -> Bed {
    let mut bed = Bed::new(&[]);
    let mut second = record(1, b"one");
    second[20] ^= 1;
    bed.write(1, &[record(0, b"one"), second, record(2, b"one")].concat());
    let mut known = fresh();
    known.runs.open(Run { start: Lsn::ZERO, segment: name(1), file: 1, offset: 0, bytes: None });
    bed.space.learn(known);
    bed.found(1);
    bed.walk();
    bed
}

fn skip(bed: &mut Bed, later: Duration, has: &[Holder]) -> usize {
    bed.space.skip_debris(Now { instant: bed.now + later, unix_ns: 0 }, has).len()
}

/// A header rotted in a record that the replicas had. The primary, started
/// again, came upon it by itself and left it out, which it would not have done
/// had a replica complained of it: the good copies were cut away.
#[test]
fn what_an_earlier_process_may_have_shipped_is_not_left_out_unasked() {
    for (has, later, left_out) in [
        (Some(134), LONG, false),
        (None, LONG, false),
        (None, UNHEARD_GRACE, true),
        (Some(67), LONG, true),
    ] {
        let skipped = skip(&mut started(), later, &[holder(has)]) > 0;
        assert_eq!(skipped, left_out, "a replica that has {has:?}, after {later:?}");
    }
}

#[test]
fn what_was_whole_when_it_was_walked_is_not_left_out_as_debris() {
    let mut bed = bed();
    let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff], 20).unwrap();
    bed.space.rewind(Mark::START);
    bed.walk();
    assert!(bed.space.debris.is_some(), "the walk stands before it");
    assert_eq!(skip(&mut bed, LONG, &[holder(Some(0))]), 0);
}

/// Debris was left out, and before anything was read behind it a crash of the
/// host took all that followed. The file was found too short in every turn, and
/// the stream whole each time: a core was kept busy for good.
#[test]
fn a_place_that_is_gone_behind_what_was_left_out_begins_a_new_epoch() {
    let mut bed = started();
    assert!(skip(&mut bed, LONG, &[]) > 0);
    let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
    file.set_len(67).unwrap();
    bed.space.touch(None);
    let asked = epoch_asked(&bed.walk()).unwrap();
    assert_eq!((asked.0.lsn, asked.1), (Lsn(67), 1));
}

/// The same, when the stream has gone on in another segment since: nothing of it
/// is missing. The new epoch cut all that had come there.
#[test]
fn a_place_that_is_gone_and_was_not_gone_on_at_ends_nothing() {
    let mut bed = started();
    assert!(skip(&mut bed, LONG, &[]) > 0);
    let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
    file.set_len(134).unwrap();
    bed.space.runs.open(Run {
        start: Lsn(67),
        segment: name(1),
        file: 1,
        offset: 134,
        bytes: None,
    });
    bed.space.rewind(bed.space.head());
    let second = record(7, b"one");
    bed.write(2, &second);
    bed.found(2);
    bed.walk();
    let before = bed.space.head();
    file.set_len(67).unwrap();
    bed.space.touch(None);
    assert_eq!(epoch_asked(&bed.walk()), None);
    assert_eq!(bed.space.head(), before);
    // What is appended there now lies where the file ended.
    bed.write(1, &second);
    bed.space.touch(None);
    assert_eq!(epoch_asked(&bed.walk()), None);
    let (_, last) = bed.space.runs.iter().last().unwrap();
    assert_eq!((last.file, last.offset), (1, 67));
    assert_eq!(bed.space.head().lsn, before.lsn.advance(67));
}

#[test]
fn nothing_is_left_out_if_something_behind_it_is_gone() {
    let mut bed = bed();
    bed.write(2, &record(0, b"one"));
    bed.found(2);
    bed.walk();
    let tracked = bed.space.files.get_mut(&2).unwrap();
    (tracked.segment, tracked.gone) = (None, true);
    let (turn, _) = after(&mut bed, LONG, &bad(), &[]);
    assert!(turn.turned.is_none());
    assert!(bed.space.problem().unwrap().contains("no longer here"));
}

#[test]
fn no_record_begins_where_a_broken_replica_says_so() {
    let bed = bed();
    assert!(bed.space.begins_record(AT));
    for at in [AT.0 - 1, AT.0 + 64, 6 * 67, 1 << 40] {
        assert!(!bed.space.begins_record(Lsn(at)), "{at}");
    }
}
