//! Facts about a walk over what was walked before, that meets less of it than it must.

use super::*;

/// A process that takes over a stream of nine records in one segment, of which some
/// boundaries are remembered, and finds `left` in it.
fn taken_over(payload: &[u8], remembered: &[u64], left: &[Vec<u8>]) -> (Bed, Vec<Lsn>) {
    let mut bed = Bed::new(&[]);
    let mut marks = vec![Mark::START];
    for sequence in 0..9 {
        bed.write(1, &record(sequence, payload));
        bed.found(1);
        bed.space.touch(Some(name(1)));
        bed.walk();
        marks.push(bed.space.head());
    }
    let saved: Vec<_> = remembered.iter().map(|at| marks[usize::try_from(*at).unwrap()]).collect();
    let known = SpaceRecord { runs: bed.space.runs.clone(), marks: saved, ..fresh() };
    std::fs::write(bed.path(1), left.concat()).unwrap();
    bed.space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    bed.space.learn(known);
    bed.found(1);
    (bed, marks.into_iter().map(|mark| mark.lsn).collect())
}

/// The first records as they were, then others.
fn with_others(payload: &[u8], kept: u64, others: u64) -> Vec<Vec<u8>> {
    let numbers = (0..kept).chain(11..11 + others);
    numbers.map(|sequence| record(sequence, payload)).collect()
}

/// Where an epoch was asked for, and up to where the stream is known to be what it was.
fn begun(bed: &mut Bed) -> Option<(Lsn, Lsn)> {
    let begun = bed.walk().into_iter().find_map(|job| match job {
        Job::BeginEpoch { at, sure, .. } => Some((at.lsn, sure)),
        _ => None,
    });
    assert_eq!(bed.space.problem(), None);
    begun
}

/// A crash took more of the source than what stood behind the last boundary but one,
/// and others of the same length were written since. The walk began at that boundary,
/// took it for one that was met, and an epoch began behind it.
#[test]
fn an_epoch_does_not_begin_behind_a_boundary_at_which_the_walk_has_only_begun() {
    for others in [6, 7, 8, 12] {
        let left = with_others(b"one", 1, others);
        let (mut bed, at) = taken_over(b"one", &[1, 3, 5, 7, 9], &left);
        assert_eq!(begun(&mut bed), Some((at[1], at[1])), "{others} others");
    }
    // Down to the start of the stream.
    let (mut bed, _) = taken_over(b"one", &[1, 3, 5, 7, 9], &with_others(b"one", 0, 9));
    assert_eq!(begun(&mut bed), Some((Lsn::ZERO, Lsn::ZERO)));
    // And not where the boundary is what it was.
    let (mut bed, at) = taken_over(b"one", &[1, 3, 5, 7, 9], &with_others(b"one", 7, 1));
    assert_eq!(begun(&mut bed), Some((at[8], at[7])));
}

/// Something before it is damaged: that says nothing for the rest. Replicas would keep
/// others than the source, and nobody would ask.
#[test]
fn what_is_known_to_be_another_is_not_gone_past_for_damage_before_it() {
    let damaged = |payload: &[u8], remembered: &[u64]| {
        let mut left = with_others(payload, 7, 3);
        left[5][30] ^= 1;
        let (mut bed, at) = taken_over(payload, remembered, &left);
        bed.space.end_otherwise(&[(1, at[9])].into());
        (bed, at)
    };
    // The boundary before is near: it is looked at in any case, and from behind the damage.
    let (mut bed, at) = damaged(b"one", &[1, 3, 5, 7, 9]);
    assert_eq!(begun(&mut bed), Some((at[7], at[7])));

    let (mut bed, at) = damaged(&vec![1; 200_000], &[1, 9]);
    assert_eq!(epoch_asked(&bed.walk()), None);
    let problem = bed.space.problem().unwrap_or_default();
    assert!(problem.contains(&format!("in the stream at {}", at[9])), "{problem}");
}

/// What the walk has gone over before it missed a boundary is not what it was: it must
/// not be met in its place when the walk goes back.
#[test]
fn what_a_walk_has_not_met_is_no_boundary_for_the_next_one() {
    let payload = vec![1; 200_000];
    let (mut bed, at) = taken_over(&payload, &[1, 2, 6, 9], &with_others(&payload, 2, 7));
    bed.space.end_otherwise(&[(1, at[9])].into());
    assert_eq!(begun(&mut bed), Some((at[2], at[2])));
}

