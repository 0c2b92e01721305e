//! `saltus status`: the spaces of a node, and how far each replica is behind.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::interrupt::Interrupt;
use super::table::Table;
use super::{EXIT_NO, EXIT_OK, UsageError, output, parse_admin, parse_duration};
use crate::admin::{Client, health};
use crate::config::DEFAULT_ADMIN;
use crate::engine::span;
use crate::engine::status::{
    Connection, NodeStatus, ReplicaState, ReplicaStatus, Retention, Role, ScrubStatus, Seeding,
    SpaceStatus,
};
use crate::ids::SpaceId;

/// The shortest pause between two looks: each costs the node something.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this space; otherwise all of them
    #[arg(long)]
    space: Option<SpaceId>,
    /// Exit with 1 unless everything that is shown is healthy
    #[arg(long)]
    check: bool,
    /// Show it again and again, every second or at this interval (as 500ms,
    /// 5s, 1min; a plain number is seconds), until interrupted
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s",
        value_parser = parse_duration, conflicts_with = "check")]
    watch: Option<Duration>,
    /// The admin address of the node, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, value_parser = parse_admin)]
    admin: SocketAddr,
}

pub(super) fn run(args: &StatusArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::new(args.admin)?;
    let Some(interval) = args.watch else {
        let status = select(client.status()?, args)?;
        let printed = if json { output::json(&status) } else { output::print(&render(&status)) };
        printed?;
        let well = !args.check || unwell(&status).is_empty();
        return Ok(ExitCode::from(if well { EXIT_OK } else { EXIT_NO }));
    };
    watch(&client, args, json, interval.max(SHORTEST_INTERVAL))
}

/// Show the status until interrupted, or until nobody reads any longer. A
/// node that is away is waited for.
fn watch(
    client: &Client,
    args: &StatusArgs,
    json: bool,
    interval: Duration,
) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install().context("cannot handle signals")?;
    let terminal = io::stdout().is_terminal();
    loop {
        let text = match client.status() {
            Ok(status) => {
                let status = select(status, args)?;
                if json {
                    // One document in one line, for whoever reads lines.
                    format!("{}\n", serde_json::to_string(&status).context("cannot write JSON")?)
                } else {
                    render(&status)
                }
            }
            Err(error) if json => return Err(error.into()),
            Err(error) => format!("{error}\n"),
        };
        let open = if terminal && !json {
            // Home, and clear to the end: no flicker, and no scrolled history.
            output::print_while_read(&format!("\x1b[H\x1b[J{text}"))?
        } else if json {
            output::print_while_read(&text)?
        } else {
            output::print_while_read(&format!("{text}\n"))?
        };
        if !open || interrupt.pause(interval) {
            return Ok(ExitCode::from(EXIT_OK));
        }
    }
}

/// Leave out what was not asked for.
fn select(mut status: NodeStatus, args: &StatusArgs) -> anyhow::Result<NodeStatus> {
    if let Some(wanted) = &args.space {
        status.spaces.retain(|space| space.space == *wanted);
        status.scrub.bad_ranges.retain(|bad| bad.space == *wanted);
        if status.spaces.is_empty() && !status.starting {
            return Err(UsageError(format!("{} has no space {wanted}", status.node)).into());
        }
    }
    Ok(status)
}

/// Everything that is not as it should be, in a sentence each: what
/// `/healthz` lists, and besides who is not close behind.
fn unwell(status: &NodeStatus) -> Vec<String> {
    let listed = health::problems(status);
    let mut found: Vec<_> = listed.into_iter().map(|problem| problem.problem).collect();
    if status.starting {
        found.push("the node is starting".into());
    }
    for space in &status.spaces {
        if let Some(seconds) = space.no_primary_seconds {
            found.push(no_primary(seconds));
        }
        let late = |replica: &&ReplicaStatus| {
            !matches!(replica.state, ReplicaState::Healthy | ReplicaState::Failed)
        };
        found.extend((space.replicas.iter().filter(late)).map(|replica| {
            format!("{} on {} is {}", space.space, replica.id, replica.state.as_str())
        }));
    }
    found
}

fn no_primary(seconds: f64) -> String {
    format!("no primary connected for {}", span::in_words(seconds))
}

