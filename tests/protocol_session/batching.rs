//! When a frame is cut, how large, and whose turn it is.

use std::time::Duration;

use saltus::limits::{MAX_EXTENT_BYTES, MAX_WINDOW_BYTES, MAX_WINDOW_FRAMES};
use saltus::protocol::frame::{Handle, Kind};

use super::pair::{BATCH, Pair};

const A: Handle = Handle(0);
const B: Handle = Handle(1);

/// Space A with one record in flight: shipped, not flushed.
fn one_in_flight() -> Pair {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    pair.append(A, 1, 100);
    pair.send();
    assert_eq!(pair.kinds(), [Kind::SegmentOpen, Kind::Data]);
    while pair.deliver_one() {}
    pair
}

#[test]
fn with_nothing_in_flight_a_record_ships_at_once() {
    one_in_flight();
}

#[test]
fn while_a_frame_is_in_flight_99_records_gather_and_the_100th_ships_them() {
    let mut pair = one_in_flight();
    pair.append(A, 99, 100);
    pair.send();
    assert!(pair.to_replica.is_empty());
    pair.append(A, 1, 100);
    pair.send();
    assert_eq!(pair.to_replica.len(), 1);
    assert_eq!(pair.to_replica[0].header.records, 100);
}

#[test]
fn a_gathering_batch_ships_after_its_delay_and_not_before() {
    let mut pair = one_in_flight();
    pair.append(A, 1, 100);
    pair.send();
    let deadline = pair.now.instant + BATCH.max_delay;
    assert_eq!(pair.sender.next_timeout(), Some(deadline));
    pair.advance(BATCH.max_delay - Duration::from_nanos(1));
    pair.append(A, 1, 100);
    pair.send();
    assert!(pair.to_replica.is_empty(), "news does not shift the deadline either way");
    assert_eq!(pair.sender.next_timeout(), Some(deadline));
    pair.advance(Duration::from_nanos(1));
    pair.send();
    assert_eq!(pair.to_replica.len(), 1);
    assert_eq!(pair.to_replica[0].header.records, 2);
    assert!(pair.sender.next_timeout() > Some(deadline));
}

#[test]
fn a_gathering_batch_ships_at_the_byte_cap() {
    let mut pair = one_in_flight();
    let cap = u64::from(BATCH.max_bytes.min(MAX_EXTENT_BYTES));
    pair.append(A, 1, cap - 64);
    pair.send();
    assert!(pair.to_replica.is_empty());
    pair.append(A, 1, 64);
    pair.send();
    assert_eq!(pair.to_replica.len(), 1);
    assert_eq!(u64::from(pair.to_replica[0].header.payload_bytes), cap);
}

#[test]
fn a_gathering_batch_ships_when_the_flight_is_flushed() {
    let mut pair = one_in_flight();
    pair.append(A, 1, 100);
    pair.send();
    assert!(pair.to_replica.is_empty());
    pair.flush(A);
    pair.reply();
    assert!(pair.deliver_reply());
    pair.send();
    assert_eq!(pair.to_replica.len(), 1);
}

#[test]
fn catching_up_ships_whole_extents_without_delay() {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    pair.append(A, 10_000, 1000);
    pair.send();
    let data: Vec<_> = pair.to_replica.iter().filter(|f| f.kind() == Kind::Data).collect();
    assert_eq!(data.len(), 10, "10 MB in extents of 1 MiB");
    for frame in &data[..9] {
        let missing = BATCH.max_bytes - frame.header.payload_bytes;
        assert!(missing < 1000, "as many records as fit");
    }
}

#[test]
fn a_record_larger_than_an_extent_travels_alone() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 1, 100);
    pair.append(A, 1, 16 << 20);
    pair.append(A, 1, 100);
    pair.settle();
    pair.advance(BATCH.max_delay);
    pair.settle();
    pair.check_identical();
}

