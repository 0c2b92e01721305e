//! What is found of a log, and up to where it is the other node's.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::engine::mortal::Mortal;
use crate::ids::{Epoch, StreamId};
use crate::limits::RECORD_HEADER_BYTES;
use crate::state::catalog::{Catalog, FileRecord};
use crate::state::host::ThisHost;
use crate::state::runs::Runs;
use crate::wal::record::{Header, step};

/// Bytes of a record of the test.
const RECORD: u64 = 64 + 100;

fn record_of(sequence: u64) -> Vec<u8> {
    let payload = [u8::try_from(sequence % 250).unwrap(); 100];
    let header = Header::new(sequence, 7, 1, &payload).unwrap();
    [&header.encode()[..], &payload].concat()
}

/// The other node: it has records of these sequences, in this order.
struct Primary {
    chains: HashMap<Lsn, Chain>,
    asked: u32,
}

impl Primary {
    fn new(sequences: impl IntoIterator<Item = u64>) -> Self {
        let mut mark = Mark::START;
        let mut chains = HashMap::new();
        for sequence in sequences {
            let bytes = record_of(sequence);
            let raw = bytes.first_chunk::<RECORD_HEADER_BYTES>().unwrap();
            mark = step(&mark, raw, &Header::parse(raw, Checksums::Required).unwrap());
            chains.insert(mark.lsn, mark.chain);
        }
        Self { chains, asked: 0 }
    }
}

impl Other for Primary {
    fn chain_at(&mut self, lsn: Lsn) -> Result<Option<Chain>, String> {
        self.asked += 1;
        Ok(self.chains.get(&lsn).copied())
    }
}

struct Bed {
    _directory: tempfile::TempDir,
    places: Places,
    space: SpaceId,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data_root = directory.path().to_path_buf();
        let state_dir = data_root.join(".saltus");
        let space: SpaceId = "alpha".parse().unwrap();
        let places = Places { data_root, state_dir, host: Arc::new(ThisHost) };
        fs::create_dir_all(places.wal(&space)).unwrap();
        fs::create_dir_all(&places.state_dir).unwrap();
        Self { _directory: directory, places, space }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.places.wal(&self.space).join(SegmentName(segment).to_string())
    }

    fn write(&self, segment: u64, sequences: impl IntoIterator<Item = u64>) {
        let bytes: Vec<_> = sequences.into_iter().flat_map(record_of).collect();
        fs::write(self.path(segment), bytes).unwrap();
    }

    fn flip(&self, segment: u64, at: u64) {
        let file = fs::File::options().read(true).write(true).open(self.path(segment)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    fn rebuild(&self) -> Rebuild<'_> {
        Rebuild { places: &self.places, checksums: Checksums::Required, space: &self.space }
    }

    fn examine(
        &self,
        runs: &[(u64, u64, u64)],
        other: &mut Primary,
    ) -> Result<Finding, RebuildError> {
        self.rebuild().examine(chart(runs), other, &mut |_| true)
    }
}

/// What the other node says: runs of (start, segment, offset), in records.
fn chart(of: &[(u64, u64, u64)]) -> SpaceRecord {
    let mut runs = Runs::default();
    for (start, segment, offset) in of {
        runs.open(Run {
            start: Lsn(start * RECORD),
            segment: SegmentName(*segment),
            file: segment + 40,
            offset: offset * RECORD,
            bytes: None,
        });
    }
    let history = vec![(Epoch(1), Lsn::ZERO), (Epoch(2), Lsn(RECORD))];
    SpaceRecord {
        highest_epoch: Epoch(5),
        runs,
        ..SpaceRecord::new(Role::Replica, StreamId(9), history)
    }
}

