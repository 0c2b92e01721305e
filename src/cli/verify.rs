//! `saltus verify`: do two nodes hold the same?
//!
//! The proof needs neither files nor payloads of the other side: both nodes
//! digest their own copies, and only digests travel. Compared is what both
//! hold durably, so it may run while the database writes.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | equal, as far as it says |
//! | 1 | different; it says where |
//! | 3 | something could not be compared, and nothing that could be differs |

mod bisection;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use self::bisection::{Difference, Found, Gap, Outcome};
use super::{EXIT_FAILURE, EXIT_NO, EXIT_OK, UsageError, output, parse_admin};
use crate::admin::{Client, ClientError};
use crate::config::DEFAULT_ADMIN;
use crate::engine::proof::question::{Damaged, Listed, Of};
use crate::engine::status::{NodeStatus, Role, SpaceStatus};
use crate::ids::{NodeId, SpaceId};
use crate::wal::record::entry_type_name;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The admin address of the other node
    #[arg(long, value_name = "ADDR", value_parser = parse_admin)]
    against: SocketAddr,
    /// Only this space; otherwise every space that both nodes have
    #[arg(long)]
    space: Option<SpaceId>,
    /// Compare headers only: quicker with large records, and blind to payloads
    /// that have rotted beneath a good header
    #[arg(long)]
    headers: bool,
    /// The admin address of this node, its [listen] admin
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN, value_parser = parse_admin)]
    admin: SocketAddr,
}

/// What was found of one space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Equal,
    Different,
    NotCompared,
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    equal: bool,
    /// The nodes: the one asked, then the other.
    nodes: [NodeId; 2],
    /// `bytes` or `headers`.
    compared: &'static str,
    spaces: Vec<SpaceReport>,
    /// Bytes that travelled between this command and both nodes, HTTP and
    /// status included.
    exchanged_bytes: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct SpaceReport {
    space: SpaceId,
    verdict: Verdict,
    /// Up to here the copies were compared: durable on both.
    to_lsn: u64,
    /// Up to here each of them has it: the one asked, then the other.
    durable_lsn: [u64; 2],
    /// Why it could not be compared, or what is different as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The chain at the last boundary before `to_lsn`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    part_bytes: u64,
    parts: u64,
    parts_different: u64,
    differences: Vec<Difference>,
    not_compared: Vec<Gap>,
    /// Headers that do not hold, on the one asked and on the other.
    damaged: [Vec<Damaged>; 2],
    /// Parts that differed, and no longer did at a second look.
    settled: u64,
}

impl SpaceReport {
    /// A space of which nothing could be compared.
    fn unknown(space: SpaceId, problem: String) -> Self {
        Self {
            space,
            verdict: Verdict::NotCompared,
            to_lsn: 0,
            durable_lsn: [0; 2],
            problem: Some(problem),
            chain: None,
            part_bytes: 0,
            parts: 0,
            parts_different: 0,
            differences: Vec::new(),
            not_compared: Vec::new(),
            damaged: [Vec::new(), Vec::new()],
            settled: 0,
        }
    }

    fn new(space: SpaceId, durable_lsn: [u64; 2], outcome: Outcome) -> Self {
        let to_lsn = durable_lsn[0].min(durable_lsn[1]);
        let [one, other] = &outcome.streams;
        let [here, there] = &outcome.chains;
        let problem = if one != other {
            Some(format!("they hold two streams, {one} and {other}: one never became the other"))
        } else if let (Some((at, chain)), Some((also_at, other))) = (here, there)
            && at == also_at
            && chain != other
        {
            Some(format!("their chains at {at} are {chain} and {other}"))
        } else {
            None
        };
        let unproven = outcome.gaps.iter().any(|gap| gap.from_lsn > 0 && !is_front(&outcome, gap));
        let whole = outcome.gaps.iter().map(|gap| gap.to_lsn - gap.from_lsn).sum::<u64>() >= to_lsn;
        let verdict = if problem.is_some() || outcome.parts_different > 0 {
            Verdict::Different
        } else if unproven || (whole && to_lsn > 0) {
            Verdict::NotCompared
        } else {
            Verdict::Equal
        };
        let chain = here.as_ref().or(there.as_ref()).map(|(_, chain)| chain.clone());
        Self {
            space,
            verdict,
            to_lsn,
            durable_lsn,
            problem,
            chain: chain.filter(|_| verdict == Verdict::Equal),
            part_bytes: outcome.part_bytes,
            parts: outcome.parts,
            parts_different: outcome.parts_different,
            differences: outcome.differences,
            not_compared: outcome.gaps,
            damaged: outcome.damaged,
            settled: outcome.settled,
        }
    }
}

