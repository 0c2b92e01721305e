//! Who may talk to whom, and how a space is opened.

use saltus::ids::Epoch;
use saltus::limits::MAX_GREETING_BYTES;
use saltus::lsn::Lsn;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{ErrorCode, Hello, HelloAck, Message, Refusal};
use saltus::protocol::receiver::Intent;
use saltus::protocol::sender::Event;

use super::pair::{Frame, Pair, forge, identity};

const A: Handle = Handle(0);

#[test]
fn a_record_travels_from_append_to_flushed_ack() {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.settle();
    assert!(matches!(
        &pair.intents[..],
        [Intent::Established { peer, shard: 3 }, Intent::Open { handle: A, .. }]
            if *peer == identity("test", "one", 1)
    ));
    assert!(matches!(
        &pair.events[..],
        [Event::Established { peer }, Event::Resume { handle: A, .. }]
            if *peer == identity("test", "two", 2)
    ));
    pair.events.clear();

    pair.append(A, 3, 1000);
    pair.send();
    assert_eq!(pair.kinds(), [Kind::SegmentOpen, Kind::Data]);
    assert_eq!(pair.sender.sent(A), Some(pair.log(A).head().lsn));
    pair.settle();
    pair.check_identical();
    let head = pair.log(A).head();
    let Some(Event::Acked { ack, flushed, .. }) = pair.events.last() else { panic!() };
    assert_eq!((ack.received, ack.written, ack.flushed), (head.lsn, head.lsn, head.lsn));
    assert_eq!((ack.sequence, ack.chain), (2, head.chain));
    assert_eq!(*flushed, Some(head), "with the timestamp, to measure by");
}

#[test]
fn every_frame_of_a_space_carries_its_epoch() {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.log(A).history = vec![(Epoch(5), Lsn::ZERO)];
    pair.reconnect(false);
    pair.append(A, 1, 100);
    let mut epochs = Vec::new();
    for _ in 0..8 {
        pair.send();
        epochs.extend(pair.to_replica.iter().map(|f| (f.header.handle, f.header.epoch.0)));
        while pair.deliver_one() {}
        pair.reply();
        epochs.extend(pair.to_primary.iter().map(|f| (f.header.handle, f.header.epoch.0)));
        while pair.deliver_reply() {}
    }
    assert_eq!(epochs.len(), 7, "hellos, open, open-ack, run, data, ack");
    for (handle, epoch) in epochs {
        assert_eq!(epoch, if handle == Handle::CONNECTION { 0 } else { 5 });
    }
    assert_eq!(pair.sender.epoch(A), Some(Epoch(5)));
}

#[test]
fn a_node_that_reaches_itself_is_refused_by_name() {
    let me = identity("test", "one", 1);
    let mut pair = Pair::of(me.clone(), me);
    pair.add_space(A);
    pair.settle();
    let (code, reason) = pair.replica_closed().unwrap();
    assert_eq!(code, ErrorCode::Itself);
    assert!(reason.contains("this node has reached itself"), "{reason}");
    let (code, reason) = pair.closed().unwrap();
    assert_eq!(code, ErrorCode::Itself);
    assert!(reason.contains("this node has reached itself"), "{reason}");
    assert!(pair.copies[&A].log.records.is_empty());
}

#[test]
fn a_node_is_itself_even_if_its_cluster_was_renamed() {
    let mut pair = Pair::of(identity("old", "one", 1), identity("new", "two", 1));
    pair.settle();
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Itself);
}

#[test]
fn two_nodes_of_one_name_are_refused_with_both_uuids() {
    let mut pair = Pair::of(identity("test", "one", 1), identity("test", "one", 2));
    pair.settle();
    let (code, reason) = pair.closed().unwrap();
    assert_eq!(code, ErrorCode::Itself);
    assert!(reason.contains("two nodes are called one"), "{reason}");
}

#[test]
fn another_cluster_is_refused_by_name() {
    let mut pair = Pair::of(identity("blue", "one", 1), identity("green", "two", 2));
    pair.settle();
    let (code, reason) = pair.closed().unwrap();
    assert_eq!(code, ErrorCode::Cluster);
    assert!(reason.contains("blue") && reason.contains("green"), "{reason}");
    assert!(matches!(pair.events.last(), Some(Event::Closed { retry: false, .. })));
}

#[test]
fn a_primary_checks_who_answers_by_the_same_rules() {
    for (answer, code) in [
        (identity("test", "one", 1), ErrorCode::Itself),
        (identity("test", "one", 9), ErrorCode::Itself),
        (identity("other", "two", 2), ErrorCode::Cluster),
    ] {
        let mut pair = Pair::new();
        let ack = HelloAck { version: 1, features: 0, identity: answer };
        feed(&mut pair, &forge(&Message::HelloAck(ack), Handle::CONNECTION, 0));
        assert_eq!(pair.closed().unwrap().0, code);
    }
}

