//! The benches, run small: that they measure, what they print, and that they
//! leave nothing behind. How fast anything is, is not asked here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a small bench may take on a machine that is busy.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A directory on the disk of the build: `/tmp` may be in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn command(bench: &str, directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
    command.args(["bench", bench, "--quick", "--json", "--dir"]).arg(directory);
    command.env_remove("SALTUS_LOG").stdin(Stdio::null());
    command
}

fn wait(child: &mut Child) -> i32 {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("still at it after {TIMEOUT:?}");
        }
        thread::yield_now();
    }
}

#[track_caller]
fn bench(bench: &str) -> Value {
    let directory = directory();
    let output = command(bench, directory.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "it leaves nothing behind");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn positive(document: &Value, pointers: &[&str]) {
    for pointer in pointers {
        let value = document.pointer(pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{pointer}: {document:#}");
    }
}

#[test]
fn catch_up_ships_everything_and_measures_both_sides() {
    let report = bench("catch-up");
    positive(&report, &["/durable_gb_s", "/limit_gb_s", "/ratio"]);
    positive(&report, &["/anon_mib/primary", "/anon_mib/replica", "/runs/0/saltus/seconds"]);
    for key in ["/sender_cpu_s_per_gb", "/receiver_cpu_s_per_gb"] {
        assert!(report.pointer(key).is_some_and(Value::is_f64), "{key}: {report:#}");
    }
    let sent = report["sent_bytes_by_strategy"].as_object().unwrap();
    let sent: u64 = sent.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(Some(sent), report["bytes"].as_u64());
}

#[test]
fn limits_name_every_way() {
    let report = bench("limits");
    let names: Vec<_> =
        report["loops"].as_array().unwrap().iter().map(|way| &way["name"]).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for index in 0..8 {
        positive(&report, &[&format!("/loops/{index}/gb_s/median")]);
    }
    positive(&report, &["/bare_fdatasync_us/p50", "/bare_fdatasync_us/p99"]);
}

#[test]
fn strategies_are_listed_hot_and_cold() {
    let report = bench("strategies");
    for cache in ["hot", "cold"] {
        for strategy in ["sendfile", "splice", "send_zc", "copy", "auto"] {
            let entry = report
                .as_array()
                .unwrap()
                .iter()
                .find(|entry| entry["strategy"] == strategy && entry["cache"] == cache);
            positive(entry.unwrap(), &["/gb_s"]);
        }
    }
}

#[test]
fn tail_measures_both_sides() {
    let report = bench("tail");
    positive(&report, &["/append_to_flushed_us/p50", "/append_to_flushed_us/p99"]);
    positive(&report, &["/append_to_flushed_us/p999", "/bare_fdatasync_us/p50"]);
    positive(&report, &["/bare_fdatasync_us/p99", "/ratio_p50", "/ratio_p99"]);
}

#[test]
fn records_are_counted() {
    let report = bench("records");
    positive(&report, &["/record_bytes", "/records_per_s"]);
    assert_eq!(report["record_bytes"], 256);
}

#[test]
fn idle_processes_are_watched() {
    let report = bench("idle");
    positive(&report, &["/spaces"]);
    for key in ["/cpu_percent/primary", "/cpu_percent/replica"] {
        let percent = report.pointer(key).and_then(Value::as_f64);
        assert!(percent.is_some_and(|percent| percent >= 0.0), "{report:#}");
    }
}

#[test]
fn interrupted_bench_leaves_nothing_behind() {
    let directory = directory();
    let mut child = command("tail", directory.path())
        .args(["--runs", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // In the midst of it: the processes are there.
    let deadline = Instant::now() + TIMEOUT;
    let started = |entry: fs::DirEntry| entry.path().join("primary.ready").exists();
    while !fs::read_dir(directory.path()).unwrap().flatten().any(started) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        thread::yield_now();
    }
    let pid = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    assert_eq!(wait(&mut child), 3);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn directory_that_is_not_there_is_named() {
    let output = command("limits", Path::new("/no/such/directory")).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/no/such/directory"), "{error}");
}

#[test]
fn help_holds_in_80_columns() {
    for bench in ["", "limits", "catch-up", "strategies", "tail", "records", "idle"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saltus"));
        command.arg("bench").args(Some(bench).filter(|bench| !bench.is_empty()));
        let output = command.arg("--help").env("COLUMNS", "80").output().unwrap();
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            assert!(line.chars().count() <= 80, "saltus bench {bench}: {line}");
        }
    }
}