/// Whether a gap touches the front of the stream, by way of other gaps: what a
/// database removes first.
fn is_front(outcome: &Outcome, gap: &Gap) -> bool {
    let mut front = 0;
    for other in &outcome.gaps {
        if other.from_lsn > front {
            break;
        }
        front = front.max(other.to_lsn);
    }
    gap.to_lsn <= front
}

pub(super) fn run(args: &VerifyArgs, json: bool) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let clients = [Client::new(args.admin)?, Client::new(args.against)?];
    let statuses = [clients[0].status()?, clients[1].status()?];
    let [here, there] = &statuses;
    if (&here.node, &here.cluster) == (&there.node, &there.cluster) {
        let text = format!("{} and {} are one node, {}", args.admin, args.against, here.node);
        return Err(UsageError(text).into());
    }
    if let Some(space) = &args.space
        && [here, there].iter().all(|status| !status.starting && find(status, space).is_none())
    {
        let text = format!("neither {} nor {} has a space {space}", here.node, there.node);
        return Err(UsageError(text).into());
    }
    let mut spaces = Vec::new();
    for space in selected(args.space.as_ref(), &statuses) {
        spaces.push(verify(args, &clients, &statuses, space)?);
    }
    if spaces.is_empty() {
        let text = format!("{} and {} have no space in common", here.node, there.node);
        return Err(anyhow::anyhow!("{text}: nothing to compare"));
    }
    let report = Report {
        equal: spaces.iter().all(|space| space.verdict == Verdict::Equal),
        nodes: [here.node.clone(), there.node.clone()],
        compared: if args.headers { "headers" } else { "bytes" },
        spaces,
        exchanged_bytes: clients.iter().map(Client::exchanged_bytes).sum(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    if json {
        output::json(&report)?;
    } else {
        output::print(&render(&report))?;
    }
    let any = |verdict| report.spaces.iter().any(|space| space.verdict == verdict);
    Ok(ExitCode::from(match () {
        () if any(Verdict::Different) => EXIT_NO,
        () if any(Verdict::NotCompared) => EXIT_FAILURE,
        () => EXIT_OK,
    }))
}

/// The spaces to compare: the one that was named, or those that both nodes
/// have, and those that one of them ships to the other.
fn selected(wanted: Option<&SpaceId>, statuses: &[NodeStatus; 2]) -> BTreeSet<SpaceId> {
    if let Some(space) = wanted {
        return BTreeSet::from([space.clone()]);
    }
    let [one, other] = statuses;
    let belongs = |space: &SpaceStatus, of: &NodeStatus| {
        find(of, &space.space).is_some()
            || space.replicas.iter().any(|replica| replica.id == of.node)
    };
    let mut spaces = BTreeSet::new();
    for (holder, peer) in [(one, other), (other, one)] {
        let common = holder.spaces.iter().filter(|space| belongs(space, peer));
        spaces.extend(common.map(|space| space.space.clone()));
    }
    spaces
}

fn find<'a>(status: &'a NodeStatus, space: &SpaceId) -> Option<&'a SpaceStatus> {
    status.spaces.iter().find(|found| found.space == *space)
}

/// Up to where a node has a space, or why nobody knows.
fn durable_on(status: &NodeStatus, space: &SpaceId) -> Result<u64, String> {
    let found = find(status, space).ok_or_else(|| format!("{} does not have it", status.node))?;
    if found.role == Role::Replica && !found.head_known {
        let why = found.problem.as_deref().unwrap_or("see its status");
        return Err(format!("{} does not know what it has of it: {why}", status.node));
    }
    match found.flushed_lsn.unwrap_or(found.head_lsn) {
        // Nothing is equal to a log of which nothing was read.
        0 if !found.head_known => {
            Err(format!("{} has not read its log yet: ask again in a moment", status.node))
        }
        lsn => Ok(lsn),
    }
}

