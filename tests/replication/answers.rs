//! What is said while something is wrong: nothing that is not known.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use saltus::engine::status::{ReplicaState, Role, SpaceStatus};
use saltus::ids::SegmentName;
use saltus::wal::writer::{Writer, WriterOptions};

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::Segment;
use crate::skipped::skipped;

/// `saltus wait` at the primary: its exit code and what it says.
fn wait(admin: SocketAddr, timeout: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(["wait", "--admin", &admin.to_string(), "--timeout", timeout])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The primary says no, long before the time is over, and says why.
#[track_caller]
fn assert_refused(cluster: &mut Cluster, why: &str) {
    let admin = cluster.primary.spec.admin;
    let (code, text) = wait(admin, "600s");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(why), "{text}");
    assert!(text.contains("waiting does not help"), "it waited for what does not come: {text}");
    let (code, answer) = cluster.primary.get("/healthz");
    assert!(code == 503 && answer.contains(why), "{answer}");
    assert_eq!(cluster.primary.get("/livez").0, 200);
}

#[track_caller]
fn assert_caught_up(cluster: &mut Cluster, covered: &str) {
    let admin = cluster.primary.spec.admin;
    let (code, text) = wait(admin, "45s");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with(&format!("caught up: {covered}, ")), "{text}");
    let (code, answer) = cluster.primary.get("/healthz");
    assert_eq!(code, 200, "{answer}");
}

/// Nothing is known of anybody's lag, and nobody is called healthy.
#[track_caller]
fn assert_unknown(space: &SpaceStatus) {
    assert!(!space.head_known && space.blocked, "{space:#?}");
    for replica in &space.replicas {
        let lag = replica.lag;
        assert_eq!((lag.bytes, lag.records, lag.seconds), (None, None, None), "{space:#?}");
        assert_ne!(replica.state, ReplicaState::Healthy);
    }
}

fn started() -> (Cluster, Segment) {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 3, 100);
    assert_caught_up(&mut cluster, "1 space, 1 replica");
    (cluster, segment)
}

#[test]
fn a_directory_that_is_gone_is_told_until_it_is_back() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let wal = cluster.primary.wal("alpha");
        let mut segment = Segment::create(&wal, 1);
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        let space = wal.parent().unwrap().to_path_buf();
        let away = cluster.directory.path().join("away");
        for directory in [&space, &wal] {
            fs::rename(directory, &away).unwrap();
            let status = cluster.primary.await_problem("alpha", "is gone");
            assert_unknown(&status);
            let why = format!("the directory {} is gone", wal.display());
            assert_refused(&mut cluster, &why);
            assert!(cluster.primary.log().contains(&why), "{}", cluster.primary.log());
            fs::rename(&away, directory).unwrap();
            assert_caught_up(&mut cluster, "1 space, 1 replica");
            segment.records(3, 100);
            cluster.await_flushed("alpha", segment.len());
        }
        fs::remove_dir_all(&space).unwrap();
        cluster.primary.await_problem("alpha", "is gone");
        assert_refused(&mut cluster, "is gone");
    }
}

#[test]
fn a_data_root_that_is_gone_is_told_until_it_is_back() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = cluster.fill("alpha", 3, 100);
        let root = cluster.primary.spec.data_root.clone();
        let away = cluster.directory.path().join("away");
        fs::rename(&root, &away).unwrap();
        let why = format!("the data root {} is gone", root.display());
        assert_unknown(&cluster.primary.await_problem("alpha", &why));
        assert_eq!(cluster.primary.status().problem, Some(why.clone()));
        assert_refused(&mut cluster, &why);
        assert!(cluster.primary.log().contains(&why), "{}", cluster.primary.log());
        // Another one in its place is not the same.
        fs::create_dir(&root).unwrap();
        until("the other directory is told from the old one", || {
            cluster.primary.status().problem?.contains("is another directory").then_some(())
        });
        fs::remove_dir(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        assert_caught_up_soon(&mut cluster);
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        let mut new = Segment::create(&cluster.primary.wal("beta"), 1);
        new.records(1, 100);
        cluster.await_flushed("beta", new.len());
    }
}

/// The data root is looked at every second, not at once.
#[track_caller]
fn assert_caught_up_soon(cluster: &mut Cluster) {
    let admin = cluster.primary.spec.admin;
    until("the primary is well again", || (wait(admin, "45s").0 == Some(0)).then_some(()));
}

/// Root may read everything, whatever the mode says.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn t11_what_may_not_be_read_is_told_until_it_may() {
    if is_root() {
        skipped("as root a directory of mode 000 is readable: see the test beside this one");
        return;
    }
    let (mut cluster, mut segment) = started();
    let wal = cluster.primary.wal("alpha");
    let other = wal.join(SegmentName(2).to_string());
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    // A segment of another user's.
    fs::write(cluster.directory.path().join("other"), b"").unwrap();
    mode(&cluster.directory.path().join("other"), 0o000);
    fs::rename(cluster.directory.path().join("other"), &other).unwrap();
    let status = cluster.primary.await_problem("alpha", "may not be read");
    assert_unknown(&status);
    assert_refused(&mut cluster, "may not be read");
    mode(&other, 0o600);
    assert_caught_up_soon(&mut cluster);
    // A directory without any right, also at the start.
    mode(&wal, 0o000);
    cluster.primary.terminate();
    cluster.primary.restart();
    assert_unknown(&cluster.primary.await_problem("alpha", "may not be read"));
    assert_refused(&mut cluster, "may not be read");
    mode(&wal, 0o700);
    assert_caught_up_soon(&mut cluster);
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
}

