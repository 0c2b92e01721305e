//! Writers: one that behaves, as a thread; one that does whatever a real
//! writer was seen to do.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use saltus::ids::SegmentName;
use saltus::wal::record::Header;
use saltus::wal::writer::{Fsync, Writer, WriterOptions};

/// A generator of numbers that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Bytes that are different for each seed.
pub fn payload(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut payload = vec![0; bytes];
    for chunk in payload.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    payload
}

/// One record as it lies in a file.
pub fn record(sequence: u64, bytes: usize) -> Vec<u8> {
    let payload = payload(sequence, bytes);
    // Older than any segment's name: what replaces a segment has its records.
    let header = Header::new(sequence, 500_000_000, 1, &payload).unwrap();
    [header.encode().as_slice(), &payload].concat()
}

/// One segment, written by hand. It keeps what it wrote, and it goes on
/// writing when its name is gone.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    file: File,
    /// Everything that was written.
    pub content: Vec<u8>,
    /// The sequence of the next record.
    pub sequence: u64,
}

impl Segment {
    /// A new, empty segment with this number in its name.
    pub fn create(wal: &Path, number: u64) -> Self {
        fs::create_dir_all(wal).unwrap();
        Self::at(wal.join(SegmentName(number).to_string()))
    }

    /// A new, empty file.
    pub fn at(path: PathBuf) -> Self {
        let file = File::options().append(true).create_new(true).open(&path).unwrap();
        Self { path, file, content: Vec::new(), sequence: 0 }
    }

    /// Append records of that many payload bytes each.
    pub fn records(&mut self, count: usize, bytes: usize) -> &mut Self {
        for _ in 0..count {
            let record = record(self.sequence, bytes);
            self.raw(&record);
            self.sequence = self.sequence.wrapping_add(1);
        }
        self
    }

    /// Append anything.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.file.write_all(bytes).unwrap();
        self.content.extend_from_slice(bytes);
        self
    }

    pub fn len(&self) -> u64 {
        self.content.len() as u64
    }

    pub fn rename(&mut self, to: PathBuf) {
        fs::rename(&self.path, &to).unwrap();
        self.path = to;
    }

    pub fn unlink(&self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// How a steady writer writes.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub segment_bytes: u64,
    /// The largest payload; sizes are spread over all powers of two up to it.
    pub max_payload: u64,
    /// About how many bytes a second, so that disks do not fill.
    pub bytes_per_second: u64,
    pub seed: u64,
}

/// A writer in a thread of its own.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Steady {
    pub fn start(wal: PathBuf, load: Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let (ended, count) = (stop.clone(), written.clone());
        let thread = thread::spawn(move || write(&wal, load, &ended, &count));
        Self { stop, written, thread: Some(thread) }
    }

    /// Bytes written until now.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// End it. Returns all bytes that it wrote.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test has failed for a reason of its own.
            let _ = thread.join();
        }
    }
}

fn write(wal: &Path, load: Load, stop: &AtomicBool, written: &AtomicU64) -> u64 {
    let options = WriterOptions {
        segment_bytes: load.segment_bytes,
        fsync: Fsync::Never,
        ..WriterOptions::default()
    };
    let mut random = Random(load.seed);
    let mut writer = Writer::open(wal, options).unwrap();
    let mut total = 0;
    let source = payload(load.seed, usize::try_from(load.max_payload).unwrap() + 4096);
    while !stop.load(Ordering::Relaxed) {
        // A burst of one size, so that large frames of small records arise too.
        let bits = 7 + random.below(u64::from(load.max_payload.ilog2()) - 5);
        let bound = (1 << bits).min(load.max_payload);
        let burst = 1 + random.below((1 << 20) / bound + 2);
        let before = total;
        for _ in 0..burst {
            let bytes = usize::try_from(64 + random.below(bound - 63)).unwrap();
            let from = usize::try_from(random.below(4096)).unwrap();
            total += writer.append(1, &source[from..from + bytes]).unwrap().bytes;
        }
        writer.commit().unwrap();
        written.store(total, Ordering::Relaxed);
        // Another process takes over: a new segment.
        if random.below(100) == 0 {
            writer = Writer::open(wal, options).unwrap();
        }
        // The rate that was asked for.
        let pause = (total - before) * 1_000_000 / load.bytes_per_second;
        thread::sleep(Duration::from_micros(pause));
    }
    total
}
