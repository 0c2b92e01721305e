//! `/metrics`: the status of a node, for Prometheus.
//!
//! Rendered from the values of [`NodeStatus`] alone, when somebody asks:
//! nothing is counted for it. The names that begin with `engram_` are those
//! that dashboards of the database know; the others are our own. What the
//! status does not know is absent here, never 0.
//!
//! A new metric is one call of [`Exposition::family`] in the function of its
//! subject, and a line in `docs/OPERATIONS.md`.

use super::exposition::{Exposition, Kind, Sample, Value};
use crate::engine::status::{
    NodeStatus, ReplicaState, ReplicaStatus, Retention, Role, ScrubStatus, Seeding, SpaceStatus,
};

/// Every state that a replica can be in.
const STATES: [ReplicaState; 6] = [
    ReplicaState::Healthy,
    ReplicaState::Lagging,
    ReplicaState::Degraded,
    ReplicaState::Failed,
    ReplicaState::Connecting,
    ReplicaState::Unknown,
];

/// The text that Prometheus reads.
pub(super) fn render(status: &NodeStatus) -> String {
    let mut exposition = Exposition::default();
    node(&mut exposition, status);
    spaces(&mut exposition, status);
    positions(&mut exposition, status);
    lag(&mut exposition, status);
    retention(&mut exposition, status);
    seeds(&mut exposition, status);
    traffic(&mut exposition, status);
    scrub(&mut exposition, &status.scrub);
    exposition.finish()
}

/// Each pair of a space and its replica.
fn replicas(status: &NodeStatus) -> impl Iterator<Item = (&SpaceStatus, &ReplicaStatus)> {
    status
        .spaces
        .iter()
        .flat_map(|space| space.replicas.iter().map(move |replica| (space, replica)))
}

/// One sample for each pair of which the value is known.
fn of_replicas<'a, V: Into<Value>>(
    status: &'a NodeStatus,
    value: impl Fn(&ReplicaStatus) -> Option<V>,
) -> impl Iterator<Item = Sample<'a, 2>> {
    replicas(status).filter_map(move |(space, replica)| {
        let labels = [("space", space.space.as_str()), ("replica", replica.id.as_str())];
        Some((labels, value(replica)?.into()))
    })
}

/// One sample for each space of which the value is known.
fn of_spaces<'a, V: Into<Value>>(
    status: &'a NodeStatus,
    value: impl Fn(&SpaceStatus) -> Option<V>,
) -> impl Iterator<Item = Sample<'a, 2>> {
    status.spaces.iter().filter_map(move |space| {
        let labels = [("space", space.space.as_str()), ("role", space.role.as_str())];
        Some((labels, value(space)?.into()))
    })
}

/// One sample for each space that this node ships.
fn of_primaries(
    status: &NodeStatus,
    value: impl Fn(&SpaceStatus) -> u64,
) -> impl Iterator<Item = Sample<'_, 2>> {
    of_spaces(status, move |space| (space.role == Role::Primary).then(|| value(space)))
}

fn node(exposition: &mut Exposition, status: &NodeStatus) {
    let labels = [
        ("node", status.node.as_str()),
        ("cluster", status.cluster.as_str()),
        ("version", status.version.as_str()),
        ("backend", status.backend.as_str()),
    ];
    exposition.family(
        "saltus_info",
        Kind::Gauge,
        "What answers; always 1.",
        [(labels, Value::from(1))],
    );
    exposition.family(
        "saltus_problem",
        Kind::Gauge,
        "1 if something is wrong with the node as a whole; the status says what.",
        [([], Value::from(status.problem.is_some()))],
    );
    let flowing = |space: &SpaceStatus| match space.role {
        Role::Primary => {
            let flows = |replica: &&ReplicaStatus| {
                matches!(replica.state, ReplicaState::Healthy | ReplicaState::Lagging)
                    && replica.connection.up
                    && replica.problem.is_none()
            };
            space.replicas.iter().filter(flows).count() as u64
        }
        Role::Replica => u64::from(space.primary.is_some() && space.problem.is_none()),
    };
    exposition.family(
        "engram_replication_streams",
        Kind::Gauge,
        "Pairs of a space and a peer between which records flow or could flow.",
        [([], Value::from(status.spaces.iter().map(flowing).sum::<u64>()))],
    );
}

