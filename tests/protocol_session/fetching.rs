//! Ranges that are asked for again while histories are compared: either end may
//! find what does not hold any more just then.

use saltus::lsn::Lsn;
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{Boundary, Fetch, Fetched, Reseed};
use saltus::protocol::receiver::Intent;
use saltus::protocol::sender::Event;

use super::pair::{BATCH, Pair};

const A: Handle = Handle(0);
const RANGE: Fetch = Fetch { lsn: Lsn(100), bytes: 200 };

/// Ten records of 100 bytes each, everywhere durable.
fn shipped() -> Pair {
    let mut pair = Pair::streaming(1);
    pair.append(A, 10, 100);
    pair.settle();
    pair
}

/// Ten records that were durable; six of them are left at the source, and a new
/// epoch has begun there. The replica has been asked, and has not answered yet.
fn unmatched() -> Pair {
    let mut pair = shipped();
    pair.log(A).begin_epoch(2, 6);
    pair.log(A).append(1, 333);
    pair.reconnect(false);
    ask(&mut pair);
    pair
}

/// The same within one epoch: the source holds others behind the sixth.
fn parted() -> Pair {
    let mut pair = shipped();
    pair.log(A).truncate(6);
    pair.log(A).append(3, 150);
    pair.reconnect(false);
    ask(&mut pair);
    pair
}

/// Up to where the replica has taken a question about its history.
fn ask(pair: &mut Pair) {
    pair.events.clear();
    pair.intents.clear();
    loop {
        pair.send();
        while let Some(frame) = pair.to_replica.pop_front() {
            if frame.kind() == Kind::Match {
                take(pair, frame);
                return;
            }
            pair.deliver(&frame);
        }
        pair.reply();
        assert!(pair.deliver_reply(), "nobody asks");
        while pair.deliver_reply() {}
    }
}

/// Deliver a frame that is not answered yet.
fn take(pair: &mut Pair, frame: super::pair::Frame) {
    pair.receiver.admit(&frame.header).unwrap();
    let intent = pair.receiver.handle_frame(pair.now, &frame.header, &frame.body);
    assert!(matches!(intent, Some(Intent::Match { .. })), "{intent:?}");
}

/// The replica answers what it was asked about its history.
fn answer(pair: &mut Pair, at: u64) {
    let mark = pair.copies[&A].log.mark_at(Lsn(at)).unwrap();
    let boundary = Boundary { lsn: mark.lsn, chain: mark.chain, records: mark.records };
    pair.receiver.handle_matched(pair.now, A, Ok(boundary));
    pair.reply();
}

fn fetched(pair: &Pair) -> usize {
    let is_it = |event: &&Event| matches!(event, Event::Fetched { .. });
    pair.events.iter().filter(is_it).count()
}

fn finish(pair: &mut Pair) {
    for _ in 0..4 {
        pair.settle();
        pair.advance(BATCH.max_delay);
    }
    assert_eq!((pair.closed(), pair.replica_closed()), (None, None));
}

/// The answer to a `Fetch` came while the replica was being asked about its
/// history, and was taken for the stream: the space ended, each time that its
/// scrubber had found rot which was in the way of comparing.
#[test]
fn a_replica_gets_a_range_while_it_is_asked_about_its_history() {
    let mut pair = parted();
    assert!(pair.receiver.fetch(pair.now, A, RANGE));
    pair.reply();
    assert!(pair.deliver_reply());
    assert!(matches!(pair.events.last(), Some(Event::Fetch { fetch: RANGE, .. })));
    pair.sender.serve(pair.now, A, RANGE.lsn, vec![7; 200]);
    pair.send();
    while pair.deliver_one() {}
    let wanted = Fetched { lsn: RANGE.lsn, bytes: vec![7; 200] };
    let is_it =
        |intent: &Intent| matches!(intent, Intent::Fetched { fetched, .. } if *fetched == wanted);
    assert!(pair.intents.iter().any(is_it), "{:?}", pair.intents);
    assert_eq!(pair.replica_stops(), []);
}

/// A primary that wanted back from a replica what had rotted at the source ended
/// the space with that, if the replica was to be cut.
#[test]
fn a_primary_gets_a_range_of_a_replica_that_is_to_be_cut() {
    let mut pair = unmatched();
    assert!(pair.sender.fetch(pair.now, A, RANGE));
    pair.send();
    while pair.deliver_one() {}
    assert!(matches!(pair.intents.last(), Some(Intent::Fetch { fetch: RANGE, .. })));
    pair.receiver.serve(pair.now, A, RANGE.lsn, vec![7; 200]);
    pair.reply();
    while pair.deliver_reply() {}
    assert_eq!(fetched(&pair), 1);
    answer(&mut pair, 600);
    finish(&mut pair);
    pair.check_identical();
    assert_eq!((pair.stops(), pair.replica_stops()), (vec![], vec![]));
}

#[test]
fn an_answer_that_crosses_a_truncation_is_dropped_and_the_next_one_is_not() {
    let mut pair = unmatched();
    assert!(pair.sender.fetch(pair.now, A, RANGE));
    pair.send();
    while pair.deliver_one() {}
    answer(&mut pair, 600);
    pair.receiver.serve(pair.now, A, RANGE.lsn, vec![7; 200]);
    finish(&mut pair);
    pair.check_identical();
    assert_eq!((pair.stops(), pair.replica_stops()), (vec![], vec![]));
    assert_eq!(fetched(&pair), 0);
    assert!(pair.sender.fetch(pair.now, A, RANGE), "the question of before is closed");
    finish(&mut pair);
    pair.receiver.serve(pair.now, A, RANGE.lsn, vec![7; 200]);
    finish(&mut pair);
    assert_eq!(fetched(&pair), 1);
    assert_eq!((pair.stops(), pair.replica_stops()), (vec![], vec![]));
}

/// It was taken for a frame of a space that is not open, and ended the
/// connection, with all other spaces on it.
#[test]
fn a_question_that_crosses_a_reseed_ends_nothing() {
    let mut pair = parted();
    assert!(pair.receiver.fetch(pair.now, A, RANGE));
    let base = pair.logs.0[&A].head();
    let reseed = Reseed { base, head: base.lsn, first_run: 1, vouched: true };
    assert!(pair.sender.handle_reseed(pair.now, A, reseed));
    pair.reply();
    assert!(pair.deliver_reply());
    assert_eq!(pair.closed(), None);
    assert!(!pair.events.iter().any(|event| matches!(event, Event::Fetch { .. })));
}
