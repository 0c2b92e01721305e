//! Facts about a writer that after a crash of its host goes on in a segment which
//! it had left for another.

use super::*;

const RECORD: u64 = 264;

/// Two records in the first segment, one in the second; then the node is started
/// again, and finds `left` in the first one.
fn started_again(left: &[Vec<u8>]) -> Bed {
    started_beside(&[(1, 2), (2, 1)], left)
}

/// As [`started_again`], with that many records in each segment.
fn started_beside(segments: &[(u64, u64)], left: &[Vec<u8>]) -> Bed {
    let mut bed = Bed::new(&[]);
    for &(number, records) in segments {
        for sequence in 0..records {
            bed.write(number, &record(sequence, &[u8::try_from(number).unwrap(); 200]));
        }
        bed.found(number);
        bed.walk();
    }
    let mut known = fresh();
    known.runs = bed.space.runs.clone();
    known.marks = bed.space.saved.clone();
    known.begins = bed.space.begins.clone();
    let file = |file| FileRecord { file, segment: name(file), device: 0, inode: file, birth_ns: 0 };
    known.files = segments.iter().map(|(number, _)| file(*number)).collect();
    std::fs::write(bed.path(1), left.concat()).unwrap();
    let mut space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
    space.learn(known);
    bed.space = space;
    for (number, _) in segments {
        bed.found(*number);
    }
    bed
}

/// The host had lost the end of it. The walk went on in the midst of a record, and
/// the space halted for damage; had a record begun there by chance, replicas would
/// have kept others before it than the source.
#[test]
fn what_was_written_over_a_lost_end_begins_a_new_epoch() {
    let [first, second] = [0, 1].map(|sequence| record(sequence, &[1; 200]));
    let others = [record(7, &[7; 400]), record(7, &[7; 200])];
    for other in others {
        let mut bed = started_again(&[first.clone(), other.clone(), second.clone()]);
        let (at, _) = epoch_asked(&bed.walk()).unwrap();
        assert_eq!(bed.space.problem(), None);
        // From the last boundary on that the catalog remembers.
        assert_eq!(at.lsn, Lsn::ZERO, "{} bytes", other.len());
    }
}

/// It ended where it had ended, or only nothing whole came behind that: it was taken for
/// what it had been, and replicas kept others than the source.
#[test]
fn what_was_written_over_a_lost_end_begins_a_new_epoch_however_long_it_is() {
    let first = record(0, &[1; 200]);
    for behind in [Vec::new(), vec![0; 100], record(9, &[1; 200])[..100].to_vec()] {
        let mut bed = started_again(&[first.clone(), record(7, &[7; 200]), behind.clone()]);
        bed.space.end_otherwise(&[(1, Lsn(2 * RECORD))].into());
        let (at, _) = epoch_asked(&bed.walk()).unwrap();
        assert_eq!((at.lsn, bed.space.problem()), (Lsn::ZERO, None), "{behind:?}");
    }

    // Damage is no reason to begin one.
    let mut rotten = record(1, &[1; 200]);
    rotten[30] ^= 1;
    let mut bed = started_again(&[first, rotten]);
    bed.space.end_otherwise(&[(1, Lsn(2 * RECORD))].into());
    assert_eq!(epoch_asked(&bed.walk()), None);
    assert_eq!((bed.space.head().lsn, bed.space.problem()), (Lsn(3 * RECORD), None));
}

#[test]
fn what_was_only_gone_on_with_begins_a_run() {
    let mut records: Vec<_> = (0..3).map(|sequence| record(sequence, &[1; 200])).collect();
    let mut bed = started_again(&records);
    assert_eq!(epoch_asked(&bed.walk()), None);
    assert_eq!((bed.space.head().lsn, bed.space.problem()), (Lsn(4 * RECORD), None));
    let runs: Vec<_> = bed.space.runs.iter().map(|(_, run)| (run.file, run.offset)).collect();
    assert_eq!(runs, [(1, 0), (2, 0), (1, 2 * RECORD)]);

    // What is there of a record is waited for, however often it is looked at.
    records[2].truncate(100);
    let mut bed = started_again(&records);
    for _ in 0..3 {
        assert_eq!(epoch_asked(&bed.walk()), None);
        assert_eq!((bed.space.head().lsn, bed.space.problem()), (Lsn(3 * RECORD), None));
        bed.space.touch(Some(name(1)));
    }
}

