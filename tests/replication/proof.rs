//! `saltus verify --against`: equality is proven, and a difference is found.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use saltus::cli::node::NodeSpec;
use serde_json::Value;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::{Load, Segment, Steady};

/// Compare the primary with its first replica.
fn verify(cluster: &mut Cluster, more: &[&str]) -> (Option<i32>, Value) {
    let admin = cluster.primary.process().ready().admin.to_string();
    let other = cluster.replicas[0].process().ready().admin.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(["verify", "--json", "--admin", &admin, "--against", &other])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text).unwrap_or(Value::Null);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(answer.is_object() || output.status.code() != Some(0), "{text}{error}");
    (output.status.code(), if answer.is_null() { Value::from(error) } else { answer })
}

/// The answer about the one space that there is.
#[track_caller]
fn only_space(answer: &Value) -> &Value {
    assert_eq!(answer["spaces"].as_array().map(Vec::len), Some(1), "{answer:#}");
    &answer["spaces"][0]
}

/// Change one byte in place.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// A pair with two segments that grew in turn, 2.7 MB.
fn in_turn() -> (Cluster, [Segment; 2], u64) {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let wal = cluster.primary.wal("alpha");
    let mut segments = [Segment::create(&wal, 100), Segment::create(&wal, 200)];
    let mut total = 0;
    for turn in 0..6 {
        let segment = &mut segments[turn % 2];
        let before = segment.len();
        segment.records(100, 4000).records(10, 5000);
        total += segment.len() - before;
        cluster.await_flushed("alpha", total);
    }
    (cluster, segments, total)
}

#[test]
fn equal_copies_are_proven_equal_on_each_backend() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 100);
        segment.records(500, 3000);
        cluster.await_flushed("alpha", segment.len());
        for more in [&[][..], &["--headers"], &["--space", "alpha"]] {
            let (code, answer) = verify(&mut cluster, more);
            let space = only_space(&answer);
            assert_eq!((code, &space["verdict"]), (Some(0), &"equal".into()), "{answer:#}");
            assert_eq!(space["to_lsn"], segment.len());
            assert_eq!(space["chain"].as_str().map(str::len), Some(16));
            assert_eq!(answer["nodes"], serde_json::json!(["primary", "replica-1"]));
            let exchanged = answer["exchanged_bytes"].as_u64().unwrap();
            assert!((1..16 << 10).contains(&exchanged), "{exchanged}");
        }
        let (code, answer) = verify(&mut cluster, &["--space", "nope"]);
        assert_eq!(code, Some(2), "a name that neither has is a slip: {answer:#}");
    }
}

#[test]
fn a_rotten_payload_is_located_to_its_record_on_both_nodes() {
    let (mut cluster, segments, total) = in_turn();
    // Record 130 of the second segment, whose payload has rotted.
    let offset = 110 * 4064 - 10 * 4064 + 10 * 5064 + 20 * 4064;
    let path = cluster.replicas[0].wal("alpha").join(segments[1].path.file_name().unwrap());
    flip(&path, offset + 64 + 3000);

    let (code, answer) = verify(&mut cluster, &[]);
    let space = only_space(&answer);
    assert_eq!((code, &space["verdict"]), (Some(1), &"different".into()), "{answer:#}");
    let differences = space["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{answer:#}");
    // It belongs to the fourth run, behind two of the first and one of the
    // second segment.
    let run = 100 * 4064 + 10 * 5064;
    assert_eq!(differences[0]["lsn"], 3 * run + 20 * 4064);
    let [here, there] = [0, 1].map(|side| &differences[0]["sides"][side]["record"]);
    for record in [here, there] {
        assert_eq!(record["segment"], "wal-00000000000000c8.log", "{answer:#}");
        assert_eq!(record["offset"], offset);
        assert_eq!((&record["sequence"], &record["type"]), (&130.into(), &1.into()));
    }
    assert_ne!(here["digest"], there["digest"]);
    assert_eq!(here["problem"], Value::Null);
    assert!(there["problem"].as_str().unwrap().contains("payload CRC32C"), "{there}");
    assert!(answer["exchanged_bytes"].as_u64().unwrap() < 64 << 10, "{answer:#}");

    // The header still looks right.
    let (code, answer) = verify(&mut cluster, &["--headers"]);
    assert_eq!(code, Some(0), "{answer:#}");
    assert_eq!(only_space(&answer)["to_lsn"], total);
}

