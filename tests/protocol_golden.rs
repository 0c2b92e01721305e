//! Golden bytes of every kind of frame.
//!
//! Two builds of one protocol version must agree on these to the byte. They
//! were computed from `docs/PROTOCOL.md` by other code than the crate's. A
//! change that breaks a line here is a new protocol version.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::lsn::{Chain, Lsn, Mark};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{
    Ack, Boundary, ErrorCode, Fetch, Fetched, Heartbeat, Hello, HelloAck, Identity, Message,
    OpenSpace, Refusal, Reseed, Retirement, SegmentOpen, SegmentRetire, Standing, Truncate,
};

const HELLO: &str = "\
    534c5453 01010100 ffffffff 00000000 \
    00000000 00000000 00000000 00000000 \
    00000000 00000000 2e000000 2e000000 \
    b1a7b7e2 00000000 00000000 9833b0a5 \
    01010300 00000000 00000000 00000000 \
    0f0e0d0c 0b0a0908 07060504 03020100 \
    04626c75 65086e6f 64652d6f 6e65";
const HELLO_ACK: &str = "\
    534c5453 01020100 ffffffff 00000000 \
    00000000 00000000 00000000 00000000 \
    00000000 00000000 2e000000 2e000000 \
    0bee9854 00000000 00000000 6f1010a0 \
    01000000 00000000 00000000 00000000 \
    0f0e0d0c 0b0a0908 07060504 03020100 \
    04626c75 65086e6f 64652d74 776f";
const OPEN_SPACE: &str = "\
    534c5453 01030100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 42000000 42000000 \
    1c645b81 00000000 00000000 993abfc5 \
    0f0e0d0c 0b0a0908 07060504 03020100 \
    00100000 00000000 02000000 01000000 \
    00000000 00000000 00000000 02000000 \
    00000000 00040000 00000000 05616c70 \
    6861";
const OPEN_ACK: &str = "\
    534c5453 01040100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 30000000 30000000 \
    b2a054be 00000000 00000000 90d5fa89 \
    a00f0000 00000000 88776655 44332211 \
    0b000000 00000000 05000000 00000000 \
    02000000 00000000 00040000 00000000";
const SEGMENT_OPEN: &str = "\
    534c5453 01050100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 28000000 28000000 \
    ee6ca2da 00000000 00000000 6a6dded0 \
    05000000 00000000 00100000 00000000 \
    c3b2a168 00000000 09000000 00000000 \
    00020000 00000000";
const DATA: &str = "\
    534c5453 01060000 07000000 03000000 \
    02000000 00000000 00100000 00000000 \
    29000000 00000000 b2260000 b2260000 \
    00000000 00000000 00000000 d14abad3";
const DATA_WITH_CRC: &str = "\
    534c5453 01060100 07000000 03000000 \
    02000000 00000000 00100000 00000000 \
    29000000 00000000 b2260000 b2260000 \
    839206e3 00000000 00000000 cd8176e6";
const ACK: &str = "\
    534c5453 01070100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 30000000 30000000 \
    c7518aa3 00000000 00000000 a27c8166 \
    b2360000 00000000 b2360000 00000000 \
    00100000 00000000 00000000 00000000 \
    28000000 00000000 88776655 44332211";
const HEARTBEAT: &str = "\
    534c5453 01080100 ffffffff 00000000 \
    00000000 00000000 00000000 00000000 \
    00000000 00000000 08000000 08000000 \
    540faf76 00000000 00000000 b11c18a5 \
    15cd853d fe9c9717";
const ERROR: &str = "\
    534c5453 01090100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 1a000000 1a000000 \
    90e270bd 00000000 00000000 5fbd6cb0 \
    0a001600 61742034 3039363a 20636861 \
    696e7320 64696666 6572";
const ERROR_OF_CONNECTION: &str = "\
    534c5453 01090100 ffffffff 00000000 \
    00000000 00000000 00000000 00000000 \
    00000000 00000000 20000000 20000000 \
    e978f54c 00000000 00000000 919de6d9 \
    03001c00 74686973 206e6f64 65206861 \
    73207265 61636865 64206974 73656c66";
