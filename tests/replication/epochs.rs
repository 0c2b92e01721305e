//! A source that changes behind its stream (T6), and what becomes of replicas
//! that have more than it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use saltus::engine::quarantine::{Piece, Reason, list};
use saltus::engine::status::SpaceStatus;
use saltus::ids::{Epoch, SegmentName};

use crate::cluster::{BACKENDS, Cluster, Node, until};
use crate::feed::{Random, Segment, record};

/// A record of 400 payload bytes.
const RECORD: u64 = 464;

fn pieces(node: &Node) -> Vec<Piece> {
    list(&node.spec.data_root.join(".saltus/quarantine")).unwrap()
}

/// Every byte that a replica has in quarantine.
fn kept(node: &Node) -> Vec<u8> {
    pieces(node).iter().flat_map(|piece| fs::read(&piece.path).unwrap()).collect()
}

#[track_caller]
fn await_epoch(cluster: &mut Cluster, space: &str, epoch: u64) -> SpaceStatus {
    until(&format!("{space} is in epoch {epoch}"), || {
        cluster.primary.space(space).filter(|status| status.epoch == Epoch(epoch))
    })
}

/// Every replica has been matched with the present epoch, and has all of it.
#[track_caller]
fn await_settled(cluster: &mut Cluster, space: &str, lsn: u64) {
    until(&format!("{space} is settled at {lsn}"), || {
        let status = cluster.primary.space(space)?;
        let settled = status
            .replicas
            .iter()
            .all(|replica| replica.flushed_lsn == lsn && replica.lag.seconds == Some(0.0));
        (status.head_lsn == lsn && settled).then_some(())
    });
}

fn shrink(segment: &mut Segment, bytes: u64) {
    File::options().write(true).open(&segment.path).unwrap().set_len(bytes).unwrap();
    segment.content.truncate(usize::try_from(bytes).unwrap());
}

#[test]
fn t6_a_tail_that_shrank_begins_a_new_epoch() {
    for backend in BACKENDS {
        for away in [false, true] {
            let mut cluster = Cluster::start(backend, 2);
            let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
            segment.records(10, 400);
            let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
            other.records(1, 10);
            cluster.await_flushed("alpha", segment.len());
            let lost = segment.content[5 * 464..].to_vec();
            if away {
                cluster.primary.kill();
            }
            shrink(&mut segment, 5 * RECORD);
            if away {
                cluster.primary.restart();
            }
            let status = await_epoch(&mut cluster, "alpha", 2);
            let starts: Vec<_> = status.epochs.iter().map(|e| (e.epoch.0, e.start_lsn)).collect();
            assert_eq!(starts, [(1, 0), (2, 5 * RECORD)]);
            await_settled(&mut cluster, "alpha", 5 * RECORD);
            cluster.assert_identical("alpha");
            segment.sequence = 100;
            segment.records(7, 300);
            other.records(1, 10);
            cluster.await_flushed("alpha", segment.len());
            cluster.await_flushed("beta", other.len());
            cluster.assert_identical("alpha");
            for replica in &cluster.replicas {
                assert!(kept(replica) == lost, "what was cut is kept: {:?}", pieces(replica));
            }
            assert_eq!(cluster.primary.space("beta").unwrap().epoch, Epoch(1));
        }
    }
}

#[test]
fn t6_a_tail_that_shrank_and_grew_again_begins_a_new_epoch() {
    for away in [false, true] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let mut segment = cluster.fill("alpha", 10, 400);
        if away {
            cluster.primary.kill();
        }
        // Between two looks it is as long as it was, and holds something else.
        let other: Vec<u8> = (0..5).flat_map(|n| record(77 + n, 400)).collect();
        let file = File::options().write(true).open(&segment.path).unwrap();
        file.write_all_at(&other, 5 * RECORD).unwrap();
        if away {
            cluster.primary.restart();
        }
        let status = await_epoch(&mut cluster, "alpha", 2);
        assert!(status.epochs[1].start_lsn <= 5 * RECORD, "{status:?}");
        let lost = segment.content[5 * 464..].to_vec();
        segment.content.truncate(5 * 464);
        segment.content.extend(&other);
        segment.records(3, 10);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        assert!(kept(&cluster.replicas[0]).ends_with(&lost));
    }
}

