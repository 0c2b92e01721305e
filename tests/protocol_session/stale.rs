//! A frame of another epoch than its space was opened in: whatever its kind, it is
//! refused, nothing of it is obeyed, and the space ends.

use saltus::ids::Epoch;
use saltus::lsn::Lsn;
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{ErrorCode, Fetch, Reseed, Retirement, SegmentRetire};
use saltus::protocol::receiver::Intent;
use saltus::protocol::sender::Event;

use super::pair::{Frame, Log, Pair, Record};

const A: Handle = Handle(0);
const B: Handle = Handle(1);
const RANGE: Fetch = Fetch { lsn: Lsn(100), bytes: 200 };

/// The epoch that both spaces are open in.
const PRESENT: Epoch = Epoch(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Replica,
    Primary,
}

/// Who is sent a kind of frame that concerns a space, and bears its epoch. `Error` bears
/// one too, and ends its space whatever it is: it has a test of its own, as has
/// `OpenSpace`, which brings the epoch.
fn directions(kind: Kind) -> &'static [To] {
    match kind {
        Kind::Hello | Kind::HelloAck | Kind::Heartbeat => &[],
        Kind::OpenSpace | Kind::Error => &[],
        Kind::SegmentOpen
        | Kind::Data
        | Kind::Match
        | Kind::Truncate
        | Kind::SegmentRetire
        | Kind::Reseed => &[To::Replica],
        Kind::OpenAck | Kind::Ack | Kind::Matched => &[To::Primary],
        Kind::Fetch | Kind::Fetched => &[To::Replica, To::Primary],
        new => panic!("does {new:?} bear the epoch of a space?"),
    }
}

/// Two spaces of ten records, everywhere durable; the first has begun its second epoch
/// behind so many of them, and a new connection is open.
fn begun_anew(records: usize) -> Pair {
    let mut pair = Pair::streaming(2);
    for handle in [A, B] {
        pair.append(handle, 10, 100);
    }
    pair.settle();
    pair.log(A).begin_epoch(PRESENT.0, records);
    pair.reconnect(false);
    pair
}

/// All that there is was shipped in the second epoch.
fn shipped() -> Pair {
    let mut pair = begun_anew(10);
    pair.settle();
    pair.check_identical();
    pair
}

/// Six of the ten records are left in the second epoch: the replica is to be cut.
fn turned() -> Pair {
    begun_anew(6)
}

/// Takes the next frame of that kind, of the first space, off the wire; what comes before
/// it is delivered.
fn next(pair: &mut Pair, kind: Kind, to: To) -> Frame {
    for _ in 0..100 {
        pair.send();
        while let Some(frame) = pair.to_replica.pop_front() {
            if (frame.kind(), frame.header.handle, to) == (kind, A, To::Replica) {
                return frame;
            }
            pair.deliver(&frame);
        }
        pair.reply();
        while let Some(frame) = pair.to_primary.front().cloned() {
            if (frame.kind(), frame.header.handle, to) == (kind, A, To::Primary) {
                pair.to_primary.pop_front();
                return frame;
            }
            pair.deliver_reply();
        }
    }
    panic!("{kind:?} was never sent");
}