/// The answer in one line.
fn summary(status: &NodeStatus) -> String {
    let unwell = unwell(status).len();
    let verdict = match unwell {
        0 => "healthy".to_owned(),
        _ => format!("NOT HEALTHY ({})", output::count(unwell, "finding")),
    };
    let of = |role| status.spaces.iter().filter(|space| space.role == role).count();
    let mut parts = vec![verdict];
    let (shipped, received) = (of(Role::Primary), of(Role::Replica));
    if shipped > 0 || !status.ships_to.is_empty() {
        let to = output::count(status.ships_to.len(), "replica");
        parts.push(format!("ships {} to {to}", output::count(shipped, "space")));
    }
    if received > 0 || status.replication_address.is_some() {
        parts.push(format!("receives {}", output::count(received, "space")));
    }
    format!("{}\n", parts.join(", "))
}

/// The status for a person. Writing to a `String` cannot fail.
fn render(status: &NodeStatus) -> String {
    let mut text = summary(status);
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
    let _ = writeln!(text, "\nat rest: {}", at_rest(scrub));
    for bad in &scrub.bad_ranges {
        let _ = writeln!(
            text,
            "CORRUPT: {} {} at offset {}, {}: {}",
            bad.space,
            output::printable(&bad.segment),
            bad.offset,
            output::count(bad.bytes, "byte"),
            output::printable(&bad.problem)
        );
    }
    text
}

/// What was verified at rest, and when it is next.
fn at_rest(scrub: &ScrubStatus) -> String {
    let mut parts = Vec::new();
    match (scrub.running, scrub.last_pass_seconds) {
        (true, _) => parts.push("being verified".to_owned()),
        (false, Some(ago)) => parts.push(format!("verified {} ago", span::in_words(ago))),
        (false, None) => parts.push("not verified since the start".into()),
    }
    if let Some(next) = scrub.next_pass_seconds {
        parts.push(format!("next in {}", span::in_words(next)));
    }
    if scrub.segments > 0 {
        parts.push(format!(
            "{} and {} read in {}",
            output::count(scrub.segments, "segment"),
            output::bytes(scrub.bytes),
            output::count(scrub.passes, "pass"),
        ));
    }
    match scrub.bad_ranges.len() {
        0 => {}
        bad => parts.push(output::count(bad, "bad range")),
    }
    parts.join(", ")
}

/// A position, in its unit and for a person.
fn position(lsn: u64) -> String {
    match lsn {
        0..1024 => format!("{lsn} B"),
        _ => format!("{lsn} B ({})", output::bytes(lsn)),
    }
}

/// The columns of the narrowest terminal that a status is laid out for.
const WIDTH: usize = 80;

fn render_space(text: &mut String, space: &SpaceStatus) {
    let name = format!("{}  {}  epoch {}", space.space, space.role.as_str(), space.epoch);
    let unknown = match space.role {
        Role::Primary => "unknown, at least ",
        // What was there may have been taken away since.
        Role::Replica => "unknown, last known ",
    };
    let unknown = if space.head_known { "" } else { unknown };
    let head =
        format!("head {unknown}{}  sequence {}", position(space.head_lsn), space.head_sequence);
    let between = if name.len() + 2 + head.len() <= WIDTH { "  " } else { "\n  " };
    let _ = writeln!(text, "{name}{between}{head}");
    let source = space.primary.as_ref().map(|primary| format!("from {primary}"));
    let flushed = space.flushed_lsn.map(|lsn| format!("flushed {unknown}{}", position(lsn)));
    if source.is_some() || flushed.is_some() {
        let received: Vec<_> = source.into_iter().chain(flushed).collect();
        let _ = writeln!(text, "  {}", received.join("  "));
    }
    if let Some(seeding) = &space.seeding {
        let _ = writeln!(text, "  being filled anew: {}", progress(seeding));
    }
    if let Some(seconds) = space.no_primary_seconds {
        let _ = writeln!(text, "  {}", no_primary(seconds));
    }
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
        if let Some(seeding) = &replica.seeding {
            let _ = writeln!(text, "  {}: being filled anew: {}", replica.id, progress(seeding));
        }
        if let Some(warning) = replica.retention.as_ref().and_then(kept) {
            let _ = writeln!(text, "  {}: {warning}", replica.id);
        }
        if let Some(problem) = &replica.problem {
            let _ = writeln!(text, "  {}: {}", replica.id, output::printable(problem));
        }
        if let Some(down) = down(&replica.connection) {
            let _ = writeln!(text, "  {}: {down}", replica.id);
        }
    }
}

/// How far a seed is.
fn progress(seeding: &Seeding) -> String {
    let mut text =
        format!("{} of {}", output::bytes(seeding.done_bytes), output::bytes(seeding.total_bytes));
    // Writing to a `String` cannot fail.
    if let Some(rate) = seeding.bytes_per_second {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown")]
        let _ = write!(text, ", {}/s", output::bytes(rate as u64));
    }
    if let Some(eta) = seeding.eta_seconds {
        let _ = write!(text, ", {} to go", span::in_words(eta));
    }
    text
}