/// Hands a forged frame to the primary.
fn feed(pair: &mut Pair, frame: &Frame) {
    pair.sender.handle_frame(pair.now, &frame.header, &frame.body);
    pair.take_events();
}

#[test]
fn without_a_common_version_both_ends_say_so() {
    let mut pair = Pair::new();
    let hello = Hello {
        min_version: 2,
        max_version: 7,
        shard: 0,
        features: 0,
        identity: identity("test", "one", 1),
    };
    pair.to_replica.push_back(forge(&Message::Hello(hello), Handle::CONNECTION, 0));
    pair.deliver_one();
    let (code, reason) = pair.replica_closed().unwrap();
    assert_eq!(code, ErrorCode::Version);
    assert!(reason.contains("2 to 7"), "{reason}");
    pair.reply();
    pair.deliver_reply();
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Version);
}

#[test]
fn a_newer_primary_that_still_speaks_version_1_is_taken_without_its_features() {
    let mut pair = Pair::new();
    let hello = Hello {
        min_version: 1,
        max_version: 9,
        shard: 0,
        features: u64::MAX,
        identity: identity("test", "one", 1),
    };
    pair.to_replica.push_back(forge(&Message::Hello(hello), Handle::CONNECTION, 0));
    pair.deliver_one();
    pair.reply();
    let Message::HelloAck(ack) = pair.to_primary[0].message() else { panic!() };
    assert_eq!((ack.version, ack.features), (1, 0));
}

#[test]
fn an_answer_that_was_not_offered_is_refused() {
    for (version, features, code) in
        [(2, 0, ErrorCode::Version), (0, 0, ErrorCode::Version), (1, 1, ErrorCode::Protocol)]
    {
        let mut pair = Pair::new();
        let ack = HelloAck { version, features, identity: identity("test", "two", 2) };
        feed(&mut pair, &forge(&Message::HelloAck(ack), Handle::CONNECTION, 0));
        assert_eq!(pair.closed().unwrap().0, code);
    }
}

#[test]
fn spaces_are_opened_as_they_appear() {
    let mut pair = Pair::streaming(1);
    pair.add_space(Handle(9));
    pair.append(Handle(9), 1, 100);
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_busy_space_is_stopped_with_a_retry_and_can_be_opened_again() {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.append(A, 5, 100);
    pair.copy(A).refuse = Some(ErrorCode::Busy);
    for _ in 0..3 {
        pair.settle();
        assert!(matches!(
            pair.events.last(),
            Some(Event::Stopped { code: ErrorCode::Busy, retry: true, .. })
        ));
        assert_eq!(pair.sender.sent(A), None);
        pair.open(A);
    }
    pair.copy(A).refuse = None;
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_space_that_is_open_already_goes_on_when_it_is_opened_again() {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.append(A, 4, 100);
    for _ in 0..3 {
        // Before it is asked for, and while it streams.
        pair.open(A);
        pair.settle();
        pair.check_identical();
        pair.append(A, 4, 100);
    }
    assert!(pair.stops().is_empty(), "{:?}", pair.stops());
}

#[test]
fn a_space_that_both_ends_stop_at_once_opens_cleanly_again() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 4, 100);
    pair.send();
    let (now, why) = (pair.now, || "test".to_owned());
    pair.sender.stop_space(now, A, ErrorCode::Shutdown, why());
    pair.receiver.stop_space(now, A, ErrorCode::Storage, why());
    pair.open(A);
    pair.settle();
    assert!(pair.stops().is_empty(), "both were asked for: {:?}", pair.stops());
    pair.append(A, 4, 100);
    pair.append(Handle(1), 4, 100);
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_space_stopped_by_the_primary_is_given_up_by_the_replica() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 1, 100);
    pair.sender.stop_space(pair.now, A, ErrorCode::Role, "moved away".to_owned());
    pair.settle();
    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Role)]);
    assert!(pair.stops().is_empty());
    assert!(pair.copies[&A].log.records.is_empty(), "nothing more is shipped");
    pair.append(Handle(1), 1, 100);
    pair.settle();
    assert_eq!(pair.copies[&Handle(1)].durable, 1);
}

#[test]
fn a_handle_in_use_is_not_opened_twice() {
    let mut pair = Pair::streaming(2);
    let Message::OpenSpace(open) = open_frame().message() else { panic!() };
    pair.to_replica.push_back(forge(&Message::OpenSpace(open), A, 1));
    pair.deliver_one();
    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Protocol)]);
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Protocol)]);
    pair.append(Handle(1), 1, 100);
    pair.settle();
    assert_eq!(pair.copies[&Handle(1)].durable, 1);
}

