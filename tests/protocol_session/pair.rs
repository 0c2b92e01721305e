//! Two machines and the wire between them, in virtual time.
//!
//! The logs are real in all that the machines see, positions, runs, headers and
//! chains; payloads are only counted, so a test may ship gigabytes. The wire
//! holds whole frames, and a test decides when each one arrives, if at all.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::limits::{FRAME_HEADER_BYTES, RECORD_HEADER_BYTES};
use saltus::lsn::{Lsn, Mark};
use saltus::protocol::Now;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::matching::common_point;
use saltus::protocol::message::{
    Boundary, ErrorCode, Identity, Message, OpenSpace, SegmentOpen, Standing, Truncate,
};
use saltus::protocol::receiver::{Intent, Receiver};
use saltus::protocol::sender::{BatchRule, Event, Found, Sender, Streams, Transmit};

pub const BATCH: BatchRule =
    BatchRule { max_records: 100, max_delay: Duration::from_millis(10), max_bytes: 1 << 20 };

pub fn identity(cluster: &str, node: &str, uuid: u128) -> Identity {
    Identity {
        cluster: cluster.parse().unwrap(),
        node: node.parse().unwrap(),
        uuid: NodeUuid(uuid),
    }
}

/// A record: its header, and how many bytes it takes in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub header: [u8; RECORD_HEADER_BYTES],
    pub bytes: u64,
}

/// A log, on either side. `marks[n]` lies behind `n` records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Each epoch, and how many bytes lay before it.
    pub history: Vec<(Epoch, Lsn)>,
    pub records: Vec<Record>,
    pub marks: Vec<Mark>,
    pub runs: Vec<SegmentOpen>,
}

impl Log {
    pub fn new() -> Self {
        Self {
            history: vec![(Epoch::FIRST, Lsn::ZERO)],
            records: Vec::new(),
            marks: vec![Mark::START],
            runs: Vec::new(),
        }
    }

    pub fn head(&self) -> Mark {
        *self.marks.last().unwrap()
    }

    pub fn push(&mut self, record: Record) -> Mark {
        let last = self.head();
        let next = Mark {
            lsn: last.lsn.advance(record.bytes),
            chain: last.chain.extend(&record.header),
            records: last.records + 1,
            sequence: u64::from_le_bytes(record.header[4..12].try_into().unwrap()),
            timestamp_ns: 1_000 * (last.records + 1),
        };
        self.records.push(record);
        self.marks.push(next);
        next
    }

    /// Appends `count` records of `bytes` bytes each.
    pub fn append(&mut self, count: usize, bytes: u64) {
        if self.runs.is_empty() {
            self.rotate();
        }
        for _ in 0..count {
            let sequence = self.head().records;
            let mut header = [0; RECORD_HEADER_BYTES];
            header[4..12].copy_from_slice(&sequence.to_le_bytes());
            self.push(Record { header, bytes });
        }
    }

    /// Begins a new segment at the head.
    pub fn rotate(&mut self) {
        let ordinal = u32::try_from(self.runs.len()).unwrap();
        self.runs.push(SegmentOpen {
            ordinal,
            start: self.head().lsn,
            segment: SegmentName(u64::from(ordinal) + 100),
            file: u64::from(ordinal),
            offset: 0,
        });
    }

    /// The log as a crash leaves it: nothing behind `records` records.
    pub fn truncate(&mut self, records: usize) {
        self.records.truncate(records);
        self.marks.truncate(records + 1);
    }

    /// The last boundary at or before a position.
    pub fn mark_before(&self, lsn: Lsn) -> Mark {
        self.marks[self.marks.partition_point(|mark| mark.lsn <= lsn) - 1]
    }

    /// The source lost all behind `records` records: a new epoch begins there.
    pub fn begin_epoch(&mut self, epoch: u64, records: usize) {
        self.truncate(records);
        let start = self.head().lsn;
        self.runs.retain(|run| run.start < start);
        self.history.retain(|(_, began)| *began <= start);
        self.history.push((Epoch(epoch), start));
    }

