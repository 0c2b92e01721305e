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
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::limits::MAX_RECORD_PAYLOAD_BYTES;
use crate::wal::compare::{Difference, Side, compare};
use crate::wal::record::Checksums;
use crate::wal::writer::{Fsync, WriterOptions};

mod load;
mod report;

use report::{Detail, report};

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
        /// Bytes of each payload
        #[arg(long, default_value_t = 1024,
            value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RECORD_PAYLOAD_BYTES)))]
        record_bytes: u32,
        /// Records per second; 0: as fast as it goes
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Begin a new segment beyond this size
        #[arg(long, default_value_t = 64 << 20)]
        segment_bytes: u64,
        /// When to make records durable
        #[arg(long, value_enum, default_value_t = FsyncChoice::EveryBatch)]
        fsync: FsyncChoice,
    },
    /// List segments, and with --records every record
    Inspect {
        /// A WAL directory, or one segment
        path: PathBuf,
        /// List every record
        #[arg(long)]
        records: bool,
    },
    /// Check every checksum; exit code 1 and every bad range if not whole
    Verify {
        /// A WAL directory, or one segment
        path: PathBuf,
        /// Take records of a writer that was built without checksums
        #[arg(long)]
        allow_no_checksums: bool,
    },
    /// Compare two WAL directories; exit code 1 and every difference
    Compare {
        /// The one
        first: PathBuf,
        /// The other
        second: PathBuf,
    },
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
            report(&path, checksums, detail, json, out)?;
            Ok(true)
        }
        WalCommand::Verify { path, allow_no_checksums } => {
            let checksums =
                if allow_no_checksums { Checksums::Optional } else { Checksums::Required };
            report(&path, checksums, Detail::Segments, json, out)
        }
        WalCommand::Compare { first, second } => show_comparison(&first, &second, json, out),
    }
}

/// Compare two directories and show the outcome; true if they are identical.
fn show_comparison(
    first: &Path,
    second: &Path,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let found = compare(first, second)?;
    let side = |side| match side {
        Side::First => first.display(),
        Side::Second => second.display(),
    };
    if json {
        let differences: Vec<_> = found
            .differences
            .iter()
            .map(|difference| match *difference {
                Difference::OnlyIn { side: which, segment, bytes } => json!({
                    "segment": segment.to_string(),
                    "only_in": side(which).to_string(),
                    "bytes": bytes,
                }),
                Difference::Content { segment, offset, record, bytes } => json!({
                    "segment": segment.to_string(),
                    "offset": offset,
                    "record": record,
                    "bytes": [bytes.0, bytes.1],
                }),
            })
            .collect();
        let document = json!({
            "identical": found.is_identical(),
            "segments": found.segments,
            "records": found.records,
            "bytes": found.bytes,
            "differences": differences,
        });
        print_json(out, &document)?;
        return Ok(found.is_identical());
    }
    for difference in &found.differences {
        writeln!(out, "{}", difference.describe(&first.display(), &second.display()))?;
    }
    let verdict = if found.is_identical() { "identical" } else { "DIFFERENT" };
    writeln!(
        out,
        "{verdict}: {} segments in both, {} records, {} bytes, {} differences",
        found.segments,
        found.records,
        found.bytes,
        found.differences.len(),
    )?;
    Ok(found.is_identical())
}

fn print_json(out: &mut impl Write, document: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot write JSON")?;
    writeln!(out, "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests;
