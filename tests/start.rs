//! How a node starts, refuses to start, and ends, as a service manager and a
//! script meet it.
#![allow(clippy::unwrap_used)]

#[path = "../src/skipped.rs"]
mod skipped;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use saltus::admin::Client;
use saltus::cli::node::{NodeSpec, Ready};

use crate::skipped::skipped;

/// How long anything that is waited for may take.
const DEADLINE: Duration = Duration::from_secs(45);

fn saltus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
    command.args(arguments).env_remove("SALTUS_LOG").stdin(Stdio::null());
    command
}

#[track_caller]
fn exits(output: &Output, code: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

fn spec(directory: &Path) -> NodeSpec {
    let mut spec = NodeSpec::new("alpha", directory, true).unwrap();
    spec.program = env!("CARGO_BIN_EXE_saltus").into();
    spec
}

/// The configuration of a node in `directory`, whose data root is there.
fn config(directory: &Path, spec: &NodeSpec) -> PathBuf {
    fs::create_dir_all(&spec.data_root).unwrap();
    let file = directory.join("alpha.toml");
    fs::write(&file, spec.to_toml()).unwrap();
    file
}

/// `saltus run`, which ends with its test.
struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Read the log up to a line that contains `text`; everything before it.
    #[track_caller]
    fn await_line(&mut self, text: &str) -> String {
        let mut before = String::new();
        loop {
            let mut line = String::new();
            let bytes = self.log.read_line(&mut line).unwrap();
            assert!(bytes > 0, "the log ended without {text:?}:\n{before}");
            if line.contains(text) {
                return before;
            }
            before += &line;
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(config: &Path, ready: &Path) -> Command {
    let mut command = saltus(&["run", "--config"]);
    command.arg(config).arg("--ready-file").arg(ready);
    command
}

#[test]
fn configuration_is_checked_without_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = config(directory.path(), &spec(directory.path()));
    let check = |arguments: &[&str]| saltus(arguments).arg(&file).output().unwrap();
    let output = check(&["config", "check"]);
    assert_eq!(exits(&output, 0), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("alpha.toml: valid\n"), "{text}");
    assert!(text.contains("alpha of cluster local"), "{text}");
    let output = check(&["--json", "config", "check"]);
    exits(&output, 0);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["valid"], &json["node"]), (&true.into(), &"alpha".into()));
    assert_eq!(fs::read_dir(directory.path().join("alpha")).unwrap().count(), 0);

    fs::write(&file, spec(directory.path()).to_toml() + "[batch]\nmax_record = 1\n").unwrap();
    let output = check(&["config", "check"]);
    let error = exits(&output, 2);
    assert!(error.contains("did you mean \"max_records\""), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn log_that_no_node_would_ship_is_written_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let write = |wal: &str| {
        let mut command = saltus(&["wal", "write", "--records", "1"]);
        exits(&command.arg(directory.path().join(wal)).output().unwrap(), 0)
    };
    let warning = write("UPPER/wal");
    assert!(warning.contains("UPPER/wal: space id \"UPPER\" is not valid"), "{warning}");
    assert_eq!(write("alpha/wal"), "");
    assert_eq!(write("Just Segments"), "");
}

#[test]
fn hang_up_does_not_end_a_service() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &spec(directory.path()));
    let ready = directory.path().join("ready");
    let mut node = Running::start(&mut run(&config, &ready));
    node.await_line("ready");
    node.signal(Signal::SIGHUP);
    node.await_line("settings are read at the start only");
    node.signal(Signal::SIGTERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}

#[test]
fn ready_file_is_there_before_the_log_says_so_and_gone_after_a_clean_exit() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &spec(directory.path()));
    let ready = directory.path().join("ready");
    // As a killed predecessor leaves it.
    let old = Ready {
        node: "alpha".parse().unwrap(),
        pid: 1,
        admin: "127.0.0.1:1".parse().unwrap(),
        replication: None,
    };
    fs::write(&ready, serde_json::to_vec(&old).unwrap()).unwrap();
    let mut node = Running::start(&mut run(&config, &ready));
    node.await_line("ready");
    let told: Ready = serde_json::from_slice(&fs::read(&ready).unwrap()).unwrap();
    assert_eq!(told.pid, node.child.id());
    assert!(Client::new(told.admin).unwrap().status().is_ok());
    node.signal(Signal::SIGTERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(!ready.exists());
}

