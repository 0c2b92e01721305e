//! What a shard says of itself when it is asked.
//!
//! Nothing is published while nobody asks: an idle node with thousands of
//! spaces pays nothing for being observable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use super::primary::link::{Link, Slot, State};
use super::primary::space::Space;
use super::replica::peer::Peer;
use super::status::{
    Connection, EpochStatus, HoleStatus, Lag, Latency, QuarantineStatus, ReplicaState,
    ReplicaStatus, Role, SpaceStatus,
};
use crate::limits::{LAGGING_AFTER, PEER_TIMEOUT};
use crate::state::catalog::Hole;

/// What one shard knows.
#[derive(Debug, Default)]
pub struct ShardReport {
    /// The backend in use.
    pub backend: &'static str,
    /// Its spaces, of both roles.
    pub spaces: Vec<SpaceStatus>,
    /// Frames that came damaged, by who was at the other end.
    pub corrupt_frames: BTreeMap<String, u64>,
}

/// The report of a shard.
pub fn of<'a>(
    backend: &'static str,
    now: Instant,
    spaces: impl Iterator<Item = &'a RefCell<Space>>,
    links: &[Link],
    peers: impl Iterator<Item = &'a Peer>,
) -> ShardReport {
    let shipped = spaces.map(|space| {
        let space = space.borrow();
        let head = space.head();
        SpaceStatus {
            space: space.id.clone(),
            role: Role::Primary,
            epoch: space.epoch(),
            // Nobody is caught up with what has not been looked at.
            head_lsn: space.farthest_head().0,
            head_sequence: head.sequence,
            flushed_lsn: None,
            primary: None,
            problem: space.problem(),
            holes: space.holes().iter().map(hole).collect(),
            replicas: links.iter().map(|link| replica(now, &space, link)).collect(),
            epochs: EpochStatus::of(space.history()),
            highest_epoch: Some(space.highest_epoch()),
            quarantine: QuarantineStatus::default(),
        }
    });
    let received = peers.flat_map(|peer| {
        peer.logs().map(move |log| SpaceStatus {
            space: log.space.clone(),
            role: Role::Replica,
            epoch: log.epoch,
            head_lsn: log.received().lsn.0,
            head_sequence: log.received().sequence,
            flushed_lsn: Some(log.flushed().lsn.0),
            primary: peer.node.clone(),
            problem: log.failed().or(log.stopped()).map(str::to_owned),
            holes: Vec::new(),
            replicas: Vec::new(),
            epochs: EpochStatus::of(&log.record.history),
            highest_epoch: Some(log.record.highest_epoch),
            quarantine: QuarantineStatus::default(),
        })
    });
    ShardReport {
        backend,
        spaces: shipped.chain(received).collect(),
        corrupt_frames: BTreeMap::new(),
    }
}

fn hole(hole: &Hole) -> HoleStatus {
    HoleStatus {
        segment: hole.segment.to_string(),
        offset: hole.offset,
        bytes: hole.bytes,
        lsn: hole.lsn.0,
        reason: hole.reason.clone(),
        unix_ns: hole.unix_ns,
    }
}

/// One replica of one space.
fn replica(now: Instant, space: &Space, link: &Link) -> ReplicaStatus {
    let unknown = Slot::default();
    let slot = link.slots.get(space.handle.0 as usize).unwrap_or(&unknown);
    let head = space.head();
    let heard = link.heard_at.is_some_and(|at| now.duration_since(at) < PEER_TIMEOUT);
    let up = matches!(&link.state, State::Up(up) if up.established);
    let age = space.age_behind(slot.flushed.lsn, now);
    let farthest = space.farthest_head();
    let caught_up = slot.flushed.lsn >= farthest;
    // Nothing known is unknown, never 0; and caught up is 0 only while the
    // replica is heard from.
    let seconds = if !slot.known || (caught_up && !(up && heard)) {
        None
    } else if caught_up {
        Some(0.0)
    } else {
        Some(age.as_secs_f64())
    };
    let state = if slot.failed || link.refused || space.is_fenced() {
        ReplicaState::Failed
    } else if !up && link.is_degraded() {
        ReplicaState::Degraded
    } else if !up && !slot.known {
        ReplicaState::Connecting
    } else if !up || (!caught_up && age > LAGGING_AFTER) {
        ReplicaState::Lagging
    } else if slot.known {
        ReplicaState::Healthy
    } else {
        ReplicaState::Connecting
    };
    ReplicaStatus {
        id: link.replica.clone(),
        state,
        sent_lsn: slot.sent.0.max(slot.ack.received.0),
        received_lsn: slot.ack.received.0,
        written_lsn: slot.ack.written.0,
        flushed_lsn: slot.flushed.lsn.0,
        lag: Lag {
            bytes: farthest.bytes_since(slot.flushed.lsn),
            records: head.records.saturating_sub(slot.flushed.records),
            seconds,
        },
        append_to_flushed_us: latency(slot),
        sent_bytes_by_strategy: strategies(slot),
        problem: slot.problem.clone().or_else(|| link.problem.clone()),
        connection: Connection {
            up,
            since_seconds: (up || link.failures > 0)
                .then(|| now.duration_since(link.since).as_secs_f64()),
            failures: link.failures,
            next_attempt_seconds: link.next_attempt(now).map(|pause| pause.as_secs_f64()),
        },
        corrupt_frames: link.corrupt_frames,
    }
}

fn latency(slot: &Slot) -> Latency {
    let Some(latency) = &slot.latency else { return Latency::default() };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "microseconds below 2^27"
    )]
    let at = |fraction| latency.quantile(fraction).map(|us| us.round() as u64);
    Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), count: latency.count() }
}

fn strategies(slot: &Slot) -> BTreeMap<String, u64> {
    slot.sent_bytes.iter().map(|(strategy, bytes)| (strategy.name().to_owned(), *bytes)).collect()
}
