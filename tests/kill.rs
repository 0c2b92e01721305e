//! Both sides killed at random moments, under load, again and again.
//!
//! ```text
//!   writers (threads here) --> primary ==> replica
//!                                 ^          ^
//!                                 +- SIGKILL-+   a seeded choice of whom,
//!                                                when, and who comes back first
//! ```
//!
//! Before each kill the primary is asked what every replica has acknowledged as
//! flushed. After it:
//!
//! - a replica that was started again says, before its primary comes, that it has
//!   at least that much, and its files hold as many bytes; one that was not says so
//!   as soon as it has noticed, and its files held them all the while;
//! - with the primary dead or held still there is no torn tail, and every segment
//!   is a beginning of the primary's;
//! - no epoch has begun, because nothing that was written was lost.
//!
//! In the end: identical, and a line says how many restarts were looked at. An LSN
//! counts the bytes of a space since it began, and none of what the steady writers
//! write is let go of: so many bytes must be in the files.
//!
//! `SALTUS_KILLS` sets how often, `SALTUS_MINUTES` instead for how long,
//! `SALTUS_MIB_PER_S` how much each of three
//! writers writes meanwhile, `SALTUS_SEED` makes the choices, `SALTUS_BACKEND`
//! chooses between `uring` and `portable` where the seed would.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/cluster.rs"]
mod cluster;
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/feed.rs"]
mod feed;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use saltus::ids::SegmentName;
use saltus::io::BackendChoice;
use saltus::wal::discover::{self, Kind};

use cluster::{Cluster, Node, assert_prefix, until};
use feed::{Load, Random, Segment, Steady, record};

/// How often in the short form.
const KILLS: u64 = 12;

/// Of the short form: one that chooses io_uring where that is built.
const SEED: u64 = 2;

const MINUTE: Duration = Duration::from_secs(60);

const SPACES: [&str; 3] = ["alpha", "beta", "gamma"];

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn seed() -> u64 {
    setting("SALTUS_SEED").unwrap_or(SEED)
}

fn backend(random: &mut Random) -> BackendChoice {
    match env::var("SALTUS_BACKEND").as_deref() {
        Ok("uring") => BackendChoice::Uring,
        Ok("portable") => BackendChoice::Portable,
        _ if cfg!(feature = "uring") && random.below(2) == 0 => BackendChoice::Uring,
        _ => BackendChoice::Portable,
    }
}

/// Let the system run until it has made some progress, and a moment longer
/// that is different each time.
fn run_on(cluster: &mut Cluster, random: &mut Random) {
    let flushed = |cluster: &mut Cluster| {
        let status = cluster.primary.status();
        let replicas = status.spaces.iter().flat_map(|space| &space.replicas);
        replicas.map(|replica| replica.flushed_lsn).sum::<u64>()
    };
    let before = flushed(cluster);
    until("the replicas make progress", || (flushed(cluster) > before).then_some(()));
    // Not to wait for something: to be at a random place when the kill comes.
    std::thread::sleep(Duration::from_micros(random.below(150_000)));
}

/// What replicas have acknowledged as flushed: no kill may cost any of it.
#[derive(Debug, Default)]
struct Acknowledged {
    /// The farthest position that the primary was told, by replica and space.
    positions: BTreeMap<(usize, String), u64>,
    /// Restarts of a replica after which all of its positions were there.
    restarts: u64,
    /// How many positions these were.
    looked_at: u64,
}

impl Acknowledged {
    /// Ask the primary what it was told. More may be acknowledged before a kill
    /// comes: this is the least that must be there after it.
    fn note(&mut self, cluster: &mut Cluster) {
        let ids: Vec<_> = cluster.replicas.iter().map(|node| node.spec.id.clone()).collect();
        for space in cluster.primary.status().spaces {
            for replica in space.replicas {
                let index = ids.iter().position(|id| *id == replica.id).unwrap();
                let position = self.positions.entry((index, space.space.to_string())).or_default();
                *position = replica.flushed_lsn.max(*position);
            }
        }
    }

    fn of(&self, replica: usize) -> impl Iterator<Item = (&str, u64)> {
        let own = self.positions.iter().filter(move |((index, _), _)| *index == replica);
        own.map(|((_, space), told)| (space.as_str(), *told)).filter(|(_, told)| *told > 0)
    }

