//! Slow replicas, large backlogs, and events that get lost.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::cluster::{BACKENDS, Cluster, Node, until};
use crate::feed::{Load, Segment, Steady};
use crate::skipped::skipped;

/// Anonymous memory of a process, bytes.
pub fn anonymous_bytes(node: &mut Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_replica_that_stands_still_hurts_nobody() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let load = Load {
            segment_bytes: 8 << 20,
            max_payload: 1 << 20,
            bytes_per_second: 40 << 20,
            seed: 3,
        };
        let writer = Steady::start(cluster.primary.wal("alpha"), load);
        until("both are served", || {
            let ready = |index| cluster.replica(index, "alpha").map_or(0, |r| r.flushed_lsn) > 0;
            [0, 1].map(ready).iter().all(|ready| *ready).then_some(())
        });
        cluster.replicas[0].signal(Signal::SIGSTOP);
        let before = anonymous_bytes(&mut cluster.primary);
        let start = writer.written();
        let mut most = before;
        until("the other one stays with the writer", || {
            most = most.max(anonymous_bytes(&mut cluster.primary));
            let there = cluster.replica(1, "alpha")?.flushed_lsn;
            (there > start + (48 << 20)).then_some(())
        });
        assert!(most < before + (16 << 20), "{most} bytes of anonymous memory, {before} before");
        cluster.replicas[0].signal(Signal::SIGCONT);
        let written = writer.finish();
        cluster.await_flushed("alpha", written);
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_large_catch_up_does_not_hold_up_another_space() {
    const BACKLOG: u64 = 256 << 20;
    for backend in BACKENDS {
        let mut bytes = 0;
        let mut cluster = Cluster::with(
            1,
            |spec| spec.backend = backend,
            |root| {
                let wal = root.join("backlog/wal");
                for number in 1..=BACKLOG >> 26 {
                    let mut segment = Segment::create(&wal, number);
                    segment.records(64, (1 << 20) - 64);
                    bytes += segment.len();
                }
            },
        );
        assert_eq!(bytes, BACKLOG);
        let mut segment = Segment::create(&cluster.primary.wal("tail"), 1);
        let mut arrivals = 0;
        loop {
            let backlog = cluster.replica(0, "backlog").map_or(0, |r| r.flushed_lsn);
            if backlog == BACKLOG {
                break;
            }
            segment.records(1, 200);
            cluster.await_flushed("tail", segment.len());
            arrivals += u64::from(backlog > 0);
        }
        // One extent is 2 MiB; each record waits for a few of them at most.
        assert!(arrivals >= 4, "only {arrivals} records got past the backlog");
        cluster.assert_identical("backlog");
        cluster.assert_identical("tail");
    }
}

/// The most events that the kernel queues for one watcher.
fn max_queued_events() -> u64 {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn everything_arrives_although_events_were_lost() {
    let events = max_queued_events();
    if events > 1 << 17 {
        skipped(&format!("the queue holds {events} events, too many to overflow in a test"));
        return;
    }
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut one = Segment::create(&cluster.primary.wal("space-1"), 1);
        let mut two = Segment::create(&cluster.primary.wal("space-2"), 1);
        one.records(1, 10);
        two.records(1, 10);
        cluster.await_flushed("space-1", one.len());
        cluster.await_flushed("space-2", two.len());
        cluster.primary.signal(Signal::SIGSTOP);
        // Equal events in a row become one, so the two take turns.
        for _ in 0..events {
            one.records(1, 0);
            two.records(1, 0);
        }
        // The events of these are lost.
        let mut later = Segment::create(&cluster.primary.wal("space-1"), 2);
        later.records(3, 100);
        let mut third = Segment::create(&cluster.primary.wal("space-3"), 1);
        third.records(3, 100);
        cluster.primary.signal(Signal::SIGCONT);
        cluster.await_flushed("space-1", one.len() + later.len());
        cluster.await_flushed("space-2", two.len());
        cluster.await_flushed("space-3", third.len());
        assert!(cluster.primary.log().contains("file events were lost"), "nothing overflowed");
        for space in ["space-1", "space-2", "space-3"] {
            cluster.assert_identical(space);
        }
    }
}

#[test]
fn many_spaces_that_grow_together_all_arrive() {
    let mut cluster = Cluster::with(2, |spec| spec.shards = 2, |_| {});
    let mut segments: Vec<_> = (0..60)
        .map(|number| {
            let space = format!("space-{number}");
            let segment = Segment::create(&cluster.primary.wal(&space), 1);
            (space, segment)
        })
        .collect();
    for round in 0..20 {
        for (_, segment) in &mut segments {
            segment.records(1, 100 * round);
        }
    }
    let spaces: BTreeSet<_> = segments.iter().map(|(space, _)| space.clone()).collect();
    assert_eq!(spaces.len(), 60);
    for (space, segment) in &segments {
        cluster.await_flushed(space, segment.len());
        cluster.assert_identical(space);
    }
}

/// A program that starts the node in a user namespace of its own, where an
/// inotify limit is lower. None if namespaces are not to be had here.
fn with_limit(directory: &Path, limit: &str, value: u32) -> Option<PathBuf> {
    let path = directory.join("limited");
    let script = format!(
        "#!/bin/sh\nexec unshare --user --map-root-user sh -ec \
         'echo {value} >/proc/sys/user/{limit}; exec \"$@\"' sh {} \"$@\"\n",
        env!("CARGO_BIN_EXE_saltus")
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(Mode::S_IRWXU.bits())).unwrap();
    let works = Command::new(&path).arg("--version").output().unwrap().status.success();
    if !works {
        skipped("no user namespace with a limit of its own can be made here");
    }
    works.then_some(path)
}

#[test]
fn spaces_beyond_the_limit_of_watches_are_scanned() {
    for (backend, limit) in BACKENDS.into_iter().zip([3, 0]) {
        let mut cluster = Cluster::start(backend, 1);
        let directory = cluster.directory.path().to_path_buf();
        let Some(program) = with_limit(&directory, "max_inotify_watches", limit) else { return };
        cluster.primary.terminate();
        cluster.primary.spec.program = program;
        cluster.primary.restart();
        let mut segments: Vec<_> = (0..6)
            .map(|number| {
                let space = format!("space-{number}");
                let mut segment = Segment::create(&cluster.primary.wal(&space), 1);
                segment.records(2, 100);
                (space, segment)
            })
            .collect();
        for (space, segment) in &mut segments {
            cluster.await_flushed(space, segment.len());
            segment.records(2, 100);
        }
        for (space, segment) in &segments {
            cluster.await_flushed(space, segment.len());
            cluster.assert_identical(space);
        }
        assert!(cluster.primary.log().contains("max_user_watches"), "it says so");
    }
}

#[test]
fn without_inotify_everything_is_scanned() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let directory = cluster.directory.path().to_path_buf();
        let Some(program) = with_limit(&directory, "max_inotify_instances", 0) else { return };
        cluster.primary.terminate();
        cluster.primary.spec.program = program;
        cluster.primary.restart();
        let mut segment = cluster.fill("alpha", 2, 100);
        segment.records(2, 100);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}