fn spaces(exposition: &mut Exposition, status: &NodeStatus) {
    exposition.family(
        "saltus_space_problem",
        Kind::Gauge,
        "1 if something is wrong with the space on this node; the status says what.",
        of_spaces(status, |space| Some(space.problem.is_some())),
    );
    exposition.family(
        "saltus_space_epoch",
        Kind::Gauge,
        "The reign under which the space is shipped.",
        of_spaces(status, |space| Some(space.epoch.0)),
    );
    exposition.family(
        "saltus_space_highest_epoch",
        Kind::Gauge,
        "The highest epoch ever heard of; on a primary, more than its own means fenced.",
        of_spaces(status, |space| space.highest_epoch.map(|epoch| epoch.0)),
    );
    exposition.family(
        "saltus_quarantine_pieces",
        Kind::Gauge,
        "Pieces of segments that were taken out of the stream and kept.",
        of_spaces(status, |space| Some(space.quarantine.pieces)),
    );
    exposition.family(
        "saltus_quarantine_bytes",
        Kind::Gauge,
        "Bytes that were taken out of the stream and kept.",
        of_spaces(status, |space| Some(space.quarantine.bytes)),
    );
    exposition.family(
        "saltus_holes",
        Kind::Gauge,
        "Ranges of the primary's files that were left out of the stream for good.",
        of_primaries(status, |space| space.holes.len() as u64),
    );
    exposition.family(
        "saltus_hole_bytes",
        Kind::Gauge,
        "Bytes of the primary's files that were left out of the stream for good.",
        of_primaries(status, |space| space.holes.iter().map(|hole| hole.bytes).sum()),
    );
    exposition.family(
        "saltus_replica_connected",
        Kind::Gauge,
        "1 while the connection that ships the space to the replica is up.",
        of_replicas(status, |replica| Some(replica.connection.up)),
    );
    exposition.family(
        "saltus_replica_connection_failures",
        Kind::Gauge,
        "Attempts to reach the replica that have failed in a row.",
        of_replicas(status, |replica| Some(u64::from(replica.connection.failures))),
    );
    exposition.family(
        "saltus_replica_problem",
        Kind::Gauge,
        "1 if something is wrong with the replica of the space; the status says what.",
        of_replicas(status, |replica| Some(replica.problem.is_some())),
    );
    let states = replicas(status).flat_map(|(space, replica)| {
        STATES.iter().map(move |state| {
            let labels = [
                ("space", space.space.as_str()),
                ("replica", replica.id.as_str()),
                ("status", state.as_str()),
            ];
            (labels, Value::from(*state == replica.state))
        })
    });
    exposition.family(
        "engram_replication_replica_status",
        Kind::Gauge,
        "1 for the state that the replica of the space is in, 0 for the others.",
        states,
    );
}

fn positions(exposition: &mut Exposition, status: &NodeStatus) {
    exposition.family(
        "saltus_head_lsn",
        Kind::Gauge,
        "The position behind the last complete record on this node, in bytes of the stream.",
        of_spaces(status, |space| space.head_known.then_some(space.head_lsn)),
    );
    exposition.family(
        "saltus_flushed_lsn",
        Kind::Gauge,
        "The position up to which a received space is durable on this node.",
        of_spaces(status, |space| space.flushed_lsn.filter(|_| space.head_known)),
    );
    exposition.family(
        "saltus_replica_sent_lsn",
        Kind::Gauge,
        "The position up to which the space was handed to the replica's socket.",
        of_replicas(status, |replica| Some(replica.sent_lsn)),
    );
    exposition.family(
        "saltus_replica_flushed_lsn",
        Kind::Gauge,
        "The position up to which the replica has acknowledged the space as durable.",
        of_replicas(status, |replica| Some(replica.flushed_lsn)),
    );
}

fn lag(exposition: &mut Exposition, status: &NodeStatus) {
    exposition.family(
        "engram_replication_lag_seconds",
        Kind::Gauge,
        "Age of the oldest record that is not durable on the replica; absent while unknown.",
        of_replicas(status, |replica| replica.lag.seconds),
    );
    exposition.family(
        "engram_replication_lag_sequences",
        Kind::Gauge,
        "Records that are not durable on the replica.",
        of_replicas(status, |replica| replica.lag.records),
    );
    exposition.family(
        "engram_replication_lag_bytes",
        Kind::Gauge,
        "Bytes of the stream that are not durable on the replica.",
        of_replicas(status, |replica| replica.lag.bytes),
    );
    let quantiles = replicas(status).flat_map(|(space, replica)| {
        let latency = &replica.recent_append_to_flushed_us;
        [("0.5", latency.p50), ("0.99", latency.p99), ("0.999", latency.p999)]
            .into_iter()
            .filter_map(move |(quantile, microseconds)| {
                let labels = [
                    ("space", space.space.as_str()),
                    ("replica", replica.id.as_str()),
                    ("quantile", quantile),
                ];
                Some((labels, Value::from(seconds(microseconds?))))
            })
    });
    exposition.family(
        "saltus_append_to_flushed_seconds",
        Kind::Summary,
        "From a record's timestamp to the acknowledgement that it is durable, of the last minute.",
        quantiles,
    );
}

