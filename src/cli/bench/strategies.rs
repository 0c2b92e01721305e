//! `saltus bench strategies`: each way from the page cache, or from the disk,
//! to the socket. The receiver verifies every record and has no disk, so that
//! the sender is what is measured.

use std::fs::File;

use anyhow::Context;
use serde::Serialize;

use super::Options;
use super::measure::{Spread, round};
use super::pair::{CatchUp, Far, Pair};
use super::raw::{RawRun, WriteKind, transfer};
use super::volume::{Volume, warm};
use super::workspace::Workspace;
use crate::cli::output;
use crate::cli::table::Table;
use crate::io::{Strategy, bulk};

/// Bytes of a payload, as a real log has them.
const PAYLOAD_BYTES: usize = 3238;

/// Records of 3,302 bytes: 2 GiB.
const RECORDS: u64 = (2 << 30) / (PAYLOAD_BYTES as u64 + 64);

/// Records of a quick run.
const QUICK_RECORDS: u64 = 20_000;

const STRATEGIES: [Strategy; 5] =
    [Strategy::Sendfile, Strategy::Splice, Strategy::SendZc, Strategy::Copy, Strategy::Auto];

/// Where the log is when a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Cache {
    Hot,
    Cold,
}

/// One line of the result. Rates are medians; a ratio is the median of those
/// within a round.
#[derive(Debug, Serialize)]
struct Entry {
    /// `"raw"`: sendfile in a loop, into a receiver that computes CRC32C.
    strategy: &'static str,
    cache: Cache,
    gb_s: f64,
    sender_cpu_s_per_gb: f64,
    receiver_cpu_s_per_gb: f64,
    /// GB/s by GB/s of the raw loop (hot only).
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_raw: Option<f64>,
    /// GB/s by GB/s of the best other strategy, the one with the highest
    /// median over all rounds (`auto` only).
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_best: Option<f64>,
    /// CPU s/GB of the sender by that of `copy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_cpu_to_copy: Option<f64>,
    /// Bytes that the primary read from the disk, by bytes shipped: shows
    /// whether cold was cold.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_reads: Option<f64>,
    #[serde(skip)]
    spread: Spread,
}

/// One round over everything, in one state of the cache.
struct Round {
    raw: Option<RawRun>,
    /// In the order of [`STRATEGIES`].
    runs: Vec<CatchUp>,
}

pub(super) fn run(options: &Options, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    let records = if options.quick { QUICK_RECORDS } else { RECORDS };
    workspace.say("writing the log ...");
    let volume = Volume::write(workspace, "bench", records, PAYLOAD_BYTES, 64 << 20)?;
    let (mut hot, mut cold) = (Vec::new(), Vec::new());
    for number in 1..=options.runs() {
        workspace.say(&format!("round {number} of {}", options.runs()));
        hot.push(round_of(workspace, &volume, Cache::Hot)?);
        cold.push(round_of(workspace, &volume, Cache::Cold)?);
    }
    let mut entries = summarise(Cache::Hot, &hot);
    entries.extend(summarise(Cache::Cold, &cold));
    if json { output::json(&entries) } else { output::print(&render(&entries, options.runs())) }
}

fn round_of(workspace: &Workspace, volume: &Volume, cache: Cache) -> anyhow::Result<Round> {
    let raw = match cache {
        Cache::Hot => {
            warm(&volume.segments)?;
            Some(transfer(workspace, &volume.segments, WriteKind::None, true)?)
        }
        Cache::Cold => None,
    };
    let mut runs = Vec::new();
    for strategy in STRATEGIES {
        match cache {
            Cache::Hot => warm(&volume.segments)?,
            Cache::Cold => chill(volume)?,
        }
        let mut pair = Pair::start(workspace, strategy, Far::Sink)?;
        let run = pair.catch_up(workspace, volume.bytes)?;
        pair.end(workspace)?;
        workspace.say(&format!("{cache:?} {}: {:.2} GB/s", strategy.name(), run.gb_s));
        runs.push(run);
    }
    Ok(Round { raw, runs })
}

/// Drop the log from the page cache.
fn chill(volume: &Volume) -> anyhow::Result<()> {
    for path in &volume.segments {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        bulk::forget(&file, 0, 0);
    }
    Ok(())
}

