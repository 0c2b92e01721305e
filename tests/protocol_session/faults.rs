//! Frames that come twice, late, damaged or not at all, and peers that err.

use saltus::ids::Epoch;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Ack, ErrorCode, Heartbeat, Message};
use saltus::protocol::receiver::Intent;

use super::pair::{Frame, Pair, forge};

const A: Handle = Handle(0);
const B: Handle = Handle(1);

/// Space A with three frames of two records on the wire, B with one.
fn on_the_wire() -> (Pair, Vec<Frame>) {
    let mut pair = Pair::streaming(2);
    pair.append(A, 6, 512 << 10);
    pair.append(B, 1, 100);
    pair.send();
    let is_data = |f: &Frame| f.kind() == Kind::Data && f.header.handle == A;
    let data: Vec<_> = pair.to_replica.iter().filter(|f| is_data(f)).cloned().collect();
    assert_eq!(data.len(), 3);
    pair.to_replica.retain(|f| !is_data(f));
    while pair.deliver_one() {}
    assert_eq!(pair.copies[&B].durable, 1);
    (pair, data)
}

/// What was lost comes again after the space is opened anew.
fn heals(mut pair: Pair) {
    pair.settle();
    assert_eq!(pair.stops(), pair.replica_stops());
    assert_eq!(pair.stops().len(), 1);
    pair.check_prefix();
    pair.open(A);
    pair.append(B, 1, 100);
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_duplicate_frame_changes_nothing_and_is_acknowledged() {
    let (mut pair, data) = on_the_wire();
    pair.to_replica.extend(data.iter().cloned());
    while pair.deliver_one() {}
    pair.reply();
    while pair.deliver_reply() {}
    let before = pair.copies[&A].log.clone();
    for frame in &data {
        assert_eq!(pair.deliver(frame), None);
    }
    assert_eq!(pair.copies[&A].log, before);
    assert_eq!(pair.receiver.duplicate_bytes(), 6 * (512 << 10));
    pair.reply();
    assert_eq!(pair.to_primary.len(), 1);
    pair.settle();
    pair.check_identical();
    assert!(pair.stops().is_empty());
}

#[test]
fn the_known_part_of_an_overlapping_frame_is_skipped() {
    let (mut pair, data) = on_the_wire();
    pair.deliver(&data[0]);
    let header =
        FrameHeader { records: 4, payload_bytes: 2 << 20, raw_bytes: 2 << 20, ..data[0].header };
    let records = [&data[0].records[..], &data[1].records[..]].concat();
    let overlapping = Frame { header, body: Vec::new(), records };
    let intent = pair.deliver(&overlapping);
    assert_eq!(intent, Some(Intent::Data { handle: A, start: Lsn(1 << 20), skip: 1 << 20 }));
    pair.deliver(&data[2]);
    pair.settle();
    pair.check_identical();
}

#[test]
fn a_dropped_frame_stops_the_space_and_a_new_opening_heals_it() {
    let (mut pair, data) = on_the_wire();
    pair.deliver(&data[0]);
    assert_eq!(pair.receiver.admit(&data[2].header).unwrap_err().0, ErrorCode::Gap);
    pair.to_replica.push_back(data[2].clone());
    // What is under way behind it is dropped without a further word.
    pair.to_replica.push_back(data[1].clone());
    heals(pair);
}

#[test]
fn frames_in_another_order_stop_the_space_and_a_new_opening_heals_it() {
    let (mut pair, data) = on_the_wire();
    pair.to_replica.extend(data.into_iter().rev());
    heals(pair);
}

#[test]
fn data_before_its_run_is_refused() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 1, 100);
    pair.send();
    assert_eq!(pair.to_replica.pop_front().unwrap().kind(), Kind::SegmentOpen);
    heals(pair);
}

#[test]
fn a_run_announced_twice_shows_once() {
    let mut pair = Pair::streaming(1);
    pair.append(A, 1, 100);
    pair.send();
    let run = pair.to_replica[0].clone();
    pair.to_replica.push_front(run.clone());
    pair.to_replica.push_back(run.clone());
    pair.settle();
    pair.check_identical();
    let Message::SegmentOpen(mut other) = run.message() else { panic!() };
    other.file += 1;
    let forged = forge(&Message::SegmentOpen(other), A, 1);
    assert!(matches!(
        pair.deliver(&forged),
        Some(Intent::Stopped { code: ErrorCode::Protocol, .. })
    ));
}

