//! The raw loop: what a transfer costs when nothing is understood.
//!
//! ```text
//!   raw-send                          raw-receive
//!   header 64, MSG_MORE               page-aligned slab n: [payload 2 MiB][header]
//!   sendfile 2 MiB      ==== TCP ===>  SO_RCVLOWAT batches the wake-ups
//!   ...                               write (direct | dontcache | plain), several
//!                                       in flight; fdatasync, one after another
//!   header: 0           =============> all written and flushed
//!   clock stops         <============= one byte
//! ```
//!
//! Both ends use the same [`Backend`](crate::io::Backend) as the engine, and
//! the receiver writes as the engine does: whole blocks past the page cache
//! where the file system can. No record is looked at, no position is kept, no
//! catalog: that is the difference which the benches measure.

pub(super) mod receive;
pub(super) mod send;
pub(super) mod write;

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::GB;
use super::measure::real;
use super::workspace::Workspace;

/// Bytes of one chunk, as of one extent of the engine.
const CHUNK_BYTES: u32 = crate::limits::MAX_EXTENT_BYTES;

/// The pause between two looks at a child.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How received bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum WriteKind {
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Through the page cache and out of it again (`RWF_DONTCACHE`).
    Dontcache,
    /// Through the page cache.
    Plain,
    /// Not at all.
    None,
}

impl WriteKind {
    /// As on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Dontcache => "dontcache",
            Self::Plain => "plain",
            Self::None => "none",
        }
    }

    /// What the engine does on this disk.
    pub(super) fn of_engine(workspace: &Workspace) -> anyhow::Result<Self> {
        let path = workspace.path().join("probe");
        std::fs::File::create(&path)?;
        let direct = crate::io::open_direct(&path).is_some();
        std::fs::remove_file(&path)?;
        Ok(if direct { Self::Direct } else { Self::Dontcache })
    }
}

/// One run of the raw loop.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct RawRun {
    /// Bytes moved.
    pub(super) bytes: u64,
    /// From before the first byte was sent until the sender knew that all of
    /// them were flushed.
    pub(super) seconds: f64,
    pub(super) gb_s: f64,
    pub(super) sender_cpu_s_per_gb: f64,
    pub(super) receiver_cpu_s_per_gb: f64,
}

/// What an end of the loop says when it is done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Account {
    bytes: u64,
    seconds: f64,
    cpu_s: f64,
}

/// What the receiver says when it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
}

/// Move whole blocks of `files` through the loop, once.
///
/// # Errors
///
/// An end failed, or the bench was interrupted. No process is left.
pub(super) fn transfer(
    workspace: &Workspace,
    files: &[PathBuf],
    kind: WriteKind,
    verify: bool,
) -> anyhow::Result<RawRun> {
    workspace.clear("raw")?;
    let directory = workspace.path().join("raw");
    std::fs::create_dir(&directory)?;
    let mut command = own_program()?;
    command.args(["raw-receive", "--write", kind.name(), "--directory"]).arg(&directory);
    if verify {
        command.arg("--verify");
    }
    let mut receiver = Helper::start(command)?;
    let Listening { address } = receiver.line()?;
    let mut command = own_program()?;
    command.args(["raw-send", "--address", &address.to_string()]).args(files);
    let sent: Account = Helper::start(command)?.finish(workspace)?;
    let received: Account = receiver.finish(workspace)?;
    workspace.clear("raw")?;
    if sent.bytes != received.bytes {
        bail!("{} bytes were sent and {} received", sent.bytes, received.bytes);
    }
    let gigabytes = real(sent.bytes) / GB;
    Ok(RawRun {
        bytes: sent.bytes,
        seconds: sent.seconds,
        gb_s: gigabytes / sent.seconds,
        sender_cpu_s_per_gb: sent.cpu_s / gigabytes,
        receiver_cpu_s_per_gb: received.cpu_s / gigabytes,
    })
}

/// Write `bytes` to the disk from memory, by this kind of write, and flush.
pub(super) fn write_only(
    workspace: &Workspace,
    bytes: u64,
    kind: WriteKind,
) -> anyhow::Result<RawRun> {
    workspace.clear("raw")?;
    let directory = workspace.path().join("raw");
    std::fs::create_dir(&directory)?;
    let mut command = own_program()?;
    command.args(["raw-write", "--write", kind.name(), "--bytes", &bytes.to_string()]);
    command.arg("--directory").arg(&directory);
    let done: Account = Helper::start(command)?.finish(workspace)?;
    workspace.clear("raw")?;
    let gigabytes = real(done.bytes) / GB;
    Ok(RawRun {
        bytes: done.bytes,
        seconds: done.seconds,
        gb_s: gigabytes / done.seconds,
        sender_cpu_s_per_gb: 0.0,
        receiver_cpu_s_per_gb: done.cpu_s / gigabytes,
    })
}

/// This program, to be told which end it is.
pub(super) fn own_program() -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.arg("bench");
    Ok(command)
}

/// A child of a bench. Dropping it kills it; it also ends when its standard
/// input does, so that it never outlives its parent.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Start it, in a process group of its own: Ctrl-C is for the parent.
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .context("cannot start a helper process")?;
        let output = child.stdout.take().context("a helper process has no output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended.
    pub(super) fn ended(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("a helper process ended early: {status}"),
        }
    }

    /// The next line that it prints, as JSON.
    pub(super) fn line<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("a helper process ended early: {}", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("a helper process said {line:?}"))
    }

    /// Wait until it is done, and take the last line that it prints.
    pub(super) fn finish<T: DeserializeOwned>(
        mut self,
        workspace: &Workspace,
    ) -> anyhow::Result<T> {
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => workspace.pause(LOOK_INTERVAL)?,
            }
        };
        if !status.success() {
            bail!("a helper process failed: {status}");
        }
        self.line()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// End this process when its parent has: a helper is never left behind.
pub(super) fn end_with_parent() -> anyhow::Result<()> {
    let watch = || {
        // Nothing is ever written to it.
        let _ = std::io::stdin().lock().read(&mut [0]);
        std::process::exit(i32::from(crate::cli::EXIT_FAILURE));
    };
    thread::Builder::new().name("stdin".into()).spawn(watch).context("cannot watch stdin")?;
    Ok(())
}

/// One line of JSON for the parent.
pub(super) fn tell(document: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(document)?;
    line.push('\n');
    crate::cli::output::print(&line)
}

/// What came of an operation that was not expected.
fn surprise(outcome: &crate::io::Outcome) -> anyhow::Error {
    anyhow!("the backend answered {outcome:?} to another question")
}
