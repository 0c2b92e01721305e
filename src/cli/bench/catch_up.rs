//! `saltus bench catch-up`: an empty replica, a hot log, everything durable.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::Options;
use super::measure::Spread;
use super::pair::{Anon, CatchUp, Far, Pair};
use super::raw::{RawRun, WriteKind, transfer};
use super::volume::{Volume, warm};
use super::workspace::Workspace;
use crate::cli::{output, parse_bytes};
use crate::io::Strategy;
use crate::limits::RECORD_HEADER_BYTES;

/// Bytes of a payload, as a real log has them.
const PAYLOAD_BYTES: usize = 3238;

/// Bytes of log, if not told otherwise.
const BYTES: u64 = 4 << 30;

/// Bytes of log in a quick run.
const QUICK_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct VolumeArgs {
    #[command(flatten)]
    pub(super) options: Options,
    /// How much log, as 1GiB [default: 4GiB]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    bytes: Option<u64>,
}

/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 64 << 20;

/// The result, as JSON. Rates are medians.
#[derive(Debug, Serialize)]
struct Report {
    bytes: u64,
    durable_gb_s: f64,
    limit_gb_s: f64,
    /// The median of the pairwise ratios.
    ratio: f64,
    sender_cpu_s_per_gb: f64,
    receiver_cpu_s_per_gb: f64,
    sent_bytes_by_strategy: BTreeMap<String, u64>,
    /// The largest of all runs.
    anon_mib: Anon,
    limit_sender_cpu_s_per_gb: f64,
    limit_receiver_cpu_s_per_gb: f64,
    runs: Vec<Run>,
    #[serde(skip)]
    spreads: Vec<(&'static str, Spread, Spread)>,
    #[serde(skip)]
    ratios: Spread,
}

/// Both sides, one after the other.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) limit: RawRun,
    pub(super) saltus: CatchUp,
}

pub(super) fn run(args: &VolumeArgs, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    workspace.say("writing the log ...");
    let volume = volume(args, workspace)?;
    let runs = alternate(&args.options, workspace, &volume)?;
    let report = summarise(volume.bytes, runs);
    if json { output::json(&report) } else { output::print(&render(&report)) }
}

/// The log that is asked for, 4 GiB if nothing is.
pub(super) fn volume(args: &VolumeArgs, workspace: &Workspace) -> anyhow::Result<Volume> {
    let bytes = args.bytes.unwrap_or(if args.options.quick { QUICK_BYTES } else { BYTES });
    let records = (bytes / (PAYLOAD_BYTES + RECORD_HEADER_BYTES) as u64).max(1);
    Volume::write(workspace, "bench", records, PAYLOAD_BYTES, SEGMENT_BYTES)
}

/// The raw loop and Saltus, in turn, over the same volume.
pub(super) fn alternate(
    options: &Options,
    workspace: &Workspace,
    volume: &Volume,
) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let kind = WriteKind::of_engine(workspace)?;
    for number in 1..=options.runs() {
        warm(&volume.segments)?;
        let limit = transfer(workspace, &volume.segments, kind, false)?;
        warm(&volume.segments)?;
        let mut pair = Pair::start(workspace, Strategy::Auto, Far::Node)?;
        let saltus = pair.catch_up(workspace, volume.bytes)?;
        pair.end(workspace)?;
        workspace.say(&format!(
            "run {number} of {}: limit {:.2} GB/s, saltus {:.2} GB/s, ratio {:.2}",
            options.runs(),
            limit.gb_s,
            saltus.gb_s,
            saltus.gb_s / limit.gb_s
        ));
        runs.push(Run { limit, saltus });
    }
    Ok(runs)
}

fn summarise(bytes: u64, runs: Vec<Run>) -> Report {
    let limit = |of: fn(&RawRun) -> f64| Spread::of(runs.iter().map(|run| of(&run.limit)));
    let saltus = |of: fn(&CatchUp) -> f64| Spread::of(runs.iter().map(|run| of(&run.saltus)));
    let spreads = vec![
        ("durable GB/s", saltus(|run| run.gb_s), limit(|run| run.gb_s)),
        (
            "sender CPU s/GB",
            saltus(|run| run.sender_cpu_s_per_gb),
            limit(|run| run.sender_cpu_s_per_gb),
        ),
        (
            "receiver CPU s/GB",
            saltus(|run| run.receiver_cpu_s_per_gb),
            limit(|run| run.receiver_cpu_s_per_gb),
        ),
    ];
    let ratios = Spread::of(runs.iter().map(|run| run.saltus.gb_s / run.limit.gb_s));
    let most =
        |of: fn(&Anon) -> f64| runs.iter().map(|run| of(&run.saltus.anon_mib)).fold(0.0, f64::max);
    Report {
        bytes,
        durable_gb_s: spreads[0].1.median,
        limit_gb_s: spreads[0].2.median,
        ratio: ratios.median,
        sender_cpu_s_per_gb: spreads[1].1.median,
        receiver_cpu_s_per_gb: spreads[2].1.median,
        sent_bytes_by_strategy: runs
            .last()
            .map(|run| run.saltus.sent_bytes_by_strategy.clone())
            .unwrap_or_default(),
        anon_mib: Anon { primary: most(|anon| anon.primary), replica: most(|anon| anon.replica) },
        limit_sender_cpu_s_per_gb: spreads[1].2.median,
        limit_receiver_cpu_s_per_gb: spreads[2].2.median,
        runs,
        spreads,
        ratios,
    }
}

fn render(report: &Report) -> String {
    use crate::cli::table::Table;
    let mut table = Table::new(0, 1, &["MEDIAN (MIN-MAX)", "SALTUS", "LIMIT"]);
    for (name, saltus, limit) in &report.spreads {
        table.row(vec![(*name).into(), saltus.to_string(), limit.to_string()]);
    }
    let strategies: Vec<String> = (report.sent_bytes_by_strategy.iter())
        .map(|(strategy, bytes)| format!("{strategy} {}", output::bytes(*bytes)))
        .collect();
    format!(
        "catch-up of {}, {} of each in turn\n\n{}\nratio {}\nsent by {}\nanonymous memory \
         at most: primary {:.1} MiB, replica {:.1} MiB\n",
        output::bytes(report.bytes),
        output::count(report.runs.len(), "run"),
        table.render(),
        report.ratios,
        strategies.join(", "),
        report.anon_mib.primary,
        report.anon_mib.replica,
    )
}