#[test]
fn what_cannot_be_opened_is_told_until_it_can() {
    let (mut cluster, _segment) = started();
    let wal = cluster.primary.wal("alpha");
    // No regular file, whatever its name says.
    let other = wal.join(SegmentName(2).to_string());
    std::os::unix::fs::symlink("/dev/null", &other).unwrap();
    assert_unknown(&cluster.primary.await_problem("alpha", "is not a regular file"));
    assert_refused(&mut cluster, "is not a regular file");
    fs::remove_file(&other).unwrap();
    assert_caught_up_soon(&mut cluster);
}

#[test]
fn damage_at_the_very_beginning_is_not_an_empty_log() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.raw(&[0x5a; 4096]);
    let status = cluster.primary.await_problem("alpha", "is damaged at offset 0");
    assert_unknown(&status);
    let hint = format!("saltus wal verify {}", cluster.primary.wal("alpha").display());
    assert!(status.problem.is_some_and(|problem| problem.contains(&hint)));
    assert_refused(&mut cluster, "is damaged at offset 0");
}

#[test]
fn a_replica_that_is_away_is_waited_for_and_one_that_is_stopped_is_not() {
    let (mut cluster, _segment) = started();
    let admin = cluster.primary.spec.admin;
    cluster.replicas[0].terminate();
    until("the primary notices", || {
        (cluster.replica(0, "alpha")?.state == ReplicaState::Connecting).then_some(())
    });
    // It had everything; whether it still has, nobody knows.
    let (code, text) = wait(admin, "100ms");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("when it was last heard from"), "{text}");
    cluster.replicas[0].restart();
    assert_caught_up_soon(&mut cluster);
    // The replica has a log of its own under that name; the primary's is empty.
    Segment::create(&cluster.replicas[0].wal("beta"), 1).records(2, 50);
    until("it is the replica's own", || {
        (cluster.replicas[0].space("beta")?.role == Role::Primary).then_some(())
    });
    Segment::create(&cluster.primary.wal("beta"), 1);
    let replica = until("the space is refused", || {
        cluster.replica(0, "beta").filter(|replica| replica.state == ReplicaState::Failed)
    });
    assert_ne!(replica.lag.seconds, Some(0.0));
    assert_refused(&mut cluster, &replica.problem.unwrap());
}

#[test]
fn a_replica_without_a_primary_says_since_when() {
    let (mut cluster, _segment) = started();
    let received = |cluster: &mut Cluster| cluster.replicas[0].space("alpha").unwrap();
    assert_eq!(received(&mut cluster).no_primary_seconds, None);
    cluster.primary.terminate();
    let told =
        until("the replica notices", || cluster.replicas[0].space("alpha")?.no_primary_seconds);
    assert!(told >= 0.0);
    let admin = cluster.replicas[0].spec.admin.to_string();
    let status = Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(["status", "--check", "--admin", &admin])
        .output()
        .unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("no primary connected for"), "{text}");
    assert_eq!(status.status.code(), Some(1));
}

#[test]
fn latency_counts_what_was_written_while_the_replica_was_close() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let wal = cluster.primary.wal("alpha");
    // Their timestamps are of the year 1970; and so they are of a catch-up.
    let mut segment = Segment::create(&wal, 1);
    segment.records(50, 1000);
    cluster.await_flushed("alpha", segment.len());
    assert_caught_up(&mut cluster, "1 space, 1 replica");
    let latency = |cluster: &mut Cluster| {
        let replica = cluster.replica(0, "alpha").unwrap();
        (replica.append_to_flushed_us, replica.recent_append_to_flushed_us)
    };
    assert_eq!(latency(&mut cluster).0.count, 0);
    // What is written now counts.
    let mut writer = Writer::open(&wal, WriterOptions::default()).unwrap();
    let mut total = segment.len();
    let mut append = |cluster: &mut Cluster| {
        total += writer.append(1, &[7; 100]).unwrap().bytes;
        writer.commit().unwrap();
        if cluster.replicas[0].runs() {
            cluster.await_flushed("alpha", total);
        }
    };
    append(&mut cluster);
    let (all, recent) = latency(&mut cluster);
    assert_eq!((all.count, recent.count), (1, 1));
    assert!(all.p99.unwrap() < 45_000_000 && recent == all, "{all:?}");
    // What is written while the replica is away does not.
    cluster.replicas[0].terminate();
    until("the primary notices", || {
        (cluster.replica(0, "alpha")?.state == ReplicaState::Connecting).then_some(())
    });
    append(&mut cluster);
    cluster.replicas[0].restart();
    assert_caught_up_soon(&mut cluster);
    assert_eq!(latency(&mut cluster).0.count, 1);
    append(&mut cluster);
    assert_eq!(latency(&mut cluster).0.count, 2);
}
