#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

const STATUS: &str = r#"{
    "node": "alpha-1", "cluster": "production", "version": "0.1.0", "pid": 4711,
    "backend": "uring", "replication_address": null, "problem": "a \"shard\"\ndied \\",
    "spaces": [
      {"space": "default", "role": "primary", "epoch": 3, "head_lsn": 9007199254740993,
       "head_sequence": 7, "holes": [
         {"segment": "wal-0000000000000001.log", "offset": 64, "bytes": 510, "lsn": 64,
          "reason": "no magic", "unix_ns": 7},
         {"segment": "wal-0000000000000001.log", "offset": 900, "bytes": 333, "lsn": 390,
          "reason": "no magic", "unix_ns": 8}],
       "replicas": [
         {"id": "beta", "state": "connecting", "sent_lsn": 0, "received_lsn": 0,
          "written_lsn": 0, "flushed_lsn": 0,
          "lag": {"bytes": 9007199254740993, "records": 12, "seconds": null},
          "append_to_flushed_us": {"p50": null, "p99": null, "count": 0},
          "retention": {"retained_bytes": 9007199254740993, "budget_bytes": null,
                        "forecast_seconds": null, "lost": true},
          "problem": "connection refused"},
         {"id": "gamma", "state": "healthy", "sent_lsn": 5, "received_lsn": 5,
          "written_lsn": 5, "flushed_lsn": 5,
          "lag": {"bytes": 0, "records": 0, "seconds": 0.0},
          "append_to_flushed_us": {"p50": 1, "p99": 2, "count": 99},
          "recent_append_to_flushed_us": {"p50": 274, "p99": 1505000, "count": 10},
          "sent_bytes_by_strategy": {"sendfile": 100, "splice": 23},
          "retention": {"retained_bytes": 4096, "budget_bytes": 65536,
                        "forecast_seconds": 12.5, "lost": false},
          "seeding": {"base_lsn": 64, "target_lsn": 1064, "done_bytes": 250,
                      "total_bytes": 1000, "bytes_per_second": 50.0, "eta_seconds": 15.0},
          "connection": {"up": true, "since_seconds": 9.5, "failures": 0,
                         "next_attempt_seconds": null}}]},
      {"space": "other", "role": "replica", "epoch": 1, "head_lsn": 64, "head_sequence": 0,
       "flushed_lsn": 64, "primary": "delta", "highest_epoch": 2,
       "seeding": {"base_lsn": 0, "target_lsn": 640, "done_bytes": 64, "total_bytes": 640,
                   "bytes_per_second": null, "eta_seconds": null},
       "quarantine": {"pieces": 3, "bytes": 4096}}],
    "corrupt_frames": {"beta": 2, "unknown": 5},
    "scrub": {"segments": 4, "bytes": 1000, "passes": 1, "healed_ranges": 6, "bad_ranges": [
       {"space": "other", "segment": "wal-0000000000000001.log", "offset": 64, "bytes": 80,
        "problem": "payload"}]}
}"#;

fn text() -> String {
    render(&serde_json::from_str(STATUS).unwrap())
}

/// A sample by name and labels, labels in the order in which they stand.
type Samples = BTreeMap<String, f64>;

/// Reads an exposition as strictly as the format allows to: every sample
/// belongs to the family announced last, no family and no sample comes twice.
fn parse(text: &str) -> Result<Samples, String> {
    let mut samples = Samples::new();
    let mut families = BTreeSet::new();
    let mut family = None;
    let mut help = None;
    let mut is_summary = false;
    for line in text.lines() {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if sentence.is_empty() || !families.insert(name.to_owned()) {
                return Err(wrong("empty, or a family for the second time"));
            }
            help = Some(name);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let total = name.ends_with("_total");
            if help != Some(name) || !["counter", "gauge", "summary"].contains(&kind) {
                return Err(wrong("a type without its help"));
            }
            if total != (kind == "counter") {
                return Err(wrong("_total is for counters, and only for them"));
            }
            family = Some(name);
            is_summary = kind == "summary";
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or_else(|| wrong("no value"))?;
        let value = value.parse().map_err(|_| wrong("no number"))?;
        let name = series.split('{').next().unwrap_or(series);
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if family != Some(name) || !name.chars().all(valid) {
            return Err(wrong("outside its family"));
        }
        check_labels(&series[name.len()..]).map_err(|what| wrong(&what))?;
        if series.contains("quantile=") != is_summary {
            return Err(wrong("a quantile is of a summary, and only there"));
        }
        if samples.insert(series.to_owned(), value).is_some() {
            return Err(wrong("a sample for the second time"));
        }
    }
    Ok(samples)
}

/// `{name="value",...}` or nothing.
fn check_labels(text: &str) -> Result<(), String> {
    let mut rest = text;
    let mut opening = '{';
    while let Some(label) = rest.strip_prefix(opening) {
        let (name, value) = label.split_once("=\"").ok_or("a label without a value")?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("label {name:?}"));
        }
        let mut escaped = false;
        let end = value
            .char_indices()
            .find(|&(_, c)| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })
            .ok_or("a label that does not end")?
            .0;
        rest = &value[end + 1..];
        opening = ',';
    }
    if rest.is_empty() || rest == "}" { Ok(()) } else { Err(format!("after the labels: {rest}")) }
}

