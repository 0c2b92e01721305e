//! `saltus bench`: real processes, each beside the limit of the machine.
//!
//! ```text
//!   A   raw-send ====== TCP =====> raw-receive        what the machine can do
//!   B   saltus run ==== TCP =====> saltus run         what Saltus does
//!       A B A B ..  in turn, the same bytes, the same disk, the same minute
//! ```
//!
//! Absolute figures drift with the machine and with what else runs on it;
//! ratios of neighbouring runs hardly do. So each command measures both sides
//! in turn and reports medians, extremes, and the median of the pairwise
//! ratios.
//!
//! Everything lies in one directory below `--dir`. It is removed, and the
//! children are stopped, however a bench ends.

mod catch_up;
mod idle;
mod limits;
mod measure;
mod pair;
mod raw;
mod records;
mod sink;
mod strategies;
mod tail;
mod volume;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::workspace::Workspace;
use super::EXIT_OK;

/// Bytes in a gigabyte of these reports, as disks and networks count.
const GB: f64 = 1e9;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// What the machine can do: each kind of write, the wire, the disk
    Limits(catch_up::VolumeArgs),
    /// An empty replica catches up with 4 GiB, beside the raw loop
    CatchUp(catch_up::VolumeArgs),
    /// Each way from the page cache, or the disk, to the socket
    Strategies(Options),
    /// Single small records, from append to durable, beside write + fdatasync
    Tail(Options),
    /// Records of 256 bytes, durable, per second
    Records(Options),
    /// What 1,000 spaces cost while nothing happens
    Idle(idle::IdleArgs),
    /// A replica that verifies, and keeps nothing
    #[command(hide = true)]
    Sink(sink::SinkArgs),
    /// One end of the raw loop
    #[command(hide = true)]
    RawReceive(raw::receive::ReceiveArgs),
    /// The other end of the raw loop
    #[command(hide = true)]
    RawSend(raw::send::SendArgs),
    /// The raw disk
    #[command(hide = true)]
    RawWrite(raw::write::WriteArgs),
}

/// What all benches take.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// Where to work: a directory on the disk to be measured [default: the
    /// directory for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How often each side is measured, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Small volumes and one run: shows that it works, and nothing else
    #[arg(long)]
    quick: bool,
}

impl Options {
    /// How often each side is measured.
    fn runs(&self) -> u32 {
        if self.quick { 1 } else { self.runs }
    }
}

pub(super) fn run(command: BenchCommand, json: bool) -> anyhow::Result<ExitCode> {
    let begin = |options: &Options| Workspace::new(options.dir.as_deref(), json);
    match command {
        BenchCommand::Limits(args) => limits::run(&args, &begin(&args.options)?, json)?,
        BenchCommand::CatchUp(args) => catch_up::run(&args, &begin(&args.options)?, json)?,
        BenchCommand::Strategies(options) => strategies::run(&options, &begin(&options)?, json)?,
        BenchCommand::Tail(options) => tail::run(&options, &begin(&options)?, json)?,
        BenchCommand::Records(options) => records::run(&options, &begin(&options)?, json)?,
        BenchCommand::Idle(args) => idle::run(&args, &begin(&args.options)?, json)?,
        BenchCommand::Sink(args) => sink::run(&args)?,
        BenchCommand::RawReceive(args) => raw::receive::run(&args)?,
        BenchCommand::RawSend(args) => raw::send::run(&args)?,
        BenchCommand::RawWrite(args) => raw::write::run(&args)?,
    }
    Ok(ExitCode::from(EXIT_OK))
}
