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
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::ids::SegmentName;
use crate::limits::{MAX_GROUP_DELAY, MAX_RECORD_PAYLOAD_BYTES};
use crate::wal::compare::{Difference, Side, compare};
use crate::wal::discover::{self, Kind};
use crate::wal::record::{Checksums, Header, entry_type_name};
use crate::wal::scan::{BadRange, Item, Summary, scan};
use crate::wal::segment::Segment;
use crate::wal::writer::{Fsync, Writer, WriterOptions};

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
        WalCommand::Write {
            dir,
            records,
            record_bytes,
            rate,
            segment_bytes,
            fsync,
        } => {
            let options = WriterOptions {
                segment_bytes,
                fsync: fsync.into(),
                ..WriterOptions::default()
            };
            write(&dir, records, record_bytes, rate, options, json, out)
        }
        WalCommand::Inspect { path, records } => {
            let checksums = Checksums::Optional;
            let detail = if records {
                Detail::Records
            } else {
                Detail::Segments
            };
            report(&path, checksums, detail, json, out)?;
            Ok(true)
        }
        WalCommand::Verify {
            path,
            allow_no_checksums,
        } => {
            let checksums = if allow_no_checksums {
                Checksums::Optional
            } else {
                Checksums::Required
            };
            report(&path, checksums, Detail::Segments, json, out)
        }
        WalCommand::Compare { first, second } => show_comparison(&first, &second, json, out),
    }
}

/// Write records, at a rate if one is given.
fn write(
    directory: &Path,
    records: u64,
    record_bytes: u32,
    rate: u64,
    options: WriterOptions,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let mut writer = Writer::open(directory, options)?;
    let first_sequence = writer.next_sequence();
    let mut payload = noise(record_bytes as usize);
    let start = Instant::now();
    let mut last = None;
    for count in 0..records {
        if rate > 0 {
            pace(&mut writer, start, count, rate)?;
        }
        // Each payload differs, so that no two records are alike.
        if let Some(head) = payload.first_chunk_mut() {
            *head = count.to_le_bytes();
        }
        last = Some(writer.append(1, &payload)?);
    }
    writer.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = records * (64 + u64::from(record_bytes));
    let per_second = |amount: u64| {
        if seconds > 0.0 {
            amount as f64 / seconds
        } else {
            0.0
        }
    };
    if json {
        let document = json!({
            "records": records,
            "bytes": bytes,
            "seconds": seconds,
            "records_per_s": per_second(records),
            "bytes_per_s": per_second(bytes),
            "first_sequence": first_sequence,
            "last_sequence": last.map(|position| position.sequence),
            "last_segment": last.map(|position| position.segment.to_string()),
        });
        print_json(out, &document)?;
    } else {
        writeln!(
            out,
            "wrote {records} records, {bytes} bytes in {seconds:.3} s: \
             {:.0} records/s, {:.1} MB/s",
            per_second(records),
            per_second(bytes) / 1e6,
        )?;
    }
    Ok(true)
}

/// Wait until record number `count` is due.
fn pace(writer: &mut Writer, start: Instant, count: u64, rate: u64) -> anyhow::Result<()> {
    let due = Duration::from_secs_f64(count as f64 / rate as f64);
    let ahead = due.saturating_sub(start.elapsed());
    if ahead >= MAX_GROUP_DELAY {
        // No record will come in time to close the group.
        writer.commit()?;
    }
    if ahead >= Duration::from_millis(1) || rate <= 1000 {
        std::thread::sleep(ahead);
    }
    Ok(())
}

/// Bytes that do not compress: xorshift from a fixed seed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// How much of a segment is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Segments,
    Records,
}

/// The segments that a path names, and other files of the directory.
fn segments_at(path: &Path) -> anyhow::Result<(Vec<(String, PathBuf)>, Vec<String>)> {
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if !metadata.is_dir() {
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        return Ok((vec![(name, path.to_path_buf())], Vec::new()));
    }
    let entries = discover::entries(path).with_context(|| path.display().to_string())?;
    let (mut segments, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let name = entry.name.to_string_lossy().into_owned();
        match entry.kind {
            Kind::Segment(_) => segments.push((name, path.join(&entry.name))),
            _ => others.push(printable(&name)),
        }
    }
    Ok((segments, others))
}

