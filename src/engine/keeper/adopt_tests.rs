//! Files that take the place of damaged ones, also when something comes in
//! between.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam::channel::{Receiver, bounded, unbounded};

use super::super::matched::tests::{Rig, alive, cut, fill, log, open, space};
use super::*;
use crate::engine::keeper::retired::tests::close;
use crate::engine::keeper::{Job, News, Scratch};
use crate::engine::mortal::Mortal;
use crate::engine::quarantine;
use crate::ids::{Epoch, SegmentName, StreamId};
use crate::state::catalog::Retired;
use crate::state::host::Host;
use crate::state::runs::looked_at;
use crate::wal::record::{self, Header};

type Answer = Receiver<Result<Vec<PathBuf>, String>>;

/// A space of two files, the first of which is damaged, and good bytes for that
/// one.
struct Bench {
    root: tempfile::TempDir,
    marks: Vec<Mark>,
    good: Vec<u8>,
    rotten: Vec<u8>,
    host: Arc<dyn Host>,
    rig: Rig,
}

impl Bench {
    fn new() -> Self {
        Self::on(alive())
    }

    fn on(host: Arc<dyn Host>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (marks, _) = fill(root.path());
        let rig = Rig::open(root.path(), &host);
        let path = root.path().join("alpha/wal").join(SegmentName(1).to_string());
        let good = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[good[100] ^ 1], 100).unwrap();
        let rotten = fs::read(&path).unwrap();
        Self { root, marks, good, rotten, host, rig }
    }

    fn segment(&self) -> PathBuf {
        self.root.path().join("alpha/wal").join(SegmentName(1).to_string())
    }

    fn mending(&self) -> PathBuf {
        self.root.path().join(".saltus/mending/alpha")
    }

    /// What lies where files are built.
    fn scratch(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.mending()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A good file for the first one, built for what is here now.
    fn offer(&self) -> Offer {
        fs::create_dir_all(self.mending()).unwrap();
        let path = self.mending().join("0000000000000001.0.new");
        fs::write(&path, &self.good).unwrap();
        let kept = self.rig.keeper.standing(&space()).unwrap();
        let mark = self.marks[20];
        let ground = Ground { history: kept.history, mark, recoveries: kept.recoveries };
        let scratch = Scratch { path, host: self.host.clone() };
        Offer::new(ground, vec![Built { file: 1, scratch, bytes: self.good.len() as u64 }])
    }

    fn adopt(&mut self, offer: Offer) -> Answer {
        let (reply, answer) = bounded(1);
        self.rig.batch(vec![Job::Adopt { space: space(), offer, reply }]);
        answer
    }

    /// A session gives the space back, flushed up to a mark.
    fn close(&mut self, mark: Mark) {
        self.rig.batch(vec![close(&self.rig, mark, mark)]);
    }

    fn restart(&mut self) {
        // The catalog is open once.
        let (news, root) = (tempfile::tempdir().unwrap(), self.root.path().to_path_buf());
        self.rig = Rig::open(news.path(), &alive());
        self.rig = Rig::open(&root, &alive());
    }

    /// The damaged bytes as they lie in quarantine.
    fn quarantined(&self) -> Vec<Vec<u8>> {
        let pieces = quarantine::list(&self.root.path().join(".saltus/quarantine")).unwrap();
        pieces.iter().map(|piece| fs::read(&piece.path).unwrap()).collect()
    }

    /// Four records that follow a mark, and where they end.
    fn others(mark: Mark) -> (Vec<u8>, Mark) {
        let (mut bytes, mut mark) = (Vec::new(), mark);
        for number in 0..4_u64 {
            let payload = vec![0xee; 110];
            let header = Header::new(number, 5000 + number, 1, &payload).unwrap();
            mark = record::step(&mark, &header.encode(), &header);
            bytes.extend(header.encode());
            bytes.extend(payload);
        }
        (bytes, mark)
    }
}

