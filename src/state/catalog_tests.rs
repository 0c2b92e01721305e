//! The catalog on real files.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::path::Path;

use super::*;
use crate::ids::SegmentName;
use crate::limits::MAX_SAVED_MARKS_PER_SPACE;
use crate::lsn::Chain;

fn space(name: &str) -> SpaceId {
    name.parse().unwrap()
}

fn create(role: Role) -> Change {
    Change::Create { role, stream: StreamId(7), history: vec![(Epoch::FIRST, Lsn::ZERO)] }
}

fn run(start: u64, file: u64, offset: u64) -> Run {
    Run { start: Lsn(start), segment: SegmentName(100 + file), file, offset, bytes: None }
}

fn mark(lsn: u64) -> Mark {
    Mark { lsn: Lsn(lsn), chain: Chain(lsn ^ 1), records: lsn / 64, sequence: 3, timestamp_ns: 4 }
}

fn file(number: u64) -> FileRecord {
    let segment = SegmentName(100 + number);
    FileRecord { file: number, segment, device: 1, inode: number + 10, birth_ns: 5 }
}

/// A catalog with one replica space, `alpha`, of three runs.
fn with_alpha(directory: &Path) -> Catalog {
    let catalog = Catalog::open(directory).unwrap();
    let alpha = space("alpha");
    let changes = [
        create(Role::Replica),
        Change::OpenRun(run(0, 0, 0)),
        Change::OpenRun(run(1000, 1, 0)),
        Change::OpenRun(run(3000, 2, 0)),
        Change::Checkpoint(mark(3500)),
    ];
    catalog.commit(&changes.map(|change| (alpha.clone(), change))).unwrap();
    catalog
}

fn load(catalog: &Catalog, name: &str) -> SpaceRecord {
    catalog.load().unwrap().remove(&space(name)).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join(".saltus");
    let (before, node) = {
        let catalog = with_alpha(&state);
        let more = [
            Change::AddFile(file(0)),
            Change::AddFile(file(1)),
            Change::AddMark(mark(64)),
            Change::Epoch { epoch: Epoch(4), start: Lsn(3200) },
        ];
        catalog.commit(&more.map(|change| (space("alpha"), change))).unwrap();
        (load(&catalog, "alpha"), catalog.node())
    };
    assert_eq!(
        before.runs.iter().map(|(_, r)| r.bytes).collect::<Vec<_>>(),
        [Some(1000), Some(2000), None]
    );
    assert_eq!(before.files, [file(0), file(1)]);
    assert_eq!(before.history.last(), Some(&(Epoch(4), Lsn(3200))));
    assert_eq!(before.highest_epoch, Epoch(4));
    let catalog = Catalog::open(&state).unwrap();
    assert_eq!(load(&catalog, "alpha"), before);
    assert_eq!(catalog.node(), node);
    assert_ne!(node, NodeUuid::default());
}

#[test]
fn the_state_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join(".saltus");
    drop(Catalog::open(&state).unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join(CATALOG_FILE)), 0o600);
}

#[test]
fn repeating_a_batch_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let before = load(&catalog, "alpha");
    let again = [
        create(Role::Replica),
        Change::OpenRun(run(0, 0, 0)),
        Change::OpenRun(run(1000, 1, 0)),
        Change::OpenRun(run(3000, 2, 0)),
        Change::Epoch { epoch: Epoch::FIRST, start: Lsn::ZERO },
    ];
    catalog.commit(&again.map(|change| (space("alpha"), change))).unwrap();
    assert_eq!(load(&catalog, "alpha"), before);
}

#[test]
fn a_batch_with_one_wrong_change_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let before = catalog.load().unwrap();
    let good = |change| (space("beta"), change);
    for wrong in [
        (space("gamma"), Change::Checkpoint(mark(1))),
        (space("alpha"), Change::OpenRun(run(2000, 9, 0))),
        (space("alpha"), Change::Epoch { epoch: Epoch(1), start: Lsn(9) }),
        (space("alpha"), create(Role::Primary)),
        (space("alpha"), Change::Truncate { end: Lsn(10), runs: 4 }),
        (space("alpha"), Change::Truncate { end: Lsn(10), runs: 2 }),
    ] {
        let batch = [good(create(Role::Primary)), good(Change::OpenRun(run(0, 0, 0))), wrong];
        catalog.commit(&batch).unwrap_err();
        assert_eq!(catalog.load().unwrap(), before);
    }
}