/// A name from a directory must not steer the terminal.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Scan everything at a path and show it; true if all of it is whole.
fn report(
    path: &Path,
    checksums: Checksums,
    detail: Detail,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let (segments, others) = segments_at(path)?;
    let mut whole = true;
    let mut totals = Summary::default();
    let mut documents = Vec::new();
    if !json && detail == Detail::Segments {
        writeln!(
            out,
            "{:<24} {:>12} {:>11} {:>11} {:>11}  state",
            "segment", "bytes", "records", "first seq", "last seq"
        )?;
    }
    for (name, path) in &segments {
        let name = printable(name);
        // A file under another name, in quarantine say, is read all the same.
        let number = name.parse().unwrap_or(SegmentName(0));
        let segment = Segment::open_as(number, path)?;
        let mut bad = Vec::new();
        let mut records = Vec::new();
        let mut failure = None;
        if !json && detail == Detail::Records {
            record_heading(out, &name)?;
        }
        let summary = scan(&segment.file, checksums, &mut |item| {
            let shown = match item {
                Item::Bad(range) => {
                    bad.push(range);
                    if json || detail == Detail::Segments {
                        Ok(())
                    } else {
                        bad_line(out, &range)
                    }
                }
                Item::Record { offset, header } if detail == Detail::Records => {
                    if json {
                        records.push(record_document(offset, &header));
                        Ok(())
                    } else {
                        record_line(out, offset, &header)
                    }
                }
                Item::Record { .. } => Ok(()),
            };
            failure = shown.err();
            failure.is_none()
        })
        .with_context(|| path.display().to_string())?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        whole &= summary.is_whole();
        totals.bytes += summary.bytes;
        totals.mark.records += summary.mark.records;
        totals.bad_ranges += summary.bad_ranges;
        totals.unverified_records += summary.unverified_records;
        if json {
            documents.push(segment_document(
                &name,
                &summary,
                &bad,
                (detail == Detail::Records).then_some(records),
            ));
        } else if detail == Detail::Segments {
            segment_line(out, &name, &summary)?;
            for range in &bad {
                bad_line(out, range)?;
            }
        }
    }
    if json {
        let document = json!({
            "path": path.display().to_string(),
            "whole": whole,
            "bytes": totals.bytes,
            "records": totals.mark.records,
            "bad_ranges": totals.bad_ranges,
            "unverified_records": totals.unverified_records,
            "segments": documents,
            "other_files": others,
        });
        print_json(out, &document)?;
    } else {
        for name in others {
            writeln!(out, "{name}: not a segment, left alone")?;
        }
        let verdict = if whole { "whole" } else { "NOT WHOLE" };
        writeln!(
            out,
            "{verdict}: {} segments, {} records, {} bytes, {} bad ranges",
            segments.len(),
            totals.mark.records,
            totals.bytes,
            totals.bad_ranges,
        )?;
        if totals.unverified_records > 0 {
            writeln!(
                out,
                "{} records carry no checksum",
                totals.unverified_records
            )?;
        }
    }
    Ok(whole)
}

fn state(summary: &Summary, bad: u64) -> &'static str {
    match (summary.bytes, bad) {
        (0, _) => "empty",
        (_, 0) => "whole",
        _ => "BAD",
    }
}

fn segment_line(out: &mut impl Write, name: &str, summary: &Summary) -> io::Result<()> {
    let last = summary.first_sequence.map(|_| summary.mark.sequence);
    let text = |sequence: Option<u64>| sequence.map_or("-".to_owned(), |s| s.to_string());
    writeln!(
        out,
        "{name:<24} {:>12} {:>11} {:>11} {:>11}  {}",
        summary.bytes,
        summary.mark.records,
        text(summary.first_sequence),
        text(last),
        state(summary, summary.bad_ranges),
    )
}