#[test]
fn a_good_file_takes_the_place_of_a_damaged_one_which_is_kept() {
    let mut bench = Bench::new();
    let offer = bench.offer();
    let kept = bench.adopt(offer).try_recv().unwrap().unwrap();
    assert_eq!(fs::read(&kept[0]).unwrap(), bench.rotten);
    assert_eq!(fs::read(bench.segment()).unwrap(), bench.good);
    assert_eq!(bench.scratch(), [""; 0]);
}

/// A file was moved aside, and that could not be recorded. The good one took its
/// former name: after the next start, when the damaged one was put back there, it
/// was a stranger and went to the quarantine.
#[test]
fn a_good_file_takes_the_place_where_the_damaged_one_lies() {
    let mut bench = Bench::new();
    let aside = recovery::retired_path(&bench.root.path().join(".saltus"), &space(), 1);
    fs::create_dir_all(aside.parent().unwrap()).unwrap();
    fs::rename(bench.segment(), &aside).unwrap();
    let offer = bench.offer();
    let kept = bench.adopt(offer).try_recv().unwrap().unwrap();
    assert_eq!(fs::read(&kept[0]).unwrap(), bench.rotten);
    assert_eq!(fs::read(&aside).unwrap(), bench.good);
    assert!(!bench.segment().exists());
}

/// A file was built, the space was cut by a new epoch and received other records,
/// which were acknowledged; and then the file took the place of them.
#[test]
fn files_that_were_built_before_a_cut_are_not_put_in_place() {
    let mut bench = Bench::new();
    // What is cut here must hold.
    fs::write(bench.segment(), &bench.good).unwrap();
    let offer = bench.offer();
    let at = bench.marks[17];
    let history = [(1, 0), (2, at.lsn.0)];
    bench.rig.loan(open(&history)).unwrap();
    bench.rig.loan(cut(&history, &at)).unwrap();
    let (more, end) = Bench::others(at);
    let expected = [fs::read(bench.segment()).unwrap(), more].concat();
    fs::write(bench.segment(), &expected).unwrap();
    bench.close(end);
    let why = bench.adopt(offer).try_recv().unwrap().unwrap_err();
    assert!(why.contains("was cut by a new epoch"), "{why}");
    assert!(fs::read(bench.segment()).unwrap() == expected, "acknowledged records are gone");
    assert_eq!(bench.scratch(), [""; 0]);
}

#[test]
fn what_waits_for_the_end_of_a_session_is_refused_when_the_space_is_cut() {
    let mut bench = Bench::new();
    fs::write(bench.segment(), &bench.good).unwrap();
    let history = [(1, 0), (2, bench.marks[17].lsn.0)];
    bench.rig.loan(open(&history)).unwrap();
    let offer = bench.offer();
    let answer = bench.adopt(offer);
    assert!(answer.is_empty(), "it waits");
    let at = bench.marks[17];
    bench.rig.loan(cut(&history, &at)).unwrap();
    assert!(answer.try_recv().unwrap().unwrap_err().contains("is being cut"));
    assert_eq!(bench.scratch(), [""; 0]);
}

#[test]
fn a_file_that_was_retired_since_it_was_read_does_not_come_back() {
    let mut bench = Bench::new();
    let offer = bench.offer();
    let entry = bench.rig.keeper.spaces.get_mut(&space()).unwrap();
    entry.record.retired.insert(1, Retired::Gone);
    let why = bench.adopt(offer).try_recv().unwrap().unwrap_err();
    assert!(why.contains("retired"), "{why}");
    assert!(!recovery::retired_path(&bench.root.path().join(".saltus"), &space(), 1).exists());
    assert_eq!(bench.scratch(), [""; 0]);
}

