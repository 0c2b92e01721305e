#![allow(clippy::unwrap_used)]

use std::io;
use std::ops::Range;

use super::*;
use crate::ids::{SegmentName, StreamId};
use crate::io::{SlabPool, Slice};
use crate::lsn::Chain;
use crate::state::catalog::{Retired, Role};
use crate::state::runs::Runs;

/// Repeatable chance: xorshift.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// Who has written a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Nobody,
    Buffered,
    Direct,
}

/// One file, as the stream says it must be, as a reader sees it, and as it
/// would be after a loss of power.
#[derive(Default)]
struct Image {
    stream: Vec<u8>,
    seen: Vec<u8>,
    durable: Vec<u8>,
    lanes: Vec<Lane>,
}

/// A descriptor: which file, and whether it goes past the page cache.
struct Descriptor {
    file: Arc<File>,
    image: usize,
    direct: bool,
}

/// An operation that has been submitted and not completed.
struct Submitted {
    of: LogOp,
    op: Op,
    /// For a flush: the file as it was when it was submitted. More may get to
    /// the disk, less may not.
    covers: Option<Vec<u8>>,
}

/// A disk that does what it is told in any order, and no more of it than it
/// must.
#[derive(Default)]
struct Disk {
    images: Vec<Image>,
    descriptors: Vec<Descriptor>,
    submitted: Vec<Submitted>,
}

impl Disk {
    fn open(&mut self, image: usize, direct: bool) -> SegmentFiles {
        let mut descriptor = |direct| {
            let file = Arc::new(File::open("/dev/null").unwrap());
            self.descriptors.push(Descriptor { file: file.clone(), image, direct });
            file
        };
        let names = Names::default();
        let direct = direct.then(|| descriptor(true));
        SegmentFiles { buffered: descriptor(false), direct, names }
    }

    fn descriptor(&self, file: &Arc<File>) -> &Descriptor {
        self.descriptors.iter().find(|known| Arc::ptr_eq(&known.file, file)).unwrap()
    }

    fn submit(&mut self, of: LogOp, op: Op) {
        let covers = match &op {
            Op::Write { file, offset, slices, .. } => {
                let (image, direct) = (self.descriptor(file).image, self.descriptor(file).direct);
                if direct {
                    assert_eq!(offset % BLOCK, 0, "the offset of a direct write");
                    for slice in slices {
                        let memory = slice.as_ref().as_ptr() as usize;
                        assert_eq!(memory % DIRECT_BLOCK_BYTES, 0, "the memory");
                        assert_eq!(slice.as_ref().len() % DIRECT_BLOCK_BYTES, 0, "the length");
                    }
                }
                self.claim(image, *offset, slices, direct);
                None
            }
            Op::WriteFlush { file, offset, slices, .. } => {
                assert!(!self.descriptor(file).direct);
                self.claim(self.descriptor(file).image, *offset, slices, false);
                None
            }
            Op::Flush { file } => Some(self.images[self.descriptor(file).image].seen.clone()),
            other => panic!("a log does not {other:?}"),
        };
        self.submitted.push(Submitted { of, op, covers });
    }

    /// What is written is what the stream has there, no byte is written twice,
    /// and no block is written by both lanes.
    fn claim(&mut self, image: usize, offset: u64, slices: &[Slice], direct: bool) {
        let image = &mut self.images[image];
        let mut at = usize::try_from(offset).unwrap();
        let begin = at;
        for slice in slices {
            let bytes = slice.as_ref();
            assert!(image.stream[at..at + bytes.len()] == *bytes, "not the stream's, at {at}");
            at += bytes.len();
        }
        let lane = if direct { Lane::Direct } else { Lane::Buffered };
        let blocks = begin / DIRECT_BLOCK_BYTES..at.div_ceil(DIRECT_BLOCK_BYTES);
        image.lanes.resize(image.lanes.len().max(blocks.end), Lane::Nobody);
        for block in &mut image.lanes[blocks] {
            let allowed = *block == Lane::Nobody || (*block == lane && !direct);
            assert!(allowed, "a block of {block:?} is written by {lane:?}");
            *block = lane;
        }
    }

