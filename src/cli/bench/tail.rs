//! `saltus bench tail`: one small record at a time, from its append until the
//! primary knows that it is durable at the replica.
//!
//! The writer appends a record every [`SPACING`], which is longer than a
//! record takes: so each travels alone. The primary measures, from the
//! record's timestamp to the acknowledgement of its flush, which takes the
//! noticing by inotify in. The bare appends keep the same pace, in blocks
//! between those of the writer: a core that has just slept is slower.

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::Options;
use super::limits::{AppendLog, Quantiles};
use super::measure::{Spread, real, round};
use super::pair::{Far, Pair, replicas};
use super::volume::primary_root;
use super::workspace::Workspace;
use crate::cli::output;
use crate::engine::status::Latency;
use crate::io::Strategy;
use crate::wal::discover::wal_directory;
use crate::wal::writer::{Fsync, Writer, WriterOptions};

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 1024;

/// Between two appends.
const SPACING: Duration = Duration::from_millis(2);

/// Appends in a block, and blocks in a run.
const BLOCK: u32 = 100;
const BLOCKS: u32 = 20;

/// The result, as JSON: medians of the runs, microseconds.
#[derive(Debug, Serialize)]
struct Report {
    append_to_flushed_us: Durations,
    bare_fdatasync_us: Quantiles,
    ratio_p50: f64,
    ratio_p99: f64,
    records: u32,
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Durations {
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Both sides, block by block in turn.
#[derive(Debug, Serialize)]
struct Run {
    append_to_flushed_us: Durations,
    bare_fdatasync_us: Quantiles,
}

pub(super) fn run(options: &Options, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    let blocks = if options.quick { 1 } else { BLOCKS };
    let mut runs = Vec::new();
    for number in 1..=options.runs() {
        let run = one(workspace, blocks)?;
        workspace.say(&format!(
            "run {number} of {}: bare p50 {:.0} us, p99 {:.0}; saltus p50 {:.0}, p99 {:.0}",
            options.runs(),
            run.bare_fdatasync_us.p50,
            run.bare_fdatasync_us.p99,
            run.append_to_flushed_us.p50,
            run.append_to_flushed_us.p99
        ));
        runs.push(run);
    }
    let spread = |of: fn(&Run) -> f64| Spread::of(runs.iter().map(of));
    let shipped = (
        spread(|run| run.append_to_flushed_us.p50),
        spread(|run| run.append_to_flushed_us.p99),
        spread(|run| run.append_to_flushed_us.p999),
    );
    let bare = (spread(|run| run.bare_fdatasync_us.p50), spread(|run| run.bare_fdatasync_us.p99));
    let ratios = (
        spread(|run| run.append_to_flushed_us.p50 / run.bare_fdatasync_us.p50),
        spread(|run| run.append_to_flushed_us.p99 / run.bare_fdatasync_us.p99),
    );
    let report = Report {
        append_to_flushed_us: Durations {
            p50: shipped.0.median,
            p99: shipped.1.median,
            p999: shipped.2.median,
        },
        bare_fdatasync_us: Quantiles { p50: bare.0.median, p99: bare.1.median },
        ratio_p50: ratios.0.median,
        ratio_p99: ratios.1.median,
        records: blocks * BLOCK,
        runs,
    };
    if json {
        return output::json(&report);
    }
    let line = |name: &str, spread: Spread| {
        format!("{name:<27}{:>7.0} ({:.0}-{:.0})\n", spread.median, spread.min, spread.max)
    };
    output::print(&format!(
        "{} records of {PAYLOAD_BYTES} bytes, one at a time, {}; microseconds, median \
         (min-max)\n\n{}{}{}{}{}\nratio p50 {}\nratio p99 {}\n",
        report.records,
        output::count(report.runs.len(), "run"),
        line("append to flushed   p50", shipped.0),
        line("                    p99", shipped.1),
        line("                    p99.9", shipped.2),
        line("write + fdatasync   p50", bare.0),
        line("                    p99", bare.1),
        ratios.0,
        ratios.1,
    ))
}

fn one(workspace: &Workspace, blocks: u32) -> anyhow::Result<Run> {
    workspace.clear("primary")?;
    let directory = wal_directory(&primary_root(workspace), &"bench".parse()?);
    let options = WriterOptions { fsync: Fsync::Never, ..WriterOptions::default() };
    let mut writer = Writer::open(&directory, options)?;
    let payload = vec![0x5a; PAYLOAD_BYTES];
    let mut pair = Pair::start(workspace, Strategy::Auto, Far::Node)?;
    let mut bare_log = AppendLog::create(workspace)?;
    let mut bare = Vec::new();
    // Only a replica that is close behind tells a latency: one record makes it that.
    let mut bytes = writer.append(1, &payload)?.bytes;
    writer.commit()?;
    pair.catch_up(workspace, bytes)?;
    for _ in 0..blocks {
        for _ in 0..BLOCK {
            bytes += writer.append(1, &payload)?.bytes;
            writer.commit()?;
            workspace.pause(SPACING)?;
        }
        pair.catch_up(workspace, bytes)?;
        for _ in 0..BLOCK {
            bare.push(bare_log.append()?);
            workspace.pause(SPACING)?;
        }
    }
    let status = pair.status()?;
    let latency = replicas(&status).next().map(|replica| replica.append_to_flushed_us);
    pair.end(workspace)?;
    let Some(Latency { p50: Some(p50), p99: Some(p99), p999: Some(p999), .. }) = latency else {
        bail!(
            "the replica was never close behind, so that no latency was measured: this machine \
             has too much else to do"
        );
    };
    let us = |quantile: u64| round(real(quantile));
    Ok(Run {
        append_to_flushed_us: Durations { p50: us(p50), p99: us(p99), p999: us(p999) },
        bare_fdatasync_us: Quantiles::of(bare),
    })
}