/// A session in which such a frame is the next one that the first space expects.
fn expecting(kind: Kind, to: To) -> (Pair, Frame) {
    let mut pair = match kind {
        Kind::Match | Kind::Matched | Kind::Truncate => turned(),
        _ => shipped(),
    };
    let now = pair.now;
    match (kind, to) {
        (Kind::SegmentOpen, _) => {
            pair.log(A).rotate();
            pair.append(A, 1, 100);
        }
        (Kind::Data | Kind::Ack, _) => pair.append(A, 1, 100),
        (Kind::SegmentRetire, _) => {
            let retire = SegmentRetire { file: 0, after: Lsn(500), what: Retirement::Aside };
            assert!(pair.sender.retire(now, A, retire));
        }
        (Kind::Reseed, _) => {
            pair.reconnect(false);
            let ack = next(&mut pair, Kind::OpenAck, To::Primary);
            pair.sender.handle_frame(now, &ack.header, &ack.body);
            let base = pair.logs.0[&A].head();
            let reseed = Reseed { base, head: base.lsn, first_run: 1, vouched: true };
            assert!(pair.sender.handle_reseed(now, A, reseed));
        }
        (Kind::OpenAck, _) => pair.reconnect(false),
        (Kind::Fetch, To::Replica) => assert!(pair.sender.fetch(now, A, RANGE)),
        (Kind::Fetch, To::Primary) => assert!(pair.receiver.fetch(now, A, RANGE)),
        (Kind::Fetched, To::Replica) => {
            assert!(pair.receiver.fetch(now, A, RANGE));
            pair.reply();
            while pair.deliver_reply() {}
            pair.sender.serve(now, A, RANGE.lsn, vec![7; 200]);
        }
        (Kind::Fetched, To::Primary) => {
            assert!(pair.sender.fetch(now, A, RANGE));
            pair.send();
            while pair.deliver_one() {}
            pair.receiver.serve(now, A, RANGE.lsn, vec![7; 200]);
        }
        _ => {}
    }
    let frame = next(&mut pair, kind, to);
    assert_eq!(frame.header.epoch, PRESENT, "{kind:?}");
    pair.events.clear();
    pair.intents.clear();
    (pair, frame)
}

/// What the replica has of the first space.
fn copy(pair: &Pair) -> (Log, usize, Vec<Record>, Epoch) {
    let copy = &pair.copies[&A];
    (copy.log.clone(), copy.durable, copy.quarantine.clone(), copy.highest_epoch)
}

/// Delivers the frame; what was done because of it, in words, if anything.
fn obey(pair: &mut Pair, frame: &Frame, to: To) -> Option<String> {
    match to {
        To::Replica => match pair.deliver(frame) {
            Some(intent @ Intent::Stopped { .. }) => {
                pair.intents.push(intent);
                None
            }
            intent => intent.map(|intent| format!("{intent:?}")),
        },
        To::Primary => {
            pair.sender.handle_frame(pair.now, &frame.header, &frame.body);
            let (stops, closed) = (pair.stops(), pair.closed());
            pair.take_events();
            assert_eq!((stops, closed), (vec![], None), "before the frame");
            let obeyed = pair.events.iter().find(|event| !matches!(event, Event::Stopped { .. }));
            let obeyed = obeyed.map(|event| format!("{event:?}"));
            // The answer to it is a frame.
            pair.send();
            let said = pair.to_replica.iter().find(|frame| frame.kind() != Kind::Error);
            obeyed.or(said.map(|frame| format!("{:?}", frame.kind())))
        }
    }
}

#[test]
fn stale_epoch_is_refused_on_every_frame_of_a_space() {
    let kinds = || (0..=u8::MAX).filter_map(Kind::from_wire);
    let frames = kinds().flat_map(|kind| directions(kind).iter().map(move |to| (kind, *to)));
    let mut seen = 0;
    for (kind, to) in frames {
        // In its own epoch it is obeyed.
        let (mut pair, frame) = expecting(kind, to);
        let obeyed = obey(&mut pair, &frame, to);
        assert!(obeyed.is_some(), "{kind:?} to the {to:?}");
        assert_eq!((pair.stops(), pair.replica_stops()), (vec![], vec![]), "{kind:?}");
        // In an older one, or a newer one, it is not.
        for epoch in [1, 3] {
            let case = format!("{kind:?} of epoch {epoch} to the {to:?}");
            let (mut pair, mut frame) = expecting(kind, to);
            let before = copy(&pair);
            frame.header.epoch = Epoch(epoch);
            assert_eq!(obey(&mut pair, &frame, to), None, "{case}");
            match to {
                To::Replica => {
                    assert_eq!(pair.replica_stops(), [(A, ErrorCode::Fenced)], "{case}");
                    pair.reply();
                    let mut replies = pair.to_primary.iter();
                    let error = replies.find(|frame| frame.kind() == Kind::Error).unwrap();
                    assert_eq!(error.header.epoch, PRESENT, "{case}: it says what it has seen");
                }
                To::Primary => assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)], "{case}"),
            }
            refuses_no_more_than_the_space(&mut pair, &case);
            assert!(copy(&pair) == before, "{case} was obeyed");
        }
        seen += 1;
    }
    assert_eq!(seen, 13, "kinds and directions");
}