fn retention(exposition: &mut Exposition, status: &NodeStatus) {
    let mut gauge = |name, help, value: fn(&Retention) -> Option<Value>| {
        let of_slot = |replica: &ReplicaStatus| replica.retention.as_ref().and_then(value);
        exposition.family(name, Kind::Gauge, help, of_replicas(status, of_slot));
    };
    gauge(
        "saltus_slot_retained_bytes",
        "Bytes of segments without a name that are held because the replica still needs them.",
        |slot| Some(slot.retained_bytes.into()),
    );
    gauge(
        "saltus_slot_budget_bytes",
        "The most bytes that may be held for the replica; absent where no limit is known.",
        |slot| slot.budget_bytes.map(Value::from),
    );
    gauge(
        "saltus_slot_forecast_seconds",
        "When the replica's slot will be lost at the present growth; absent while nothing says so.",
        |slot| slot.forecast_seconds.map(Value::from),
    );
    gauge(
        "saltus_slot_lost",
        "1 while the replica's budget is spent and nothing is held for it.",
        |slot| Some(slot.lost.into()),
    );
}

fn seeds(exposition: &mut Exposition, status: &NodeStatus) {
    let mut gauge = |name, help, value: fn(&Seeding) -> Option<Value>| {
        let of_seed = |replica: &ReplicaStatus| replica.seeding.as_ref().and_then(value);
        exposition.family(name, Kind::Gauge, help, of_replicas(status, of_seed));
    };
    gauge(
        "saltus_replica_seed_bytes",
        "Bytes that the replica is being filled anew with; absent when it is not.",
        |seed| Some(seed.total_bytes.into()),
    );
    gauge(
        "saltus_replica_seed_done_bytes",
        "How many of them are durable on the replica.",
        |seed| Some(seed.done_bytes.into()),
    );
    gauge(
        "saltus_replica_seed_bytes_per_second",
        "How fast the replica is being filled; absent while that is not known.",
        |seed| seed.bytes_per_second.map(Value::from),
    );
    gauge(
        "saltus_replica_seed_eta_seconds",
        "When the replica will be at the head; absent while that is not known, or never.",
        |seed| seed.eta_seconds.map(Value::from),
    );
    let mut gauge = |name, help, value: fn(&Seeding) -> u64| {
        let of_seed = |space: &SpaceStatus| space.seeding.as_ref().map(value);
        exposition.family(name, Kind::Gauge, help, of_spaces(status, of_seed));
    };
    gauge(
        "saltus_seed_bytes",
        "Bytes that this replica is being filled anew with; absent when it is not.",
        |seed| seed.total_bytes,
    );
    gauge("saltus_seed_done_bytes", "How many of them are durable here.", |seed| seed.done_bytes);
}

fn traffic(exposition: &mut Exposition, status: &NodeStatus) {
    let sent = replicas(status).map(|(space, replica)| {
        let labels = [
            ("space", space.space.as_str()),
            ("replica", replica.id.as_str()),
            ("direction", "sent"),
        ];
        (labels, Value::from(replica.sent_bytes_by_strategy.values().sum::<u64>()))
    });
    exposition.family(
        "engram_replication_bytes_total",
        Kind::Counter,
        "Bytes of records shipped to the replica since the process started.",
        sent,
    );
    let strategies = replicas(status).flat_map(|(space, replica)| {
        replica.sent_bytes_by_strategy.iter().map(move |(strategy, bytes)| {
            let labels = [
                ("space", space.space.as_str()),
                ("replica", replica.id.as_str()),
                ("strategy", strategy.as_str()),
            ];
            (labels, Value::from(*bytes))
        })
    });
    exposition.family(
        "saltus_sent_bytes_total",
        Kind::Counter,
        "Bytes of records shipped, by the way from file to socket that carried them.",
        strategies,
    );
    let corrupt = (status.corrupt_frames.iter())
        .map(|(peer, frames)| ([("peer", peer.as_str())], Value::from(*frames)));
    exposition.family(
        "saltus_corrupt_frames_total",
        Kind::Counter,
        "Frames that came damaged, by the node at the other end; each was refused and sent again.",
        corrupt,
    );
}

fn scrub(exposition: &mut Exposition, scrub: &ScrubStatus) {
    let mut counter = |name, help, value: u64| {
        exposition.family(name, Kind::Counter, help, [([], Value::from(value))]);
    };
    counter(
        "saltus_scrub_passes_total",
        "Passes over the data root that have ended.",
        scrub.passes,
    );
    counter("saltus_scrub_segments_total", "Segments verified at rest.", scrub.segments);
    counter("saltus_scrub_bytes_total", "Bytes verified at rest.", scrub.bytes);
    counter(
        "saltus_scrub_healed_ranges_total",
        "Ranges of received spaces that were fetched again and put in their place.",
        scrub.healed_ranges,
    );
    exposition.family(
        "saltus_scrub_bad_ranges",
        Kind::Gauge,
        "Ranges of segments at rest that the last pass found damaged.",
        [([], Value::from(scrub.bad_ranges.len() as u64))],
    );
}

#[expect(clippy::cast_precision_loss, reason = "microseconds below 2^53")]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
