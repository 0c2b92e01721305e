//! What is kept for a replica that is away, and what becomes of one that was
//! away for too long.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use saltus::engine::quarantine::{self, Reason};
use saltus::engine::status::ReplicaStatus;
use saltus::ids::SegmentName;
use saltus::limits::RECONNECT_DELAYS;
use saltus::wal::discover;
use saltus::wal::record::Header;

use crate::cluster::{BACKENDS, Cluster, Node, spec, until, within};
use crate::compaction::{beginning_gone, compact, pins};
use crate::feed::{Load, Segment, Steady, payload};

/// Where a replica keeps what it had before it was filled anew.
fn superseded(node: &Node) -> PathBuf {
    node.spec.data_root.join(".saltus/superseded/alpha")
}

/// Wait until what the primary says of a replica's slot is so.
#[track_caller]
fn await_slot(
    cluster: &mut Cluster,
    index: usize,
    what: &str,
    is: impl Fn(&ReplicaStatus) -> bool,
) -> ReplicaStatus {
    until(what, || cluster.replica(index, "alpha").filter(&is))
}

#[test]
fn a_slot_outlives_a_primary_whose_replica_is_away() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    cluster.replicas[0].kill();
    let flushed = old.len();
    old.records(20, 1000);
    cluster.primary.terminate();
    let total = old.len();
    let new = compact(&cluster.primary, "alpha", 2, 9, &[old]);
    cluster.primary.restart();
    let status = await_slot(&mut cluster, 0, "the slot holds what lost its name", |replica| {
        replica.retention.is_some_and(|kept| kept.retained_bytes == total)
    });
    assert_eq!(status.flushed_lsn, flushed, "it is known where the replica was");
    assert_eq!(status.lag.bytes, Some(total - flushed + new.len()));
    assert_eq!(status.lag.seconds, None, "and nothing is known of it now");
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", total + new.len());
}

#[test]
fn a_pin_goes_when_nobody_needs_it_and_nobody_writes_it() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(5, 1000);
    cluster.await_flushed("alpha", old.len());
    let mut new = compact(&cluster.primary, "alpha", 2, 9, &[]);
    old.unlink();
    old.records(5, 1000);
    let total = old.len() + new.len();
    cluster.await_flushed("alpha", total);
    // The writer goes on with a file that has no name.
    old.records(1, 10);
    cluster.await_flushed("alpha", old.len() + new.len());
    assert_eq!(pins(&cluster.primary, "alpha").len(), 2);
    let total = old.len();
    drop(old);
    new.records(1, 10);
    let third = compact(&cluster.primary, "alpha", 3, 9, &[new]);
    until("one pin is left", || (pins(&cluster.primary, "alpha").len() == 1).then_some(()));
    let head = cluster.primary.space("alpha").unwrap().head_lsn;
    assert!(head > total + third.len());
    // What was let go is not missed by a restart.
    cluster.primary.kill();
    cluster.primary.restart();
    cluster.await_flushed("alpha", head);
    assert_eq!(cluster.primary.space("alpha").unwrap().problem, None);
}

#[test]
fn a_slot_past_its_budget_is_lost_and_the_others_keep_theirs() {
    let limit = "[retention]\nmax_bytes = \"64KiB\"\n";
    let mut cluster = Cluster::with(2, |spec| spec.more = limit.into(), |_| {});
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    cluster.replicas[0].kill();
    old.records(100, 1000);
    until("the other has it", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == old.len()).then_some(())
    });
    let kept = cluster.replica(0, "alpha").unwrap().retention;
    assert!(kept.is_none_or(|kept| !kept.lost), "a backlog that has its name costs nothing");
    let total = old.len();
    let new = compact(&cluster.primary, "alpha", 2, 9, &[old]);
    let status = await_slot(&mut cluster, 0, "the slot is lost", |replica| {
        replica.retention.is_some_and(|kept| kept.lost)
    });
    assert_eq!(status.retention.unwrap().retained_bytes, 0);
    until("its pin is gone", || (pins(&cluster.primary, "alpha").len() == 1).then_some(()));
    let log = cluster.primary.log();
    let line = log.lines().find(|line| line.contains("the slot is lost")).unwrap();
    assert!(line.contains("ERROR") && line.contains(&SegmentName(1).to_string()), "{line}");
    until("the other goes on", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == total + new.len()).then_some(())
    });
    assert!(!cluster.replica(1, "alpha").unwrap().retention.unwrap().lost);
    // It comes back, and nobody does anything about it.
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", total + new.len());
    cluster.await_identical("alpha");
    assert!(cluster.replicas[0].log().contains("filled anew"));
    until("its old copy is gone", || (!superseded(&cluster.replicas[0]).exists()).then_some(()));
    let status = await_slot(&mut cluster, 0, "its slot retains again", |replica| {
        replica.retention.is_some_and(|kept| !kept.lost) && replica.seeding.is_none()
    });
    assert_eq!(status.problem, None);
    // And it is like any other from then on.
    cluster.replicas[0].kill();
    let mut next = Segment::create(&cluster.primary.wal("alpha"), 3);
    next.records(5, 1000);
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", total + new.len() + next.len());
    cluster.await_identical("alpha");
}