/// What is worth saying about what is kept for a replica.
fn kept(retention: &Retention) -> Option<String> {
    if retention.lost {
        return Some("its slot is lost; it is filled anew where need be".into());
    }
    let retained = output::bytes(retention.retained_bytes);
    let budget = retention.budget_bytes.map_or_else(|| "?".into(), output::bytes);
    match retention.forecast_seconds {
        Some(seconds) => {
            let time = span::in_words(seconds);
            Some(format!("{retained} of {budget} kept for it; lost in {time}"))
        }
        None if retention.retained_bytes > 0 => Some(format!("{retained} of {budget} kept for it")),
        None => None,
    }
}

/// Since when a connection is down, and what is done about it.
fn down(connection: &Connection) -> Option<String> {
    let since = connection.since_seconds.filter(|_| !connection.up)?;
    let next = match connection.next_attempt_seconds {
        Some(seconds) => format!("next attempt in {seconds:.1} s"),
        None => "trying now".into(),
    };
    let since = span::in_words(since);
    Some(format!("down for {since}, failures in a row: {}, {next}", connection.failures))
}

fn row(replica: &ReplicaStatus) -> Vec<String> {
    // What it does now says more than that it lags.
    let state = match (replica.state, &replica.seeding) {
        (ReplicaState::Healthy | ReplicaState::Lagging, Some(_)) => "seeding",
        (state, _) => state.as_str(),
    };
    vec![
        replica.id.to_string(),
        state.into(),
        known(replica.lag.bytes.map(output::bytes)),
        known(replica.lag.records.map(|records| records.to_string())),
        seconds(replica.lag.seconds),
        output::microseconds(replica.recent_append_to_flushed_us.p50),
        output::microseconds(replica.recent_append_to_flushed_us.p99),
    ]
}

/// A value for a person: unknown is not 0.
pub(super) fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "unknown".into())
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
            ]}, {
            "space": "a-space-that-is-received", "role": "replica", "epoch": 12,
            "head_lsn": 123456789, "head_sequence": 98765, "replicas": [],
            "primary": "beta-eu-west-1", "flushed_lsn": 123456789}]
    }"#;

    fn text() -> String {
        render(&serde_json::from_str(STATUS).expect("a status"))
    }

    #[test]
    fn full_table_holds_in_80_columns() {
        let text = text();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{}: {line}", line.chars().count());
        }
    }

    #[test]
    fn a_received_space_tells_from_whom_and_how_far_it_is_durable() {
        let line = "\n  from beta-eu-west-1  flushed 123456789 B (117.7 MiB)\n";
        assert!(text().contains(line), "{}", text());
    }

    #[test]
    fn a_received_space_of_which_nobody_knows_what_is_there_says_so() {
        let mut status: NodeStatus = serde_json::from_str(STATUS).expect("a status");
        status.spaces[1].head_known = false;
        let text = render(&status);
        let head = "  head unknown, last known 123456789 B (117.7 MiB)  sequence 98765\n";
        let flushed = "  flushed unknown, last known 123456789 B (117.7 MiB)\n";
        assert!(text.contains(head) && text.contains(flushed), "{text}");
    }

    #[test]
    fn unknown_lag_is_not_shown_as_zero() {
        let text = text();
        let line = text.lines().find(|line| line.contains("connecting")).expect("a row");
        assert!(line.contains("unknown") && !line.contains("0.000"), "{line}");
    }

    #[test]
    fn when_a_slot_will_be_lost_is_told_in_words() {
        let retention = Retention {
            retained_bytes: 1 << 20,
            budget_bytes: Some(16 << 20),
            forecast_seconds: Some(4000.0),
            lost: false,
        };
        let text = kept(&retention);
        assert_eq!(text.as_deref(), Some("1.00 MiB of 16.0 MiB kept for it; lost in 66 min"));
    }

    #[test]
    fn a_connection_that_is_down_tells_since_when_and_what_is_done() {
        let line = "  beta-eu-west-1: down for 71 s, failures in a row: 4, next attempt in 41.2 s";
        assert!(text().contains(line), "{}", text());
        assert!(!text().contains("gamma: down"), "an old node tells nothing of connections");
    }

    #[test]
    fn problem_stands_beneath_its_table_without_control_characters() {
        let text = text();
        assert!(text.contains("  beta-eu-west-1: connection refused\u{fffd}[2J\n"), "{text}");
    }
}