const MATCH: &str = "\
    534c5453 010a0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 08000000 08000000 \
    ad0ce1e6 00000000 00000000 709d71af \
    a00f0000 00000000";
const MATCHED: &str = "\
    534c5453 010b0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 18000000 18000000 \
    fd7f903f 00000000 00000000 570dc766 \
    3c0f0000 00000000 88776655 44332211 \
    0a000000 00000000";
const TRUNCATE: &str = "\
    534c5453 010c0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 10000000 10000000 \
    83fbd6fa 00000000 00000000 c8f57358 \
    00040000 00000000 88776655 44332211";
const SEGMENT_RETIRE: &str = "\
    534c5453 010f0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 18000000 18000000 \
    5d8b6908 00000000 00000000 9ba1afdd \
    09000000 00000000 00100000 00000000 \
    02000000 00000000";
const RESEED: &str = "\
    534c5453 01100100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 38000000 38000000 \
    93a807a3 00000000 00000000 c96f29e8 \
    00100000 00000000 88776655 44332211 \
    29000000 00000000 28000000 00000000 \
    15cd853d fe9c9717 00200000 00000000 \
    05000000 01000000";
const RESEED_UNVOUCHED: &str = "\
    534c5453 01100100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 38000000 38000000 \
    2b02427e 00000000 00000000 3762251a \
    00100000 00000000 88776655 44332211 \
    29000000 00000000 28000000 00000000 \
    15cd853d fe9c9717 00200000 00000000 \
    05000000 00000000";
const ERROR_OF_RECORD: &str = "\
    534c5453 01090100 07000000 00000000 \
    02000000 00000000 00100000 00000000 \
    00000000 00000000 1b000000 1b000000 \
    2acc130b 00000000 00000000 64979c77 \
    11001700 61742034 3039363a 20706179 \
    6c6f6164 20435243 333243";
const FETCH: &str = "\
    534c5453 010d0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 10000000 10000000 \
    490c2f08 00000000 00000000 6fa74207 \
    00100000 00000000 00f00000 00000000";
const FETCHED: &str = "\
    534c5453 010e0100 07000000 00000000 \
    02000000 00000000 00000000 00000000 \
    00000000 00000000 11000000 11000000 \
    2b279f93 00000000 00000000 64a911ac \
    00100000 00000000 efbeadde 00010203 \
    04";

/// The page that describes all this.
const PAGE: &str = include_str!("../docs/PROTOCOL.md");

const SPACE: (Handle, Epoch) = (Handle(7), Epoch(2));
const CONNECTION: (Handle, Epoch) = (Handle::CONNECTION, Epoch(0));
const UUID: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// The message encodes to exactly these bytes, and these decode to it.
fn golden(message: &Message, (handle, epoch): (Handle, Epoch), hex: &str) {
    let golden = bytes(hex);
    let mut encoded = Vec::new();
    message.encode(handle, epoch, &mut encoded);
    assert_eq!(encoded, golden);

    let (header, body) = golden.split_first_chunk::<64>().unwrap();
    let header = FrameHeader::decode(header).unwrap();
    assert_eq!((header.kind, header.handle, header.epoch), (message.kind(), handle, epoch));
    assert_eq!(Message::decode(&header, body).unwrap().as_ref(), Some(message));
}

fn identity(node: &str) -> Identity {
    Identity { cluster: "blue".parse().unwrap(), node: node.parse().unwrap(), uuid: NodeUuid(UUID) }
}

#[test]
fn hello_is_frozen() {
    let identity = identity("node-one");
    let hello = Hello { min_version: 1, max_version: 1, shard: 3, features: 0, identity };
    golden(&Message::Hello(hello), CONNECTION, HELLO);
}

#[test]
fn hello_ack_is_frozen() {
    let ack = HelloAck { version: 1, features: 0, identity: identity("node-two") };
    golden(&Message::HelloAck(ack), CONNECTION, HELLO_ACK);
}

