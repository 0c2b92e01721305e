//! The stream as the oracle knows it, by itself.

use super::*;

fn record(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(sequence, 1, 1, payload).unwrap();
    [header.encode().as_slice(), payload].concat()
}

fn run(ordinal: u32, start: u64) -> SegmentOpen {
    let segment = SegmentName(u64::from(ordinal));
    SegmentOpen { ordinal, start: Lsn(start), segment, file: u64::from(ordinal) + 1, offset: 0 }
}

fn mark_behind(records: &[&[u8]]) -> Mark {
    records.iter().fold(Mark::START, |mark, bytes| {
        let raw = bytes.first_chunk().unwrap();
        record::step(&mark, raw, &Header::parse(raw, Checksums::Required).unwrap())
    })
}

/// A stream of two runs, and a crash that has taken the last record of both. The
/// file of the first run had been let go of; the crash brought it back for a while.
/// What was begun of the second instead ends within what was there before.
#[test]
fn what_was_let_go_of_stays_in_the_stream_whatever_a_crash_makes_of_its_file() {
    let (first, second, other) =
        (record(1, b"first"), record(1, b"a long second"), record(1, b"other"));
    let (joint, end) = (2 * first.len() as u64, 2 * first.len() as u64 + second.len() as u64);
    let mut stream = Stream::new(StreamId(7), (Epoch(1), Lsn::ZERO));
    stream.opens(run(0, 0), 1);
    stream.takes(Lsn::ZERO, &[first.as_slice(), &first].concat(), 1);
    stream.opens(run(1, joint), 1);
    stream.takes(Lsn(joint), &second, 1);

    // A process starts beside the file that is back, lets go of it again, and begins
    // an epoch behind what it has found.
    stream.kept = first.len() as u64;
    stream.held = joint;
    let found = joint + other.len() as u64;
    assert!(found < end);
    stream.begin(Epoch(2), Lsn(found), 2);
    assert_eq!(stream.common(0, stream.last()), joint);
    // A replica says where they part.
    stream.begin(Epoch(3), Lsn(joint), 2);
    stream.opens(run(1, joint), 2);
    assert_eq!(stream.takes(Lsn(joint), &other, 2), joint..found);
    assert_eq!(stream.present().slice(0, joint), [first.as_slice(), &first].concat());
}

/// A stream of three records, the last of which a crash has taken from the source.
/// The next process fills a replica anew from far behind, and then ships to another
/// one what was written instead of it.
#[test]
fn what_is_shipped_before_a_new_beginning_is_what_the_source_has() {
    let records: Vec<_> = [b"zero", b"lost", b"back", b"base", b"last"]
        .iter()
        .zip(0..)
        .map(|(payload, sequence)| record(sequence, *payload))
        .collect();
    let at = |count: usize| (count * records[0].len()) as u64;
    let mut stream = Stream::new(StreamId(7), (Epoch(1), Lsn::ZERO));
    stream.opens(run(0, 0), 1);
    stream.takes(Lsn::ZERO, &records[..2].concat(), 1);
    (stream.kept, stream.held) = (at(1), at(1));

    let fresh = [0, 2, 2, 3].map(|index| records[index].as_slice());
    stream.leaps(mark_behind(&fresh), 1, 2);
    stream.opens(run(1, at(4)), 2);
    assert_eq!(stream.takes(Lsn(at(4)), &records[4], 2), at(4)..at(5));
    assert_eq!(stream.takes(Lsn(at(1)), &[fresh[1], fresh[2]].concat(), 2), at(1)..at(3));
    assert_eq!(stream.common(0, stream.last()), at(1));
    assert_eq!(stream.present().slice(at(1), at(2)), fresh[1]);
}

/// Every replica was filled anew from behind two records that nobody had been
/// shipped. A crash takes all that was shipped then from the source, and the
/// second of these two.
#[test]
fn an_epoch_begins_within_what_nobody_was_shipped_when_all_behind_it_is_lost() {
    let records = [b"zero", b"let ", b"go  ", b"base"].map(|payload| record(0, payload));
    let at = |count: usize| (count * records[0].len()) as u64;
    let mut stream = Stream::new(StreamId(7), (Epoch(1), Lsn::ZERO));
    stream.opens(run(0, 0), 1);
    stream.takes(Lsn::ZERO, &records[0], 1);
    stream.leaps(mark_behind(&[&records[0], &records[1], &records[2]]), 2, 1);
    stream.opens(run(2, at(3)), 1);
    stream.takes(Lsn(at(3)), &records[3], 1);
    assert_eq!(stream.present().lost_from(u64::MAX), at(4));

    (stream.kept, stream.held) = (at(3), at(3));
    assert_eq!(stream.present().lost_from(at(3)), at(1));
    stream.begin(Epoch(2), Lsn(at(2)), 2);
    assert_eq!(stream.common(0, stream.last()), at(1));
}