/// An `OpenSpace` as the primary makes it.
fn open_frame() -> Frame {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    while pair.deliver_reply() {}
    pair.send();
    pair.to_replica.pop_front().unwrap()
}

#[test]
fn one_space_too_many_is_refused_and_the_others_stay() {
    let mut pair = Pair::streaming(0);
    let frame = open_frame();
    let Message::OpenSpace(open) = frame.message() else { panic!() };
    let limit = u32::try_from(saltus::limits::MAX_SPACES).unwrap();
    for number in 0..limit {
        let frame = forge(&Message::OpenSpace(open.clone()), Handle(number), 1);
        let intent = pair.receiver.handle_frame(pair.now, &frame.header, &frame.body);
        assert!(matches!(intent, Some(Intent::Open { .. })));
    }
    let frame = forge(&Message::OpenSpace(open), Handle(limit), 1);
    assert_eq!(pair.receiver.handle_frame(pair.now, &frame.header, &frame.body), None);
    pair.reply();
    let Message::Error(Refusal { code, .. }) = pair.to_primary[0].message() else { panic!() };
    assert_eq!(code, ErrorCode::Limit);
    // The primary's answer to the refusal concerns no space that is known.
    let answer = Message::Error(Refusal::new(code, String::new()));
    let frame = forge(&answer, Handle(limit), 1);
    assert_eq!(pair.receiver.handle_frame(pair.now, &frame.header, &frame.body), None);
    assert!(pair.receiver.is_established());
}

#[test]
fn frames_before_the_handshake_are_refused() {
    let mut pair = Pair::new();
    pair.to_replica.push_back(open_frame());
    pair.deliver_one();
    assert_eq!(pair.replica_closed().unwrap().0, ErrorCode::Protocol);
    assert!(!pair.receiver.is_established());
}

#[test]
fn shutting_down_is_told_to_the_peer() {
    let mut pair = Pair::streaming(1);
    pair.receiver.close(pair.now, ErrorCode::Shutdown, "going down".to_owned());
    pair.settle();
    assert!(matches!(
        pair.events.last(),
        Some(Event::Closed { code: ErrorCode::Shutdown, retry: true, .. })
    ));
    assert_eq!((pair.sender.next_timeout(), pair.receiver.next_timeout()), (None, None));

    let mut pair = Pair::streaming(1);
    pair.sender.close(pair.now, ErrorCode::Shutdown, "going down".to_owned());
    pair.settle();
    assert_eq!(pair.replica_closed().unwrap().0, ErrorCode::Shutdown);
}

#[test]
fn what_is_durable_is_acknowledged_before_the_connection_is_closed() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 3, 1000);
    pair.append(Handle(1), 2, 1000);
    pair.send();
    while pair.deliver_one() {}
    // Flushed, and not yet told when the replica is stopped.
    pair.receiver.close(pair.now, ErrorCode::Shutdown, "going down".to_owned());
    pair.reply();
    let kinds: Vec<_> = pair.to_primary.iter().map(Frame::kind).collect();
    assert_eq!(kinds, [Kind::Ack, Kind::Ack, Kind::Error]);
    while pair.deliver_reply() {}
    let head = pair.log(A).head();
    let told = pair.events.iter().any(
        |event| matches!(event, Event::Acked { handle: A, flushed: Some(mark), .. } if *mark == head),
    );
    assert!(told, "{:?}", pair.events);
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Shutdown);
}

#[test]
fn before_the_handshake_no_large_frame_is_taken() {
    for (kind, bytes) in [(Kind::Hello, MAX_GREETING_BYTES + 1), (Kind::Error, 60 << 10)] {
        let mut pair = Pair::new();
        let header = FrameHeader::bare(kind, Handle::CONNECTION, Epoch(0));
        let header = FrameHeader { payload_bytes: bytes, raw_bytes: bytes, ..header };
        assert_eq!(pair.receiver.admit(&header).unwrap_err().0, ErrorCode::Protocol);
        let intent = pair.receiver.handle_frame(pair.now, &header, &[]);
        assert!(matches!(intent, Some(Intent::Closed { code: ErrorCode::Protocol, .. })));
    }
    // The longest names that there are.
    let long = "n".repeat(64);
    let mut pair = Pair::of(identity(&long, &long, 1), identity(&long, "two", 2));
    pair.add_space(A);
    pair.settle();
    assert!(pair.receiver.is_established());
}