#[test]
fn a_truncation_forgets_what_lies_behind() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let alpha = |change| (space("alpha"), change);
    catalog
        .commit(&[
            alpha(Change::AddMark(mark(64))),
            alpha(Change::AddMark(mark(2000))),
            alpha(Change::Epoch { epoch: Epoch(3), start: Lsn(3100) }),
            alpha(Change::Truncate { end: Lsn(1500), runs: 2 }),
        ])
        .unwrap();
    let record = load(&catalog, "alpha");
    assert_eq!(record.runs.len(), 2);
    assert_eq!(record.runs.last().unwrap().bytes, None);
    assert_eq!(record.marks, [mark(64)]);
    assert_eq!(record.checkpoint, mark(64), "a checkpoint never lies behind the end");
    assert_eq!(record.history, [(Epoch::FIRST, Lsn::ZERO)]);
    assert_eq!(record.highest_epoch, Epoch(3), "what was seen stays seen");

    catalog.commit(&[alpha(Change::OpenRun(run(1500, 5, 0)))]).unwrap();
    assert_eq!(load(&catalog, "alpha").runs.get(1).unwrap().bytes, Some(500));
    catalog.commit(&[alpha(Change::Truncate { end: Lsn(0), runs: 0 })]).unwrap();
    assert!(load(&catalog, "alpha").runs.is_empty());
}

#[test]
fn a_record_in_memory_follows_the_catalog() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let mut record = load(&catalog, "alpha");
    for change in [
        Change::AddFile(file(4)),
        Change::AddFile(file(2)),
        Change::Epoch { epoch: Epoch(2), start: Lsn(3000) },
        Change::Epoch { epoch: Epoch(5), start: Lsn(3400) },
        Change::AddMark(mark(640)),
        Change::AddMark(mark(1280)),
        Change::AddMark(mark(3200)),
        Change::OpenRun(run(1000, 1, 0)),
        Change::OpenRun(run(3500, 3, 0)),
        Change::OpenRun(run(3500, 3, 0)),
        Change::Truncate { end: Lsn(3100), runs: 3 },
        Change::Checkpoint(mark(3000)),
        Change::OpenRun(run(3100, 6, 0)),
    ] {
        record.apply(&change);
        catalog.commit(&[(space("alpha"), change.clone())]).unwrap();
        assert_eq!(record, load(&catalog, "alpha"), "{change:?}");
    }
    // One at a time and all at once thin out differently, yet both hold the
    // limit and the newest.
    for index in 0..600 {
        record.apply(&Change::AddMark(mark(10_000 + index * 64)));
    }
    assert!(record.marks.len() <= MAX_SAVED_MARKS_PER_SPACE);
    assert_eq!(record.marks.last(), Some(&mark(10_000 + 599 * 64)));
}

/// A database that starts makes several segments before it writes to the first
/// of them. The walk has been in all of them by then, so the first gets a second
/// run at the same position, at the same offset. Taken for its first one, it was
/// left out of the record in memory while the catalog had it: every later run
/// had the wrong ordinal, and a space that was given back and recovered in the
/// same process lost what had been acknowledged in that run.
#[test]
fn an_empty_segment_that_is_entered_again_has_a_second_run() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let mut record = load(&catalog, "alpha");
    for next in [run(4000, 3, 0), run(4000, 4, 0), run(4000, 3, 0), run(5000, 5, 0)] {
        let change = Change::OpenRun(next);
        record.apply(&change);
        catalog.commit(&[(space("alpha"), change)]).unwrap();
    }
    assert_eq!(record.runs, load(&catalog, "alpha").runs);
    let fifth = *record.runs.get(5).unwrap();
    assert_eq!((fifth.file, fifth.start, fifth.bytes), (3, Lsn(4000), Some(1000)));
    assert_eq!(record.runs.len(), 7);
}

