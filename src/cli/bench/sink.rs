//! A replica without a disk: it speaks the protocol, verifies every record,
//! and drops it.
//!
//! It acknowledges as flushed what it has verified, which no node ever does:
//! this end exists to measure the other one. It stands in a process of its
//! own, only a bench starts it, and nothing it is sent can be kept.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::raw::{Listening, end_with_parent, tell};
use crate::engine::inbox::{Inbox, Step};
use crate::ids::{ClusterId, NodeId, NodeUuid};
use crate::io::{self, Backend, BackendChoice, Completion, Op, Outcome, SlabPool, Socket};
use crate::io::{Token, sockets};
use crate::limits::{MIN_DIRECT_BYTES, SLAB_BYTES, SLABS_PER_CONNECTION};
use crate::lsn::Mark;
use crate::protocol::Now;
use crate::protocol::frame::{Handle, Kind};
use crate::protocol::message::{Identity, Standing};
use crate::protocol::receiver::{Intent, Receiver};
use crate::wal::record::{self, Checksums};
use crate::wal::writer::system_clock;

const ACCEPT: Token = Token(0);
const RECEIVE: Token = Token(1);
const SEND: Token = Token(2);

#[derive(Debug, Args)]
pub(in crate::cli) struct SinkArgs {
    /// The cluster to belong to
    #[arg(long)]
    cluster: ClusterId,
    /// The name to answer to
    #[arg(long)]
    node: NodeId,
}

/// Serve one connection, until it ends.
pub(super) fn run(args: &SinkArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    let listener = sockets::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?.as_socket().context("a socket without an address")?;
    let mut backend = io::open(BackendChoice::Auto)?;
    backend.submit(ACCEPT, Op::Accept { listener: Arc::new(listener) });
    tell(&Listening { address })?;
    let mut completions = Vec::new();
    while completions.is_empty() {
        backend.wait(None, &mut completions)?;
    }
    let Some(Ok(Outcome::Accepted(socket, _))) = completions.pop().map(|c| c.result) else {
        bail!("no connection");
    };
    sockets::tune(&socket)?;
    let uuid = NodeUuid((u128::from(process::id()) << 64) | u128::from(system_clock()));
    let me = Identity { cluster: args.cluster.clone(), node: args.node.clone(), uuid };
    let sink = Sink {
        backend,
        socket: Arc::new(socket),
        machine: Receiver::new(now(), me),
        inbox: Inbox::new(SlabPool::new(SLABS_PER_CONNECTION, SLAB_BYTES)),
        receiving: false,
        sending: false,
        ends: BTreeMap::new(),
        dirty: Vec::new(),
    };
    sink.serve()
}

fn now() -> Now {
    Now { instant: Instant::now(), unix_ns: system_clock() }
}

/// The connection.
struct Sink {
    backend: Box<dyn Backend>,
    socket: Arc<Socket>,
    machine: Receiver,
    inbox: Inbox,
    receiving: bool,
    sending: bool,
    /// What is verified of each space.
    ends: BTreeMap<Handle, Mark>,
    /// Spaces with something to acknowledge.
    dirty: Vec<Handle>,
}

impl Sink {
    fn serve(mut self) -> anyhow::Result<()> {
        let mut completions = Vec::new();
        loop {
            self.take_frames()?;
            self.acknowledge();
            self.backend.wait(self.machine.next_timeout(), &mut completions)?;
            for Completion { token, result } in completions.drain(..) {
                match (token, result?) {
                    (RECEIVE, Outcome::Received(_, 0)) => return Ok(()),
                    (RECEIVE, Outcome::Received(slab, _)) => {
                        self.receiving = false;
                        self.inbox.received(slab);
                        self.machine.handle_bytes(now());
                    }
                    (SEND, Outcome::Sent) => self.sending = false,
                    (_, other) => bail!("the backend answered {other:?} to another question"),
                }
            }
            if self.machine.next_timeout().is_some_and(|at| at <= Instant::now())
                && let Some(intent) = self.machine.handle_timeout(now())
            {
                bail!("the connection cannot go on: {intent:?}");
            }
        }
    }

    /// Take apart what has come, and ask for more.
    fn take_frames(&mut self) -> anyhow::Result<()> {
        while !self.receiving {
            match self.inbox.step()? {
                Step::Header(header) => {
                    if let Err((_, reason)) = self.machine.admit(&header) {
                        bail!("a frame that may not come: {reason}");
                    }
                    if header.kind == Kind::Data && header.payload_bytes >= MIN_DIRECT_BYTES {
                        self.inbox.place(0, Vec::new());
                    }
                }
                Step::Frame(header, range, _) => {
                    let body = match header.kind {
                        Kind::Data => &[],
                        _ => self.inbox.payload(range.clone()),
                    };
                    match self.machine.handle_frame(now(), &header, body) {
                        Some(Intent::Data { handle, skip, .. }) => {
                            let bytes = self.inbox.payload(range.start + skip as usize..range.end);
                            let end = self.ends.get(&handle).copied().unwrap_or(Mark::START);
                            let end = record::verify(&end, bytes, Checksums::Required)
                                .map_err(|(at, error)| anyhow!("damaged at byte {at}: {error}"))?;
                            self.ends.insert(handle, end);
                            self.machine.handle_verified(now(), handle, end);
                            if self.dirty.last() != Some(&handle) {
                                self.dirty.push(handle);
                            }
                        }
                        Some(Intent::Open { handle, .. }) => {
                            self.ends.insert(handle, Mark::START);
                            self.machine.handle_opened(now(), handle, Ok(Standing::EMPTY));
                        }
                        Some(Intent::Established { .. } | Intent::Run { .. }) | None => {}
                        Some(other) => bail!("the connection cannot go on: {other:?}"),
                    }
                }
                Step::Receive { slab, low_water, most } => {
                    self.receiving = true;
                    let socket = Arc::clone(&self.socket);
                    let receive = Op::Receive { socket, slab, low_water, most };
                    self.backend.submit(RECEIVE, receive);
                }
                Step::Starved => bail!("nothing holds slabs, and none is left"),
            }
        }
        Ok(())
    }

    /// Say that all of it is durable, as far as this end is concerned.
    fn acknowledge(&mut self) {
        let now = now();
        for handle in self.dirty.drain(..) {
            if let Some(end) = self.ends.get(&handle) {
                self.machine.handle_written(now, handle, end.lsn);
                self.machine.handle_flushed(now, handle, *end);
            }
        }
        if !self.sending
            && let Some(bytes) = self.machine.poll_transmit(now)
        {
            self.sending = true;
            let socket = Arc::clone(&self.socket);
            self.backend.submit(SEND, Op::Send { socket, bytes });
        }
    }
}