#[test]
fn t6_a_tail_of_zeroes_begins_a_new_epoch() {
    for away in [false, true] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let mut segment = cluster.fill("alpha", 10, 400);
        if away {
            cluster.primary.kill();
        }
        let file = File::options().write(true).open(&segment.path).unwrap();
        file.write_all_at(&vec![0; 4 * 464], 6 * RECORD).unwrap();
        if away {
            cluster.primary.restart();
        }
        await_epoch(&mut cluster, "alpha", 2);
        await_settled(&mut cluster, "alpha", 6 * RECORD);
        let lost = segment.content[6 * 464..].to_vec();
        assert!(kept(&cluster.replicas[0]) == lost);
        // The writer repairs its log and goes on.
        shrink(&mut segment, 6 * RECORD);
        segment.records(3, 10);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}

/// Ten records in the first segment and five in the second, all of them flushed.
/// They were cut from the replica one by one, each in an epoch of its own: as many
/// epochs as there were records, and the same pieces in the quarantine.
#[test]
fn t6_records_that_come_back_in_another_file_begin_one_epoch() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 20, 400);
    cluster.primary.kill();
    // The crash took all that the file held, and somebody copied it back.
    let lost = segment.content.clone();
    File::options().write(true).open(&segment.path).unwrap().set_len(0).unwrap();
    let mut copy = Segment::at(segment.path.with_extension("copy"));
    copy.raw(&lost).sequence = segment.sequence;
    copy.rename(segment.path);
    let mut segment = copy;
    cluster.primary.restart();
    let status = await_epoch(&mut cluster, "alpha", 2);
    assert_eq!(status.epochs[1].start_lsn, 0, "{status:?}");
    segment.records(3, 10);
    await_settled(&mut cluster, "alpha", segment.len());
    cluster.assert_identical("alpha");
    assert_eq!(cluster.primary.space("alpha").unwrap().epoch, Epoch(2));
    assert!(kept(&cluster.replicas[0]) == lost, "{:?}", pieces(&cluster.replicas[0]));
}

fn with_two_segments() -> (Cluster, Segment, Segment) {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut first = Segment::create(&wal, 1);
    first.records(10, 400);
    cluster.await_flushed("alpha", first.len());
    let mut second = Segment::create(&wal, 2);
    second.records(5, 100);
    cluster.await_flushed("alpha", first.len() + second.len());
    (cluster, first, second)
}

#[test]
fn t6_a_change_in_an_earlier_file_begins_a_new_epoch_there() {
    for away in [false, true] {
        let (mut cluster, mut first, mut second) = with_two_segments();
        if away {
            cluster.primary.kill();
        }
        shrink(&mut first, 8 * RECORD);
        if away {
            cluster.primary.restart();
        }
        let status = await_epoch(&mut cluster, "alpha", 2);
        assert_eq!(status.epochs[1].start_lsn, 8 * RECORD);
        cluster.await_flushed("alpha", first.len() + second.len());
        second.records(2, 10);
        cluster.await_flushed("alpha", first.len() + second.len());
        cluster.assert_identical("alpha");
        let names: Vec<_> = pieces(&cluster.replicas[0])
            .iter()
            .map(|piece| piece.manifest.as_ref().unwrap().segment)
            .collect();
        assert_eq!(names, [SegmentName(1), SegmentName(2)]);
    }
}

/// The primary took the place where it had left the file for damage, and halted; or, if
/// the file was as long as before, did not look at it.
#[test]
fn t6_a_segment_that_was_left_for_another_and_is_gone_on_with_begins_a_new_epoch() {
    for (lost, new, bytes) in [(2, 4, 400), (2, 4, 500), (0, 4, 400), (2, 2, 400)] {
        let (mut cluster, mut first, second) = with_two_segments();
        let before = first.content.clone();
        cluster.primary.kill();
        // As long as it was, or longer, with other records in it.
        shrink(&mut first, (10 - lost) * RECORD);
        first.sequence = 100;
        first.records(new, bytes);
        cluster.primary.restart();
        if lost > 0 {
            await_epoch(&mut cluster, "alpha", 2);
        }
        cluster.await_flushed("alpha", first.len() + second.len());
        cluster.assert_identical("alpha");
        let status = cluster.primary.space("alpha").unwrap();
        assert_eq!(status.problem, None);
        let cut = kept(&cluster.replicas[0]);
        if lost == 0 {
            assert!(status.epoch == Epoch(1) && cut.is_empty());
        } else {
            assert_eq!(status.epoch, Epoch(2));
            let gone = &before[usize::try_from((10 - lost) * RECORD).unwrap()..];
            assert!(cut.windows(gone.len()).any(|there| there == gone), "what is cut is kept");
        }
    }
}

