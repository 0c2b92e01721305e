//! Resuming after either side was gone, at any moment.

use saltus::ids::Epoch;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{ErrorCode, SegmentOpen};
use saltus::protocol::receiver::Intent;
use saltus::protocol::sender::Event;

use super::pair::{BATCH, Pair};

const A: Handle = Handle(0);
const B: Handle = Handle(1);

#[test]
fn a_new_connection_goes_on_where_the_replica_stands() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 10, 100);
    pair.settle();
    pair.reconnect(false);
    pair.append(A, 5, 100);
    pair.intents.clear();
    pair.settle();
    pair.check_identical();
    let starts = pair.intents.iter().filter_map(|intent| match intent {
        Intent::Data { start, skip, .. } => Some((start.0, *skip)),
        _ => None,
    });
    assert_eq!(starts.collect::<Vec<_>>(), [(1000, 0)], "nothing that is flushed is shipped again");
    assert!(!pair.intents.iter().any(|intent| matches!(intent, Intent::Run { .. })));
}

/// A log of several runs, empty ones among them.
fn history() -> Pair {
    let mut pair = Pair::streaming(2);
    for handle in [A, B] {
        for length in [3, 0, 40, 0, 0, 7, 1200] {
            pair.log(handle).rotate();
            pair.log(handle).append(length, 1000);
        }
        pair.sender.handle_head(pair.now, handle);
    }
    pair
}

/// Until everything is shipped, flushed and acknowledged.
fn finish(pair: &mut Pair) {
    pair.flush_at_once = true;
    for handle in [A, B] {
        pair.flush(handle);
    }
    for _ in 0..3 {
        pair.settle();
        pair.advance(BATCH.max_delay);
    }
}

#[test]
fn a_restart_after_any_frame_leaves_no_gap_and_no_duplicate() {
    for crashed in [false, true] {
        for flush_every in [1, 2, 5] {
            for frames in 0..24 {
                let mut pair = history();
                pair.flush_at_once = false;
                pair.send();
                for count in 0..frames {
                    pair.deliver_one();
                    if count % flush_every == 0 {
                        pair.flush(A);
                    }
                    pair.reply();
                    pair.deliver_reply();
                }
                pair.check_prefix();
                pair.reconnect(crashed);
                finish(&mut pair);
                pair.check_identical();
                assert!(pair.stops().is_empty() && pair.closed().is_none());
                assert_eq!(pair.receiver.duplicate_bytes(), 0);
            }
        }
    }
}

#[test]
fn a_run_recorded_ahead_of_lost_data_is_not_announced_again() {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    pair.append(A, 5, 100);
    pair.log(A).rotate();
    pair.append(A, 5, 100);
    pair.send();
    while pair.deliver_one() {}
    assert_eq!(pair.copies[&A].log.runs.len(), 2);
    assert_eq!(pair.copies[&A].durable, 0);
    pair.reconnect(true);
    pair.flush_at_once = true;
    let mut kinds = Vec::new();
    for _ in 0..6 {
        pair.send();
        kinds.extend(pair.kinds());
        while pair.deliver_one() {}
        pair.reply();
        while pair.deliver_reply() {}
        pair.advance(BATCH.max_delay);
    }
    assert_eq!(
        kinds,
        [Kind::Hello, Kind::OpenSpace, Kind::Data, Kind::Data],
        "the position is in run 0, run 1 is known"
    );
    pair.check_identical();
}

#[test]
fn another_chain_at_the_replicas_position_stops_only_that_space() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 10, 100);
    pair.append(B, 10, 100);
    pair.settle();
    let copy = pair.copy(A);
    copy.log.marks[10].chain = Chain(12345);
    pair.reconnect(false);
    pair.append(A, 1, 100);
    pair.append(B, 1, 100);
    pair.events.clear();
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged)]);
    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Diverged)]);
    assert_eq!(pair.copies[&A].log.records.len(), 10, "nothing is added to it");
    assert_eq!(pair.copies[&B].durable, 11);
    assert!(matches!(
        pair.events.iter().find(|event| matches!(event, Event::Stopped { .. })),
        Some(Event::Stopped { retry: false, .. })
    ));
}

#[test]
fn a_replica_ahead_in_the_same_epoch_has_diverged_and_is_left_alone() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 10, 100);
    pair.settle();
    pair.log(A).truncate(4);
    pair.reconnect(false);
    pair.events.clear();
    pair.settle();
    let common = pair.events.iter().find_map(|event| match event {
        Event::Diverged { common, .. } => Some(*common),
        _ => None,
    });
    assert_eq!(common, Some(pair.log(A).head()), "the last common record is found");
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged)]);
    assert_eq!(pair.copies[&A].log.records.len(), 10, "what it has is left alone");
}

#[test]
fn a_position_that_is_no_boundary_here_has_diverged() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 10, 100);
    pair.settle();
    pair.copy(A).log.marks[10].lsn = Lsn(999);
    pair.reconnect(false);
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged)]);
}

#[test]
fn runs_that_the_primary_does_not_have_are_a_divergence() {
    let mut pair = Pair::streaming(2);
    for handle in [A, B] {
        pair.append(handle, 10, 100);
    }
    pair.settle();
    let run = SegmentOpen { ordinal: 1, start: Lsn(1000), ..pair.log(A).runs[0] };
    pair.copy(A).log.runs.push(run);
    // And too few: B's second run began before what B has.
    let second = SegmentOpen { ordinal: 1, start: Lsn(500), ..pair.log(B).runs[0] };
    pair.log(B).runs.push(second);
    pair.reconnect(false);
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged), (B, ErrorCode::Diverged)]);
}

#[test]
fn a_fenced_primary_is_told_and_ships_nothing() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 3, 100);
    pair.append(B, 3, 100);
    pair.settle();
    pair.copy(A).highest_epoch = Epoch(2);
    pair.reconnect(false);
    pair.append(A, 1, 100);
    pair.append(B, 1, 100);
    pair.events.clear();
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)]);
    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Fenced)]);
    assert_eq!(pair.copies[&A].log.records.len(), 3);
    assert_eq!(pair.copies[&B].durable, 4);
}

#[test]
fn a_fenced_primary_that_ships_all_the_same_is_refused_before_a_byte() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 3, 100);
    pair.send();
    let data = pair.to_replica.pop_back().unwrap();
    assert_eq!(data.kind(), Kind::Data);
    pair.reconnect(false);
    pair.copy(A).highest_epoch = Epoch(2);
    pair.send();
    pair.deliver_one();
    pair.reply();
    pair.deliver_reply();
    pair.send();
    pair.deliver_one();
    assert_eq!(pair.receiver.admit(&data.header).unwrap_err().0, ErrorCode::Fenced);
    assert!(matches!(pair.deliver(&data), Some(Intent::Stopped { code: ErrorCode::Fenced, .. })));
    assert!(pair.copies[&A].log.records.is_empty());
}
