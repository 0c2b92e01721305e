//! The command, as a person or a script meets it: exit codes, where text goes,
//! and what it says when something is wrong.
#![allow(clippy::unwrap_used)]

#[path = "replication/reserved.rs"]
mod reserved;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use saltus::cli::node::{NodeError, NodeProcess, NodeSpec};
use saltus::config::Replica;

use crate::reserved::Reserved;

fn saltus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
    command.args(arguments).env_remove("SALTUS_LOG").stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    saltus(arguments).output().unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

fn spec(directory: &Path, id: &str) -> NodeSpec {
    let mut spec = NodeSpec::new(id, directory, true).unwrap();
    spec.program = env!("CARGO_BIN_EXE_saltus").into();
    spec
}

fn start(directory: &Path) -> NodeProcess {
    spec(directory, "alpha").spawn().unwrap()
}

/// Wait for a condition, with a deadline.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        thread::yield_now();
    }
    false
}

#[test]
fn wrong_flag_is_a_usage_error_on_standard_error() {
    let output = output(&["status", "--admim", "x"]);
    let error = exits(&output, 2);
    assert!(error.contains("--admim"), "{error}");
    assert!(error.contains("--admin"), "names the nearest: {error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn no_command_is_a_usage_error() {
    exits(&output(&[]), 2);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = output(&["--help"]);
    assert_eq!(exits(&help, 0), "");
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("Exit codes:"), "{text}");
    let version = output(&["--version"]);
    exits(&version, 0);
    assert!(version.stdout.starts_with(b"saltus "));
}

#[test]
fn help_holds_in_80_columns() {
    for command in ["", "run", "status", "wait", "demo", "wal", "wal write", "wal inspect"] {
        for flag in ["-h", "--help"] {
            let arguments: Vec<&str> = command.split(' ').filter(|a| !a.is_empty()).collect();
            let output = saltus(&arguments).arg(flag).env("COLUMNS", "80").output().unwrap();
            exits(&output, 0);
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                assert!(line.chars().count() <= 80, "saltus {command} {flag}: {line}");
            }
        }
    }
}

#[test]
fn unknown_key_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    fs::write(&file, "[node]\nid = \"one\"\nclutser = \"x\"\n").unwrap();
    let file = file.to_str().unwrap();
    let error = exits(&output(&["run", "--config", file]), 2);
    assert!(error.contains(&format!("{file}:3:1: unknown key \"clutser\"")), "{error}");
    assert!(error.contains("did you mean \"cluster\"?"), "{error}");
}

#[test]
fn missing_configuration_is_refused() {
    let error = exits(&output(&["run", "--config", "/no/such/node.toml"]), 2);
    assert!(error.contains("/no/such/node.toml"), "{error}");
}

#[test]
fn wrong_log_filter_is_refused() {
    let mut command = saltus(&["status"]);
    let error = exits(&command.env("SALTUS_LOG", "saltus=loud").output().unwrap(), 2);
    assert!(error.contains("SALTUS_LOG"), "{error}");
}

#[test]
fn dead_admin_address_is_explained() {
    let reserved = Reserved::new();
    let address = reserved.address().to_string();
    for command in [&["status"][..], &["wait", "--timeout", "100ms"]] {
        let output = output(&[command, &["--admin", &address, "--json"]].concat());
        let error = exits(&output, 3);
        assert!(error.contains(&format!("no saltus answers at {address}")), "{error}");
        assert!(error.contains("is it running"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path());
    let admin = node.ready().admin.to_string();
    for arguments in [&["status", "--admin", &admin][..], &["--help"]] {
        let mut child =
            saltus(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{error}");
        assert_eq!(error, "");
    }
}

#[test]
fn status_is_json_of_the_documented_shape() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path());
    let output = output(&["--json", "status", "--admin", &node.ready().admin.to_string()]);
    exits(&output, 0);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["node"], "alpha");
    assert_eq!(status["pid"], node.pid());
    assert!(status["spaces"].is_array());
}