#[test]
fn a_replica_that_was_away_while_epochs_passed_is_cut_to_the_last_common_record() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 10, 400);
    let before = segment.content.clone();
    cluster.replicas[0].kill();
    for (epoch, kept) in [(2, 8), (3, 9), (4, 4), (5, 6)] {
        shrink(&mut segment, kept * RECORD);
        await_epoch(&mut cluster, "alpha", epoch);
        segment.sequence = 1000 * epoch;
        segment.records(6, 400);
        until("the other replica follows", || {
            (cluster.replica(1, "alpha")?.flushed_lsn == segment.len()).then_some(())
        });
    }
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    assert!(kept(&cluster.replicas[0]) == before[4 * 464..]);
    let piece = &pieces(&cluster.replicas[0])[0];
    let manifest = piece.manifest.as_ref().unwrap();
    assert_eq!(manifest.reason, Reason::Diverged);
    assert_eq!((manifest.offset, manifest.bytes), (4 * RECORD, 6 * RECORD));
    assert_eq!((manifest.extents[0].lsn, manifest.extents[0].bytes), (4 * RECORD, 6 * RECORD));
    assert_eq!((manifest.epochs.clone(), manifest.superseded_by), (vec![Epoch(1)], Some(Epoch(5))));
    // A restart of everybody changes nothing.
    cluster.replicas[0].kill();
    cluster.primary.kill();
    cluster.replicas[0].restart();
    cluster.primary.restart();
    segment.records(1, 10);
    cluster.await_flushed("alpha", segment.len());
    assert_eq!(cluster.primary.space("alpha").unwrap().epoch, Epoch(5));
    assert_eq!(pieces(&cluster.replicas[0]).len(), 1);
}

#[test]
fn damage_at_the_source_begins_no_epoch() {
    for away in [false, true] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let mut segment = cluster.fill("alpha", 10, 400);
        if away {
            cluster.primary.kill();
        }
        // One bit in the last record's header, and one in the middle.
        let file = File::options().write(true).open(&segment.path).unwrap();
        for at in [5 * 464 + 25, 9 * 464 + 25] {
            file.write_all_at(&[segment.content[at] ^ 1], at as u64).unwrap();
        }
        if away {
            cluster.primary.restart();
        }
        let status = cluster.primary.await_problem("alpha", "damaged at offset 2320");
        assert_eq!(status.epoch, Epoch(1));
        assert!(pieces(&cluster.replicas[0]).is_empty());
        let copy = cluster.replicas[0].wal("alpha").join(SegmentName(1).to_string());
        assert!(fs::read(copy).unwrap() == segment.content);
        // Put right by a person, it goes on.
        for at in [5 * 464 + 25, 9 * 464 + 25] {
            file.write_all_at(&segment.content[at..=at], at as u64).unwrap();
        }
        segment.records(2, 10);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        assert_eq!(cluster.primary.space("alpha").unwrap().epoch, Epoch(1));
    }
}

#[test]
fn a_replica_that_holds_other_records_in_the_same_epoch_is_left_alone() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.fill("alpha", 10, 400);
    // Records that hold, of the same size, and not those that came.
    cluster.replicas[0].kill();
    let copy: PathBuf = cluster.replicas[0].wal("alpha").join(SegmentName(1).to_string());
    let other = record(77, 400);
    File::options().write(true).open(&copy).unwrap().write_all_at(&other, 6 * RECORD).unwrap();
    let held = fs::read(&copy).unwrap();
    cluster.replicas[0].restart();
    let status = cluster.primary.await_problem("alpha", "other records");
    assert_eq!(status.epoch, Epoch(1));
    let problem = status.replicas[0].problem.clone().unwrap();
    assert!(problem.contains("behind 2784"), "the last common record is named: {problem}");
    assert!(fs::read(&copy).unwrap() == held && pieces(&cluster.replicas[0]).is_empty());
}

