//! A primary and a replica, from nothing to caught up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::GB;
use super::measure::{MemoryWatch, cpu_seconds, disk_read_bytes, real};
use super::raw::{Helper, Listening, own_program};
use super::workspace::Workspace;
use crate::cli::node::{NodeProcess, NodeSpec};
use crate::engine::status::{NodeStatus, ReplicaStatus};
use crate::io::Strategy;

/// The pause between two looks at the primary where it matters: before the
/// first byte, and near the last. In between looks are rarer, for the primary
/// pays for each.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long a replica may stand still before the bench gives up on it.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The processes, the primary first so that it is stopped first.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) primary: NodeProcess,
    pub(super) replica: Replica,
    /// When the primary was started.
    started: Instant,
    /// When it was ready.
    ready: Instant,
    /// What the processes had used when the primary was started.
    cpu_before: (f64, f64),
    memory: (MemoryWatch, MemoryWatch),
}

/// What stands at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Far {
    /// A node.
    Node,
    /// What verifies and drops.
    Sink,
}

/// The process at the far end.
#[derive(Debug)]
pub(super) enum Replica {
    Node(Box<NodeProcess>),
    Sink(Helper),
}

impl Replica {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Node(node) => node.pid(),
            Self::Sink(helper) => helper.pid(),
        }
    }

    /// Fails when it has ended.
    fn ended(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Node(node) => Ok(node.ended()?),
            Self::Sink(helper) => helper.ended(),
        }
    }

    fn log_tail(&self) -> String {
        match self {
            Self::Node(node) => node.spec().log_tail(),
            Self::Sink(_) => String::new(),
        }
    }
}

/// How one catch-up went.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CatchUp {
    /// From the last look that saw nothing sent to the first that saw
    /// everything flushed.
    pub(super) seconds: f64,
    /// The same from the moment when the primary was ready.
    pub(super) seconds_from_ready: f64,
    pub(super) gb_s: f64,
    pub(super) sender_cpu_s_per_gb: f64,
    pub(super) receiver_cpu_s_per_gb: f64,
    pub(super) sent_bytes_by_strategy: BTreeMap<String, u64>,
    pub(super) anon_mib: Anon,
    /// Bytes that the primary read from the disk, by bytes shipped.
    pub(super) disk_reads: f64,
}

/// Anonymous memory at its peak, MiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Anon {
    pub(super) primary: f64,
    pub(super) replica: f64,
}

impl Pair {
    /// Start both with empty catalogs and an empty replica.
    pub(super) fn start(
        workspace: &Workspace,
        strategy: Strategy,
        far: Far,
    ) -> anyhow::Result<Self> {
        let directory = workspace.path();
        workspace.clear("replica")?;
        workspace.clear("primary/.saltus")?;
        let mut spec = NodeSpec::new("primary", directory, false)?;
        spec.strategy = strategy;
        let replica = match far {
            Far::Node => {
                let node = NodeSpec::new("replica", directory, true)?.spawn()?;
                spec.replicas = node.as_replica().into_iter().collect();
                Replica::Node(Box::new(node))
            }
            Far::Sink => {
                let mut command = own_program()?;
                command.args(["sink", "--node", "replica", "--cluster", spec.cluster.as_str()]);
                let mut sink = Helper::start(command)?;
                let Listening { address } = sink.line()?;
                spec.replicas = vec![crate::config::Replica { id: "replica".parse()?, address }];
                Replica::Sink(sink)
            }
        };
        let replica_cpu = cpu_seconds(replica.pid())?;
        let started = Instant::now();
        let primary = spec.spawn()?;
        let ready = Instant::now();
        let memory = (MemoryWatch::start(primary.pid())?, MemoryWatch::start(replica.pid())?);
        let cpu_before = (0.0, replica_cpu);
        Ok(Self { primary, replica, started, ready, cpu_before, memory })
    }

    /// The primary's status, if both run.
    pub(super) fn status(&mut self) -> anyhow::Result<NodeStatus> {
        self.replica.ended()?;
        Ok(self.primary.status()?)
    }

    /// Wait until the replica has flushed `bytes` of stream, over all spaces.
    pub(super) fn catch_up(
        &mut self,
        workspace: &Workspace,
        bytes: u64,
    ) -> anyhow::Result<CatchUp> {
        // If even the first look comes too late, then from the very start.
        let mut begin = self.started;
        let (mut progress, mut moved) = (0, Instant::now());
        let (end, status) = loop {
            let before = Instant::now();
            let status = self.status()?;
            let flushed: u64 = replicas(&status).map(|replica| replica.flushed_lsn).sum();
            if replicas(&status).all(|replica| replica.sent_lsn == 0) {
                begin = before;
            }
            if flushed >= bytes {
                break (Instant::now(), status);
            }
            if flushed > progress {
                (progress, moved) = (flushed, Instant::now());
            }
            if let Some(problem) = problem(&status) {
                bail!("the replica does not catch up: {problem}");
            }
            if moved.elapsed() >= STALL_TIMEOUT {
                bail!(
                    "the replica stands still at {flushed} of {bytes} bytes; its log says:\n{}",
                    self.replica.log_tail()
                );
            }
            // Half of what is left at this rate: ever closer, in few looks.
            let left = begin.elapsed().mul_f64(real(bytes - flushed) / real(flushed.max(1)));
            let pause = if flushed == 0 { LOOK_INTERVAL } else { left / 2 };
            workspace.pause(pause.clamp(LOOK_INTERVAL, LONGEST_PAUSE))?;
        };
        let gigabytes = real(bytes) / GB;
        let seconds = (end - begin).as_secs_f64();
        let cpu = (cpu_seconds(self.primary.pid())?, cpu_seconds(self.replica.pid())?);
        let mut sent_bytes_by_strategy = BTreeMap::new();
        for (strategy, bytes) in replicas(&status).flat_map(|r| &r.sent_bytes_by_strategy) {
            *sent_bytes_by_strategy.entry(strategy.clone()).or_default() += bytes;
        }
        Ok(CatchUp {
            seconds,
            seconds_from_ready: (end - self.ready).as_secs_f64(),
            gb_s: gigabytes / seconds,
            sender_cpu_s_per_gb: (cpu.0 - self.cpu_before.0) / gigabytes,
            receiver_cpu_s_per_gb: (cpu.1 - self.cpu_before.1) / gigabytes,
            sent_bytes_by_strategy,
            disk_reads: real(disk_read_bytes(self.primary.pid())?) / real(bytes),
            anon_mib: Anon { primary: self.memory.0.peak_mib(), replica: self.memory.1.peak_mib() },
        })
    }

    /// End both, and make room.
    pub(super) fn end(self, workspace: &Workspace) -> anyhow::Result<()> {
        let Self { primary, replica, memory, .. } = self;
        drop(memory);
        drop((primary.kill(), replica));
        workspace.clear("replica").context("cannot make room for the next run")
    }
}

/// What the primary knows of its replica, for each space.
pub(super) fn replicas(status: &NodeStatus) -> impl Iterator<Item = &ReplicaStatus> {
    status.spaces.iter().flat_map(|space| &space.replicas)
}

/// What is wrong, if anything is.
fn problem(status: &NodeStatus) -> Option<&str> {
    let spaces = status.spaces.iter().filter_map(|space| space.problem.as_deref());
    let replicas = replicas(status).filter_map(|replica| replica.problem.as_deref());
    status.problem.as_deref().into_iter().chain(spaces).chain(replicas).next()
}
