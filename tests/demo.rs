//! The demo, in a short form, on each backend: real processes, real files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

fn demo(backend: &str, more: &[&str]) -> Value {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_saltus"))
        .args(["--json", "demo", "--seconds", "1", "--backend", backend])
        .args(more)
        .env("TMPDIR", scratch.path())
        .env_remove("SALTUS_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "it cleans up after itself");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_identical(report: &Value, replicas: usize, payload_bytes: u64) {
    let records = report["records"].as_u64().unwrap();
    assert!(records > 0);
    assert_eq!(report["bytes"].as_u64().unwrap(), records * (64 + payload_bytes));
    assert_eq!(report["identical"], true);
    let of = report["replicas"].as_array().unwrap();
    assert_eq!(of.len(), replicas);
    for replica in of {
        assert_eq!(replica["identical"], true);
        assert_eq!(replica["flushed_lsn"], report["bytes"]);
        let latency = &replica["append_to_flushed_us"];
        assert!(latency["p50"].as_u64().unwrap() <= latency["p99"].as_u64().unwrap());
    }
}

#[test]
fn replicas_are_identical_on_the_best_backend() {
    let more = ["--replicas", "2", "--spaces", "3", "--rate", "6000"];
    assert_identical(&demo("auto", &more), 2, 1024);
}

#[test]
fn replicas_are_identical_on_the_portable_backend() {
    let more = ["--replicas", "1", "--spaces", "2", "--rate", "4000", "--record-bytes", "3301"];
    assert_identical(&demo("portable", &more), 1, 3301);
}