/// The command's exit code and what it printed.
fn saltus(args: &[&str]) -> (Option<i32>, String) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_saltus")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn an_operator_sees_the_epochs_and_gets_at_what_was_cut() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 10, 400);
    let lost = segment.content[7 * 464..].to_vec();
    shrink(&mut segment, 7 * RECORD);
    await_epoch(&mut cluster, "alpha", 2);
    await_settled(&mut cluster, "alpha", 7 * RECORD);
    let status = cluster.replicas[0].space("alpha").unwrap();
    assert_eq!((status.quarantine.pieces, status.quarantine.bytes), (1, 3 * RECORD));

    let admins =
        [cluster.primary.spec.admin, cluster.replicas[0].spec.admin].map(|a| a.to_string());
    let args = ["epoch", "show", "--space", "alpha", "--admin", &admins[0], "--admin", &admins[1]];
    let (code, text) = saltus(&args);
    assert_eq!(code, Some(0), "{text}");
    for expected in ["on primary  primary  epoch 2", "on replica-1  replica  epoch 2", "3248"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let (code, json) = saltus(&[&["--json"], &args[..]].concat());
    assert_eq!(code, Some(0), "{json}");
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[1]["epochs"][1]["start_lsn"], 7 * RECORD);
    let nowhere = ["epoch", "show", "--space", "nowhere", "--admin", &admins[0]];
    assert_eq!(saltus(&nowhere).0, Some(1));

    let root = cluster.replicas[0].spec.data_root.clone();
    let root = root.to_str().unwrap();
    let (code, text) = saltus(&["quarantine", "list", "--data-root", root]);
    let id = "alpha/wal-0000000000000001.log.3248.0";
    assert!(code == Some(0) && text.contains(id) && text.contains("diverged"), "{text}");
    let (code, text) = saltus(&["quarantine", "show", id, "--data-root", root]);
    assert_eq!(code, Some(0), "{text}");
    for expected in ["by epoch 2", "3248 to 4640", "3, sequences 7 to 9"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let to = cluster.directory.path().join("exported");
    let to = to.to_str().unwrap();
    let export = ["quarantine", "export", id, "--to", to, "--data-root", root];
    assert_eq!(saltus(&export).0, Some(0));
    assert!(fs::read(to).unwrap() == lost);
    assert_eq!(saltus(&export).0, Some(3), "nothing is overwritten");
    assert_eq!(saltus(&["quarantine", "show", "alpha/none", "--data-root", root]).0, Some(1));
    assert_eq!(saltus(&["quarantine", "list"]).0, Some(2));
    assert_eq!(saltus(&["quarantine", "list", "--data-root", to]).0, Some(3));
    assert!(fs::read(&pieces(&cluster.replicas[0])[0].path).unwrap() == lost, "and it is kept");
}

#[test]
fn t6_a_file_that_vanished_with_a_crash_begins_a_new_epoch() {
    for files in [1, 2] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let wal = cluster.primary.wal("alpha");
        let mut segments = Vec::new();
        let mut total = 0;
        for number in 1..=3 {
            let mut segment = Segment::create(&wal, number);
            segment.records(5, 400);
            total += segment.len();
            cluster.await_flushed("alpha", total);
            segments.push(segment);
        }
        cluster.primary.kill();
        // Neither the newest names nor their pins were on the disk.
        for (number, segment) in (1..=3_u64).zip(&segments).skip(3 - files) {
            segment.unlink();
            let pin = format!(".saltus/pins/alpha/{number:016x}");
            fs::remove_file(cluster.primary.spec.data_root.join(pin)).unwrap();
        }
        cluster.primary.restart();
        let left = total - 5 * RECORD * files as u64;
        await_settled(&mut cluster, "alpha", left);
        let status = cluster.primary.space("alpha").unwrap();
        assert_eq!(status.epoch, Epoch(1 + files as u64));
        assert_eq!(kept(&cluster.replicas[0]).len() as u64, total - left);
        until("what the crash took is told until the replica has been cut", || {
            cluster.primary.space("alpha")?.problem.is_none().then_some(())
        });
        let mut next = Segment::create(&wal, 9);
        next.sequence = 100;
        next.records(3, 100);
        cluster.await_flushed("alpha", left + next.len());
        cluster.assert_identical("alpha");
    }
}