/// One bit of the header of the second record.
fn rot(bed: &Bed, segment: u64) {
    let file = OpenOptions::new().write(true).open(bed.path(segment)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff], RECORD + 25).unwrap();
}

/// Each start walked all that had come behind such a segment, and shipped nothing
/// meanwhile; a record that had rotted there stopped the space for good.
#[test]
fn what_is_no_record_behind_a_segment_that_was_left_is_no_reason_to_look_back() {
    let segments = [(1, 3), (2, 3), (3, 3)];
    let whole: Vec<_> = (0..3).map(|sequence| record(sequence, &[1; 200])).collect();
    let torn = record(3, &[1; 200])[..100].to_vec();
    for behind in [Vec::new(), torn, vec![0; 4096]] {
        let mut bed = started_beside(&segments, &[whole.concat(), behind]);
        rot(&bed, 2);
        bed.walk();
        assert_eq!(bed.space.index.oldest().lsn, Lsn(6 * RECORD), "it begins where it did");
        assert_eq!((bed.space.problem(), bed.space.head().lsn), (None, Lsn(9 * RECORD)));
    }
}

/// Of a segment that has grown, that one is looked at: how it goes on where
/// something has rotted is no business of what comes now.
#[test]
fn what_lies_behind_a_segment_that_was_left_is_not_looked_at() {
    for segment in [1, 2] {
        let segments = [(1, 3), (2, 3), (3, 3)];
        let grown: Vec<_> = (0..4).map(|sequence| record(sequence, &[1; 200])).collect();
        let mut bed = started_beside(&segments, &grown);
        // In the part of the first segment that is compared, or behind it.
        rot(&bed, segment);
        assert_eq!(epoch_asked(&bed.walk()), None);
        assert_eq!((bed.space.problem(), bed.space.head().lsn), (None, Lsn(10 * RECORD)));
        bed.write(3, &record(9, &[3; 200]));
        bed.space.touch(Some(name(3)));
        bed.walk();
        assert_eq!((bed.space.problem(), bed.space.head().lsn), (None, Lsn(11 * RECORD)));
    }
}

/// It was written over so far back that no record begins any more where the walk
/// began to look, and was taken for damage.
#[test]
fn a_boundary_that_is_none_any_more_is_looked_for_farther_back() {
    for damaged in [false, true] {
        let mut bed = Bed::new(&[]);
        for sequence in 0..4 {
            bed.write(1, &record(sequence, &[1; 200]));
        }
        bed.found(1);
        bed.walk();
        let at = |space: &mut Space, lsn| match space.resume_at(Lsn(lsn), &mut Vec::new()) {
            Some(Found::Mark(mark)) => mark,
            other => panic!("{other:?}"),
        };
        bed.space.saved = [1, 2, 3].map(|records| at(&mut bed.space, records * RECORD)).into();
        let mut left = [0, 1, 2].map(|sequence| record(sequence, &[1; 200])).concat();
        if damaged {
            // In the header of the third one.
            left[2 * 264 + 25] ^= 1;
        } else {
            left.truncate(264);
            left.extend([record(7, &[7; 400]), record(8, &[8; 100])].concat());
        }
        std::fs::write(bed.path(1), left).unwrap();
        bed.space.index = Index::new(bed.space.head());
        bed.space.suspect(Lsn(3 * RECORD));
        bed.space.touch(Some(name(1)));
        let asked = epoch_asked(&bed.walk());
        if damaged {
            assert_eq!(asked, None);
            let problem = bed.space.problem().unwrap();
            assert!(problem.contains("is damaged at offset 528"), "{problem}");
        } else {
            assert_eq!(asked.map(|(mark, _)| mark.lsn), Some(Lsn(RECORD)));
            assert_eq!(bed.space.problem(), None);
        }
    }
}
