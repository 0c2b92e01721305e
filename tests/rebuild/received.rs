//! A replica's catalog, made anew.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use saltus::admin::Client;
use saltus::engine::quarantine::Reason;
use saltus::engine::scrub::ScrubAsk;
use saltus::engine::status::Role;
use saltus::ids::{Epoch, SegmentName};

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::Segment;
use crate::{
    assert_goes_on, command, copy, flip, foreign, in_turns, lose, pieces, rebuild, said, state,
};

#[test]
fn a_replica_without_its_state_directory_goes_on_where_it_was() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let (mut first, mut second) = in_turns(&mut cluster);
        cluster.replicas[0].kill();
        lose(&cluster.replicas[0]);
        first.records(3, 700);
        second.records(3, 700);
        let text = said(&rebuild(&cluster, &[]), 0);
        let had = first.len() + second.len() - 6 * 764;
        assert!(text.contains(&format!("alpha: REBUILT up to lsn {had}:")), "{text}");
        assert_goes_on(&mut cluster, had + 6 * 764, 6 * 764);
        assert_eq!(pieces(&cluster.replicas[0]).len(), 0);
        // As a catalog that was never lost: restarts of both sides.
        cluster.replicas[0].kill();
        cluster.primary.kill();
        first.records(1, 700);
        cluster.primary.restart();
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", had + 7 * 764);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_log_whose_beginning_was_compacted_away_goes_on_where_it_was() {
    let mut cluster = Cluster::start(BACKENDS[0], 1);
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    old.records(20, 700);
    cluster.await_flushed("alpha", old.len());
    let mut snapshot = Segment::create(&wal, 2);
    snapshot.records(30, 700);
    let total = old.len() + snapshot.len();
    cluster.await_flushed("alpha", total);
    old.unlink();
    drop(old);
    let retired = cluster.replicas[0].retired("alpha", 1);
    let named = cluster.replicas[0].wal("alpha").join(SegmentName(1).to_string());
    until("it is gone on both nodes", || (!named.exists() && !retired.exists()).then_some(()));
    cluster.replicas[0].kill();
    lose(&cluster.replicas[0]);
    snapshot.records(3, 700);
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains(&format!("alpha: REBUILT up to lsn {total}:")), "{text}");
    assert_goes_on(&mut cluster, total + 3 * 764, 3 * 764);
    assert_eq!(pieces(&cluster.replicas[0]).len(), 0);
    // And a restart of both finds everything as it should be.
    cluster.replicas[0].kill();
    cluster.primary.kill();
    snapshot.records(1, 700);
    cluster.primary.restart();
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", total + 4 * 764);
    cluster.await_identical("alpha");
}

#[test]
fn holes_stay_holes() {
    let each = |spec: &mut saltus::cli::node::NodeSpec| {
        spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
    };
    let mut cluster = Cluster::with(1, each, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(5, 400).raw(&[0xab; 333]).records(5, 400);
    let lsn = segment.len() - 333;
    cluster.await_flushed("alpha", lsn);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    let before = fs::read(copy(&cluster, &segment)).unwrap();
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
    assert_eq!(fs::read(copy(&cluster, &segment)).unwrap(), before);
    segment.records(1, 400);
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", lsn + 464);
}

#[test]
fn what_is_not_the_primarys_goes_to_the_quarantine() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    let lsn = first.len() + second.len();
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    // Behind the end of the stream, in the midst of it, and a whole file.
    let path = copy(&cluster, &first);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&foreign(3)).unwrap();
    let path = copy(&cluster, &second);
    let end = fs::metadata(&path).unwrap().len();
    let last = 12 * 1064;
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(end - last).unwrap();
    file.write_all_at(&foreign(2), end - last).unwrap();
    let stranger = cluster.replicas[0].wal("alpha").join(SegmentName(77).to_string());
    fs::write(&stranger, foreign(5)).unwrap();

    let before = rebuild(&cluster, &["--check"]);
    let text = said(&before, 0);
    assert!(text.contains("alpha: can be rebuilt up to lsn"), "{text}");
    assert!(stranger.exists() && !state(&cluster.replicas[0]).exists(), "nothing was changed");

    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains("in the quarantine now") && text.contains("all of it"), "{text}");
    assert!(!stranger.exists());
    let kept = pieces(&cluster.replicas[0]);
    let unmatched =
        kept.iter().all(|piece| piece.manifest.as_ref().unwrap().reason == Reason::Unmatched);
    assert!(unmatched && kept.len() == 3, "{kept:?}");
    let whole: Vec<_> = kept.iter().map(|piece| fs::read(&piece.path).unwrap()).collect();
    assert!(whole.iter().any(|bytes| *bytes == foreign(5)));
    assert!(whole.iter().any(|bytes| *bytes == foreign(2)));
    // The second segment's last turn, and the first one's behind it.
    assert_goes_on(&mut cluster, lsn, 24 * 1064);
}