#[test]
fn the_window_bounds_what_is_in_flight_by_bytes() {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    pair.append(A, 600, 1 << 20);
    pair.send();
    assert_eq!(pair.sender.sent(A).unwrap().0, MAX_WINDOW_BYTES);
    while pair.deliver_one() {}
    pair.reply();
    while pair.deliver_reply() {}
    pair.send();
    assert_eq!(pair.sender.sent(A).unwrap().0, MAX_WINDOW_BYTES, "received is not flushed");
    pair.flush(A);
    pair.reply();
    while pair.deliver_reply() {}
    pair.send();
    assert_eq!(pair.sender.sent(A).unwrap().0, 2 * MAX_WINDOW_BYTES);
}

#[test]
fn the_window_bounds_what_is_in_flight_by_frames() {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    let mut shipped = 0;
    for _ in 0..MAX_WINDOW_FRAMES + 50 {
        pair.append(A, 100, 64);
        pair.send();
        shipped += pair.to_replica.iter().filter(|f| f.kind() == Kind::Data).count();
        while pair.deliver_one() {}
    }
    assert_eq!(shipped, MAX_WINDOW_FRAMES);
    pair.flush(A);
    pair.flush_at_once = true;
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_large_catch_up_delays_another_space_by_one_extent_at_most() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 200, 1 << 20);
    for _ in 0..20 {
        assert!(pair.send_one());
    }
    pair.to_replica.clear();
    pair.append(B, 1, 100);
    let mut before = 0;
    loop {
        assert!(pair.send_one());
        let frame = pair.to_replica.pop_back().unwrap();
        if frame.header.handle == B && frame.kind() == Kind::Data {
            break;
        }
        if frame.header.handle == A {
            before += 1;
        }
    }
    assert!(before <= 1, "{before} extents of A went before");
}

#[test]
fn spaces_that_catch_up_take_turns() {
    let mut pair = Pair::streaming(3);
    for number in 0..3 {
        pair.append(Handle(number), 30, 1 << 20);
    }
    pair.send();
    let turns: Vec<_> = pair
        .to_replica
        .iter()
        .filter(|f| f.kind() == Kind::Data)
        .map(|f| f.header.handle.0)
        .collect();
    assert_eq!(turns.len(), 90);
    assert!(turns.chunks(3).all(|turn| turn == [0, 1, 2]), "{turns:?}");
}

#[test]
fn a_frame_never_spans_two_runs() {
    let mut pair = Pair::streaming(1);
    for _ in 0..20 {
        pair.log(A).append(7, 100);
        pair.log(A).rotate();
        // Zero-size segments: several runs begin at one position.
        pair.log(A).rotate();
    }
    pair.append(A, 1, 100);
    pair.settle();
    pair.advance(BATCH.max_delay);
    pair.settle();
    pair.check_identical();
    assert_eq!(pair.copies[&A].log.runs.len(), 41);
}

#[test]
fn an_empty_run_is_announced_without_data() {
    let mut pair = Pair::streaming(1);
    pair.log(A).rotate();
    pair.sender.handle_head(pair.now, A);
    pair.settle();
    assert_eq!(pair.copies[&A].log.runs.len(), 1);
    pair.check_identical();
}

#[test]
fn acks_are_coalesced_per_space() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 20, 1 << 20);
    pair.append(B, 20, 1 << 20);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    let kinds: Vec<_> = pair.to_primary.iter().map(|f| f.kind()).collect();
    assert_eq!(kinds, [Kind::Ack, Kind::Ack], "40 flushes, two acks");
}

#[test]
fn received_bytes_are_acknowledged_by_the_megabyte_without_a_flush() {
    let mut pair = Pair::streaming(1);
    pair.flush_at_once = false;
    pair.append(A, 3, 1 << 20);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    assert!(pair.to_primary.is_empty());
    pair.append(A, 1, 1 << 20);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    assert_eq!(pair.to_primary.len(), 1);
    while pair.deliver_reply() {}
    assert!(pair.closed().is_none() && pair.stops().is_empty());
}