    /// Complete any one of what has been submitted.
    fn complete(&mut self, chance: &mut Chance) -> LogOp {
        let Submitted { of, op, covers } =
            self.submitted.swap_remove(chance.below(self.submitted.len()));
        match op {
            Op::Write { file, offset, slices, .. } => self.write(&file, offset, &slices),
            Op::WriteFlush { file, offset, slices, .. } => {
                self.write(&file, offset, &slices);
                let image = self.descriptor(&file).image;
                self.images[image].durable = self.images[image].seen.clone();
            }
            Op::Flush { file } => {
                let image = self.descriptor(&file).image;
                // One flush at a time, and files only grow: nothing is taken back.
                self.images[image].durable = covers.unwrap();
            }
            other => panic!("a log does not {other:?}"),
        }
        of
    }

    fn write(&mut self, file: &Arc<File>, offset: u64, slices: &[Slice]) {
        let image = self.descriptor(file).image;
        let seen = &mut self.images[image].seen;
        let mut at = usize::try_from(offset).unwrap();
        for slice in slices {
            let bytes = slice.as_ref();
            // A hole reads as zeroes.
            seen.resize(seen.len().max(at + bytes.len()), 0);
            seen[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
    }
}

/// A log, its disk, and who feeds it.
struct Rig {
    chance: Chance,
    disk: Disk,
    log: Log,
    now: Instant,
    /// Runs that the keeper has not opened yet.
    unready: VecDeque<(u32, SegmentFiles)>,
    /// Where each run lies: its range of the stream, its image, its offset.
    runs: Vec<(u64, usize, u64)>,
    with_direct: bool,
    seen_flushed: Lsn,
}

fn record(runs: Runs) -> SpaceRecord {
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    SpaceRecord { runs, ..SpaceRecord::new(Role::Replica, StreamId(1), history) }
}

fn mark(before: &Mark, bytes: usize) -> Mark {
    Mark {
        lsn: before.lsn.advance(bytes as u64),
        chain: Chain(before.chain.0 + 1),
        records: before.records + 1,
        ..*before
    }
}

impl Rig {
    /// A log that goes on behind `there` bytes, at the end of its first run.
    fn new(seed: u64, there: usize, with_direct: bool, delay: Duration) -> Self {
        let chance = Chance::new(seed);
        let mut disk = Disk::default();
        let (mut runs, mut of_runs, mut flushed) = (Runs::default(), Vec::new(), Mark::START);
        if there > 0 {
            let bytes = vec![1; there];
            let lanes = vec![Lane::Buffered; there.div_ceil(DIRECT_BLOCK_BYTES)];
            let (seen, durable) = (bytes.clone(), bytes.clone());
            disk.images.push(Image { stream: bytes, seen, durable, lanes });
            let segment = SegmentName(100);
            runs.open(Run { start: Lsn::ZERO, segment, file: 0, offset: 0, bytes: None });
            of_runs.push((0, 0, 0));
            flushed = mark(&flushed, there);
        }
        let space = "alpha".parse().unwrap();
        let mut log = Log::new(space, record(runs), flushed, Epoch::FIRST, delay);
        let mut unready = VecDeque::new();
        if let Some((ordinal, _)) = log.resume_run() {
            unready.push_back((ordinal, disk.open(0, with_direct)));
        }
        let (now, seen_flushed) = (Instant::now(), flushed.lsn);
        Self { chance, disk, log, now, unready, runs: of_runs, with_direct, seen_flushed }
    }

    /// The stream changes to a new file, or to one that is there already.
    fn begin_run(&mut self, image: usize) {
        if image == self.disk.images.len() {
            self.disk.images.push(Image::default());
        }
        let offset = self.disk.images[image].stream.len() as u64;
        let start = self.log.received().lsn;
        let open = SegmentOpen {
            ordinal: self.log.record.runs.len(),
            start,
            segment: SegmentName(100 + image as u64),
            file: image as u64,
            offset,
        };
        self.log.begin_run(&open);
        self.unready.push_back((open.ordinal, self.disk.open(image, self.with_direct)));
        self.runs.push((start.0, image, offset));
    }

    fn ready(&mut self) {
        if let Some((ordinal, files)) = self.unready.pop_front() {
            self.log.run_ready(ordinal, files);
        }
    }

    /// A frame comes in as [`crate::engine::inbox`] delivers it.
    fn append(&mut self, bytes: usize) {
        let start = self.log.received().lsn;
        // No zeroes, which is what a hole reads as; every frame at its own phase.
        let phase = usize::try_from(start.0 % 251).unwrap();
        let pattern = (1..=251).collect::<Vec<u8>>().repeat(bytes / 251 + 2);
        let payload = &pattern[phase..phase + bytes];
        let place = self.log.placement(start, u32::try_from(bytes).unwrap());
        if self.chance.one_in(8) {
            // The peer is closing, or time passes between header and payload.
            self.submit(true);
        }
        let placed = place.is_some() && !self.chance.one_in(8);
        let (offset, carry) = match place {
            Some(place) if placed => place,
            _ => (self.chance.below(DIRECT_BLOCK_BYTES), Vec::new()),
        };
        let mut slab = SlabPool::oversized(offset + bytes);
        slab.push(&vec![0; offset - carry.len()]);
        slab.push(&carry);
        slab.push(payload);
        let slice = slab.slice(offset - carry.len()..offset + bytes);
        let image = self.runs.last().unwrap().1;
        self.disk.images[image].stream.extend(payload);
        let end = mark(self.log.received(), bytes);
        self.log.append(slice, carry.len(), placed, end);
    }

    fn submit(&mut self, settle: bool) {
        let disk = &mut self.disk;
        self.log.submit(self.now, settle, &mut |of, op| disk.submit(of, op));
    }

    fn complete(&mut self) -> Moved {
        let op = self.disk.complete(&mut self.chance);
        let (written, flushed) = (*self.log.written(), *self.log.flushed());
        let moved = self.log.completed(op, Ok(()));
        assert!(self.log.written().lsn >= written.lsn && self.log.flushed().lsn >= flushed.lsn);
        assert!(self.log.flushed().lsn <= self.log.written().lsn);
        assert!(self.log.written().lsn <= self.log.received().lsn);
        self.check_flushed();
        moved
    }

    /// The ranges of the files that hold a range of the stream.
    fn places(&self, stream: Range<u64>) -> Vec<(usize, Range<usize>)> {
        let ends = self.runs.iter().skip(1).map(|run| run.0).chain([u64::MAX]);
        let place = |(run, end): (&(u64, usize, u64), u64)| {
            let (from, to) = (stream.start.max(run.0), stream.end.min(end));
            let at = |lsn: u64| usize::try_from(run.2 + (lsn - run.0)).unwrap();
            (from < to).then(|| (run.1, at(from)..at(to)))
        };
        self.runs.iter().zip(ends).filter_map(place).collect()
    }

    /// What counts as durable would survive a loss of power now.
    fn check_flushed(&mut self) {
        let flushed = self.log.flushed().lsn;
        for (image, range) in self.places(self.seen_flushed.0..flushed.0) {
            let image = &self.disk.images[image];
            assert!(image.durable.len() >= range.end, "flushed {flushed}, and it is not there");
            assert!(image.durable[range.clone()] == image.stream[range], "flushed is not durable");
        }
        self.seen_flushed = flushed;
    }

    /// Nothing more comes: everything must get to the disk by itself.
    fn drain(&mut self) {
        while !self.log.is_settled() {
            self.ready();
            self.now += Duration::from_secs(2);
            self.submit(true);
            if !self.disk.submitted.is_empty() {
                self.complete();
            }
        }
        assert_eq!(self.log.flushed(), self.log.received());
        assert_eq!(self.log.written(), self.log.received());
        for image in &self.disk.images {
            assert!(image.seen == image.stream, "a file is not the stream");
            assert!(image.durable == image.stream, "a file is not durable");
        }
    }

    /// Do one thing at random.
    fn step(&mut self) {
        match self.chance.below(16) {
            0..=3 => {
                let bytes = 64 + self.chance.below(9000);
                self.append(bytes);
            }
            4..=6 => {
                let bytes = MIN_DIRECT_BYTES as usize + self.chance.below(3 * DIRECT_BLOCK_BYTES);
                self.append(bytes);
            }
            7 if self.chance.one_in(2) => {
                let image = self.chance.below(self.disk.images.len() + 1);
                if self.runs.last().is_none_or(|run| run.1 != image) {
                    self.begin_run(image);
                }
            }
            8 => self.ready(),
            9 => self.now += Duration::from_millis(700),
            10..=11 => {
                let settle = self.chance.one_in(3);
                self.submit(settle);
            }
            _ if !self.disk.submitted.is_empty() => {
                self.complete();
            }
            _ => self.submit(false),
        }
    }
}

#[test]
fn whatever_order_the_disk_keeps_the_files_are_the_stream() {
    for seed in 0..48 {
        println!("seed {seed}");
        let there = [0, 1, 4096, 70_001][usize::try_from(seed % 4).unwrap()];
        let delay = if seed % 5 == 4 { Duration::from_secs(1) } else { Duration::ZERO };
        let mut rig = Rig::new(seed, there, seed % 7 != 6, delay);
        if there == 0 {
            rig.begin_run(0);
        }
        for _ in 0..150 {
            rig.step();
        }
        rig.drain();
        let end = rig.log.received().lsn;
        let checkpoint = rig.log.into_state().unwrap().0.checkpoint;
        assert_eq!(checkpoint.lsn, end, "what is given back is checkpointed");
    }
}

#[test]
fn after_any_failure_nothing_moves() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut rig = Rig::new(seed, 5000, true, Duration::ZERO);
        let steps = 20 + rig.chance.below(100);
        for _ in 0..steps {
            rig.step();
        }
        while rig.disk.submitted.is_empty() {
            rig.ready();
            rig.append(400_000);
            rig.submit(true);
        }
        let failed = rig.disk.complete(&mut rig.chance);
        let before = (*rig.log.written(), *rig.log.flushed());
        let moved = rig.log.completed(failed, Err(io::ErrorKind::StorageFull.into()));
        let nothing = Moved { written: false, flushed: false };
        assert_eq!(moved, nothing);
        assert!(rig.log.failed().is_some());
        while !rig.disk.submitted.is_empty() {
            let count = rig.disk.submitted.len();
            rig.submit(true);
            assert_eq!(rig.disk.submitted.len(), count, "a failed log submits nothing");
            assert!(!rig.log.is_settled(), "what is in flight has not ended");
            assert_eq!(rig.complete(), nothing);
        }
        assert_eq!((*rig.log.written(), *rig.log.flushed()), before);
        assert!(rig.log.is_settled());
        assert!(rig.log.next_timeout().is_none());
        assert!(rig.log.into_state().is_err(), "it must be recovered from the disk");
    }
}

