//! `saltus wal write`: a load of records.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::print_json;
use crate::cli::payload::Payload;
use crate::limits::{MAX_GROUP_DELAY, RECORD_HEADER_BYTES};
use crate::wal::discover;
use crate::wal::writer::{Writer, WriterOptions};

/// What to write.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// How many records.
    pub(super) records: u64,
    /// Bytes of each payload.
    pub(super) record_bytes: u32,
    /// Records per second; 0: as fast as it goes.
    pub(super) rate: u64,
}

/// Write records, at a rate if one is given.
pub(super) fn write(
    directory: &Path,
    load: Load,
    options: WriterOptions,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let Load { records, record_bytes, rate } = load;
    if let Some(problem) = space_problem(directory) {
        tracing::warn!("no node ships {}: {problem}", directory.display());
    }
    let mut writer = Writer::open(directory, options)?;
    let first_sequence = writer.next_sequence();
    let mut payload = Payload::new(record_bytes as usize);
    let start = Instant::now();
    let mut last = None;
    for count in 0..records {
        if rate > 0 {
            pace(&mut writer, start, count, rate)?;
        }
        last = Some(writer.append(1, payload.numbered(count))?);
    }
    writer.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = records * (RECORD_HEADER_BYTES as u64 + u64::from(record_bytes));
    let per_second = |amount: u64| {
        if seconds > 0.0 { amount as f64 / seconds } else { 0.0 }
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

/// Why a node would not ship a directory that looks like `<space>/wal`.
fn space_problem(directory: &Path) -> Option<String> {
    if directory.file_name()? != "wal" {
        return None;
    }
    discover::name_problem(directory.parent()?.file_name()?)
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