/// Both sides have ended the first space, nothing of it is shipped any more, and the other
/// goes on.
fn refuses_no_more_than_the_space(pair: &mut Pair, case: &str) {
    pair.settle();
    let fenced = [(A, ErrorCode::Fenced)];
    assert_eq!(pair.stops(), fenced, "{case}");
    assert_eq!(pair.replica_stops(), fenced, "{case}");
    let is_reign_over = pair.events.iter().any(|event| matches!(event, Event::Fenced { .. }));
    assert!(!is_reign_over, "{case}: nobody has seen a higher epoch");
    ships_only_the_other(pair, case);
}

fn ships_only_the_other(pair: &mut Pair, case: &str) {
    assert_eq!(pair.sender.sent(A), None, "{case}");
    for handle in [A, B] {
        pair.append(handle, 3, 100);
    }
    pair.send();
    let of_a: Vec<_> = pair.to_replica.iter().filter(|frame| frame.header.handle == A).collect();
    assert!(of_a.is_empty(), "{case}: {of_a:?}");
    pair.settle();
    assert_eq!(pair.copies[&B].durable, 13, "{case}: the other space goes on");
    assert_eq!((pair.closed(), pair.replica_closed()), (None, None), "{case}");
}

/// It brings the epoch, so it is held against what the replica has seen before.
#[test]
fn a_space_is_not_opened_in_a_stale_epoch() {
    let mut pair = shipped();
    let before = copy(&pair);
    // The primary as it was before its second epoch began.
    pair.log(A).history.pop();
    pair.log(A).append(1, 100);
    pair.reconnect(false);
    pair.events.clear();
    // The answer says what was seen, and nothing is asked or shipped then.
    let ack = next(&mut pair, Kind::OpenAck, To::Primary);
    obey(&mut pair, &ack, To::Primary);
    let mut of_a = pair.to_replica.iter().filter(|frame| frame.header.handle == A);
    assert!(of_a.all(|frame| frame.kind() == Kind::Error), "{:?}", pair.kinds());
    pair.settle();
    assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)]);
    let is_it = |event: &Event| matches!(event, Event::Fenced { handle: A, highest: PRESENT });
    assert!(pair.events.iter().any(is_it), "{:?}", pair.events);
    assert!(copy(&pair) == before);
    ships_only_the_other(&mut pair, "OpenSpace");

    // One whose header says another epoch than its history is nonsense.
    let mut pair = shipped();
    pair.reconnect(false);
    let mut open = next(&mut pair, Kind::OpenSpace, To::Replica);
    open.header.epoch = Epoch(1);
    let intent = pair.deliver(&open);
    let is_it = matches!(intent, Some(Intent::Closed { code: ErrorCode::Protocol, .. }));
    assert!(is_it, "{intent:?}");
}

/// The one frame that is obeyed in any epoch: all that it can do is to end the space.
#[test]
fn an_error_of_a_stale_epoch_ends_the_space_and_fences_nobody() {
    for code in [ErrorCode::Fenced, ErrorCode::Storage] {
        for (epoch, to) in [(1, To::Replica), (1, To::Primary), (3, To::Replica)] {
            let case = format!("{code:?} of epoch {epoch} to the {to:?}");
            let mut pair = shipped();
            pair.events.clear();
            pair.intents.clear();
            let before = copy(&pair);
            match to {
                To::Replica => pair.sender.stop_space(pair.now, A, code, "test".to_owned()),
                To::Primary => pair.receiver.stop_space(pair.now, A, code, "test".to_owned()),
            }
            let mut frame = next(&mut pair, Kind::Error, to);
            frame.header.epoch = Epoch(epoch);
            match to {
                To::Replica => pair.to_replica.push_front(frame),
                To::Primary => pair.to_primary.push_front(frame),
            }
            pair.settle();
            let stops = if to == To::Replica { pair.replica_stops() } else { pair.stops() };
            assert_eq!(stops, [(A, code)], "{case}");
            let is_fenced = pair.events.iter().any(|event| matches!(event, Event::Fenced { .. }));
            assert!(!is_fenced, "{case}");
            ships_only_the_other(&mut pair, &case);
            assert!(copy(&pair) == before, "{case}");
        }
    }
}
