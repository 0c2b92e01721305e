//! How real writers behave, from one end to the other. The numbers are those
//! of `docs/WAL_FORMAT.md`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use saltus::cli::node::NodeSpec;
use saltus::engine::status::ReplicaState;
use saltus::ids::SegmentName;

use crate::cluster::{BACKENDS, Cluster, assert_whole, until};
use crate::feed::{Segment, record};

fn plain(_: &mut NodeSpec) {}

/// What each replica holds under this name.
#[track_caller]
fn assert_holds(cluster: &Cluster, space: &str, number: u64, content: &[u8]) {
    for replica in &cluster.replicas {
        let path = replica.wal(space).join(SegmentName(number).to_string());
        let found = fs::read(&path).unwrap();
        assert!(
            found == content,
            "{}: {} bytes, expected {}",
            path.display(),
            found.len(),
            content.len()
        );
    }
}

fn named(wal: &Path, number: u64) -> PathBuf {
    wal.join(SegmentName(number).to_string())
}

/// A compaction: a snapshot under a temporary name, renamed into place.
fn snapshot(wal: &Path, number: u64, records: usize) -> Segment {
    let mut segment = Segment::at(wal.join(format!("{}.tmp", SegmentName(number))));
    segment.records(records, 700);
    segment.rename(named(wal, number));
    segment
}

#[test]
fn t1_t2_sequences_may_restart_repeat_and_skip() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    for sequence in [0, 0, 5, 3, u64::MAX - 1, 0] {
        segment.sequence = sequence;
        segment.records(2, 300);
        cluster.await_flushed("alpha", segment.len());
    }
    cluster.replicas[0].kill();
    cluster.replicas[0].restart();
    segment.sequence = 0;
    segment.records(3, 10);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}

#[test]
fn t3_a_segment_grows_on_after_its_name_is_gone() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let wal = cluster.primary.wal("alpha");
        let mut old = Segment::create(&wal, 100);
        old.records(10, 400);
        cluster.await_flushed("alpha", old.len());
        let mut new = snapshot(&wal, 200, 6);
        old.unlink();
        cluster.await_flushed("alpha", old.len() + new.len());
        // The two grow in turn.
        for turn in 0..4 {
            old.records(2, 100 * turn);
            cluster.await_flushed("alpha", old.len() + new.len());
            new.records(3, 50);
            cluster.await_flushed("alpha", old.len() + new.len());
        }
        // Also over restarts, and while the primary is away.
        cluster.primary.kill();
        old.records(2, 300_000);
        new.records(2, 300_000);
        cluster.primary.restart();
        cluster.await_flushed("alpha", old.len() + new.len());
        old.records(1, 10);
        cluster.await_flushed("alpha", old.len() + new.len());
        cluster.replicas[0].kill();
        new.records(1, 10);
        old.records(1, 10);
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", old.len() + new.len());
        // The directory is the primary's; what has no name there stands aside.
        cluster.await_identical("alpha");
        assert_holds(&cluster, "alpha", 200, &new.content);
        for replica in &cluster.replicas {
            assert!(fs::read(replica.retired("alpha", 1)).unwrap() == old.content);
        }
    }
}

#[test]
fn t3_a_snapshot_may_take_over_the_name_of_the_live_segment() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let wal = cluster.primary.wal("alpha");
        let mut old = Segment::create(&wal, 100);
        old.records(10, 400);
        cluster.await_flushed("alpha", old.len());
        let mut new = snapshot(&wal, 100, 6);
        cluster.await_flushed("alpha", old.len() + new.len());
        for _ in 0..3 {
            old.records(1, 20);
            cluster.await_flushed("alpha", old.len() + new.len());
            new.records(1, 2000);
            cluster.await_flushed("alpha", old.len() + new.len());
        }
        assert_holds(&cluster, "alpha", 100, &new.content);
        cluster.primary.kill();
        cluster.replicas[0].kill();
        cluster.replicas[1].terminate();
        old.records(2, 20);
        new.records(2, 20);
        for replica in &mut cluster.replicas {
            replica.restart();
        }
        cluster.primary.restart();
        cluster.await_flushed("alpha", old.len() + new.len());
        assert_holds(&cluster, "alpha", 100, &new.content);
        for replica in &cluster.replicas {
            // The first file this primary saw; its name went to another.
            assert!(fs::read(replica.retired("alpha", 1)).unwrap() == old.content);
        }
    }
}

