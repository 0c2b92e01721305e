//! `saltus scrub` and `saltus repair`: read what is at rest again, now, and
//! mend it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::{EXIT_NO, output, parse_duration};
use crate::admin::Client;
use crate::config::DEFAULT_ADMIN;
use crate::engine::scrub::ScrubAsk;
use crate::engine::status::{BadRange, NodeStatus, PassOutcome, Role};
use crate::ids::{NodeId, SpaceId};

/// The pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct ScrubArgs {
    /// Only this space; otherwise everything that the node has
    #[arg(long)]
    space: Option<SpaceId>,
    /// Keep to [scrub] bytes_per_second, as a scheduled pass does
    #[arg(long)]
    gently: bool,
    /// How long to wait for the end of the pass
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The admin address of the node, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
}

#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// The space, which this node ships
    #[arg(long)]
    space: SpaceId,
    /// Ask this replica; otherwise any that has what is missing
    #[arg(long)]
    from: Option<NodeId>,
    /// How long to wait for the end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The admin address of the primary, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
}

pub(super) fn run(args: &ScrubArgs, json: bool) -> anyhow::Result<ExitCode> {
    let ask =
        ScrubAsk { space: args.space.clone(), full_speed: !args.gently, ..ScrubAsk::default() };
    let (status, outcome) = carry_out(args.admin, &ask, args.timeout, json)?;
    if json {
        output::json(&outcome)?;
    } else {
        output::print(&render_scrub(&status, &outcome))?;
    }
    Ok(verdict(&outcome))
}

pub(super) fn repair(args: &RepairArgs, json: bool) -> anyhow::Result<ExitCode> {
    let ask = ScrubAsk {
        space: Some(args.space.clone()),
        full_speed: true,
        repair: true,
        from: args.from.clone(),
    };
    let (status, outcome) = carry_out(args.admin, &ask, args.timeout, json)?;
    if json {
        output::json(&outcome)?;
    } else {
        output::print(&render_repair(&status, &outcome))?;
    }
    Ok(verdict(&outcome))
}

/// The answer is yes if everything holds.
fn verdict(outcome: &PassOutcome) -> ExitCode {
    let whole = outcome.found == outcome.healed && outcome.unreadable == 0;
    if whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO) }
}

/// Ask, and wait for the outcome.
fn carry_out(
    admin: SocketAddr,
    ask: &ScrubAsk,
    timeout: Option<Duration>,
    json: bool,
) -> anyhow::Result<(NodeStatus, PassOutcome)> {
    let client = Client::new(admin)?;
    if let Some(space) = &ask.space {
        let status = client.status()?;
        let node = &status.node;
        let known = status.spaces.iter().find(|known| known.space == *space);
        let Some(known) = known else {
            return Err(super::UsageError(format!("{node} has no space {space}")).into());
        };
        if ask.repair && known.role != Role::Primary {
            let text = format!(
                "{node} does not ship space {space}, it receives it: use saltus scrub --space \
                 {space} there, which mends it from its primary"
            );
            return Err(super::UsageError(text).into());
        }
        if let Some(from) = ask.from.as_ref().filter(|from| !status.ships_to.contains(from)) {
            return Err(super::UsageError(format!("{node} has no replica {from}")).into());
        }
    }
    let request = client.scrub(ask)?;
    let begun = Instant::now();
    let before = client.status()?.scrub.bytes;
    let shows = !json && std::io::stderr().is_terminal();
    loop {
        let status = client.status()?;
        let outcome = status.scrub.outcomes.iter().find(|outcome| outcome.request == request);
        if let Some(outcome) = outcome.cloned() {
            if shows {
                // The line that is redrawn gives way.
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
            return Ok((status, outcome));
        }
        if shows {
            let read = output::bytes(status.scrub.bytes - before);
            // Whoever closed standard error does not want to see it.
            let _ = write!(std::io::stderr(), "\r\x1b[Kreading: {read}");
        }
        let late = timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
        if late {
            return Err(anyhow::anyhow!("the pass goes on; saltus status shows how it ends"))
                .with_context(|| format!("not done within {:?}", timeout.unwrap_or_default()));
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// What a pass came to, for a person. Writing to a `String` cannot fail.
fn render_scrub(status: &NodeStatus, outcome: &PassOutcome) -> String {
    let mut text = format!(
        "read {}, {}\n",
        output::count(outcome.segments, "segment"),
        output::bytes(outcome.bytes)
    );
    let _ = match (outcome.found, outcome.unreadable) {
        (0, 0) => writeln!(text, "everything holds"),
        (found, 0) if found == outcome.healed => {
            writeln!(text, "{} found, all are mended", output::count(found, "damaged range"))
        }
        (found, unreadable) => writeln!(
            text,
            "{} found, {} mended, {} not; files or directories that could not be read: \
             {unreadable}",
            output::count(found, "damaged range"),
            outcome.healed,
            found - outcome.healed
        ),
    };
    bad_ranges(&mut text, status, outcome);
    text
}

fn bad_ranges(text: &mut String, status: &NodeStatus, outcome: &PassOutcome) {
    for bad in &status.scrub.bad_ranges {
        if outcome.space.as_ref().is_none_or(|space| *space == bad.space) {
            let _ = writeln!(
                text,
                "CORRUPT: {} {} at {}, {}: {}",
                bad.space,
                output::printable(&bad.segment),
                bad.offset,
                output::count(bad.bytes, "byte"),
                output::printable(&bad.problem)
            );
        }
    }
}

/// What a repair came to, and what is left to do by hand.
fn render_repair(status: &NodeStatus, outcome: &PassOutcome) -> String {
    let mut text = String::new();
    if outcome.found == 0 && outcome.unreadable == 0 {
        text.push_str("everything holds; there is nothing to repair\n");
    }
    if !outcome.repaired.is_empty() {
        text.push_str(
            "A good copy was built of each damaged file. The files belong to the database: stop \
             it,\nput the good bytes in their place, and start it again. Saltus goes on by itself.\n",
        );
    }
    for file in &outcome.repaired {
        let _ = writeln!(text, "\n{}", output::printable(&file.damaged.display().to_string()));
        for (offset, bytes) in &file.ranges {
            let _ = writeln!(text, "  differs at {offset}, {}", output::count(*bytes, "byte"));
        }
        for (offset, bytes) in &file.ranges {
            let _ = writeln!(
                text,
                "  dd if='{}' of='{}' bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes \
                 skip={offset} seek={offset} count={bytes} conv=notrunc,fsync",
                file.repaired.display(),
                file.damaged.display()
            );
        }
    }
    bad_ranges(&mut text, status, outcome);
    let of_it = |bad: &&BadRange| Some(&bad.space) == outcome.space.as_ref();
    if status.scrub.bad_ranges.iter().filter(of_it).any(|bad| bad.lsn.is_none()) {
        text.push_str(NOT_OF_THE_STREAM);
    }
    text
}

/// What is said of damage that no replica can help with.
const NOT_OF_THE_STREAM: &str = "\
Where the node knows of no record of the stream, repair has nothing to put there: mend the file
from what the database has, or have it left out with wal.on_corrupt_source = \"skip\".
";
