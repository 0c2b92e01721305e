//! `saltus wal inspect` and `verify`: what is in segments, and is it whole?

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::place::Place;
use super::print_json;
use crate::cli::output::count;
use crate::ids::SegmentName;
use crate::wal::discover::{self, Kind};
use crate::wal::record::{Checksums, Header, entry_type_name};
use crate::wal::scan::{BadRange, Item, Summary, explain_zeroes, scan};
use crate::wal::segment::Segment;

/// How much of a segment is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Segments,
    Records,
}

/// What is in one log.
#[derive(Default)]
struct Listing {
    /// Segments by name, with their paths.
    segments: Vec<(String, PathBuf)>,
    /// Names of other files of the directory.
    others: Vec<String>,
}

impl Listing {
    /// One file, whatever it is called: it may come from a quarantine.
    fn of_file(path: &Path) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Self { segments: vec![(printable(&name), path.to_path_buf())], others: Vec::new() }
    }

    /// The segments of a directory.
    fn of_directory(path: &Path) -> anyhow::Result<Self> {
        let mut listing = Self::default();
        let entries = discover::entries(path);
        for entry in entries.with_context(|| format!("cannot read {}", path.display()))? {
            let name = printable(&entry.name.to_string_lossy());
            match entry.kind {
                Kind::Segment(_) => listing.segments.push((name, path.join(&entry.name))),
                _ => listing.others.push(name),
            }
        }
        Ok(listing)
    }
}

/// A name from a directory must not steer the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a scan of one segment came upon.
struct Scanned {
    summary: Summary,
    bad: Vec<BadRange>,
    /// Every record, if they were asked for as JSON.
    records: Option<Vec<Value>>,
}

/// Scan one segment. Records are shown as they come, unless as JSON.
fn scan_one(
    path: &Path,
    checksums: Checksums,
    detail: Detail,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<Scanned> {
    let segment = Segment::open_as(SegmentName(0), path)?;
    let listed = detail == Detail::Records;
    let mut bad = Vec::new();
    let mut records = (json && listed).then(Vec::new);
    let mut shown = Ok(());
    let summary = scan(&segment.file, checksums, &mut |item| {
        match item {
            Item::Bad(range) => {
                bad.push(range);
                if listed && !json {
                    shown = bad_line(out, &range);
                }
            }
            Item::Record { offset, header } if listed => match &mut records {
                Some(records) => records.push(record_document(offset, &header)),
                None => shown = record_line(out, offset, &header),
            },
            Item::Record { .. } => {}
        }
        shown.is_ok()
    })
    .with_context(|| format!("cannot read {}", path.display()))?;
    shown?;
    Ok(Scanned { summary, bad, records })
}

/// How a scan is done, and how it is shown.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) checksums: Checksums,
    pub(super) detail: Detail,
    pub(super) json: bool,
}

/// What was found, of one log or of several.
#[derive(Default)]
struct Totals {
    summary: Summary,
    segments: usize,
    spaces: Option<usize>,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.segments += other.segments;
        self.summary.bytes += other.summary.bytes;
        self.summary.mark.records += other.summary.mark.records;
        self.summary.bad_ranges += other.summary.bad_ranges;
        self.summary.unverified_records += other.summary.unverified_records;
    }

    fn document(&self, path: &Path) -> Value {
        json!({
            "path": path.display().to_string(),
            "whole": self.summary.is_whole(),
            "empty": self.segments == 0,
            "bytes": self.summary.bytes,
            "records": self.summary.mark.records,
            "bad_ranges": self.summary.bad_ranges,
            "unverified_records": self.summary.unverified_records,
        })
    }

    fn show(&self, out: &mut impl Write) -> io::Result<()> {
        if self.summary.unverified_records > 0 {
            let records = count(self.summary.unverified_records, "record");
            writeln!(out, "without a checksum: {records}")?;
        }
        let spaces =
            self.spaces.map_or_else(String::new, |spaces| format!("{}, ", count(spaces, "space")));
        if self.segments == 0 {
            return writeln!(out, "empty: {spaces}no segments");
        }
        writeln!(
            out,
            "{}: {spaces}{}, {}, {}, {}",
            if self.summary.is_whole() { "whole" } else { "NOT WHOLE" },
            count(self.segments, "segment"),
            count(self.summary.mark.records, "record"),
            count(self.summary.bytes, "byte"),
            count(self.summary.bad_ranges, "bad range"),
        )
    }
}

