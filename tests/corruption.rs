//! Bits that flip: on the way, at rest on a replica, at rest on the primary.
//!
//! ```text
//!   writers --> primary ==> flipping proxy ==> replica
//!                  ^                             ^
//!                  `------- flips at rest -------'
//! ```
//!
//! The long forms are `scripts/flip.sh` and `scripts/rot.sh`. `SALTUS_FLIPS`
//! sets how many bits flip on the way, `SALTUS_ROT` how many places at rest,
//! `SALTUS_SEED` (1) makes the choices; the scripts draw one for each run.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[expect(dead_code, reason = "shared with the other end-to-end tests")]
#[path = "replication/cluster.rs"]
mod cluster;
#[path = "replication/compaction.rs"]
mod compaction;
#[path = "replication/feed.rs"]
mod feed;
#[path = "corruption/flight.rs"]
mod flight;
#[path = "corruption/flipper.rs"]
mod flipper;
#[path = "corruption/gap.rs"]
mod gap;
#[path = "corruption/rest.rs"]
mod rest;
#[path = "corruption/source.rs"]
mod source;

use std::env;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// The seed of this run, which it prints.
fn seed() -> u64 {
    let seed = setting("SALTUS_SEED").unwrap_or(1);
    println!("SALTUS_SEED={seed}");
    seed
}