#[test]
fn what_is_here_is_found_along_the_runs_and_proven_with_one_question() {
    let bed = Bed::new();
    // Two segments in turn, a gap between two runs of one, an empty one.
    bed.write(8, (0..3).chain([99]).chain(5..7));
    bed.write(2, [3, 4]);
    bed.write(5, []);
    let runs = [(0, 8, 0), (3, 2, 0), (5, 8, 4), (7, 5, 0)];
    let mut other = Primary::new(0..20);
    let finding = bed.examine(&runs, &mut other).unwrap();
    assert_eq!((finding.common.lsn, finding.common.records, other.asked), (Lsn(7 * RECORD), 7, 1));
    assert_eq!((finding.unmatched_bytes, finding.strangers.len()), (0, 0));
    let (changes, notices) = bed.rebuild().settle(&finding).unwrap();
    assert_eq!(notices, []);
    let catalog = Catalog::open(&bed.places.state_dir).unwrap();
    let changes: Vec<_> = changes.into_iter().map(|change| (bed.space.clone(), change)).collect();
    catalog.commit(&changes).unwrap();
    let found = catalog.space(&bed.space).unwrap().unwrap();
    assert_eq!(found.checkpoint, finding.common);
    assert_eq!((found.highest_epoch, found.stream), (Epoch(5), StreamId(9)));
    assert_eq!(found.history, chart(&runs).history);
    assert_eq!(found.runs, chart(&runs).runs);
    assert!(found.marks.contains(&finding.common));
}

#[test]
fn the_last_common_record_is_found_in_few_questions() {
    for common in [1, 2, 499, 500, 998, 999] {
        let bed = Bed::new();
        bed.write(1, 0..500);
        bed.write(2, 500..1000);
        let mut other = Primary::new((0..common).chain(5000..5000 + 1000 - common));
        let finding = bed.examine(&[(0, 1, 0), (500, 2, 0)], &mut other).unwrap();
        assert_eq!(finding.common.records, common);
        assert_eq!(finding.unmatched_bytes, (1000 - common) * RECORD);
        assert!(other.asked < 30, "{} questions", other.asked);
        let (_, notices) = bed.rebuild().settle(&finding).unwrap();
        assert!(!notices.is_empty());
        let left: u64 =
            [1, 2].iter().filter_map(|s| fs::metadata(bed.path(*s)).ok()).map(|m| m.len()).sum();
        assert_eq!(left, common * RECORD);
        // And once more, as after a stop.
        let mut other = Primary::new(0..common);
        let again = bed.examine(&[(0, 1, 0), (500, 2, 0)], &mut other).unwrap();
        assert_eq!((again.common, again.unmatched_bytes), (finding.common, 0));
    }
}

#[test]
fn a_node_that_is_ahead_of_the_other_is_cut_to_it() {
    let bed = Bed::new();
    bed.write(1, 0..10);
    let finding = bed.examine(&[(0, 1, 0)], &mut Primary::new(0..6)).unwrap();
    assert_eq!(finding.common.records, 6);
}

#[test]
fn another_log_is_refused_and_nothing_of_it_is_moved() {
    let bed = Bed::new();
    bed.write(1, 100..110);
    let refused = bed.examine(&[(0, 1, 0)], &mut Primary::new(0..20)).unwrap_err();
    assert!(matches!(refused, RebuildError::Foreign { records: 10, .. }), "{refused}");
}

#[test]
fn a_payload_that_has_rotted_is_named_and_a_header_ends_what_is_known() {
    let bed = Bed::new();
    bed.write(1, 0..10);
    bed.flip(1, 3 * RECORD + 70);
    let finding = bed.examine(&[(0, 1, 0)], &mut Primary::new(0..20)).unwrap();
    assert_eq!(finding.common.records, 10);
    let rotten: Vec<_> =
        finding.survey.rotten.iter().map(|rotten| (rotten.offset, rotten.bytes)).collect();
    assert_eq!(rotten, [(3 * RECORD, RECORD)]);
    bed.flip(1, 6 * RECORD + 10);
    let finding = bed.examine(&[(0, 1, 0)], &mut Primary::new(0..20)).unwrap();
    assert_eq!(finding.common.records, 6);
    assert!(matches!(finding.survey.trouble, Some(Notice::Damaged { .. })));
    assert_eq!(finding.unmatched_bytes, 4 * RECORD);
}