/// What a host's crash may leave of a log that was shipped further.
fn crash(segment: &mut Segment, random: &mut Random) {
    let whole = usize::try_from(RECORD).unwrap();
    let records = segment.content.len() / whole;
    let kept = usize::try_from(random.below(records as u64 + 1)).unwrap() * whole;
    let file = File::options().write(true).open(&segment.path).unwrap();
    match random.below(4) {
        // Shorter; then its repair, at once.
        0 => file.set_len(kept as u64 + random.below(100)).unwrap(),
        // Zeroed from somewhere on.
        1 => file.write_all_at(&vec![0; segment.content.len() - kept], kept as u64).unwrap(),
        _ => {}
    }
    file.set_len(kept as u64).unwrap();
    segment.content.truncate(kept);
    // The next process writes records of its own.
    segment.sequence = random.next() >> 8;
}

#[test]
fn any_order_of_crashes_and_kills_ends_with_one_stream() {
    let seed = std::env::var("SALTUS_SEED").ok().and_then(|text| text.parse().ok());
    // Always the same courses, whoever runs it; another one by its name.
    let seed = seed.unwrap_or(1);
    println!("SALTUS_SEED={seed}");
    let mut random = Random(seed);
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut segments = vec![Segment::create(&wal, 1)];
    for step in 0..60 {
        match random.below(10) {
            0..=3 => {
                let count = usize::try_from(1 + random.below(20)).unwrap();
                segments.last_mut().unwrap().records(count, 400);
            }
            4 | 5 => crash(segments.last_mut().unwrap(), &mut random),
            6 if segments.len() < 5 => {
                segments.push(Segment::create(&wal, 2 + segments.len() as u64));
            }
            7 => {
                // The source changes while nobody looks.
                if cluster.primary.runs() {
                    cluster.primary.kill();
                }
                crash(segments.last_mut().unwrap(), &mut random);
                segments.last_mut().unwrap().records(2, 400);
            }
            8 => {
                let which = usize::try_from(random.below(2)).unwrap();
                if cluster.replicas[which].runs() {
                    cluster.replicas[which].kill();
                } else {
                    cluster.replicas[which].restart();
                }
            }
            _ => {
                if cluster.primary.runs() {
                    cluster.primary.kill();
                } else {
                    cluster.primary.restart();
                }
            }
        }
        if cluster.primary.runs() && random.below(3) == 0 {
            let total: u64 = segments.iter().map(Segment::len).sum();
            until(&format!("step {step}: the head is at {total}"), || {
                (cluster.primary.space("alpha")?.head_lsn == total).then_some(())
            });
        }
        if cluster.primary.runs() && random.below(4) == 0 {
            let total: u64 = segments.iter().map(Segment::len).sum();
            for index in 0..2 {
                if cluster.replicas[index].runs() {
                    until(&format!("step {step}: replica {index} follows"), || {
                        (cluster.replica(index, "alpha")?.flushed_lsn == total).then_some(())
                    });
                }
            }
        }
    }
    for node in std::iter::once(&mut cluster.primary).chain(&mut cluster.replicas) {
        if !node.runs() {
            node.restart();
        }
    }
    segments.last_mut().unwrap().records(1, 400);
    until("everybody holds what the source holds", || {
        let status = cluster.primary.space("alpha")?;
        let total: u64 = segments.iter().map(Segment::len).sum();
        let settled = status.head_lsn == total
            && status.replicas.iter().all(|replica| {
                replica.flushed_lsn == status.head_lsn && replica.lag.seconds == Some(0.0)
            });
        settled.then_some(())
    });
    for replica in &cluster.replicas {
        for segment in &segments {
            let name = segment.path.file_name().unwrap();
            let copy = fs::read(replica.wal("alpha").join(name)).unwrap_or_default();
            let same = copy.iter().zip(&segment.content).take_while(|(a, b)| a == b).count();
            let source = fs::read(&segment.path).unwrap();
            assert!(
                copy == segment.content,
                "{name:?} on {}, seed {seed}: {} bytes, {} expected, {same} the same; the source \
                 has {}, {}",
                replica.spec.id,
                copy.len(),
                segment.content.len(),
                source.len(),
                source == segment.content
            );
        }
    }
}
