//! The demo's writers: one thread and one log per space, at a steady rate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::cli::payload::Payload;
use crate::ids::SpaceId;
use crate::limits::RECORD_HEADER_BYTES;
use crate::wal::writer::{Writer, WriterOptions};

/// How long a writer rests between two spurts.
const TICK: Duration = Duration::from_millis(1);

/// Small segments, so that even a short demo goes from one to the next.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The entry type of the records: `EpisodeStore`, the most common one.
const EPISODE_STORE: u32 = 1;

/// How much was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Records.
    pub(super) records: u64,
    /// Their bytes in the log, headers included.
    pub(super) bytes: u64,
}

impl Totals {
    /// Both together.
    pub(super) fn add(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }
}

/// What the threads and their owner share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    records: AtomicU64,
}

/// Writers that run. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    record_bytes: u64,
    threads: Vec<(SpaceId, JoinHandle<anyhow::Result<Totals>>)>,
}

impl Load {
    /// Start a writer in each of `spaces` spaces below `data_root`, which
    /// together write `rate` records of `payload_bytes` in a second.
    pub(super) fn start(
        data_root: &Path,
        spaces: u32,
        rate: u32,
        payload_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut load = Self {
            shared: Arc::default(),
            record_bytes: (payload_bytes + RECORD_HEADER_BYTES) as u64,
            threads: Vec::new(),
        };
        for index in 1..=spaces {
            let space: SpaceId = format!("space-{index}").parse()?;
            let directory = data_root.join(space.as_str()).join("wal");
            let shared = Arc::clone(&load.shared);
            let rate = f64::from(rate) / f64::from(spaces);
            let write = move || write(&directory, rate, payload_bytes, &shared);
            let thread = thread::Builder::new().name(format!("writer {space}")).spawn(write)?;
            load.threads.push((space, thread));
        }
        Ok(load)
    }

    /// What was written until now, about.
    pub(super) fn written(&self) -> Totals {
        let records = self.shared.records.load(Ordering::Relaxed);
        Totals { records, bytes: records * self.record_bytes }
    }

    /// True once a writer has given up, which [`Load::stop`] will explain.
    pub(super) fn any_ended(&self) -> bool {
        self.threads.iter().any(|(_, thread)| thread.is_finished())
    }

    /// Stop the writers and say what each has written.
    pub(super) fn stop(mut self) -> anyhow::Result<BTreeMap<SpaceId, Totals>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut totals = BTreeMap::new();
        for (space, thread) in std::mem::take(&mut self.threads) {
            let total = thread.join().map_err(|_| anyhow!("the writer of {space} died"))?;
            totals.insert(space.clone(), total.with_context(|| format!("cannot write {space}"))?);
        }
        Ok(totals)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (_, thread) in std::mem::take(&mut self.threads) {
            // The demo has failed already, for a reason that is on its way.
            let _ = thread.join();
        }
    }
}

/// The body of one thread.
fn write(
    directory: &Path,
    rate: f64,
    payload_bytes: usize,
    shared: &Shared,
) -> anyhow::Result<Totals> {
    let options = WriterOptions { segment_bytes: SEGMENT_BYTES, ..WriterOptions::default() };
    let mut writer = Writer::open(directory, options)?;
    let mut payload = Payload::new(payload_bytes);
    let mut totals = Totals::default();
    let start = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        let spurt = due.saturating_sub(totals.records);
        for _ in 0..spurt {
            let payload = payload.numbered(totals.records);
            totals.bytes += writer.append(EPISODE_STORE, payload)?.bytes;
            totals.records += 1;
        }
        shared.records.fetch_add(spurt, Ordering::Relaxed);
        if spurt == 0 {
            // Nobody comes to fill the group.
            writer.commit()?;
        }
        thread::sleep(TICK);
    }
    writer.commit()?;
    Ok(totals)
}