    /// What a replica says of itself that lacks something of what it has
    /// acknowledged.
    fn missing(&self, cluster: &mut Cluster, replica: usize) -> Option<String> {
        let node = &mut cluster.replicas[replica];
        let spaces = node.status().spaces;
        self.of(replica).find_map(|(name, told)| {
            let space = spaces.iter().find(|space| space.space.as_str() == name);
            let there = space.is_some_and(|space| {
                assert!(space.epochs.len() == 1, "nothing was lost, and yet: {space:#?}");
                let whole = space.head_known && space.problem.is_none();
                whole && space.flushed_lsn >= Some(told)
            });
            (!there).then(|| format!("{told} bytes of {name} were acknowledged: {space:#?}"))
        })
    }

    /// A replica that was started just now has everything. Its primary has not
    /// been there to bring any of it again, unless it is quick.
    fn assert_restarted(&mut self, cluster: &mut Cluster, replica: usize) {
        if let Some(missing) = self.missing(cluster, replica) {
            panic!("a restart has cost replica {replica} what was durable: {missing}");
        }
        self.restarts += 1;
        self.looked_at += self.of(replica).count() as u64;
    }

    /// The files of every replica hold as much as it has acknowledged. Nothing
    /// but records is in them, and each byte of these is one of the stream.
    fn assert_in_files(&self, cluster: &Cluster) {
        for (index, node) in cluster.replicas.iter().enumerate() {
            for (space, told) in self.of(index) {
                let entries = discover::entries(&node.wal(space)).unwrap_or_else(|error| {
                    panic!("{told} bytes of {space} are to be on replica {index}: {error}")
                });
                let segments = entries.iter().filter(|e| matches!(e.kind, Kind::Segment(_)));
                let held: u64 = segments.map(|segment| segment.bytes).sum();
                assert!(
                    held >= told,
                    "{space} on replica {index}: {held} bytes of {told} acknowledged"
                );
            }
        }
    }

    /// Nobody says that it has less than before. A replica whose session has
    /// ended says what that had when all of it has been given back.
    fn assert_kept(&self, cluster: &mut Cluster) {
        for replica in 0..cluster.replicas.len() {
            until("a replica says that it has what it had acknowledged", || {
                self.missing(cluster, replica).is_none().then_some(())
            });
        }
    }

    fn report(&self) {
        println!(
            "{} restarts of a replica, {} positions: all that was acknowledged was there",
            self.restarts, self.looked_at
        );
        assert!(self.looked_at >= self.restarts / 2, "hardly anything was acknowledged");
    }
}

/// What a replica has on its disk, while its primary cannot change it.
fn check(cluster: &mut Cluster, replica: usize, acknowledged: &mut Acknowledged) {
    acknowledged.assert_restarted(cluster, replica);
    acknowledged.assert_in_files(cluster);
    for space in SPACES {
        assert_prefix(&cluster.replicas[replica].wal(space), &cluster.primary.wal(space));
    }
}

/// Kill whom the dice choose, and start them again in the order they choose.
fn kill_one(cluster: &mut Cluster, random: &mut Random, acknowledged: &mut Acknowledged) {
    acknowledged.note(cluster);
    match random.below(4) {
        0 => {
            cluster.primary.kill();
            cluster.primary.restart();
        }
        1 => {
            // The primary is held still, so that what the replica has on its
            // disk can be looked at.
            cluster.replicas[0].kill();
            acknowledged.note(cluster);
            cluster.primary.signal(Signal::SIGSTOP);
            cluster.replicas[0].restart();
            check(cluster, 0, acknowledged);
            cluster.primary.signal(Signal::SIGCONT);
        }
        2 => {
            cluster.primary.kill();
            cluster.replicas[0].kill();
            cluster.replicas[0].restart();
            check(cluster, 0, acknowledged);
            // Killed again before anything comes.
            if random.below(2) == 0 {
                cluster.replicas[0].kill();
                cluster.replicas[0].restart();
                check(cluster, 0, acknowledged);
            }
            cluster.primary.restart();
        }
        _ => {
            cluster.replicas[0].kill();
            cluster.primary.kill();
            cluster.primary.restart();
            cluster.replicas[0].restart();
            acknowledged.assert_restarted(cluster, 0);
        }
    }
    acknowledged.assert_in_files(cluster);
    acknowledged.assert_kept(cluster);
}

