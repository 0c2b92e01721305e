//! Joining the logs, the wire, the kernel and the catalog into a node.
//!
//! ```text
//!   Engine ---- Command ----> shard 0..n   (data plane: one thread, one ring each)
//!     |                          |   ^
//!     |                         Job News
//!     |                          v   |
//!     +------ received ------ keeper       (catalog, pins, directories)
//!     +------ report -------- scrubber     (verification at rest)
//!     +------ question ------ prover       (digests, for another node to compare)
//! ```
//!
//! The control plane holds an [`Engine`] and nothing else of this module. The
//! threads share no lock with it: it asks the shards by message, and a shard
//! that does not answer is reported as such.
//!
//! Invariants that are kept here, because only here both sides meet: a run is
//! durable in the catalog before it is shipped, and on a replica before it is
//! written; a space is received by one session at a time; a position is
//! acknowledged only after verification and sync.

#![forbid(unsafe_code)]

pub mod clock;
pub mod doorkeeper;
pub mod inbox;
pub mod jitter;
pub mod keeper;
pub mod latency;
#[cfg(test)]
mod mortal;
pub mod patience;
pub mod primary;
pub mod proof;
pub mod quarantine;
pub mod rate;
pub mod rebuild;
pub mod recovery;
pub mod replica;
pub mod report;
pub mod scrub;
pub mod shard;
pub mod span;
pub mod status;
mod verifier;
pub mod writers;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded, unbounded};

use self::clock::SystemClock;
use self::doorkeeper::Complaints;
use self::keeper::{Ignored, Job, Keeper, Mailbox, Places, Received};
use self::proof::chart::{Chart, ChartAsk};
use self::proof::question::{Answer, Question};
use self::proof::{ProofError, Prover};
use self::replica::primaries::Primaries;
use self::scrub::{Mender, ScrubAsk, ScrubHandle, ScrubOptions, Scrubber};
use self::shard::{Command, Setup, Shard};
use self::status::{NodeStatus, Role};
use crate::config::{self, Config, DurabilityLevel, OnCorruptSource};
use crate::ids::SpaceId;
use crate::io::Waker;
use crate::limits::{LISTEN_PATIENCE, MAX_QUEUED_COMMANDS, SCRUB_FIRST_DELAY, WRITTEN_FLUSH_DELAY};
use crate::protocol::message::Identity;
use crate::protocol::sender::BatchRule;
use crate::state::catalog::{Catalog, CatalogError};
use crate::state::host::ThisHost;
use crate::state::pins::Pins;
use crate::wal::discover;
use crate::wal::record::Checksums;

/// How long a shard may take to say how it is.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two attempts to listen on an address that is in use.
const LISTEN_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Why a node did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The replication address cannot be bound. Nothing was started.
    #[error("cannot listen for replication on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The catalog cannot be used. Nothing was started.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A directory of the node's own cannot be used. Nothing was started.
    #[error("cannot use {path}")]
    Directory {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The backend that was asked for is not to be had. Nothing was started.
    #[error("cannot open the I/O backend")]
    Backend {
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started. What was started has been stopped.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        source: io::Error,
    },
    /// A shard failed. What it had acknowledged is durable; the rest will be
    /// shipped again.
    #[error("shard {shard} failed: {reason}")]
    Shard {
        /// Which.
        shard: usize,
        /// Why.
        reason: String,
    },
}

/// One running shard, from outside.
#[derive(Debug)]
struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// One node.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    address: Option<SocketAddr>,
    shards: Vec<Handle>,
    keeper: Option<(Sender<Job>, JoinHandle<()>)>,
    received: Received,
    ignored: Ignored,
    scrub: ScrubHandle,
    prover: Prover,
    failed: Arc<Mutex<Option<(usize, String)>>>,
    backend: &'static str,
}

