//! What processes use, and what several runs come to.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, mem};

use anyhow::{Context, anyhow};
use serde::Serialize;

/// Clock ticks per second in `/proc/<pid>/stat`: a constant of the interface,
/// whatever the kernel's own rate.
const TICKS_PER_S: f64 = 100.0;

/// How often memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// Processor time that a process has used until now, seconds: all of its
/// threads, those that have ended and the kernel's workers for its rings
/// included. In steps of 10 ms.
pub(super) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has gone"))?;
    // The name, in brackets, may hold anything. Behind it stand the state
    // (field 3) and so on; user and system time are fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => {
            Ok((f64::from(user) + f64::from(system)) / TICKS_PER_S)
        }
        _ => Err(anyhow!("/proc/{pid}/stat is not as expected: {stat}")),
    }
}

/// Adds up the processor time of a process to the nanosecond, for one that
/// does next to nothing. What a thread uses between the last look at it and
/// its end is missed: look often.
#[derive(Debug)]
pub(super) struct FineCpu {
    pid: u32,
    /// What each thread had used at the last look, ns.
    threads: HashMap<OsString, u64>,
    used_ns: u64,
}

impl FineCpu {
    /// Count from now on.
    pub(super) fn start(pid: u32) -> anyhow::Result<Self> {
        let mut cpu = Self { pid, threads: HashMap::new(), used_ns: 0 };
        cpu.look()?;
        cpu.used_ns = 0;
        Ok(cpu)
    }

    /// Seconds used until now.
    pub(super) fn look(&mut self) -> anyhow::Result<f64> {
        let pid = self.pid;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} has gone"))?;
        let before = mem::take(&mut self.threads);
        for task in tasks {
            let task = task?;
            // A thread may end between the listing and the question.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let ns = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            let ns = ns.with_context(|| format!("schedstat of {pid} is unexpected: {text}"))?;
            let name = task.file_name();
            self.used_ns += ns.saturating_sub(before.get(&name).copied().unwrap_or(0));
            self.threads.insert(name, ns);
        }
        Ok(real(self.used_ns) / 1e9)
    }
}

/// Bytes that were read from a disk on behalf of a process until now.
pub(super) fn disk_read_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))
        .with_context(|| format!("process {pid} has gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok())
        .with_context(|| format!("/proc/{pid}/io is not as expected: {text}"))
}

/// Anonymous memory that a process has in use, KiB: `RssAnon`.
fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Watches the anonymous memory of a process, and keeps the peak.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    shared: Arc<(AtomicBool, AtomicU64)>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begin. Ends by itself when the process has gone.
    pub(super) fn start(pid: u32) -> anyhow::Result<Self> {
        let shared = Arc::<(AtomicBool, AtomicU64)>::default();
        let told = Arc::clone(&shared);
        let watch = move || {
            while !told.0.load(Ordering::Relaxed) {
                let Some(kib) = anonymous_kib(pid) else { return };
                told.1.fetch_max(kib, Ordering::Relaxed);
                thread::park_timeout(MEMORY_INTERVAL);
            }
        };
        let thread = thread::Builder::new().name(format!("memory of {pid}")).spawn(watch)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The peak until now, MiB.
    pub(super) fn peak_mib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "below 2^52 KiB")]
        let kib = self.shared.1.load(Ordering::Relaxed) as f64;
        round(kib / 1024.0)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.shared.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A watch that died has nothing to say.
            let _ = thread.join();
        }
    }
}

/// What several runs came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of values in any order; zeros if there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().map(round).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        Self { median: round(quantile(&values, 0.5)), min: *min, max: *max }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.min, self.max)
    }
}

/// A quantile of sorted values, between neighbours where it falls between
/// them; 0 if there are none.
pub(super) fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 values")]
    let at = last as f64 * fraction.clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=last")]
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// Four digits behind the point: more would pretend.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// An amount as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "amounts stay far below 2^52")]
pub(super) fn real(amount: u64) -> f64 {
    amount as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), 3.0);
    }

    #[test]
    fn own_processor_time_moves() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        while cpu_seconds(pid).unwrap() < before + 0.02 {}
        assert!(anonymous_kib(pid).unwrap() > 100);
    }
}