fn bad_line(out: &mut impl Write, range: &BadRange) -> io::Result<()> {
    let what = if range.torn_tail {
        "torn tail"
    } else {
        "bad range"
    };
    let (from, to) = (range.offset, range.offset + range.bytes);
    writeln!(out, "  {what}: {} bytes at {from}..{to}", range.bytes)?;
    writeln!(out, "    {}", range.error)
}

fn record_heading(out: &mut impl Write, name: &str) -> io::Result<()> {
    writeln!(out, "{name}")?;
    writeln!(
        out,
        "{:>11} {:>11}  {:<27} {:<16} {:>8}",
        "offset", "sequence", "time", "type", "payload"
    )
}

fn record_line(out: &mut impl Write, offset: u64, header: &Header) -> io::Result<()> {
    writeln!(
        out,
        "{offset:>11} {:>11}  {:<27} {:<16} {:>8}{}",
        header.sequence,
        time(header.timestamp_ns),
        entry_type(header.entry_type),
        header.payload_bytes,
        if header.checksummed {
            ""
        } else {
            "  no checksum"
        },
    )
}

fn entry_type(number: u32) -> String {
    entry_type_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn record_document(offset: u64, header: &Header) -> Value {
    json!({
        "offset": offset,
        "sequence": header.sequence,
        "timestamp_ns": header.timestamp_ns,
        "entry_type": header.entry_type,
        "payload_bytes": header.payload_bytes,
        "payload_crc32c": header.payload_crc,
        "checksummed": header.checksummed,
    })
}

fn segment_document(
    name: &str,
    summary: &Summary,
    bad: &[BadRange],
    records: Option<Vec<Value>>,
) -> Value {
    let bad: Vec<_> = bad
        .iter()
        .map(|range| {
            json!({
                "offset": range.offset,
                "bytes": range.bytes,
                "torn_tail": range.torn_tail,
                "what": range.error.to_string(),
                "next_record": range.next_record(summary.bytes),
            })
        })
        .collect();
    let mut document = json!({
        "segment": name,
        "bytes": summary.bytes,
        "records": summary.mark.records,
        "first_sequence": summary.first_sequence,
        "last_sequence": summary.first_sequence.map(|_| summary.mark.sequence),
        "first_timestamp_ns": summary.first_timestamp_ns,
        "last_timestamp_ns": summary.last_timestamp_ns,
        "unverified_records": summary.unverified_records,
        "chain": format!("{:?}", summary.mark.chain),
        "state": state(summary, summary.bad_ranges).to_lowercase(),
        "bad": bad,
    });
    if let Some(records) = records {
        document["list"] = records.into();
    }
    document
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
                Difference::OnlyIn {
                    side: which,
                    segment,
                    bytes,
                } => json!({
                    "segment": segment.to_string(),
                    "only_in": side(which).to_string(),
                    "bytes": bytes,
                }),
                Difference::Content {
                    segment,
                    offset,
                    record,
                    bytes,
                } => json!({
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
        match *difference {
            Difference::OnlyIn {
                side: which,
                segment,
                bytes,
            } => {
                writeln!(out, "{segment}: only in {}, {bytes} bytes", side(which))?;
            }
            Difference::Content {
                segment,
                offset,
                record,
                bytes,
            } => {
                writeln!(
                    out,
                    "{segment}: differs from byte {offset} on, in record {record}"
                )?;
                if bytes.0 != bytes.1 {
                    writeln!(out, "  {} bytes against {}", bytes.0, bytes.1)?;
                }
            }
        }
    }
    let verdict = if found.is_identical() {
        "identical"
    } else {
        "DIFFERENT"
    };
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

/// A timestamp as UTC, to the microsecond: `2026-11-21T05:12:09.123456Z`.
fn time(timestamp_ns: u64) -> String {
    let (seconds, nanoseconds) = (timestamp_ns / 1_000_000_000, timestamp_ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        nanoseconds / 1000,
    )
}

/// Year, month and day of a number of days since 1970-01-01. Counts in years
/// that begin in March, so that a leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
