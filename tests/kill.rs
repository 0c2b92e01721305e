//! Both sides killed at random moments, under load, again and again.
//!
//! ```text
//!   writers (threads here) --> primary ==> replica
//!                                 ^          ^
//!                                 +- SIGKILL-+   a seeded choice of whom,
//!                                                when, and who comes back first
//! ```
//!
//! After each restart of a replica, with the primary held still: no torn tail,
//! and every segment is a beginning of the primary's. In the end: identical.
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

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use saltus::ids::SegmentName;
use saltus::io::BackendChoice;
use saltus::wal::discover;

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

fn check(cluster: &Cluster, replica: usize) {
    for space in SPACES {
        assert_prefix(&cluster.replicas[replica].wal(space), &cluster.primary.wal(space));
    }
}

/// Kill whom the dice choose, and start them again in the order they choose.
fn kill_one(cluster: &mut Cluster, random: &mut Random) {
    match random.below(4) {
        0 => {
            cluster.primary.kill();
            cluster.primary.restart();
        }
        1 => {
            // The primary is held still, so that what the replica has on its
            // disk can be looked at.
            cluster.replicas[0].kill();
            cluster.primary.signal(Signal::SIGSTOP);
            cluster.replicas[0].restart();
            check(cluster, 0);
            cluster.primary.signal(Signal::SIGCONT);
        }
        2 => {
            cluster.primary.kill();
            cluster.replicas[0].kill();
            cluster.replicas[0].restart();
            check(cluster, 0);
            // Killed again before anything comes.
            if random.below(2) == 0 {
                cluster.replicas[0].kill();
                cluster.replicas[0].restart();
            }
            cluster.primary.restart();
        }
        _ => {
            cluster.replicas[0].kill();
            cluster.primary.kill();
            cluster.primary.restart();
            cluster.replicas[0].restart();
        }
    }
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
    for kill in (1..).take_while(|kill| goes_on(*kill)) {
        run_on(&mut cluster, &mut random);
        println!("kill {kill}");
        // The second replica is not touched: it sees only its primary vanish.
        kill_one(&mut cluster, &mut random);
    }
    let written: Vec<_> = writers.into_iter().map(Steady::finish).collect();
    println!("{} bytes written", written.iter().sum::<u64>());
    for (space, lsn) in SPACES.iter().zip(written) {
        cluster.await_flushed(space, lsn);
    }
    for space in SPACES {
        cluster.assert_identical(space);
    }
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
        for node in [&mut cluster.replicas[0], &mut cluster.primary] {
            if !node.runs() {
                node.restart();
            }
        }
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
}
