//! A wall clock that jumps.

use saltus::engine::status::ReplicaState;
use saltus::io::BackendChoice;

use crate::cluster::{Cluster, until};
use crate::shim::Shim;

#[test]
fn a_clock_that_jumps_changes_neither_the_stream_nor_the_lag() {
    let mut cluster = Cluster::start(BackendChoice::Portable, 1);
    let Some(shim) = Shim::build(cluster.directory.path()) else { return };
    for node in [&mut cluster.primary, &mut cluster.replicas[0]] {
        node.terminate();
        node.spec.program = shim.program();
        node.restart();
    }
    let mut segment = cluster.fill("alpha", 3, 100);
    // A day ahead, a day behind, before the Unix epoch, and right again.
    for offset in [86_400_i64, -86_400, -3_000_000_000, 0] {
        shim.set("clock", &offset.to_string());
        segment.records(3, 100);
        cluster.await_flushed("alpha", segment.len());
        let status = until("it is caught up, and heard of", || {
            let status = cluster.replica(0, "alpha")?;
            (status.lag.seconds == Some(0.0)).then_some(status)
        });
        assert_eq!(status.state, ReplicaState::Healthy);
        assert!(status.connection.up && status.connection.failures == 0, "{status:?}");
    }
    cluster.primary.kill();
    cluster.primary.restart();
    segment.records(3, 100);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
}
