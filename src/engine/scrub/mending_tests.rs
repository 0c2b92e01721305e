//! Mending with a real keeper and real files; the test is the shard: it holds
//! the session that receives the space, and the peer that has the records.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::engine::clock::SystemClock;
use crate::engine::keeper::retention::Rule;
use crate::engine::keeper::{Job, Keeper, Loan, Mailbox, News, Places, Received};
use crate::engine::scrub::{Mender, ScrubAsk, ScrubHandle, ScrubOptions, Scrubber};
use crate::engine::shard::{Command, Standing};
use crate::engine::status::PassOutcome;
use crate::ids::{Epoch, SegmentName, SpaceId, StreamId};
use crate::io::Waker;
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::OpenSpace;
use crate::state::catalog::{Catalog, Role};
use crate::state::host::{Host, ThisHost};
use crate::state::meddler::{Call, Meddler};
use crate::state::pins::Pins;
use crate::state::runs::Run;
use crate::wal::record::{self, Checksums, Header};

const DEADLINE: Duration = Duration::from_secs(60);

fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

/// 20 records of 300 bytes, and the mark before each and behind the last.
fn stream() -> (Vec<u8>, Vec<Mark>) {
    let (mut bytes, mut marks) = (Vec::new(), vec![Mark::START]);
    for number in 0..20_u64 {
        let payload = vec![u8::try_from(number).unwrap() + 1; 236];
        let header = Header::new(number, 1000 + number, 1, &payload).unwrap();
        marks.push(record::step(marks.last().unwrap(), &header.encode(), &header));
        bytes.extend(header.encode());
        bytes.extend(payload);
    }
    (bytes, marks)
}

/// A space that is being received into one file.
struct Bench {
    root: tempfile::TempDir,
    stream: Vec<u8>,
    marks: Vec<Mark>,
    jobs: Sender<Job>,
    news: Receiver<News>,
    commands: Receiver<Command>,
    /// Up to where the session has flushed; nothing without one.
    flushed: Option<Mark>,
    /// The session ends, with that many records, when it is asked where it stands.
    ends_when_asked: Option<usize>,
    loan: Loan,
    keeper: Option<JoinHandle<()>>,
    scrub: Option<ScrubHandle>,
}

impl Bench {
    /// Flushed up to a record, and nothing behind it yet.
    fn new(records: usize) -> Self {
        Self::on(records, Arc::new(ThisHost))
    }