/// Scan everything at a path and show it; true if all of it is whole.
pub(super) fn report(path: &Path, manner: Manner, out: &mut impl Write) -> anyhow::Result<bool> {
    let (totals, document) = match Place::at(path)? {
        Place::File => log(path, &Listing::of_file(path), manner, out)?,
        Place::Log(log_path) => log(&log_path, &Listing::of_directory(&log_path)?, manner, out)?,
        Place::Root(logs) => {
            let mut all = Totals { spaces: Some(logs.len()), ..Totals::default() };
            let mut documents = Vec::new();
            for (space, path) in &logs {
                if !manner.json {
                    writeln!(out, "{space}")?;
                }
                let (totals, mut document) = log(path, &Listing::of_directory(path)?, manner, out)?;
                if !manner.json {
                    writeln!(out)?;
                }
                all.add(&totals);
                document["space"] = json!(space);
                documents.push(document);
            }
            if !manner.json {
                all.show(out)?;
            }
            let mut document = all.document(path);
            document["spaces"] = json!(documents);
            (all, document)
        }
    };
    if manner.json {
        print_json(out, &document)?;
    }
    Ok(totals.summary.is_whole())
}

/// Scan one log and show it, unless as JSON.
fn log(
    path: &Path,
    listing: &Listing,
    manner: Manner,
    out: &mut impl Write,
) -> anyhow::Result<(Totals, Value)> {
    let Manner { checksums, detail, json } = manner;
    let mut totals = Totals { segments: listing.segments.len(), ..Totals::default() };
    let mut documents = Vec::new();
    if !json && detail == Detail::Segments && !listing.segments.is_empty() {
        segment_heading(out)?;
    }
    for (name, path) in &listing.segments {
        if !json && detail == Detail::Records {
            record_heading(out, name)?;
        }
        let scanned = scan_one(path, checksums, detail, json, out)?;
        if json {
            documents.push(segment_document(name, &scanned));
        } else if detail == Detail::Segments {
            segment_line(out, name, &scanned.summary)?;
            for range in &scanned.bad {
                bad_line(out, range)?;
            }
        }
        totals.add(&Totals { summary: scanned.summary, ..Totals::default() });
    }
    if !json {
        for name in &listing.others {
            writeln!(out, "{name}: not a segment, left alone")?;
        }
        totals.show(out)?;
    }
    let mut document = totals.document(path);
    document["segments"] = json!(documents);
    document["other_files"] = json!(listing.others);
    Ok((totals, document))
}

fn segment_heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<24} {:>12} {:>11} {:>11} {:>11}  state",
        "segment", "bytes", "records", "first seq", "last seq"
    )
}

fn state(summary: &Summary) -> &'static str {
    match (summary.bytes, summary.bad_ranges) {
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
        state(summary),
    )
}

fn bad_line(out: &mut impl Write, range: &BadRange) -> io::Result<()> {
    let what = if range.torn_tail { "torn tail" } else { "bad range" };
    let (from, to) = (range.offset, range.offset + range.bytes);
    writeln!(out, "  {what}: {} at {from}..{to}", count(range.bytes, "byte"))?;
    writeln!(out, "    {}", range.error)?;
    if range.zeroes {
        writeln!(out, "    {}", explain_zeroes(range.bytes))?;
    }
    Ok(())
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
        if header.checksummed { "" } else { "  no checksum" },
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

fn segment_document(name: &str, scanned: &Scanned) -> Value {
    let summary = &scanned.summary;
    let bad: Vec<_> = scanned
        .bad
        .iter()
        .map(|range| {
            json!({
                "offset": range.offset,
                "bytes": range.bytes,
                "torn_tail": range.torn_tail,
                "zeroes": range.zeroes,
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
        "state": state(summary).to_lowercase(),
        "bad": bad,
    });
    if let Some(records) = &scanned.records {
        document["list"] = json!(records);
    }
    document
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
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(951_782_400_000_001_999), "2000-02-29T00:00:00.000001Z");
        assert_eq!(time(1_795_239_129_123_456_789), "2026-11-21T05:32:09.123456Z");
    }
}
