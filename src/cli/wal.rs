//! `saltus wal`: write, inspect, verify and compare logs.
//!
//! | command | exit code 1 means |
//! |---|---|
//! | `write` | never |
//! | `inspect` | never |
//! | `verify` | a segment is not whole |
//! | `compare` | the directories differ |
//!
//! A reader of standard output that goes away ends the command as a success:
//! it has seen what it wanted.

#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::parse_bytes;
use crate::limits::MAX_RECORD_PAYLOAD_BYTES;
use crate::wal::record::Checksums;
use crate::wal::writer::{Fsync, WriterOptions};

mod comparison;
mod load;
mod place;
mod report;

use report::{Detail, Manner, report};

/// The commands under `saltus wal`.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Write records into a WAL directory: a load for tests
    Write {
        /// The directory of the segments, as DATA_ROOT/SPACE/wal; created if
        /// it is missing
        dir: PathBuf,
        /// How many records
        #[arg(long, default_value_t = 100_000)]
        records: u64,
        /// Size of each payload, as 1KiB or bytes; at most 16MiB
        #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = parse_payload)]
        record_bytes: u32,
        /// Records per second; 0: as fast as it goes
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Begin a new segment beyond this size, as 64KiB, 16MiB or bytes
        #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes)]
        segment_bytes: u64,
        /// When to make records durable: every-write (each by itself),
        /// every-batch (at most 1000 records or 10 ms), never (when the system
        /// likes)
        #[arg(long, value_enum, default_value_t = FsyncChoice::EveryBatch,
            hide_possible_values = true)]
        fsync: FsyncChoice,
    },
    /// List segments, and with --records every record
    Inspect {
        /// A segment, a WAL directory, the directory of a space, or a data
        /// root: then every space in it
        path: PathBuf,
        /// List every record
        #[arg(long)]
        records: bool,
    },
    /// Check every checksum; exit code 1 and every bad range if not whole
    Verify {
        /// A segment, a WAL directory, the directory of a space, or a data
        /// root: then every space in it
        path: PathBuf,
        /// Take records of a writer that was built without checksums
        #[arg(long)]
        allow_no_checksums: bool,
    },
    /// Compare two logs or two data roots; exit code 1 and every difference
    Compare {
        /// A WAL directory, the directory of a space, or a data root
        first: PathBuf,
        /// Another one of the same kind
        second: PathBuf,
    },
}

/// Reads the size of a payload.
fn parse_payload(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= MAX_RECORD_PAYLOAD_BYTES)
        .ok_or_else(|| format!("a payload has at most {MAX_RECORD_PAYLOAD_BYTES} bytes"))
}

/// When records are made durable, as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FsyncChoice {
    /// Each record by itself
    EveryWrite,
    /// Each group of at most 1000 records or 10 ms
    EveryBatch,
    /// When the system likes
    Never,
}

impl From<FsyncChoice> for Fsync {
    fn from(choice: FsyncChoice) -> Self {
        match choice {
            FsyncChoice::EveryWrite => Self::EveryWrite,
            FsyncChoice::EveryBatch => Self::EveryBatch,
            FsyncChoice::Never => Self::Never,
        }
    }
}

/// Run one of the commands.
///
/// # Errors
///
/// A file or directory could not be read or written.
pub fn run(command: WalCommand, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let done = execute(command, json, &mut out).and_then(|answer| {
        out.flush().context("cannot write to standard output")?;
        Ok(answer)
    });
    match done {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(1)),
        Err(error) if is_broken_pipe(&error) => {
            // What is still buffered has no reader either.
            let (_, _) = out.into_parts();
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

/// Run a command; the answer is false if something is not as it should be.
fn execute(command: WalCommand, json: bool, out: &mut impl Write) -> anyhow::Result<bool> {
    match command {
        WalCommand::Write { dir, records, record_bytes, rate, segment_bytes, fsync } => {
            let options =
                WriterOptions { segment_bytes, fsync: fsync.into(), ..WriterOptions::default() };
            let load = load::Load { records, record_bytes, rate };
            load::write(&dir, load, options, json, out)
        }
        WalCommand::Inspect { path, records } => {
            let checksums = Checksums::Optional;
            let detail = if records { Detail::Records } else { Detail::Segments };
            report(&path, Manner { checksums, detail, json }, out)?;
            Ok(true)
        }
        WalCommand::Verify { path, allow_no_checksums } => {
            let checksums =
                if allow_no_checksums { Checksums::Optional } else { Checksums::Required };
            report(&path, Manner { checksums, detail: Detail::Segments, json }, out)
        }
        WalCommand::Compare { first, second } => comparison::show(&first, &second, json, out),
    }
}

fn print_json(out: &mut impl Write, document: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot write JSON")?;
    writeln!(out, "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests;
