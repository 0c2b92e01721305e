//! `saltus wait`: is it caught up?
//!
//! Yes is said of what is known. A space whose log cannot be read to its end,
//! or a replica that has not told its positions on the connection that is up
//! now, is not caught up, whatever the numbers are.
//!
//! | what is met | answer |
//! |---|---|
//! | a space that cannot be read or shipped, a replica that is stopped | no, at once |
//! | no replica in the configuration | no, at once |
//! | behind, not connected, not looked at yet, no space, no node | wait, then no |

mod selection;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::selection::{Heads, Laggard, Looked, Selection};
use super::{EXIT_NO, EXIT_OK, output, parse_admin, parse_duration};
use crate::admin::{Client, ClientError};
use crate::config::DEFAULT_ADMIN;
use crate::engine::status::ReplicaStatus;
use crate::ids::{NodeId, SpaceId};

/// The first pause between two looks; each next one is longer by half.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long a space or replica that was named may be unknown: a directory
/// that was made just now is noticed within this time.
const NOTICE: Duration = Duration::from_secs(1);

/// How long something must stand in the way before it counts: a record that
/// is being written can look like damage for a moment.
const CONFIRMATION: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Only this space; otherwise every space that the node ships
    #[arg(long)]
    space: Option<SpaceId>,
    /// Only this replica; otherwise all of them
    #[arg(long)]
    replica: Option<NodeId>,
    /// What the replica must have done with the records: written (handed to
    /// its file system) or flushed (durable)
    #[arg(long, value_enum, default_value_t = Level::Flushed, hide_possible_values = true)]
    level: Level,
    /// How long to wait, at most 1440min: as 500ms, 30s, 2min; a plain number
    /// is seconds, and 0 looks once
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// The admin address of the primary, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, value_parser = parse_admin)]
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

/// The answer, as JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    reached: bool,
    level: Level,
    waited_seconds: f64,
    /// What was looked at: spaces, replicas, and bytes of stream.
    spaces: usize,
    replicas: usize,
    bytes: u64,
    head_lsn: &'a Heads,
    lagging: &'a [Laggard],
    /// Why there is nothing to wait for.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

/// How the waiting ended.
enum End {
    Reached,
    /// Something stands in the way, and waiting will not remove it.
    Blocked,
    Late,
}

pub(super) fn run(args: &WaitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::new(args.admin)?;
    let mut selection = Selection::new(args.space.clone(), args.replica.clone(), args.level);
    let start = Instant::now();
    let mut heads = Heads::new();
    let mut blocked_at = None;
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let late = start.elapsed() >= args.timeout;
        match client.status() {
            Ok(status) => {
                let looked = match selection.look(&status, &mut heads) {
                    // Only a name that was given can be wrong.
                    Err(unknown) if late || start.elapsed() >= NOTICE => return Err(unknown.into()),
                    Err(_) => Looked::default(),
                    Ok(looked) => looked,
                };
                let blocked_for = if looked.is_blocked() {
                    blocked_at.get_or_insert_with(Instant::now).elapsed()
                } else {
                    blocked_at = None;
                    Duration::ZERO
                };
                let end = if looked.is_reached() {
                    Some(End::Reached)
                } else if looked.is_final() || blocked_for >= CONFIRMATION {
                    Some(End::Blocked)
                } else {
                    late.then_some(End::Late)
                };
                if let Some(end) = end {
                    report(args, json, start.elapsed(), &end, &heads, &looked)?;
                    let reached = matches!(end, End::Reached);
                    return Ok(ExitCode::from(if reached { EXIT_OK } else { EXIT_NO }));
                }
            }
            // It may be about to start.
            Err(error @ ClientError::Unreachable { .. }) if !late => {
                if !std::mem::replace(&mut told, true) {
                    output::error(&format!(
                        "saltus: {error} Waiting for it, at most {:?}",
                        args.timeout
                    ));
                }
            }
            Err(error) => return Err(error.into()),
        }
        thread::sleep(pause.min(args.timeout.saturating_sub(start.elapsed())));
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

fn report(
    args: &WaitArgs,
    json: bool,
    waited: Duration,
    end: &End,
    heads: &Heads,
    looked: &Looked,
) -> anyhow::Result<()> {
    let waited_seconds = waited.as_secs_f64();
    let bytes = heads.values().sum();
    if json {
        return output::json(&Answer {
            reached: matches!(end, End::Reached),
            level: args.level,
            waited_seconds,
            spaces: heads.len(),
            replicas: looked.replicas.len(),
            bytes,
            head_lsn: heads,
            lagging: &looked.lagging,
            problem: looked.problem.as_deref(),
        });
    }
    let after = match end {
        End::Reached => {
            return output::print(&format!(
                "caught up: {}, {}, {}, after {waited_seconds:.1} s\n",
                output::count(heads.len(), "space"),
                output::count(looked.replicas.len(), "replica"),
                output::bytes(bytes),
            ));
        }
        End::Blocked => "not caught up, and waiting does not help".to_owned(),
        End::Late if args.timeout.is_zero() => "not caught up".to_owned(),
        End::Late => format!("not caught up within {:?}", args.timeout),
    };
    let problem = looked.problem.as_deref().map_or_else(String::new, |text| format!(" {text}"));
    output::error(&format!("saltus: {after}:{problem}"));
    for lag in &looked.lagging {
        output::error(&format!("  {}", lag.sentence()));
    }
    Ok(())
}