    pub fn mark_at(&self, lsn: Lsn) -> Option<Mark> {
        let found = self.marks.binary_search_by_key(&lsn, |mark| mark.lsn);
        found.ok().map(|index| self.marks[index])
    }

    fn open_space(&self, name: &str) -> OpenSpace {
        OpenSpace {
            space: name.parse().unwrap(),
            stream: StreamId(7),
            history: self.history.clone(),
            head: self.head().lsn,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Logs(pub BTreeMap<Handle, Log>);

impl Streams for Logs {
    fn head(&self, handle: Handle) -> Mark {
        self.0[&handle].head()
    }

    fn run(&self, handle: Handle, ordinal: u32) -> Option<SegmentOpen> {
        self.0[&handle].runs.get(ordinal as usize).copied()
    }

    fn cut(&self, handle: Handle, ordinal: u32, from: &Mark, max: u32) -> Option<(Mark, u64)> {
        let log = &self.0[&handle];
        let end = match log.runs.get(ordinal as usize + 1) {
            Some(next) => next.start,
            None => log.head().lsn,
        };
        assert!(log.runs[ordinal as usize].start <= from.lsn, "cut before the run");
        let first = usize::try_from(from.records).unwrap();
        assert_eq!(log.marks[first], *from, "cut at a foreign mark");
        let limit = end.min(from.lsn.advance(u64::from(max)));
        let fits = log.marks[first + 1..].partition_point(|mark| mark.lsn <= limit);
        let to = log.marks.get(first + fits.max(1)).filter(|to| to.lsn <= end)?;
        Some((*to, log.marks[first + 1].sequence))
    }
}

/// The replica's side of one space.
#[derive(Clone, Debug)]
pub struct Copy {
    pub log: Log,
    /// Records that are durable; the others are in memory.
    pub durable: usize,
    pub highest_epoch: Epoch,
    /// Answer `OpenSpace` with this.
    pub refuse: Option<ErrorCode>,
    /// The epochs that the primary told last.
    pub told: Vec<(Epoch, Lsn)>,
    /// Records that were cut off.
    pub quarantine: Vec<Record>,
}

impl Copy {
    /// As the engine does: the primary's epochs, where nothing is against it.
    pub fn adopt(&mut self) {
        let flushed = self.log.marks[self.durable].lsn;
        let common = common_point(&self.log.history, flushed, &self.told);
        if common == flushed && self.log.history != self.told {
            self.log.history.clone_from(&self.told);
            self.log.runs.retain(|run| run.start < flushed);
        }
    }

    /// As the engine does: save, cut, adopt.
    pub fn cut(&mut self, to: &Truncate) {
        let at = self.log.mark_at(to.lsn).unwrap();
        assert_eq!(at.chain, to.chain, "cut where the chains are the same");
        let kept = usize::try_from(at.records).unwrap();
        self.quarantine.extend(&self.log.records[kept..]);
        self.log.truncate(kept);
        self.log.runs.retain(|run| run.start < to.lsn);
        self.durable = kept;
        self.log.history.clone_from(&self.told);
    }

    pub fn standing(&self) -> Standing {
        let mark = self.log.marks[self.durable];
        Standing {
            flushed: mark.lsn,
            chain: mark.chain,
            records: mark.records,
            highest_epoch: self.highest_epoch,
            runs: u32::try_from(self.log.runs.len()).unwrap(),
            common: common_point(&self.log.history, mark.lsn, &self.told),
        }
    }
}

/// A frame on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: FrameHeader,
    pub body: Vec<u8>,
    pub records: Vec<Record>,
}

impl Frame {
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    pub fn message(&self) -> Message {
        Message::decode(&self.header, &self.body).unwrap().unwrap()
    }
}

/// Cuts a batch of control frames into frames.
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let header = FrameHeader::decode(header).unwrap();
        let (body, rest) = rest.split_at(header.payload_bytes as usize);
        frames.push(Frame { header, body: body.to_vec(), records: Vec::new() });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "control batches hold whole frames");
    frames
}

