//! Random bytes, random frames, random schedules.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use saltus::ids::{Epoch, SegmentName, StreamId};
use saltus::limits::MAX_LSN;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{
    Ack, Boundary, ErrorCode, Heartbeat, Hello, HelloAck, Message, OpenSpace, Refusal, SegmentOpen,
    Standing, Truncate,
};

use saltus::protocol::receiver::Intent;

use super::pair::{BATCH, Frame, Pair, forge, identity};

/// Positions around those that the tests use.
fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![4 => (0..12u64).prop_map(|n| Lsn(n * 100)), 1 => (0..=MAX_LSN).prop_map(Lsn)]
}

fn handle() -> impl Strategy<Value = Handle> {
    prop_oneof![6 => (0..3u32).prop_map(Handle), 1 => Just(Handle::CONNECTION)]
}

fn message() -> impl Strategy<Value = Message> {
    let hello = (0..3u8, any::<u64>(), 1..4u128).prop_map(|(extra, features, uuid)| {
        let identity = identity("test", "peer", uuid);
        Message::Hello(Hello {
            min_version: 1,
            max_version: 1 + extra,
            shard: 0,
            features,
            identity,
        })
    });
    let hello_ack = (0..3u8, 0..2u64, 1..4u128).prop_map(|(version, features, uuid)| {
        let identity = identity("test", "peer", uuid);
        Message::HelloAck(HelloAck { version, features, identity })
    });
    let open = (1..4u64, lsn()).prop_map(|(epoch, head)| {
        Message::OpenSpace(OpenSpace {
            space: "space-0".parse().unwrap(),
            stream: StreamId(7),
            history: vec![(Epoch(epoch), Lsn::ZERO)],
            head,
        })
    });
    let standing = (lsn(), lsn(), 0..3u64, 0..3u32).prop_map(|(flushed, common, epoch, runs)| {
        Message::OpenAck(Standing {
            flushed,
            chain: Chain::START,
            records: 0,
            highest_epoch: Epoch(epoch),
            runs,
            common: common.min(flushed),
        })
    });
    let run = (0..4u32, lsn()).prop_map(|(ordinal, start)| {
        let segment = SegmentName(1);
        Message::SegmentOpen(SegmentOpen { ordinal, start, segment, file: 0, offset: 0 })
    });
    let ack = (lsn(), lsn(), lsn(), lsn()).prop_map(|(received, written, flushed, applied)| {
        let chain = Chain::START;
        Message::Ack(Ack { received, written, flushed, applied, sequence: 0, chain })
    });
    let truncate = (lsn(), any::<bool>()).prop_map(|(lsn, start)| {
        let chain = if start { Chain::START } else { Chain(9) };
        Message::Truncate(Truncate { lsn, chain })
    });
    let matched = (lsn(), 0..13u64).prop_map(|(lsn, records)| {
        Message::Matched(Boundary { lsn, chain: Chain::START, records })
    });
    let error = (0..20u16, "\\PC{0,40}").prop_map(|(code, sentence)| {
        let code = ErrorCode::from_wire(code).unwrap_or(ErrorCode::Protocol);
        Message::Error(Refusal::new(code, sentence))
    });
    prop_oneof![
        1 => hello,
        1 => hello_ack,
        3 => open,
        1 => standing,
        3 => run,
        3 => ack,
        1 => any::<u64>().prop_map(|unix_ns| Message::Heartbeat(Heartbeat { unix_ns })),
        1 => error,
        2 => lsn().prop_map(Message::Match),
        2 => matched,
        2 => truncate,
    ]
}