#[test]
fn one_flush_covers_the_files_of_earlier_runs() {
    let mut rig = Rig::new(1, 0, true, Duration::ZERO);
    rig.begin_run(0);
    rig.ready();
    // Both runs are written before the first flush begins.
    rig.append(1000);
    rig.append(300_000);
    rig.begin_run(1);
    rig.ready();
    rig.append(2000);
    rig.submit(true);
    while rig.disk.submitted.iter().any(|next| matches!(next.of, LogOp::Write(_))) {
        rig.complete();
    }
    assert_eq!(rig.log.written(), rig.log.received());
    rig.submit(true);
    let flushes = rig.disk.submitted.iter().filter(|next| next.of == LogOp::Flush).count();
    assert_eq!(flushes, 2, "one for each file");
    let moved: Vec<_> = (0..2).map(|_| rig.complete().flushed).collect();
    assert_eq!(moved, [false, true], "durable when the last of them is");
    assert_eq!(rig.log.flushed(), rig.log.received());
}

#[test]
fn a_lone_record_takes_its_flush_along() {
    let mut rig = Rig::new(1, 100, true, Duration::ZERO);
    rig.ready();
    rig.append(64);
    rig.submit(true);
    assert!(matches!(rig.disk.submitted[..], [Submitted { of: LogOp::WriteFlush(_), .. }]));
    assert_eq!(rig.complete(), Moved { written: true, flushed: true });
    assert!(rig.log.is_settled());
}