/// A control frame as a hostile or faulty peer may make one.
pub fn forge(message: &Message, handle: Handle, epoch: u64) -> Frame {
    let mut bytes = Vec::new();
    message.encode(handle, Epoch(epoch), &mut bytes);
    frames(&bytes).pop().unwrap()
}

pub struct Pair {
    pub now: Now,
    pub sender: Sender,
    pub receiver: Receiver,
    pub logs: Logs,
    pub copies: BTreeMap<Handle, Copy>,
    pub to_replica: VecDeque<Frame>,
    pub to_primary: VecDeque<Frame>,
    pub events: Vec<Event>,
    pub intents: Vec<Intent>,
    /// Flush as soon as data is verified.
    pub flush_at_once: bool,
}

pub fn space_name(handle: Handle) -> String {
    format!("space-{}", handle.0)
}

impl Pair {
    pub fn new() -> Self {
        Self::of(identity("test", "one", 1), identity("test", "two", 2))
    }

    pub fn of(primary: Identity, replica: Identity) -> Self {
        let now = Now { instant: Instant::now(), unix_ns: 1_700_000_000_000_000_000 };
        Self {
            now,
            sender: Sender::new(now, primary, 3, BATCH),
            receiver: Receiver::new(now, replica),
            logs: Logs::default(),
            copies: BTreeMap::new(),
            to_replica: VecDeque::new(),
            to_primary: VecDeque::new(),
            events: Vec::new(),
            intents: Vec::new(),
            flush_at_once: true,
        }
    }

    /// A pair that streams `spaces` spaces, all of them empty.
    pub fn streaming(spaces: u32) -> Self {
        let mut pair = Self::new();
        for number in 0..spaces {
            pair.add_space(Handle(number));
        }
        pair.settle();
        assert!((0..spaces).all(|number| pair.sender.sent(Handle(number)).is_some()));
        pair.events.clear();
        pair.intents.clear();
        pair
    }

    pub fn add_space(&mut self, handle: Handle) {
        self.logs.0.insert(handle, Log::new());
        let copy = Copy {
            log: Log::new(),
            durable: 0,
            highest_epoch: Epoch(0),
            refuse: None,
            told: Vec::new(),
            quarantine: Vec::new(),
        };
        self.copies.insert(handle, copy);
        self.open(handle);
    }

    pub fn open(&mut self, handle: Handle) {
        let open = self.logs.0[&handle].open_space(&space_name(handle));
        self.sender.open_space(self.now, handle, open);
    }

    /// Appends at the primary and tells the sender.
    pub fn append(&mut self, handle: Handle, count: usize, bytes: u64) {
        self.logs.0.get_mut(&handle).unwrap().append(count, bytes);
        self.sender.handle_head(self.now, handle);
    }

    pub fn log(&mut self, handle: Handle) -> &mut Log {
        self.logs.0.get_mut(&handle).unwrap()
    }

    pub fn copy(&mut self, handle: Handle) -> &mut Copy {
        self.copies.get_mut(&handle).unwrap()
    }

    /// Takes events and answers them as the engine does.
    pub fn take_events(&mut self) {
        while let Some(event) = self.sender.poll_event() {
            if let Event::Resume { handle, at, .. } = &event {
                let found = self.logs.0[handle].mark_at(*at);
                let found = found.map_or(Found::Nothing, Found::Mark);
                self.sender.handle_resume(self.now, *handle, found);
            }
            if let Event::Diverged { handle, common, .. } = &event {
                let why = format!("other records behind {}", common.lsn);
                self.sender.handle_diverged(self.now, *handle, why);
            }
            self.events.push(event);
        }
    }