fn summarise(cache: Cache, rounds: &[Round]) -> Vec<Entry> {
    let median = |values: &dyn Fn(&Round) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(values).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    };
    let copy = STRATEGIES.iter().position(|strategy| *strategy == Strategy::Copy);
    // One strategy for all rounds: the luckiest run of each would be compared
    // with a strategy that nobody can choose.
    let speed = |index: usize| {
        median(&|round| Some(round.runs.get(index)?.gb_s)).unwrap_or_default().median
    };
    let others = (0..STRATEGIES.len()).filter(|index| STRATEGIES[*index] != Strategy::Auto);
    let best = others.max_by(|one, other| speed(*one).total_cmp(&speed(*other)));
    let mut entries = Vec::new();
    let raw = |of: fn(&RawRun) -> f64| median(&|round| round.raw.as_ref().map(of));
    if let Some(spread) = raw(|run| run.gb_s) {
        let cpu = |of| raw(of).unwrap_or_default().median;
        entries.push(Entry {
            strategy: "raw",
            cache,
            gb_s: spread.median,
            sender_cpu_s_per_gb: cpu(|run| run.sender_cpu_s_per_gb),
            receiver_cpu_s_per_gb: cpu(|run| run.receiver_cpu_s_per_gb),
            ratio_to_raw: None,
            ratio_to_best: None,
            sender_cpu_to_copy: None,
            disk_reads: None,
            spread,
        });
    }
    for (index, strategy) in STRATEGIES.into_iter().enumerate() {
        let of = |value: fn(&CatchUp) -> f64| {
            median(&|round| round.runs.get(index).map(value)).unwrap_or_default()
        };
        let spread = of(|run| run.gb_s);
        let to_raw = median(&|round| Some(round.runs.get(index)?.gb_s / round.raw?.gb_s));
        let to_best =
            median(&|round| Some(round.runs.get(index)?.gb_s / round.runs.get(best?)?.gb_s));
        let to_copy = median(&|round| {
            let copy = round.runs.get(copy?)?.sender_cpu_s_per_gb;
            Some(round.runs.get(index)?.sender_cpu_s_per_gb / copy)
        });
        entries.push(Entry {
            strategy: strategy.name(),
            cache,
            gb_s: spread.median,
            sender_cpu_s_per_gb: of(|run| run.sender_cpu_s_per_gb).median,
            receiver_cpu_s_per_gb: of(|run| run.receiver_cpu_s_per_gb).median,
            ratio_to_raw: to_raw.map(|spread| spread.median),
            ratio_to_best: to_best
                .filter(|_| strategy == Strategy::Auto)
                .map(|spread| spread.median),
            sender_cpu_to_copy: to_copy.map(|spread| spread.median),
            disk_reads: Some(round(of(|run| run.disk_reads).median)),
            spread,
        });
    }
    entries
}

fn render(entries: &[Entry], runs: u32) -> String {
    let headings = ["STRATEGY", "CACHE", "GB/S", "CPU S/GB", "RECEIVER", "DISK READS"];
    let mut table = Table::new(0, 2, &headings);
    for entry in entries {
        table.row(vec![
            entry.strategy.into(),
            if entry.cache == Cache::Hot { "hot" } else { "cold" }.into(),
            entry.spread.to_string(),
            format!("{:.2}", entry.sender_cpu_s_per_gb),
            format!("{:.2}", entry.receiver_cpu_s_per_gb),
            entry.disk_reads.map(|share| format!("{:.0}%", share * 100.0)).unwrap_or_default(),
        ]);
    }
    let auto =
        |cache| entries.iter().find(move |entry| entry.cache == cache && entry.strategy == "auto");
    let mut text = format!(
        "no disk at the receiver, every record verified; {}, median (min-max)\n\n{}\n",
        output::count(runs, "round"),
        table.render()
    );
    let mut line = |name: &str, ratio: Option<f64>| {
        if let Some(ratio) = ratio {
            text.push_str(&format!("{name:<44}{ratio:.2}\n"));
        }
    };
    line("hot: sender CPU, auto / copy", auto(Cache::Hot).and_then(|e| e.sender_cpu_to_copy));
    line("hot: GB/s, auto / raw loop with CRC", auto(Cache::Hot).and_then(|e| e.ratio_to_raw));
    line("cold: GB/s, auto / best other strategy", auto(Cache::Cold).and_then(|e| e.ratio_to_best));
    text
}