#[test]
fn damage_on_either_side_is_found_and_says_whose_it_is() {
    let (mut cluster, segments, _) = in_turn();
    // The header of record 5 on the primary, and one byte each in two records
    // far behind it on the replica.
    let copy = cluster.replicas[0].wal("alpha").join(segments[0].path.file_name().unwrap());
    flip(&segments[0].path, 5 * 4064 + 8);
    flip(&copy, 300_000);
    flip(&copy, 900_000);
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(1), "{answer:#}");
    let space = only_space(&answer);
    let differences = space["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 3, "{answer:#}");
    let problem =
        |index: usize, side: usize| &differences[index]["sides"][side]["record"]["problem"];
    assert_eq!(differences[0]["lsn"], 5 * 4064);
    assert!(problem(0, 0).as_str().unwrap().contains("header CRC32C"), "{answer:#}");
    assert_eq!(problem(0, 1), &Value::Null);
    for index in [1, 2] {
        assert_eq!(problem(index, 0), &Value::Null);
        assert!(problem(index, 1).is_string());
    }
    assert_eq!(space["damaged"][0][0]["offset"], 5 * 4064);
    assert_eq!(space["damaged"][1], serde_json::json!([]));

    let (code, answer) = verify(&mut cluster, &["--headers"]);
    assert_eq!(code, Some(1), "{answer:#}");
    assert_eq!(only_space(&answer)["differences"][0]["lsn"], 5 * 4064);
}

#[test]
fn a_segment_that_a_replica_lost_is_a_difference() {
    let (mut cluster, segments, _) = in_turn();
    // Without a primary that ships it again at once.
    cluster.primary.terminate();
    cluster.primary.spec.replicas.clear();
    cluster.primary.restart();
    until("the primary has read its log", || {
        cluster.primary.space("alpha")?.head_known.then_some(())
    });
    // And with all of it on record.
    cluster.replicas[0].terminate();
    cluster.replicas[0].restart();
    let path = cluster.replicas[0].wal("alpha").join(segments[1].path.file_name().unwrap());
    fs::rename(&path, path.with_extension("away")).unwrap();
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(1), "{answer:#}");
    let differences = only_space(&answer)["differences"].as_array().unwrap();
    let lsns: Vec<_> = differences.iter().map(|difference| &difference["lsn"]).collect();
    let run = 100 * 4064 + 10 * 5064;
    assert_eq!(lsns, [run, 3 * run, 5 * run], "once for each run: {answer:#}");
    let [here, there] = [0, 1].map(|side| &differences[1]["sides"][side]);
    assert_eq!(here["record"]["segment"], "wal-00000000000000c8.log");
    assert_eq!(here["record"]["offset"], run);
    assert!(there["missing"]["why"].as_str().unwrap().ends_with("c8.log is missing"), "{answer:#}");
}

#[test]
fn the_front_that_a_database_removed_is_named_and_proves_nothing_against_equality() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 100);
    old.records(300, 1000);
    cluster.await_flushed("alpha", old.len());
    let mut new = Segment::create(&wal, 200);
    new.records(300, 1000);
    cluster.await_flushed("alpha", old.len() + new.len());
    // As a pin that nobody needs any longer is released.
    old.unlink();
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(0), "by its pin: {answer:#}");
    assert_eq!(only_space(&answer)["not_compared"], serde_json::json!([]));
    fs::remove_dir_all(cluster.primary.spec.data_root.join(".saltus/pins/alpha")).unwrap();
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    let space = only_space(&answer);
    let gap = &space["not_compared"][0];
    assert_eq!((&gap["from_lsn"], &gap["to_lsn"]), (&0.into(), &old.len().into()), "{answer:#}");
    assert_eq!(
        (&space["verdict"], &space["to_lsn"]),
        (&"equal".into(), &(old.len() + new.len()).into())
    );

    // With nothing left to compare, nothing is proven.
    new.unlink();
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(3), "{answer:#}");
    assert_eq!(only_space(&answer)["verdict"], "not_compared");
}