    /// Puts one more transmission of the primary on the wire.
    pub fn send_one(&mut self) -> bool {
        self.take_events();
        match self.sender.poll_transmit(self.now, &self.logs) {
            None => false,
            Some(Transmit::Control(bytes)) => {
                self.to_replica.extend(frames(&bytes));
                true
            }
            Some(Transmit::Data { handle, header, ordinal, start, bytes }) => {
                let header = FrameHeader::decode(&header).unwrap();
                assert_eq!((header.handle, header.start), (handle, start));
                assert_eq!(header.payload_bytes, bytes);
                let log = &self.logs.0[&handle];
                let first = usize::try_from(log.mark_at(start).unwrap().records).unwrap();
                let end = log.mark_at(start.advance(u64::from(bytes))).unwrap();
                let last = usize::try_from(end.records).unwrap();
                let records = log.records[first..last].to_vec();
                assert_eq!(records.len(), header.records as usize);
                assert_eq!(header.first_sequence, log.marks[first + 1].sequence);
                let run_end = log.runs.get(ordinal as usize + 1).map(|run| run.start);
                assert!(log.runs[ordinal as usize].start <= start);
                assert!(run_end.is_none_or(|run_end| end.lsn <= run_end), "one frame, one run");
                self.to_replica.push_back(Frame { header, body: Vec::new(), records });
                true
            }
        }
    }

    /// Puts all that the primary has to send on the wire.
    pub fn send(&mut self) {
        while self.send_one() {}
    }

    /// Delivers a frame to the replica, as its engine does.
    pub fn deliver(&mut self, frame: &Frame) -> Option<Intent> {
        let admitted = self.receiver.admit(&frame.header);
        let body = if admitted.is_ok() { &frame.body[..] } else { &[] };
        let intent = self.receiver.handle_frame(self.now, &frame.header, body);
        if admitted.is_err() {
            assert!(!matches!(intent, Some(Intent::Data { .. } | Intent::Run { .. })));
        }
        match &intent {
            Some(Intent::Open { handle, open }) => {
                let copy = self.copies.get_mut(handle).unwrap();
                copy.log.truncate(copy.durable);
                copy.told.clone_from(&open.history);
                if copy.highest_epoch <= frame.header.epoch {
                    copy.adopt();
                }
                let answer = match copy.refuse {
                    Some(code) => Err((code, "the test says so".to_owned())),
                    None => Ok(copy.standing()),
                };
                if answer.is_ok() {
                    copy.highest_epoch = copy.highest_epoch.max(frame.header.epoch);
                }
                self.receiver.handle_opened(self.now, *handle, answer);
            }
            Some(Intent::Match { handle, lsn }) => {
                let copy = self.copies.get_mut(handle).unwrap();
                let flushed = copy.log.marks[copy.durable].lsn;
                let Mark { lsn, chain, records, .. } = copy.log.mark_before(flushed.min(*lsn));
                let found = Boundary { lsn, chain, records };
                self.receiver.handle_matched(self.now, *handle, Ok(found));
            }
            Some(Intent::Truncate { handle, to }) => {
                let copy = self.copies.get_mut(handle).unwrap();
                copy.cut(to);
                self.receiver.handle_opened(self.now, *handle, Ok(copy.standing()));
            }
            Some(Intent::Run { handle, run }) => {
                let copy = self.copies.get_mut(handle).unwrap();
                assert_eq!(run.ordinal as usize, copy.log.runs.len());
                assert_eq!(run.start, copy.log.head().lsn);
                copy.log.runs.push(*run);
            }
            Some(Intent::Data { handle, start, skip }) => {
                let copy = self.copies.get_mut(handle).unwrap();
                assert_eq!(*start, copy.log.head().lsn, "data continues the copy");
                let mut skipped = 0;
                for record in &frame.records {
                    if skipped < u64::from(*skip) {
                        skipped += record.bytes;
                    } else {
                        copy.log.push(*record);
                    }
                }
                let end = copy.log.head();
                self.receiver.handle_verified(self.now, *handle, end);
                self.receiver.handle_written(self.now, *handle, end.lsn);
                if self.flush_at_once {
                    self.flush(*handle);
                }
            }
            _ => {}
        }
        intent
    }

    /// The replica's fdatasync returns.
    pub fn flush(&mut self, handle: Handle) {
        let copy = self.copies.get_mut(&handle).unwrap();
        copy.durable = copy.log.records.len();
        self.receiver.handle_flushed(self.now, handle, copy.log.head());
    }