#[test]
fn both_sides_survive_being_killed_at_random_moments() {
    let seed = seed();
    let kills = setting("SALTUS_KILLS").unwrap_or(KILLS);
    let mut random = Random(seed);
    let backend = backend(&mut random);
    println!("SALTUS_SEED={seed} SALTUS_KILLS={kills}, {backend:?}");

    let mut cluster = Cluster::start(backend, 2);
    let writers: Vec<_> = (SPACES.iter().zip(1..))
        .map(|(space, number)| {
            let load = Load {
                segment_bytes: 3 << 20,
                max_payload: 3 << 20,
                bytes_per_second: setting("SALTUS_MIB_PER_S").unwrap_or(5) << 20,
                seed: seed.wrapping_add(number),
            };
            Steady::start(cluster.primary.wal(space), load)
        })
        .collect();
    let until = setting("SALTUS_MINUTES")
        .map(|minutes| Instant::now() + MINUTE * u32::try_from(minutes).unwrap());
    let goes_on = |kill| until.map_or(kill <= kills, |end| Instant::now() < end);
    let mut acknowledged = Acknowledged::default();
    for kill in (1..).take_while(|kill| goes_on(*kill)) {
        run_on(&mut cluster, &mut random);
        println!("kill {kill}");
        // The second replica is not touched: it sees only its primary vanish.
        kill_one(&mut cluster, &mut random, &mut acknowledged);
    }
    let written: Vec<_> = writers.into_iter().map(Steady::finish).collect();
    println!("{} bytes written", written.iter().sum::<u64>());
    for (space, lsn) in SPACES.iter().zip(written) {
        cluster.await_flushed(space, lsn);
    }
    for space in SPACES {
        cluster.assert_identical(space);
    }
    acknowledged.report();
}

/// A writer that renames, unlinks, goes back and forth, and stops in
/// mid-record; one step at a time, between kills.
#[derive(Debug)]
struct Unruly {
    wal: PathBuf,
    open: Vec<Segment>,
    /// What a record still lacks, of the segment with that index.
    rest: Option<(usize, Vec<u8>)>,
    /// All that was ever written, closed segments included.
    closed: Vec<Segment>,
    number: u64,
}

impl Unruly {
    fn new(wal: PathBuf) -> Self {
        Self { wal, open: Vec::new(), rest: None, closed: Vec::new(), number: 0 }
    }

    /// Do one thing. `may_compact` is asked before names are removed: what no
    /// process has seen before its name is gone is gone itself.
    fn step(&mut self, random: &mut Random, may_compact: impl FnOnce(u64) -> bool) {
        // A half record is finished before anything else happens to its file.
        if let Some((index, rest)) = self.rest.take() {
            self.open[index].raw(&rest);
        }
        let index = match self.open.len() as u64 {
            0 => 0,
            count => usize::try_from(random.below(count)).unwrap(),
        };
        match random.below(20) {
            _ if self.open.is_empty() => self.create(),
            0 => self.create(),
            1 if may_compact(self.written()) => self.compact(random),
            2 if self.open.len() > 3 => {
                let segment = self.open.remove(index);
                self.closed.push(segment);
            }
            3 => {
                let segment = &mut self.open[index];
                let bytes =
                    record(segment.sequence, 1 + usize::try_from(random.below(9000)).unwrap());
                segment.sequence += 1;
                let cut = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                segment.raw(&bytes[..cut]);
                self.rest = Some((index, bytes[cut..].to_vec()));
            }
            4 => {
                self.open[index].records(1, usize::try_from(random.below(3 << 20)).unwrap());
            }
            _ => {
                let count = 1 + usize::try_from(random.below(20)).unwrap();
                self.open[index].records(count, usize::try_from(random.below(5000)).unwrap());
            }
        }
    }

    fn create(&mut self) {
        // The clock steps back now and then.
        self.number += 1;
        let number =
            if self.number.is_multiple_of(7) { 1_000 - self.number } else { 1_000 + self.number };
        let mut segment = Segment::create(&self.wal, number);
        // With a record in it, the head tells whether it was seen.
        segment.records(1, 10);
        self.open.push(segment);
    }