#[test]
fn files_that_were_taken_back_are_not_put_in_place() {
    let mut bench = Bench::new();
    bench.rig.loan(open(&[(1, 0)])).unwrap();
    for _ in 0..3 {
        let offer = bench.offer();
        let answer = bench.adopt(offer.clone());
        drop(offer.take().unwrap());
        assert!(answer.is_empty());
        assert_eq!(bench.scratch(), [""; 0]);
    }
    assert_eq!(bench.rig.keeper.spaces[&space()].adoptions.len(), 1, "they do not pile up");
    let mark = bench.marks[20];
    bench.close(mark);
    assert_eq!(fs::read(bench.segment()).unwrap(), bench.rotten);
}

#[test]
fn a_space_that_was_recovered_takes_files_that_were_built_before_if_it_is_the_same() {
    for same in [true, false] {
        let mut bench = Bench::new();
        bench.rig.loan(open(&[(1, 0)])).unwrap();
        let offer = bench.offer();
        let state = Err("the disk said no".into());
        bench.rig.batch(vec![Job::CloseReplica { space: space(), state }]);
        if !same {
            // It lost its last three records, and others came, in the same epoch.
            let at = bench.marks[17];
            let (more, end) = Bench::others(at);
            let kept = bench.rotten.len() as u64 - bench.marks[20].lsn.bytes_since(at.lsn);
            bench.rotten.truncate(usize::try_from(kept).unwrap());
            bench.rotten.extend(more);
            fs::write(bench.segment(), &bench.rotten).unwrap();
            let entry = bench.rig.keeper.spaces.get_mut(&space()).unwrap();
            entry.record.marks.retain(|mark| mark.lsn < at.lsn);
            entry.record.checkpoint = end;
            entry.lease = Lease::Here(end);
        }
        let answer = bench.adopt(offer).try_recv().unwrap();
        assert_eq!(answer.is_ok(), same, "{answer:?}");
        let found = fs::read(bench.segment()).unwrap();
        assert_eq!(found, if same { bench.good.clone() } else { bench.rotten.clone() });
        assert_eq!(bench.scratch(), [""; 0]);
    }
}

/// A host on which one kind of change fails, once.
#[derive(Debug)]
struct Fails {
    what: &'static str,
    left: AtomicU64,
}

impl Fails {
    fn next(what: &'static str) -> Arc<Self> {
        Arc::new(Self { what, left: AtomicU64::new(0) })
    }

    fn check(&self, what: &str, path: &Path) -> io::Result<()> {
        let hit = what == self.what && !path.ends_with(".saltus");
        let take = |left: u64| left.checked_sub(1);
        if hit && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Host for Fails {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        alive().sync_data(file)
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        alive().sync_all(file)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.ends_with("wal") {
            self.check("sync", directory)?;
        }
        alive().sync_directory(directory)
    }
    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        alive().open(options, path)
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        alive().write_at(file, bytes, offset)
    }
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        alive().set_len(file, bytes)
    }
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        alive().make_directory(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check("rename", to)?;
        alive().rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        alive().link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        alive().remove(path)
    }
    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        alive().remove_directory(directory)
    }
    fn random_u128(&self) -> io::Result<u128> {
        alive().random_u128()
    }
}

/// The second name of a damaged file stayed when the first could not be taken
/// from it, and every later attempt failed on it.
#[test]
fn a_failed_adoption_leaves_no_name_behind() {
    let host = Fails::next("rename");
    let mut bench = Bench::on(host.clone());
    host.left.store(1, Ordering::SeqCst);
    let offer = bench.offer();
    bench.adopt(offer).try_recv().unwrap().unwrap_err();
    assert_eq!(bench.scratch(), [""; 0]);
    assert_eq!(fs::read(bench.segment()).unwrap(), bench.rotten);
    let offer = bench.offer();
    bench.adopt(offer).try_recv().unwrap().unwrap();
    assert_eq!(fs::read(bench.segment()).unwrap(), bench.good);
}

