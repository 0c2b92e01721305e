//! A network that is cut, healed, and loses packets.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::cluster::{Cluster, NATIVE, Node, spec, until};
use crate::disk::{is_here, run};
use crate::feed::{Load, Steady};
use crate::skipped::skipped;

const LOAD: Load =
    Load { segment_bytes: 4 << 20, max_payload: 64 << 10, bytes_per_second: 2 << 20, seed: 5 };

/// Two hosts, each a network namespace: the test's thread is one, `far` is
/// the other. One cable carries the logs, a second one the questions.
struct Hosts {
    far: Child,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.far.kill();
        let _ = self.far.wait();
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').map(OsStr::new).collect::<Vec<_>>());
}

impl Hosts {
    fn make() -> Option<Self> {
        if !["ip", "tc", "nsenter"].into_iter().all(is_here) {
            skipped("needs ip, tc and nsenter, for networks of its own");
            return None;
        }
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            skipped("needs root, for networks of its own");
            return None;
        }
        let far = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut hosts = Self { far };
        let mut line = [0];
        std::io::Read::read_exact(hosts.far.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = hosts.far.id();
        ip("link set lo up");
        hosts.far("ip link set lo up");
        for (cable, net) in [("data", 1), ("talk", 2)] {
            ip(&format!("link add {cable} type veth peer name {cable} netns {pid}"));
            ip(&format!("addr add 10.77.{net}.1/24 dev {cable}"));
            ip(&format!("link set {cable} up"));
            hosts.far(&format!("ip addr add 10.77.{net}.2/24 dev {cable}"));
            hosts.far(&format!("ip link set {cable} up"));
        }
        Some(hosts)
    }

    fn namespace(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.far.id())
    }

    /// Run a command on the other host.
    #[track_caller]
    fn far(&self, command: &str) {
        let namespace = self.namespace();
        let words = std::iter::once(namespace.as_str()).chain(command.split(' '));
        run("nsenter", &words.map(OsStr::new).collect::<Vec<_>>());
    }

    /// The program under test, on the other host.
    fn program(&self, directory: &Path) -> PathBuf {
        let path = directory.join("far");
        let program = env!("CARGO_BIN_EXE_saltus");
        let script = format!("#!/bin/sh\nexec nsenter {} '{program}' \"$@\"\n", self.namespace());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// A primary here and its replica there.
    fn cluster(&self) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let mut replica = spec("replica-1", directory.path(), true);
        replica.backend = NATIVE;
        replica.program = self.program(directory.path());
        replica.replication = Some("10.77.1.2:7420".parse().unwrap());
        replica.admin = "10.77.2.2:7421".parse().unwrap();
        let replica = Node::start(replica);
        let mut primary = spec("primary", directory.path(), false);
        primary.backend = NATIVE;
        primary.replicas = vec![replica.as_replica()];
        fs::create_dir_all(&primary.data_root).unwrap();
        Cluster { primary: Node::start(primary), replicas: vec![replica], directory }
    }
}

#[test]
fn a_network_that_is_cut_is_noticed_by_both_and_healed_by_itself() {
    let Some(hosts) = Hosts::make() else { return };
    let mut cluster = hosts.cluster();
    let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
    until("it is served", || (cluster.replica(0, "alpha")?.flushed_lsn > 1 << 20).then_some(()));
    // No farewell, no reset: packets go nowhere.
    hosts.far("ip link set data down");
    let status = until("the primary gives it up", || {
        let status = cluster.replica(0, "alpha")?;
        (status.connection.failures > 0).then_some(status)
    });
    assert!(status.problem.is_some(), "{status:?}");
    assert_eq!(status.lag.seconds.map(|seconds| seconds > 1.0), Some(true), "lag goes on");
    until("the replica gives it up", || {
        let log = cluster.replicas[0].log();
        (log.contains("disconnected: ")).then_some(())
    });
    hosts.far("ip link set data up");
    until("they are together again", || cluster.replica(0, "alpha")?.connection.up.then_some(()));
    let written = writer.finish();
    cluster.await_flushed("alpha", written);
    cluster.assert_identical("alpha");
}

#[test]
fn packets_that_are_lost_cost_time_only() {
    let Some(hosts) = Hosts::make() else { return };
    // One packet in twenty, by chance, into a queue that takes none.
    let loss = [
        "qdisc add dev data root handle 1: htb default 10",
        "class add dev data parent 1: classid 1:10 htb rate 1gbit quantum 60000",
        "class add dev data parent 1: classid 1:20 htb rate 8bit ceil 8bit quantum 2000",
        "qdisc add dev data parent 1:20 handle 20: pfifo limit 1",
    ];
    let filter = "filter add dev data parent 1: bpf flowid 1:20 bytecode";
    let program = "4,32 0 0 4294963256,37 0 1 4080218931,6 0 0 4294967295,6 0 0 0";
    for command in loss {
        run("tc", &command.split(' ').map(OsStr::new).collect::<Vec<_>>());
        hosts.far(&format!("tc {command}"));
    }
    let words: Vec<_> = filter.split(' ').chain([program]).map(OsStr::new).collect();
    run("tc", &words);
    let mut cluster = hosts.cluster();
    let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
    until("a few megabytes are there", || {
        (cluster.replica(0, "alpha")?.flushed_lsn > 8 << 20).then_some(())
    });
    let written = writer.finish();
    cluster.await_flushed("alpha", written);
    cluster.assert_identical("alpha");
    let lost = Command::new("tc").args(["-s", "qdisc", "show", "dev", "data"]).output().unwrap();
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    let dropped = lost.split("dropped ").nth(2).and_then(|text| text.split(',').next());
    assert!(dropped.is_some_and(|count| count.parse::<u64>().unwrap() > 0), "{lost}");
}
