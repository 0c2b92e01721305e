//! The memory of a primary whose replica has stopped reading: for a few seconds,
//! or as long and as fast as `SALTUS_SECONDS` and `SALTUS_MIB_PER_S` say.
//! `scripts/stalled_replica.sh` runs it for minutes.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, NATIVE, Node, until};
use crate::feed::{Load, Steady};

/// What the process as a whole keeps below.
const MOST: u64 = 64 << 20;

/// By how much the second half of the run may exceed the first.
const DRIFT: u64 = 4 << 20;

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Anonymous memory of a process, bytes.
fn anonymous_bytes(node: &mut Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_replica_that_stopped_reading_costs_its_primary_no_memory() {
    let seconds = setting("SALTUS_SECONDS", 8);
    let rate = setting("SALTUS_MIB_PER_S", 16);
    let mut cluster = Cluster::start(NATIVE, 2);
    let load = Load {
        segment_bytes: 64 << 20,
        max_payload: 64 << 10,
        bytes_per_second: rate << 20,
        seed: 17,
    };
    let writer = Steady::start(cluster.primary.wal("alpha"), load);
    until("both are served", || {
        let ready = |index| cluster.replica(index, "alpha").map_or(0, |r| r.flushed_lsn) > 0;
        [0, 1].map(ready).iter().all(|ready| *ready).then_some(())
    });
    cluster.replicas[0].signal(Signal::SIGSTOP);
    let began = Instant::now();
    let mut halves = [0, 0];
    let mut next = Duration::ZERO;
    let mut worst_lag = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let primary = anonymous_bytes(&mut cluster.primary);
        let second = began.elapsed() >= Duration::from_secs(seconds / 2);
        halves[usize::from(second)] = halves[usize::from(second)].max(primary);
        worst_lag = worst_lag.max(cluster.replica(1, "alpha").unwrap().lag.bytes.unwrap_or(0));
        if began.elapsed() >= next {
            let stalled = cluster.replica(0, "alpha").unwrap();
            println!(
                "{:4} s  written {:6} MiB  primary {:5.1} MiB anonymous  other replica {:5.1} MiB  \
                 stalled one {:?}, behind {} MiB",
                began.elapsed().as_secs(),
                writer.written() >> 20,
                primary as f64 / f64::from(1 << 20),
                anonymous_bytes(&mut cluster.replicas[1]) as f64 / f64::from(1 << 20),
                stalled.state,
                stalled.lag.bytes.unwrap_or(0) >> 20,
            );
            next += Duration::from_millis(seconds * 50);
        }
        // Nothing is waited for: this is how often the memory is looked at.
        std::thread::sleep(Duration::from_millis(250));
    }
    let written = writer.finish();
    println!(
        "written {} MiB; most anonymous memory: first half {:.1} MiB, second half {:.1} MiB; \
         the other replica was never more than {:.1} MiB behind",
        written >> 20,
        halves[0] as f64 / f64::from(1 << 20),
        halves[1] as f64 / f64::from(1 << 20),
        worst_lag as f64 / f64::from(1 << 20),
    );
    until("the other replica has everything", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == written).then_some(())
    });
    assert!(halves[0].max(halves[1]) < MOST, "{halves:?}");
    assert!(halves[1] < halves[0] + DRIFT, "it grows: {halves:?}");
    cluster.replicas[0].signal(Signal::SIGCONT);
}
