//! `saltus bench records`: small records, so that the work per record counts.

use serde::Serialize;

use super::catch_up::{Run, alternate};
use super::measure::{Spread, real, round};
use super::volume::Volume;
use super::workspace::Workspace;
use super::{GB, Options};
use crate::cli::output;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 256;

/// Records of a run: 2.6 GB.
const RECORDS: u64 = 8_000_000;

/// Records of a quick run.
const QUICK_RECORDS: u64 = 100_000;

/// The result, as JSON. Rates are medians.
#[derive(Debug, Serialize)]
struct Report {
    /// Of the payload.
    record_bytes: usize,
    records: u64,
    /// Durable at the replica.
    records_per_s: f64,
    durable_gb_s: f64,
    limit_gb_s: f64,
    ratio: f64,
    sender_cpu_s_per_gb: f64,
    receiver_cpu_s_per_gb: f64,
    runs: Vec<Run>,
}

pub(super) fn run(options: &Options, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    let records = if options.quick { QUICK_RECORDS } else { RECORDS };
    workspace.say("writing the log ...");
    let volume = Volume::write(workspace, "bench", records, PAYLOAD_BYTES, 64 << 20)?;
    let runs = alternate(options, workspace, &volume)?;
    let saltus = |of: fn(&Run) -> f64| Spread::of(runs.iter().map(of));
    let rate = Spread::of(runs.iter().map(|run| real(volume.records) / run.saltus.seconds));
    let report = Report {
        record_bytes: PAYLOAD_BYTES,
        records: volume.records,
        records_per_s: rate.median.round(),
        durable_gb_s: saltus(|run| run.saltus.gb_s).median,
        limit_gb_s: saltus(|run| run.limit.gb_s).median,
        ratio: saltus(|run| run.saltus.gb_s / run.limit.gb_s).median,
        sender_cpu_s_per_gb: saltus(|run| run.saltus.sender_cpu_s_per_gb).median,
        receiver_cpu_s_per_gb: saltus(|run| run.saltus.receiver_cpu_s_per_gb).median,
        runs,
    };
    if json {
        return output::json(&report);
    }
    let million = |rate: f64| round(rate / 1e6);
    output::print(&format!(
        "{} records of {PAYLOAD_BYTES} bytes, {:.2} GB, {}\n\n\
         durable records/s    {:.2} M ({:.2}-{:.2})\n\
         durable GB/s         {:.2}, raw loop {:.2}, ratio {:.2}\n\
         CPU s/GB             sender {:.2}, receiver {:.2}\n",
        output::grouped(report.records),
        real(volume.bytes) / GB,
        output::count(report.runs.len(), "run"),
        million(rate.median),
        million(rate.min),
        million(rate.max),
        report.durable_gb_s,
        report.limit_gb_s,
        report.ratio,
        report.sender_cpu_s_per_gb,
        report.receiver_cpu_s_per_gb,
    ))
}