fn data() -> impl Strategy<Value = Frame> {
    (handle(), 0..3u64, lsn(), 0..4u32, 0..2u32).prop_map(|(handle, epoch, start, count, odd)| {
        let header = FrameHeader {
            records: count,
            start,
            payload_bytes: count * 100,
            raw_bytes: count * 100 + odd / 2,
            ..FrameHeader::bare(Kind::Data, handle, Epoch(epoch))
        };
        Frame { header, body: Vec::new(), records: Vec::new() }
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        3 => (message(), handle(), 0..3u64).prop_map(|(m, handle, epoch)| forge(&m, handle, epoch)),
        1 => data(),
    ]
}

/// How a space that the pair opened by itself stands: nothing is in it.
const EMPTY: Standing = Standing {
    flushed: Lsn::ZERO,
    chain: Chain::START,
    records: 0,
    highest_epoch: Epoch(1),
    runs: 0,
    common: Lsn::ZERO,
};

/// What happens next in a random run.
#[derive(Clone, Debug)]
enum Step {
    Append { space: u32, records: usize, bytes: u64 },
    Rotate { space: u32 },
    SendOne,
    DeliverOne,
    Duplicate,
    Reply,
    DeliverReply,
    Flush { space: u32 },
    Advance { ms: u64 },
    Stop { space: u32, by_replica: bool },
    Reconnect { crashed: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let space = 0..3u32;
    prop_oneof![
        3 => (space.clone(), 1..200usize, 64..20_000u64)
            .prop_map(|(space, records, bytes)| Step::Append { space, records, bytes }),
        1 => space.clone().prop_map(|space| Step::Rotate { space }),
        8 => Just(Step::SendOne),
        8 => Just(Step::DeliverOne),
        1 => Just(Step::Duplicate),
        4 => Just(Step::Reply),
        4 => Just(Step::DeliverReply),
        3 => space.clone().prop_map(|space| Step::Flush { space }),
        1 => (1..400u64).prop_map(|ms| Step::Advance { ms }),
        1 => (space, any::<bool>()).prop_map(|(space, by_replica)| Step::Stop { space, by_replica }),
        1 => any::<bool>().prop_map(|crashed| Step::Reconnect { crashed }),
    ]
}

/// The engine opens again what was stopped.
fn reopen(pair: &mut Pair) {
    for (handle, code) in pair.stops() {
        assert!(
            matches!(code, ErrorCode::Storage | ErrorCode::Gap),
            "{handle}: nothing here diverges: {code:?}"
        );
        pair.open(handle);
    }
    pair.events.clear();
}

fn apply(pair: &mut Pair, step: &Step, last: &mut Option<Frame>) {
    match *step {
        Step::Append { space, records, bytes } => pair.append(Handle(space), records, bytes),
        Step::Rotate { space } => {
            pair.log(Handle(space)).rotate();
            pair.sender.handle_head(pair.now, Handle(space));
        }
        Step::SendOne => {
            pair.send_one();
        }
        Step::DeliverOne => {
            *last = pair.to_replica.front().cloned();
            pair.deliver_one();
        }
        Step::Duplicate => {
            let of_stream = |f: &&Frame| matches!(f.kind(), Kind::Data | Kind::SegmentOpen);
            if let Some(frame) = last.as_ref().filter(of_stream) {
                pair.to_replica.push_front(frame.clone());
                pair.deliver_one();
            }
        }
        Step::Reply => pair.reply(),
        Step::DeliverReply => {
            pair.deliver_reply();
        }
        Step::Flush { space } => pair.flush(Handle(space)),
        Step::Advance { ms } => pair.advance(std::time::Duration::from_millis(ms)),
        Step::Stop { space, by_replica } => {
            let (now, handle, why) = (pair.now, Handle(space), "test".to_owned());
            if by_replica {
                pair.receiver.stop_space(now, handle, ErrorCode::Storage, why);
            } else if pair.sender.sent(handle).is_some() {
                pair.sender.stop_space(now, handle, ErrorCode::Storage, why);
                pair.open(handle);
            }
        }
        Step::Reconnect { crashed } => {
            *last = None;
            pair.reconnect(crashed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_frame(bytes in any::<[u8; 32]>(), more in any::<[u8; 32]>()) {
        let mut header = [0; 64];
        header[..32].copy_from_slice(&bytes);
        header[32..].copy_from_slice(&more);
        prop_assert!(FrameHeader::decode(&header).is_err());
    }

    #[test]
    fn a_header_with_flipped_bits_is_refused(m in message(), bits in vec(0..512usize, 1..4)) {
        let good = forge(&m, Handle(1), 1).header.encode();
        let mut bad = good;
        for bit in bits {
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(bad == good || FrameHeader::decode(&bad).is_err());
    }

    #[test]
    fn a_body_is_refused_when_cut_or_extended(m in message(), cut in any::<prop::sample::Index>()) {
        let on = match m.kind() {
            Kind::Hello | Kind::HelloAck | Kind::Heartbeat | Kind::Error => Handle::CONNECTION,
            _ => Handle(1),
        };
        let frame = forge(&m, on, u64::from(on != Handle::CONNECTION));
        let whole = Message::decode(&frame.header, &frame.body).unwrap();
        prop_assert_eq!(whole, Some(m));
        let reseal = |body: &[u8]| {
            let bytes = u32::try_from(body.len()).unwrap();
            let sealed = frame.header.with_payload_crc(crc32c::crc32c(body));
            FrameHeader { payload_bytes: bytes, raw_bytes: bytes, ..sealed }
        };
        let short = &frame.body[..cut.index(frame.body.len())];
        prop_assert!(Message::decode(&reseal(short), short).is_err());
        let mut long = frame.body.clone();
        long.push(0);
        prop_assert!(Message::decode(&reseal(&long), &long).is_err());
    }

    #[test]
    fn random_bodies_never_panic(kind in 1..13u8, body in vec(any::<u8>(), 0..200)) {
        let bytes = u32::try_from(body.len()).unwrap();
        let kind = Kind::from_wire(kind).unwrap();
        let header = FrameHeader { payload_bytes: bytes, raw_bytes: bytes,
            ..FrameHeader::bare(kind, Handle::CONNECTION, Epoch(0)) }
            .with_payload_crc(crc32c::crc32c(&body));
        let _ = Message::decode(&header, &body);
        let header = FrameHeader { handle: Handle(1), epoch: Epoch(1), ..header };
        let _ = Message::decode(&header, &body);
    }

    #[test]
    fn random_frames_never_panic_a_replica(frames in vec(frame(), 1..40), streaming in any::<bool>()) {
        let mut pair = if streaming { Pair::streaming(2) } else { Pair::new() };
        // What the replica was last told that it has, by space.
        let mut opened: HashMap<Handle, Standing> = HashMap::new();
        for frame in frames {
            let admitted = pair.receiver.admit(&frame.header).is_ok();
            let body = if admitted { &frame.body[..] } else { &[] };
            let intent = pair.receiver.handle_frame(pair.now, &frame.header, body);
            let standing = Standing {
                flushed: Lsn(400), chain: Chain::START, records: 1,
                highest_epoch: Epoch(1), runs: 1, common: Lsn(100),
            };
            match intent {
                Some(Intent::Open { handle, open }) => {
                    let common = if open.head.0 % 200 == 0 { standing.flushed } else { standing.common };
                    let known = Standing { common, ..standing };
                    opened.insert(handle, known);
                    pair.receiver.handle_opened(pair.now, handle, Ok(known));
                }
                Some(Intent::Truncate { handle, to }) => {
                    // Never below what both have in common, as this space was
                    // opened, and never beyond what is durable. What the pair
                    // opened by itself stands at the beginning and has nothing
                    // that could be cut.
                    let known = opened.get(&handle).copied().unwrap_or(EMPTY);
                    prop_assert!(
                        (known.common..=known.flushed).contains(&to.lsn),
                        "{to:?} of {known:?}"
                    );
                    let cut = Standing { flushed: to.lsn, common: to.lsn, ..known };
                    opened.insert(handle, cut);
                    pair.receiver.handle_opened(pair.now, handle, Ok(cut));
                }
                Some(Intent::Match { handle, lsn }) => {
                    let found = Boundary { lsn, chain: Chain::START, records: 1 };
                    pair.receiver.handle_matched(pair.now, handle, Ok(found));
                }
                _ => {}
            }
            if let Some(bytes) = pair.receiver.poll_transmit(pair.now) {
                super::pair::frames(&bytes);
            }
        }
    }

    #[test]
    fn random_frames_never_panic_a_primary(frames in vec(frame(), 1..40), streaming in any::<bool>()) {
        let mut pair = if streaming { Pair::streaming(3) } else { Pair::new() };
        if streaming {
            for number in 0..3 {
                pair.append(Handle(number), 12, 100);
            }
        }
        for frame in frames {
            pair.send_one();
            pair.sender.handle_frame(pair.now, &frame.header, &frame.body);
            pair.take_events();
        }
        pair.send();
    }

    #[test]
    fn any_schedule_keeps_a_prefix_and_ends_identical(steps in vec(step(), 1..150)) {
        let mut pair = Pair::streaming(3);
        pair.flush_at_once = false;
        let mut last = None;
        for step in &steps {
            apply(&mut pair, step, &mut last);
            pair.check_prefix();
            reopen(&mut pair);
            prop_assert!(pair.closed().is_none() && pair.replica_closed().is_none());
        }
        pair.flush_at_once = true;
        for _ in 0..6 {
            for number in 0..3 {
                pair.flush(Handle(number));
            }
            pair.settle();
            reopen(&mut pair);
            pair.advance(BATCH.max_delay);
        }
        pair.check_identical();
    }
}