#[test]
fn a_reign_that_has_ended_meanwhile_is_cut_off() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = cluster.fill("alpha", 20, 400);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    // The source loses its end, and is written on.
    let file = File::options().write(true).open(&segment.path).unwrap();
    file.set_len(12 * 464).unwrap();
    segment.content.truncate(12 * 464);
    segment.sequence = 900;
    segment.records(2, 300);
    let lsn = segment.len();
    until("a new epoch has begun", || {
        let status = cluster.primary.space("alpha")?;
        (status.epoch == Epoch(2) && status.head_lsn == lsn).then_some(())
    });
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {}", 12 * 464)), "{text}");
    assert_goes_on(&mut cluster, lsn, 2 * 364);
    let kept = pieces(&cluster.replicas[0]);
    assert_eq!(kept.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), [8 * 464]);
    let epochs = cluster.replicas[0].space("alpha").unwrap().epochs;
    assert_eq!(epochs, cluster.primary.space("alpha").unwrap().epochs);
}

#[test]
fn an_unfinished_record_is_cut_off_and_kept() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 5, 400);
    cluster.replicas[0].kill();
    lose(&cluster.replicas[0]);
    let path = copy(&cluster, &segment);
    let torn = &foreign(1)[..200];
    OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains("ends in a torn record: 200 bytes"), "{text}");
    assert!(!text.contains("not the stream of"), "it is no record of anybody: {text}");
    assert_goes_on(&mut cluster, segment.len(), 0);
    assert_eq!(fs::read(&pieces(&cluster.replicas[0])[0].path).unwrap(), torn);
}

#[test]
fn a_record_that_has_rotted_is_named_and_mended_afterwards() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 50, 1000);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    flip(&copy(&cluster, &segment), 7 * 1064 + 500);
    let text = said(&rebuild(&cluster, &[]), 1);
    assert!(text.contains("ROTTEN") && text.contains("at 7448, lsn 7448, 1064 bytes"), "{text}");
    assert!(text.contains(&format!("REBUILT up to lsn {}", segment.len())), "{text}");
    cluster.replicas[0].restart();
    let client = Client::new(cluster.replicas[0].spec.admin).unwrap();
    until("the primary ships it", || cluster.replicas[0].space("alpha")?.primary);
    let request = client.scrub(&ScrubAsk::space("alpha".parse().unwrap())).unwrap();
    let outcome = until("the pass ends", || {
        let outcomes = cluster.replicas[0].status().scrub.outcomes;
        outcomes.into_iter().find(|outcome| outcome.request == request)
    });
    assert_eq!((outcome.found, outcome.healed), (1, 1), "{outcome:?}");
    cluster.assert_identical("alpha");
}

#[test]
fn a_damaged_catalog_is_kept_and_replaced() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.replicas[0].terminate();
    let catalog = state(&cluster.replicas[0]).join("catalog.redb");
    let file = File::options().write(true).open(&catalog).unwrap();
    file.write_all_at(&[0x5a; 64], 0).unwrap();
    let damaged = fs::read(&catalog).unwrap();
    let refusal = cluster.replicas[0].spec.clone().spawn().unwrap_err().to_string();
    assert!(refusal.contains("is damaged") && refusal.contains("saltus rebuild"), "{refusal}");
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains("catalog.redb.damaged.0") && text.contains("REBUILT"), "{text}");
    let aside = catalog.with_file_name("catalog.redb.damaged.0");
    assert_eq!(fs::read(aside).unwrap(), damaged);
    assert_goes_on(&mut cluster, first.len() + second.len(), 0);
}

