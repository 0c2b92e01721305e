//! `saltus demo`: a primary and its replicas at work, and the proof that they
//! end up with the same bytes.
//!
//! ```text
//!   this process                       child processes, on loopback
//!   writers --- append ---> primary/<space>/wal
//!                             primary ==== TCP ====> replica-1, replica-2 ..
//!   live table <-- /status -- primary                  |
//!   stop writers, wait until the replicas have flushed the head,
//!   stop the nodes (SIGTERM), compare every segment byte by byte
//! ```
//!
//! Everything lies in one temporary directory. It is removed, and the
//! children are stopped, however the demo ends.

mod load;
mod view;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use self::load::{Load, Totals};
use self::view::View;
use super::interrupt::Interrupt;
use super::node::{NodeProcess, NodeSpec};
use super::scratch::Scratch;
use super::table::Table;
use super::{EXIT_NO, EXIT_OK, output, parse_backend, parse_bytes, parse_duration};
use crate::engine::status::NodeStatus;
use crate::ids::{NodeId, SpaceId};
use crate::io::BackendChoice;
use crate::wal::compare::{self, Comparison};
use crate::wal::discover;

/// The pause between two looks at the primary while the writers run.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The pause between two looks while the replicas catch up.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// How long the replicas may stand still before the demo gives up on them.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Replica processes, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Spaces, each with a writer of its own, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    spaces: u32,
    /// How long the writers write: 1s to 60min; a plain number is seconds
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_length)]
    seconds: Duration,
    /// Records per second, over all spaces, 1 to 10000000
    #[arg(long, value_name = "N", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,
    /// Size of the payload of each record: bytes or as 4KiB, 1 to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = parse_record_bytes)]
    record_bytes: u32,
    /// How the nodes talk to the kernel: auto, uring or portable
    #[arg(long, default_value = "auto", value_parser = parse_backend)]
    backend: BackendChoice,
    /// Keep the temporary directory, and say where it is
    #[arg(long)]
    keep: bool,
}

/// Reads how long the demo writes.
fn parse_length(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(3600);
    let found = parse_duration(text)?;
    let refusal = || "expected 1s to 60min".to_owned();
    Some(found).filter(|found| allowed.contains(found)).ok_or_else(refusal)
}

/// Reads the size of a payload.
fn parse_record_bytes(text: &str) -> Result<u32, String> {
    let found = u32::try_from(parse_bytes(text)?).ok();
    found.filter(|found| (1..=1 << 20).contains(found)).ok_or_else(|| "expected 1 to 1MiB".into())
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// Records written, over all spaces.
    records: u64,
    /// Their bytes in the log, headers included.
    bytes: u64,
    /// Whether every replica is.
    identical: bool,
    replicas: Vec<ReplicaReport>,
}

#[derive(Debug, Serialize)]
struct ReplicaReport {
    id: NodeId,
    /// Whether every segment of every space is equal to the primary's.
    identical: bool,
    /// Flushed bytes of stream, over all spaces.
    flushed_lsn: u64,
    append_to_flushed_us: Quantiles,
    #[serde(skip)]
    comparison: Comparison,
}

/// Of the space in which they are worst: quantiles cannot be added up.
#[derive(Debug, Default, Serialize)]
struct Quantiles {
    p50: Option<u64>,
    p99: Option<u64>,
}

pub(super) fn run(args: &DemoArgs, json: bool) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install().context("cannot handle signals")?;
    let mut directory = Scratch::new(&env::temp_dir(), "demo")?;
    directory.keep(args.keep);
    let mut cluster = Cluster::start(args, directory.path())?;
    let mut view = View::new(json);
    view.say(&format!(
        "a primary and {} on loopback, {} backend, in {}\n",
        output::count(args.replicas, "replica"),
        cluster.primary.status()?.backend,
        directory.path().display()
    ))?;

    let totals = write(args, &mut cluster, &mut view, &interrupt)?;
    let written: u64 = totals.values().map(|total| total.bytes).sum();
    let records: u64 = totals.values().map(|total| total.records).sum();
    view.say(&format!(
        "writers stopped: {} records, {}\n",
        output::grouped(records),
        output::bytes(written)
    ))?;

    let (status, caught_up) = catch_up(&totals, &mut cluster, &mut view, &interrupt)?;
    let report = compare(cluster, &status, &totals)?;
    if json {
        output::json(&report)?;
    } else {
        view.finish(&render(&report, caught_up))?;
    }
    // Without catching up the last records were never compared.
    let identical = report.identical && caught_up;
    Ok(ExitCode::from(if identical { EXIT_OK } else { EXIT_NO }))
}

/// The processes, the primary first so that it is stopped first.
#[derive(Debug)]
struct Cluster {
    primary: NodeProcess,
    replicas: Vec<NodeProcess>,
}

impl Cluster {
    fn start(args: &DemoArgs, directory: &Path) -> anyhow::Result<Self> {
        let mut replicas = Vec::new();
        for index in 1..=args.replicas {
            let mut spec = NodeSpec::new(&format!("replica-{index}"), directory, true)?;
            spec.backend = args.backend;
            replicas.push(spec.spawn()?);
        }
        let mut spec = NodeSpec::new("primary", directory, false)?;
        spec.backend = args.backend;
        spec.replicas = replicas.iter().filter_map(NodeProcess::as_replica).collect();
        Ok(Self { primary: spec.spawn()?, replicas })
    }

    /// Fails when a process has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        self.primary.ended()?;
        for replica in &mut self.replicas {
            replica.ended()?;
        }
        Ok(())
    }
}

