//! Bytes that rot at rest on the primary, whose files belong to the database.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use saltus::cli::node::NodeSpec;
use saltus::ids::{Epoch, SegmentName};
use saltus::wal::record::MAGIC_BYTES;

use crate::cluster::{BACKENDS, Cluster, Node, until};
use crate::feed::{Segment, record};
use crate::rest::{flip, saltus, scrub};

/// A primary whose fifth record of alpha has a rotten payload before anything
/// was shipped to the second replica.
fn rotten(each: impl Fn(&mut NodeSpec)) -> (Cluster, Segment) {
    let mut cluster = Cluster::with(2, each, |_| {});
    cluster.replicas[1].terminate();
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(10, 1000);
    until("the first replica has it", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == segment.len()).then_some(())
    });
    flip(&segment.path, 5 * 1064 + 200, 4);
    cluster.replicas[1].restart();
    (cluster, segment)
}

#[test]
fn a_record_that_is_damaged_at_the_source_is_shipped_to_nobody_and_repaired_from_who_has_it() {
    let (mut cluster, mut segment) = rotten(|_| {});
    // The replica's word comes first; what the file itself holds is told then.
    let problem = until("the primary has looked at the record", || {
        let status = cluster.primary.await_problem("alpha", "5320");
        status.problem.filter(|problem| problem.contains("saltus repair"))
    });
    let name = segment.path.file_name().unwrap().to_str().unwrap().to_owned();
    for part in [name.as_str(), "offset 5320", "lsn 5320", "saltus repair --space alpha"] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    assert!(problem.contains("on_corrupt_source = \"skip\" leaves it out"), "{problem}");
    assert_eq!(cluster.primary.space("alpha").unwrap().holes, [], "nobody has said so");
    until("what lies before it is durable on the second replica", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == 5320).then_some(())
    });
    // Who has the record goes on; who has it not stays where it is.
    segment.records(2, 500);
    until("the first replica goes on", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == segment.len()).then_some(())
    });
    assert_eq!(cluster.replica(1, "alpha").unwrap().flushed_lsn, 5320);
    assert_eq!(cluster.primary.status().corrupt_frames.get("replica-2"), None);

    let before = fs::read(&segment.path).unwrap();
    let output = saltus(&cluster.primary, &["repair", "--space", "alpha", "--from", "replica-1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read(&segment.path).unwrap(), before, "the database's file is untouched");
    let copy = cluster.primary.spec.data_root.join(".saltus/repaired/alpha").join(&name);
    assert_eq!(fs::read(copy).unwrap(), segment.content);
    assert!(text.contains("differs at 5320, 1064 bytes"), "{text}");
    let commands: Vec<_> = text.lines().filter(|line| line.trim().starts_with("dd ")).collect();
    assert_eq!(commands.len(), 1, "{text}");
    assert!(Command::new("sh").arg("-c").arg(commands[0]).output().unwrap().status.success());
    assert_eq!(fs::read(&segment.path).unwrap(), segment.content);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    until("the problem is over", || {
        let status = cluster.primary.space("alpha")?;
        (status.problem.is_none() && status.replicas.iter().all(|r| r.problem.is_none()))
            .then_some(())
    });
    let output = saltus(&cluster.primary, &["repair", "--space", "alpha"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to repair"), "{output:?}");
}

#[test]
fn a_repair_does_not_hide_what_is_no_record_of_the_stream() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(3, 1000);
    cluster.await_flushed("alpha", segment.len());
    let at = segment.len();
    segment.raw(&[b'U'; 100]).records(2, 1000);
    let name = segment.path.file_name().unwrap().to_str().unwrap();
    let corrupt = format!("CORRUPT: alpha {name} at {at}, 100 bytes");
    for command in ["scrub", "repair"] {
        let output = saltus(&cluster.primary, &[command, "--space", "alpha"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.contains(&corrupt), "{command}: {text}");
        assert_eq!(text.contains("repair has nothing to put there"), command == "repair", "{text}");
        let ranges = cluster.primary.status().scrub.bad_ranges;
        assert_eq!(ranges.iter().map(|range| range.offset).collect::<Vec<_>>(), [at], "{command}");
    }
    let nope = saltus(&cluster.primary, &["repair", "--space", "alpha", "--from", "nope"]);
    assert_eq!(nope.status.code(), Some(2), "{nope:?}");
    let output = saltus(&cluster.replicas[0], &["repair", "--space", "alpha"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("saltus scrub --space alpha"), "{text}");
}

#[test]
fn a_repair_that_nobody_can_help_with_says_so() {
    let (mut cluster, segment) = rotten(|_| {});
    cluster.primary.await_problem("alpha", "5320");
    cluster.replicas[0].terminate();
    let output = saltus(&cluster.primary, &["repair", "--space", "alpha"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("no good copy") && text.contains("5320"), "{text}");
    assert!(!cluster.primary.spec.data_root.join(".saltus/repaired/alpha").exists());
    drop(segment);
}

/// A log with debris of a failed write between good records, and what of it
/// is good.
fn with_debris(segment: &mut Segment) -> Vec<std::ops::Range<usize>> {
    segment.records(5, 400);
    let first = 0..segment.content.len();
    // The beginning of a record, cut short, whose payload holds a magic.
    let mut torn = record(77, 900);
    torn[200..204].copy_from_slice(&MAGIC_BYTES);
    segment.raw(&torn[..510]);
    let behind = segment.content.len();
    segment.records(5, 400);
    let second = behind..segment.content.len();
    segment.raw(&[0xab; 333]);
    let behind = segment.content.len();
    segment.records(2, 70_000);
    vec![first, second, behind..segment.content.len()]
}

/// What holds after a restart of the primary, after one of a replica, and when
/// the last replica has begun anew; with one more record each time.
fn over_restarts(
    cluster: &mut Cluster,
    segment: &mut Segment,
    lsn: &mut u64,
    mut holds: impl FnMut(&mut Cluster, &Segment),
) {
    for round in 0..3 {
        match round {
            0 => {
                cluster.primary.kill();
                cluster.primary.restart();
            }
            1 => {
                cluster.replicas[0].kill();
                cluster.replicas[0].restart();
            }
            _ => {
                let last = cluster.replicas.last_mut().unwrap();
                last.kill();
                fs::remove_dir_all(&last.spec.data_root).unwrap();
                last.restart();
                cluster.primary.kill();
                cluster.primary.restart();
            }
        }
        segment.records(1, 300);
        *lsn += 364;
        cluster.await_flushed("alpha", *lsn);
        holds(cluster, segment);
    }
}

#[test]
fn t7_debris_is_left_out_by_name_if_the_operator_says_so() {
    for backend in BACKENDS {
        let each = |spec: &mut NodeSpec| {
            spec.backend = backend;
            spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
        };
        let mut cluster = Cluster::with(1, each, |_| {});
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let good = with_debris(&mut segment);
        let mut lsn: u64 = good.iter().map(|range| range.len() as u64).sum();
        cluster.await_flushed("alpha", lsn);
        let holes = cluster.primary.space("alpha").unwrap().holes;
        let found: Vec<_> = holes.iter().map(|hole| (hole.offset, hole.bytes, hole.lsn)).collect();
        assert_eq!(found, [(2320, 510, 2320), (2320 + 510 + 2320, 333, 4640)]);
        assert!(holes.iter().all(|hole| hole.segment == SegmentName(1).to_string()));
        assert!(cluster.primary.log().contains("left out of the stream"));
        let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
        let holds = |content: &[u8], cluster: &Cluster| {
            let copied = fs::read(&copy).unwrap();
            assert_eq!(copied.len(), content.len(), "offsets are mirrored");
            for range in &good {
                assert!(copied[range.clone()] == content[range.clone()], "{range:?}");
            }
            assert!(copied[2320..2830].iter().all(|byte| *byte == 0), "the gap is empty");
            drop(cluster.primary.log());
        };
        holds(&segment.content, &cluster);
        // Restarts of either side, more records, late replicas: the holes stay.
        over_restarts(&mut cluster, &mut segment, &mut lsn, |cluster, segment| {
            holds(&segment.content, cluster);
            assert_eq!(cluster.primary.space("alpha").unwrap().holes, holes);
        });
        // The gap is no damage, on either side; rot beside it is.
        for node in [&mut cluster.primary, &mut cluster.replicas[0]] {
            let outcome = scrub(node, "alpha");
            assert_eq!((outcome.found, outcome.unreadable), (0, 0), "{outcome:?}");
        }
        flip(&copy, 2830 + 100, 1);
        flip(&copy, 100, 1);
        let outcome = scrub(&mut cluster.replicas[0], "alpha");
        assert_eq!((outcome.found, outcome.healed), (2, 2), "{outcome:?}");
        holds(&segment.content, &cluster);
    }
}

#[test]
fn t7_debris_halts_the_space_unless_the_operator_says_otherwise() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    with_debris(&mut segment);
    let status = cluster.primary.await_problem("alpha", "offset 2320");
    let problem = status.problem.unwrap();
    assert!(problem.contains("offset 2830") && problem.contains("on_corrupt_source"), "{problem}");
    until("what lies before it is durable", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == 2320).then_some(())
    });
    assert_eq!(cluster.primary.space("alpha").unwrap().holes, []);
}

/// A node that was started anew does not know what an earlier process has shipped. The
/// replicas do, also where nothing has been found damaged but the end of the log: each
/// of them counted as one that is not heard of.
#[test]
fn t7_debris_that_is_met_at_the_start_is_left_out_when_all_were_heard_to_be_without_it() {
    let mut cluster = Cluster::with(2, skipping, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(10, 1000);
    cluster.await_flushed("alpha", segment.len());
    cluster.primary.terminate();
    segment.raw(&[b'U'; 100]);
    segment.records(3, 1000);
    cluster.primary.restart();
    // In a tenth of the time for which a replica is waited for that is not heard of.
    cluster.await_flushed("alpha", 13 * 1064);
    let status = cluster.primary.space("alpha").unwrap();
    let found: Vec<_> = status.holes.iter().map(|hole| (hole.offset, hole.bytes)).collect();
    assert_eq!(found, [(10 * 1064, 100)]);
}

/// And one that has what was there has said so.
#[test]
fn a_header_that_has_rotted_at_the_end_of_the_log_is_not_left_out_as_debris() {
    let mut cluster = Cluster::with(1, skipping, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(20, 1000);
    cluster.await_flushed("alpha", segment.len());
    cluster.primary.terminate();
    flip(&segment.path, 12 * 1064 + 20, 4);
    cluster.primary.restart();
    let status = cluster.primary.await_problem("alpha", "is not left out, as replica-1 has");
    assert_eq!((status.holes, status.epoch), (vec![], Epoch::FIRST));
    flip(&segment.path, 12 * 1064 + 20, 4);
    segment.records(1, 1000);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

fn skipping(spec: &mut NodeSpec) {
    spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
}

/// Two replicas that have nothing of a log of 20 records, of which the fifth,
/// the sixth and the eleventh have rotten payloads.
fn rotten_before_anybody_has_it(each: impl Fn(&mut NodeSpec)) -> (Cluster, Segment) {
    let mut cluster = Cluster::with(2, each, |_| {});
    cluster.replicas.iter_mut().for_each(Node::terminate);
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(20, 1000);
    for record in [4, 5, 10] {
        flip(&segment.path, record * 1064 + 300, 8);
    }
    cluster.replicas.iter_mut().for_each(Node::restart);
    (cluster, segment)
}

fn metrics(node: &Node) -> String {
    let mut stream = TcpStream::connect(node.spec.admin).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: saltus\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// What each replica must have of it: everything but the rotten records, at the
/// same offsets.
#[track_caller]
fn assert_left_out(cluster: &Cluster, segment: &Segment) {
    let name = segment.path.file_name().unwrap();
    let mut expected = segment.content.clone();
    for record in [4, 5, 10] {
        expected[record * 1064..(record + 1) * 1064].fill(0);
    }
    for replica in &cluster.replicas {
        let copied = fs::read(replica.wal("alpha").join(name)).unwrap();
        assert!(copied == expected, "{} has {} bytes", replica.spec.id, copied.len());
    }
}

#[test]
fn a_rotten_record_that_nobody_has_is_left_out_by_name_if_the_operator_says_so() {
    for backend in BACKENDS {
        let (mut cluster, mut segment) = rotten_before_anybody_has_it(|spec| {
            spec.backend = backend;
            skipping(spec);
        });
        let mut lsn = segment.len() - 3 * 1064;
        cluster.await_flushed("alpha", lsn);
        let status = cluster.primary.space("alpha").unwrap();
        let found: Vec<_> =
            status.holes.iter().map(|hole| (hole.offset, hole.bytes, hole.lsn)).collect();
        assert_eq!(found, [(4 * 1064, 2 * 1064, 4 * 1064), (10 * 1064, 1064, 8 * 1064)]);
        assert!(status.holes.iter().all(|hole| hole.reason.contains("payload CRC32C")));
        assert_eq!((status.problem, status.epoch), (None, Epoch(3)), "each hole begins an epoch");
        assert!(cluster.primary.log().contains("no replica has it: left out of the stream"));
        let shown = saltus(&cluster.primary, &["status"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(shown.matches("LEFT OUT").count(), 2, "{shown}");
        let metrics = metrics(&cluster.primary);
        for line in [
            "saltus_holes{space=\"alpha\",role=\"primary\"} 2",
            "saltus_hole_bytes{space=\"alpha\",role=\"primary\"} 3192",
        ] {
            assert!(metrics.contains(line), "{line} in {metrics}");
        }
        assert_left_out(&cluster, &segment);
        // Restarts of either side, a replica that begins anew: the same holes.
        let holes = cluster.primary.space("alpha").unwrap().holes;
        over_restarts(&mut cluster, &mut segment, &mut lsn, |cluster, segment| {
            assert_left_out(cluster, segment);
            assert_eq!(cluster.primary.space("alpha").unwrap().holes, holes);
        });
        for node in std::iter::once(&mut cluster.primary).chain(&mut cluster.replicas) {
            let outcome = scrub(node, "alpha");
            assert_eq!((outcome.found, outcome.unreadable), (0, 0), "{outcome:?}");
        }
        assert_equal(&mut cluster);
    }
}

/// What `saltus verify` says of the primary and each replica.
#[track_caller]
fn assert_equal(cluster: &mut Cluster) {
    for replica in &cluster.replicas {
        let against = replica.spec.admin.to_string();
        let output = saltus(&cluster.primary, &["verify", "--against", &against]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn bytes_that_are_put_back_into_a_hole_stay_out_of_the_stream_and_the_hole_keeps_its_name() {
    let (mut cluster, mut segment) = rotten_before_anybody_has_it(skipping);
    let mut lsn = segment.len() - 3 * 1064;
    cluster.await_flushed("alpha", lsn);
    let holes = cluster.primary.space("alpha").unwrap().holes;
    // From a backup, say: no replica has them.
    let output = saltus(&cluster.primary, &["repair", "--space", "alpha"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("nothing to repair"), "{text}");
    for record in [4, 10] {
        flip(&segment.path, record * 1064 + 300, 8);
    }
    for round in 0..2 {
        segment.records(1, 300);
        lsn += 364;
        cluster.await_flushed("alpha", lsn);
        assert_left_out(&cluster, &segment);
        assert_eq!(cluster.primary.space("alpha").unwrap().holes, holes, "still named");
        let outcome = scrub(&mut cluster.primary, "alpha");
        assert_eq!((outcome.found, outcome.unreadable), (0, 0), "{outcome:?}");
        assert_equal(&mut cluster);
        // Of the first hole, one of the two records is still rotten.
        let log = cluster.primary.log();
        let said: Vec<_> = log.lines().filter(|line| line.contains("hold again")).collect();
        let of_the_second = |line: &&str| line.contains("offset=10640 bytes=1064 records=1");
        assert!(!said.is_empty() && said.iter().all(of_the_second), "{said:?}");
        if round == 0 {
            cluster.primary.kill();
            cluster.primary.restart();
        }
    }
}

#[test]
fn a_record_that_a_replica_has_is_not_left_out_and_comes_back_by_repair() {
    let (mut cluster, segment) = rotten(skipping);
    let status = cluster.primary.await_problem("alpha", "replica-1 has it");
    assert_eq!((status.holes, status.epoch), (vec![], Epoch::FIRST));
    until("what lies before it is durable on the second replica", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == 5320).then_some(())
    });
    flip(&segment.path, 5 * 1064 + 200, 4);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    let status = cluster.primary.space("alpha").unwrap();
    assert_eq!((status.holes, status.epoch), (vec![], Epoch::FIRST));
}

/// A node that was started anew knows of a replica that is away what its catalog
/// says. That may be old: it tells what the replica has, and not what it lacks.
#[test]
fn a_position_in_the_catalog_tells_what_a_replica_has_and_not_what_it_lacks() {
    for (had, said) in [(10, "replica-1 has it"), (3, "when replica-1 was heard not to have it")] {
        let mut cluster = Cluster::with(2, skipping, |_| {});
        cluster.replicas[1].terminate();
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        segment.records(had, 1000);
        let known = segment.len();
        until("the first replica has it", || {
            (cluster.replica(0, "alpha")?.flushed_lsn == known).then_some(())
        });
        cluster.replicas[0].terminate();
        segment.records(10 - had, 1000);
        cluster.primary.terminate();
        flip(&segment.path, 5 * 1064 + 200, 4);
        cluster.primary.restart();
        cluster.replicas[1].restart();
        let status = cluster.primary.await_problem("alpha", said);
        assert_eq!((status.holes, status.epoch), (vec![], Epoch::FIRST));
        let away = &status.replicas[0];
        assert!(!away.connection.up && away.flushed_lsn == known, "{away:?}");
        // Once it is heard, it is known: left out if it has it not.
        cluster.replicas[0].restart();
        let is_there = known > 5 * 1064;
        if is_there {
            flip(&segment.path, 5 * 1064 + 200, 4);
        }
        cluster.await_flushed("alpha", segment.len() - if is_there { 0 } else { 1064 });
        let holes = cluster.primary.space("alpha").unwrap().holes;
        assert_eq!(holes.len(), usize::from(!is_there), "{holes:?}");
    }
}

/// A node that was started anew has walked the end of its log only.
#[test]
fn a_record_that_rotted_in_an_earlier_segment_is_left_out_after_a_restart() {
    let mut cluster = Cluster::with(1, skipping, |_| {});
    cluster.replicas[0].terminate();
    let wal = cluster.primary.wal("alpha");
    let mut first = Segment::create(&wal, 1);
    first.records(20, 1000);
    let mut second = Segment::create(&wal, 2);
    second.records(10, 1000);
    until("the log is walked", || {
        let status = cluster.primary.space("alpha")?;
        (status.head_lsn == 30 * 1064 && status.head_known).then_some(())
    });
    cluster.primary.terminate();
    flip(&first.path, 7 * 1064 + 300, 8);
    cluster.primary.restart();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", 29 * 1064);
    let holes = cluster.primary.space("alpha").unwrap().holes;
    let found: Vec<_> = holes.iter().map(|hole| (hole.offset, hole.bytes, hole.lsn)).collect();
    assert_eq!(found, [(7 * 1064, 1064, 7 * 1064)]);
    let copy = |segment: &Segment| {
        fs::read(cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap())).unwrap()
    };
    first.content[7 * 1064..8 * 1064].fill(0);
    assert!(copy(&first) == first.content && copy(&second) == second.content);
}
