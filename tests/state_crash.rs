//! What a stop leaves behind, and what a replica makes of it.
//!
//! The stories are those of a received log: two processes that are killed in
//! mid-write, a host that loses what was never synced, an operator's script
//! that moves files. Each is told on real files, and ends with the same
//! questions: is the stream a prefix, is nothing gone, and was it said?
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use saltus::engine::recovery::{Notice, Recovered, RecoveryError, Subject, path_of, retired_path};
use saltus::ids::{Epoch, SegmentName, SpaceId, StreamId};
use saltus::lsn::{Lsn, Mark};
use saltus::state::catalog::{Catalog, CatalogError, Change, Role, SpaceRecord};
use saltus::state::host::{Host, ThisHost};
use saltus::state::runs::Run;
use saltus::wal::record::{Checksums, Header, RecordError, verify};

/// Bytes of each record in these stories: 64 of header, 236 of payload.
const RECORD: u64 = 300;

fn record(sequence: u64) -> Vec<u8> {
    let payload: Vec<u8> = (0..236).map(|at| u8::try_from(sequence % 251).unwrap() ^ at).collect();
    let header = Header::new(sequence, 1_000 + sequence, 1, &payload).unwrap();
    [header.encode().as_slice(), &payload].concat()
}

fn records(from: u64, count: u64) -> Vec<u8> {
    (from..from + count).flat_map(record).collect()
}

fn mark_of(bytes: &[u8]) -> Mark {
    verify(&Mark::START, bytes, Checksums::Required).unwrap()
}

/// A received space: a data root, a catalog, and what the stream holds.
struct Replica {
    root: tempfile::TempDir,
    space: SpaceId,
    catalog: Catalog,
}

impl Replica {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&root.path().join(".saltus")).unwrap();
        let space: SpaceId = "alpha".parse().unwrap();
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        let create = Change::Create { role: Role::Replica, stream: StreamId(1), history };
        catalog.commit(&[(space.clone(), create)]).unwrap();
        fs::create_dir_all(root.path().join("alpha/wal")).unwrap();
        Self { root, space, catalog }
    }

    /// Three segments of ten records, the last one open; verified up to and
    /// with record 12.
    fn with_three_segments() -> (Self, Vec<u8>) {
        let replica = Self::new();
        let stream = records(0, 30);
        for (file, piece) in (0_u64..).zip(stream.chunks(3000)) {
            replica.open_run(file * 3000, file, 0);
            fs::write(replica.segment(file), piece).unwrap();
        }
        replica.commit(Change::Checkpoint(mark_of(&stream[..12 * 300])));
        (replica, stream)
    }

    fn commit(&self, change: Change) {
        self.catalog.commit(&[(self.space.clone(), change)]).unwrap();
    }

    fn open_run(&self, start: u64, file: u64, offset: u64) {
        let segment = SegmentName(100 + file);
        let run = Run { start: Lsn(start), segment, file, offset, bytes: None };
        self.commit(Change::OpenRun(run));
    }

    fn segment(&self, file: u64) -> PathBuf {
        self.root.path().join("alpha/wal").join(SegmentName(100 + file).to_string())
    }

    fn quarantine(&self) -> PathBuf {
        self.root.path().join(".saltus/quarantine")
    }

    fn record(&self) -> SpaceRecord {
        self.catalog.load().unwrap().remove(&self.space).unwrap()
    }

    /// Recover, without telling the catalog.
    fn try_recover(&self) -> Result<Recovered, RecoveryError> {
        let (root, quarantine) = (self.root.path(), self.quarantine());
        let host: Arc<dyn Host> = Arc::new(ThisHost);
        let subject = Subject {
            host: &host,
            data_root: root,
            space: &self.space,
            record: &self.record(),
            quarantine: &quarantine,
            checksums: Checksums::Required,
        };
        subject.recover()
    }

    /// Recover, tell the catalog, and check what must hold after every
    /// recovery: doing it again finds nothing, and all files together are
    /// exactly the stream up to the mark.
    fn recover(&self, stream: &[u8]) -> Recovered {
        let recovered = self.try_recover().unwrap();
        for change in &recovered.changes {
            self.commit(change.clone());
        }
        let again = self.try_recover().unwrap();
        assert_eq!(again.mark, recovered.mark);
        assert!(again.changes.is_empty(), "{:?}", again.changes);
        let news = |notice: &&Notice| !matches!(notice, Notice::Unknown { .. });
        assert_eq!(again.notices.iter().find(news), None);

        let end = usize::try_from(recovered.mark.lsn.0).unwrap();
        assert_eq!(recovered.mark, mark_of(&stream[..end]));
        assert_eq!(self.stream_on_disk(), &stream[..end]);
        recovered
    }

    /// All runs, read one behind the other; each file must end with its last.
    fn stream_on_disk(&self) -> Vec<u8> {
        let record = self.record();
        let mut stream = Vec::new();
        for (_, run) in record.runs.iter() {
            let state = self.root.path().join(".saltus");
            let path = path_of(self.root.path(), &state, &self.space, &record, run);
            let bytes = fs::read(path).unwrap_or_default();
            let begin = usize::try_from(run.offset).unwrap().min(bytes.len());
            let end = run.bytes.map_or(bytes.len(), |b| begin + usize::try_from(b).unwrap());
            stream.extend_from_slice(&bytes[begin..end]);
        }
        stream
    }

    /// What the quarantine holds of a segment, under the offset it came from.
    fn saved(&self, file: u64, offset: u64) -> Vec<u8> {
        let name = format!("{}.{offset}.0", SegmentName(100 + file));
        fs::read(self.quarantine().join("alpha").join(name)).unwrap()
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap_or_default();
    all.extend_from_slice(bytes);
    fs::write(path, all).unwrap();
}