#[test]
fn marks_are_thinned_from_the_old_end() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let batch: Vec<_> =
        (0..1000).map(|index| (space("alpha"), Change::AddMark(mark(index * 64)))).collect();
    catalog.commit(&batch).unwrap();
    let marks = load(&catalog, "alpha").marks;
    assert!(marks.len() <= MAX_SAVED_MARKS_PER_SPACE && marks.len() > 128, "{}", marks.len());
    assert!(marks.is_sorted_by_key(|mark| mark.lsn));
    assert_eq!(marks[0], mark(0));
    let newest: Vec<_> = marks[marks.len() - 64..].iter().map(|mark| mark.lsn.0 / 64).collect();
    assert_eq!(newest, (936..1000).collect::<Vec<_>>());
}

/// Of the older half every second one went, over and over: in a long stream
/// almost all marks lay near its end, and the way from one to the next became
/// as long as the stream.
#[test]
fn the_gaps_between_marks_are_a_small_part_of_the_stream_however_long_it_is() {
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    let mut record = SpaceRecord::new(Role::Replica, StreamId(1), history);
    let count = 20_000;
    (0..count).for_each(|index| record.apply(&Change::AddMark(mark(index * 64))));
    let gaps = record.marks.windows(2).map(|pair| pair[1].lsn.bytes_since(pair[0].lsn));
    let widest = gaps.max().unwrap();
    assert!(widest < count * 64 / 64, "{widest}");
    // And one in the midst of a gap, which was far to go for, stays.
    let (before, behind) = (record.marks[100], record.marks[101]);
    let found = mark(before.lsn.0.midpoint(behind.lsn.0));
    record.apply(&Change::AddMark(found));
    assert!(record.marks.contains(&found));
}

/// Thinned per change here and per batch there, the two were different after a
/// batch that passed the limit by several marks, which was taken for a catalog
/// that had not recorded the space.
#[test]
fn the_catalog_thins_marks_as_the_record_in_memory_does() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = with_alpha(directory.path());
    let mut known = load(&catalog, "alpha");
    let marks: Vec<_> = (0..1300).map(|index| Change::AddMark(mark(index * 64))).collect();
    for batch in [&marks[..250], &marks[250..260], &marks[260..]] {
        batch.iter().for_each(|change| known.apply(change));
        let batch: Vec<_> = batch.iter().map(|change| (space("alpha"), change.clone())).collect();
        catalog.commit(&batch).unwrap();
        assert_eq!(load(&catalog, "alpha"), known);
    }
    // What is cut off makes room in both alike.
    let cut = Change::Truncate { end: mark(1200 * 64).lsn, runs: known.runs.len() };
    let more = (1200..1400).map(|index| Change::AddMark(mark(index * 64)));
    let batch: Vec<_> = more.clone().chain([cut]).chain(more).collect();
    batch.iter().for_each(|change| known.apply(change));
    let batch: Vec<_> = batch.into_iter().map(|change| (space("alpha"), change)).collect();
    catalog.commit(&batch).unwrap();
    assert_eq!(load(&catalog, "alpha"), known);
}

#[test]
fn a_second_opening_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let _open = Catalog::open(directory.path()).unwrap();
    let error = Catalog::open(directory.path()).unwrap_err();
    assert!(matches!(error, CatalogError::AlreadyOpen { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn a_damaged_catalog_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    drop(with_alpha(directory.path()));
    let path = directory.path().join(CATALOG_FILE);
    let whole = std::fs::read(&path).unwrap();

    let expect_damage = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        match Catalog::open(directory.path()) {
            Err(error @ CatalogError::Damaged { .. }) => {
                assert!(error.to_string().contains("saltus rebuild"), "{error}");
            }
            other => panic!("{what}: {other:?}"),
        }
    };
    expect_damage(b"not a database, but long enough to have a header", "text");
    expect_damage(&whole[..whole.len() / 2], "half a file");
    expect_damage(&whole[..100], "the first bytes");
    std::fs::write(&path, &whole).unwrap();
    Catalog::open(directory.path()).unwrap();
}

/// The power went while the very first catalog was written: its file was there,
/// without what makes it a database, and no start was possible until somebody
/// moved it away.
#[test]
fn a_catalog_that_was_never_finished_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join("catalog.redb.new");
    for left in [vec![], vec![0; 4096], vec![7; 70_000]] {
        std::fs::write(&unfinished, left).unwrap();
        let node = Catalog::open(directory.path()).unwrap().node();
        assert!(!unfinished.exists());
        assert_eq!(Catalog::open(directory.path()).unwrap().node(), node);
        std::fs::remove_file(directory.path().join(CATALOG_FILE)).unwrap();
    }
}