#[test]
fn a_replica_that_was_away_for_too_long_loses_its_slot() {
    let limit = "[retention]\nmax_age = \"1s\"\n";
    let mut cluster = Cluster::with(1, |spec| spec.more = limit.into(), |_| {});
    let mut old = Segment::create(&cluster.primary.wal("alpha"), 1);
    old.records(5, 1000);
    cluster.await_flushed("alpha", old.len());
    cluster.replicas[0].kill();
    old.records(5, 1000);
    let _new = compact(&cluster.primary, "alpha", 2, 9, &[old]);
    await_slot(&mut cluster, 0, "the slot is lost", |replica| {
        replica.retention.is_some_and(|kept| kept.lost)
    });
    assert!(cluster.primary.log().contains("retention.max_age"));
}

#[test]
fn a_compaction_while_a_replica_is_away_is_mirrored_when_it_is_back() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut total = 0;
    let mut old = Vec::new();
    for number in [1, 2] {
        let mut segment = Segment::create(&wal, number);
        segment.records(20, 1000);
        total += segment.len();
        cluster.await_flushed("alpha", total);
        old.push(segment);
    }
    cluster.replicas[0].kill();
    old[1].records(7, 1000);
    let new = compact(&cluster.primary, "alpha", 3, 9, &old);
    let total = old[0].len() + old[1].len() + new.len();
    until("the other has it", || (cluster.replica(1, "alpha")?.flushed_lsn == total).then_some(()));
    let names = |node: &Node| discover::segments(&node.wal("alpha")).unwrap();
    until("and its directory is the primary's", || {
        (names(&cluster.replicas[1]) == [SegmentName(3)]).then_some(())
    });
    assert_eq!(
        names(&cluster.replicas[0]),
        [SegmentName(1), SegmentName(2)],
        "nothing is given up"
    );
    let content = old[1].content.clone();
    drop(old);
    cluster.primary.kill();
    cluster.primary.restart();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", total);
    cluster.await_identical("alpha");
    // Nobody needs what was compacted any more: it goes everywhere.
    for file in [1, 2] {
        until("it is gone", || {
            let gone = cluster.replicas.iter().all(|r| !r.retired("alpha", file).exists());
            gone.then_some(())
        });
    }
    assert!(content.len() > 27_000);
    // What is left holds over a restart, and goes on.
    cluster.replicas[0].kill();
    cluster.replicas[1].terminate();
    cluster.replicas.iter_mut().for_each(Node::restart);
    let mut last = Segment::create(&wal, 4);
    last.records(3, 100);
    cluster.await_flushed("alpha", total + last.len());
    cluster.await_identical("alpha");
}

#[test]
fn one_compaction_after_another_is_mirrored_however_late_the_old_names_go() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut total = 0;
    let mut old: Option<Segment> = None;
    for number in 1..=3 {
        let mut segment = Segment::create(&wal, number);
        segment.records(3, 500);
        total += segment.len();
        cluster.await_flushed("alpha", total);
        // Everything that stands in the directory was listed with the old name.
        if let Some(old) = old.replace(segment) {
            old.unlink();
        }
        until("the replica's directory is the primary's", || {
            let names = discover::segments(&cluster.replicas[0].wal("alpha")).unwrap();
            (names == [SegmentName(number)]).then_some(())
        });
    }
}

