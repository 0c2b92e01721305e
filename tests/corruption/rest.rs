//! Bytes that rot at rest on a replica.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Instant;

use nix::sys::signal::Signal;
use saltus::admin::Client;
use saltus::engine::quarantine::list;
use saltus::engine::scrub::ScrubAsk;
use saltus::engine::status::PassOutcome;
use saltus::wal::discover;

use crate::cluster::{Cluster, DEADLINE, Node, until};
use crate::feed::{Load, Random, Segment, Steady};
use crate::{seed, setting};

/// How many places in the short form.
const PLACES: u64 = 60;

/// How many of them before one pass.
const PLACES_PER_PASS: u64 = 40;

/// One pass over a space, now.
pub fn scrub(node: &mut Node, space: &str) -> PassOutcome {
    let client = Client::new(node.spec.admin).unwrap();
    let request = client.scrub(&ScrubAsk::space(space.parse().unwrap())).unwrap();
    until("the pass ends", || {
        let outcomes = node.status().scrub.outcomes;
        outcomes.into_iter().find(|outcome| outcome.request == request)
    })
}

/// The command of an operator.
pub fn saltus(node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
    command.args(arguments).arg("--admin").arg(node.spec.admin.to_string());
    command.output().unwrap()
}

pub fn flip(path: &PathBuf, at: u64, mask: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

fn quarantine(node: &Node) -> PathBuf {
    node.spec.data_root.join(".saltus/quarantine")
}

#[test]
fn every_rotten_byte_is_found_and_mended_by_one_pass() {
    let mut random = Random(seed());
    let places = setting("SALTUS_ROT").unwrap_or(PLACES);
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let load = |seed| Load {
        segment_bytes: 4 << 20,
        max_payload: 64 << 10,
        bytes_per_second: 64 << 20,
        seed,
    };
    let wal = cluster.primary.wal("alpha");
    let writer = Steady::start(wal.clone(), load(random.next()));
    until("there is something to rot", || (writer.written() > 12 << 20).then_some(()));
    let mut written = writer.finish();
    let (mut done, mut passes, mut healed) = (0, 0, 0);
    while done < places {
        cluster.await_flushed("alpha", written);
        let copies = cluster.replicas[0].wal("alpha");
        let names = discover::segments(&copies).unwrap();
        let mut rotten = BTreeMap::new();
        while (rotten.len() as u64) < PLACES_PER_PASS.min(places - done) {
            let name = names[usize::try_from(random.below(names.len() as u64)).unwrap()];
            let path = copies.join(name.to_string());
            let bytes = fs::metadata(&path).unwrap().len();
            if bytes > 0 {
                let mask = u8::try_from(1 + random.below(255)).unwrap();
                rotten.insert((name.to_string(), random.below(bytes)), mask);
            }
        }
        for ((name, at), mask) in &rotten {
            flip(&copies.join(name), *at, *mask);
        }
        // Every other time while the log grows.
        let busy = passes % 2 == 1;
        let writer = busy.then(|| Steady::start(wal.clone(), load(random.next())));
        let outcome = scrub(&mut cluster.replicas[0], "alpha");
        if let Some(writer) = writer {
            written += writer.finish();
        }
        assert_eq!(outcome.found, outcome.healed, "{outcome:?}");
        let found = cluster.replicas[0].status().scrub.healed;
        for (name, at) in rotten.keys() {
            let holds = |range: &&saltus::engine::status::BadRange| {
                range.segment == *name && (range.offset..range.offset + range.bytes).contains(at)
            };
            assert!(found.iter().any(|range| holds(&range)), "byte {at} of {name} was not found");
        }
        cluster.await_flushed("alpha", written);
        cluster.assert_identical("alpha");
        assert!(quarantine(&cluster.replicas[0]).exists(), "what was replaced is kept");
        fs::remove_dir_all(quarantine(&cluster.replicas[0])).unwrap();
        done += rotten.len() as u64;
        passes += 1;
        healed += outcome.healed;
        if passes % 5 == 0 {
            println!("{done} bytes in {passes} passes");
        }
    }
    let again = scrub(&mut cluster.replicas[0], "alpha");
    assert_eq!((again.found, again.unreadable), (0, 0), "{again:?}");
    println!(
        "{done} bytes rotted at random places, all found by the {passes} passes that followed \
         them and mended in {healed} ranges; {written} bytes of log, identical"
    );
}

#[test]
fn rot_of_every_kind_is_mended_while_the_log_grows() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    let mut live = Segment::create(&wal, 2);
    live.records(10, 1000).records(1, 3 << 20).records(3, 100);
    let mut written = old.len() + live.len();
    cluster.await_flushed("alpha", written);
    let copy = |segment: &Segment, cluster: &Cluster| {
        cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap())
    };
    let (first, second) = (copy(&old, &cluster), copy(&live, &cluster));
    for round in 0..8 {
        let ranges = match round {
            // A header, a payload, the size in a header, the bytes that no CRC
            // covers, the very last byte.
            0 => [0, 2 * 1064 + 500, 4 * 1064 + 25, 6 * 1064 + 60, old.len() - 1]
                .map(|at| flip(&first, at, 0x40))
                .len(),
            // The record that is larger than one question.
            1 => [10 * 1064 + 70_000].map(|at| flip(&second, at, 1)).len(),
            // The last record of the file that grows.
            2 => [live.len() - 10].map(|at| flip(&second, at, 1)).len(),
            // Two neighbours: one range.
            3 => [5 * 1064 + 3, 6 * 1064 + 3].map(|at| flip(&first, at, 1)).len() - 1,
            // A shortened file, within a record and at the end of one.
            4 => {
                File::options().write(true).open(&first).unwrap().set_len(5000).map(|()| 1).unwrap()
            }
            5 => File::options()
                .write(true)
                .open(&second)
                .unwrap()
                .set_len(1064)
                .map(|()| 1)
                .unwrap(),
            6 => fs::remove_file(&first).map(|()| 1).unwrap(),
            _ => {
                let file = File::options().write(true).open(&first).unwrap();
                file.write_all_at(&[0; 9000], 3000).map(|()| 1).unwrap()
            }
        };
        let outcome = scrub(&mut cluster.replicas[0], "alpha");
        let ranges = ranges as u64;
        assert_eq!((outcome.found, outcome.healed), (ranges, ranges), "{round}: {outcome:?}");
        live.records(2, 700);
        written += 2 * 764;
        cluster.await_flushed("alpha", written);
        cluster.assert_identical("alpha");
        if round % 3 == 0 {
            cluster.replicas[0].kill();
            cluster.replicas[0].restart();
            cluster.await_flushed("alpha", written);
        }
    }
    assert_eq!(cluster.replicas[0].space("alpha").unwrap().problem, None);
}