/// What was to prove a boundary cannot be read: nothing says that it is none. Or the
/// record before it says so.
#[test]
fn an_epoch_begins_where_it_can_if_what_lies_before_is_damaged() {
    let mut left = with_others(b"one", 7, 1);
    left[5][30] ^= 1;
    let (mut bed, at) = taken_over(b"one", &[1, 3, 5, 7, 9], &left);
    let (runs, mut marks) = (bed.space.runs.clone(), bed.space.saved.clone());
    let (end, _) = epoch_asked(&bed.walk()).unwrap();
    assert_eq!((end.lsn, bed.space.problem()), (at[8], None));
    marks.pop();
    marks.push(end);
    let history = vec![(Epoch(1), Lsn::ZERO), (Epoch(2), end.lsn)];
    bed.space.reign(SpaceRecord { runs, marks, history, ..fresh() });
    assert_eq!(begun(&mut bed), None);
    assert_eq!((bed.space.head(), &bed.space.damage), (end, &None));

    // A header that has rotted is no other record.
    left[6][30] ^= 1;
    let (mut bed, at) = taken_over(b"one", &[1, 3, 5, 7, 9], &left);
    assert_eq!(begun(&mut bed), Some((at[8], at[7])));

    left[6] = record(17, b"one");
    let (mut bed, at) = taken_over(b"one", &[1, 3, 5, 7, 9], &left);
    assert_eq!(epoch_asked(&bed.walk()), None);
    let problem = bed.space.problem().unwrap_or_default();
    assert!(problem.contains(&format!("what was in the stream at {}", at[7])), "{problem}");
    assert!(problem.contains("offset"), "{problem}");
}

/// The walk began at the end of what was known, and met nothing at all: what came before
/// was another, and nobody noticed.
#[test]
fn a_start_goes_back_where_the_last_record_that_was_walked_is_another() {
    let payload = vec![1; 200_000];
    for behind in 0..2 {
        let left = with_others(&payload, 4, 5 + behind);
        let (mut bed, at) = taken_over(&payload, &[1, 4, 9], &left);
        assert!(bed.space.is_settled(), "the boundary before is too far away to be looked at");
        bed.space.end_otherwise(&[(1, at[9])].into());
        assert_eq!(begun(&mut bed), Some((at[4], at[4])));
    }
    // What is as it was begins nothing, though its last record is damaged, and what comes
    // behind it is shipped.
    for damaged in [30, 1000] {
        let mut left = with_others(&payload, 10, 0);
        left[8][damaged] ^= 1;
        let (mut bed, at) = taken_over(&payload, &[1, 4, 9], &left);
        bed.space.end_otherwise(&[(1, at[9])].into());
        assert_eq!(begun(&mut bed), None);
        assert_eq!(bed.space.head().lsn.0, at[9].0 + at[1].0);
        assert_eq!(bed.space.damage, None);
        assert!(bed.space.is_settled());
    }
}

/// What had rotted was left out; then a crash took it with all behind it, and the
/// database wrote a record there that is longer. Where the stream had gone on nothing
/// begins any more: it was taken for damage, and the new record was left out with it.
#[test]
fn a_record_that_lies_across_where_the_stream_had_gone_on_is_no_damage() {
    const RECORD: u64 = 264;
    let payload = |records: usize| vec![1; 264 * records - 64];
    for (is_whole, is_saved) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut bed = Bed::new(&[]);
        bed.write(1, &record(0, &payload(1)));
        bed.found(1);
        bed.walk();
        let first = bed.space.head();
        bed.write(1, &[0xaa; 2 * 264]);
        bed.write(1, &record(1, &payload(1)));
        let run = |start, offset| Run { start, segment: name(1), file: 1, offset, bytes: None };
        let mut known = fresh();
        known.runs.open(run(Lsn::ZERO, 0));
        known.runs.open(run(first.lsn, 3 * RECORD));
        let last = Mark { lsn: Lsn(2 * RECORD), ..first };
        known.marks = if is_saved { vec![first, last] } else { vec![first] };
        let mut across = record(7, &payload(4));
        across[300] ^= u8::from(!is_whole);
        std::fs::write(bed.path(1), [record(0, &payload(1)), across].concat()).unwrap();
        bed.space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
        bed.space.learn(known);
        bed.found(1);
        let jobs = bed.walk();
        assert_eq!(epoch_asked(&jobs).map(|(mark, _)| mark), is_whole.then_some(first));
        assert_eq!(bed.space.damage.is_none(), is_whole);
        // It is looked for once in a walk, however often the file grows.
        assert!(is_whole || bed.space.past.across.is_some());
    }
}