#[test]
fn a_flipped_byte_is_never_believed() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let catalog = with_alpha(directory.path());
        catalog.load().unwrap()
    };
    let path = directory.path().join(CATALOG_FILE);
    let whole = std::fs::read(&path).unwrap();
    // Wherever a byte of the database that is not zero is flipped: either the
    // catalog is refused, or it was no byte that anybody reads.
    let used: Vec<_> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in used.iter().step_by(used.len() / 64) {
        let mut bytes = whole.clone();
        bytes[*at] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        match Catalog::open(directory.path()) {
            Ok(catalog) => assert_eq!(catalog.load().unwrap(), before, "byte {at}"),
            Err(error) => {
                let refused =
                    matches!(error, CatalogError::Damaged { .. } | CatalogError::Storage { .. });
                assert!(refused, "byte {at}: {error}");
            }
        }
    }
}

/// The database reads names of tables before it has checked its checksums, and
/// asserts that they are text: a node with one rotten byte there ended with a
/// stack trace instead of a sentence.
#[test]
fn a_rotten_name_of_a_table_is_damage_and_no_assertion() {
    let directory = tempfile::tempdir().unwrap();
    drop(with_alpha(directory.path()));
    let path = directory.path().join(CATALOG_FILE);
    let whole = std::fs::read(&path).unwrap();
    let mut asserted = 0;
    for name in [&b"meta"[..], b"spaces", b"runs", b"marks", b"allocator_state"] {
        let places = whole.windows(name.len()).enumerate().filter(|(_, text)| *text == name);
        for (at, _) in places {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            std::fs::write(&path, &bytes).unwrap();
            if let Err(error) = Catalog::open(directory.path()) {
                assert!(matches!(error, CatalogError::Damaged { .. }), "byte {at}: {error}");
                let text = error.to_string();
                assert!(text.contains("saltus rebuild"), "{text}");
                asserted += u32::from(text.contains("the database asserts: "));
            }
        }
    }
    assert!(asserted > 0, "the database has learned to answer: the guard can go");
}

#[test]
fn another_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    {
        let catalog = with_alpha(directory.path());
        let write = catalog.database().unwrap().begin_write().unwrap();
        let newer = 3_u32.to_le_bytes();
        write.open_table(META).unwrap().insert("schema", newer.as_slice()).unwrap();
        write.commit().unwrap();
    }
    let error = Catalog::open(directory.path()).unwrap_err();
    assert!(matches!(error, CatalogError::Schema { found: 3, expected: 2, .. }), "{error}");
}

#[test]
fn a_thousand_spaces_are_one_commit_and_one_load() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..1000).map(|number| space(&format!("space-{number:04}"))).collect();
    let batch: Vec<_> = names
        .iter()
        .flat_map(|name| {
            [create(Role::Primary), Change::AddFile(file(0)), Change::OpenRun(run(0, 0, 0))]
                .map(|change| (name.clone(), change))
        })
        .collect();
    {
        let catalog = Catalog::open(directory.path()).unwrap();
        catalog.commit(&batch).unwrap();
    }
    let spaces = Catalog::open(directory.path()).unwrap().load().unwrap();
    assert_eq!(spaces.keys().cloned().collect::<Vec<_>>(), names);
    assert!(spaces.values().all(|record| record.runs.len() == 1 && record.files.len() == 1));
}