#[test]
fn what_does_not_hold_at_the_very_end_was_never_written_whole() {
    let bed = Bed::new();
    bed.write(1, 0..10);
    bed.flip(1, 8 * RECORD + 70);
    bed.flip(1, 9 * RECORD + 70);
    let finding = bed.examine(&[(0, 1, 0)], &mut Primary::new(0..20)).unwrap();
    assert_eq!((finding.common.records, finding.survey.rotten.len()), (8, 0));
}

#[test]
fn behind_a_file_that_is_missing_nothing_is_known() {
    let bed = Bed::new();
    bed.write(1, 0..3);
    bed.write(3, 6..9);
    let runs = [(0, 1, 0), (3, 2, 0), (6, 3, 0)];
    let finding = bed.examine(&runs, &mut Primary::new(0..20)).unwrap();
    assert_eq!(finding.common.records, 3);
    assert!(matches!(finding.survey.trouble, Some(Notice::Missing { .. })));
    assert_eq!(finding.strangers, [SegmentName(3)], "it is shipped again");
    let (_, notices) = bed.rebuild().settle(&finding).unwrap();
    assert!(notices.iter().any(|notice| matches!(notice, Notice::Moved { .. })), "{notices:?}");
}

/// The mark behind so many records.
fn mark_behind(records: u64) -> Mark {
    (0..records).map(record_of).fold(Mark::START, |mark, bytes| {
        let raw = bytes.first_chunk::<RECORD_HEADER_BYTES>().unwrap();
        step(&mark, raw, &Header::parse(raw, Checksums::Required).unwrap())
    })
}

#[test]
fn what_was_retired_on_both_nodes_is_not_missed() {
    let bed = Bed::new();
    // The first two were retired; one that has no name stands aside.
    bed.write(3, 6..9);
    bed.write(4, 9..12);
    let aside = recovery::retired_path(&bed.places.state_dir, &bed.space, 44);
    fs::create_dir_all(aside.parent().unwrap()).unwrap();
    fs::rename(bed.path(4), &aside).unwrap();
    bed.write(5, 12..15);
    let runs = [(0, 1, 0), (3, 2, 0), (6, 3, 0), (9, 4, 0), (12, 5, 0)];
    let record = || SpaceRecord { marks: vec![mark_behind(6)], ..chart(&runs) };
    let mut other = Primary::new(0..20);
    let finding = bed.rebuild().examine(record(), &mut other, &mut |_| true).unwrap();
    assert_eq!((finding.common, other.asked), (mark_behind(15), 1));
    assert_eq!((finding.unmatched_bytes, finding.strangers.len()), (0, 0));
    let (changes, notices) = bed.rebuild().settle(&finding).unwrap();
    assert_eq!(notices, []);
    let catalog = crate::state::catalog::Catalog::open(&bed.places.state_dir).unwrap();
    let changes: Vec<_> = changes.into_iter().map(|change| (bed.space.clone(), change)).collect();
    catalog.commit(&changes).unwrap();
    let found = catalog.space(&bed.space).unwrap().unwrap();
    assert_eq!((found.checkpoint, &found.runs), (mark_behind(15), &chart(&runs).runs));
    let retired: Vec<_> = found.retired.into_iter().collect();
    assert_eq!(retired, [(41, Retired::Gone), (42, Retired::Gone), (44, Retired::Aside)]);
    // What follows must be the primary's, however it begins.
    let foreign = Primary::new((0..6).chain(50..70));
    let refused = bed.rebuild().examine(record(), &mut { foreign }, &mut |_| true);
    assert!(matches!(refused, Err(RebuildError::Foreign { .. })), "{refused:?}");
}

