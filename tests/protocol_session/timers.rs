//! Heartbeats and time-outs.

use std::time::Duration;

use saltus::limits::{CONNECT_TIMEOUT, HEARTBEAT_INTERVAL, PEER_TIMEOUT};
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{ErrorCode, Message};
use saltus::protocol::sender::Event;

use super::pair::Pair;

const A: Handle = Handle(0);

#[test]
fn a_thousand_idle_spaces_cost_one_heartbeat_each_way() {
    let mut pair = Pair::streaming(1000);
    for _ in 0..30 {
        assert!(pair.sender.next_timeout() >= Some(pair.now.instant + HEARTBEAT_INTERVAL));
        pair.advance(HEARTBEAT_INTERVAL);
        pair.send();
        assert_eq!(pair.kinds(), [Kind::Heartbeat]);
        let Message::Heartbeat(beat) = pair.to_replica[0].message() else { panic!() };
        assert_eq!(beat.unix_ns, pair.now.unix_ns);
        pair.deliver_one();
        pair.reply();
        assert_eq!(pair.to_primary.len(), 1);
        assert_eq!(pair.to_primary[0].kind(), Kind::Heartbeat);
        pair.deliver_reply();
    }
    assert!(pair.closed().is_none() && pair.replica_closed().is_none());
}

#[test]
fn a_busy_connection_sends_no_heartbeats() {
    let mut pair = Pair::streaming(1);
    for _ in 0..40 {
        pair.append(A, 1, 100);
        pair.send();
        assert!(!pair.kinds().contains(&Kind::Heartbeat));
        pair.settle();
        pair.advance(HEARTBEAT_INTERVAL / 4);
        assert!(pair.to_primary.is_empty());
    }
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut pair = Pair::streaming(1);
    pair.advance(PEER_TIMEOUT - Duration::from_nanos(1));
    assert!(pair.closed().is_none() && pair.replica_closed().is_none());
    pair.advance(Duration::from_nanos(1));
    assert_eq!(pair.replica_closed().unwrap().0, ErrorCode::Timeout);
    assert!(matches!(
        pair.events.last(),
        Some(Event::Closed { code: ErrorCode::Timeout, retry: true, .. })
    ));
}

#[test]
fn bytes_of_an_unfinished_frame_count_as_a_sign_of_life() {
    let mut pair = Pair::streaming(1);
    for _ in 0..10 {
        pair.advance(PEER_TIMEOUT / 2);
        pair.receiver.handle_bytes(pair.now);
        pair.sender.handle_bytes(pair.now);
    }
    assert!(pair.closed().is_none() && pair.replica_closed().is_none());
    assert_eq!(pair.sender.last_heard(), pair.now.instant);
    assert_eq!(pair.receiver.last_heard(), pair.now.instant);
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let mut pair = Pair::new();
    pair.send();
    pair.to_replica.clear();
    assert_eq!(pair.sender.next_timeout(), Some(pair.now.instant + CONNECT_TIMEOUT));
    pair.receiver.handle_bytes(pair.now);
    pair.advance(CONNECT_TIMEOUT - Duration::from_nanos(1));
    pair.sender.handle_bytes(pair.now);
    assert!(pair.closed().is_none() && pair.replica_closed().is_none());
    pair.advance(Duration::from_nanos(1));
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Timeout);
    assert_eq!(pair.replica_closed().unwrap().0, ErrorCode::Timeout);
}

#[test]
fn a_blocked_socket_does_not_make_the_timer_spin() {
    let mut pair = Pair::streaming(1);
    for _ in 0..5 {
        pair.advance(HEARTBEAT_INTERVAL);
        pair.sender.handle_bytes(pair.now);
        pair.receiver.handle_bytes(pair.now);
        assert!(pair.sender.next_timeout() > Some(pair.now.instant));
        assert!(pair.receiver.next_timeout() > Some(pair.now.instant));
    }
    pair.send();
    assert_eq!(pair.kinds(), [Kind::Heartbeat], "five were due, one is sent");
}