fn shorten(path: &Path, to: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_log_is_verified_and_left_as_it_is() {
    let (replica, stream) = Replica::with_three_segments();
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(9000));
    assert_eq!(recovered.mark.records, 30);
    assert_eq!(recovered.notices, []);
    assert_eq!(replica.record().checkpoint, recovered.mark);
    assert!(!replica.quarantine().exists());
}

#[test]
fn a_space_without_a_run_is_at_its_start() {
    let replica = Replica::new();
    let recovered = replica.recover(&[]);
    assert_eq!(recovered.mark, Mark::START);
}

#[test]
fn a_run_whose_file_never_came_into_being_is_empty() {
    let (replica, stream) = Replica::with_three_segments();
    replica.open_run(9000, 3, 0);
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(9000));
    assert_eq!(replica.record().runs.len(), 4);
}

#[test]
fn t15_a_torn_tail_is_cut_and_kept() {
    for torn in [1, 63, 64, 65, 299] {
        let (replica, stream) = Replica::with_three_segments();
        let tail = &record(30)[..torn];
        append(&replica.segment(2), tail);
        let recovered = replica.recover(&stream);
        assert_eq!(recovered.mark.lsn, Lsn(9000), "{torn} bytes");
        assert_eq!(replica.saved(2, 3000), tail);
        let path = replica.segment(2);
        let bytes = u64::try_from(torn).unwrap();
        assert_eq!(recovered.notices[0], Notice::TornTail { path, offset: 3000, bytes });
        assert!(matches!(&recovered.notices[1], Notice::Cut { offset: 3000, .. }));
    }
}

#[test]
fn a_tail_of_zeroes_is_cut() {
    let (replica, stream) = Replica::with_three_segments();
    shorten(&replica.segment(2), 2700);
    shorten(&replica.segment(2), 2_000_000);
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(8700));
    let (path, bytes) = (replica.segment(2), 2_000_000 - 2700);
    assert_eq!(recovered.notices[0], Notice::Zeroes { path, offset: 2700, bytes });
    assert_eq!(replica.saved(2, 2700), vec![0; 2_000_000 - 2700]);
}