/// Run the writers, and show what the primary says meanwhile.
fn write(
    args: &DemoArgs,
    cluster: &mut Cluster,
    view: &mut View,
    interrupt: &Interrupt,
) -> anyhow::Result<BTreeMap<SpaceId, Totals>> {
    let load = Load::start(
        &cluster.primary.spec().data_root,
        args.spaces,
        args.rate,
        args.record_bytes as usize,
    )?;
    let start = Instant::now();
    let end = args.seconds;
    while start.elapsed() < end && !load.any_ended() {
        if interrupt.pause(LOOK_INTERVAL.min(end.saturating_sub(start.elapsed()))) {
            bail!("interrupted");
        }
        cluster.check()?;
        view.show(load.written(), &cluster.primary.status()?)?;
    }
    load.stop()
}

/// Wait until every replica has flushed all that was written. False if they
/// stand still short of it.
fn catch_up(
    totals: &BTreeMap<SpaceId, Totals>,
    cluster: &mut Cluster,
    view: &mut View,
    interrupt: &Interrupt,
) -> anyhow::Result<(NodeStatus, bool)> {
    let start = Instant::now();
    let (mut moved, mut shown, mut progress) = (start, start, 0);
    let written = totals.values().fold(Totals::default(), |sum, total| sum.add(*total));
    loop {
        cluster.check()?;
        let status = cluster.primary.status()?;
        let lsns = |space: &SpaceId| {
            let space = status.spaces.iter().find(|status| status.space == *space);
            space.into_iter().flat_map(|space| &space.replicas).map(|replica| replica.flushed_lsn)
        };
        let reached = totals.iter().all(|(space, total)| {
            lsns(space).count() == cluster.replicas.len()
                && lsns(space).all(|lsn| lsn >= total.bytes)
        });
        let flushed = totals.keys().flat_map(lsns).sum::<u64>();
        if flushed > progress {
            (moved, progress) = (Instant::now(), flushed);
        }
        let stalled = moved.elapsed() >= STALL_TIMEOUT;
        if reached || stalled || shown.elapsed() >= LOOK_INTERVAL {
            shown = Instant::now();
            view.show(written, &status)?;
        }
        if reached {
            let waited = start.elapsed().as_secs_f64();
            view.say(&format!("replicas have flushed all of it, {waited:.3} s later\n"))?;
        }
        if reached || stalled {
            return Ok((status, reached));
        }
        if interrupt.pause(CATCH_UP_INTERVAL) {
            bail!("interrupted");
        }
    }
}

/// Stop the nodes and compare their files.
fn compare(
    cluster: Cluster,
    status: &NodeStatus,
    totals: &BTreeMap<SpaceId, Totals>,
) -> anyhow::Result<Report> {
    let Cluster { primary, replicas } = cluster;
    let primary = primary.terminate()?;
    let mut reports = Vec::new();
    for replica in replicas {
        let replica = replica.terminate()?;
        let mut comparison = Comparison::default();
        for space in totals.keys() {
            let directory = |root: &Path| discover::wal_directory(root, space);
            let one =
                compare::compare(&directory(&primary.data_root), &directory(&replica.data_root))
                    .with_context(|| format!("cannot compare {space} on {}", replica.id))?;
            comparison.segments += one.segments;
            comparison.bytes += one.bytes;
            comparison.differences.extend(one.differences);
        }
        let of_spaces = || {
            let all = status.spaces.iter().flat_map(|space| &space.replicas);
            all.filter(|status| status.id == replica.id)
        };
        reports.push(ReplicaReport {
            // Two empty directories prove nothing.
            identical: comparison.is_identical()
                && comparison.bytes == totals.values().map(|total| total.bytes).sum::<u64>(),
            flushed_lsn: of_spaces().map(|status| status.flushed_lsn).sum(),
            append_to_flushed_us: Quantiles {
                p50: of_spaces().filter_map(|status| status.append_to_flushed_us.p50).max(),
                p99: of_spaces().filter_map(|status| status.append_to_flushed_us.p99).max(),
            },
            comparison,
            id: replica.id,
        });
    }
    Ok(Report {
        records: totals.values().map(|total| total.records).sum(),
        bytes: totals.values().map(|total| total.bytes).sum(),
        identical: reports.iter().all(|report| report.identical),
        replicas: reports,
    })
}

/// The result for a person.
fn render(report: &Report, caught_up: bool) -> String {
    let headings = ["REPLICA", "IDENTICAL", "SEGMENTS", "BYTES", "P50", "P99"];
    let mut table = Table::new(0, 2, &headings);
    for replica in &report.replicas {
        table.row(vec![
            replica.id.to_string(),
            if replica.identical { "yes" } else { "NO" }.into(),
            replica.comparison.segments.to_string(),
            output::grouped(replica.comparison.bytes),
            output::microseconds(replica.append_to_flushed_us.p50),
            output::microseconds(replica.append_to_flushed_us.p99),
        ]);
    }
    let mut text = format!("\n{}", table.render());
    for replica in &report.replicas {
        for difference in &replica.comparison.differences {
            let difference = difference.describe(&"the primary", &replica.id);
            text.push_str(&format!("{}: {difference}\n", replica.id));
        }
    }
    text.push_str(match (caught_up, report.identical) {
        (true, true) => "identical: every segment of every space, byte for byte\n",
        (true, false) => "NOT IDENTICAL\n",
        (false, _) => "NOT CAUGHT UP: the replicas stood still short of the head\n",
    });
    text
}
