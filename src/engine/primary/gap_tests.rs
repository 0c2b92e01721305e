//! Facts about a source that a crash has changed, where something behind was let
//! go of.

use super::*;

const RECORD: u64 = 264;

/// The writer goes on with the first segment after the second one was begun; then
/// a snapshot takes both names, and the second is let go of.
///
/// ```text
///   stream   |1 . |2 . |1 . |3 . |
/// ```
fn with_a_gap() -> Bed {
    let mut bed = Bed::new(&[]);
    for number in [1, 2, 1, 3] {
        for sequence in 0..2 {
            bed.write(number, &record(sequence, &[u8::try_from(number).unwrap(); 200]));
        }
        if bed.space.files.contains_key(&number) {
            bed.space.touch(Some(name(number)));
        } else {
            bed.found(number);
        }
        bed.walk();
    }
    assert_eq!(bed.space.head().lsn, Lsn(8 * RECORD));
    let writer = OpenOptions::new().append(true).open(bed.path(1)).unwrap();
    bed.space.vanished(name(1));
    bed.space.vanished(name(2));
    let jobs = bed.release(Lsn(u64::MAX), bed.now + RELEASE_PROBE_AFTER);
    assert!(matches!(jobs[..], [.., Job::Release { file: 2, .. }]), "{jobs:?}");
    drop(writer);
    bed
}

fn shrink(bed: &mut Bed, number: u64, bytes: u64) {
    let file = OpenOptions::new().write(true).open(bed.path(number)).unwrap();
    file.set_len(bytes).unwrap();
    bed.space.touch(Some(name(number)));
}

/// The space stopped until a person promoted a replica.
#[test]
fn what_a_crash_took_before_what_was_let_go_of_begins_a_new_epoch_there() {
    for (left, at) in [(RECORD, RECORD), (RECORD + 100, RECORD), (0, 0)] {
        let mut bed = with_a_gap();
        shrink(&mut bed, 1, left);
        let asked = epoch_asked(&bed.walk());
        assert_eq!(bed.space.problem(), None);
        assert_eq!(asked.map(|(mark, _)| mark.lsn), Some(Lsn(at)), "{left} bytes are left");
    }
}

#[test]
fn what_lies_on_either_side_of_what_was_let_go_of_is_met_again() {
    let mut bed = with_a_gap();
    let head = bed.space.head();
    for _ in 0..2 {
        bed.space.suspect(Lsn::ZERO);
        assert_eq!((epoch_asked(&bed.walk()), bed.space.problem()), (None, None));
        assert_eq!((bed.space.head(), bed.space.walked()), (head, head));
        assert!(bed.space.is_walked() && bed.space.is_settled());
    }
    // It can be shipped from there, and from before it cannot.
    let at = |space: &mut Space, lsn| space.resume_at(Lsn(lsn), &mut Vec::new());
    assert!(matches!(at(&mut bed.space, 5 * RECORD), Some(Found::Mark(_))));
    assert!(matches!(at(&mut bed.space, RECORD), Some(Found::Gone(_))));
    bed.write(3, &record(2, &[3; 200]));
    bed.space.touch(Some(name(3)));
    bed.walk();
    assert_eq!(bed.space.head().lsn, Lsn(9 * RECORD));
}

/// Of the file that both sides lie in, the first part is what it was.
#[test]
fn what_a_crash_took_behind_what_was_let_go_of_begins_a_new_epoch_there() {
    for (number, left, at) in [(1, 3 * RECORD, 5), (1, 2 * RECORD, 4), (3, RECORD, 7)] {
        let mut bed = with_a_gap();
        shrink(&mut bed, number, left);
        bed.space.suspect(Lsn::ZERO);
        let asked = epoch_asked(&bed.walk());
        assert_eq!(
            asked.map(|(mark, _)| mark.lsn),
            Some(Lsn(at * RECORD)),
            "{left} bytes are left"
        );
        assert_eq!(bed.space.problem(), None);
    }
}

#[test]
fn a_record_that_is_another_one_before_what_was_let_go_of_is_noticed() {
    let mut bed = with_a_gap();
    let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &record(7, &[9; 200]), RECORD).unwrap();
    bed.space.suspect(Lsn::ZERO);
    let (at, _) = epoch_asked(&bed.walk()).unwrap();
    assert!(at.lsn <= Lsn(RECORD), "{at:?}");
    assert_eq!(bed.space.problem(), None);
}

#[test]
fn no_epoch_is_guessed_where_no_boundary_is_remembered_beside_what_was_let_go_of() {
    for forgotten in [2, 4] {
        let mut bed = with_a_gap();
        let forgotten = Lsn(forgotten * RECORD);
        bed.space.saved.retain(|mark| mark.lsn != forgotten);
        bed.space.begins.retain(|_, mark| mark.lsn != forgotten);
        bed.space.index = Index::new(bed.space.head());
        bed.space.suspect(Lsn::ZERO);
        assert_eq!(epoch_asked(&bed.walk()), None);
        let problem = bed.space.problem().unwrap();
        for part in ["was let go of", &forgotten.to_string(), "promote one of them"] {
            assert!(problem.contains(part), "{part} in {problem}");
        }
        // What lies before it can be told in any case.
        let mut bed = with_a_gap();
        bed.space.saved.retain(|mark| mark.lsn != forgotten);
        bed.space.begins.retain(|_, mark| mark.lsn != forgotten);
        bed.space.index = Index::new(bed.space.head());
        shrink(&mut bed, 1, RECORD);
        assert_eq!(epoch_asked(&bed.walk()).map(|(mark, _)| mark.lsn), Some(Lsn(RECORD)));
    }
}

/// A full disk had taken no pin of it, and its name went: nobody can tell that from
/// a crash which took it. The space stopped until a person promoted a replica.
#[test]
fn what_has_vanished_is_the_end_of_what_can_be_met() {
    for (left, at) in [(2 * RECORD, 2), (RECORD, 1)] {
        let mut bed = Bed::new(&[]);
        for number in [1, 2, 3] {
            bed.write(number, &record(0, &[1; 200]));
            bed.write(number, &record(1, &[1; 200]));
            bed.found(number);
            bed.walk();
        }
        let why = "the second is gone, and so is its pin".to_owned();
        bed.space.files.get_mut(&2).unwrap().segment = None;
        bed.space.reopened(2, Err(Unopened::Gone { why, lost: true }));
        bed.walk();
        let said = bed.space.problem().unwrap();
        assert!(said.contains("behind offset 528, if anything"), "{said}");
        assert!(bed.space.is_walked() && bed.space.blocked().is_none(), "nobody needs it");
        shrink(&mut bed, 1, left);
        bed.space.suspect(Lsn::ZERO);
        let asked = epoch_asked(&bed.walk());
        assert_eq!(asked.map(|(mark, runs)| (mark.lsn, runs)), Some((Lsn(at * RECORD), 1)));
        assert_eq!(bed.space.blocked(), None);
    }
}