#[test]
fn t4_start_up_compaction_replaces_every_segment() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut total = 0;
    let mut old = Vec::new();
    for number in [10, 11, 12] {
        let mut segment = Segment::create(&wal, number);
        segment.records(5, 600);
        total += segment.len();
        cluster.await_flushed("alpha", total);
        old.push(segment);
    }
    // While nobody watches, too.
    for (number, away) in [(20, false), (21, true), (22, false)] {
        if away {
            cluster.primary.kill();
        }
        let new = snapshot(&wal, number, 9);
        for segment in old.drain(..) {
            segment.unlink();
        }
        total += new.len();
        if away {
            cluster.primary.restart();
        }
        cluster.await_flushed("alpha", total);
        assert_holds(&cluster, "alpha", number, &new.content);
        cluster.await_identical("alpha");
        old.push(new);
    }
}

#[test]
fn t5_a_record_is_shipped_once_it_is_whole() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let mut whole = 0;
        for (number, cuts) in
            [vec![64], vec![10], vec![64, 1000], vec![4, 30, 64, 65, 2999]].iter().enumerate()
        {
            let bytes = record(number as u64, 3000);
            let mut from = 0;
            for cut in cuts {
                segment.raw(&bytes[from..*cut]);
                from = *cut;
                // Another space gets through, this one stays where it is.
                let mut other =
                    Segment::create(&cluster.primary.wal(&format!("other-{number}-{cut}")), 1);
                other.records(1, 10);
                cluster.await_flushed(&format!("other-{number}-{cut}"), other.len());
                let status = cluster.primary.space("alpha").unwrap();
                assert_eq!((status.head_lsn, &status.problem), (whole, &None));
            }
            segment.raw(&bytes[from..]);
            whole = segment.len();
            cluster.await_flushed("alpha", whole);
        }
        cluster.assert_identical("alpha");
    }
}

#[test]
fn t5_what_looks_like_damage_is_shipped_once_the_writer_has_finished() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut segment = Segment::create(&wal, 1);
    segment.records(5, 400);
    cluster.await_flushed("alpha", segment.len());
    let whole = segment.len();
    // Blocks that reach the file in another order than they were written.
    let (first, second) = (record(5, 6000), record(6, 6000));
    let file = fs::File::options().write(true).open(&segment.path).unwrap();
    file.write_all_at(&[0x55; 6064], whole).unwrap();
    file.write_all_at(&second, whole + first.len() as u64).unwrap();
    let status = cluster.primary.await_problem("alpha", &format!("offset {whole}"));
    assert_eq!(status.head_lsn, whole);
    assert!(status.problem.unwrap().contains(&SegmentName(1).to_string()));
    file.write_all_at(&first, whole).unwrap();
    cluster.await_flushed("alpha", whole + 2 * first.len() as u64);
    assert_eq!(cluster.primary.space("alpha").unwrap().problem, None);
    cluster.assert_identical("alpha");
}

#[test]
fn t5_a_record_that_was_never_finished_is_named_once_a_later_segment_is_written() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    old.records(5, 400);
    old.raw(&record(5, 400)[..300]);
    cluster.await_flushed("alpha", 5 * 464);
    let mut new = Segment::create(&wal, 2);
    new.records(3, 400);
    cluster.await_flushed("alpha", 8 * 464);
    let status = cluster.primary.await_problem("alpha", "ends in 300 bytes at offset 2320");
    assert!(!status.blocked && status.head_known);
    assert!(status.problem.unwrap().starts_with(&SegmentName(1).to_string()));
    let log = cluster.primary.log();
    assert_eq!(log.matches("ends in 300 bytes at offset 2320").count(), 1, "{log}");
    // Nothing waits for it, and it is shipped if it goes on after all.
    new.records(1, 400);
    cluster.await_flushed("alpha", 9 * 464);
    old.raw(&record(5, 400)[300..]);
    cluster.await_flushed("alpha", 10 * 464);
    until("the notice is taken back", || {
        cluster.primary.space("alpha")?.problem.is_none().then_some(())
    });
    cluster.assert_identical("alpha");
}