#[test]
fn open_space_is_frozen() {
    let open = OpenSpace {
        space: "alpha".parse().unwrap(),
        stream: StreamId(UUID),
        history: vec![(Epoch(1), Lsn(0)), (Epoch(2), Lsn(1024))],
        head: Lsn(4096),
    };
    golden(&Message::OpenSpace(open), SPACE, OPEN_SPACE);
}

#[test]
fn open_ack_is_frozen() {
    let standing = Standing {
        flushed: Lsn(4000),
        chain: Chain(0x1122_3344_5566_7788),
        records: 11,
        highest_epoch: Epoch(2),
        runs: 5,
        common: Lsn(1024),
    };
    golden(&Message::OpenAck(standing), SPACE, OPEN_ACK);
}

#[test]
fn match_matched_and_truncate_are_frozen() {
    let chain = Chain(0x1122_3344_5566_7788);
    golden(&Message::Match(Lsn(4000)), SPACE, MATCH);
    golden(&Message::Matched(Boundary { lsn: Lsn(3900), chain, records: 10 }), SPACE, MATCHED);
    golden(&Message::Truncate(Truncate { lsn: Lsn(1024), chain }), SPACE, TRUNCATE);
}

#[test]
fn segment_open_is_frozen() {
    let run = SegmentOpen {
        ordinal: 5,
        start: Lsn(4096),
        segment: SegmentName(0x68a1_b2c3),
        file: 9,
        offset: 512,
    };
    golden(&Message::SegmentOpen(run), SPACE, SEGMENT_OPEN);
}

#[test]
fn ack_is_frozen() {
    let ack = Ack {
        received: Lsn(14_002),
        written: Lsn(14_002),
        flushed: Lsn(4096),
        applied: Lsn(0),
        sequence: 40,
        chain: Chain(0x1122_3344_5566_7788),
    };
    golden(&Message::Ack(ack), SPACE, ACK);
}

#[test]
fn heartbeat_is_frozen() {
    let heartbeat = Heartbeat { unix_ns: 1_700_000_000_123_456_789 };
    golden(&Message::Heartbeat(heartbeat), CONNECTION, HEARTBEAT);
}

#[test]
fn error_is_frozen() {
    let refusal = |code, sentence: &str| Message::Error(Refusal::new(code, sentence.into()));
    golden(&refusal(ErrorCode::Diverged, "at 4096: chains differ"), SPACE, ERROR);
    let itself = refusal(ErrorCode::Itself, "this node has reached itself");
    golden(&itself, CONNECTION, ERROR_OF_CONNECTION);
}

#[test]
fn segment_retire_is_frozen() {
    let retire = SegmentRetire { file: 9, after: Lsn(4096), what: Retirement::Gone };
    golden(&Message::SegmentRetire(retire), SPACE, SEGMENT_RETIRE);
}

#[test]
fn reseed_is_frozen() {
    let base = Mark {
        lsn: Lsn(4096),
        chain: Chain(0x1122_3344_5566_7788),
        records: 41,
        sequence: 40,
        timestamp_ns: 1_700_000_000_123_456_789,
    };
    let reseed = Reseed { base, head: Lsn(8192), first_run: 5, vouched: true };
    golden(&Message::Reseed(reseed), SPACE, RESEED);
    // A zero there keeps everything.
    golden(&Message::Reseed(Reseed { vouched: false, ..reseed }), SPACE, RESEED_UNVOUCHED);
}

#[test]
fn a_refused_record_is_frozen() {
    let sentence = "at 4096: payload CRC32C".into();
    let refusal = Refusal { code: ErrorCode::Damaged, sentence, at: Lsn(4096) };
    golden(&Message::Error(refusal), SPACE, ERROR_OF_RECORD);
    assert_eq!(ErrorCode::Damaged as u16, 17);
    assert_eq!(ErrorCode::from_wire(17), Some(ErrorCode::Damaged));
    assert!(PAGE.contains("\n| 17 | `Damaged` |"));
}