#[test]
fn a_hole_is_one_as_long_as_the_run_behind_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&directory.path().join(".saltus")).unwrap();
    let hole = |lsn: u64, offset: u64| Hole {
        lsn: Lsn(lsn),
        segment: SegmentName(100),
        file: 0,
        offset,
        bytes: 50,
        unix_ns: 1,
        reason: "rot".into(),
    };
    let add = |lsn: u64, offset: u64| Change::AddHole {
        hole: hole(lsn, offset),
        run: run(lsn, 0, offset + 50),
    };
    let mut record = {
        let first = [create(Role::Primary), Change::OpenRun(run(0, 0, 0))];
        catalog.commit(&first.map(|change| (space("alpha"), change))).unwrap();
        load(&catalog, "alpha")
    };
    let mut apply = |change: Change| {
        record.apply(&change);
        catalog.commit(&[(space("alpha"), change)]).unwrap();
        assert_eq!(load(&catalog, "alpha"), record, "in memory as on the disk");
        record.holes.iter().map(|hole| hole.offset).collect::<Vec<_>>()
    };
    assert_eq!(apply(add(100, 100)), [100]);
    assert_eq!(apply(add(200, 250)), [100, 250]);
    assert_eq!(apply(add(200, 300)), [100, 250, 300], "two of them, side by side");
    assert_eq!(apply(add(900, 1050)).len(), 4);
    assert_eq!(apply(Change::Truncate { end: Lsn(500), runs: 4 }), [100, 250, 300]);
    assert_eq!(apply(Change::Truncate { end: Lsn(200), runs: 3 }), [100, 250]);
    assert_eq!(apply(Change::Truncate { end: Lsn(200), runs: 2 }), [100]);
}

#[test]
fn a_space_that_is_forgotten_can_be_created_anew() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join(".saltus");
    let catalog = with_alpha(&state);
    catalog.commit(&[(space("beta"), create(Role::Primary))]).unwrap();
    let beta = load(&catalog, "beta");
    let alpha = |change| (space("alpha"), change);
    let hole = Change::AddHole {
        hole: Hole {
            lsn: Lsn(3500),
            segment: SegmentName(102),
            file: 2,
            offset: 500,
            bytes: 9,
            unix_ns: 1,
            reason: String::new(),
        },
        run: run(3500, 2, 509),
    };
    catalog.commit(&[alpha(Change::AddMark(mark(64))), alpha(hole)]).unwrap();
    catalog
        .commit(&[
            alpha(Change::Begin { file: 1, mark: mark(64) }),
            alpha(Change::Retire { file: 1, what: Retired::Aside }),
            alpha(Change::Slot {
                replica: "two".parse().unwrap(),
                slot: SlotRecord { flushed: mark(64), ..SlotRecord::default() },
            }),
        ])
        .unwrap();
    let history = vec![(Epoch(3), Lsn::ZERO)];
    let anew = Change::Create { role: Role::Primary, stream: StreamId(8), history };
    // In one batch with changes before it, as well.
    let first = alpha(Change::Checkpoint(mark(3600)));
    catalog.commit(&[first, alpha(Change::Forget), alpha(anew)]).unwrap();
    let found = load(&catalog, "alpha");
    assert_eq!(
        (found.role, found.stream, found.checkpoint),
        (Role::Primary, StreamId(8), Mark::START)
    );
    assert!(found.runs.is_empty() && found.marks.is_empty() && found.holes.is_empty());
    assert!(found.begins.is_empty() && found.retired.is_empty() && found.slots.is_empty());
    assert_eq!(load(&catalog, "beta"), beta);
    catalog.commit(&[alpha(Change::Forget), alpha(Change::Forget)]).unwrap();
    assert!(!catalog.load().unwrap().contains_key(&space("alpha")));
}

#[test]
fn a_catalog_that_is_set_aside_is_kept_under_a_name_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join(".saltus");
    for number in 0..3 {
        drop(Catalog::open(&state).unwrap());
        let aside = set_aside(&ThisHost, &state).unwrap();
        assert_eq!(aside, state.join(format!("catalog.redb.damaged.{number}")));
        assert!(aside.exists() && !state.join(CATALOG_FILE).exists());
    }
}
