//! `saltus bench idle`: what many spaces cost while nothing happens.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::Options;
use super::measure::{FineCpu, Spread};
use super::pair::{Far, Pair};
use super::volume::Volume;
use super::workspace::Workspace;
use crate::cli::output;
use crate::io::Strategy;

/// Records in each space, and bytes of their payloads.
const RECORDS: u64 = 4;
const PAYLOAD_BYTES: usize = 1024;

/// Between catching up and the first look: the last checkpoints.
const CALM: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(in crate::cli) struct IdleArgs {
    #[command(flatten)]
    pub(super) options: Options,
    /// Spaces
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    spaces: u32,
    /// How long to look, for each run
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    spaces: u32,
    seconds: u32,
    /// Of one core; medians.
    cpu_percent: Both<f64>,
    runs: Both<Spread>,
}

#[derive(Debug, Serialize)]
struct Both<T> {
    primary: T,
    replica: T,
}

pub(super) fn run(args: &IdleArgs, workspace: &Workspace, json: bool) -> anyhow::Result<()> {
    let quick = args.options.quick;
    let spaces = if quick { args.spaces.min(50) } else { args.spaces };
    let seconds = if quick { 1 } else { args.seconds };
    workspace.say("writing the logs ...");
    let mut bytes = 0;
    for number in 0..spaces {
        let space = format!("space-{number:05}");
        bytes += Volume::write(workspace, &space, RECORDS, PAYLOAD_BYTES, 64 << 20)?.bytes;
    }
    let mut pair = Pair::start(workspace, Strategy::Auto, Far::Node)?;
    pair.catch_up(workspace, bytes)?;
    workspace.say("all are caught up; doing nothing ...");
    workspace.pause(CALM)?;
    let (mut primary, mut replica) = (Vec::new(), Vec::new());
    for _ in 0..args.options.runs() {
        let start = Instant::now();
        let mut cpu = (FineCpu::start(pair.primary.pid())?, FineCpu::start(pair.replica.pid())?);
        let mut used = (0.0, 0.0);
        for _ in 0..seconds {
            workspace.pause(Duration::from_secs(1))?;
            used = (cpu.0.look()?, cpu.1.look()?);
        }
        let elapsed = start.elapsed().as_secs_f64();
        primary.push(used.0 / elapsed * 100.0);
        replica.push(used.1 / elapsed * 100.0);
    }
    // That they did not simply die or fall out with each other.
    pair.catch_up(workspace, bytes)?;
    pair.end(workspace)?;
    let runs = Both { primary: Spread::of(primary), replica: Spread::of(replica) };
    let cpu_percent = Both { primary: runs.primary.median, replica: runs.replica.median };
    let report = Report { spaces, seconds, cpu_percent, runs };
    if json {
        return output::json(&report);
    }
    output::print(&format!(
        "{spaces} spaces, 1 replica, nothing to do for {seconds} s, {}\n\n\
         CPU, percent of one core, median (min-max)\n\
         primary  {:.3} ({:.3}-{:.3})\n\
         replica  {:.3} ({:.3}-{:.3})\n",
        output::count(args.options.runs(), "time"),
        report.runs.primary.median,
        report.runs.primary.min,
        report.runs.primary.max,
        report.runs.replica.median,
        report.runs.replica.min,
        report.runs.replica.max,
    ))
}
