//! What arrives is what was written, whatever moves it.

use std::fs;
use std::path::Path;

use saltus::config::DurabilityLevel;
use saltus::io::{BackendChoice, Strategy};

use crate::cluster::{BACKENDS, Cluster, NATIVE};
use crate::feed::{Load, Segment, Steady};

/// The log that a real Engram process wrote.
const ENGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engram/alpha/wal");

fn copy_engram(wal: &Path) -> u64 {
    fs::create_dir_all(wal).unwrap();
    let mut bytes = 0;
    for entry in fs::read_dir(ENGRAM).unwrap() {
        let entry = entry.unwrap();
        bytes += fs::copy(entry.path(), wal.join(entry.file_name())).unwrap();
    }
    bytes
}

#[test]
fn a_real_engram_log_is_replicated_byte_for_byte() {
    for backend in BACKENDS {
        let mut bytes = 0;
        let each = |spec: &mut saltus::cli::node::NodeSpec| spec.backend = backend;
        let mut cluster =
            Cluster::with(2, each, |root| bytes = copy_engram(&root.join("alpha/wal")));
        cluster.await_flushed("alpha", bytes);
        cluster.assert_identical("alpha");
        // And once more, into nodes that run already.
        let bytes = copy_engram(&cluster.primary.wal("beta"));
        cluster.await_flushed("beta", bytes);
        cluster.assert_identical("beta");
        for replica in &cluster.replicas {
            let verified = std::process::Command::new(env!("CARGO_BIN_EXE_saltus"))
                .args(["wal", "verify"])
                .arg(replica.wal("alpha"))
                .output()
                .unwrap();
            assert_eq!(verified.status.code(), Some(0), "{verified:?}");
        }
    }
}

#[test]
fn every_strategy_ships_the_same_bytes() {
    let strategies =
        [Strategy::Sendfile, Strategy::Splice, Strategy::SendZc, Strategy::Copy, Strategy::Auto];
    for backend in BACKENDS {
        // The other pairs are refused with the configuration.
        let can = |strategy: &Strategy| {
            backend != saltus::io::BackendChoice::Portable || strategy.is_portable()
        };
        for strategy in strategies.into_iter().filter(can) {
            let each = |spec: &mut saltus::cli::node::NodeSpec| {
                spec.backend = backend;
                spec.strategy = strategy;
            };
            let mut bytes = 0;
            let mut cluster = Cluster::with(1, each, |root| {
                let mut segment = Segment::create(&root.join("alpha/wal"), 1);
                segment.records(1000, 100).records(3, 3 << 20).records(100, 40_000).records(1, 0);
                bytes = segment.len();
            });
            cluster.await_flushed("alpha", bytes);
            let mut second = Segment::create(&cluster.primary.wal("alpha"), 2);
            second.records(10, 500);
            cluster.await_flushed("alpha", bytes + second.len());
            second.records(10, 5000);
            cluster.await_flushed("alpha", bytes + second.len());
            cluster.assert_identical("alpha");
            let sent = cluster.replica(0, "alpha").unwrap().sent_bytes_by_strategy;
            assert_eq!(sent.values().sum::<u64>(), bytes + second.len(), "{strategy:?}: {sent:?}");
        }
    }
}

#[test]
fn level_written_flushes_in_the_background() {
    let each = |spec: &mut saltus::cli::node::NodeSpec| spec.level = DurabilityLevel::Written;
    let mut cluster = Cluster::with(1, each, |_| {});
    let mut segment = cluster.fill("alpha", 10, 100);
    segment.records(1, 600_000).records(10, 100);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

#[test]
fn two_hundred_spaces_arrive_together() {
    let mut bytes = Vec::new();
    let mut cluster = Cluster::with(
        1,
        |_| {},
        |root| {
            for number in 0..200_u64 {
                let mut segment = Segment::create(&root.join(format!("space-{number}/wal")), 7);
                segment.sequence = number * 1000;
                segment.records(1 + usize::try_from(number % 5).unwrap(), 300);
                bytes.push((format!("space-{number}"), segment.len()));
            }
        },
    );
    for (space, lsn) in &bytes {
        cluster.await_flushed(space, *lsn);
    }
    for (space, _) in &bytes {
        cluster.assert_identical(space);
    }
}

#[test]
fn a_writer_in_several_spaces_is_followed_on_several_shards() {
    for backend in BACKENDS {
        let each = |spec: &mut saltus::cli::node::NodeSpec| {
            spec.backend = backend;
            spec.shards = 3;
        };
        let mut cluster = Cluster::with(2, each, |_| {});
        let writers: Vec<_> = (1..=4_u64)
            .map(|seed| {
                let space = format!("space-{seed}");
                let load = Load {
                    segment_bytes: 2 << 20,
                    max_payload: 1 << 20,
                    bytes_per_second: 16 << 20,
                    seed,
                };
                let writer = Steady::start(cluster.primary.wal(&space), load);
                (space, writer)
            })
            .collect();
        for (_, writer) in &writers {
            crate::cluster::until("the writers write", || {
                (writer.written() > 4 << 20).then_some(())
            });
        }
        for (space, writer) in writers {
            let written = writer.finish();
            cluster.await_flushed(&space, written);
            cluster.assert_identical(&space);
        }
    }
}

#[test]
fn backends_mix() {
    let each = |spec: &mut saltus::cli::node::NodeSpec| {
        let primary = spec.replication.is_none();
        spec.backend = if primary { NATIVE } else { BackendChoice::Portable };
    };
    let mut cluster = Cluster::with(1, each, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(20, 1 << 20).records(500, 200);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}