#[test]
fn records_of_an_unlinked_segment_are_kept_when_it_goes() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    // The writer's segment; its own compaction unlinks it, and it goes on.
    let mut live = Segment::create(&wal, 1);
    live.records(3, 500);
    cluster.await_flushed("alpha", live.len());
    let covered = live.content.len();
    let snapshot = compact(&cluster.primary, "alpha", 2, 4, &[]);
    live.unlink();
    cluster.await_flushed("alpha", live.len() + snapshot.len());
    live.records(5, 500);
    let total = live.len() + snapshot.len();
    cluster.await_flushed("alpha", total);
    cluster.await_identical("alpha");
    let retired = cluster.replicas[0].retired("alpha", 1);
    assert!(fs::read(&retired).unwrap() == live.content, "it stands aside");
    // The replica is killed while it grows, and goes on in the same place.
    cluster.replicas[0].kill();
    live.records(2, 500);
    cluster.replicas[0].restart();
    let total = total + 2 * 564;
    cluster.await_flushed("alpha", total);
    // Killed between the move and its commit, it is told and moved again.
    until("it stands aside", || fs::read(&retired).ok().filter(|found| *found == live.content));
    // The writer ends; the next one begins a segment of its own.
    let content = live.content.clone();
    drop(live);
    let next = compact(&cluster.primary, "alpha", 3, 2, &[snapshot]);
    until("it is gone", || (!retired.exists()).then_some(()));
    cluster.await_identical("alpha");
    let root = cluster.replicas[0].spec.data_root.join(".saltus/quarantine");
    let kept: Vec<_> =
        fs::read_dir(root.join("alpha")).unwrap().map(|e| e.unwrap().path()).collect();
    let bytes = |path: &PathBuf| fs::read(path).unwrap() == content[covered..];
    assert_eq!(kept.iter().filter(|path| bytes(path)).count(), 1, "{kept:?}");
    let pieces = quarantine::list(&root).unwrap();
    let reasons: Vec<_> =
        pieces.iter().map(|piece| piece.manifest.as_ref().unwrap().reason).collect();
    assert_eq!(reasons, [Reason::Unnamed]);
    assert!(next.len() > 0);
}

/// The time, nanoseconds since the Unix epoch.
fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// As a database does it: segments are called by the second in which they were begun,
/// and records bear the time at which they were written. The snapshot was there before
/// anybody had looked at what came into the old segment since, so only that tells.
#[test]
fn by_real_clocks_what_came_behind_a_snapshot_is_kept_and_nothing_else() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let second = || now_ns() / 1_000_000_000;
    let begun = second();
    let mut live = Segment::create(&wal, begun);
    let write = |segment: &mut Segment, count: usize| {
        for _ in 0..count {
            let payload = payload(segment.sequence, 500);
            let header = Header::new(segment.sequence, now_ns(), 1, &payload).unwrap();
            segment.raw(&[&header.encode()[..], &payload].concat());
            segment.sequence += 1;
        }
    };
    write(&mut live, 3);
    cluster.await_flushed("alpha", live.len());
    let covered = live.content.len();
    let compacted = until("another second", || Some(second()).filter(|now| *now > begun));
    cluster.primary.signal(Signal::SIGSTOP);
    let mut snapshot = Segment::create(&wal, compacted);
    snapshot.raw(&live.content);
    write(&mut live, 2);
    live.unlink();
    cluster.primary.signal(Signal::SIGCONT);
    cluster.await_flushed("alpha", live.len() + snapshot.len());
    let retired = cluster.replicas[0].retired("alpha", 1);
    until("it stands aside", || retired.exists().then_some(()));
    let content = live.content.clone();
    drop(live);
    until("it is gone", || (!retired.exists()).then_some(()));
    cluster.await_identical("alpha");
    let root = cluster.replicas[0].spec.data_root.join(".saltus/quarantine");
    let pieces = quarantine::list(&root).unwrap();
    let [piece] = &pieces[..] else { panic!("{pieces:?}") };
    assert_eq!(piece.manifest.as_ref().unwrap().reason, Reason::Unnamed);
    assert!(fs::read(&piece.path).unwrap() == content[covered..]);
}

#[test]
fn an_emptied_directory_empties_no_other() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(3, 500);
    let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
    other.records(3, 500);
    cluster.await_flushed("alpha", segment.len());
    segment.unlink();
    let replaced = compact(&cluster.primary, "beta", 2, 4, &[other]);
    // What was replaced is retired; by then the emptied one would be, too.
    until("beta is mirrored", || {
        let names = discover::segments(&cluster.replicas[0].wal("beta")).unwrap();
        (names == [SegmentName(2)]).then_some(())
    });
    assert!(replaced.len() > 0);
    assert_eq!(discover::segments(&cluster.replicas[0].wal("alpha")).unwrap(), [SegmentName(1)]);
}