    pub fn deliver_one(&mut self) -> bool {
        let Some(frame) = self.to_replica.pop_front() else {
            return false;
        };
        let intent = self.deliver(&frame);
        self.intents.extend(intent);
        true
    }

    /// Puts all that the replica has to send on the wire.
    pub fn reply(&mut self) {
        while let Some(bytes) = self.receiver.poll_transmit(self.now) {
            self.to_primary.extend(frames(&bytes));
        }
    }

    pub fn deliver_reply(&mut self) -> bool {
        let Some(frame) = self.to_primary.pop_front() else {
            return false;
        };
        self.sender.handle_frame(self.now, &frame.header, &frame.body);
        self.take_events();
        true
    }

    /// Until nobody has anything to say at this moment.
    pub fn settle(&mut self) {
        loop {
            self.send();
            let mut moved = false;
            while self.deliver_one() {
                moved = true;
            }
            self.reply();
            while self.deliver_reply() {
                moved = true;
            }
            if !moved {
                break;
            }
        }
    }

    /// Time passes; the timers that are due fire, nothing is delivered.
    pub fn advance(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.unix_ns += u64::try_from(by.as_nanos()).unwrap();
        if self.sender.next_timeout().is_some_and(|at| at <= self.now.instant) {
            self.sender.handle_timeout(self.now);
            self.take_events();
        }
        if self.receiver.next_timeout().is_some_and(|at| at <= self.now.instant) {
            let intent = self.receiver.handle_timeout(self.now);
            self.intents.extend(intent);
        }
    }

    /// The connection breaks, what is on the wire is lost, a new one is made.
    /// A replica that crashed has lost what was not durable.
    pub fn reconnect(&mut self, replica_crashed: bool) {
        self.to_replica.clear();
        self.to_primary.clear();
        self.sender = Sender::new(self.now, identity("test", "one", 1), 3, BATCH);
        self.receiver = Receiver::new(self.now, identity("test", "two", 2));
        let handles: Vec<_> = self.copies.keys().copied().collect();
        for handle in handles {
            let copy = self.copies.get_mut(&handle).unwrap();
            if replica_crashed {
                copy.log.truncate(copy.durable);
            } else {
                copy.durable = copy.log.records.len();
            }
            self.open(handle);
        }
    }

    /// Inv. 1: every copy is a prefix of its log.
    pub fn check_prefix(&self) {
        for (handle, copy) in &self.copies {
            let log = &self.logs.0[handle];
            assert!(log.records.starts_with(&copy.log.records), "{handle}: no prefix");
            assert!(log.runs.starts_with(&copy.log.runs), "{handle}: other runs");
        }
    }

    /// Every copy is its log, durably.
    pub fn check_identical(&self) {
        self.check_prefix();
        for (handle, copy) in &self.copies {
            assert_eq!(copy.durable, self.logs.0[handle].records.len(), "{handle}");
        }
    }

    /// The stops that the sender reported.
    pub fn stops(&self) -> Vec<(Handle, ErrorCode)> {
        let stop = |event: &Event| match event {
            Event::Stopped { handle, code, .. } => Some((*handle, *code)),
            _ => None,
        };
        self.events.iter().filter_map(stop).collect()
    }

    /// The stops that the receiver reported.
    pub fn replica_stops(&self) -> Vec<(Handle, ErrorCode)> {
        let stop = |intent: &Intent| match intent {
            Intent::Stopped { handle, code, .. } => Some((*handle, *code)),
            _ => None,
        };
        self.intents.iter().filter_map(stop).collect()
    }

    pub fn closed(&self) -> Option<(ErrorCode, String)> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { code, reason, .. } => Some((*code, reason.clone())),
            _ => None,
        })
    }

    pub fn replica_closed(&self) -> Option<(ErrorCode, String)> {
        self.intents.iter().find_map(|intent| match intent {
            Intent::Closed { code, reason } => Some((*code, reason.clone())),
            _ => None,
        })
    }

    /// Kinds of the frames on the way to the replica.
    pub fn kinds(&self) -> Vec<Kind> {
        self.to_replica.iter().map(Frame::kind).collect()
    }
}
