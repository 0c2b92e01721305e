//! Whole nodes in a simulated world: the real shard loop, keeper, catalog,
//! recovery and machines, on a disk, a network and a clock that one seed
//! rules. An oracle checks at every step what it can see of the invariants.
//!
//! ```text
//!   database --> [disk] primary --- network --- replica [disk]
//!                               `-- network --- replica [disk]
//!   faults: kills, power, cuts, silence, bad and full disks, flipped bits
//! ```
//!
//! The same seed takes the same course. One that fails says how to see it
//! again: `SALTUS_SEED=7 cargo test --test simulation every_invariant -- --nocapture`.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

#[path = "simulation/backend.rs"]
mod backend;
#[path = "simulation/chance.rs"]
mod chance;
#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/copies.rs"]
mod copies;
#[path = "simulation/crash.rs"]
mod crash;
#[path = "simulation/cuts.rs"]
mod cuts;
#[path = "simulation/database.rs"]
mod database;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/flips.rs"]
mod flips;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/invariant.rs"]
mod invariant;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/names.rs"]
mod names;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/operations.rs"]
mod operations;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[cfg(feature = "planted-bugs")]
#[path = "simulation/planted.rs"]
mod planted;
#[path = "simulation/rot.rs"]
mod rot;
#[path = "simulation/rotten.rs"]
mod rotten;
#[path = "simulation/seeding.rs"]
mod seeding;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/source.rs"]
mod source;
#[path = "simulation/stream.rs"]
mod stream;
#[path = "simulation/succession.rs"]
mod succession;
#[path = "simulation/trace.rs"]
mod trace;
#[path = "simulation/world.rs"]
mod world;

use std::time::Duration;

use seeds::{Course, Seeds, number};
use trace::Mode;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 300;

/// Every invariant that the oracle can see, in every seed; `docs/TESTING.md` says which.
///
/// The first [`SEEDS`], or as the environment says: `SALTUS_FIRST_SEED`,
/// `SALTUS_SEEDS` and `SALTUS_SECONDS` for a longer run, or `SALTUS_SEED` for
/// one that is told in full.
#[test]
fn every_invariant_holds_in_every_seed() {
    if let Some(seed) = number("SALTUS_SEED") {
        return tell(seed);
    }
    let first = number("SALTUS_FIRST_SEED").unwrap_or(1);
    let time = number("SALTUS_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    let endless = if time == Duration::MAX { SEEDS } else { u64::MAX };
    let count = number("SALTUS_SEEDS").unwrap_or(endless);
    Seeds { first, count, time }.run();
}

/// One seed, step by step.
fn tell(seed: u64) {
    if std::env::var_os("SALTUS_LOG").is_some() {
        let subscriber = tracing_subscriber::fmt().without_time().with_writer(std::io::stderr);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    }
    let course = Course::of(seed, Mode::Print);
    if let Some(violation) = course.violation {
        panic!("seed {seed}: {violation}");
    }
}

#[test]
fn a_seed_takes_the_same_course_again() {
    for seed in 1..=5 {
        let course = || Course::of(seed, Mode::Keep);
        let (first, second) = (course(), course());
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
    }
}