#[test]
fn file_that_no_node_wrote_is_not_overwritten_by_the_ready_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &spec(directory.path()));
    // The slip that this guards against: the wrong file behind the flag.
    let before = fs::read(&config).unwrap();
    let error = exits(&run(&config, &config).output().unwrap(), 2);
    assert!(error.contains("was not written by a node"), "{error}");
    assert!(error.contains("alpha.toml"), "{error}");
    assert_eq!(fs::read(&config).unwrap(), before);
    assert!(!directory.path().join("alpha/.saltus").exists(), "nothing was done");
}

#[test]
fn port_in_use_is_told_at_once_and_is_worth_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(directory.path());
    spec.replication = Some(taken.local_addr().unwrap());
    let config = config(directory.path(), &spec);
    let mut node = Running::start(&mut run(&config, &directory.path().join("ready")));
    node.await_line("is in use: trying again");
    assert!(node.child.try_wait().unwrap().is_none(), "told before it gives up");
    assert_eq!(node.child.wait().unwrap().code(), Some(3));
}

#[test]
fn port_that_is_given_back_in_time_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(directory.path());
    spec.replication = Some(taken.local_addr().unwrap());
    let config = config(directory.path(), &spec);
    let mut node = Running::start(&mut run(&config, &directory.path().join("ready")));
    node.await_line("is in use: trying again");
    drop(taken);
    node.await_line("ready");
}

/// As somebody who may not do everything.
fn unprivileged(command: &mut Command) -> &mut Command {
    const NOBODY: u32 = 65534;
    if Uid::effective().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

#[test]
fn state_directory_without_permission_is_not_worth_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(directory.path(), 0o755);
    let spec = spec(directory.path());
    let config = config(directory.path(), &spec);
    open(&config, 0o644);
    open(&spec.data_root, 0o555);
    let mut command = saltus(&["run", "--config"]);
    let output = unprivileged(command.arg(&config)).output();
    let output = match output {
        // The program may lie where only root can go.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return skipped("nobody may run the program");
        }
        output => output.unwrap(),
    };
    let error = exits(&output, 2);
    assert!(error.contains("alpha/.saltus"), "{error}");
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn unit_is_restarted_for_what_may_pass_and_not_for_what_does_not() {
    let unit = include_str!("../deploy/saltus.service");
    let has = |line: &str| assert!(unit.lines().any(|l| l == line), "{line}");
    has(&format!("RestartPreventExitStatus={}", saltus::cli::EXIT_USAGE));
    has("Restart=on-failure");
    // A port that stays in use for a while must not use up all attempts.
    has("StartLimitIntervalSec=0");
}

#[test]
fn log_filter_that_would_silence_everything_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &spec(directory.path()));
    for filter in ["bogus", "infoo,saltus=debug", "slatus=debug"] {
        let mut command = run(&config, &directory.path().join("ready"));
        let error = exits(&command.env("SALTUS_LOG", filter).output().unwrap(), 2);
        assert!(error.contains(filter), "{error}");
        assert!(error.contains("info,saltus::engine=debug"), "names what is allowed: {error}");
    }
}

#[test]
fn reader_of_the_log_may_go_away() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &spec(directory.path()));
    let ready = directory.path().join("ready");
    let mut node = Running::start(run(&config, &ready).env("SALTUS_LOG", "debug"));
    node.await_line("ready");
    let told: Ready = serde_json::from_slice(&fs::read(&ready).unwrap()).unwrap();
    // From here on each line that it logs is an error.
    let Running { child, log } = &mut node;
    drop(std::mem::replace(log, BufReader::new(dummy())));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGHUP).unwrap();
    let log = directory.path().join("alpha/beta/wal");
    fs::create_dir_all(&log).unwrap();
    fs::write(log.join("wal-0000000000000001.log"), b"").unwrap();
    let client = Client::new(told.admin).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while client.status().unwrap().spaces.is_empty() {
        assert!(Instant::now() < deadline, "the space is not found");
    }
    node.signal(Signal::SIGTERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}

/// A log that says nothing.
fn dummy() -> std::process::ChildStderr {
    let mut child = Command::new("true").stderr(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    child.stderr.take().unwrap()
}
