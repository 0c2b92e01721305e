//! Facts about replicas that need what the index does not have.

use super::*;

/// Records of 264 bytes in two files, in runs of 10, 20 and 10 records; the
/// index begins at the end, as after a start.
fn bed() -> (Bed, Vec<Mark>) {
    let mut bed = Bed::new(&[]);
    let some = |count: u64| (0..count).flat_map(|n| record(n, &[1; 200])).collect::<Vec<_>>();
    bed.write(1, &some(10));
    bed.found(1);
    bed.walk();
    bed.write(2, &some(20));
    bed.found(2);
    bed.walk();
    bed.write(1, &some(10));
    bed.space.touch(Some(name(1)));
    bed.walk();
    bed.space.runs_durable(3);
    let at = |lsn| match bed.space.mark_at(Lsn(lsn)) {
        Some(Found::Mark(mark)) => mark,
        other => panic!("{other:?}"),
    };
    let marks = (0..=40).map(|records| at(264 * records)).collect();
    bed.space.index = Index::new(bed.space.head());
    (bed, marks)
}

fn resume(bed: &mut Bed, at: &Mark) -> Option<Found> {
    let mut jobs = Vec::new();
    let found = bed.space.resume_at(at.lsn, &mut jobs);
    assert!(jobs.is_empty(), "all is open");
    found
}

/// Where each extent from there on ends.
fn extents(bed: &mut Bed, mut at: Mark, most: u32) -> Vec<u64> {
    let mut ends = Vec::new();
    for ordinal in 0..3 {
        while let Some((end, _)) = bed.space.cut(ordinal, &at, most) {
            ends.push(end.records);
            at = end;
        }
    }
    ends
}

#[test]
fn a_replica_far_behind_does_not_move_the_walk_back_for_the_others() {
    let (mut bed, marks) = bed();
    let head = bed.space.head();
    assert_eq!(resume(&mut bed, &marks[3]), None, "it has to be walked to");
    assert_eq!(bed.space.walked(), head);
    assert!(bed.space.is_walked(), "for everybody else");
    assert_eq!(resume(&mut bed, &head), Some(Found::Mark(head)));
    // What comes meanwhile is shipped at once to those that are not behind.
    bed.write(1, &record(0, &[2; 200]));
    bed.space.touch(Some(name(1)));
    bed.space.advance(bed.now);
    assert_eq!(bed.space.cut(2, &head, 1 << 20).unwrap().0.records, 41);
    bed.walk();
    assert_eq!(resume(&mut bed, &marks[3]), Some(Found::Mark(marks[3])));
    assert_eq!(extents(&mut bed, marks[3], 1 << 20), [10, 30, 41], "never across a run's end");
    assert_eq!(resume(&mut bed, &marks[10]), Some(Found::Mark(marks[10])));
}

#[test]
fn what_was_walked_of_an_earlier_part_is_shipped_while_the_rest_is_on_its_way() {
    let (mut bed, marks) = bed();
    bed.space.walk_earlier(Mark::START);
    let mut turn = Turn::default();
    let mut earlier = bed.space.earlier.take().unwrap();
    bed.space.step(&mut earlier, 264 * 4, &mut turn);
    bed.space.earlier = Some(earlier);
    assert_eq!(resume(&mut bed, &marks[2]), Some(Found::Mark(marks[2])));
    assert_eq!(resume(&mut bed, &marks[5]), None, "on its way");
    assert_eq!(extents(&mut bed, marks[2], 1 << 20), [4]);
    bed.walk();
    assert_eq!(extents(&mut bed, marks[4], 264 * 4), [8, 10, 14, 18, 22, 26, 30, 34, 38, 40]);
}

#[test]
fn who_is_farther_behind_begins_the_earlier_part_anew_and_nobody_is_shipped_less() {
    let (mut bed, marks) = bed();
    bed.space.saved = vec![marks[20]];
    assert_eq!(resume(&mut bed, &marks[25]), None);
    assert_eq!(resume(&mut bed, &marks[5]), None);
    bed.walk();
    for at in [5, 25] {
        assert_eq!(resume(&mut bed, &marks[at]), Some(Found::Mark(marks[at])));
    }
    assert_eq!(extents(&mut bed, marks[5], 1 << 20), [10, 30, 40]);
}

#[test]
fn an_earlier_part_that_is_another_one_now_makes_the_whole_be_looked_at() {
    let (mut bed, _) = bed();
    let other = record(9, &[7; 200]);
    let file = OpenOptions::new().write(true).open(bed.path(1)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &other, 264).unwrap();
    assert_eq!(resume(&mut bed, &Mark::START), None);
    let asked = epoch_asked(&bed.walk());
    assert_eq!(asked, Some((Mark::START, 0)), "the stream is no longer what was shipped");
}

#[test]
fn damage_in_an_earlier_part_concerns_only_who_needs_it() {
    let (mut bed, marks) = bed();
    let file = OpenOptions::new().write(true).open(bed.path(2)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 264 * 5).unwrap();
    assert_eq!(resume(&mut bed, &marks[3]), None);
    bed.walk();
    assert_eq!(resume(&mut bed, &marks[3]), Some(Found::Mark(marks[3])), "before the damage");
    assert_eq!(extents(&mut bed, marks[3], 1 << 20), [10, 15]);
    let Some(Found::Unavailable(_, why)) = resume(&mut bed, &marks[20]) else { panic!() };
    assert!(why.contains("damaged at offset 1320"), "{why}");
    assert!(bed.space.problem().unwrap().contains("damaged at offset 1320"));
    bed.write(1, &record(0, &[2; 200]));
    bed.space.touch(Some(name(1)));
    bed.walk();
    assert_eq!(bed.space.cut(2, &marks[40], 1 << 20).unwrap().0.records, 41);
}

#[path = "left_tests.rs"]
mod left;