#[test]
fn t7_damage_is_named_and_nothing_behind_it_is_shipped() {
    for (within, large) in [(20, false), (100, false), (20, true), (100, true)] {
        let mut whole = 0;
        let mut damage = 0;
        let mut cluster = Cluster::with(1, plain, |root| {
            let mut segment = Segment::create(&root.join("alpha/wal"), 9);
            segment.records(5, 400);
            if large {
                segment.records(2, 600_000);
            }
            whole = segment.len();
            damage = whole + within;
            segment.records(5, 400);
            flip(&segment, damage);
            Segment::create(&root.join("beta/wal"), 9).records(10, 400);
        });
        cluster.await_flushed("beta", 4640);
        until("the damage is named, and what lies before it has arrived", || {
            let status = cluster.primary.space("alpha")?;
            let replica = &status.replicas[0];
            let mut problems = status.problem.iter().chain(&replica.problem);
            let place = format!("offset {whole}");
            let name = SegmentName(9).to_string();
            let named = problems.any(|text| text.contains(&place) && text.contains(&name));
            (named && replica.flushed_lsn == whole).then_some(())
        });
        let mut more = Segment::create(&cluster.primary.wal("beta"), 10);
        more.records(3, 5);
        cluster.await_flushed("beta", 4640 + more.len());
        cluster.assert_identical("beta");
        let copy = fs::read(named(&cluster.replicas[0].wal("alpha"), 9)).unwrap();
        assert_eq!(copy.len() as u64, whole);
        // Repaired in place, it goes on.
        let file = fs::File::options().write(true).open(named(&cluster.primary.wal("alpha"), 9));
        let bytes = record(if large { 7 } else { 5 }, 400);
        file.unwrap().write_all_at(&bytes, whole).unwrap();
        cluster.await_flushed("alpha", whole + 5 * 464);
        cluster.assert_identical("alpha");
        assert_eq!(cluster.replica(0, "alpha").unwrap().problem, None);
    }
}

/// Change one bit of a segment.
fn flip(segment: &Segment, at: u64) {
    let file = fs::File::options().write(true).open(&segment.path).unwrap();
    let byte = segment.content[usize::try_from(at).unwrap()] ^ 1;
    file.write_all_at(&[byte], at).unwrap();
}

#[test]
fn t8_a_later_segment_may_have_a_smaller_name() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut total = 0;
    for number in [5000, 100, 4000, 1] {
        let mut segment = Segment::create(&wal, number);
        segment.records(3, 100);
        total += segment.len();
        cluster.await_flushed("alpha", total);
    }
    cluster.assert_identical("alpha");
}

#[test]
fn t9_what_else_lies_around_is_left_alone() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut segment = Segment::create(&wal, 1);
    segment.records(3, 100);
    for junk in [
        "wal-0000000000000002.log.tmp",
        "wal-compact-3",
        ".archive-4",
        "wal-corrupt-5.log",
        "wal-zz.log",
        "wal-6.log",
        "notes.txt",
    ] {
        fs::write(wal.join(junk), record(7, 100)).unwrap();
    }
    // Names of segments that are none.
    fs::create_dir(wal.join(SegmentName(0x10).to_string())).unwrap();
    nix::unistd::mkfifo(&wal.join(SegmentName(0x11).to_string()), nix::sys::stat::Mode::S_IRWXU)
        .unwrap();
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    let names: Vec<_> = fs::read_dir(cluster.replicas[0].wal("alpha"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [segment.path.file_name().unwrap()]);
}

#[test]
fn t10_empty_segments_are_mirrored() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let wal = cluster.primary.wal("alpha");
        for number in [1, 2, 3] {
            Segment::create(&wal, number);
        }
        let mut segment = Segment::create(&wal, 4);
        segment.records(2, 100);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        for number in [5, 6] {
            Segment::create(&wal, number);
        }
        until("the last empty segments arrive", || {
            named(&cluster.replicas[0].wal("alpha"), 6).exists().then_some(())
        });
        cluster.assert_identical("alpha");
    }
}

/// A record of a build without checksums.
fn unchecked(sequence: u64, bytes: usize) -> Vec<u8> {
    let mut record = record(sequence, bytes);
    record[28..36].fill(0);
    record
}

#[test]
fn t12_records_without_checksums_are_refused_unless_allowed() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(2, 100);
    let good = segment.len();
    segment.raw(&unchecked(2, 100)).raw(&unchecked(3, 100));
    let status = cluster.primary.await_problem("alpha", &format!("offset {good}"));
    let problem = status.problem.unwrap();
    assert!(problem.contains("checksum"), "{problem}");
    until("the good ones arrive", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == good).then_some(())
    });

    for backend in BACKENDS {
        let each = |spec: &mut NodeSpec| {
            spec.backend = backend;
            spec.more = "[wal]\nchecksums = \"optional\"\n".into();
        };
        let mut cluster = Cluster::with(1, each, |_| {});
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        segment.records(2, 100);
        for number in 0..20 {
            segment.raw(&unchecked(number, 1000));
        }
        segment.raw(&unchecked(20, 700_000)).records(2, 100);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}

