//! New epochs: what is common is found, what is not is cut, and nothing is cut
//! that the epochs do not explain.

use saltus::ids::Epoch;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{ErrorCode, Message, Truncate};
use saltus::protocol::receiver::Intent;
use saltus::protocol::sender::Event;

use super::pair::{BATCH, Pair, forge};

const A: Handle = Handle(0);
const B: Handle = Handle(1);

/// Two spaces, ten records of 100 bytes each, everywhere durable.
fn shipped() -> Pair {
    let mut pair = Pair::streaming(2);
    for handle in [A, B] {
        pair.append(handle, 10, 100);
    }
    pair.settle();
    pair.events.clear();
    pair.intents.clear();
    pair
}

/// The source of `A` keeps `records` records, gets others, and a new epoch
/// begins, as the engine has it: stopped, then opened again.
fn turn(pair: &mut Pair, epoch: u64, records: usize) {
    pair.sender.stop_space(pair.now, A, ErrorCode::NewEpoch, "test".to_owned());
    pair.log(A).begin_epoch(epoch, records);
    pair.log(A).append(1, 333);
    pair.open(A);
}

fn finish(pair: &mut Pair) {
    for _ in 0..4 {
        pair.settle();
        pair.advance(BATCH.max_delay);
    }
}

#[test]
fn a_replica_beyond_a_new_epoch_is_cut_to_where_it_began() {
    for kept in [0, 1, 6, 9, 10] {
        let mut pair = shipped();
        turn(&mut pair, 2, kept);
        pair.append(B, 1, 100);
        finish(&mut pair);
        pair.check_identical();
        let copy = &pair.copies[&A];
        assert_eq!(copy.quarantine.len(), 10 - kept, "what was cut is kept");
        assert_eq!(copy.log.history.last(), Some(&(Epoch(2), Lsn(100 * kept as u64))));
        assert!(pair.stops().is_empty() && pair.closed().is_none());
        let cuts = pair.intents.iter().filter(|i| matches!(i, Intent::Truncate { .. })).count();
        assert_eq!(cuts, usize::from(kept < 10));
    }
}

#[test]
fn epochs_that_were_missed_are_caught_up_with() {
    let mut pair = shipped();
    pair.log(A).begin_epoch(2, 8);
    pair.log(A).append(3, 200);
    pair.log(A).begin_epoch(3, 9);
    pair.log(A).append(1, 50);
    // And one that began and ended behind what the replica had.
    pair.log(A).begin_epoch(4, 5);
    pair.log(A).append(4, 70);
    pair.reconnect(false);
    finish(&mut pair);
    pair.check_identical();
    assert_eq!(pair.copies[&A].quarantine.len(), 5);
    assert_eq!(pair.copies[&A].log.history, pair.logs.0[&A].history);
}

#[test]
fn an_epoch_that_nobody_saw_the_end_of_is_cut_wherever_it_was_left() {
    // Each history of a replica against each of a primary.
    for (first, second) in [(3, 7), (7, 3), (5, 5), (0, 4), (10, 2)] {
        let mut pair = shipped();
        turn(&mut pair, 2, first);
        finish(&mut pair);
        let before = pair.copies[&A].log.records.len();
        let kept = second.min(before);
        pair.reconnect(false);
        pair.log(A).begin_epoch(3, kept);
        pair.log(A).append(2, 77);
        pair.reconnect(true);
        finish(&mut pair);
        pair.check_identical();
        assert_eq!(pair.copies[&A].log.history, pair.logs.0[&A].history);
    }
}

#[test]
fn nothing_is_cut_in_the_same_epoch() {
    let mut pair = shipped();
    // Another record behind the sixth, and no epoch that says so.
    pair.log(A).truncate(6);
    pair.log(A).append(3, 150);
    pair.reconnect(false);
    finish(&mut pair);
    assert_eq!(pair.stops(), [(A, ErrorCode::Diverged)]);
    assert_eq!(pair.copies[&A].log.records.len(), 10);
    let common = pair.events.iter().find_map(|event| match event {
        Event::Diverged { common, .. } => Some(common.records),
        _ => None,
    });
    assert_eq!(common, Some(6), "the last record that both have is named");
}

#[test]
fn a_truncation_that_the_epochs_do_not_explain_is_refused() {
    // By chain it would do; by epoch nothing behind 600 ended.
    for (lsn, new_epoch) in [(500, true), (1100, true), (500, false), (999, false)] {
        let mut pair = shipped();
        if new_epoch {
            turn(&mut pair, 2, 6);
        } else {
            pair.reconnect(false);
        }
        let epoch = if new_epoch { 2 } else { 1 };
        // Up to the question, and no further.
        loop {
            pair.send();
            while pair.to_replica.front().is_some_and(|f| f.kind() != Kind::Match) {
                pair.deliver_one();
            }
            pair.reply();
            let opened = pair.to_primary.iter().any(|f| f.kind() == Kind::OpenAck);
            while pair.deliver_reply() {}
            if opened {
                break;
            }
        }
        let chain = pair.copies[&A].log.mark_before(Lsn(lsn)).chain;
        let truncate = Message::Truncate(Truncate { lsn: Lsn(lsn), chain });
        let intent = pair.deliver(&forge(&truncate, A, epoch));
        assert!(
            matches!(intent, Some(Intent::Stopped { code: ErrorCode::Diverged, .. })),
            "{lsn} {new_epoch}: {intent:?}"
        );
        assert_eq!(pair.copies[&A].log.records.len(), 10);
    }
}

#[test]
fn no_data_is_taken_before_what_contradicts_the_epochs_is_cut() {
    let mut pair = shipped();
    pair.append(A, 1, 100);
    pair.send();
    let data = pair.to_replica.iter().find(|f| f.kind() == Kind::Data).unwrap().clone();
    pair.settle();
    turn(&mut pair, 2, 4);
    for _ in 0..2 {
        pair.send();
        while pair.to_replica.front().is_some_and(|f| f.kind() != Kind::Match) {
            pair.deliver_one();
        }
        pair.reply();
        while pair.deliver_reply() {}
    }
    let mut early = data;
    early.header.epoch = Epoch(2);
    let intent = pair.deliver(&early);
    assert!(matches!(intent, Some(Intent::Stopped { code: ErrorCode::Protocol, .. })));
    assert_eq!(pair.copies[&A].log.records.len(), 11);
}

#[test]
fn a_question_in_the_midst_of_the_stream_stops_the_space() {
    let truncate = Truncate { lsn: Lsn(1000), chain: Chain::START };
    for question in [Message::Match(Lsn(100)), Message::Truncate(truncate)] {
        let mut pair = shipped();
        let intent = pair.deliver(&forge(&question, A, 1));
        assert!(matches!(intent, Some(Intent::Stopped { code: ErrorCode::Protocol, .. })));
    }
}

#[test]
fn who_is_fenced_learns_by_which_epoch() {
    let mut pair = shipped();
    pair.receiver.handle_fenced(pair.now, A, Epoch(7), "another has come".to_owned());
    pair.settle();
    let highest = pair.events.iter().find_map(|event| match event {
        Event::Fenced { handle: A, highest } => Some(*highest),
        _ => None,
    });
    assert_eq!(highest, Some(Epoch(7)));
    assert_eq!(pair.stops(), [(A, ErrorCode::Fenced)]);
    pair.append(B, 1, 100);
    pair.settle();
    assert_eq!(pair.copies[&B].durable, 11, "the other space goes on");
}
