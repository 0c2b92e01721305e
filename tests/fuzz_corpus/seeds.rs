//! Inputs to begin with: what real nodes say and write, in the harness's
//! pieces.

use std::fs;

use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::limits::FRAME_HEADER_BYTES;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{
    Ack, Boundary, ErrorCode, Heartbeat, Hello, HelloAck, Identity, Message, OpenSpace, Refusal,
    SegmentOpen, Standing, Truncate,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The seeds of a target, by name.
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "catalog" => catalogs(),
        "config" => configurations(),
        "frames" => frames(),
        "handshake" => sessions(),
        "log" => logs(),
        "recovery" => recoveries(),
        _ => Vec::new(),
    }
}

fn named(seeds: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn messages() -> Vec<(&'static str, Message, Handle)> {
    let identity = |node: &str, uuid| Identity {
        cluster: "fuzz".parse().unwrap(),
        node: node.parse().unwrap(),
        uuid: NodeUuid(uuid),
    };
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        shard: 3,
        features: 0,
        identity: identity("one", 1),
    };
    let ack = HelloAck { version: 1, features: 0, identity: identity("two", 2) };
    let open = OpenSpace {
        space: "space-0".parse().unwrap(),
        stream: StreamId(7),
        history: vec![(Epoch(1), Lsn(0)), (Epoch(2), Lsn(1024))],
        head: Lsn(4096),
    };
    let standing = Standing {
        flushed: Lsn(400),
        chain: Chain(0x1122),
        records: 4,
        highest_epoch: Epoch(2),
        runs: 1,
        common: Lsn(400),
    };
    let run =
        SegmentOpen { ordinal: 0, start: Lsn(0), segment: SegmentName(1), file: 0, offset: 0 };
    let acked = Ack {
        received: Lsn(300),
        written: Lsn(300),
        flushed: Lsn(200),
        applied: Lsn(0),
        sequence: 2,
        chain: Chain(0x1122),
    };
    let refusal = Refusal::new(ErrorCode::Gap, "a gap".into());
    let boundary = Boundary { lsn: Lsn(300), chain: Chain(0x1122), records: 3 };
    let truncate = Truncate { lsn: Lsn(300), chain: Chain(0x1122) };
    let space = Handle(1);
    vec![
        ("hello", Message::Hello(hello), Handle::CONNECTION),
        ("hello-ack", Message::HelloAck(ack), Handle::CONNECTION),
        ("open-space", Message::OpenSpace(open), space),
        ("open-ack", Message::OpenAck(standing), space),
        ("segment-open", Message::SegmentOpen(run), space),
        ("ack", Message::Ack(acked), space),
        ("heartbeat", Message::Heartbeat(Heartbeat { unix_ns: 7 }), Handle::CONNECTION),
        ("match", Message::Match(Lsn(300)), space),
        ("matched", Message::Matched(boundary), space),
        ("truncate", Message::Truncate(truncate), space),
        ("error", Message::Error(refusal), space),
    ]
}

/// A control frame as the harness takes it apart.
fn control(message: &Message, handle: Handle) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(handle, Epoch(u64::from(handle != Handle::CONNECTION)), &mut frame);
    let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    let header = FrameHeader::decode(header).unwrap();
    let handle = u8::try_from(handle.0).unwrap_or(255);
    let epoch = u8::try_from(header.epoch.0).unwrap();
    let length = u16::try_from(body.len()).unwrap().to_le_bytes();
    [&[header.kind as u8, handle, epoch], &length[..], body].concat()
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut all = vec![7];
    for (name, message, handle) in messages() {
        let piece = [&[2], &control(&message, handle)[..]].concat();
        all.extend(&piece);
        seeds.push((name.to_owned(), [&[255], &piece[..]].concat()));
    }
    let mut header = FrameHeader::bare(Kind::Data, Handle(1), Epoch(1));
    (header.records, header.payload_bytes, header.raw_bytes) = (1, 40, 40);
    let raw = [&[9, 1], &header.encode()[..], &[0, 40], &[5; 40]].concat();
    seeds.push(("all".to_owned(), all));
    seeds.push(("data".to_owned(), raw));
    seeds
}

fn sessions() -> Vec<(String, Vec<u8>)> {
    // Hello and its answer, both spaces opened, records shipped and flushed.
    let meet = [0, 255, 0, 0, 1, 0, 0, 1, 0, 1];
    let diverged = [90, 40, 60, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1];
    let ship = [6, 200, 0, 0, 0, 0, 1, 7, 1, 5, 1, 6, 3, 0, 0, 7, 1, 5, 255, 0, 1];
    let mut seeds = vec![
        ("meet".to_owned(), meet.to_vec()),
        ("diverged".to_owned(), diverged.to_vec()),
        ("behind".to_owned(), [&[30, 255, 60, 0, 1, 0, 0, 1, 0, 1][..], &ship].concat()),
        ("ship".to_owned(), [&meet[..], &ship, &ship].concat()),
        ("silence".to_owned(), [&meet[..], &[5, 255, 5, 255]].concat()),
        ("stranger".to_owned(), [&meet[..], &[4, 0, 2, 3, 44, 1, 0, 0, 1, 1]].concat()),
    ];
    for (name, message, handle) in messages() {
        let frame = control(&message, handle);
        for (side, step) in [("replica", 2), ("primary", 3)] {
            let late = [&meet[..], &ship, &[step], &frame, &[1, 0]].concat();
            seeds.push((format!("{side}-{name}"), late));
        }
    }
    seeds
}

/// A piece of a segment: a record with a payload of these bytes.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
    [&[0], &length[..], payload].concat()
}

