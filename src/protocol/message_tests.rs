#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::NodeUuid;
use crate::limits::MAX_LSN;
use crate::lsn::Mark;

fn hello() -> Message {
    Message::Hello(Hello {
        min_version: 1,
        max_version: 1,
        shard: 0,
        features: 0,
        identity: Identity {
            cluster: "blue".parse().unwrap(),
            node: "one".parse().unwrap(),
            uuid: NodeUuid(1),
        },
    })
}

fn open_space() -> Message {
    Message::OpenSpace(OpenSpace {
        space: "alpha".parse().unwrap(),
        stream: StreamId(1),
        history: vec![(Epoch(1), Lsn(0)), (Epoch(2), Lsn(50))],
        head: Lsn(100),
    })
}

fn error(sentence: &str) -> Message {
    Message::Error(Refusal::new(ErrorCode::Gap, sentence.to_owned()))
}

fn heartbeat() -> Message {
    Message::Heartbeat(Heartbeat { unix_ns: 1 })
}

/// Header and body as sent.
fn sent(message: &Message) -> (FrameHeader, Vec<u8>) {
    let (handle, epoch) = match message.kind() {
        Kind::OpenSpace => (Handle(1), Epoch(2)),
        _ => (Handle::CONNECTION, Epoch(0)),
    };
    let mut frame = Vec::new();
    message.encode(handle, epoch, &mut frame);
    let (header, body) = frame.split_first_chunk().unwrap();
    (FrameHeader::decode(header).unwrap(), body.to_vec())
}

/// The error of an intact frame whose body was made with other content.
fn forged(message: &Message, change: impl FnOnce(&mut Vec<u8>)) -> MessageError {
    let (header, mut body) = sent(message);
    change(&mut body);
    let bytes = u32::try_from(body.len()).unwrap();
    let mut header = header.with_payload_crc(crc32c::crc32c(&body));
    (header.payload_bytes, header.raw_bytes) = (bytes, bytes);
    Message::decode(&header, &body).unwrap_err()
}

/// The field that a refusal names.
fn field(error: &MessageError) -> &'static str {
    match error {
        MessageError::Short { field, .. }
        | MessageError::Value { field, .. }
        | MessageError::Name { field, .. }
        | MessageError::Text { field, .. }
        | MessageError::Control { field, .. } => field,
        other => panic!("{other} names no field"),
    }
}

#[test]
fn a_refusal_names_the_field() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Message, Change); 15] = [
        ("min_version", hello(), |body| body[0] = 0),
        ("min_version", hello(), |body| body[0] = 2),
        ("reserved", hello(), |body| body[7] = 1),
        ("cluster", hello(), |body| body[33] = b'B'),
        ("cluster", hello(), |body| body[33] = 0xff),
        ("cluster", hello(), |body| body[32] = 2),
        ("node", hello(), |body| body[37] = 4),
        ("stream", open_space(), |body| body.truncate(15)),
        ("epochs", open_space(), |body| body[24] = 0),
        ("epochs", open_space(), |body| body[27] = 1),
        ("epoch", open_space(), |body| body[28] = 2),
        ("epoch start", open_space(), |body| body[52] = 101),
        ("code", error("why"), |body| body[0] = 99),
        ("sentence", error("why"), |body| body[5] = 0xc3),
        ("sentence", error("why"), |body| body[5] = b'\n'),
    ];
    for (name, message, change) in cases {
        let error = forged(&message, change);
        assert_eq!(field(&error), name, "{error}");
    }
}

#[test]
fn a_sentence_longer_than_its_limit_is_refused_before_it_is_read() {
    let error = forged(&error("why"), |body| body[2..4].copy_from_slice(&513u16.to_le_bytes()));
    assert!(matches!(error, MessageError::Value { field: "sentence", found: 513, .. }));
}

#[test]
fn a_sentence_reaches_the_wire_without_control_characters() {
    let (header, body) = sent(&error("one\ntwo\x1b[31m"));
    assert_eq!(Message::decode(&header, &body).unwrap(), Some(error("one two [31m")));
}

#[test]
fn unknown_trailing_bytes_are_refused() {
    assert_eq!(forged(&hello(), |body| body.push(0)), MessageError::Trailing { bytes: 1 });
}

#[test]
fn a_control_frame_without_a_crc_is_refused() {
    let (header, body) = sent(&heartbeat());
    let open = FrameHeader { flags: 0, payload_crc: 0, ..header };
    assert_eq!(Message::decode(&open, &body), Err(MessageError::Unsealed));
}