/// What a replica had that is filled anew: the primary that shipped it knows
/// that it was its stream; the next one only knows that somebody did.
#[test]
fn of_an_old_copy_is_kept_what_the_primary_cannot_vouch_for() {
    for restarted in [false, true] {
        let limit = "[retention]\nmax_bytes = \"64KiB\"\n";
        let mut cluster = Cluster::with(1, |spec| spec.more = limit.into(), |_| {});
        let wal = cluster.primary.wal("alpha");
        let mut old = vec![Segment::create(&wal, 1)];
        old[0].records(20, 1000);
        cluster.await_flushed("alpha", old[0].len());
        old.push(Segment::create(&wal, 2));
        old[1].records(20, 1000);
        cluster.await_flushed("alpha", old[0].len() + old[1].len());
        cluster.replicas[0].kill();
        let had: Vec<_> = old.iter().map(|segment| segment.content.clone()).collect();
        old[1].records(100, 1000);
        let total = old[0].len() + old[1].len();
        let new = compact(&cluster.primary, "alpha", 3, 9, &old);
        drop(old);
        await_slot(&mut cluster, 0, "the slot is lost", |replica| {
            replica.retention.is_some_and(|kept| kept.lost)
        });
        until("its pins are gone", || (pins(&cluster.primary, "alpha").len() == 1).then_some(()));
        if restarted {
            cluster.primary.kill();
            cluster.primary.restart();
        }
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", total + new.len());
        cluster.await_identical("alpha");
        until("the old copy is gone", || {
            (!superseded(&cluster.replicas[0]).exists()).then_some(())
        });
        let root = cluster.replicas[0].spec.data_root.join(".saltus/quarantine");
        let kept = quarantine::list(&root).unwrap();
        let found: Vec<_> = (kept.iter())
            .map(|piece| (piece.manifest.as_ref().unwrap().reason, fs::read(&piece.path).unwrap()))
            .collect();
        let expected: Vec<_> = match restarted {
            true => had.into_iter().map(|content| (Reason::Superseded, content)).collect(),
            // Nobody knows what replaced the last one, when it was received.
            false => vec![(Reason::Unnamed, had[1].clone())],
        };
        assert!(found == expected, "restarted: {restarted}, {} pieces", found.len());
        assert_eq!(cluster.replicas[0].log().contains("cannot say whether"), restarted);
    }
}

#[test]
fn an_empty_replica_is_filled_when_the_beginning_is_gone() {
    for backend in BACKENDS {
        let (mut cluster, mut segment, mut total) = beginning_gone(|_| {}, 5);
        cluster.primary.spec.backend = backend;
        cluster.primary.restart();
        cluster.await_flushed("alpha", total);
        cluster.await_identical("alpha");
        for node in &mut cluster.replicas {
            node.kill();
        }
        segment.records(3, 100);
        total += 3 * 164;
        cluster.replicas.iter_mut().for_each(Node::restart);
        cluster.await_flushed("alpha", total);
        cluster.await_identical("alpha");
    }
}

#[test]
fn a_seed_goes_on_after_either_side_was_killed() {
    let slowly = "[retention]\nseed_bytes_per_second = \"1MiB\"\n";
    // 6 MiB at 1 MiB a second.
    let (mut cluster, mut segment, total) = beginning_gone(|spec| spec.more = slowly.into(), 96);
    cluster.primary.restart();
    let mut done = 0;
    for round in 0..4 {
        let seeding = until("the seed goes on", || {
            let seeding = cluster.replica(1, "alpha")?.seeding?;
            (seeding.done_bytes > done + (512 << 10)).then_some(seeding)
        });
        assert!(seeding.done_bytes < seeding.total_bytes, "it has not ended: {seeding:?}");
        assert!(seeding.base_lsn > 0 && seeding.target_lsn == total);
        done = seeding.done_bytes;
        if round % 2 == 0 {
            cluster.replicas[1].kill();
            let there = cluster.replica(1, "alpha").unwrap().seeding.unwrap();
            cluster.replicas[1].restart();
            assert!(there.done_bytes >= done);
        } else {
            cluster.primary.kill();
            cluster.primary.restart();
        }
    }
    let status = cluster.replicas[1].space("alpha").unwrap();
    assert!(status.seeding.is_some_and(|seeding| seeding.base_lsn > 0));
    segment.records(3, 100);
    let head = total + 3 * 164;
    cluster.await_flushed("alpha", head);
    cluster.await_identical("alpha");
    assert_eq!(cluster.primary.log().matches("is filled anew from").count(), 1, "one seed did");
    await_slot(&mut cluster, 1, "the seed is done", |replica| replica.seeding.is_none());
}

