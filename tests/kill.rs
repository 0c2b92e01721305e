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
//! `SALTUS_KILLS` sets how often, `SALTUS_MIB_PER_S` how much each of three
//! writers writes meanwhile, `SALTUS_SEED` repeats a run, `SALTUS_BACKEND`
//! chooses between `uring` and `portable` where the seed would.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/cluster.rs"]
mod cluster;
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/feed.rs"]
mod feed;

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use saltus::io::BackendChoice;

use cluster::{Cluster, assert_prefix, until};
use feed::{Load, Random, Steady};

/// How often in the short form.
const KILLS: u64 = 12;

const SPACES: [&str; 3] = ["alpha", "beta", "gamma"];

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
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
    let seed = setting("SALTUS_SEED").unwrap_or_else(|| {
        u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos())
    });
    let kills = setting("SALTUS_KILLS").unwrap_or(KILLS);
    let mut random = Random(seed);
    let backend = match env::var("SALTUS_BACKEND").as_deref() {
        Ok("uring") => BackendChoice::Uring,
        Ok("portable") => BackendChoice::Portable,
        _ if random.below(2) == 0 => BackendChoice::Uring,
        _ => BackendChoice::Portable,
    };
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
    for kill in 1..=kills {
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
