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
    let at = turn.turned.unwrap();
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