#[test]
fn a_space_whose_new_name_is_not_durable_is_verified_again_before_it_is_lent() {
    let host = Fails::next("sync");
    let mut bench = Bench::on(host.clone());
    host.left.store(1, Ordering::SeqCst);
    let offer = bench.offer();
    let why = bench.adopt(offer).try_recv().unwrap().unwrap_err();
    assert!(why.contains("cannot be made durable"), "{why}");
    assert!(matches!(bench.rig.keeper.spaces[&space()].lease, Lease::Broken(_)));
    assert_eq!(bench.rig.loan(open(&[(1, 0)])).unwrap().mark, bench.marks[20]);
    bench.restart();
    assert_eq!(bench.quarantined(), [bench.rotten.clone()], "swept up by the next start");
}

/// A host that dies after so many changes, and forgets second names that were
/// not made durable.
#[derive(Debug)]
struct Forgetful {
    mortal: Mortal,
    fresh: Mutex<Vec<PathBuf>>,
}

impl Forgetful {
    /// The power fails: what is left has no name that was not synced.
    fn forget(&self) {
        for path in self.fresh.lock().unwrap().drain(..) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Host for Forgetful {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.mortal.sync_data(file)
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.mortal.sync_all(file)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.mortal.sync_directory(directory)?;
        self.fresh.lock().unwrap().retain(|path| path.parent() != Some(directory));
        Ok(())
    }
    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        self.mortal.open(options, path)
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.mortal.write_at(file, bytes, offset)
    }
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.mortal.set_len(file, bytes)
    }
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.mortal.make_directory(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.mortal.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.mortal.link(from, to)?;
        self.fresh.lock().unwrap().push(to.to_path_buf());
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.mortal.remove(path)
    }
    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.mortal.remove_directory(directory)
    }
    fn random_u128(&self) -> io::Result<u128> {
        self.mortal.random_u128()
    }
}

/// Stop an adoption at each of its steps.
fn stop_at_every_step(power_fails: bool) {
    let mut steps = 0;
    for budget in 0.. {
        let mortal = Mortal(AtomicU64::new(u64::MAX));
        let host = Arc::new(Forgetful { mortal, fresh: Mutex::default() });
        let mut bench = Bench::on(host.clone());
        let offer = bench.offer();
        host.mortal.0.store(budget, Ordering::SeqCst);
        let done = bench.adopt(offer).try_recv().unwrap().is_ok();
        let left = host.mortal.0.swap(0, Ordering::SeqCst);
        if power_fails {
            host.forget();
        }
        bench.restart();
        let found = fs::read(bench.segment()).unwrap();
        assert!(found == bench.good || found == bench.rotten, "stopped at step {budget}");
        assert!(!done || found == bench.good, "stopped at step {budget}");
        let kept = found == bench.rotten || bench.quarantined().contains(&bench.rotten);
        assert!(kept, "stopped at step {budget}: the damaged bytes are gone");
        assert_eq!(bench.scratch(), [""; 0], "stopped at step {budget}");
        assert_eq!(log(bench.root.path()).len(), 2);
        let loan = bench.rig.loan(open(&[(1, 0)])).unwrap();
        assert_eq!(loan.mark, bench.marks[20], "stopped at step {budget}");
        if left > 0 {
            break;
        }
        steps = budget;
    }
    assert!(steps > 8, "only {steps} steps");
}

#[test]
fn an_adoption_killed_at_any_step_leaves_one_of_the_two_files_and_keeps_the_damaged() {
    stop_at_every_step(false);
}

/// The damaged file's second name was in no directory yet when its first was
/// taken: a power cut left it without any.
#[test]
fn a_damaged_file_keeps_a_name_when_the_power_fails_at_any_step() {
    stop_at_every_step(true);
}

