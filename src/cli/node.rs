//! Nodes as child processes: for the demo, the benches and the tests.
//!
//! ```text
//!   NodeSpec ---- writes ----> <directory>/<id>.toml
//!      | spawn                          | reads
//!      v                                v
//!   NodeProcess == stdin pipe ==> saltus run --config .. --ready-file ..
//!      | <- <directory>/<id>.ready: {"admin", "replication", ...} --'
//!      | <- <directory>/<id>.log: its standard error
//!      | status() over the admin address
//!      v
//!   terminate() SIGTERM, drains | kill() SIGKILL | drop: as kill
//! ```
//!
//! A child never outlives the process that started it, however that ends: it
//! stops when the pipe on its standard input closes. It stands in a process
//! group of its own, so that Ctrl-C reaches the parent, which decides.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::admin::{Client, ClientError};
use crate::config::{DurabilityLevel, Replica};
use crate::engine::status::NodeStatus;
use crate::ids::{ClusterId, IdError, NodeId};
use crate::io::{BackendChoice, Strategy};

/// How long a node may take from its start until it is ready.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a node may take to drain before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause between two looks at a child that is starting or stopping.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How much of its log an error repeats.
const LOG_TAIL_LINES: usize = 8;

/// The loopback address with a port that the system chooses.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What a node says when it is ready: the addresses it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub pid: u32,
    /// Where status is served.
    pub admin: SocketAddr,
    /// Where it receives, if it does.
    pub replication: Option<SocketAddr>,
}

/// Why a node process is not what it should be. The process has been ended,
/// unless the variant says otherwise; its files are left in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The name is none. Nothing was started.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A file or the process could not be made.
    #[error("{node}: cannot {action}: {source}")]
    System {
        /// The node.
        node: NodeId,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{node} ended with {status}; its log says:\n{log}")]
    Ended {
        /// The node.
        node: NodeId,
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// It did not do in time what was asked.
    #[error("{node} was not {wanted} within {after:?}; its log says:\n{log}")]
    Late {
        /// The node.
        node: NodeId,
        /// `"ready"` or `"stopped"`.
        wanted: &'static str,
        /// How long it was given.
        after: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// It runs, and does not answer.
    #[error(transparent)]
    Status(#[from] ClientError),
}

/// Everything that makes a node: kept to start it again after it was ended.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The program; by default the one that runs now.
    pub program: PathBuf,
    /// `node.id`.
    pub id: NodeId,
    /// `node.cluster`.
    pub cluster: ClusterId,
    /// Where its configuration, ready file and log go.
    pub directory: PathBuf,
    /// `node.data_root`; made if absent.
    pub data_root: PathBuf,
    /// `listen.replication`.
    pub replication: Option<SocketAddr>,
    /// `listen.admin`.
    pub admin: SocketAddr,
    /// Each `[[replica]]`.
    pub replicas: Vec<Replica>,
    /// `io.backend`.
    pub backend: BackendChoice,
    /// `io.strategy`.
    pub strategy: Strategy,
    /// `io.shards`.
    pub shards: u32,
    /// `durability.level`.
    pub level: DurabilityLevel,
    /// Further sections, as TOML: `[batch]` and `[wal]` have no field here.
    pub more: String,
}

impl NodeSpec {
    /// A node named `id` on loopback ports that the system chooses, with its
    /// files in `directory` and its data in `directory/<id>`. It receives if
    /// `receives`, and ships to nobody.
    ///
    /// # Errors
    ///
    /// `id` is no node id, or this program's own path is unknown.
    pub fn new(id: &str, directory: &Path, receives: bool) -> Result<Self, NodeError> {
        let id: NodeId = id.parse()?;
        let program = env::current_exe().map_err(|source| NodeError::System {
            node: id.clone(),
            action: "find its program",
            source,
        })?;
        Ok(Self {
            program,
            cluster: "local".parse()?,
            directory: directory.into(),
            data_root: directory.join(id.as_str()),
            replication: receives.then(any_port),
            admin: any_port(),
            replicas: Vec::new(),
            backend: BackendChoice::default(),
            strategy: Strategy::default(),
            shards: 1,
            level: DurabilityLevel::default(),
            more: String::new(),
            id,
        })
    }

    /// The configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        use std::fmt::Write as _;
        let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let mut text = format!(
            "[node]\nid = \"{}\"\ncluster = \"{}\"\ndata_root = {}\n\n[listen]\nadmin = \"{}\"\n",
            self.id,
            self.cluster,
            quoted(&self.data_root),
            self.admin
        );
        // Writing to a `String` cannot fail.
        if let Some(address) = self.replication {
            let _ = writeln!(text, "replication = \"{address}\"");
        }
        for Replica { id, address } in &self.replicas {
            let _ = write!(text, "\n[[replica]]\nid = \"{id}\"\naddress = \"{address}\"\n");
        }
        let backend = match self.backend {
            BackendChoice::Auto => "auto",
            BackendChoice::Uring => "uring",
            BackendChoice::Portable => "portable",
        };
        let strategy = match self.strategy {
            Strategy::Auto => "auto",
            Strategy::Sendfile => "sendfile",
            Strategy::Splice => "splice",
            Strategy::SendZc => "send_zc",
            Strategy::Copy => "copy",
        };
        let level = match self.level {
            DurabilityLevel::Flushed => "flushed",
            DurabilityLevel::Written => "written",
        };
        let _ = write!(
            text,
            "\n[io]\nbackend = \"{backend}\"\nstrategy = \"{strategy}\"\nshards = {}\n\n\
             [durability]\nlevel = \"{level}\"\n\n{}",
            self.shards, self.more
        );
        text
    }

    /// Start the node and wait until it is ready.
    ///
    /// # Errors
    ///
    /// Any [`NodeError`]; no process is left.
    pub fn spawn(self) -> Result<NodeProcess, NodeError> {
        let config = self.file("toml");
        let ready_file = self.file("ready");
        fs::create_dir_all(&self.data_root)
            .map_err(|source| self.failed("make its data root", source))?;
        fs::write(&config, self.to_toml())
            .map_err(|source| self.failed("write its configuration", source))?;
        match fs::remove_file(&ready_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("remove its old ready file", error));
            }
            _ => {}
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .map_err(|source| self.failed("open its log", source))?;
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready_file)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|source| self.failed("start it", source))?;
        let mut child = Guard(child);
        let ready = self.await_ready(&mut child, &ready_file)?;
        let client = Client::new(ready.admin)?;
        Ok(NodeProcess { spec: self, child, ready, client })
    }

    fn await_ready(&self, child: &mut Guard, file: &Path) -> Result<Ready, NodeError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(text) = fs::read(file) {
                return serde_json::from_slice(&text)
                    .map_err(|error| self.failed("read its ready file", error.into()));
            }
            let ended = child.0.try_wait().map_err(|source| self.failed("watch it", source))?;
            if let Some(status) = ended {
                return Err(NodeError::Ended {
                    node: self.id.clone(),
                    status,
                    log: self.log_tail(),
                });
            }
            if Instant::now() >= deadline {
                return Err(NodeError::Late {
                    node: self.id.clone(),
                    wanted: "ready",
                    after: START_TIMEOUT,
                    log: self.log_tail(),
                });
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The last lines of the node's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.file("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(LOG_TAIL_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.id))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> NodeError {
        NodeError::System { node: self.id.clone(), action, source }
    }
}

