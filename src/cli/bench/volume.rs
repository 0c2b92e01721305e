//! The logs that are shipped: written once per bench, used by every run.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::workspace::Workspace;
use crate::cli::payload::Payload;
use crate::ids::SpaceId;
use crate::limits::RECORD_HEADER_BYTES;
use crate::wal::discover;
use crate::wal::writer::{Fsync, Writer, WriterOptions};

/// The entry type of the records: `EpisodeStore`, the most common one.
const EPISODE_STORE: u32 = 1;

/// Records between two looks for Ctrl-C.
const RECORDS_PER_LOOK: u64 = 4096;

/// Logs below a data root.
#[derive(Debug)]
pub(super) struct Volume {
    /// The segments, in the order of the stream.
    pub(super) segments: Vec<PathBuf>,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Their records.
    pub(super) records: u64,
}

impl Volume {
    /// Write `records` records of `payload_bytes` into one space of the
    /// primary's data root, in segments of `segment_bytes`. They end up on
    /// the disk and in the page cache.
    pub(super) fn write(
        workspace: &Workspace,
        space: &str,
        records: u64,
        payload_bytes: usize,
        segment_bytes: u64,
    ) -> anyhow::Result<Self> {
        let space: SpaceId = space.parse()?;
        let directory = discover::wal_directory(&primary_root(workspace), &space);
        let options =
            WriterOptions { segment_bytes, fsync: Fsync::Never, ..WriterOptions::default() };
        let mut writer = Writer::open(&directory, options)?;
        let mut payload = Payload::new(payload_bytes);
        for number in 0..records {
            writer.append(EPISODE_STORE, payload.numbered(number))?;
            if number % RECORDS_PER_LOOK == 0 {
                workspace.pause(std::time::Duration::ZERO)?;
            }
        }
        writer.commit()?;
        drop(writer);
        let mut segments = Vec::new();
        for name in discover::segments(&directory)? {
            let path = directory.join(name.to_string());
            // Or their way to the disk would fall into the measurements.
            File::open(&path)
                .and_then(|file| file.sync_data())
                .with_context(|| format!("cannot sync {}", path.display()))?;
            segments.push(path);
        }
        workspace.settle()?;
        let bytes = records * (RECORD_HEADER_BYTES + payload_bytes) as u64;
        Ok(Self { segments, bytes, records })
    }
}

/// Where the primary of a bench has its logs.
pub(super) fn primary_root(workspace: &Workspace) -> PathBuf {
    workspace.path().join("primary")
}

/// Read files from beginning to end, so that they are in the page cache.
pub(super) fn warm(files: &[PathBuf]) -> anyhow::Result<()> {
    let read = |path: &Path| -> std::io::Result<()> {
        std::io::copy(&mut File::open(path)?, &mut std::io::sink()).map(|_| ())
    };
    for path in files {
        read(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(())
}