#[test]
fn waiting_for_what_is_not_shipped_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), "alpha");
    spec.replicas
        .push(Replica { id: "beta".parse().unwrap(), address: "127.0.0.1:1".parse().unwrap() });
    let node = spec.spawn().unwrap();
    let admin = node.ready().admin.to_string();
    let wait = |more: &[&str]| {
        output(&[&["wait", "--admin", &admin, "--timeout", "100ms"], more].concat())
    };
    let error = exits(&wait(&["--space", "nowhere"]), 2);
    assert!(error.contains("alpha does not ship a space nowhere"), "{error}");
    let error = exits(&wait(&["--replica", "delta"]), 2);
    assert!(error.contains("alpha does not ship to a replica delta"), "{error}");
    // No space at all is no typing error: one may appear.
    let error = exits(&wait(&[]), 1);
    assert!(error.contains("alpha ships no space"), "{error}");
}

#[test]
fn waiting_without_a_replica_is_answered_with_no() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path());
    let admin = node.ready().admin.to_string();
    let error = exits(&output(&["wait", "--admin", &admin]), 1);
    assert!(error.contains("alpha has no [[replica]]"), "{error}");
}

#[test]
fn waiting_begins_before_the_node_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), "alpha");
    let reserved = Reserved::new();
    spec.admin = reserved.address();
    let admin = spec.admin.to_string();
    let mut wait = saltus(&["wait", "--admin", &admin])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(wait.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("no saltus answers at") && line.contains("Waiting for it"), "{line}");
    let _node = spec.spawn().unwrap();
    // It has met the node, which ships to nobody.
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("alpha has no [[replica]]"), "{line}");
    assert_eq!(wait.wait().unwrap().code(), Some(1));
}

#[test]
fn each_cause_is_told_once() {
    let reserved = Reserved::new();
    let address = reserved.address().to_string();
    let error = exits(&output(&["status", "--admin", &address]), 3);
    assert_eq!(error.matches("refused").count(), 1, "{error}");
    let error = exits(&output(&["wal", "verify", "/no/such/directory"]), 3);
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    let error = exits(&output(&["status", "--admin", "localhost:7421"]), 2);
    assert!(error.contains("127.0.0.1:7421") && error.contains("not resolved"), "{error}");
}

#[test]
fn node_stops_on_sigterm_with_exit_code_0() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path());
    let (pid, replication) = (node.pid(), node.ready().replication);
    assert!(replication.is_some_and(|address| address.port() != 0));
    let spec = node.terminate().unwrap();
    // It comes back at the same addresses.
    assert_eq!(spec.replication, replication);
    let again = spec.spawn().unwrap();
    assert_ne!(again.pid(), pid);
    assert_eq!(again.ready().replication, replication);
}

#[test]
fn node_stops_when_its_parent_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), "alpha");
    fs::create_dir_all(&spec.data_root).unwrap();
    let config = directory.path().join("alpha.toml");
    fs::write(&config, spec.to_toml()).unwrap();
    let mut child = saltus(&["run", "--stop-with-stdin", "--config", config.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    let mut ended: Option<ExitStatus> = None;
    assert!(eventually(|| {
        ended = child.try_wait().unwrap();
        ended.is_some()
    }));
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[test]
fn node_that_cannot_start_is_reported_with_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(directory.path(), "alpha");
    spec.admin = taken.local_addr().unwrap();
    let error = spec.spawn().unwrap_err();
    assert!(matches!(&error, NodeError::Ended { status, .. } if status.code() == Some(3)));
    let text = error.to_string();
    assert!(text.contains("cannot listen for administration on"), "{text}");
}

#[test]
fn ready_node_says_so_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), "alpha");
    fs::create_dir_all(&spec.data_root).unwrap();
    let config = directory.path().join("alpha.toml");
    fs::write(&config, spec.to_toml()).unwrap();
    let output =
        saltus(&["--json", "run", "--stop-with-stdin", "--config"]).arg(&config).output().unwrap();
    exits(&output, 0);
    let ready: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ready["node"], "alpha");
    assert!(ready["admin"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn interrupted_demo_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = saltus(&["demo", "--seconds", "600", "--replicas", "1", "--spaces", "1"])
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once the writer has begun, the nodes run as well.
    let written = || {
        let demo = fs::read_dir(scratch.path()).unwrap().next()?.ok()?.path();
        fs::read_dir(demo.join("primary/space-1/wal")).ok()?.next()
    };
    assert!(eventually(|| written().is_some()));
    let nodes = children(demo.id());
    assert_eq!(nodes.len(), 2);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(3));
    let mut error = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(error, "saltus: interrupted\n");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert!(nodes.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<String> {
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        // The second word behind the command's closing bracket is the parent.
        let of = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        Some((name, of))
    });
    stats.filter(|(_, of)| *of == parent).map(|(name, _)| name).collect()
}
