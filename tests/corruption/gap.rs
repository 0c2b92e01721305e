//! Rot behind a beginning that is not there: on a replica that was filled
//! anew, and where segments were let go in order.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::cluster::{Cluster, until};
use crate::compaction::{beginning_gone, compact, pins};
use crate::feed::{Segment, record};
use crate::rest::{flip, saltus, scrub};

/// What `saltus verify` of one node against another says, and its exit code.
fn compared(cluster: &Cluster, replica: usize, back: bool) -> (Option<i32>, String) {
    let pair = [&cluster.primary, &cluster.replicas[replica]];
    let [here, there] = if back { [pair[1], pair[0]] } else { pair };
    let output = saltus(here, &["verify", "--against", &there.spec.admin.to_string()]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// A replica that has a log from its second segment on.
fn filled_anew() -> (Cluster, Segment, u64) {
    let (mut cluster, segment, total) = beginning_gone(|_| {}, 5);
    cluster.primary.restart();
    cluster.await_flushed("alpha", total);
    cluster.await_identical("alpha");
    assert!(cluster.replicas[1].log().contains("this replica is filled anew"));
    until("the seed is over", || {
        cluster.replicas[1].space("alpha")?.seeding.is_none().then_some(())
    });
    (cluster, segment, total)
}

#[test]
fn a_replica_that_was_filled_anew_is_scrubbed_and_mended() {
    let (mut cluster, mut segment, mut total) = filled_anew();
    let copy = cluster.replicas[1].wal("alpha").join(segment.path.file_name().unwrap());
    let outcome = scrub(&mut cluster.replicas[1], "alpha");
    assert_eq!((outcome.found, outcome.unreadable), (0, 0), "{outcome:?}");
    let end = segment.len();
    for round in 0..4 {
        match round {
            // The very first record, one in the middle, the very last byte.
            0 => [30, 9 * 764 + 70_000, end - 1].iter().for_each(|at| flip(&copy, *at, 1)),
            1 => File::options().write(true).open(&copy).unwrap().set_len(5000).unwrap(),
            2 => fs::remove_file(&copy).unwrap(),
            _ => File::options().write(true).open(&copy).unwrap().write_all_at(&[0; 9], 2).unwrap(),
        }
        let outcome = scrub(&mut cluster.replicas[1], "alpha");
        let ranges = if round == 0 { 3 } else { 1 };
        assert_eq!((outcome.found, outcome.healed), (ranges, ranges), "{round}: {outcome:?}");
        segment.records(2, 300);
        total += 2 * 364;
        cluster.await_flushed("alpha", total);
        cluster.assert_identical("alpha");
    }
    cluster.replicas[1].kill();
    cluster.replicas[1].restart();
    cluster.await_flushed("alpha", total);
    cluster.assert_identical("alpha");
}

#[test]
fn a_replica_that_was_filled_anew_is_compared_from_where_it_begins() {
    let (mut cluster, segment, total) = filled_anew();
    let base = total - segment.len();
    for back in [false, true] {
        let (code, text) = compared(&cluster, 1, back);
        assert_eq!(code, Some(0), "{text}");
    }
    let copy = cluster.replicas[1].wal("alpha").join(segment.path.file_name().unwrap());
    flip(&copy, 3 * 764 + 200, 8);
    for back in [false, true] {
        let (code, text) = compared(&cluster, 1, back);
        assert_eq!(code, Some(1), "{text}");
        let name = segment.path.file_name().unwrap().to_str().unwrap();
        for part in [name, &(3 * 764).to_string(), &(base + 3 * 764).to_string()] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    let outcome = scrub(&mut cluster.replicas[1], "alpha");
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    assert_eq!(compared(&cluster, 1, false).0, Some(0));
}

#[test]
fn a_primary_is_repaired_from_a_replica_that_was_filled_anew() {
    let (mut cluster, segment, _) = filled_anew();
    cluster.replicas[0].terminate();
    flip(&segment.path, 3 * 764 + 200, 8);
    flip(&segment.path, 9 * 764 + 70_000, 8);
    let output = saltus(&cluster.primary, &["repair", "--space", "alpha", "--from", "replica-2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let repaired = cluster.primary.spec.data_root.join(".saltus/repaired/alpha");
    let repaired = repaired.join(segment.path.file_name().unwrap());
    assert!(fs::read(&repaired).unwrap() == segment.content, "{text}");
    assert!(text.contains("differs at 2292, 764 bytes"), "{text}");
}

/// A pair whose first segment was let go on both nodes.
fn let_go() -> (Cluster, Segment, u64) {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let old = cluster.fill("alpha", 20, 1000);
    let mut total = old.len();
    let mut new = compact(&cluster.primary, "alpha", 2, 9, std::slice::from_ref(&old));
    new.records(20, 1000);
    total += new.len();
    cluster.await_flushed("alpha", total);
    let name = old.path.file_name().unwrap().to_owned();
    drop(old);
    until("the first is gone on both", || {
        let replica = &cluster.replicas[0];
        let there =
            replica.wal("alpha").join(&name).exists() || replica.retired("alpha", 1).exists();
        (pins(&cluster.primary, "alpha").len() == 1 && !there).then_some(())
    });
    (cluster, new, total)
}

/// Records that are whole, and are not those that were acknowledged, are not
/// put in the place of those: the chain is known behind what was let go.
#[test]
fn what_is_fetched_behind_segments_that_were_let_go_is_proven_by_the_chain() {
    for restarted in [false, true] {
        let (mut cluster, segment, total) = let_go();
        let at = 9 * 764 + 3 * 1064;
        let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
        flip(&copy, at + 200, 1);
        let rotten = fs::read(&copy).unwrap();
        if restarted {
            cluster.replicas[0].kill();
            cluster.replicas[0].restart();
            cluster.await_flushed("alpha", total);
        }
        let source = File::options().write(true).open(&segment.path).unwrap();
        source.write_all_at(&record(77, 1000), at).unwrap();
        let outcome = scrub(&mut cluster.replicas[0], "alpha");
        assert_eq!((outcome.found, outcome.healed), (1, 0), "{outcome:?}");
        assert!(fs::read(&copy).unwrap() == rotten, "nothing was put in place");
        let range = &cluster.replicas[0].status().scrub.bad_ranges[0];
        assert!(format!("{range:?}").contains("is not what was there"), "{range:?}");
        // With what was there, it is mended.
        let content = usize::try_from(at).unwrap()..usize::try_from(at + 1064).unwrap();
        source.write_all_at(&segment.content[content], at).unwrap();
        let outcome = scrub(&mut cluster.replicas[0], "alpha");
        assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
        assert!(fs::read(&copy).unwrap() == segment.content);
        cluster.await_flushed("alpha", total);
    }
}

/// A log that holds other records than were acknowledged is named as such,
/// although each of them is whole.
#[test]
fn other_records_behind_segments_that_were_let_go_are_found() {
    let (mut cluster, segment, total) = let_go();
    let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
    let file = File::options().write(true).open(&copy).unwrap();
    file.write_all_at(&record(77, 1000), 9 * 764 + 3 * 1064).unwrap();
    let outcome = scrub(&mut cluster.replicas[0], "alpha");
    assert_eq!((outcome.found, outcome.healed), (1, 0), "{outcome:?}");
    let range = &cluster.replicas[0].status().scrub.bad_ranges[0];
    assert!(format!("{range:?}").contains("holds other records"), "{range:?}");
    cluster.await_flushed("alpha", total);
}