/// A piece: the bytes as they are.
fn raw(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(255).flat_map(|chunk| [&[7, chunk.len() as u8], chunk].concat()).collect()
}

/// A real segment, as Engram wrote it.
fn engram() -> Vec<u8> {
    let directory = format!("{ROOT}/tests/fixtures/engram/alpha/wal");
    let mut segments: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    fs::read(&segments[0]).unwrap()
}

/// The pieces of segments that went through something.
fn segments() -> Vec<(&'static str, Vec<u8>)> {
    let records: Vec<u8> = (1..6).flat_map(|n| record(&vec![n; usize::from(n) * 40])).collect();
    let large = [0, 0xff, 0xff, 9];
    let torn = [&[2, 100, 0][..], &[5; 100], &[80, 0]].concat();
    let rotten = [&[3, 100, 0][..], &[5; 100], &[90, 0, 4]].concat();
    let header = [&[4][..], &[0; 20], &[255, 255, 255, 0], &[1; 5]].concat();
    let plain = [&[5, 50, 0][..], &[6; 50]].concat();
    let zeroes = [6, 0, 2];
    let magic = raw(&[0xef, 0xbe, 0xad, 0xde, 1, 2, 3, 4]);
    vec![
        ("records", records.clone()),
        ("engram", raw(&engram()[..8000])),
        ("large", [&large[..], &records, &large].concat()),
        ("torn-tail", [&records[..], &torn].concat()),
        ("torn-middle", [&records[..], &torn, &records].concat()),
        ("rotten", [&records[..], &rotten, &records, &rotten].concat()),
        ("announces", [&records[..], &header, &records].concat()),
        ("without-checksums", [&plain[..], &plain, &records].concat()),
        ("zero-tail", [&records[..], &zeroes].concat()),
        ("zero-middle", [&records[..], &zeroes, &records].concat()),
        ("magic-in-debris", [&records[..], &magic, &magic, &records].concat()),
    ]
}

fn logs() -> Vec<(String, Vec<u8>)> {
    let with = |settings: u8, (name, pieces): (&str, Vec<u8>)| {
        (format!("{name}-{settings}"), [&[settings], &pieces[..]].concat())
    };
    let strict = segments().into_iter().map(|seed| with(0, seed));
    let lenient = segments().into_iter().map(|seed| with(203, seed));
    strict.chain(lenient).collect()
}

fn recoveries() -> Vec<(String, Vec<u8>)> {
    let file = |pieces: &[u8]| {
        let length = u16::try_from(pieces.len()).unwrap().to_le_bytes();
        [&length[..], pieces].concat()
    };
    // One run each over whole files; a checkpoint at the start, or far on.
    let one = |pieces: &[u8], checkpoint: &[u8]| {
        [&[1], &file(pieces)[..], &[1, 0, 2, 0, 0, 0], checkpoint].concat()
    };
    let two = |pieces: &[u8]| {
        let runs = [2, 0, 2, 0, 0, 0, 1, 2, 0, 0, 0];
        [&[2], &file(pieces)[..], &file(pieces), &runs, &[2, 0, 0]].concat()
    };
    let mut seeds = Vec::new();
    for (name, pieces) in segments() {
        seeds.push((format!("{name}-one"), one(&pieces, &[2, 0, 0])));
        seeds.push((format!("{name}-checkpoint"), one(&pieces, &[2, 104, 0])));
        if pieces.len() < 2000 {
            seeds.push((format!("{name}-two"), two(&pieces)));
        }
    }
    seeds
}

fn catalogs() -> Vec<(String, Vec<u8>)> {
    let put =
        |piece: u8, name: u8, value: &[u8]| [&[piece, name, value.len() as u8], value].concat();
    let mut space = vec![0; 96];
    (space[0], space[4], space[24], space[80]) = (2, 1, 1, 1);
    let mut run = vec![0; 40];
    run[32..].fill(0xff);
    let rows =
        [put(0, 0, &space), put(2, 0, &run), put(3, 0, &[1; 32]), put(4, 0, &[0; 40])].concat();
    named(vec![
        ("nothing", vec![0]),
        ("garbage", [&[0][..], b"redb\x1a\x0a\xa9\x0d\x0a", &[0; 600]].concat()),
        ("untouched", vec![1]),
        ("flipped", vec![1, 0x10, 0, 0, 0, 0xff, 0x00, 0x10, 0, 0, 7]),
        ("rows", [&[2, 1][..], &rows].concat()),
        ("short-rows", [&[2, 1][..], &put(0, 0, &space[..80]), &put(2, 0, &run[..9])].concat()),
        ("schema", [&[2, 1][..], &put(1, 3, &[9, 0, 0, 0])].concat()),
        ("no-node", [&[2, 0][..], &rows].concat()),
    ])
}

fn configurations() -> Vec<(String, Vec<u8>)> {
    let example = fs::read(format!("{ROOT}/deploy/saltus.example.toml")).unwrap();
    let uncommented: Vec<u8> = String::from_utf8(example.clone())
        .unwrap()
        .lines()
        .flat_map(|line| [line.strip_prefix("# ").unwrap_or(line), "\n"].concat().into_bytes())
        .collect();
    let small = b"[node]\nid = \"abc\"\ncluster = \"def\"\ndata_root = \"/x\"\n";
    named(vec![
        ("example", example),
        ("uncommented", uncommented),
        ("small", small.to_vec()),
        ("replicas", [&small[..], b"[[replica]]\nid = \"ghi\"\naddress = \"[::1]:1\"\n"].concat()),
        ("units", [&small[..], b"[batch]\nmax_delay = \"1s\"\nmax_bytes = \"64KiB\"\n"].concat()),
    ])
}