    /// The scrubber's part of the host is `host`.
    fn on(records: usize, host: Arc<dyn Host>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state_dir = root.path().join(".saltus");
        let catalog = Arc::new(Catalog::open(&state_dir).unwrap());
        let pins = Pins::open(&state_dir).unwrap();
        let places = Places {
            data_root: root.path().to_path_buf(),
            state_dir: state_dir.clone(),
            host: Arc::new(ThisHost),
        };
        let received = Received::default();
        let rule =
            Rule { max_bytes: None, max_age: None, max_disk_share: 90, replicas: Vec::new() };
        let checksums = Checksums::Required;
        let keeper = Keeper::new(places, catalog, pins, checksums, rule, received.clone()).unwrap();
        let (jobs, queue) = bounded(64);
        let (tell, news) = unbounded();
        let mailboxes = vec![Mailbox { news: tell, waker: Waker::new(|| {}) }];
        let keeper = std::thread::spawn(move || keeper.run(mailboxes, &queue));
        let (order, commands) = bounded(64);
        let mender = Mender {
            shards: vec![(order, Waker::new(|| {}))],
            keeper: jobs.clone(),
            received,
            state_dir,
            host,
            free_bytes: crate::io::free_bytes,
        };
        let spaces = || vec![(space(), PathBuf::from("alpha/wal"))];
        let options = ScrubOptions { confirm_delay: Duration::ZERO, ..ScrubOptions::default() };
        let scrub =
            Scrubber::start_mending(root.path(), Arc::new(spaces), options, Some(mender)).unwrap();
        let (stream, marks) = stream();
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        let open = OpenSpace { space: space(), stream: StreamId(5), history, head: marks[20].lsn };
        jobs.send(Job::OpenReplica { shard: 0, ticket: 1, open: Box::new(open) }).unwrap();
        let loan = loop {
            if let News::ReplicaOpened { result, .. } = news.recv_timeout(DEADLINE).unwrap() {
                break *result.unwrap();
            }
        };
        let run = Run { start: Lsn(0), segment: SegmentName(1), file: 1, offset: 0, bytes: None };
        let job =
            Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 0, run, known: false };
        jobs.send(job).unwrap();
        while !matches!(news.recv_timeout(DEADLINE).unwrap(), News::RunOpened { .. }) {}
        let flushed = Some(marks[records]);
        let mut bench = Self {
            root,
            stream,
            marks,
            jobs,
            news,
            commands,
            flushed,
            ends_when_asked: None,
            loan,
            keeper: Some(keeper),
            scrub: Some(scrub),
        };
        bench.loan.record.runs.open(run);
        bench.write(0, records);
        bench
    }

    fn segment(&self) -> PathBuf {
        self.root.path().join("alpha/wal").join(SegmentName(1).to_string())
    }

    fn range(&self, from: usize, to: usize) -> std::ops::Range<usize> {
        let at = |record: usize| usize::try_from(self.marks[record].lsn.0).unwrap();
        at(from)..at(to)
    }

    /// What lies where files are built.
    fn scratch(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.path().join(".saltus/mending/alpha")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Write records as the session does.
    fn write(&self, from: usize, to: usize) {
        let file = fs::File::options().write(true).open(self.segment()).unwrap();
        let range = self.range(from, to);
        file.write_all_at(&self.stream[range.clone()], range.start as u64).unwrap();
    }

    fn flip(&self, at: u64) {
        let file = fs::File::options().read(true).write(true).open(self.segment()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// The session ends: all up to a record is flushed.
    fn close(&mut self, records: usize) {
        self.flushed = None;
        let mut record = self.loan.record.clone();
        record.checkpoint = self.marks[records];
        let state = Ok(Box::new((record, self.marks[records])));
        self.jobs.send(Job::CloseReplica { space: space(), state }).unwrap();
    }

    /// One pass over the space; `told` is what the session does when it is asked
    /// to let go.
    fn scrub(&mut self, told: impl FnMut(&mut Self)) -> PassOutcome {
        let request = self.scrub_handle().requests().ask(ScrubAsk::space(space())).unwrap();
        self.serve(told, |bench| {
            let outcomes = bench.scrub_handle().report().outcomes;
            outcomes.into_iter().find(|outcome| outcome.request == request)
        })
    }

    fn scrub_handle(&self) -> &ScrubHandle {
        self.scrub.as_ref().unwrap()
    }

    /// Answer as a shard does, until something is there.
    fn serve<T>(
        &mut self,
        mut told: impl FnMut(&mut Self),
        done: impl Fn(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "what is waited for does not come");
            match self.commands.recv_timeout(Duration::from_millis(1)) {
                Ok(Command::Standing(_, reply)) => {
                    if let Some(records) = self.ends_when_asked.take() {
                        self.close(records);
                    }
                    let runs = self.loan.record.runs.clone();
                    if let Some(mark) = self.flushed {
                        let standing = Standing {
                            mark,
                            base: Mark::START,
                            runs,
                            role: Role::Replica,
                            holes: Vec::new(),
                        };
                        reply.send(standing).unwrap();
                    }
                }
                Ok(Command::Fetch(_, _, fetch, answer)) => {
                    let from = usize::try_from(fetch.lsn.0).unwrap();
                    let bytes = usize::try_from(fetch.bytes).unwrap();
                    answer.send(self.stream[from..from + bytes].to_vec()).unwrap();
                }
                Ok(Command::Yield(_)) if self.flushed.is_some() => told(self),
                _ => {}
            }
            if let Some(found) = done(self) {
                return found;
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.jobs.send(Job::Stop).unwrap();
        self.keeper.take().unwrap().join().unwrap();
        assert!(self.news.try_iter().all(|news| !matches!(news, News::Evicted { .. })));
    }
}

/// Writes of a session end in another order than they lie in. A file was
/// replaced by what it held when the new one was built, up to its size then:
/// what came to lie before that end later, and was acknowledged, was zeroes.
#[test]
fn what_is_received_while_a_new_file_is_built_is_in_it() {
    let mut bench = Bench::new(10);
    bench.write(14, 20);
    bench.flip(1000);
    let outcome = bench.scrub(|bench| {
        bench.write(10, 14);
        bench.close(20);
    });
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    assert!(fs::read(bench.segment()).unwrap() == bench.stream, "acknowledged records are gone");
}

/// The keeper said that a session had the space, and the session that it had it
/// no more. Only what lay before the checkpoint was read, and the pass said that
/// all was well.
#[test]
fn a_session_that_ends_while_it_is_asked_leaves_nothing_unread() {
    let mut bench = Bench::new(10);
    bench.ends_when_asked = Some(10);
    bench.flip(1000);
    let outcome = bench.scrub(|_| {});
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    assert_eq!(fs::read(bench.segment()).unwrap(), bench.stream[bench.range(0, 10)]);
}

#[test]
fn a_pass_is_not_clean_when_nobody_says_how_far_a_session_got() {
    let mut bench = Bench::new(10);
    bench.flushed = None;
    let outcome = bench.scrub(|_| {});
    assert_eq!((outcome.found, outcome.unreadable), (0, 1), "{outcome:?}");
}

/// The next good record was looked for behind what was durable, or behind the
/// run, too. What was found there was asked for as one with the damaged bytes,
/// and no answer could fit: they were never mended.
#[test]
fn damage_reaches_no_further_than_what_was_acknowledged() {
    let mut bench = Bench::new(10);
    // Writes end in another order than they lie in.
    bench.write(11, 14);
    let header_of_the_last = bench.marks[9].lsn.0 + 8;
    bench.flip(header_of_the_last);
    let outcome = bench.scrub(|bench| bench.close(10));
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    let there = fs::read(bench.segment()).unwrap();
    assert!(there[bench.range(0, 10)] == bench.stream[bench.range(0, 10)]);
}

/// The scrubber's disk, whose writes can fail, or wait.
struct Disk {
    writes: AtomicU64,
    /// From this write on there is no room.
    full_from: AtomicU64,
    /// This one waits until the test lets it go on; `u64::MAX`: none does.
    slow: u64,
    reached: Sender<()>,
    go: Receiver<()>,
}

impl Disk {
    fn new(slow: u64) -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let ((reached, told), (let_go, go)) = (bounded(1), bounded(1));
        let full_from = AtomicU64::new(u64::MAX);
        let disk = Self { writes: AtomicU64::new(0), full_from, slow, reached, go };
        (Arc::new(disk), told, let_go)
    }

    /// The host that it is in.
    fn host(self: &Arc<Self>) -> Arc<dyn Host> {
        let disk = self.clone();
        Arc::new(Meddler(move |call: Call<'_>| {
            if call != Call::Write {
                return Ok(());
            }
            let write = disk.writes.fetch_add(1, Ordering::SeqCst);
            if write >= disk.full_from.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            if write == disk.slow {
                disk.reached.send(()).unwrap();
                let _ = disk.go.recv_timeout(DEADLINE);
            }
            Ok(())
        }))
    }
}

/// What was fetched and half a file stayed on a disk that was full, until the
/// next start: the log could not go on either.
#[test]
fn a_full_disk_gets_back_what_mending_took() {
    // The first write is of what was fetched, the others of the new file.
    for full_from in 0..4 {
        let (disk, ..) = Disk::new(u64::MAX);
        disk.full_from.store(full_from, Ordering::SeqCst);
        let mut bench = Bench::on(20, disk.host());
        bench.flip(1000);
        let outcome = bench.scrub(|bench| bench.close(20));
        assert_eq!((outcome.found, outcome.healed), (1, 0), "{full_from}: {outcome:?}");
        assert_eq!(bench.scratch(), [""; 0], "{full_from}");
        disk.full_from.store(u64::MAX, Ordering::SeqCst);
        let outcome = bench.scrub(|bench| bench.close(20));
        assert_eq!((outcome.found, outcome.healed), (1, 1), "{full_from}: {outcome:?}");
        assert!(fs::read(bench.segment()).unwrap() == bench.stream);
        assert_eq!(bench.scratch(), [""; 0], "{full_from}");
    }
}

#[test]
fn a_file_is_not_built_where_it_leaves_no_room() {
    let directory = tempfile::tempdir().unwrap();
    super::has_room(crate::io::free_bytes, directory.path(), 1).unwrap();
    let error = super::has_room(crate::io::free_bytes, directory.path(), u64::MAX - 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("make room"), "{error}");
}

#[test]
fn a_stop_ends_the_building_of_a_file_at_its_next_piece() {
    let (disk, reached, let_go) = Disk::new(1);
    let mut bench = Bench::on(20, disk.host());
    bench.flip(1000);
    let _ = bench.scrub_handle().requests().ask(ScrubAsk::space(space())).unwrap();
    bench.serve(|_| panic!("nothing is built"), |_| reached.try_recv().ok());
    assert!(!bench.scratch().is_empty());
    let scrub = bench.scrub.take().unwrap();
    scrub.tell_to_stop();
    let_go.send(()).unwrap();
    scrub.stop();
    assert_eq!(disk.writes.load(Ordering::SeqCst), 2, "nothing was written after the stop");
    assert_eq!(bench.scratch(), [""; 0]);
}

/// What a pass asks and mends with, where only the keeper is there to be asked.
fn of_keeper(root: &Path, keeper: Sender<Job>) -> Mender {
    Mender {
        shards: Vec::new(),
        keeper,
        received: Received::default(),
        state_dir: root.join(".saltus"),
        host: Arc::new(ThisHost),
        free_bytes: crate::io::free_bytes,
    }
}

/// A keeper that was busy left a received space to be read file by file, where
/// one that is gone or too short is no damage: the pass said that all was well.
#[test]
fn a_pass_is_not_clean_when_the_keeper_does_not_answer() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("alpha/wal")).unwrap();
    let (jobs, queue) = bounded(64);
    let mender = of_keeper(root.path(), jobs);
    let spaces = || vec![(space(), PathBuf::from("alpha/wal"))];
    let options = ScrubOptions::default();
    let scrub =
        Scrubber::start_mending(root.path(), Arc::new(spaces), options, Some(mender)).unwrap();
    let pass = || {
        let passes = scrub.report().passes;
        let _ = scrub.requests().ask(ScrubAsk::space(space())).unwrap();
        assert!(scrub.wait_for_passes(passes + 1, DEADLINE));
        scrub.report().outcomes.pop_back().unwrap()
    };
    assert_eq!(pass().unreadable, 1);
    // One that knows of no such space is believed.
    let answer = std::thread::spawn(move || {
        while let Ok(job) = queue.recv_timeout(DEADLINE) {
            if let Job::Standing { reply, .. } = job {
                // The first question is nobody's any more.
                let _ = reply.send(None);
            }
        }
    });
    assert_eq!(pass().unreadable, 0);
    scrub.stop();
    answer.join().unwrap();
}