#[test]
fn fetching_is_frozen() {
    golden(&Message::Fetch(Fetch { lsn: Lsn(4096), bytes: 61_440 }), SPACE, FETCH);
    let bytes = vec![0xef, 0xbe, 0xad, 0xde, 0, 1, 2, 3, 4];
    golden(&Message::Fetched(Fetched { lsn: Lsn(4096), bytes }), SPACE, FETCHED);
    for kind in [Kind::Fetch, Kind::Fetched] {
        assert!(PAGE.contains(&format!("\n| {} | `{kind:?}` |", kind as u8)), "{kind:?}");
        assert!(PAGE.contains(&format!("\n### {} {kind:?}\n", kind as u8)), "{kind:?}");
    }
}

#[test]
fn the_data_header_is_frozen() {
    let header = FrameHeader {
        records: 3,
        start: Lsn(4096),
        first_sequence: 41,
        payload_bytes: 9906,
        raw_bytes: 9906,
        ..FrameHeader::bare(Kind::Data, SPACE.0, SPACE.1)
    };
    assert_eq!(header.encode().as_slice(), bytes(DATA));
    let sealed = header.with_payload_crc(crc32c::crc32c(b"123456789"));
    assert_eq!(sealed.encode().as_slice(), bytes(DATA_WITH_CRC));
    for (header, hex) in [(header, DATA), (sealed, DATA_WITH_CRC)] {
        let golden: [u8; 64] = bytes(hex).try_into().unwrap();
        assert_eq!(FrameHeader::decode(&golden), Ok(header));
    }
}

#[test]
fn error_codes_are_frozen() {
    let codes = [
        ErrorCode::Version,
        ErrorCode::Cluster,
        ErrorCode::Itself,
        ErrorCode::Fenced,
        ErrorCode::Role,
        ErrorCode::Stream,
        ErrorCode::Busy,
        ErrorCode::Corrupt,
        ErrorCode::Gap,
        ErrorCode::Diverged,
        ErrorCode::Storage,
        ErrorCode::Protocol,
        ErrorCode::Limit,
        ErrorCode::Shutdown,
        ErrorCode::Timeout,
        ErrorCode::Lost,
    ];
    for (number, code) in (1..).zip(codes) {
        assert_eq!(code as u16, number);
        assert_eq!(ErrorCode::from_wire(number), Some(code));
        assert!(PAGE.contains(&format!("\n| {number} | `{code:?}` |")), "{code:?} in the page");
    }
    let later = [(18, ErrorCode::NewEpoch)];
    for (number, code) in later {
        assert_eq!(code as u16, number);
        assert_eq!(ErrorCode::from_wire(number), Some(code));
        assert!(PAGE.contains(&format!("\n| {number} | `{code:?}` |")), "{code:?} in the page");
    }
    assert_eq!((ErrorCode::from_wire(0), ErrorCode::from_wire(99)), (None, None));
}

#[test]
fn every_kind_stands_in_the_page() {
    for number in (1..=12).chain(15..=16) {
        let kind = Kind::from_wire(number).unwrap();
        assert!(PAGE.contains(&format!("\n| {number} | `{kind:?}` |")), "{kind:?}");
        assert!(PAGE.contains(&format!("\n### {number} {kind:?}\n")), "{kind:?}");
    }
    assert_eq!((Kind::from_wire(0), Kind::from_wire(99)), (None, None));
}

#[test]
fn a_long_sentence_is_cut_at_a_character() {
    let sentence = "é".repeat(400);
    let mut frame = Vec::new();
    let refusal = Refusal::new(ErrorCode::Gap, sentence);
    Message::Error(refusal).encode(SPACE.0, SPACE.1, &mut frame);
    let (header, body) = frame.split_first_chunk::<64>().unwrap();
    let header = FrameHeader::decode(header).unwrap();
    let Some(Message::Error(cut)) = Message::decode(&header, body).unwrap() else { panic!() };
    assert_eq!(cut.sentence, "é".repeat(256));
}