/// A look and a build of this file take eight seconds each, at that rate.
const SLOW: &str = "[scrub]\nbytes_per_second = \"512KiB\"\n";
const SLOW_RECORDS: usize = 64;

#[test]
fn a_node_that_is_told_to_end_does_not_finish_the_file_that_it_is_mending() {
    let mut cluster = Cluster::with(1, |spec| spec.more = SLOW.into(), |_| {});
    let segment = cluster.fill("alpha", SLOW_RECORDS, 64 << 10);
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    flip(&copy, 7000, 8);
    let rotten = fs::read(&copy).unwrap();
    let client = Client::new(cluster.replicas[0].spec.admin).unwrap();
    let ask = ScrubAsk::space("alpha".parse().unwrap());
    client.scrub(&ScrubAsk { full_speed: false, ..ask }).unwrap();
    let mending = cluster.replicas[0].spec.data_root.join(".saltus/mending/alpha");
    let built = || -> Vec<u64> {
        let entries = fs::read_dir(&mending).into_iter().flatten().flatten();
        let new = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "new"));
        // It may go between two looks.
        new.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect()
    };
    let bytes = until("a new file is being built", || built().pop().filter(|bytes| *bytes > 0));
    assert!(bytes < segment.len(), "{bytes} bytes are there already");
    // A node that went on to the end of the new file would show more and more of it, and
    // all of it before it went.
    let mut most = bytes;
    cluster.replicas[0].signal(Signal::SIGTERM);
    let deadline = Instant::now() + DEADLINE;
    while cluster.replicas[0].process().ended().is_ok() {
        assert!(Instant::now() < deadline, "it does not end");
        most = built().into_iter().fold(most, u64::max);
        std::thread::yield_now();
    }
    cluster.replicas[0].terminate();
    assert!(most < segment.len(), "it built all {most} bytes before it ended");
    assert!(fs::read(&copy).unwrap() == rotten, "half a file takes nobody's name");
    assert_eq!(built(), [0; 0], "and is not left behind");
    assert!(!quarantine(&cluster.replicas[0]).exists());

    // The next process mends it.
    cluster.replicas[0].spec.more.clear();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", segment.len());
    let outcome = scrub(&mut cluster.replicas[0], "alpha");
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    cluster.assert_identical("alpha");
    let pieces = list(&quarantine(&cluster.replicas[0])).unwrap();
    assert_eq!(pieces.len(), 1, "{pieces:?}");
    assert!(fs::read(&pieces[0].path).unwrap() == rotten);
}

#[test]
fn what_cannot_be_mended_is_named_and_is_mended_once_it_can_be() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 20, 1000);
    cluster.primary.terminate();
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    flip(&copy, 7000, 8);
    let rotten = fs::read(&copy).unwrap();
    let output = saltus(&cluster.replicas[0], &["scrub", "--space", "alpha"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let name = segment.path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(text.contains(&name) && text.contains("6384") && text.contains("not mended"), "{text}");
    assert_eq!(fs::read(&copy).unwrap(), rotten, "nothing was written");
    let json = saltus(&cluster.replicas[0], &["--json", "scrub", "--space", "alpha"]);
    assert!(String::from_utf8_lossy(&json.stdout).contains("\"found\": 1"), "{json:?}");
    cluster.primary.restart();
    cluster.await_flushed("alpha", segment.len());
    let output = saltus(&cluster.replicas[0], &["scrub", "--space", "alpha"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("all are mended"), "{text}");
    cluster.assert_identical("alpha");
    assert_eq!(cluster.replicas[0].status().scrub.bad_ranges, []);
    let output = saltus(&cluster.replicas[0], &["scrub", "--space", "nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