/// A question for which there was no room in the keeper's queue counted as one
/// that it does not answer, at once: passes that began beside other jobs left
/// whole spaces unread.
#[test]
fn a_keeper_that_has_no_room_for_a_question_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("alpha/wal")).unwrap();
    let (jobs, queue) = bounded(1);
    jobs.send(Job::Stop).unwrap();
    let mender = of_keeper(root.path(), jobs);
    let spaces = || vec![(space(), PathBuf::from("alpha/wal"))];
    let options = ScrubOptions { first_delay: DEADLINE, ..ScrubOptions::default() };
    let clock = Arc::new(SystemClock);
    let mut scrub = Scrubber::in_turns(root.path(), Arc::new(spaces), options, mender, clock);
    let _ = scrub.requests().ask(ScrubAsk::space(space())).unwrap();
    let _ = scrub.turn();
    assert!(scrub.report().running, "the pass has ended: {:?}", scrub.report());
    assert!(matches!(queue.try_recv(), Ok(Job::Stop)));
    let deadline = Instant::now() + DEADLINE;
    while scrub.report().running {
        assert!(Instant::now() < deadline, "{:?}", scrub.report());
        let _ = scrub.turn();
        if let Ok(Job::Standing { reply, .. }) = queue.try_recv() {
            // It knows of no such space.
            reply.send(None).unwrap();
        }
        std::thread::yield_now();
    }
    assert_eq!(scrub.report().outcomes.pop_back().unwrap().unreadable, 0);
}