    /// A snapshot takes the place, and perhaps the name, of all others.
    fn compact(&mut self, random: &mut Random) {
        self.number += 1;
        let mut snapshot = Segment::at(self.wal.join(format!("{}.tmp", self.number)));
        snapshot.records(5, 300);
        let names: Vec<_> = discover::segments(&self.wal).unwrap();
        let keep = names[usize::try_from(random.below(names.len() as u64)).unwrap()];
        let name = if random.below(2) == 0 { keep } else { SegmentName(2_000 + self.number) };
        snapshot.rename(self.wal.join(name.to_string()));
        for other in names.into_iter().filter(|other| *other != name) {
            fs::remove_file(self.wal.join(other.to_string())).unwrap();
        }
        self.open.push(snapshot);
    }

    fn finish(&mut self) -> u64 {
        if let Some((index, rest)) = self.rest.take() {
            self.open[index].raw(&rest);
        }
        self.written()
    }

    fn written(&self) -> u64 {
        self.segments().map(Segment::len).sum()
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.open.iter().chain(&self.closed)
    }
}

/// Every file of the replica, retired ones included.
fn contents(replica: &Node, space: &str) -> Vec<Vec<u8>> {
    let retired = replica.spec.data_root.join(".saltus/retired").join(space);
    let mut contents = Vec::new();
    for directory in [replica.wal(space), retired] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        contents.extend(entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()));
    }
    contents
}

#[test]
fn an_unruly_writer_is_followed_through_kills() {
    let seed = seed();
    let kills = setting("SALTUS_KILLS").unwrap_or(KILLS);
    let mut random = Random(seed);
    let backend = backend(&mut random);
    println!("SALTUS_SEED={seed} SALTUS_KILLS={kills}, {backend:?}");
    let mut cluster = Cluster::start(backend, 1);
    let mut writer = Unruly::new(cluster.primary.wal("alpha"));
    let mut acknowledged = Acknowledged::default();
    // There is something to lose from the first kill on.
    writer.create();
    until("something is acknowledged", || {
        acknowledged.note(&mut cluster);
        acknowledged.of(0).next()?;
        Some(())
    });
    for kill in 0..=kills {
        for _ in 0..random.below(60) {
            writer.step(&mut random, |written| {
                until("the primary has seen everything", || {
                    let status = cluster.primary.space("alpha")?;
                    (status.head_lsn == written).then_some(true)
                })
            });
        }
        if kill == kills {
            break;
        }
        // While everything runs, or while it is away.
        let away = random.below(3) == 0;
        acknowledged.note(&mut cluster);
        match random.below(3) {
            0 => cluster.primary.kill(),
            1 => cluster.replicas[0].kill(),
            _ => {
                cluster.primary.kill();
                cluster.replicas[0].kill();
            }
        }
        if away {
            for _ in 0..random.below(30) {
                writer.step(&mut random, |_| false);
            }
        }
        if !cluster.replicas[0].runs() {
            let held = cluster.primary.runs();
            if held {
                acknowledged.note(&mut cluster);
                cluster.primary.signal(Signal::SIGSTOP);
            }
            cluster.replicas[0].restart();
            acknowledged.assert_restarted(&mut cluster, 0);
            if held {
                cluster.primary.signal(Signal::SIGCONT);
            }
        }
        if !cluster.primary.runs() {
            cluster.primary.restart();
        }
        acknowledged.assert_kept(&mut cluster);
    }
    let written = writer.finish();
    println!("{written} bytes written to {} segments", writer.segments().count());
    cluster.await_flushed("alpha", written);
    // What has no name any more is moved, at any moment from now on.
    cluster.replicas[0].signal(Signal::SIGSTOP);
    let there = contents(&cluster.replicas[0], "alpha");
    for segment in writer.segments().filter(|segment| segment.len() > 0) {
        let copies = there.iter().filter(|content| **content == segment.content).count();
        assert!(copies > 0, "{} is not on the replica", segment.path.display());
    }
    for name in discover::segments(&writer.wal).unwrap() {
        let copy = fs::read(cluster.replicas[0].wal("alpha").join(name.to_string())).unwrap();
        assert!(copy == fs::read(writer.wal.join(name.to_string())).unwrap(), "{name} differs");
    }
    acknowledged.report();
}