#[test]
fn a_run_out_of_order_stops_the_space() {
    for (ordinal, start) in [(2, 100), (1, 99), (1, 101)] {
        let mut pair = Pair::streaming(1);
        pair.append(A, 1, 100);
        pair.settle();
        let mut run = pair.log(A).runs[0];
        (run.ordinal, run.start) = (ordinal, Lsn(start));
        let intent = pair.deliver(&forge(&Message::SegmentOpen(run), A, 1));
        assert!(matches!(intent, Some(Intent::Stopped { code: ErrorCode::Gap, .. })));
    }
}

#[test]
fn a_frame_of_any_other_epoch_is_refused_before_a_byte() {
    for epoch in [0, 2, u64::MAX] {
        let (mut pair, data) = on_the_wire();
        let mut stale = data[0].clone();
        stale.header.epoch = Epoch(epoch);
        assert_eq!(pair.receiver.admit(&stale.header).unwrap_err().0, ErrorCode::Fenced);
        assert!(pair.copies[&A].log.records.is_empty());
        pair.to_replica.push_back(stale);
        while pair.deliver_one() {}
        assert_eq!(pair.replica_stops(), [(A, ErrorCode::Fenced)]);
        assert!(pair.copies[&A].log.records.is_empty());
        pair.to_replica.extend(data);
        pair.settle();
        assert!(pair.copies[&A].log.records.is_empty(), "the good ones behind it neither");
        assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)]);
        assert_eq!(pair.replica_stops().len(), 1);
    }
}

#[test]
fn nonsensical_data_headers_stop_the_space() {
    type Change = fn(&mut FrameHeader);
    let changes: [Change; 4] = [
        |header| header.raw_bytes += 1,
        |header| header.records = 0,
        |header| header.records = header.payload_bytes,
        |header| header.start = Lsn(u64::MAX),
    ];
    for change in changes {
        let (mut pair, data) = on_the_wire();
        let mut bad = data[0].clone();
        change(&mut bad.header);
        assert_eq!(pair.receiver.admit(&bad.header).unwrap_err().0, ErrorCode::Protocol);
        pair.to_replica.push_back(bad);
        heals(pair);
    }
}

#[test]
fn data_for_an_unknown_space_closes_the_connection() {
    let (mut pair, mut data) = on_the_wire();
    data[0].header.handle = Handle(77);
    let intent = pair.deliver(&data[0]);
    assert!(matches!(intent, Some(Intent::Closed { code: ErrorCode::Protocol, .. })));
    pair.settle();
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Protocol);
}

#[test]
fn a_record_that_fails_its_checksum_stops_only_its_space() {
    let (mut pair, data) = on_the_wire();
    let intent = pair.receiver.handle_frame(pair.now, &data[0].header, &[]);
    assert!(matches!(intent, Some(Intent::Data { .. })));
    pair.receiver.stop_space(pair.now, A, ErrorCode::Corrupt, "record at 0".to_owned());
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Corrupt)]);
    pair.open(A);
    pair.append(B, 1, 100);
    pair.settle();
    pair.check_identical();
}

#[test]
fn another_chain_in_a_flushed_ack_stops_only_that_space() {
    let mut pair = Pair::streaming(2);
    pair.append(A, 2, 100);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    let Message::Ack(mut ack) = pair.to_primary.pop_front().unwrap().message() else { panic!() };
    ack.chain = Chain(ack.chain.0 ^ 1);
    pair.to_primary.push_back(forge(&Message::Ack(ack), A, 1));
    while pair.deliver_reply() {}
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged)]);
    pair.append(A, 1, 100);
    pair.append(B, 1, 100);
    pair.settle();
    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Diverged)]);
    assert_eq!(pair.copies[&A].log.records.len(), 2);
    assert_eq!(pair.copies[&B].durable, 1);
}

/// Space A: 300 bytes flushed and acknowledged, then a frame of 300 in flight.
fn acknowledged() -> (Pair, Ack) {
    let mut pair = Pair::streaming(2);
    pair.append(A, 3, 100);
    pair.settle();
    pair.append(A, 3, 100);
    pair.send();
    pair.events.clear();
    let mark = pair.log(A).marks[3];
    let at = mark.lsn;
    let ack = Ack {
        received: at,
        written: at,
        flushed: at,
        applied: Lsn::ZERO,
        sequence: mark.sequence,
        chain: mark.chain,
    };
    (pair, ack)
}

