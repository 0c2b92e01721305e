//! Both session machines, fed by each other, by a stranger, and by the clock.
//!
//! An input says what the replica held before, and from where on that is not
//! what the primary holds; then it is a list of steps: deliver what one machine
//! has for the other, deliver a frame that a stranger made, let time pass,
//! flush.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::limits::{FRAME_HEADER_BYTES, MAX_CONTROL_PAYLOAD_BYTES};
use saltus::lsn::{Chain, Lsn, Mark};
use saltus::protocol::Now;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Boundary, ErrorCode, Identity, OpenSpace, SegmentOpen, Standing};
use saltus::protocol::receiver::{Intent, Receiver};
use saltus::protocol::sender::{BatchRule, Event, Found, Sender, Streams, Transmit};

use super::frames::control;
use super::input::Input;

/// Bytes of each record of the stream.
const RECORD_BYTES: u64 = 100;

/// Steps of one run.
const MOST_STEPS: usize = 512;

/// A stream of records that are all alike.
struct Log {
    records: u64,
}

fn mark(records: u64) -> Mark {
    Mark {
        lsn: Lsn(records * RECORD_BYTES),
        chain: Chain(records.wrapping_mul(0x9e37_79b9)),
        records,
        sequence: records,
        timestamp_ns: records,
    }
}

impl Streams for Log {
    fn head(&self, _: Handle) -> Mark {
        mark(self.records)
    }

    fn run(&self, _: Handle, ordinal: u32) -> Option<SegmentOpen> {
        let segment = SegmentName(1);
        let run = SegmentOpen { ordinal, start: Lsn::ZERO, segment, file: 0, offset: 0 };
        (ordinal == 0).then_some(run)
    }

    fn cut(&self, _: Handle, _: u32, from: &Mark, most: u32) -> Option<(Mark, u64)> {
        let fit = (u64::from(most) / RECORD_BYTES).max(1);
        let to = self.records.min(from.records + fit);
        (to > from.records).then(|| (mark(to), from.records + 1))
    }
}

struct Pair {
    now: Now,
    log: Log,
    sender: Sender,
    receiver: Receiver,
    /// Records that the replica held of each space before.
    before: u64,
    /// Those behind this are not the primary's.
    shared: u64,
    /// Records that the replica holds of each space.
    held: BTreeMap<Handle, u64>,
    closed: bool,
}

pub fn run(data: &[u8]) {
    let identity = |node: &str, uuid| Identity {
        cluster: "fuzz".parse().unwrap(),
        node: node.parse().unwrap(),
        uuid: NodeUuid(uuid),
    };
    let now = Now { instant: Instant::now(), unix_ns: 1 };
    let batch =
        BatchRule { max_records: 100, max_delay: Duration::from_millis(10), max_bytes: 64 << 10 };
    let mut input = Input::new(data);
    let (before, shared) = (u64::from(input.byte()), u64::from(input.byte()));
    let mut pair = Pair {
        now,
        log: Log { records: u64::from(input.byte()) },
        before,
        shared,
        sender: Sender::new(now, identity("one", 1), 0, batch),
        receiver: Receiver::new(now, identity("two", 2)),
        held: BTreeMap::new(),
        closed: false,
    };
    for number in 0..2 {
        let open = OpenSpace {
            space: format!("space-{number}").parse().unwrap(),
            stream: StreamId(7),
            history: vec![(Epoch::FIRST, Lsn::ZERO)],
            head: Lsn::ZERO,
        };
        pair.sender.open_space(now, Handle(number), open);
    }
    for _ in 0..MOST_STEPS {
        let Some(step) = input.next() else { break };
        pair.step(step % 8, &mut input);
        if pair.closed {
            break;
        }
    }
}