#[test]
fn a_file_shorter_than_its_run_ends_the_stream_there() {
    let (replica, stream) = Replica::with_three_segments();
    let last = fs::read(replica.segment(2)).unwrap();
    shorten(&replica.segment(1), 2000);
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(3000 + 1800));
    let path = replica.segment(1);
    assert_eq!(recovered.notices[0], Notice::Short { path, expected: 3000, found: 2000 });
    assert_eq!(replica.saved(1, 1800), &stream[4800..5000]);
    // The later file is whole, and still not part of the stream any more.
    assert_eq!(replica.saved(2, 0), last);
    assert!(!replica.segment(2).exists());
    let record = replica.record();
    assert_eq!(record.runs.len(), 2);
    assert_eq!(record.runs.last().unwrap().bytes, None);

    // The primary sends the rest again.
    append(&replica.segment(1), &stream[4800..6000]);
    replica.open_run(6000, 2, 0);
    append(&replica.segment(2), &stream[6000..]);
    assert_eq!(replica.recover(&stream).mark.lsn, Lsn(9000));
}

#[test]
fn damage_behind_the_checkpoint_is_cut_and_said_aloud() {
    let (replica, stream) = Replica::with_three_segments();
    flip(&replica.segment(1), 1500 + 100);
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(4500));
    let Notice::Damaged { offset: 1500, error, good_after, .. } = &recovered.notices[0] else {
        panic!("{:?}", recovered.notices);
    };
    assert!(matches!(error, RecordError::PayloadCrc { .. }));
    assert_eq!(*good_after, Some(1800));
    assert!(recovered.notices[0].to_string().contains("the disk is failing"));
    assert_eq!(replica.saved(1, 1500).len(), 1500);
}

#[test]
fn damage_below_the_checkpoint_is_refused_and_nothing_is_touched() {
    let (replica, _) = Replica::with_three_segments();
    // The checkpoint lies behind record 12, which ends at 600 in segment 1.
    flip(&replica.segment(1), 310);
    append(&replica.segment(2), b"torn");
    let error = replica.try_recover().unwrap_err();
    assert!(matches!(error, RecoveryError::Damaged { offset: 600, sequence: 11, .. }), "{error}");
    assert!(error.to_string().contains("mended from the primary"), "{error}");
    assert_eq!(fs::metadata(replica.segment(2)).unwrap().len(), 3004);
    assert!(!replica.quarantine().exists());
}

#[test]
fn a_missing_file_below_the_checkpoint_is_refused() {
    let (replica, stream) = Replica::with_three_segments();
    let aside = replica.root.path().join("aside");
    fs::rename(replica.segment(0), &aside).unwrap();
    let error = replica.try_recover().unwrap_err();
    assert!(matches!(error, RecoveryError::Missing { expected: 3000, .. }), "{error}");
    // An operator puts it back, and nothing else is needed.
    fs::rename(&aside, replica.segment(0)).unwrap();
    assert_eq!(replica.recover(&stream).mark.lsn, Lsn(9000));
}

#[test]
fn a_short_file_below_the_checkpoint_is_refused() {
    let (replica, _) = Replica::with_three_segments();
    shorten(&replica.segment(0), 2999);
    let error = replica.try_recover().unwrap_err();
    assert!(matches!(error, RecoveryError::Short { expected: 3000, found: 2999, .. }), "{error}");
}

#[test]
fn a_missing_file_behind_the_checkpoint_is_received_again() {
    let (replica, stream) = Replica::with_three_segments();
    replica.open_run(9000, 3, 0);
    fs::write(replica.segment(3), record(30)).unwrap();
    fs::remove_file(replica.segment(2)).unwrap();
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(6000));
    assert_eq!(recovered.notices[0], Notice::Missing { path: replica.segment(2) });
    assert_eq!(replica.saved(3, 0), record(30));
}