#[test]
fn copies_with_a_hole_are_equal_and_rot_beside_it_is_a_difference() {
    let skips = |spec: &mut NodeSpec| {
        spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
    };
    let mut cluster = Cluster::with(1, skips, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 100);
    segment.records(5, 400);
    segment.raw(&[0xab; 333]);
    segment.records(5, 400);
    cluster.await_flushed("alpha", 10 * 464);
    assert_eq!(cluster.primary.space("alpha").unwrap().holes.len(), 1);
    // Right behind the skip, and once both know it from their catalogs alone.
    for round in 0..2 {
        for more in [&[][..], &["--headers"]] {
            let (code, answer) = verify(&mut cluster, more);
            let space = only_space(&answer);
            assert_eq!((code, &space["verdict"]), (Some(0), &"equal".into()), "{answer:#}");
            assert_eq!(
                (&space["to_lsn"], &space["not_compared"]),
                (&((10 + round) * 464).into(), &serde_json::json!([]),)
            );
        }
        if round == 0 {
            cluster.primary.kill();
            cluster.replicas[0].kill();
            cluster.replicas[0].restart();
            cluster.primary.restart();
            segment.records(1, 400);
            cluster.await_flushed("alpha", 11 * 464);
        }
    }

    // The files alone cannot say it: they differ, and so they are told to.
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    let wal = |arguments: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
        let output = command.arg("wal").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let explained = "333 zero bytes: on a replica this can be debris that was left out";
    let (code, text) = wal(&[Path::new("verify"), &copy]);
    assert!(code == Some(1) && text.contains(explained), "{text}");
    let (code, text) = wal(&[Path::new("verify"), &segment.path]);
    assert!(code == Some(1) && !text.contains(explained), "{text}");
    let directories = [segment.path.parent().unwrap(), copy.parent().unwrap()];
    let (code, text) = wal(&[Path::new("compare"), directories[0], directories[1]]);
    assert!(code == Some(1) && text.contains(explained), "{text}");

    flip(&copy, 5 * 464 + 333 + 100);
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(1), "{answer:#}");
    let difference = &only_space(&answer)["differences"][0];
    assert_eq!(difference["lsn"], 5 * 464, "{answer:#}");
    assert_eq!(difference["sides"][1]["record"]["offset"], 5 * 464 + 333, "{answer:#}");
}

#[test]
fn it_may_run_while_the_database_writes() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let load =
        Load { segment_bytes: 1 << 20, max_payload: 64 << 10, bytes_per_second: 8 << 20, seed: 7 };
    let writer = Steady::start(cluster.primary.wal("alpha"), load);
    let mut reached = 0;
    for _ in 0..8 {
        crate::cluster::until("the replica has more", || {
            let flushed = cluster.replica(0, "alpha")?.flushed_lsn;
            (flushed > reached + 200_000).then_some(flushed)
        });
        let (code, answer) = verify(&mut cluster, &[]);
        let space = only_space(&answer);
        assert_eq!((code, &space["settled"]), (Some(0), &0.into()), "{answer:#}");
        let to = space["to_lsn"].as_u64().unwrap();
        assert!(to > reached, "{answer:#}");
        reached = to;
    }
    drop(writer);
}

#[test]
fn what_cannot_be_compared_is_not_called_equal() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 100);
    segment.records(10, 100);
    cluster.await_flushed("alpha", segment.len());

    let (code, answer) = verify(&mut cluster, &["--space", "beta"]);
    assert_eq!(code, Some(2), "{answer:#}");
    let nobody = "neither primary nor replica-1 has a space beta";
    assert!(answer.as_str().unwrap().contains(nobody), "{answer:#}");

    let admin = cluster.primary.process().ready().admin.to_string();
    let against = |other: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
        command.args(["verify", "--admin", &admin, "--against", other]).output().unwrap()
    };
    let output = against(&admin);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("are one node, primary"), "{error}");
    cluster.replicas[0].terminate();
    let output = against("127.0.0.1:1");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("no saltus answers at 127.0.0.1:1"), "{error}");
}

#[test]
fn copies_of_two_streams_are_different_as_a_whole() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 100);
    segment.records(10, 100);
    cluster.await_flushed("alpha", segment.len());
    // The same bytes, shipped by a node that drew a stream of its own.
    let mut other = Cluster::start(BACKENDS[0], 1);
    let mut copy = Segment::create(&other.primary.wal("alpha"), 100);
    copy.records(10, 100);
    other.await_flushed("alpha", copy.len());
    std::mem::swap(&mut cluster.replicas, &mut other.replicas);
    let (code, answer) = verify(&mut cluster, &[]);
    assert_eq!(code, Some(1), "{answer:#}");
    let problem = only_space(&answer)["problem"].as_str().unwrap();
    assert!(problem.starts_with("they hold two streams"), "{problem}");
}