impl Pair {
    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        let now = self.now;
        match step {
            0 => self.send(),
            1 => self.reply(),
            2 => {
                let (header, body) = control(input);
                self.deliver_to_replica(&header, body);
            }
            3 => {
                let (header, body) = control(input);
                self.deliver_to_primary(&header, body);
            }
            4 => {
                // A frame of records that a stranger made.
                let number = u32::from(input.byte() % 4);
                let start = Lsn(u64::from(input.byte()) * RECORD_BYTES / 2);
                let (records, bytes) = (u32::from(input.byte()), input.u32());
                let epoch = Epoch(u64::from(input.byte() % 4));
                let header = FrameHeader {
                    records,
                    start,
                    payload_bytes: bytes % (1 << 20),
                    raw_bytes: bytes % (1 << 20),
                    ..FrameHeader::bare(Kind::Data, Handle(number), epoch)
                };
                self.deliver_to_replica(&header, &[]);
            }
            5 => {
                let ms = u64::from(input.byte()) * 50;
                self.now.instant += Duration::from_millis(ms);
                self.now.unix_ns += ms * 1_000_000;
                self.sender.handle_timeout(self.now);
                let intent = self.receiver.handle_timeout(self.now);
                self.obey(intent.as_ref(), 0, 0);
                self.events();
            }
            6 => {
                self.log.records += u64::from(input.byte());
                for number in 0..2 {
                    self.sender.handle_head(now, Handle(number));
                }
            }
            _ => {
                for (&handle, &records) in &self.held {
                    self.receiver.handle_flushed(now, handle, self.replicas_mark(records));
                }
            }
        }
        let patient = self.sender.next_timeout().is_none_or(|at| at >= self.now.instant);
        assert!(patient || self.sender.next_timeout().is_some());
    }

    /// One transmission of the primary.
    fn send(&mut self) {
        match self.sender.poll_transmit(self.now, &self.log) {
            Some(Transmit::Control(bytes)) => {
                for (header, body) in cut(&bytes) {
                    self.deliver_to_replica(&header, body);
                }
            }
            Some(Transmit::Data { header, .. }) => {
                let header = FrameHeader::decode(&header).unwrap();
                self.deliver_to_replica(&header, &[]);
            }
            _ => {}
        }
        self.events();
    }

    /// All that the replica has to say.
    fn reply(&mut self) {
        // Each poll takes something away: it comes to an end.
        for _ in 0..16 {
            let Some(bytes) = self.receiver.poll_transmit(self.now) else { return };
            for (header, body) in cut(&bytes) {
                self.deliver_to_primary(&header, body);
            }
        }
        assert!(self.receiver.poll_transmit(self.now).is_none(), "there is always more to say");
    }

    fn deliver_to_replica(&mut self, header: &FrameHeader, body: &[u8]) {
        let admitted = self.receiver.admit(header).is_ok();
        let body = if admitted { body } else { &[] };
        let intent = self.receiver.handle_frame(self.now, header, body);
        let end = header.start.0.saturating_add(u64::from(header.raw_bytes));
        self.obey(intent.as_ref(), header.start.0, end);
    }

    /// The replica's mark behind that many records.
    fn replicas_mark(&self, records: u64) -> Mark {
        let Mark { chain, .. } = mark(records);
        let other = u64::from(records > self.shared);
        Mark { chain: Chain(chain.0 ^ other), ..mark(records) }
    }

    fn standing(&self, held: u64) -> Standing {
        let mark = self.replicas_mark(held);
        Standing {
            flushed: mark.lsn,
            chain: mark.chain,
            records: mark.records,
            runs: u32::from(held > 0),
            common: mark.lsn,
            ..Standing::EMPTY
        }
    }

    fn obey(&mut self, intent: Option<&Intent>, from: u64, end: u64) {
        match intent {
            Some(&Intent::Open { handle, .. }) => {
                let held = *self.held.entry(handle).or_insert(self.before);
                let standing = self.standing(held);
                self.receiver.handle_opened(self.now, handle, Ok(standing));
            }
            Some(&Intent::Match { handle, lsn }) => {
                let held = self.held.get(&handle).copied().unwrap_or(0);
                let mark = self.replicas_mark(held.min(lsn.0 / RECORD_BYTES));
                let (lsn, chain, records) = (mark.lsn, mark.chain, mark.records);
                let boundary = Boundary { lsn, chain, records };
                self.receiver.handle_matched(self.now, handle, Ok(boundary));
            }
            Some(Intent::Truncate { handle, to }) => {
                let keeps = to.lsn.0 / RECORD_BYTES;
                let held = self.held.get(handle).copied().unwrap_or(0);
                let mark = self.replicas_mark(keeps);
                let known = keeps <= held && (mark.lsn, mark.chain) == (to.lsn, to.chain);
                let standing = if known {
                    self.held.insert(*handle, keeps);
                    Ok(self.standing(keeps))
                } else {
                    Err((ErrorCode::Diverged, "no such boundary".to_owned()))
                };
                self.receiver.handle_opened(self.now, *handle, standing);
            }
            // As a verification does: whole records, or an end of the space.
            Some(&Intent::Data { handle, .. }) => {
                let whole = from.is_multiple_of(RECORD_BYTES) && end.is_multiple_of(RECORD_BYTES);
                if whole {
                    let end = end / RECORD_BYTES;
                    self.held.insert(handle, end);
                    let mark = self.replicas_mark(end);
                    self.receiver.handle_verified(self.now, handle, mark);
                    self.receiver.handle_written(self.now, handle, mark.lsn);
                } else {
                    let code = ErrorCode::Corrupt;
                    self.receiver.stop_space(self.now, handle, code, "no whole record".into());
                }
            }
            Some(Intent::Closed { .. }) => self.closed = true,
            _ => {}
        }
    }

    fn deliver_to_primary(&mut self, header: &FrameHeader, body: &[u8]) {
        self.sender.handle_frame(self.now, header, body);
        self.events();
    }

    fn events(&mut self) {
        while let Some(event) = self.sender.poll_event() {
            match event {
                Event::Resume { handle, at, .. } => {
                    let records = at.0 / RECORD_BYTES;
                    let known = at == mark(records).lsn && records <= self.log.records;
                    let found = if known { Found::Mark(mark(records)) } else { Found::Nothing };
                    self.sender.handle_resume(self.now, handle, found);
                }
                Event::Diverged { handle, .. } => {
                    self.sender.handle_diverged(self.now, handle, "other records".to_owned());
                }
                Event::Closed { .. } => self.closed = true,
                _ => {}
            }
        }
    }
}

/// Cuts what a machine sends into frames; it sends whole and good ones.
fn cut(mut bytes: &[u8]) -> Vec<(FrameHeader, &[u8])> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let header = FrameHeader::decode(header).unwrap();
        assert!(header.payload_bytes <= MAX_CONTROL_PAYLOAD_BYTES);
        let (body, rest) = rest.split_at(header.payload_bytes as usize);
        frames.push((header, body));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a machine sends whole frames");
    frames
}