#[test]
fn acks_that_cannot_be_are_refused() {
    type Change = fn(&mut Ack);
    let changes: [(&str, Change); 8] = [
        ("received before it was sent", |ack| ack.received = Lsn(601)),
        ("written before received", |ack| ack.written = Lsn(400)),
        ("flushed before written", |ack| {
            (ack.received, ack.flushed) = (Lsn(600), Lsn(600));
        }),
        ("applied before flushed", |ack| ack.applied = Lsn(301)),
        ("flushed in mid-frame", |ack| {
            (ack.received, ack.written, ack.flushed) = (Lsn(500), Lsn(500), Lsn(500));
        }),
        ("flushed went back", |ack| ack.flushed = Lsn(0)),
        ("received went back", |ack| {
            (ack.received, ack.written, ack.flushed) = (Lsn(200), Lsn(200), Lsn(200));
        }),
        ("written went back", |ack| {
            (ack.written, ack.flushed) = (Lsn(200), Lsn(200));
        }),
    ];
    for (what, change) in changes {
        let (mut pair, mut ack) = acknowledged();
        change(&mut ack);
        pair.to_primary.push_back(forge(&Message::Ack(ack), A, 1));
        pair.deliver_reply();
        assert_eq!(pair.stops(), [(A, ErrorCode::Protocol)], "{what}");
        assert!(pair.closed().is_none(), "{what}");
    }
}

#[test]
fn an_ack_without_news_is_harmless() {
    let (mut pair, ack) = acknowledged();
    pair.to_primary.push_back(forge(&Message::Ack(ack), A, 1));
    pair.deliver_reply();
    assert!(pair.stops().is_empty());
    pair.settle();
    pair.check_identical();
}

#[test]
fn an_ack_of_another_epoch_is_not_obeyed() {
    let (mut pair, ack) = acknowledged();
    pair.to_primary.push_back(forge(&Message::Ack(ack), A, 2));
    pair.deliver_reply();
    assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)]);
    assert_eq!(pair.events.len(), 1);
}

#[test]
fn a_frame_for_the_other_role_closes_the_connection() {
    let (mut pair, ack) = acknowledged();
    let frame = forge(&Message::Ack(ack), A, 1);
    let intent = pair.deliver(&frame);
    assert!(matches!(intent, Some(Intent::Closed { code: ErrorCode::Protocol, .. })));

    let (mut pair, _) = acknowledged();
    let run = pair.log(A).runs[0];
    pair.to_primary.push_back(forge(&Message::SegmentOpen(run), A, 1));
    pair.deliver_reply();
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Protocol);
}

#[test]
fn a_damaged_body_closes_the_connection() {
    let mut pair = Pair::streaming(1);
    let beat = Message::Heartbeat(Heartbeat { unix_ns: 5 });
    let mut frame = forge(&beat, Handle::CONNECTION, 0);
    frame.body[0] ^= 1;
    let intent = pair.deliver(&frame);
    let Some(Intent::Closed { code: ErrorCode::Corrupt, reason }) = intent else { panic!() };
    assert!(reason.contains("CRC"), "{reason}");
    pair.to_primary.push_back(frame);
    pair.deliver_reply();
    assert_eq!(pair.closed().unwrap().0, ErrorCode::Corrupt);
}

#[test]
fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let mut pair = Pair::new();
    pair.add_space(A);
    pair.copy(A).refuse = Some(ErrorCode::Busy);
    pair.send();
    while pair.deliver_one() {}
    pair.reply();
    while pair.deliver_reply() {}
    pair.send();
    let open = pair.to_replica.pop_front().unwrap();
    let error = forge(
        &Message::Error(saltus::protocol::message::Refusal::new(ErrorCode::Busy, String::new())),
        A,
        1,
    );
    let mut rounds = 0;
    while pair.receiver.is_established() {
        pair.deliver(&open);
        pair.deliver(&error);
        rounds += 1;
        assert!(rounds < 1_000_000, "never cut off");
    }
    assert!(pair.receiver.poll_transmit(pair.now).unwrap().len() < 17 << 20);
}