/// A session receives three slices and more while the file that it writes is
/// built anew, and then a bit of another space is asked for. Gives what the file
/// has to hold, and the end.
fn received_since(bench: &mut Bench) -> (Answer, Vec<u8>, Mark) {
    bench.rig.loan(open(&[(1, 0)])).unwrap();
    let offer = bench.offer();
    let answer = bench.adopt(offer);
    let (mut tail, mut end) = (Vec::new(), bench.marks[20]);
    let payload = vec![7; 1 << 20];
    let header = Header::new(0, 5000, 1, &payload).unwrap();
    while (tail.len() as u64) < 3 * CUT_SLICE_BYTES + 1 {
        end = record::step(&end, &header.encode(), &header);
        tail.extend(header.encode());
        tail.extend(&payload);
    }
    let file = File::options().write(true).open(bench.segment()).unwrap();
    file.write_all_at(&tail, bench.good.len() as u64).unwrap();
    (answer, [&bench.good[..], &tail].concat(), end)
}

/// What was received while the file was built, gigabytes on a fast link, was
/// copied in one go, and no other space was served meanwhile.
#[test]
fn other_spaces_are_served_while_the_end_of_a_mended_file_is_copied() {
    let mut bench = Bench::new();
    let (answer, expected, end) = received_since(&mut bench);
    let (jobs, inbox) = unbounded();
    bench.rig.keeper.inbox = Some(inbox);
    jobs.send(open(&[(1, 0)])).unwrap();
    jobs.send(Job::ScanSpace { shard: 0, space: "beta".parse().unwrap() }).unwrap();
    let job = close(&bench.rig, end, end);
    let news = bench.rig.batch(vec![job]);
    let [News::Access { .. }, News::ReplicaOpened { result: Ok(loan), .. }] = &news[..] else {
        panic!("{news:?}");
    };
    assert_eq!(loan.mark, end, "lent when all of it is in place");
    assert_eq!(answer.try_recv().unwrap().unwrap().len(), 1);
    assert!(fs::read(bench.segment()).unwrap() == expected);
    assert!(bench.rig.keeper.deferred.is_empty());
}

#[test]
fn a_copy_of_the_end_of_a_mended_file_does_not_hold_up_the_end_of_the_process() {
    let mut bench = Bench::new();
    let (answer, _, end) = received_since(&mut bench);
    let before = fs::read(bench.segment()).unwrap();
    let (jobs, inbox) = unbounded();
    bench.rig.keeper.inbox = Some(inbox);
    jobs.send(Job::Stop).unwrap();
    let job = close(&bench.rig, end, end);
    bench.rig.batch(vec![job]);
    assert!(bench.rig.keeper.stopped);
    assert!(answer.try_recv().unwrap().unwrap_err().contains("stopping"));
    assert!(fs::read(bench.segment()).unwrap() == before, "the next pass builds it again");
    assert_eq!(bench.scratch(), [""; 0]);
}

/// Every file that ever was has a beginning, and for each of them all runs were
/// looked through: with so many, for half a minute and more.
#[test]
fn the_boundaries_of_a_long_stream_are_known_at_once() {
    const RUNS: u64 = 10_000;
    let mut record = SpaceRecord::new(Role::Replica, StreamId(5), vec![(Epoch::FIRST, Lsn::ZERO)]);
    let mark = |lsn: u64| Mark { lsn: Lsn(lsn), records: lsn, ..Mark::START };
    // Two files in turn; of the others nothing lies there any more.
    for number in 0..RUNS {
        let (start, file, offset) = (Lsn(64 * number), number % 2, 64 * (number / 2));
        let run = Run { start, segment: SegmentName(file), file, offset, bytes: None };
        record.runs.open(run);
        record.begins.insert(number, mark(start.0));
    }
    let (known, runs) = looked_at(|| boundaries(&record));
    assert!(runs <= RUNS, "{runs} runs were looked at, of {RUNS}");
    assert_eq!(known, [(Lsn(0), Mark::START), (Lsn(64), mark(64))].into());
    // The stream was cut, and the file began elsewhere since.
    record.begins.insert(1, mark(192));
    assert_eq!(boundaries(&record), [(Lsn(0), Mark::START)].into());
}
