//! Durable appends: writes in flight beside each other, flushes one after
//! another, as the engine does them.

use std::fs::File;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

use super::{Account, CHUNK_BYTES, WriteKind, end_with_parent, tell};
use crate::cli::bench::measure::cpu_seconds;
use crate::io::{self, Backend, BackendChoice, Completion, Op, SlabPool, Slice, Token};
use crate::limits::{SLAB_BYTES, SLABS_PER_CONNECTION};

/// Tokens of the disk begin here: one for flushes, then one for each file.
pub(super) const LANES: u64 = 16;

/// Bytes of one file: as a segment.
const FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct WriteArgs {
    /// How to write
    #[arg(long, value_enum)]
    write: WriteKind,
    /// Where to write
    #[arg(long)]
    directory: PathBuf,
    /// How much
    #[arg(long)]
    bytes: u64,
}

/// The disk alone: the same writes, out of memory.
pub(in crate::cli::bench) fn run(args: &WriteArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    let mut backend = io::open(BackendChoice::Auto)?;
    let mut disk = Disk::open(args.write, args.directory.clone())?;
    let pool = SlabPool::new(1, SLAB_BYTES);
    let mut slab = pool.take().context("a slab")?;
    // Bytes that no disk can make less of.
    let noise: Vec<u8> = (0..CHUNK_BYTES)
        .map(|at| at.wrapping_mul(0x9E37_79B1).rotate_right(at % 31).to_le_bytes()[0])
        .collect();
    slab.push(&noise);
    let cpu = cpu_seconds(process::id())?;
    let start = Instant::now();
    let (mut bytes, mut completions) = (0, Vec::new());
    while bytes < args.bytes || !disk.is_settled() {
        while bytes < args.bytes && disk.writes < SLABS_PER_CONNECTION - 2 {
            disk.write(&mut *backend, slab.slice(0..noise.len()))?;
            bytes += noise.len() as u64;
        }
        disk.flush(&mut *backend);
        backend.wait(None, &mut completions)?;
        for Completion { token, result } in completions.drain(..) {
            result?;
            disk.completed(token);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    tell(&Account { bytes, seconds, cpu_s: cpu_seconds(process::id())? - cpu })
}

/// Files that are appended to, one after another.
pub(super) struct Disk {
    kind: WriteKind,
    directory: PathBuf,
    files: Vec<Target>,
    /// Bytes of the last file, those in flight included.
    offset: u64,
    /// Writes in flight.
    pub(super) writes: usize,
    /// Flushes in flight.
    flushes: usize,
}

struct Target {
    /// For flushes, and for writes through the page cache.
    buffered: Arc<File>,
    /// For writes.
    writer: Arc<File>,
    /// A write has ended since the last flush began.
    dirty: bool,
}

impl Disk {
    pub(super) fn open(kind: WriteKind, directory: PathBuf) -> anyhow::Result<Self> {
        let offset = FILE_BYTES;
        Ok(Self { kind, directory, files: Vec::new(), offset, writes: 0, flushes: 0 })
    }

    /// Everything that was written is flushed.
    pub(super) fn is_settled(&self) -> bool {
        self.writes == 0 && self.flushes == 0 && self.files.iter().all(|file| !file.dirty)
    }

    /// Append whole blocks.
    pub(super) fn write(&mut self, backend: &mut dyn Backend, slice: Slice) -> anyhow::Result<()> {
        if self.kind == WriteKind::None {
            return Ok(());
        }
        if self.offset >= FILE_BYTES {
            self.begin_file()?;
        }
        let Some(target) = self.files.last() else { bail!("no file to write to") };
        let bytes = slice.as_ref().len() as u64;
        let write = Op::Write {
            file: Arc::clone(&target.writer),
            offset: self.offset,
            slices: vec![slice],
            bulk: self.kind != WriteKind::Plain,
        };
        backend.submit(Token(LANES + self.files.len() as u64), write);
        self.offset += bytes;
        self.writes += 1;
        Ok(())
    }

    fn begin_file(&mut self) -> anyhow::Result<()> {
        let path = self.directory.join(format!("raw-{}", self.files.len()));
        let failed = || format!("cannot write {}", path.display());
        let file = File::options().create_new(true).append(false).write(true).open(&path);
        let buffered = Arc::new(file.with_context(failed)?);
        let writer = if self.kind == WriteKind::Direct {
            let direct = io::open_direct(&path)
                .with_context(|| format!("{}: no direct writes here; try --dir", path.display()))?;
            Arc::new(direct)
        } else {
            Arc::clone(&buffered)
        };
        self.files.push(Target { buffered, writer, dirty: false });
        self.offset = 0;
        Ok(())
    }

    /// Begin to flush what is written, if no flush runs.
    pub(super) fn flush(&mut self, backend: &mut dyn Backend) {
        if self.flushes > 0 {
            return;
        }
        for target in self.files.iter_mut().filter(|target| target.dirty) {
            target.dirty = false;
            self.flushes += 1;
            backend.submit(Token(LANES), Op::Flush { file: Arc::clone(&target.buffered) });
        }
    }

    /// A write or a flush has ended well.
    pub(super) fn completed(&mut self, token: Token) {
        if token.0 == LANES {
            self.flushes -= 1;
            return;
        }
        self.writes -= 1;
        let index = usize::try_from(token.0 - LANES - 1).ok();
        if let Some(target) = index.and_then(|index| self.files.get_mut(index)) {
            target.dirty = true;
        }
    }
}
