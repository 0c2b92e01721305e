//! A primary and a replica as an operator runs them: started, asked, killed,
//! started again, through the command alone.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use saltus::cli::node::{NodeProcess, NodeSpec};
use saltus::wal::compare::compare;
use serde_json::Value;

fn saltus(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(arguments)
        .env_remove("SALTUS_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn spec(directory: &Path, id: &str, receives: bool) -> NodeSpec {
    let mut spec = NodeSpec::new(id, directory, receives).unwrap();
    spec.program = env!("CARGO_BIN_EXE_saltus").into();
    spec
}

/// A primary `alpha`, its replica `beta`, and where they keep `space-one`.
struct Pair {
    _directory: tempfile::TempDir,
    primary: NodeProcess,
    replica: Option<NodeProcess>,
    logs: [PathBuf; 2],
}

impl Pair {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let replica = spec(directory.path(), "beta", true).spawn().unwrap();
        let mut primary = spec(directory.path(), "alpha", false);
        primary.replicas.extend(replica.as_replica());
        let primary = primary.spawn().unwrap();
        let logs = ["alpha", "beta"].map(|id| directory.path().join(id).join("space-one/wal"));
        Self { _directory: directory, primary, replica: Some(replica), logs }
    }

    fn write(&self, records: &str) {
        let log = self.logs[0].to_str().unwrap();
        let output = saltus(&["wal", "write", log, "--records", records]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn wait(&self, more: &[&str]) -> Output {
        let admin = self.primary.ready().admin.to_string();
        saltus(&[&["wait", "--json", "--space", "space-one", "--admin", &admin], more].concat())
    }

    /// Wait until the replica has `bytes`. The primary may not have noticed all
    /// of them at the first call.
    #[track_caller]
    fn assert_caught_up(&self, bytes: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.wait(&["--timeout", "60s"]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{error}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["reached"], true);
            if answer["head_lsn"]["space-one"] == bytes {
                return;
            }
            assert!(Instant::now() < deadline, "the head stays at {}", answer["head_lsn"]);
        }
    }
}

/// The answer to a `wait` that does not succeed. The primary may not have
/// noticed what was written at the first call.
#[track_caller]
fn lags(mut wait: impl FnMut() -> Output) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = wait();
        match output.status.code() {
            Some(1) => return output,
            Some(0) if Instant::now() < deadline => {}
            code => panic!("{code:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// Bytes of that many records in the log.
fn log_bytes(records: u64) -> u64 {
    records * (1024 + 64)
}

#[test]
fn wait_names_who_lags_and_succeeds_once_it_is_back() {
    let mut pair = Pair::start();
    pair.write("3000");
    pair.assert_caught_up(log_bytes(3000));

    let replica = pair.replica.take().unwrap().kill();
    pair.write("500");
    let output = lags(|| pair.wait(&["--timeout", "300ms", "--replica", "beta"]));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["reached"], false);
    let lagging = &answer["lagging"][0];
    assert_eq!(lagging["space"], "space-one");
    assert_eq!(lagging["replica"], "beta");
    assert!(lagging["lsn"].as_u64().unwrap() < lagging["head_lsn"].as_u64().unwrap());

    pair.replica = Some(replica.spawn().unwrap());
    pair.assert_caught_up(log_bytes(3500));
    let comparison = compare(&pair.logs[0], &pair.logs[1]).unwrap();
    assert_eq!(comparison.differences, []);
    assert_eq!(comparison.bytes, log_bytes(3500));
}

#[test]
fn both_sides_say_what_they_are() {
    let mut pair = Pair::start();
    pair.write("1000");
    let bytes = log_bytes(1000);
    pair.assert_caught_up(bytes);

    let status = serde_json::to_value(pair.primary.status().unwrap()).unwrap();
    let space = &status["spaces"][0];
    assert_eq!(space["space"], "space-one");
    assert_eq!(space["role"], "primary");
    assert_eq!(space["epoch"], 1);
    assert_eq!(space["head_lsn"], bytes);
    assert_eq!(space["head_sequence"], 999);
    let replica = &space["replicas"][0];
    assert_eq!(replica["id"], "beta");
    for position in ["sent_lsn", "received_lsn", "written_lsn", "flushed_lsn"] {
        assert_eq!(replica[position], bytes, "{position}");
    }
    assert_eq!(replica["lag"]["bytes"], 0);
    assert_eq!(replica["lag"]["records"], 0);

    let status = serde_json::to_value(pair.replica.as_mut().unwrap().status().unwrap()).unwrap();
    let space = &status["spaces"][0];
    assert_eq!(space["role"], "replica");
    assert_eq!(space["primary"], "alpha");
    assert_eq!(space["flushed_lsn"], bytes);
}

#[test]
fn lag_of_a_replica_that_was_never_reached_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let beta = spec(directory.path(), "beta", true).spawn().unwrap();
    let replica = beta.as_replica();
    drop(beta);
    let mut alpha = spec(directory.path(), "alpha", false);
    alpha.replicas.extend(replica);
    let log = alpha.data_root.join("space-one/wal");
    let output = saltus(&["wal", "write", log.to_str().unwrap(), "--records", "10"]);
    assert!(output.status.success());
    let alpha = alpha.spawn().unwrap();
    let admin = alpha.ready().admin.to_string();
    let arguments = ["wait", "--admin", &admin, "--timeout", "300ms", "--space", "space-one"];
    lags(|| saltus(&arguments));
    let status = saltus(&["status", "--json", "--admin", &admin]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let replica = &status["spaces"][0]["replicas"][0];
    assert_eq!(replica["lag"]["seconds"], Value::Null);
    // It may hold all of it, or none.
    assert_eq!(replica["lag"]["bytes"], Value::Null);
    assert_eq!(status["spaces"][0]["head_lsn"], log_bytes(10));
}