#[test]
fn t14_spaces_may_appear_in_any_way() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let root = cluster.primary.spec.data_root.clone();
        // The directories one by one, each noticed before the next.
        fs::create_dir(root.join("alpha")).unwrap();
        let mut other = Segment::create(&root.join("other/wal"), 1);
        other.records(1, 10);
        cluster.await_flushed("other", other.len());
        fs::create_dir(root.join("alpha/wal")).unwrap();
        other.records(1, 10);
        cluster.await_flushed("other", other.len());
        let mut segment = Segment::create(&root.join("alpha/wal"), 1);
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        // A whole space, renamed into place.
        let mut segment = Segment::create(&cluster.directory.path().join("elsewhere/wal"), 1);
        segment.records(3, 100);
        fs::rename(cluster.directory.path().join("elsewhere"), root.join("beta")).unwrap();
        cluster.await_flushed("beta", segment.len());
        segment.records(3, 100);
        cluster.await_flushed("beta", segment.len());
        // Its log alone, renamed into place.
        let mut segment = Segment::create(&cluster.directory.path().join("log"), 1);
        segment.records(3, 100);
        fs::create_dir(root.join("gamma")).unwrap();
        fs::rename(cluster.directory.path().join("log"), root.join("gamma/wal")).unwrap();
        cluster.await_flushed("gamma", segment.len());
        segment.records(3, 100);
        cluster.await_flushed("gamma", segment.len());
        // A segment, moved in.
        let mut segment = Segment::at(cluster.directory.path().join("segment"));
        segment.records(3, 100);
        fs::create_dir_all(root.join("delta/wal")).unwrap();
        segment.rename(named(&root.join("delta/wal"), 3));
        cluster.await_flushed("delta", segment.len());
        for space in ["alpha", "beta", "gamma", "delta", "other"] {
            cluster.assert_identical(space);
        }
        for name in ["NOT-a-space", "ab", "lost+found"] {
            fs::create_dir_all(root.join(name).join("wal")).unwrap();
        }
        other.records(1, 10);
        cluster.await_flushed("other", other.len());
        assert!(cluster.primary.status().spaces.iter().all(|space| {
            space.replicas.iter().all(|replica| replica.state == ReplicaState::Healthy)
        }));
    }
}

#[test]
fn t10_empty_segments_that_are_written_later_all_arrive() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let wal = cluster.primary.wal("alpha");
        let mut segments: Vec<_> = (1..6).map(|number| Segment::create(&wal, number)).collect();
        until("all of them are recorded, empty", || {
            let pins = cluster.primary.spec.data_root.join(".saltus/pins/alpha");
            (fs::read_dir(pins).ok()?.count() == segments.len()).then_some(())
        });
        let mut total = 0;
        for segment in &mut segments {
            total += segment.records(1, 100).len();
            cluster.await_flushed("alpha", total);
        }
        for segment in segments.iter_mut().rev() {
            segment.records(1, 100);
            total += 164;
            cluster.await_flushed("alpha", total);
        }
        cluster.primary.kill();
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        cluster.primary.restart();
        segments[0].records(1, 100);
        cluster.await_flushed("alpha", total + 164);
        cluster.assert_identical("alpha");
    }
}

/// A database refuses to start over half a record, so a replica that is asked to take
/// over must show none from the moment on at which it is ready.
#[test]
fn t15_a_replica_that_died_in_mid_record_shows_whole_records_when_it_is_back() {
    let mut cluster = Cluster::with(1, plain, |_| {});
    let mut segment = cluster.fill("alpha", 5, 400);
    let whole = fs::read(&segment.path).unwrap();
    let half = record(5, 400);
    let wal = cluster.replicas[0].wal("alpha");
    cluster.primary.terminate();
    for bytes in [1, 63, 64, 65, half.len() - 1] {
        cluster.replicas[0].kill();
        let mut file = fs::File::options().append(true).open(named(&wal, 1)).unwrap();
        file.write_all(&half[..bytes]).unwrap();
        drop(file);
        cluster.replicas[0].restart();
        assert_whole(&wal);
        assert_holds(&cluster, "alpha", 1, &whole);
    }
    cluster.primary.restart();
    segment.raw(&half);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}