#[test]
fn a_write_in_flight_is_not_covered_by_a_flush_that_began_before_it_ended() {
    let mut rig = Rig::new(1, 100, true, Duration::ZERO);
    rig.ready();
    rig.append(300_000);
    rig.submit(true);
    let late = rig.disk.submitted.pop().unwrap();
    while !rig.disk.submitted.is_empty() {
        rig.complete();
    }
    rig.append(500);
    rig.submit(true);
    rig.disk.submitted.insert(0, late);
    rig.drain();
}

#[test]
fn written_bytes_wait_for_their_flush_as_long_as_they_may() {
    let mut rig = Rig::new(1, 100, true, Duration::from_secs(1));
    rig.ready();
    rig.append(500);
    rig.submit(true);
    rig.complete();
    rig.submit(true);
    assert!(rig.disk.submitted.is_empty());
    let due = rig.log.next_timeout().unwrap();
    assert_eq!(due, rig.now + Duration::from_secs(1));
    rig.now = due;
    rig.submit(true);
    assert_eq!(rig.disk.submitted.len(), 1);
    assert!(rig.complete().flushed);
    assert!(rig.log.next_timeout().is_none());
}

#[test]
fn only_the_carry_that_was_given_out_is_taken_back() {
    for settle in [false, true] {
        let mut rig = Rig::new(1, 0, true, Duration::ZERO);
        rig.begin_run(0);
        rig.ready();
        let payload = vec![9; 300_000];
        for _ in 0..3 {
            let start = rig.log.received().lsn;
            let (offset, carry) = rig.log.placement(start, 300_000).unwrap();
            rig.submit(settle);
            let mut slab = SlabPool::oversized(offset + payload.len());
            slab.push(&vec![0; offset - carry.len()]);
            slab.push(&carry);
            slab.push(&payload);
            let slice = slab.slice(offset - carry.len()..offset + payload.len());
            rig.disk.images[0].stream.extend(&payload);
            let end = mark(rig.log.received(), payload.len());
            rig.log.append(slice, carry.len(), true, end);
            rig.submit(false);
        }
        rig.drain();
    }
}

/// A stream was cut where a segment ends that went here since. A primary that was set back
/// has it, and goes on in it.
#[test]
fn nothing_is_received_into_a_segment_that_went_here() {
    let mut rig = Rig::new(1, 5000, false, Duration::ZERO);
    rig.log.record.retired.insert(0, Retired::Gone);
    rig.ready();
    let mut ops = Vec::new();
    rig.log.submit(rig.now, true, &mut |_, op| ops.push(op));
    assert_eq!(rig.log.failed(), None, "as long as nothing comes");
    rig.append(100);
    rig.log.submit(rig.now, true, &mut |_, op| ops.push(op));
    assert!(rig.log.failed().is_some_and(|why| why.contains("went here")));
    assert!(ops.is_empty(), "{ops:?}");
}
