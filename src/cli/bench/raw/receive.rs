//! The receiving end: takes what comes, and makes it durable.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

use super::write::{Disk, LANES};
use super::{Account, CHUNK_BYTES, Listening, WriteKind, end_with_parent, surprise, tell};
use crate::cli::bench::measure::cpu_seconds;
use crate::io::{self, Backend, BackendChoice, Completion, Op, Outcome, Slab, SlabPool, Socket};
use crate::io::{Token, sockets};
use crate::limits::{DIRECT_BLOCK_BYTES, FRAME_HEADER_BYTES, SLAB_BYTES, SLABS_PER_CONNECTION};

/// The connection's operations; those of the disk are numbered from
/// [`LANES`] on.
const LINK: Token = Token(0);

#[derive(Debug, Args)]
pub(in crate::cli) struct ReceiveArgs {
    /// How to write
    #[arg(long, value_enum)]
    write: WriteKind,
    /// Compute the checksum of all that comes
    #[arg(long)]
    verify: bool,
    /// Where to write
    #[arg(long)]
    directory: PathBuf,
    /// Slabs to receive into
    #[arg(long, default_value_t = SLABS_PER_CONNECTION)]
    slabs: usize,
}

pub(in crate::cli::bench) fn run(args: &ReceiveArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    let listener = sockets::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?.as_socket().context("a socket without an address")?;
    let mut backend = io::open(BackendChoice::Auto)?;
    backend.submit(LINK, Op::Accept { listener: Arc::new(listener) });
    tell(&Listening { address })?;
    let mut completions = Vec::new();
    while completions.is_empty() {
        backend.wait(None, &mut completions)?;
    }
    let socket = match completions.pop() {
        Some(Completion { result, .. }) => match result? {
            Outcome::Accepted(socket, _) => socket,
            other => return Err(surprise(&other)),
        },
        None => bail!("no connection"),
    };
    sockets::tune(&socket)?;
    let cpu = cpu_seconds(process::id())?;
    let start = Instant::now();
    let mut sink = Sink {
        backend,
        socket: Arc::new(socket),
        pool: SlabPool::new(args.slabs, SLAB_BYTES),
        receiving: false,
        next: Some(0),
        disk: Disk::open(args.write, args.directory.clone())?,
        verify: args.verify,
        checksum: 0,
        bytes: 0,
    };
    sink.receive_all()?;
    let seconds = start.elapsed().as_secs_f64();
    let ack = Op::Send { socket: Arc::clone(&sink.socket), bytes: vec![1] };
    sink.backend.submit(LINK, ack);
    while completions.is_empty() {
        sink.backend.wait(None, &mut completions)?;
    }
    // Otherwise the compiler could see that nobody needs it.
    std::hint::black_box(sink.checksum);
    tell(&Account { bytes: sink.bytes, seconds, cpu_s: cpu_seconds(process::id())? - cpu })
}

/// The loop.
struct Sink {
    backend: Box<dyn Backend>,
    socket: Arc<Socket>,
    pool: SlabPool,
    receiving: bool,
    /// Bytes of the chunk that comes next; 0 before the first header, and
    /// nothing behind the last.
    next: Option<usize>,
    disk: Disk,
    verify: bool,
    checksum: u32,
    bytes: u64,
}

impl Sink {
    fn receive_all(&mut self) -> anyhow::Result<()> {
        let mut completions = Vec::new();
        while self.next.is_some() || !self.disk.is_settled() {
            if !self.receiving
                && let Some(chunk) = self.next
                && let Some(slab) = self.pool.take()
            {
                self.receive(slab, chunk);
            }
            self.disk.flush(&mut *self.backend);
            self.backend.wait(None, &mut completions)?;
            for Completion { token, result } in completions.drain(..) {
                match result? {
                    Outcome::Received(_, 0) => bail!("the sender has gone"),
                    Outcome::Received(slab, _) => self.received(slab)?,
                    Outcome::Written | Outcome::Flushed if token.0 >= LANES => {
                        self.disk.completed(token);
                    }
                    other => return Err(surprise(&other)),
                }
            }
        }
        Ok(())
    }

    /// What is missing of a chunk and of the header behind it.
    fn receive(&mut self, slab: Slab, chunk: usize) {
        self.receiving = true;
        let missing = chunk + FRAME_HEADER_BYTES - slab.filled().len();
        let socket = Arc::clone(&self.socket);
        self.backend.submit(LINK, Op::Receive { socket, slab, low_water: missing, most: missing });
    }

    fn received(&mut self, slab: Slab) -> anyhow::Result<()> {
        self.receiving = false;
        let Some(chunk) = self.next else { bail!("more came than was announced") };
        let Some(header) = slab.filled().get(chunk..chunk + FRAME_HEADER_BYTES) else {
            self.receive(slab, chunk);
            return Ok(());
        };
        let announced = header.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let whole_blocks = (announced as usize).is_multiple_of(DIRECT_BLOCK_BYTES);
        if announced > CHUNK_BYTES || !whole_blocks {
            bail!("a chunk of {announced} bytes was announced");
        }
        self.next = (announced > 0).then_some(announced as usize);
        if chunk > 0 {
            if self.verify {
                self.checksum ^= crc32c::crc32c(&slab.filled()[..chunk]);
            }
            self.bytes += chunk as u64;
            self.disk.write(&mut *self.backend, slab.slice(0..chunk))?;
        }
        Ok(())
    }
}
