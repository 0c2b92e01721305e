//! No descriptors left.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::Segment;

/// The program with so many descriptors at most.
fn limited(directory: &Path, most: u32) -> PathBuf {
    let path = directory.join(format!("limited-{most}"));
    let program = env!("CARGO_BIN_EXE_saltus");
    fs::write(&path, format!("#!/bin/sh\nulimit -n {most}\nexec '{program}' \"$@\"\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn a_replica_without_descriptors_takes_them_from_who_says_nothing() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        cluster.replicas[0].terminate();
        cluster.replicas[0].spec.program = limited(cluster.directory.path(), 64);
        cluster.replicas[0].restart();
        let mut segment = cluster.fill("alpha", 3, 100);
        let address = cluster.replicas[0].spec.replication.unwrap();
        let crowd: Vec<_> = (0..150).map(|_| TcpStream::connect(address).unwrap()).collect();
        until("it says so", || {
            cluster.replicas[0].log().contains("could not be accepted").then_some(())
        });
        cluster.primary.kill();
        cluster.primary.restart();
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        drop(crowd);
        let log = cluster.replicas[0].log();
        // Whatever else opens a file just then says so on its own account.
        let lines = log.lines().filter(|line| line.contains("could not be accepted")).count();
        assert_eq!(lines, 1, "one line a minute:\n{log}");
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_primary_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        cluster.primary.terminate();
        cluster.primary.spec.program = limited(cluster.directory.path(), 64);
        cluster.primary.restart();
        // Each takes one, until the server has waited for a question for long
        // enough.
        let mute: Vec<_> =
            (0..32).map(|_| TcpStream::connect(cluster.primary.spec.admin).unwrap()).collect();
        // Each segment that is followed is held open.
        let wal = cluster.primary.wal("alpha");
        let mut total = 0;
        for number in 1..21 {
            total += Segment::create(&wal, number).records(1, 100).len();
        }
        // In the log: to answer for its status it would need one more.
        until("it says so", || cluster.primary.log().contains("Too many open files").then_some(()));
        drop(mute);
        cluster.await_flushed("alpha", total);
        until("it is well again", || {
            cluster.primary.space("alpha")?.problem.is_none().then_some(())
        });
        cluster.assert_identical("alpha");
    }
}
