//! `saltus status`: the spaces of a node, and how far each replica is behind.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::output;
use super::table::Table;
use crate::admin::Client;
use crate::config::DEFAULT_ADMIN;
use crate::engine::status::{Connection, NodeStatus, ReplicaStatus, Role, SpaceStatus};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The admin address of the node, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
}

pub(super) fn run(args: &StatusArgs, json: bool) -> anyhow::Result<ExitCode> {
    let status = Client::new(args.admin)?.status()?;
    let printed = if json { output::json(&status) } else { output::print(&render(&status)) };
    printed?;
    Ok(ExitCode::SUCCESS)
}

/// The status for a person. Writing to a `String` cannot fail.
fn render(status: &NodeStatus) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  cluster {}  saltus {}  pid {}  backend {}",
        status.node, status.cluster, status.version, status.pid, status.backend
    );
    if let Some(address) = status.replication_address {
        let _ = writeln!(text, "receives on {address}");
    }
    if let Some(problem) = &status.problem {
        let _ = writeln!(text, "PROBLEM: {}", output::printable(problem));
    }
    if status.spaces.is_empty() {
        text.push_str("\nno spaces\n");
    }
    for space in &status.spaces {
        text.push('\n');
        render_space(&mut text, space);
    }
    let ignored = &status.ignored;
    if ignored.count > 0 {
        let _ = writeln!(text, "\nNOT SHIPPED: {} directories that hold a log", ignored.count);
    }
    for directory in &ignored.directories {
        let name = output::printable(&directory.name);
        let _ = writeln!(text, "  {name}: {}", output::printable(&directory.reason));
    }
    let scrub = &status.scrub;
    if scrub.segments > 0 || !scrub.bad_ranges.is_empty() {
        let _ = writeln!(
            text,
            "\nverified at rest: {} segments, {}",
            output::grouped(scrub.segments),
            output::bytes(scrub.bytes)
        );
    }
    for bad in &scrub.bad_ranges {
        let _ = writeln!(
            text,
            "CORRUPT: {} {} at {}, {} bytes: {}",
            bad.space,
            output::printable(&bad.segment),
            bad.offset,
            bad.bytes,
            output::printable(&bad.problem)
        );
    }
    text
}

fn render_space(text: &mut String, space: &SpaceStatus) {
    let _ = write!(
        text,
        "{}  {}  epoch {}  head {}  sequence {}",
        space.space,
        space.role.as_str(),
        space.epoch,
        space.head_lsn,
        space.head_sequence
    );
    if let Some(primary) = &space.primary {
        let _ = write!(text, "  from {primary}");
    }
    if let Some(flushed) = space.flushed_lsn {
        let _ = write!(text, "  flushed {flushed}");
    }
    text.push('\n');
    if let Some(problem) = &space.problem {
        let _ = writeln!(text, "  PROBLEM: {}", output::printable(problem));
    }
    for hole in &space.holes {
        let _ = writeln!(
            text,
            "  LEFT OUT: {} at {}, {} bytes, lsn {}: {}",
            output::printable(&hole.segment),
            hole.offset,
            hole.bytes,
            hole.lsn,
            output::printable(&hole.reason)
        );
    }
    if space.quarantine.pieces > 0 {
        let _ = writeln!(
            text,
            "  in quarantine: {} pieces, {}; saltus quarantine list",
            space.quarantine.pieces,
            output::bytes(space.quarantine.bytes)
        );
    }
    if space.role == Role::Primary && space.replicas.is_empty() {
        text.push_str("  no replicas\n");
    }
    if !space.replicas.is_empty() {
        let headings = ["REPLICA", "STATE", "BEHIND", "RECORDS", "SECONDS", "P50", "P99"];
        let mut table = Table::new(2, 2, &headings);
        for replica in &space.replicas {
            table.row(row(replica));
        }
        text.push_str(&table.render());
    }
    for replica in &space.replicas {
        if let Some(problem) = &replica.problem {
            let _ = writeln!(text, "  {}: {}", replica.id, output::printable(problem));
        }
        if let Some(down) = down(&replica.connection) {
            let _ = writeln!(text, "  {}: {down}", replica.id);
        }
    }
}

/// Since when a connection is down, and what is done about it.
fn down(connection: &Connection) -> Option<String> {
    let since = connection.since_seconds.filter(|_| !connection.up)?;
    let next = match connection.next_attempt_seconds {
        Some(seconds) => format!("next attempt in {seconds:.1} s"),
        None => "trying now".into(),
    };
    Some(format!("down for {since:.0} s, failures in a row: {}, {next}", connection.failures))
}

fn row(replica: &ReplicaStatus) -> Vec<String> {
    vec![
        replica.id.to_string(),
        replica.state.as_str().into(),
        output::bytes(replica.lag.bytes),
        replica.lag.records.to_string(),
        seconds(replica.lag.seconds),
        output::microseconds(replica.append_to_flushed_us.p50),
        output::microseconds(replica.append_to_flushed_us.p99),
    ]
}

/// Lag in seconds for a person: unknown is not 0.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "unknown".into(), |seconds| format!("{seconds:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{
        "node": "alpha-1", "cluster": "production", "version": "0.1.0", "pid": 4711,
        "backend": "uring", "replication_address": null,
        "spaces": [{
            "space": "default", "role": "primary", "epoch": 1, "head_lsn": 123456789012,
            "head_sequence": 987654321, "replicas": [
              {"id": "beta-eu-west-1", "state": "connecting", "sent_lsn": 0, "received_lsn": 0,
               "written_lsn": 0, "flushed_lsn": 0,
               "lag": {"bytes": 1099511627775, "records": 123456789, "seconds": null},
               "append_to_flushed_us": {"p50": null, "p99": null, "count": 0},
               "problem": "connection refused\u001b[2J",
               "connection": {"up": false, "since_seconds": 71.6, "failures": 4,
                              "next_attempt_seconds": 41.25}},
              {"id": "gamma", "state": "healthy", "sent_lsn": 0, "received_lsn": 0,
               "written_lsn": 0, "flushed_lsn": 0,
               "lag": {"bytes": 0, "records": 0, "seconds": 0.0},
               "append_to_flushed_us": {"p50": 274, "p99": 505, "count": 10}}
            ]}]
    }"#;

    fn text() -> String {
        render(&serde_json::from_str(STATUS).expect("a status"))
    }

    #[test]
    fn full_table_holds_in_80_columns() {
        let text = text();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
        }
    }

    #[test]
    fn unknown_lag_is_not_shown_as_zero() {
        let text = text();
        let line = text.lines().find(|line| line.contains("connecting")).expect("a row");
        assert!(line.contains("unknown") && !line.contains("0.000"), "{line}");
    }

    #[test]
    fn a_connection_that_is_down_tells_since_when_and_what_is_done() {
        let line = "  beta-eu-west-1: down for 72 s, failures in a row: 4, next attempt in 41.2 s";
        assert!(text().contains(line), "{}", text());
        assert!(!text().contains("gamma: down"), "an old node tells nothing of connections");
    }

    #[test]
    fn problem_stands_beneath_its_table_without_control_characters() {
        let text = text();
        assert!(text.contains("  beta-eu-west-1: connection refused\u{fffd}[2J\n"), "{text}");
    }
}
