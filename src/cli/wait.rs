//! `saltus wait`: is it caught up?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{EXIT_NO, UsageError, output, parse_duration};
use crate::admin::Client;
use crate::config::DEFAULT_ADMIN;
use crate::engine::status::{NodeStatus, ReplicaState, ReplicaStatus, Role};
use crate::ids::{NodeId, SpaceId};

/// The first pause between two looks; each next one is longer by half.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long a space or replica that was named may be unknown: a directory
/// that was made just now is noticed within this time.
const NOTICE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Only this space; otherwise every space that the node ships
    #[arg(long)]
    space: Option<SpaceId>,
    /// Only this replica; otherwise all of them
    #[arg(long)]
    replica: Option<NodeId>,
    /// What the replica must have done with the records
    #[arg(long, value_enum, default_value_t = Level::Flushed)]
    level: Level,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// The admin address of the primary, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
}

/// Which position of a replica counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Handed to its file system
    Written,
    /// Durable
    Flushed,
}

impl Level {
    fn position(self, replica: &ReplicaStatus) -> u64 {
        match self {
            Self::Written => replica.written_lsn,
            Self::Flushed => replica.flushed_lsn,
        }
    }
}

/// The head of each space that is waited for, as it was at the call.
type Heads = BTreeMap<SpaceId, u64>;

/// A replica that has not reached the head.
#[derive(Debug, PartialEq, Serialize)]
struct Laggard {
    space: SpaceId,
    /// `None`: any.
    replica: Option<NodeId>,
    state: ReplicaState,
    lsn: u64,
    head_lsn: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The answer, as JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    reached: bool,
    level: Level,
    waited_seconds: f64,
    head_lsn: &'a Heads,
    lagging: &'a [Laggard],
}

pub(super) fn run(args: &WaitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::new(args.admin)?;
    let start = Instant::now();
    let mut heads = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let status = client.status()?;
        if heads.is_none() {
            match selected(&status, args) {
                Ok(found) => heads = Some(found),
                Err(unknown) if start.elapsed() >= NOTICE.min(args.timeout) => {
                    return Err(unknown.into());
                }
                Err(_) => {}
            }
        }
        if let Some(heads) = &heads {
            let lagging = lagging(&status, heads, args);
            if lagging.is_empty() || start.elapsed() >= args.timeout {
                report(args, json, start.elapsed(), heads, &lagging)?;
                return Ok(ExitCode::from(if lagging.is_empty() { 0 } else { EXIT_NO }));
            }
        }
        thread::sleep(pause.min(args.timeout.saturating_sub(start.elapsed())));
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// The spaces to wait for and their heads now.
fn selected(status: &NodeStatus, args: &WaitArgs) -> Result<Heads, UsageError> {
    let shipped = || status.spaces.iter().filter(|space| space.role == Role::Primary);
    let heads: Heads = shipped()
        .filter(|space| args.space.as_ref().is_none_or(|wanted| *wanted == space.space))
        .map(|space| (space.space.clone(), space.head_lsn))
        .collect();
    if heads.is_empty() {
        return Err(UsageError(match &args.space {
            Some(space) => format!("{} does not ship a space {space}", status.node),
            None => format!("{} ships no space: nothing to wait for", status.node),
        }));
    }
    let known = |id: Option<&NodeId>| {
        shipped()
            .flat_map(|space| &space.replicas)
            .any(|replica| id.is_none_or(|id| *id == replica.id))
    };
    if !known(args.replica.as_ref()) {
        return Err(UsageError(match &args.replica {
            Some(id) => format!("{} does not ship to a replica {id}", status.node),
            None => format!("{} has no replica: nothing to wait for", status.node),
        }));
    }
    Ok(heads)
}

/// Who has not reached the heads. A space that the node has ceased to ship to
/// the replica in question has reached nothing.
fn lagging(status: &NodeStatus, heads: &Heads, args: &WaitArgs) -> Vec<Laggard> {
    let mut lagging = Vec::new();
    for (name, head) in heads {
        let space =
            status.spaces.iter().find(|space| space.space == *name && space.role == Role::Primary);
        let mut met = false;
        for replica in space.into_iter().flat_map(|space| &space.replicas) {
            if args.replica.as_ref().is_some_and(|wanted| *wanted != replica.id) {
                continue;
            }
            met = true;
            let lsn = args.level.position(replica);
            if lsn < *head {
                lagging.push(Laggard {
                    space: name.clone(),
                    replica: Some(replica.id.clone()),
                    state: replica.state,
                    lsn,
                    head_lsn: *head,
                    problem: replica.problem.clone(),
                });
            }
        }
        if !met {
            lagging.push(Laggard {
                space: name.clone(),
                replica: args.replica.clone(),
                state: ReplicaState::Failed,
                lsn: 0,
                head_lsn: *head,
                problem: Some(format!("{} does not ship this space any longer", status.node)),
            });
        }
    }
    lagging
}

fn report(
    args: &WaitArgs,
    json: bool,
    waited: Duration,
    heads: &Heads,
    lagging: &[Laggard],
) -> anyhow::Result<()> {
    if json {
        return output::json(&Answer {
            reached: lagging.is_empty(),
            level: args.level,
            waited_seconds: waited.as_secs_f64(),
            head_lsn: heads,
            lagging,
        });
    }
    if lagging.is_empty() {
        return output::print(&format!("caught up after {:.3} s\n", waited.as_secs_f64()));
    }
    output::error(&format!("not caught up within {:?}:", args.timeout));
    for lag in lagging {
        let behind = output::bytes(lag.head_lsn - lag.lsn);
        let problem = lag.problem.as_deref().map_or_else(String::new, |text| format!(": {text}"));
        output::error(&format!(
            "  {} on {} ({}) is {behind} behind, at {} of {}{problem}",
            lag.space,
            lag.replica.as_ref().map_or("any replica", NodeId::as_str),
            lag.state.as_str(),
            lag.lsn,
            lag.head_lsn
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
