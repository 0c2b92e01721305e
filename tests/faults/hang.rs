//! A process that hangs, and goes on.

use nix::sys::signal::Signal;
use saltus::engine::status::ReplicaState;
use saltus::io::BackendChoice;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::{Load, Steady};

const LOAD: Load =
    Load { segment_bytes: 4 << 20, max_payload: 64 << 10, bytes_per_second: 4 << 20, seed: 11 };

#[test]
fn a_process_that_hangs_is_given_up_and_goes_on_when_it_can() {
    std::thread::scope(|scope| {
        for backend in BACKENDS {
            scope.spawn(move || replica_hangs(backend));
            scope.spawn(move || primary_hangs(backend));
        }
    });
}

fn replica_hangs(backend: BackendChoice) {
    let mut cluster = Cluster::start(backend, 2);
    let writer = Steady::start(cluster.primary.wal("alpha"), LOAD);
    until("both are served", || {
        let ready = |index| cluster.replica(index, "alpha").map_or(0, |r| r.flushed_lsn) > 0;
        [0, 1].map(ready).iter().all(|ready| *ready).then_some(())
    });
    cluster.replicas[0].signal(Signal::SIGSTOP);
    let status = until("it is given up", || {
        let status = cluster.replica(0, "alpha")?;
        (status.connection.failures > 0).then_some(status)
    });
    let problem = status.problem.unwrap();
    assert!(status.connection.since_seconds.is_some(), "{problem}");
    let other = cluster.replica(1, "alpha").unwrap();
    assert_eq!(other.state, ReplicaState::Healthy, "nobody else notices: {other:?}");
    cluster.replicas[0].signal(Signal::SIGCONT);
    let written = writer.finish();
    cluster.await_flushed("alpha", written);
    cluster.assert_identical("alpha");
}

fn primary_hangs(backend: BackendChoice) {
    let mut cluster = Cluster::start(backend, 1);
    let mut segment = cluster.fill("alpha", 3, 1000);
    cluster.primary.signal(Signal::SIGSTOP);
    segment.records(3, 1000);
    until("it is given up", || {
        cluster.replicas[0].log().contains("nothing heard for 10s").then_some(())
    });
    // The space is free: another connection may have it.
    cluster.primary.signal(Signal::SIGCONT);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}
