//! What one frame costs, without a socket: its header, and both machines.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::limits::FRAME_HEADER_BYTES;
use saltus::lsn::{Chain, Lsn, Mark};
use saltus::protocol::Now;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Identity, OpenSpace, SegmentOpen, Standing};
use saltus::protocol::receiver::{Intent, Receiver};
use saltus::protocol::sender::{BatchRule, Event, Found, Sender, Streams, Transmit};

const SPACE: Handle = Handle(0);

/// Records of a frame, and bytes of each.
const RECORDS: u64 = 100;
const RECORD_BYTES: u64 = 1088;

/// A stream without an end: a mark follows from its position.
struct Endless;

fn mark(records: u64) -> Mark {
    Mark {
        lsn: Lsn(records * RECORD_BYTES),
        chain: Chain(records),
        records,
        sequence: records,
        timestamp_ns: records,
    }
}

impl Streams for Endless {
    fn head(&self, _: Handle) -> Mark {
        mark(u64::MAX / RECORD_BYTES / 2)
    }

    fn run(&self, _: Handle, ordinal: u32) -> Option<SegmentOpen> {
        let segment = SegmentName(1);
        (ordinal == 0).then_some(SegmentOpen {
            ordinal,
            start: Lsn::ZERO,
            segment,
            file: 0,
            offset: 0,
        })
    }

    fn cut(&self, _: Handle, _: u32, from: &Mark, _: u32) -> Option<(Mark, u64)> {
        Some((mark(from.records + RECORDS), from.records + 1))
    }
}

/// Two machines that have met, and ship.
struct Pair {
    now: Now,
    sender: Sender,
    receiver: Receiver,
}

impl Pair {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ns: 1 };
        let identity = |node: &str, uuid| Identity {
            cluster: "bench".parse().unwrap(),
            node: node.parse().unwrap(),
            uuid: NodeUuid(uuid),
        };
        let batch = BatchRule {
            max_records: RECORDS,
            max_delay: Duration::from_millis(10),
            max_bytes: 1 << 20,
        };
        let mut sender = Sender::new(now, identity("one", 1), 0, batch);
        let open = OpenSpace {
            space: "space".parse().unwrap(),
            stream: StreamId(1),
            history: vec![(Epoch::FIRST, Lsn::ZERO)],
            head: Lsn::ZERO,
        };
        sender.open_space(now, SPACE, open);
        let mut pair = Self { now, sender, receiver: Receiver::new(now, identity("two", 2)) };
        while pair.ship() == 0 {}
        pair
    }

    /// One transmission there, and the answer back. Data frames shipped.
    fn ship(&mut self) -> u64 {
        let mut shipped = 0;
        match self.sender.poll_transmit(self.now, &Endless) {
            Some(Transmit::Data { header, .. }) => {
                let header = FrameHeader::decode(&header).unwrap();
                self.receiver.admit(&header).unwrap();
                let intent = self.receiver.handle_frame(self.now, &header, &[]);
                assert!(matches!(intent, Some(Intent::Data { .. })), "{intent:?}");
                let end = header.start.0 / RECORD_BYTES + u64::from(header.records);
                self.receiver.handle_verified(self.now, SPACE, mark(end));
                self.receiver.handle_written(self.now, SPACE, mark(end).lsn);
                self.receiver.handle_flushed(self.now, SPACE, mark(end));
                shipped = 1;
            }
            Some(Transmit::Control(bytes)) => {
                each_frame(&bytes, |header, body| {
                    if let Some(Intent::Open { handle, .. }) =
                        self.receiver.handle_frame(self.now, header, body)
                    {
                        self.receiver.handle_opened(self.now, handle, Ok(Standing::EMPTY));
                    }
                });
            }
            None => {}
        }
        while let Some(bytes) = self.receiver.poll_transmit(self.now) {
            each_frame(&bytes, |header, body| self.sender.handle_frame(self.now, header, body));
        }
        while let Some(event) = self.sender.poll_event() {
            if let Event::Resume { handle, .. } = event {
                self.sender.handle_resume(self.now, handle, Found::Mark(Mark::START));
            }
        }
        shipped
    }
}

fn each_frame(mut bytes: &[u8], mut each: impl FnMut(&FrameHeader, &[u8])) {
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let header = FrameHeader::decode(header).unwrap();
        let (body, rest) = rest.split_at(header.payload_bytes as usize);
        each(&header, body);
        bytes = rest;
    }
}

fn codec(criterion: &mut Criterion) {
    let mut header = FrameHeader::bare(Kind::Data, SPACE, Epoch::FIRST);
    (header.records, header.first_sequence) = (100, 7);
    (header.payload_bytes, header.raw_bytes) = (108_800, 108_800);
    let bytes = header.encode();
    let mut group = criterion.benchmark_group("frame header");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&header).encode()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| FrameHeader::decode(black_box(&bytes)).unwrap());
    });
    group.finish();
}

fn machines(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    let mut group = criterion.benchmark_group("machines");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a frame there and its ack back", |bencher| {
        bencher.iter(|| assert_eq!(pair.ship(), 1));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    targets = codec, machines
}
criterion_main!(benches);
