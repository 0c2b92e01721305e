//! Bits that flip on the way.

use std::time::{Duration, Instant};

use saltus::cli::node::NodeSpec;
use saltus::io::BackendChoice;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::{Load, Random, Steady};
use crate::flipper::{Flip, Flipper, Way};
use crate::{seed, setting};

/// How often in the short form, on each backend.
const FLIPS: u64 = 80;

/// How long a connection may live on after a bit of it has flipped.
const PATIENCE: Duration = Duration::from_secs(20);

/// Magnitudes of bytes, each as likely as the others, so that handshakes,
/// acknowledgements, headers and payloads all have their turn.
fn somewhere(random: &mut Random, bits: u64) -> u64 {
    let bound = 8 << random.below(bits);
    random.below(bound)
}

fn flip(random: &mut Random, warm: bool) -> Flip {
    let (way, byte) = match random.below(3) {
        0 => (Way::Back, somewhere(random, 7)),
        _ => (Way::Forth, somewhere(random, 15)),
    };
    Flip { way, warm, byte, bit: u8::try_from(random.below(8)).unwrap() }
}

fn flips_are_noticed(backend: BackendChoice, seed: u64, flips: u64, replicas: usize) {
    let each = |spec: &mut NodeSpec| spec.backend = backend;
    let mut cluster = Cluster::with(replicas, each, |_| {});
    cluster.primary.terminate();
    let share = flips / replicas as u64;
    let plans: Vec<Vec<Flip>> = (0..replicas as u64)
        .map(|index| {
            let mut random = Random(seed.wrapping_add(1000 + index));
            (0..share).map(|number| flip(&mut random, number % 2 == 1)).collect()
        })
        .collect();
    let proxies: Vec<_> = (cluster.replicas.iter().zip(&plans))
        .map(|(replica, plan)| Flipper::start(replica.spec.replication.unwrap(), plan.clone()))
        .collect();
    for (replica, proxy) in cluster.primary.spec.replicas.iter_mut().zip(&proxies) {
        replica.address = proxy.address;
    }
    let writers: Vec<_> = ["alpha", "beta"]
        .iter()
        .zip(1..)
        .map(|(space, number)| {
            let load = Load {
                segment_bytes: 8 << 20,
                max_payload: 256 << 10,
                bytes_per_second: setting("SALTUS_KIB_PER_S").unwrap_or(1024) << 10,
                seed: seed.wrapping_add(number),
            };
            Steady::start(cluster.primary.wal(space), load)
        })
        .collect();
    let began = Instant::now();
    cluster.primary.restart();
    for proxy in &proxies {
        assert_eq!(proxy.await_noticed(PATIENCE), share);
    }
    let took = began.elapsed();
    let written: Vec<_> = writers.into_iter().map(Steady::finish).collect();
    for (space, lsn) in ["alpha", "beta"].iter().zip(&written) {
        cluster.await_flushed(space, *lsn);
        cluster.assert_identical(space);
    }
    // Every one of them was noticed: the proxy saw the end of each connection.
    // Nothing of a damaged frame was written, so nothing had to be taken back.
    let status = cluster.primary.status();
    let mut counted = (0, 0);
    for (index, plan) in plans.iter().enumerate() {
        let replica = &mut cluster.replicas[index];
        let id = replica.spec.id.to_string();
        let here = status.corrupt_frames.get(&id).copied().unwrap_or(0);
        let there: u64 = replica.status().corrupt_frames.values().sum();
        // The magic of a first frame tells a foreign protocol, not damage:
        // refused, and not counted.
        let foreign = plan.iter().filter(|flip| !flip.warm && flip.byte < 4).count() as u64;
        assert!(here + there + foreign >= share, "{id}: {here}, {there}, {foreign} of {share}");
        counted = (counted.0 + here, counted.1 + there);
        assert!(!replica.spec.data_root.join(".saltus/quarantine").exists(), "{id} wrote damage");
    }
    for space in &status.spaces {
        assert_eq!(space.problem, None);
        for replica in &space.replicas {
            assert!(replica.corrupt_frames > 0, "{replica:?}");
        }
    }
    let struck = share * replicas as u64;
    let forth = plans.iter().flatten().filter(|flip| flip.way == Way::Forth).count();
    println!(
        "{backend:?}: {struck} flips in {:.0?}, {forth} towards the replica, all noticed, none \
         written; {} bytes shipped; counted {} times by the primary, {} by the replicas",
        took,
        written.iter().sum::<u64>(),
        counted.0,
        counted.1,
    );
}

#[test]
fn every_flipped_bit_on_the_way_is_noticed_and_none_is_written() {
    let seed = seed();
    let flips = setting("SALTUS_FLIPS").unwrap_or(FLIPS);
    let replicas = if flips > 1000 { 8 } else { 2 };
    for backend in BACKENDS {
        flips_are_noticed(backend, seed, flips / 2, replicas);
    }
}

#[test]
fn after_a_first_damaged_frame_the_connection_is_renewed_at_once() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.primary.terminate();
    // In the payload of the first data frame: Hello, OpenSpace, SegmentOpen
    // and a header lie before it.
    let flip = Flip { way: Way::Forth, warm: false, byte: 3000, bit: 3 };
    let proxy = Flipper::start(cluster.replicas[0].spec.replication.unwrap(), [flip]);
    cluster.primary.spec.replicas[0].address = proxy.address;
    let mut segment = crate::feed::Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(10, 5000);
    cluster.primary.restart();
    assert_eq!(proxy.await_noticed(PATIENCE), 1);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    until("both sides count it", || {
        let replica = cluster.replica(0, "alpha")?;
        let there = cluster.replicas[0].status().corrupt_frames;
        (replica.corrupt_frames == 1 && there.get("primary") == Some(&1)).then_some(())
    });
    assert!(cluster.primary.log().contains("damaged on its way"), "{}", cluster.primary.log());
}
