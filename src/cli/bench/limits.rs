//! `saltus bench limits`: what the machine can do, nothing of Saltus in it.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::catch_up::{VolumeArgs, volume};
use super::measure::{Spread, quantile, round};
use super::raw::{RawRun, WriteKind, transfer, write_only};
use super::volume::warm;
use super::workspace::Workspace;
use crate::cli::output;
use crate::cli::table::Table;

/// Kinds of write that are measured beside each other.
const KINDS: [WriteKind; 3] = [WriteKind::Direct, WriteKind::Dontcache, WriteKind::Plain];

/// Bytes of the record whose durable append is timed: 1 KiB of payload.
pub(super) const APPEND_BYTES: usize = 1024 + 64;

/// Appends that are timed in one run.
const APPENDS: usize = 500;

/// The result, as JSON. Each entry: median, least and most of the runs.
#[derive(Debug, Serialize)]
struct Report {
    bytes: u64,
    runs: u32,
    loops: Vec<Entry>,
    bare_fdatasync_us: Quantiles,
}

/// One way.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    gb_s: Spread,
    sender_cpu_s_per_gb: Spread,
    receiver_cpu_s_per_gb: Spread,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Quantiles {
    /// Of values in any order.
    pub(super) fn of(mut us: Vec<f64>) -> Self {
        us.sort_unstable_by(f64::total_cmp);
        Self { p50: round(quantile(&us, 0.5)), p99: round(quantile(&us, 0.99)) }
    }
}

pub(super) fn run(args: &VolumeArgs, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    workspace.say("writing what is sent ...");
    let options = &args.options;
    let volume = volume(args, workspace)?;
    let mut measured: Vec<(String, Vec<RawRun>)> = Vec::new();
    let mut appends = Vec::new();
    let mut add = |name: String, run: RawRun| {
        workspace.say(&format!("{name}: {:.2} GB/s", run.gb_s));
        match measured.iter_mut().find(|(known, _)| *known == name) {
            Some((_, runs)) => runs.push(run),
            None => measured.push((name, vec![run])),
        }
    };
    for _ in 0..options.runs() {
        for kind in KINDS {
            warm(&volume.segments)?;
            let name = format!("wire and disk, {}", kind.name());
            add(name, transfer(workspace, &volume.segments, kind, false)?);
        }
        for (name, verify) in [("wire alone", false), ("wire alone, verified", true)] {
            let run = transfer(workspace, &volume.segments, WriteKind::None, verify)?;
            add(name.into(), run);
        }
        for kind in KINDS {
            let run = write_only(workspace, volume.bytes, kind)?;
            add(format!("disk alone, {}", kind.name()), run);
        }
        let mut log = AppendLog::create(workspace)?;
        for _ in 0..if options.quick { APPENDS / 10 } else { APPENDS } {
            appends.push(log.append()?);
            workspace.pause(Duration::ZERO)?;
        }
    }
    let loops = measured.into_iter().map(|(name, runs)| Entry {
        name,
        gb_s: Spread::of(runs.iter().map(|run| run.gb_s)),
        sender_cpu_s_per_gb: Spread::of(runs.iter().map(|run| run.sender_cpu_s_per_gb)),
        receiver_cpu_s_per_gb: Spread::of(runs.iter().map(|run| run.receiver_cpu_s_per_gb)),
    });
    let report = Report {
        bytes: volume.bytes,
        runs: options.runs(),
        loops: loops.collect(),
        bare_fdatasync_us: Quantiles::of(appends),
    };
    if json { output::json(&report) } else { output::print(&render(&report)) }
}

fn render(report: &Report) -> String {
    let headings = ["WAY", "GB/S", "SENDER CPU S/GB", "RECEIVER"];
    let mut table = Table::new(0, 1, &headings);
    for entry in &report.loops {
        table.row(vec![
            entry.name.clone(),
            entry.gb_s.to_string(),
            format!("{:.2}", entry.sender_cpu_s_per_gb.median),
            format!("{:.2}", entry.receiver_cpu_s_per_gb.median),
        ]);
    }
    format!(
        "limits of this machine: {}, {} of each in turn, median (min-max)\n\n{}\nwrite of \
         {APPEND_BYTES} bytes and fdatasync: p50 {:.0} us, p99 {:.0} us\n",
        output::bytes(report.bytes),
        output::count(report.runs, "run"),
        table.render(),
        report.bare_fdatasync_us.p50,
        report.bare_fdatasync_us.p99,
    )
}

/// A file to which single records are appended durably.
#[derive(Debug)]
pub(super) struct AppendLog {
    file: File,
    record: Vec<u8>,
}

impl AppendLog {
    /// A new file.
    pub(super) fn create(workspace: &Workspace) -> anyhow::Result<Self> {
        let file = File::create(workspace.path().join("appends"))?;
        workspace.settle()?;
        Ok(Self { file, record: vec![0x5a; APPEND_BYTES] })
    }

    /// Append and flush one record; microseconds.
    pub(super) fn append(&mut self) -> anyhow::Result<f64> {
        let start = Instant::now();
        self.file.write_all(&self.record)?;
        self.file.sync_data()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}
