//! What a shard says of itself when it is asked.
//!
//! Nothing is published while nobody asks: an idle node with thousands of
//! spaces pays nothing for being observable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use super::primary::link::{Link, State};
use super::primary::slot::{Reached, Slot};
use super::primary::space::Space;
use super::replica::peer::Peer;
use super::status::{
    Connection, EpochStatus, HoleStatus, Lag, Latency, QuarantineStatus, ReplicaState,
    ReplicaStatus, Retention, Role, Seeding, SpaceStatus,
};
use crate::limits::{LAGGING_AFTER, LAGGING_UNWALKED_BYTES, PEER_TIMEOUT};
use crate::lsn::Lsn;
use crate::state::catalog::{Hole, SpaceRecord};

/// What one shard knows.
#[derive(Debug, Default)]
pub struct ShardReport {
    /// The backend in use.
    pub backend: &'static str,
    /// Its spaces, of both roles.
    pub spaces: Vec<SpaceStatus>,
    /// Frames that came damaged, by who was at the other end.
    pub corrupt_frames: BTreeMap<String, u64>,
    /// The data root has been listed for it: these are all.
    pub complete: bool,
}

/// The report of a shard.
pub fn of<'a>(
    backend: &'static str,
    now: Instant,
    spaces: impl Iterator<Item = &'a RefCell<Space>>,
    links: &[Link],
    peers: impl Iterator<Item = &'a Peer>,
) -> ShardReport {
    // A directory without a log in it is no space yet.
    let spaces = spaces.filter(|space| space.borrow().is_space());
    let shipped = spaces.map(|space| {
        let space = space.borrow();
        let head = space.head();
        SpaceStatus {
            space: space.id.clone(),
            role: Role::Primary,
            epoch: space.epoch(),
            // Nobody is caught up with what has not been looked at.
            head_lsn: space.farthest_head().0,
            head_known: space.is_head_known(),
            blocked: space.blocked().is_some(),
            head_sequence: head.sequence,
            flushed_lsn: None,
            primary: None,
            seeding: None,
            no_primary_seconds: None,
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
            // What is there of a log that has failed, recovery will tell.
            head_known: log.failed().is_none(),
            blocked: log.failed().or(log.stopped()).is_some(),
            head_sequence: log.received().sequence,
            flushed_lsn: Some(log.flushed().lsn.0),
            primary: peer.node.clone(),
            seeding: received_seed(&log.record, log.flushed().lsn),
            no_primary_seconds: None,
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
        complete: false,
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
    // Positions count as they were told on this connection, a moment ago.
    let live = up && heard && slot.confirmed && !slot.failed;
    let Reached { sent, ack, flushed } = slot.reached();
    // Nothing known is unknown, never 0.
    let known = slot.known && space.is_head_known();
    let age = space.age_behind(flushed.lsn, now);
    let farthest = space.farthest_head();
    // The catalog remembers a position that it has not confirmed yet. Where the log does
    // not come to it any more, nobody knows how much of the log the replica lacks.
    let there = flushed.lsn < farthest || (flushed.lsn, flushed.chain) == (head.lsn, head.chain);
    // Nor where the position is that of a cut: it tells nothing of the replica.
    let remembered = flushed.lsn > Lsn::ZERO && there && slot.met != Some(false);
    let placed = known || (space.is_head_known() && remembered);
    let caught_up = known && flushed.lsn >= farthest;
    // The age of what was not walked yet is not known.
    let unwalked = farthest.bytes_since(head.lsn.max(flushed.lsn));
    let close = unwalked <= LAGGING_UNWALKED_BYTES && age.is_some_and(|age| age <= LAGGING_AFTER);
    let seconds = if caught_up {
        live.then_some(0.0)
    } else {
        age.filter(|age| known && !age.is_zero()).map(|age| age.as_secs_f64())
    };
    let state = if slot.failed || link.refused || space.is_fenced() {
        ReplicaState::Failed
    } else if !up && link.is_degraded() || slot.is_degraded(live && caught_up, now) {
        ReplicaState::Degraded
    } else if !live {
        ReplicaState::Connecting
    } else if !known {
        ReplicaState::Unknown
    } else if caught_up || close {
        ReplicaState::Healthy
    } else {
        ReplicaState::Lagging
    };
    let latencies = latency(slot, now);
    ReplicaStatus {
        id: link.replica.clone(),
        state,
        sent_lsn: sent.0.max(ack.received.0),
        received_lsn: ack.received.0,
        written_lsn: ack.written.0,
        flushed_lsn: flushed.lsn.0,
        lag: Lag {
            bytes: placed.then(|| farthest.bytes_since(flushed.lsn)),
            records: placed.then(|| head.records.saturating_sub(flushed.records)),
            seconds,
        },
        append_to_flushed_us: latencies.0,
        recent_append_to_flushed_us: latencies.1,
        sent_bytes_by_strategy: strategies(slot),
        retention: slot.view.map(|view| Retention {
            retained_bytes: view.retained_bytes,
            budget_bytes: view.budget_bytes,
            forecast_seconds: view.forecast.map(|forecast| forecast.as_secs_f64()),
            lost: slot.is_lost(),
        }),
        seeding: shipped_seed(space, slot),
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

/// How far the filling of a replica is, as its primary sees it.
fn shipped_seed(space: &Space, slot: &Slot) -> Option<Seeding> {
    let record = slot.view.map(|view| view.record).filter(|_| slot.is_seeding())?;
    let rate = slot.rate.per_second();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let left = space.head().lsn.bytes_since(slot.flushed.lsn) as f64;
    let gain = rate.map(|rate| rate - space.growth.per_second().unwrap_or(0.0));
    Some(Seeding {
        bytes_per_second: rate,
        eta_seconds: gain.filter(|gain| *gain > 0.0).map(|gain| left / gain),
        ..progress(record.base, record.target, slot.flushed.lsn)
    })
}

/// The same, as the replica knows it.
#[must_use]
pub fn received_seed(record: &SpaceRecord, flushed: Lsn) -> Option<Seeding> {
    record.seed.map(|seed| progress(record.base.lsn, seed.target, flushed))
}

fn progress(base: Lsn, target: Lsn, flushed: Lsn) -> Seeding {
    let total_bytes = target.bytes_since(base);
    Seeding {
        base_lsn: base.0,
        target_lsn: target.0,
        done_bytes: flushed.bytes_since(base).min(total_bytes),
        total_bytes,
        bytes_per_second: None,
        eta_seconds: None,
    }
}

/// What a replica took, since the start and recently.
fn latency(slot: &Slot, now: Instant) -> (Latency, Latency) {
    let Some(latencies) = &slot.latency else { return Default::default() };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "microseconds below 2^27"
    )]
    let of = |count, at: &dyn Fn(f64) -> Option<f64>| {
        let at = |fraction| at(fraction).map(|us| us.round() as u64);
        Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), count }
    };
    let all = of(latencies.all.count(), &|fraction| latencies.all.quantile(fraction));
    let recent =
        of(latencies.recent_count(now), &|fraction| latencies.recent_quantile(now, fraction));
    (all, recent)
}

fn strategies(slot: &Slot) -> BTreeMap<String, u64> {
    slot.sent_bytes.iter().map(|(strategy, bytes)| (strategy.name().to_owned(), *bytes)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::engine::primary::retention::Base;
    use crate::engine::primary::space::Turned;
    use crate::ids::{Epoch, StreamId};
    use crate::lsn::{Chain, Mark};
    use crate::protocol::frame::Handle;
    use crate::state::catalog;
    use crate::state::slots::SlotRecord;
    use crate::wal::record::{Checksums, Header};
    use crate::wal::segment::Segment;

    /// A space whose log is one record, walked to its end.
    fn walked(directory: &std::path::Path) -> Space {
        let path = directory.join("wal-0000000000000001.log");
        let header = Header::new(0, 1, 1, b"one").unwrap().encode();
        std::fs::write(&path, [&header[..], b"one"].concat()).unwrap();
        let mut space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        space.learn(SpaceRecord::new(catalog::Role::Primary, StreamId(7), history));
        space.found(vec![(1, Arc::new(Segment::open(&path).unwrap()))]);
        while space.wants_turn() {
            for (_, start, _) in space.advance(Instant::now()).prefetch {
                space.prefetched(start);
            }
        }
        assert!(space.is_head_known() && space.head().records == 1);
        space
    }

    /// Its source has lost records after it had acknowledged them, and it has not told
    /// yet what it has of the log that is there now.
    #[test]
    fn who_was_behind_the_end_of_a_log_that_lost_records_is_not_said_to_lack_nothing() {
        let root = tempfile::tempdir().unwrap();
        let space = walked(root.path());
        let head = space.head();
        let lag = |flushed: Mark| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let now = Instant::now();
            let mut link = Link::new("replica".parse().unwrap(), address, now);
            link.slot(0).recall(&SlotRecord { flushed, ..SlotRecord::default() });
            let lag = replica(now, &space, &link).lag;
            (lag.bytes, lag.records)
        };
        let at = |lsn| Mark { lsn: Lsn(lsn), ..head };
        assert_eq!(lag(head), (Some(0), Some(0)), "it was at the head");
        assert_eq!(lag(Mark { records: 0, ..at(1) }), (Some(head.lsn.0 - 1), Some(1)));
        assert_eq!(lag(at(head.lsn.0 + 1)), (None, None), "the log ends before it");
        let other = Mark { chain: Chain(!head.chain.0), ..head };
        assert_eq!(lag(other), (None, None), "the log has other records up to there");
    }

    /// It read 0 while the replica had other records before the cut than the source.
    #[test]
    fn where_a_stream_was_cut_is_not_where_its_replica_is() {
        let root = tempfile::tempdir().unwrap();
        let space = walked(root.path());
        let head = space.head();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let now = Instant::now();
        let mut link = Link::new("replica".parse().unwrap(), address, now);
        let flushed = Mark { lsn: Lsn(head.lsn.0 + 100), ..head };
        let slot = link.slot(0);
        slot.recall(&SlotRecord { flushed, ..SlotRecord::default() });
        slot.cut(Turned { at: head, sure: head.lsn });
        assert_eq!(slot.flushed, head);
        let lag = replica(now, &space, &link).lag;
        assert_eq!((lag.bytes, lag.records), (None, None));
        link.slot(0).resumed(head, head.lsn);
        assert_eq!(replica(now, &space, &link).lag.bytes, Some(0));
    }

    /// It was shown where its seed begins, as if it had made all before that
    /// durable.
    #[test]
    fn a_replica_whose_seed_is_reserved_is_reported_where_it_was() {
        let space = Space::new("alpha".parse().unwrap(), Handle(0), 0, Checksums::Required);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let now = Instant::now();
        let mut link = Link::new("replica".parse().unwrap(), address, now);
        let mark = |lsn| Mark { lsn: Lsn(lsn), ..Mark::START };
        link.slot(0).resumed(mark(500), Lsn(1000));
        link.slot(0).reserve(Base { mark: mark(900), first_run: 1 }, Lsn(1000));
        let status = replica(now, &space, &link);
        let positions = [status.sent_lsn, status.received_lsn, status.flushed_lsn];
        assert_eq!(positions, [500; 3]);
        assert_eq!(status.seeding.map(|seed| seed.done_bytes), Some(0));
    }
}
