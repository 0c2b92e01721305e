//! `saltus run`: one node, until it is told to stop.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time;

use super::node::Ready;
use super::ready::ReadyFile;
use super::{EXIT_FAILURE, NotPermitted, output};
use crate::admin::Server;
use crate::config::Config;
use crate::engine::Engine;

/// How often the control plane looks whether a shard has died.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Write a JSON file with the addresses once the node is ready
    ///
    /// It appears whole, and is gone when the node has ended, unless that was
    /// killed. A file that no node wrote is not replaced.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Stop, as on SIGTERM, when standard input ends
    ///
    /// For a process that starts nodes and must not leave them behind,
    /// however it dies itself: it holds the other end of a pipe.
    #[arg(long, hide_short_help = true)]
    stop_with_stdin: bool,
}

/// Why a node stops.
enum Stop {
    /// It was told to.
    Asked(&'static str),
    /// It cannot go on.
    Failed(String),
}

pub(super) fn run(args: &RunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let mut ready_file = args.ready_file.as_deref().map(ReadyFile::claim).transpose()?;
    raise_descriptor_limit();
    if config.replicas.is_empty() && config.listen.replication.is_none() {
        tracing::warn!("no [[replica]] to ship to and no [listen] replication: nothing to do");
    }

    let runtime =
        Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    // Everything that can fail without a trace comes before the engine, and
    // signals that arrive while it starts are kept.
    let (mut signals, server) = {
        let _inside = runtime.enter();
        let signals = Signals::install().context("cannot handle signals")?;
        (signals, Server::bind(config.listen.admin).map_err(NotPermitted::sift)?)
    };
    let orphaned = args.stop_with_stdin.then(watch_stdin).transpose()?;
    if let Some(file) = &ready_file {
        file.clear()?;
    }

    let engine = Engine::start(&config).map_err(NotPermitted::sift);
    let engine = Rc::new(engine.context("cannot start the engine")?);
    let ready = Ready {
        node: config.node.id.clone(),
        pid: process::id(),
        admin: server.address(),
        replication: engine.replication_address(),
    };
    let stop = match announce(&ready, ready_file.as_mut(), json) {
        Err(error) => Stop::Failed(format!("{error:#}")),
        Ok(()) => runtime.block_on(async {
            tokio::select! {
                served = server.serve(Rc::clone(&engine)) => match served {
                    Ok(never) => match never {},
                    Err(error) => Stop::Failed(error.to_string()),
                },
                name = signals.next() => Stop::Asked(name),
                () = closed(orphaned) => Stop::Asked("end of standard input"),
                problem = failure(&engine) => Stop::Failed(problem),
            }
        }),
    };
    if let Stop::Asked(by) = &stop {
        tracing::info!(by, "stopping: what is flushed stays acknowledged");
    }
    // Whoever looks for a node that is ready must not find one that ends.
    drop(ready_file);
    exit_on_second_signal();
    let engine = Rc::into_inner(engine).context("the engine is still in use")?;
    let stopped = engine.shutdown();
    if let Stop::Failed(problem) = stop {
        return Err(anyhow!(problem).context("the node has failed"));
    }
    stopped.context("the engine did not stop cleanly")?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Tell a file, the log and standard output that the node is ready: whoever
/// has seen one of the latter finds the file.
fn announce(ready: &Ready, file: Option<&mut ReadyFile>, json: bool) -> anyhow::Result<()> {
    if let Some(file) = file {
        file.write(ready)?;
    }
    tracing::info!(
        node = %ready.node,
        admin = %ready.admin,
        replication = ready.replication.map(tracing::field::display),
        "ready"
    );
    if json {
        output::json(ready)?;
    }
    Ok(())
}

/// Segments, pins and sockets each hold a descriptor; the soft limit of 1024
/// that most systems start a process with is for programs that use `select`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays where it is");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Standard input is one, whose end is a hang-up.
    terminal: bool,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            terminal: io::stdin().is_terminal(),
        })
    }

    /// Resolves when the node is told to stop. A hang-up tells it so only when
    /// there is a terminal to hang up: to a service it is sent by somebody who
    /// wants the settings read again, and who would be left without a node.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {}
            }
            if self.terminal {
                return "SIGHUP";
            }
            tracing::warn!(
                "SIGHUP changes nothing: settings are read at the start only; restart to apply them"
            );
        }
    }
}

/// Resolves when a shard has died.
async fn failure(engine: &Engine) -> String {
    loop {
        if let Some(problem) = engine.failed() {
            return problem;
        }
        time::sleep(WATCH_INTERVAL).await;
    }
}

/// Resolves when the watched input has ended; never without one.
async fn closed(input: Option<oneshot::Receiver<()>>) {
    match input {
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
}

/// Watch standard input from a thread that is left behind when the process
/// ends.
fn watch_stdin() -> anyhow::Result<oneshot::Receiver<()>> {
    let (ended, watched) = oneshot::channel();
    let watch = move || {
        let mut stdin = io::stdin().lock();
        let mut sink = [0; 256];
        loop {
            match stdin.read(&mut sink) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        let _ = ended.send(());
    };
    thread::Builder::new().name("stdin".into()).spawn(watch).context("cannot watch stdin")?;
    Ok(watched)
}

/// From here on a signal ends the process at once: a person who presses
/// Ctrl-C twice does not want to wait for a drain.
fn exit_on_second_signal() {
    let wait = || {
        let Ok(runtime) = Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            if let Ok(mut signals) = Signals::install() {
                let name = signals.next().await;
                tracing::warn!(by = name, "stopping at once, without draining");
                process::exit(i32::from(EXIT_FAILURE));
            }
        });
    };
    if let Err(error) = thread::Builder::new().name("signals".into()).spawn(wait) {
        tracing::debug!(%error, "a second signal will not cut the drain short");
    }
}