#[test]
fn where_the_chain_is_not_known_a_beginning_that_is_missing_leaves_nothing() {
    let bed = Bed::new();
    bed.write(2, 3..6);
    let finding = bed.examine(&[(0, 1, 0), (3, 2, 0)], &mut Primary::new(0..20)).unwrap();
    assert_eq!((finding.common, &finding.strangers[..]), (Mark::START, &[SegmentName(2)][..]));
    // A file that went on behind what is here is needed, too.
    let runs = [(0, 1, 0), (3, 2, 0), (6, 1, 3)];
    let record = SpaceRecord { marks: vec![mark_behind(3)], ..chart(&runs) };
    let mut other = Primary::new(0..20);
    let finding = bed.rebuild().examine(record, &mut other, &mut |_| true).unwrap();
    assert_eq!(finding.common, Mark::START);
}

/// Enter what was found, as `saltus rebuild` does.
fn enter(bed: &Bed, finding: &Finding) -> Result<(), String> {
    let (changes, _) = bed.rebuild().settle(finding).map_err(|error| error.to_string())?;
    let catalog = Catalog::open_on(&bed.places.host, &bed.places.state_dir);
    let catalog = catalog.map_err(|error| error.to_string())?;
    let changes: Vec<_> = changes.into_iter().map(|change| (bed.space.clone(), change)).collect();
    catalog.commit(&changes).map_err(|error| error.to_string())
}