#[test]
fn a_seed_that_the_writer_outruns_is_refused_with_both_rates() {
    let slowly = "[retention]\nseed_bytes_per_second = \"64KiB\"\n";
    let (mut cluster, segment, _) = beginning_gone(|spec| spec.more = slowly.into(), 1);
    drop(segment);
    let load =
        Load { segment_bytes: 64 << 20, max_payload: 4 << 10, bytes_per_second: 2 << 20, seed: 3 };
    cluster.replicas[1].kill();
    cluster.primary.restart();
    let writer = Steady::start(cluster.primary.wal("alpha"), load);
    let start = cluster.primary.space("alpha").map_or(0, |space| space.head_lsn);
    until("the growth is known", || {
        (cluster.primary.space("alpha")?.head_lsn > start + (8 << 20)).then_some(())
    });
    cluster.replicas[1].restart();
    // The pause after the attempts that have failed meanwhile may be the longest.
    let longest = RECONNECT_DELAYS.into_iter().max().unwrap();
    within(longest + Duration::from_secs(30), "it is connected", || {
        cluster.replica(1, "alpha")?.connection.up.then_some(())
    });
    let status = cluster.primary.await_problem("alpha", "would never end");
    let problem = status.replicas[1].problem.clone().unwrap();
    assert!(problem.contains("grows by") && problem.contains("allows 65536"), "{problem}");
    assert!(status.replicas[1].seeding.is_none());
    drop(writer);
}

#[test]
fn a_seed_waits_for_a_compaction_where_a_segment_was_removed() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut total = 0;
    let mut segments = Vec::new();
    for number in [1, 2, 3, 4] {
        let mut segment = Segment::create(&wal, number);
        segment.records(5, 1000);
        total += segment.len();
        cluster.await_flushed("alpha", total);
        segments.push(segment);
    }
    // A script removes one in the middle, and its pin is lost as well.
    segments[1].unlink();
    segments.remove(1);
    cluster.primary.terminate();
    fs::remove_file(cluster.primary.spec.data_root.join(".saltus/pins/alpha/0000000000000002"))
        .unwrap();
    let late = Node::start(spec("replica-2", cluster.directory.path(), true));
    cluster.primary.spec.replicas.push(late.as_replica());
    cluster.replicas.push(late);
    cluster.primary.restart();
    let status = cluster.primary.await_problem("alpha", "compacted its log");
    assert!(status.replicas[1].problem.as_ref().unwrap().contains(&SegmentName(2).to_string()));
    let new = compact(&cluster.primary, "alpha", 5, 9, &segments);
    cluster.await_flushed("alpha", total + new.len());
    cluster.await_identical("alpha");
}

/// The space stopped until somebody promoted a replica.
#[test]
fn what_a_crash_takes_before_a_segment_that_was_let_go_of_needs_no_person() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    old.records(5, 1000);
    cluster.await_flushed("alpha", old.len());
    let mut other = Segment::create(&wal, 2);
    other.records(3, 1000);
    cluster.await_flushed("alpha", old.len() + other.len());
    // The writer goes on with the first one, and keeps it when its name is gone.
    old.records(5, 1000);
    let total = old.len() + other.len();
    cluster.await_flushed("alpha", total);
    let new = compact(&cluster.primary, "alpha", 3, 9, &[other]);
    old.unlink();
    cluster.await_flushed("alpha", total + new.len());
    until("the second is let go of", || (pins(&cluster.primary, "alpha").len() == 2).then_some(()));

    cluster.primary.kill();
    let held = cluster.primary.spec.data_root.join(".saltus/pins/alpha/0000000000000001");
    assert_eq!(fs::metadata(&held).unwrap().len(), old.len(), "{held:?}");
    let left = 3 * old.len() / 10;
    fs::File::options().write(true).open(&held).unwrap().set_len(left).unwrap();
    cluster.primary.restart();
    let status = until("a new epoch begins", || {
        cluster.primary.space("alpha").filter(|status| status.epochs.len() == 2)
    });
    assert_eq!((status.epochs[1].start_lsn, status.problem), (left, None));
    cluster.await_flushed("alpha", left + new.len());
    let lost = &old.content[usize::try_from(left).unwrap()..old.content.len() / 2];
    for replica in &cluster.replicas {
        let pieces = quarantine::list(&replica.spec.data_root.join(".saltus/quarantine")).unwrap();
        let is_kept = pieces.iter().any(|piece| fs::read(&piece.path).unwrap().starts_with(lost));
        assert!(is_kept, "what is cut is kept: {pieces:?}");
    }
}