#[test]
fn unknown_files_are_left_alone() {
    let (replica, stream) = Replica::with_three_segments();
    let directory = replica.root.path().join("alpha/wal");
    for name in ["wal-0000000000000fff.log", "notes.txt", "wal-0000000000000001.log.tmp"] {
        fs::write(directory.join(name), b"somebody's").unwrap();
    }
    let recovered = replica.recover(&stream);
    let names = ["notes.txt", "wal-0000000000000001.log.tmp", "wal-0000000000000fff.log"];
    let names = names.map(Into::into).to_vec();
    assert_eq!(
        recovered.notices,
        [Notice::Unknown { directory: directory.clone(), names, count: 3 }]
    );
    assert_eq!(fs::read(directory.join("notes.txt")).unwrap(), b"somebody's");
}

/// Two segments that grew in turn: runs 0 and 2 lie in file 0, 1 and 3 in
/// file 1.
fn with_two_in_turn() -> (Replica, Vec<u8>) {
    let replica = Replica::new();
    let stream = records(0, 12);
    for (start, file, offset) in [(0, 0, 0), (900, 1, 0), (1800, 0, 900), (2700, 1, 900)] {
        replica.open_run(start, file, offset);
        let start = usize::try_from(start).unwrap();
        append(&replica.segment(file), &stream[start..start + 900]);
    }
    (replica, stream)
}

#[test]
fn segments_that_grow_in_turn_are_verified_in_the_order_of_the_stream() {
    let (replica, stream) = with_two_in_turn();
    let recovered = replica.recover(&stream);
    assert_eq!((recovered.mark.lsn, recovered.mark.records), (Lsn(3600), 12));
}

#[test]
fn a_cut_reaches_every_segment_that_grew_behind_it() {
    let (replica, stream) = with_two_in_turn();
    // Record 7, the second of run 2.
    flip(&replica.segment(0), 1200 + 70);
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(2100));
    assert_eq!(fs::metadata(replica.segment(0)).unwrap().len(), 1200);
    assert_eq!(fs::metadata(replica.segment(1)).unwrap().len(), 900);
    assert_eq!(replica.saved(1, 900), &stream[2700..]);
}

#[test]
fn a_record_longer_than_a_piece_is_verified_and_found_again() {
    let replica = Replica::new();
    replica.open_run(0, 0, 0);
    let payload = vec![0x5a; 3_000_000];
    let header = Header::new(9, 10, 1, &payload).unwrap().encode();
    let stream = [record(0).as_slice(), &header, &payload].concat();
    fs::write(replica.segment(0), &stream).unwrap();
    let first = replica.try_recover().unwrap();
    for change in &first.changes {
        replica.commit(change.clone());
    }
    assert_eq!(first.mark, mark_of(&stream));
    // Now everything lies below the checkpoint, and the record is looked for.
    let again = replica.try_recover().unwrap();
    assert_eq!(again.mark, first.mark);
    assert!(again.changes.is_empty());
}

#[test]
fn a_segment_gets_its_name_back_if_its_successor_never_came() {
    let (replica, stream) = Replica::with_three_segments();
    let state = replica.root.path().join(".saltus");
    // File 2 was retired for a new file of its name; then the host went down
    // before the catalog had the new run.
    let retired = retired_path(&state, &replica.space, 2);
    fs::create_dir_all(retired.parent().unwrap()).unwrap();
    fs::rename(replica.segment(2), &retired).unwrap();
    fs::write(replica.segment(2), b"new").unwrap();
    let recovered = replica.recover(&stream);
    assert_eq!(recovered.mark.lsn, Lsn(9000));
    assert_eq!(replica.saved(2, 0), b"new");
    assert!(matches!(&recovered.notices[1], Notice::Renamed { .. }));
}