#[test]
fn killed_at_any_step_it_is_begun_again_and_nothing_is_lost() {
    let runs = [(0, 1, 0), (4, 2, 0)];
    let mut steps = 0;
    for budget in 0.. {
        let mut bed = Bed::new();
        // Of the second segment the end is another's, and a third one is, too.
        bed.write(1, 0..4);
        bed.write(2, (4..6).chain(70..73));
        bed.write(3, 80..84);
        let mortal = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        bed.places.host = mortal.clone();
        let finding = bed.examine(&runs, &mut Primary::new(0..9)).unwrap();
        mortal.0.store(budget, Ordering::SeqCst);
        let done = enter(&bed, &finding).is_ok();

        bed.places.host = Arc::new(ThisHost);
        let finding = bed.examine(&runs, &mut Primary::new(0..9)).unwrap();
        assert_eq!(finding.common.records, 6, "killed at step {budget}");
        enter(&bed, &finding).unwrap_or_else(|why| {
            // Entered, and killed before it was told so.
            assert!(why.contains("is in the catalog"), "killed at step {budget}: {why}");
        });
        let catalog = Catalog::open(&bed.places.state_dir).unwrap();
        let found = catalog.space(&bed.space).unwrap().unwrap();
        assert_eq!((found.checkpoint, found.runs), (finding.common, chart(&runs).runs));
        assert_eq!(fs::metadata(bed.path(2)).unwrap().len(), 2 * RECORD);
        assert!(!bed.path(3).exists());
        let kept = crate::engine::quarantine::list(&bed.places.quarantine()).unwrap();
        let kept: Vec<_> = kept.iter().map(|piece| fs::read(&piece.path).unwrap()).collect();
        for sequences in [70..73, 80..84] {
            let bytes: Vec<_> = sequences.flat_map(record_of).collect();
            assert!(kept.contains(&bytes), "killed at step {budget}");
        }
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn who_cannot_be_asked_or_says_no_changes_nothing() {
    struct Gone;
    impl Other for Gone {
        fn chain_at(&mut self, _: Lsn) -> Result<Option<Chain>, String> {
            Err("gone".into())
        }
    }
    let bed = Bed::new();
    bed.write(1, 0..3);
    let refused = bed.rebuild().examine(chart(&[(0, 1, 0)]), &mut Gone, &mut |_| true);
    assert!(matches!(refused, Err(RebuildError::Other { .. })));
    let mut other = Primary::new(0..3);
    let stopped = bed.rebuild().examine(chart(&[(0, 1, 0)]), &mut other, &mut |_| false);
    assert!(matches!(stopped, Err(RebuildError::Recovery(_))));
    assert_eq!(fs::metadata(bed.path(1)).unwrap().len(), 3 * RECORD);
}

mod shipped {
    use super::*;

    fn shipped(
        bed: &Bed,
        record: SpaceRecord,
        other: &mut Primary,
    ) -> Result<Shipped, RebuildError> {
        bed.rebuild().examine_shipped(record, other, &mut |_| true)
    }

    fn entered(bed: &Bed, found: &Shipped) -> SpaceRecord {
        let catalog = Catalog::open(&bed.places.state_dir).unwrap();
        let changes = found.changes().into_iter().map(|change| (bed.space.clone(), change));
        catalog.commit(&changes.collect::<Vec<_>>()).unwrap();
        catalog.space(&bed.space).unwrap().unwrap()
    }

    /// The mark behind so many records of the test.
    fn mark_behind(records: u64) -> Mark {
        let mut mark = Mark::START;
        for sequence in 0..records {
            let bytes = record_of(sequence);
            let raw = bytes.first_chunk::<RECORD_HEADER_BYTES>().unwrap();
            mark = step(&mark, raw, &Header::parse(raw, Checksums::Required).unwrap());
        }
        mark
    }

    #[test]
    fn the_stream_goes_on_in_a_new_epoch_where_the_replica_ends() {
        let bed = Bed::new();
        // The second run of segment 8 lies behind a hole, and goes on unshipped.
        bed.write(8, (0..3).chain([99]).chain(5..9));
        bed.write(2, [3, 4]);
        let runs = [(0, 8, 0), (3, 2, 0), (5, 8, 4)];
        let found = shipped(&bed, chart(&runs), &mut Primary::new(0..7)).unwrap();
        assert_eq!((found.common, found.epoch()), (mark_behind(7), Epoch(6)));
        let record = entered(&bed, &found);
        assert_eq!((record.role, record.stream), (Role::Primary, StreamId(9)));
        let last = [(Epoch(1), Lsn::ZERO), (Epoch(2), Lsn(RECORD)), (Epoch(6), Lsn(7 * RECORD))];
        assert_eq!(record.history, last);
        assert_eq!(record.runs, chart(&runs).runs);
        assert_eq!(record.marks.last(), Some(&mark_behind(7)));
        let holes: Vec<_> = record.holes.iter().map(|hole| (hole.offset, hole.bytes)).collect();
        assert_eq!(holes, [(3 * RECORD, RECORD)]);
        assert!(record.files.iter().all(|file| !file.is_gone()) && record.files.len() == 2);
    }

    #[test]
    fn what_is_gone_is_numbered_and_the_rest_proven_from_a_mark_on() {
        let bed = Bed::new();
        bed.write(2, 3..9);
        let mut record = chart(&[(0, 1, 0), (3, 2, 0)]);
        record.marks = vec![mark_behind(1), mark_behind(4)];
        let found = shipped(&bed, record.clone(), &mut Primary::new(0..7)).unwrap();
        assert_eq!((found.common, found.removed.len()), (mark_behind(7), 1));
        let files = entered(&bed, &found).files;
        assert_eq!(files.iter().map(FileRecord::is_gone).collect::<Vec<_>>(), [true, false]);
        // Nothing behind the mark, and the record before it: it is the same log.
        let found = shipped(&bed, record.clone(), &mut Primary::new(0..4)).unwrap();
        assert_eq!(found.common, mark_behind(4));
        // Another one there: it is not.
        bed.write(2, (103..104).chain(200..204));
        let refused = shipped(&bed, record.clone(), &mut Primary::new(0..7)).unwrap_err();
        assert!(matches!(refused, RebuildError::Foreign { .. }), "{refused}");
        fs::remove_file(bed.path(2)).unwrap();
        let refused = shipped(&bed, record, &mut Primary::new(0..7)).unwrap_err();
        assert!(matches!(refused, RebuildError::Gone { .. }), "{refused}");
    }

    /// A replica is filled anew from the beginning of a file: without its
    /// boundary it is not, and of the others the catalog keeps few.
    #[test]
    fn it_is_known_where_each_file_begins() {
        let bed = Bed::new();
        let mut runs = Vec::new();
        for number in 0..300 {
            bed.write(number + 1, [number]);
            runs.push((number, number + 1, 0));
        }
        let found = shipped(&bed, chart(&runs), &mut Primary::new(0..300)).unwrap();
        let record = entered(&bed, &found);
        assert!(record.marks.len() < 300);
        for number in 0..300 {
            assert_eq!(record.begins.get(&(number + 41)), Some(&mark_behind(number)), "{number}");
        }
    }

    #[test]
    fn a_source_that_lost_its_end_is_shipped_up_to_there() {
        let bed = Bed::new();
        bed.write(1, 0..5);
        let found = shipped(&bed, chart(&[(0, 1, 0), (8, 2, 0)]), &mut Primary::new(0..9)).unwrap();
        assert_eq!(found.common, mark_behind(5));
        assert_eq!(entered(&bed, &found).runs, chart(&[(0, 1, 0)]).runs);
    }
}

/// What is entered of a replica that is rebuilt with three records, while the
/// other node knows of so many. What lies in `superseded` is by name.
#[track_caller]
fn seed_of(old: &[(&str, &str)], charted: u64, expected: Option<u64>) {
    let bed = Bed::new();
    bed.write(8, 0..3);
    let directory = bed.places.old_copies(&bed.space).join("0000000000000000");
    fs::create_dir_all(&directory).unwrap();
    for (name, content) in old {
        fs::write(directory.join(name), content).unwrap();
    }
    let mut record = chart(&[(0, 8, 0)]);
    if charted > 3 {
        record = chart(&[(0, 8, 0), (5, 9, 0)]);
    }
    record.marks.push(Mark { lsn: Lsn(charted * RECORD), ..Mark::START });
    let mut other = Primary::new(0..20);
    let finding = bed.rebuild().examine(record, &mut other, &mut |_| true).unwrap();
    let (changes, _) = bed.rebuild().settle(&finding).unwrap();
    let catalog = Catalog::open(&bed.places.state_dir).unwrap();
    let changes: Vec<_> = changes.into_iter().map(|change| (bed.space.clone(), change)).collect();
    catalog.commit(&changes).unwrap();
    let found = catalog.space(&bed.space).unwrap().unwrap();
    assert_eq!((found.checkpoint.lsn, found.base), (Lsn(3 * RECORD), Mark::START));
    let target = found.seed.map(|seed| (seed.target, seed.moved));
    assert_eq!(target, expected.map(|records| (Lsn(records * RECORD), true)));
    drop(catalog);
    // Nobody removes it before.
    drop(crate::engine::keeper::tests::keeper_of(&bed.places));
    assert_eq!(directory.exists(), expected.is_some());
}

/// The catalog was lost while the replica was being filled anew.
#[test]
fn an_older_copy_is_kept_until_what_was_rebuilt_has_all_that_is_charted() {
    let old = SegmentName(4).to_string();
    seed_of(&[(&old, "what it had")], 6, Some(6));
}

#[test]
fn an_older_copy_is_kept_until_what_was_rebuilt_has_all_that_the_seed_was_to_have() {
    let old = SegmentName(4).to_string();
    let plan = format!("{{\"unfinished\": false, \"head\": {}, \"keep\": []}}", 7 * RECORD);
    // The other node knows of less than what was here.
    seed_of(&[(&old, "what it had"), ("keep.json", &plan)], 3, Some(7));
    seed_of(&[(&old, "what it had"), ("keep.json", &plan)], 9, Some(9));
    // Nobody can tell what it was to have.
    seed_of(&[(&old, "what it had"), ("keep.json", "{")], 6, Some(6));
}

#[test]
fn what_is_left_of_a_move_that_moved_nothing_is_no_older_copy() {
    let plan = format!("{{\"unfinished\": false, \"head\": {}, \"keep\": []}}", 7 * RECORD);
    seed_of(&[], 6, None);
    seed_of(&[("keep.json", &plan)], 6, None);
}
