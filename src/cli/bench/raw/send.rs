//! The sending end: `sendfile` and nothing else.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

use super::{Account, CHUNK_BYTES, end_with_parent, surprise, tell};
use crate::cli::bench::measure::cpu_seconds;
use crate::io::{self, Backend, BackendChoice, Completion, Op, Outcome, Slab, SlabPool, Source};
use crate::io::{Strategy, Token};
use crate::limits::{DIRECT_BLOCK_BYTES, FRAME_HEADER_BYTES};

#[derive(Debug, Args)]
pub(in crate::cli) struct SendArgs {
    /// Where the receiver listens
    #[arg(long)]
    address: SocketAddr,
    /// What to send: whole blocks of each file
    files: Vec<PathBuf>,
}

pub(in crate::cli::bench) fn run(args: &SendArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    let mut files = Vec::new();
    for path in &args.files {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let bytes = file.metadata()?.len();
        let block = DIRECT_BLOCK_BYTES as u64;
        files.push((Arc::new(file), bytes / block * block));
    }
    let mut line = Line::open(io::open(BackendChoice::Auto)?);
    let Outcome::Connected(socket) = line.ask(Op::Connect { address: args.address })? else {
        bail!("no connection");
    };
    let socket = Arc::new(socket);
    let cpu = cpu_seconds(process::id())?;
    let start = Instant::now();
    let mut bytes = 0;
    for (file, length) in files {
        let mut offset = 0;
        while offset < length {
            let chunk = u32::try_from(length - offset).unwrap_or(u32::MAX).min(CHUNK_BYTES);
            let source = Source { file: Arc::clone(&file), offset, bytes: chunk, mapped: None };
            let transmit = Op::Transmit {
                socket: Arc::clone(&socket),
                header: header(chunk),
                source,
                strategy: Strategy::Sendfile,
            };
            line.ask(transmit)?;
            offset += u64::from(chunk);
        }
        bytes += length;
    }
    line.ask(Op::Send { socket: Arc::clone(&socket), bytes: header(0).to_vec() })?;
    let slab: Slab = SlabPool::oversized(DIRECT_BLOCK_BYTES);
    match line.ask(Op::Receive { socket, slab, low_water: 1, most: 1 })? {
        Outcome::Received(_, 1) => {}
        Outcome::Received(..) => bail!("the receiver has gone"),
        other => return Err(surprise(&other)),
    }
    let seconds = start.elapsed().as_secs_f64();
    tell(&Account { bytes, seconds, cpu_s: cpu_seconds(process::id())? - cpu })
}

/// What goes ahead of a chunk: its length.
fn header(bytes: u32) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&bytes.to_le_bytes());
    header
}

/// One operation after another.
struct Line {
    backend: Box<dyn Backend>,
    completions: Vec<Completion>,
}

impl Line {
    fn open(backend: Box<dyn Backend>) -> Self {
        Self { backend, completions: Vec::new() }
    }

    /// Do it and wait for the end of it.
    fn ask(&mut self, op: Op) -> anyhow::Result<Outcome> {
        self.backend.submit(Token(0), op);
        loop {
            self.backend.wait(None, &mut self.completions)?;
            if let Some(completion) = self.completions.pop() {
                return Ok(completion.result?);
            }
        }
    }
}