#[test]
fn of_two_files_of_one_name_the_later_bears_it() {
    let (replica, mut stream) = Replica::with_three_segments();
    let state = replica.root.path().join(".saltus");
    let retired = retired_path(&state, &replica.space, 2);
    fs::create_dir_all(retired.parent().unwrap()).unwrap();
    fs::rename(replica.segment(2), &retired).unwrap();
    let segment = SegmentName(102);
    let run = Run { start: Lsn(9000), segment, file: 7, offset: 0, bytes: None };
    replica.commit(Change::OpenRun(run));
    fs::write(replica.segment(2), records(30, 2)).unwrap();
    stream.extend(records(30, 2));
    assert_eq!(replica.recover(&stream).mark.records, 32);
}

#[test]
fn the_end_of_every_prefix_is_recovered() {
    // Wherever a write stops, the stream is the whole records before it.
    let stream = records(0, 3);
    for length in (0..=900).step_by(37) {
        let replica = Replica::new();
        replica.open_run(0, 0, 0);
        fs::write(replica.segment(0), &stream[..length]).unwrap();
        let recovered = replica.recover(&stream);
        assert_eq!(recovered.mark.records, u64::try_from(length).unwrap() / RECORD);
    }
}

/// Set in the process that [`a_catalog_open_in_another_process_is_refused`]
/// starts: the state directory to try.
const TRY_CATALOG: &str = "SALTUS_TEST_TRY_CATALOG";

#[test]
fn a_catalog_open_in_another_process_is_refused() {
    if let Some(directory) = std::env::var_os(TRY_CATALOG) {
        let error = Catalog::open(Path::new(&directory)).unwrap_err();
        assert!(matches!(error, CatalogError::AlreadyOpen { .. }), "{error}");
        assert!(error.to_string().contains("open in another process"), "{error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let open = Catalog::open(directory.path()).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_catalog_open_in_another_process_is_refused"])
        .env(TRY_CATALOG, directory.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    drop(open);
    Catalog::open(directory.path()).unwrap();
}

/// Set in the process that is killed while it commits: the state directory.
const COMMIT_UNTIL_KILLED: &str = "SALTUS_TEST_COMMIT";

/// Each batch opens run `n` and checkpoints where it begins; a catalog that
/// holds one without the other has torn a batch.
#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    let space: SpaceId = "alpha".parse().unwrap();
    if let Some(directory) = std::env::var_os(COMMIT_UNTIL_KILLED) {
        let catalog = Catalog::open(Path::new(&directory)).unwrap();
        for number in 1.. {
            let start = Lsn(number * 100);
            let segment = SegmentName(number);
            let run = Run { start, segment, file: number, offset: 0, bytes: None };
            let mark = Mark { lsn: start, records: number, ..Mark::START };
            let batch = [Change::OpenRun(run), Change::Checkpoint(mark)];
            catalog.commit(&batch.map(|change| (space.clone(), change))).unwrap();
            println!("{number}");
        }
    }
    for lines in [1, 5, 17] {
        let directory = tempfile::tempdir().unwrap();
        {
            let catalog = Catalog::open(directory.path()).unwrap();
            let history = vec![(Epoch::FIRST, Lsn::ZERO)];
            let create = Change::Create { role: Role::Replica, stream: StreamId(1), history };
            catalog.commit(&[(space.clone(), create)]).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_batch_is_there_as_a_whole_or_not_at_all", "--nocapture"])
            .env(COMMIT_UNTIL_KILLED, directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let seen: Vec<u64> = std::io::BufRead::lines(output)
            .filter_map(|line| line.unwrap().trim().parse().ok())
            .take(lines)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();

        let catalog = Catalog::open(directory.path()).unwrap();
        let record = catalog.load().unwrap().remove(&space).unwrap();
        let runs = u64::from(record.runs.len());
        assert!(runs >= *seen.last().unwrap(), "an acknowledged batch is gone");
        assert_eq!(record.checkpoint.records, runs);
        assert_eq!(record.runs.last().unwrap().start, record.checkpoint.lsn);
    }
}