/// Compare one space. An error only if a node cannot be asked at all.
fn verify(
    args: &VerifyArgs,
    clients: &[Client; 2],
    statuses: &[NodeStatus; 2],
    space: SpaceId,
) -> Result<SpaceReport, ClientError> {
    let mut durable = [0; 2];
    for (durable, status) in durable.iter_mut().zip(statuses) {
        *durable = match durable_on(status, &space) {
            Ok(lsn) => lsn,
            Err(problem) => return Ok(SpaceReport::unknown(space, problem)),
        };
    }
    let to = durable[0].min(durable[1]);
    // Of nothing nothing is proven, unless there is nothing on either side.
    if to == 0 && durable != [0; 2] {
        let empty = &statuses[usize::from(durable[1] == 0)].node;
        let problem = format!("{empty} has nothing of it");
        return Ok(SpaceReport { durable_lsn: durable, ..SpaceReport::unknown(space, problem) });
    }
    if to == 0 {
        return Ok(SpaceReport::new(space, durable, Outcome::default()));
    }
    let of = if args.headers { Of::Headers } else { Of::Bytes };
    match bisection::compare([&clients[0], &clients[1]], &space, of, to) {
        Ok(outcome) => Ok(SpaceReport::new(space, durable, outcome)),
        // It was there a moment ago; the other spaces can be compared.
        Err(error @ (ClientError::Refused { .. } | ClientError::Busy { .. })) => {
            Ok(SpaceReport::unknown(space, error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The result for a person. Writing to a `String` cannot fail.
fn render(report: &Report) -> String {
    let mut text = String::new();
    for space in &report.spaces {
        render_space(&mut text, report, space);
    }
    let _ = writeln!(
        text,
        "{} and {}, {}: exchanged {} in {:.1} s",
        report.nodes[0],
        report.nodes[1],
        if report.compared == "headers" { "headers only" } else { "every byte" },
        output::bytes(report.exchanged_bytes),
        report.seconds
    );
    text
}

fn render_space(text: &mut String, report: &Report, space: &SpaceReport) {
    let SpaceReport { space: name, to_lsn, .. } = space;
    let size = output::bytes(*to_lsn);
    let _ = match (space.verdict, &space.chain) {
        (Verdict::Equal, Some(chain)) => {
            writeln!(text, "{name}: equal up to lsn {to_lsn} ({size}), chain {chain}")
        }
        (Verdict::Equal, None) if *to_lsn == 0 => {
            writeln!(text, "{name}: nothing to compare, empty on both")
        }
        (Verdict::Equal, None) => writeln!(text, "{name}: equal up to lsn {to_lsn} ({size})"),
        // Other streams, or other chains, of parts that are the same.
        (Verdict::Different, _) if space.parts_different == 0 => {
            writeln!(text, "{name}: DIFFERENT, compared up to lsn {to_lsn}")
        }
        (Verdict::Different, _) => writeln!(
            text,
            "{name}: DIFFERENT in {} of {} parts of {}, compared up to lsn {to_lsn}",
            space.parts_different,
            space.parts,
            output::bytes(space.part_bytes)
        ),
        (Verdict::NotCompared, _) => writeln!(text, "{name}: NOT COMPARED"),
    };
    if let Some(problem) = &space.problem {
        let _ = writeln!(text, "  {}", output::printable(problem));
    }
    for difference in &space.differences {
        let _ = writeln!(text, "  at lsn {}", difference.lsn);
        for (node, found) in report.nodes.iter().zip(&difference.sides) {
            let _ = writeln!(text, "    {node}: {}", output::printable(&describe(found)));
        }
    }
    if space.settled > 0 {
        let _ = writeln!(text, "  {} more agreed at a second look", space.settled);
    }
    for gap in &space.not_compared {
        let Gap { from_lsn, to_lsn, side, why } = gap;
        let node = &report.nodes[*side];
        let why = output::printable(why);
        let _ = writeln!(
            text,
            "  not compared: lsn {from_lsn} to {to_lsn}, {node} has it no longer ({why})"
        );
    }
    for (node, damaged) in report.nodes.iter().zip(&space.damaged) {
        for Damaged { lsn, segment, offset, problem } in damaged {
            let (segment, problem) = (output::printable(segment), output::printable(problem));
            let _ =
                writeln!(text, "  DAMAGED on {node}: lsn {lsn}, {segment} at {offset}: {problem}");
        }
    }
}

/// What one side has where the copies differ.
fn describe(found: &Found) -> String {
    match found {
        Found::Record(record) => describe_record(record),
        Found::Missing(absent) => {
            let segment = absent.segment.as_deref().unwrap_or("no segment");
            format!("MISSING up to lsn {}: {segment}: {}", absent.to, absent.why)
        }
        Found::Nothing => "no record begins there".into(),
    }
}

fn describe_record(record: &Listed) -> String {
    let Listed { segment, offset, bytes, digest, .. } = record;
    let mut text = format!("{segment} at {offset}");
    if let (Some(sequence), Some(entry_type)) = (record.sequence, record.entry_type) {
        let name = entry_type_name(entry_type).map_or(String::new(), |name| format!(" {name}"));
        let _ = write!(text, ", sequence {sequence}, type {entry_type}{name}");
    }
    let _ = write!(text, ", {bytes} bytes, digest {digest}");
    match &record.problem {
        Some(problem) => format!("{text}: DAMAGED, {problem}"),
        None => format!("{text}: its checksums hold"),
    }
}

#[cfg(test)]
#[path = "verify/verify_tests.rs"]
mod tests;