/// A service manager starts the node before anybody can do anything. It takes
/// what it finds for its own, and refuses its primary.
#[test]
fn a_node_that_was_started_without_its_catalog_can_still_be_rebuilt() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    cluster.replicas[0].restart();
    // It may be asked for the space before it has looked at its own directories.
    until("it takes what it finds for its own", || {
        let space = cluster.replicas[0].space("alpha")?;
        (space.role == Role::Primary).then_some(())
    });
    cluster.primary.await_problem("alpha", "saltus rebuild");
    cluster.replicas[0].terminate();
    let text = said(&rebuild(&cluster, &[]), 1);
    assert!(text.contains("NOT REBUILT") && text.contains("--space alpha"), "{text}");
    // Written here: then it is this node's own indeed.
    let path = copy(&cluster, &second);
    let before = fs::metadata(&path).unwrap().len();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&foreign(1)).unwrap();
    let text = said(&rebuild(&cluster, &["--space", "alpha"]), 1);
    assert!(text.contains("not in the stream of primary"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().len(), before + 564, "nothing was changed");
    File::options().write(true).open(&path).unwrap().set_len(before).unwrap();
    let text = said(&rebuild(&cluster, &["--space", "alpha"]), 0);
    assert!(text.contains("REBUILT"), "{text}");
    let pins = state(&cluster.replicas[0]).join("pins/alpha");
    assert_eq!(fs::read_dir(pins).map_or(0, Iterator::count), 0);
    assert_goes_on(&mut cluster, first.len() + second.len(), 0);
}

#[test]
fn a_rebuilding_that_was_killed_is_begun_again() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    let path = copy(&cluster, &first);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&foreign(3)).unwrap();
    for pause in 0..12 {
        let mut child =
            command(&cluster, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not to wait for something: to be killed at another place each time.
        thread::sleep(Duration::from_millis(3 * pause));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains("REBUILT") || text.contains("in the catalog already"), "{text}");
    let kept: Vec<_> = pieces(&cluster.replicas[0]);
    assert!(kept.iter().any(|piece| fs::read(&piece.path).unwrap() == foreign(3)), "{kept:?}");
    assert_goes_on(&mut cluster, first.len() + second.len(), 0);
}

/// The other replicas of a primary that is dead have nearly all that the new one
/// has, in another stream.
#[test]
fn after_a_promotion_another_replica_keeps_its_copy() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    let (first, second) = in_turns(&mut cluster);
    cluster.primary.kill();
    let [promoted, other] = &mut cluster.replicas[..] else { panic!("two replicas") };
    promoted.terminate();
    other.terminate();
    lose(promoted);
    lose(other);
    promoted.spec.replicas = vec![other.as_replica()];
    promoted.restart();
    let lsn = first.len() + second.len();
    let space = |node: &mut crate::cluster::Node| node.space("alpha");
    until("the new primary has walked its log", || {
        let status = space(promoted)?;
        (status.head_known && status.head_lsn == lsn).then_some(())
    });
    let mut command = crate::rebuilding(other, promoted.spec.admin, &[]);
    let text = said(&command.output().unwrap(), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
    other.restart();
    Segment::create(&promoted.wal("alpha"), 99).records(2, 700);
    until("the other replica follows", || {
        let status = space(promoted)?;
        (status.replicas[0].flushed_lsn == lsn + 2 * 764).then_some(())
    });
    let sent = &space(promoted).unwrap().replicas[0].sent_bytes_by_strategy;
    assert_eq!(sent.values().sum::<u64>(), 2 * 764, "and nothing else was shipped");
    let compared = saltus::wal::compare::compare(&promoted.wal("alpha"), &other.wal("alpha"));
    assert!(compared.unwrap().is_identical());
}