#[test]
fn a_control_header_with_data_fields_is_refused_by_the_field() {
    type Change = fn(&mut FrameHeader);
    let cases: [(&str, Change); 6] = [
        ("records", |header| header.records = 1),
        ("start", |header| header.start = Lsn(1)),
        ("first_sequence", |header| header.first_sequence = 1),
        ("raw_bytes", |header| header.raw_bytes += 1),
        ("handle", |header| header.handle = Handle(0)),
        ("epoch", |header| header.epoch = Epoch(1)),
    ];
    for (name, change) in cases {
        let (mut header, body) = sent(&heartbeat());
        change(&mut header);
        assert_eq!(field(&Message::decode(&header, &body).unwrap_err()), name);
    }
    let (mut header, body) = sent(&open_space());
    header.handle = Handle::CONNECTION;
    assert_eq!(field(&Message::decode(&header, &body).unwrap_err()), "handle");
}

#[test]
fn the_longest_history_fits_into_a_frame() {
    let history = (1..=MAX_EPOCHS_PER_SPACE as u64).map(|n| (Epoch(n), Lsn(n))).collect();
    let open = OpenSpace {
        space: "a".repeat(64).parse().unwrap(),
        stream: StreamId(1),
        history,
        head: Lsn(MAX_LSN),
    };
    let (header, body) = sent(&Message::OpenSpace(open.clone()));
    assert_eq!(Message::decode(&header, &body).unwrap(), Some(Message::OpenSpace(open)));
}

/// The end of what is received is such a position and a length.
#[test]
fn a_position_that_nothing_can_be_added_to_is_refused_by_name() {
    let base = Mark { lsn: Lsn(MAX_LSN - 1), ..Mark::START };
    let reseed = Reseed { base, head: Lsn(MAX_LSN), first_run: 1, vouched: true };
    let retire = SegmentRetire { file: 1, after: Lsn(MAX_LSN), what: Retirement::Gone };
    let boundary = Boundary { lsn: Lsn(MAX_LSN), chain: Chain::START, records: 0 };
    let truncate = Truncate { lsn: Lsn(MAX_LSN), chain: Chain::START };
    let fetch = Fetch { lsn: Lsn(MAX_LSN), bytes: 1 };
    // Where the field is in the body.
    let messages = [
        (open_space(), 16, "head"),
        (open_space(), 28 + 16 + 8, "epoch start"),
        (Message::Reseed(reseed), 0, "base"),
        (Message::Reseed(reseed), 40, "head"),
        (Message::SegmentRetire(retire), 8, "after"),
        (Message::Match(Lsn(MAX_LSN)), 0, "lsn"),
        (Message::Matched(boundary), 0, "lsn"),
        (Message::Truncate(truncate), 0, "lsn"),
        (Message::Fetch(fetch), 0, "lsn"),
    ];
    for (message, at, name) in messages {
        for lsn in [MAX_LSN + 1, u64::MAX] {
            let error = in_space(&message, |body| {
                body[at..at + 8].copy_from_slice(&lsn.to_le_bytes());
            });
            let expected = "at most 2^62";
            let refused = MessageError::Value { field: name, found: lsn, expected };
            assert_eq!(error, Err(refused), "{message:?}");
        }
        assert_eq!(in_space(&message, |_| {}), Ok(Some(message)), "the furthest there is");
    }
    let refusal = |at| Refusal { at: Lsn(at), ..Refusal::new(ErrorCode::Damaged, "rot".into()) };
    let decoded = |at| in_space(&Message::Error(refusal(at)), |_| {});
    assert_eq!(decoded(MAX_LSN), Ok(Some(Message::Error(refusal(MAX_LSN)))));
    assert_eq!(field(&decoded(MAX_LSN + 1).unwrap_err()), "start");
}

/// What becomes of a message of a space whose body was made with other content.
fn in_space(
    message: &Message,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<Option<Message>, MessageError> {
    let mut frame = Vec::new();
    message.encode(Handle(1), Epoch(2), &mut frame);
    let (header, body) = frame.split_first_chunk().unwrap();
    let mut body = body.to_vec();
    change(&mut body);
    let header = FrameHeader::decode(header).unwrap().with_payload_crc(crc32c::crc32c(&body));
    Message::decode(&header, &body)
}
