//! Bytes that rot at rest on the primary, whose files belong to the database.

use std::fs;
use std::process::Command;

use saltus::cli::node::NodeSpec;
use saltus::ids::SegmentName;
use saltus::wal::record::MAGIC_BYTES;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::{Segment, record};
use crate::rest::{flip, saltus, scrub};

/// A primary whose fifth record of alpha has a rotten payload before anything
/// was shipped to the second replica.
fn rotten() -> (Cluster, Segment) {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
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
    let (mut cluster, mut segment) = rotten();
    // The replica's word comes first; what the file itself holds is told then.
    let problem = until("the primary has looked at the record", || {
        let status = cluster.primary.await_problem("alpha", "5320");
        status.problem.filter(|problem| problem.contains("saltus repair"))
    });
    let name = segment.path.file_name().unwrap().to_str().unwrap().to_owned();
    for part in [name.as_str(), "offset 5320", "lsn 5320", "saltus repair --space alpha"] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    assert!(!problem.contains("on_corrupt_source"), "it leaves no such record out: {problem}");
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
fn a_repair_that_nobody_can_help_with_says_so() {
    let (mut cluster, segment) = rotten();
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
                    cluster.replicas[0].kill();
                    fs::remove_dir_all(&cluster.replicas[0].spec.data_root).unwrap();
                    cluster.replicas[0].restart();
                    cluster.primary.kill();
                    cluster.primary.restart();
                }
            }
            segment.records(1, 300);
            lsn += 364;
            cluster.await_flushed("alpha", lsn);
            holds(&segment.content, &cluster);
            assert_eq!(cluster.primary.space("alpha").unwrap().holes, holes);
        }
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