impl Engine {
    /// Recover what is here, spawn all threads, and listen.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]; nothing runs then.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        let places = Places {
            data_root: config.node.data_root.clone(),
            state_dir: config.node.state_dir.clone(),
            host: Arc::new(ThisHost),
        };
        let directory = |source| EngineError::Directory {
            path: places.state_dir.display().to_string(),
            source,
        };
        let catalog = Arc::new(Catalog::open_on(&places.host, &places.state_dir)?);
        let pins = Pins::open_on(&places.host, &places.state_dir).map_err(directory)?;
        let checksums = match config.wal.checksums {
            config::Checksums::Required => Checksums::Required,
            config::Checksums::Optional => Checksums::Optional,
        };
        let me = Identity {
            cluster: config.node.cluster.clone(),
            node: config.node.id.clone(),
            uuid: catalog.node(),
        };
        let received = Received::default();
        let prover = Prover::start(places.clone(), pins.clone(), Arc::clone(&catalog), checksums)
            .map_err(|source| EngineError::Thread { source })?;
        let rule = keeper::retention::Rule::of(config);
        let keeper = Keeper::new(places.clone(), catalog, pins, checksums, rule, received.clone())?;

        let ignored = keeper.ignored();

        let mut listener = match config.listen.replication {
            Some(address) => {
                Some(listen(address).map_err(|source| EngineError::Listen { address, source })?)
            }
            None => None,
        };
        let address = listener
            .as_ref()
            .and_then(|socket| socket.local_addr().ok())
            .and_then(|address| address.as_socket());

        let setup = Setup {
            shard: 0,
            shards: config.io.shards as usize,
            me,
            data_root: places.data_root.clone(),
            replicas: config.replicas.iter().map(|r| (r.id.clone(), r.address)).collect(),
            batch: BatchRule {
                max_records: u64::from(config.batch.max_records),
                max_delay: config.batch.max_delay,
                max_bytes: config.batch.max_bytes,
            },
            strategy: config.io.strategy,
            seed_bytes_per_second: config.retention.seed_bytes_per_second,
            checksums,
            flush_delay: match config.durability.level {
                DurabilityLevel::Flushed => Duration::ZERO,
                DurabilityLevel::Written => WRITTEN_FLUSH_DELAY,
            },
            skips_damage: config.wal.on_corrupt_source == OnCorruptSource::Skip,
            writers: Arc::new(writers::Kernel),
            clock: Arc::new(SystemClock),
            jitter_seed: 0,
        };

        // The rings are made on the threads that use them. Each thread says
        // whether it has one before any of them goes on.
        let (jobs, job_queue) = bounded(MAX_QUEUED_COMMANDS);
        let failed = Arc::new(Mutex::new(None));
        let mut started = Vec::new();
        for shard in 0..setup.shards {
            // Not of the process's number: in containers that is the same everywhere.
            let jitter_seed = RandomState::new().hash_one(shard);
            let setup = Setup { shard, jitter_seed, ..setup.clone() };
            started.push(Self::spawn(setup, config, jobs.clone(), failed.clone())?);
        }
        let mut shards = Vec::new();
        let mut mailboxes = Vec::new();
        let mut backend = "";
        let mut goes = Vec::new();
        let mut refusal = None;
        for start in started {
            match start.ready.recv() {
                Ok(Ok((name, waker))) => {
                    backend = name;
                    mailboxes.push(Mailbox { news: start.news, waker: waker.clone() });
                    shards.push(Handle { commands: start.commands, waker, thread: start.thread });
                    goes.push(start.go);
                }
                Ok(Err(source)) => refusal = Some(source),
                Err(_) => refusal = Some(io::Error::other("the thread ended early")),
            }
        }
        if let Some(source) = refusal {
            // The threads that wait for their go end without it.
            return Err(EngineError::Backend { source });
        }
        let strategy = config.io.strategy;
        if backend == "portable" && !strategy.is_portable() {
            tracing::warn!(
                "io.strategy {} needs io_uring, which is not available: the portable backend sends \
                 by sendfile, or copies",
                strategy.name()
            );
        }
        let others: Vec<_> =
            shards.iter().skip(1).map(|s| (s.commands.clone(), s.waker.clone())).collect();
        let (primaries, complaints) = (Primaries::default(), Complaints::default());
        for (index, go) in goes.into_iter().enumerate() {
            let first = index == 0;
            let go_on = (
                listener.take().filter(|_| first),
                if first { others.clone() } else { Vec::new() },
                primaries.clone(),
                complaints.clone(),
            );
            if go.send(go_on).is_err() {
                tracing::error!(shard = index, "the shard ended before it began");
            }
        }
        let mender = Mender {
            shards: shards.iter().map(|s| (s.commands.clone(), s.waker.clone())).collect(),
            keeper: jobs.clone(),
            received: received.clone(),
            state_dir: places.state_dir.clone(),
            host: places.host.clone(),
            free_bytes: crate::io::free_bytes,
        };
        let scrub = Self::scrub(&places, config, mender)
            .map_err(|source| EngineError::Thread { source })?;
        let keeper = keeper.with_scrub(scrub.requests());
        let thread = std::thread::Builder::new()
            .name("saltus-keeper".into())
            .spawn(move || keeper.run(mailboxes, &job_queue))
            .map_err(|source| EngineError::Thread { source })?;
        Ok(Self {
            config: config.clone(),
            address,
            shards,
            keeper: Some((jobs, thread)),
            received,
            ignored,
            scrub,
            prover,
            failed,
            backend,
        })
    }

    /// Verify everything at rest, of both roles, in the background.
    fn scrub(places: &Places, config: &Config, mender: Mender) -> io::Result<ScrubHandle> {
        let checksums = match config.wal.checksums {
            config::Checksums::Required => Checksums::Required,
            config::Checksums::Optional => Checksums::Optional,
        };
        let data_root = places.data_root.clone();
        let spaces = move || {
            let spaces = discover::spaces(&data_root).unwrap_or_else(|error| {
                tracing::warn!(%error, "the data root cannot be listed for scrubbing");
                Vec::new()
            });
            let directory = |space: &SpaceId| discover::wal_directory(&data_root, space);
            spaces.into_iter().map(|space| (space.clone(), directory(&space))).collect()
        };
        let options = ScrubOptions {
            checksums,
            interval: config.scrub.interval,
            first_delay: config.scrub.interval.min(SCRUB_FIRST_DELAY),
            bytes_per_second: u64::from(config.scrub.bytes_per_second),
            ..ScrubOptions::default()
        };
        Scrubber::start_mending(&places.data_root, Arc::new(spaces), options, Some(mender))
    }

    /// Ask for a pass of scrubbing, or a repair, as soon as the present pass has
    /// ended. Returns the number under which its outcome will stand in the
    /// status; nothing if too many wait already.
    #[must_use]
    pub fn ask_for_scrub(&self, ask: ScrubAsk) -> Option<u64> {
        self.scrub.requests().ask(ask)
    }

    /// Spawn one shard; it waits for its go once it has its ring.
    fn spawn(
        setup: Setup,
        config: &Config,
        jobs: Sender<Job>,
        failed: Arc<Mutex<Option<(usize, String)>>>,
    ) -> Result<Starting, EngineError> {
        let (commands, command_queue) = bounded(MAX_QUEUED_COMMANDS);
        let (news, news_queue) = unbounded();
        let (tell, ready) = bounded(1);
        let (go, gone) = bounded::<GoOn>(1);
        let choice = config.io.backend;
        let shard = setup.shard;
        let core = config.io.first_core.map(|first| first as usize + shard);
        let thread = std::thread::Builder::new()
            .name(format!("saltus-shard-{shard}"))
            .spawn(move || {
                if let Some(core) = core
                    && let Err(error) = crate::io::pin_thread(core)
                {
                    tracing::warn!(shard, core, %error, "not pinned: see io.first_core");
                }
                let backend = match crate::io::open(choice) {
                    Ok(backend) => backend,
                    Err(error) => {
                        // Who started us may have given up already.
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                if tell.send(Ok((backend.name(), backend.waker()))).is_err() {
                    return;
                }
                let Ok((listener, others, primaries, complaints)) = gone.recv() else { return };
                let shard =
                    Shard::new(setup, backend, command_queue, news_queue, jobs, listener, others)
                        .among(primaries, complaints);
                let mut guard = FailureGuard { shard: shard.number(), failed, reason: None };
                guard.reason = Some("it panicked; see the log".into());
                guard.reason = shard.run().err().map(|error| error.to_string());
            })
            .map_err(|source| EngineError::Thread { source })?;
        Ok(Starting { commands, news, ready, go, thread })
    }

    /// Where this node receives; the port is the real one.
    #[must_use]
    pub fn replication_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What the node knows of itself. A shard that does not answer within two
    /// seconds shows as a problem, not as silence.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let (tell, reports) = bounded(self.shards.len());
        for shard in &self.shards {
            if shard.commands.try_send(Command::Report(tell.clone())).is_ok() {
                shard.waker.wake();
            }
        }
        drop(tell);
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let (mut answers, mut starting) = (0, false);
        let mut spaces = self.received.statuses();
        let mut corrupt_frames = BTreeMap::new();
        while let Ok(report) = reports.recv_deadline(deadline) {
            answers += 1;
            for (node, frames) in report.corrupt_frames {
                *corrupt_frames.entry(node).or_insert(0) += frames;
            }
            starting |= !report.complete;
            for space in report.spaces {
                // What the keeper holds as received is no log of this node's,
                // though a shard may watch its directory.
                let received = spaces.get(&space.space).is_some_and(|s| s.role == Role::Replica);
                if space.role == Role::Replica || !received {
                    spaces.insert(space.space.clone(), space);
                }
            }
        }
        for (space, quarantine) in self.received.quarantines() {
            if let Some(status) = spaces.get_mut(&space) {
                status.quarantine = quarantine;
            }
        }
        for (space, damage) in self.received.damages() {
            if let Some(space) = spaces.get_mut(&space) {
                space.problem.get_or_insert(damage);
            }
        }
        let silent = self.shards.len() - answers;
        let problem = self.failed().or_else(|| self.received.problem()).or_else(|| {
            (silent > 0).then(|| format!("{silent} of {} shards do not answer", self.shards.len()))
        });
        NodeStatus {
            node: self.config.node.id.clone(),
            cluster: self.config.node.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            backend: self.backend.into(),
            replication_address: self.address,
            problem,
            starting,
            ships_to: self.config.replicas.iter().map(|replica| replica.id.clone()).collect(),
            spaces: spaces.into_values().collect(),
            scrub: self.scrub.report().into(),
            corrupt_frames,
            ignored: self.ignored.status(),
        }
    }

    /// Answer a question about a range of a stream, for another node to
    /// compare.
    ///
    /// # Errors
    ///
    /// See [`ProofError`].
    pub async fn prove(&self, question: Question) -> Result<Answer, ProofError> {
        self.prover.ask(question).await
    }

    /// Say where a stream lies, for another node that has lost its catalog.
    ///
    /// # Errors
    ///
    /// See [`ProofError`].
    pub async fn chart(&self, ask: ChartAsk) -> Result<Chart, ProofError> {
        self.prover.chart(ask).await
    }

    /// Why the node can no longer do its work, if so: the process must end.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.as_ref().map(|(shard, reason)| format!("shard {shard} failed: {reason}"))
    }

    /// Drain and stop: what is written is flushed and acknowledged, the peers
    /// are told, the catalog is brought up to date.
    ///
    /// # Errors
    ///
    /// A shard had failed.
    pub fn shutdown(mut self) -> Result<(), EngineError> {
        // It may be in the midst of a sync: the shards need not wait for that.
        self.scrub.tell_to_stop();
        drop(self.prover);
        for shard in &self.shards {
            // A full queue empties; a shard that is gone needs no command.
            let _ = shard.commands.send(Command::Stop);
            shard.waker.wake();
        }
        for (index, shard) in self.shards.drain(..).enumerate() {
            if shard.thread.join().is_err() {
                tracing::error!(shard = index, "the shard panicked");
            }
        }
        self.scrub.stop();
        if let Some((jobs, thread)) = self.keeper.take() {
            // It may be gone already.
            let _ = jobs.send(Job::Stop);
            if thread.join().is_err() {
                tracing::error!("the keeper panicked");
            }
        }
        let failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match failed {
            Some((shard, reason)) => Err(EngineError::Shard { shard, reason }),
            None => Ok(()),
        }
    }
}