#[test]
fn every_line_is_what_prometheus_reads() {
    let samples = parse(&text()).unwrap();
    let value = |series: &str| samples.get(series).copied();
    let gamma = r#"space="default",replica="gamma""#;
    for (series, expected) in [
        ("saltus_problem".to_owned(), 1.0),
        ("engram_replication_streams".to_owned(), 2.0),
        (format!("engram_replication_lag_seconds{{{gamma}}}"), 0.0),
        (format!("engram_replication_bytes_total{{{gamma},direction=\"sent\"}}"), 123.0),
        (format!("saltus_sent_bytes_total{{{gamma},strategy=\"splice\"}}"), 23.0),
        (format!("engram_replication_replica_status{{{gamma},status=\"healthy\"}}"), 1.0),
        (format!("engram_replication_replica_status{{{gamma},status=\"failed\"}}"), 0.0),
        (format!("saltus_append_to_flushed_seconds{{{gamma},quantile=\"0.99\"}}"), 1.505),
        (r#"saltus_flushed_lsn{space="other",role="replica"}"#.to_owned(), 64.0),
        (r#"saltus_quarantine_bytes{space="other",role="replica"}"#.to_owned(), 4096.0),
        (r#"saltus_space_highest_epoch{space="other",role="replica"}"#.to_owned(), 2.0),
        (format!("saltus_replica_connected{{{gamma}}}"), 1.0),
        (format!("saltus_slot_retained_bytes{{{gamma}}}"), 4096.0),
        (format!("saltus_slot_budget_bytes{{{gamma}}}"), 65536.0),
        (format!("saltus_slot_forecast_seconds{{{gamma}}}"), 12.5),
        (format!("saltus_slot_lost{{{gamma}}}"), 0.0),
        (r#"saltus_slot_lost{space="default",replica="beta"}"#.to_owned(), 1.0),
        (format!("saltus_replica_seed_bytes{{{gamma}}}"), 1000.0),
        (format!("saltus_replica_seed_done_bytes{{{gamma}}}"), 250.0),
        (format!("saltus_replica_seed_bytes_per_second{{{gamma}}}"), 50.0),
        (format!("saltus_replica_seed_eta_seconds{{{gamma}}}"), 15.0),
        (r#"saltus_seed_bytes{space="other",role="replica"}"#.to_owned(), 640.0),
        (r#"saltus_seed_done_bytes{space="other",role="replica"}"#.to_owned(), 64.0),
        ("saltus_scrub_bad_ranges".to_owned(), 1.0),
        ("saltus_scrub_healed_ranges_total".to_owned(), 6.0),
        (r#"saltus_corrupt_frames_total{peer="beta"}"#.to_owned(), 2.0),
        (r#"saltus_corrupt_frames_total{peer="unknown"}"#.to_owned(), 5.0),
        (r#"saltus_holes{space="default",role="primary"}"#.to_owned(), 2.0),
        (r#"saltus_hole_bytes{space="default",role="primary"}"#.to_owned(), 843.0),
    ] {
        assert_eq!(value(&series), Some(expected), "{series}");
    }
}

#[test]
fn what_is_unknown_is_absent_and_not_zero() {
    let text = text();
    let of_beta = |name: &str| {
        text.lines().any(|line| line.starts_with(name) && line.contains(r#"replica="beta""#))
    };
    assert!(of_beta("engram_replication_lag_bytes"));
    assert!(!of_beta("engram_replication_lag_seconds"));
    assert!(!of_beta("saltus_append_to_flushed_seconds"));
    assert!(of_beta("saltus_slot_retained_bytes"));
    assert!(!of_beta("saltus_slot_budget_bytes") && !of_beta("saltus_slot_forecast_seconds"));
    assert!(!of_beta("saltus_replica_seed"), "it is not being filled");
    assert!(!text.contains(r#"saltus_seed_bytes{space="default""#));
    assert!(!text.contains(r#"saltus_flushed_lsn{space="default""#));
    assert!(!text.contains(r#"saltus_space_highest_epoch{space="default""#));
    // A replica does not know what its primary left out.
    assert!(!text.contains(r#"saltus_holes{space="other""#));
}

#[test]
fn positions_are_not_rounded() {
    let position = "saltus_head_lsn{space=\"default\",role=\"primary\"} 9007199254740993\n";
    assert!(text().contains(position));
}

#[test]
fn the_parser_refuses_what_prometheus_would() {
    let good = "# HELP a A.\n# TYPE a gauge\na 1\n";
    assert!(parse(good).is_ok());
    for bad in [
        "a 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na{x=\"1} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{x=\"1\"y} 1\n",
        "# HELP a A.\n# TYPE a gauge\na one\n",
        "# HELP a A.\n# TYPE a gauge\n# HELP a A.\n# TYPE a gauge\n",
        "# HELP a A.\n# TYPE a gauge\na{quantile=\"0.5\"} 1\n",
        "# HELP a A.\n# TYPE a summary\na 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return crate::skipped::skipped("promtool is not installed");
        }
        Err(error) => panic!("promtool: {error}"),
    };
    child.stdin.take().unwrap().write_all(text().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}