/// A child that is killed and reaped when it goes out of scope.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that runs. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    spec: NodeSpec,
    child: Guard,
    ready: Ready,
    client: Client,
}

impl NodeProcess {
    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// The addresses it is bound to.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// This node as another one's `[[replica]]`; `None` if it does not
    /// receive.
    #[must_use]
    pub fn as_replica(&self) -> Option<Replica> {
        let address = self.ready.replication?;
        Some(Replica { id: self.spec.id.clone(), address })
    }

    /// Its status now.
    ///
    /// # Errors
    ///
    /// [`NodeError::Ended`] if it has ended, else [`NodeError::Status`]; the
    /// process is left as it is.
    pub fn status(&mut self) -> Result<NodeStatus, NodeError> {
        self.client.status().map_err(|error| match self.ended() {
            Err(ended) => ended,
            Ok(()) => NodeError::Status(error),
        })
    }

    /// Nothing, as long as it runs.
    ///
    /// # Errors
    ///
    /// [`NodeError::Ended`].
    pub fn ended(&mut self) -> Result<(), NodeError> {
        match self.child.0.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(NodeError::Ended {
                node: self.spec.id.clone(),
                status,
                log: self.spec.log_tail(),
            }),
            Err(source) => Err(self.spec.failed("watch it", source)),
        }
    }

    /// Ask it to stop (SIGTERM), wait for it, and take back its spec, with
    /// the addresses that it had.
    ///
    /// # Errors
    ///
    /// It took longer than [`STOP_TIMEOUT`], or its exit code was not 0.
    pub fn terminate(mut self) -> Result<NodeSpec, NodeError> {
        let pid = i32::try_from(self.pid()).map(Pid::from_raw);
        // One that has ended is met below; its number may be another's by now.
        if let (Ok(()), Ok(pid)) = (self.ended(), pid) {
            let _ = kill(pid, Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.ended() {
                Err(NodeError::Ended { status, .. }) if status.success() => break,
                Err(other) => return Err(other),
                Ok(()) if Instant::now() >= deadline => {
                    return Err(NodeError::Late {
                        node: self.spec.id.clone(),
                        wanted: "stopped",
                        after: STOP_TIMEOUT,
                        log: self.spec.log_tail(),
                    });
                }
                Ok(()) => thread::sleep(LOOK_INTERVAL),
            }
        }
        Ok(self.into_spec())
    }

    /// End it at once (SIGKILL) and take back its spec, with the addresses
    /// that it had.
    #[must_use]
    pub fn kill(self) -> NodeSpec {
        self.into_spec()
    }

    fn into_spec(self) -> NodeSpec {
        // A node that comes back is looked for where it was.
        let replication = self.ready.replication;
        NodeSpec { replication, admin: self.ready.admin, ..self.spec }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Config;

    #[test]
    fn spec_writes_what_the_configuration_reads() {
        let mut spec = NodeSpec::new("alpha", Path::new("/tmp/a \"b\"\\c"), true).unwrap();
        spec.replicas.push(Replica {
            id: "beta".parse().unwrap(),
            address: "127.0.0.1:7420".parse().unwrap(),
        });
        spec.backend = BackendChoice::Portable;
        spec.strategy = Strategy::Copy;
        spec.level = DurabilityLevel::Written;
        spec.shards = 3;
        spec.more = "[batch]\nmax_records = 7\n".into();
        let config = Config::parse(&spec.to_toml(), "spec").unwrap();
        assert_eq!(config.node.id, spec.id);
        assert_eq!(config.node.cluster, spec.cluster);
        assert_eq!(config.node.data_root, spec.data_root);
        assert_eq!(config.listen.replication, spec.replication);
        assert_eq!(config.listen.admin, spec.admin);
        assert_eq!(config.replicas, spec.replicas);
        assert_eq!(config.io.backend, spec.backend);
        assert_eq!(config.io.strategy, spec.strategy);
        assert_eq!(config.io.shards, 3);
        assert_eq!(config.durability.level, spec.level);
        assert_eq!(config.batch.max_records, 7);
    }
}