/// Listen on an address, waiting a little if it is in use: the kernel gives a
/// killed process's sockets back only when it has dismantled its ring.
fn listen(address: SocketAddr) -> io::Result<crate::io::Socket> {
    let deadline = Instant::now() + LISTEN_PATIENCE;
    let mut told = false;
    loop {
        match crate::io::sockets::listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        "{address} (listen.replication) is in use: trying again for \
                         {LISTEN_PATIENCE:?}"
                    );
                }
                std::thread::sleep(LISTEN_RETRY_DELAY);
            }
            other => return other,
        }
    }
}

/// What a shard gets with its go: the listener, the other shards, and who
/// ships to any of them.
type GoOn = (Option<crate::io::Socket>, Vec<(Sender<Command>, Waker)>, Primaries, Complaints);

/// A shard between its spawn and its go.
struct Starting {
    commands: Sender<Command>,
    news: Sender<keeper::News>,
    ready: crossbeam::channel::Receiver<io::Result<(&'static str, Waker)>>,
    go: Sender<GoOn>,
    thread: JoinHandle<()>,
}

/// Notes why a shard ended, also when it panicked.
struct FailureGuard {
    shard: usize,
    failed: Arc<Mutex<Option<(usize, String)>>>,
    reason: Option<String>,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if let Some(reason) = self.reason.take() {
            tracing::error!(shard = self.shard, "the shard failed: {reason}");
            let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failed.get_or_insert((self.shard, reason));
        }
    }
}
