//! `saltus rebuild`: a new catalog for a stopped node that has lost its own.
//!
//! What is in the files is read here and verified, record by record; where it
//! lies in the stream, the other node of the pair says. Nothing is believed:
//! the chain over all headers must be the other node's.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | every space is in the catalog now, or was before |
//! | 1 | one is not, or holds records that have rotted; it says which |
//! | 2 | the command line or the configuration is wrong; nothing was done |
//! | 3 | it failed, or was interrupted; it can be begun again |

mod asking;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use self::asking::Asked;
use super::interrupt::Interrupt;
use super::{EXIT_NO, NotPermitted, UsageError, output, parse_admin};
use crate::admin::Client;
use crate::config::{self, Config};
use crate::engine::keeper::Places;
use crate::engine::rebuild::{Finding, Rebuild, RebuildError};
use crate::engine::status::{NodeStatus, Role};
use crate::ids::{NodeId, SpaceId};
use crate::state::catalog::{self, Catalog, CatalogError, Change, SpaceRecord};
use crate::state::host::ThisHost;
use crate::state::pins::Pins;
use crate::wal::discover;
use crate::wal::record::Checksums;

#[derive(Debug, Args)]
pub(super) struct RebuildArgs {
    /// The configuration file of this node, which must be stopped
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The admin address of the primary that ships to this node
    #[arg(long, value_name = "ADDR", value_parser = parse_admin)]
    from: SocketAddr,
    /// Only this space, also if the catalog has it as one of this node's own;
    /// may be given several times
    #[arg(long)]
    space: Vec<SpaceId>,
    /// Read and compare only; change nothing
    #[arg(long)]
    check: bool,
}

/// What became of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It is in the catalog now.
    Rebuilt,
    /// It could be.
    Possible,
    /// It was in the catalog.
    Known,
    /// Nothing of it is here.
    Empty,
    /// It is not in the catalog.
    Refused,
}

/// A record that does not hold.
#[derive(Debug, Serialize)]
struct Rotten {
    segment: String,
    offset: u64,
    bytes: u64,
    lsn: u64,
    problem: String,
}

/// One space, as JSON.
#[derive(Debug, Serialize)]
struct SpaceReport {
    space: SpaceId,
    verdict: Verdict,
    /// Up to here this node has the stream.
    lsn: u64,
    records: u64,
    /// Up to here the other node has it; the rest is shipped.
    head_lsn: u64,
    /// Bytes that were read and verified.
    read_bytes: u64,
    /// Bytes that are not the other node's, an unfinished record excepted.
    unmatched_bytes: u64,
    /// Whole segments of which nothing is.
    unmatched_segments: Vec<String>,
    rotten: Vec<Rotten>,
    /// What was found, and what was moved where.
    notices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    node: NodeId,
    from: NodeId,
    /// The catalog was damaged, and is kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<PathBuf>,
    spaces: Vec<SpaceReport>,
}

/// What everything is done with.
struct Work<'a> {
    args: &'a RebuildArgs,
    places: Places,
    checksums: Checksums,
    client: Client,
    from: NodeId,
    interrupt: Interrupt,
    shows: bool,
}

pub(super) fn run(args: &RebuildArgs, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let client = Client::new(args.from)?;
    let status = client.status()?;
    check_other(&config, &status, args.from)?;
    let work = Work {
        args,
        places: Places {
            data_root: config.node.data_root.clone(),
            state_dir: config.node.state_dir.clone(),
            host: Arc::new(ThisHost),
        },
        checksums: match config.wal.checksums {
            config::Checksums::Required => Checksums::Required,
            config::Checksums::Optional => Checksums::Optional,
        },
        client,
        from: status.node.clone(),
        interrupt: Interrupt::install().context("cannot take over signals")?,
        shows: !json && std::io::stderr().is_terminal(),
    };
    let names = work.selected(&config.node.id, &status);
    if names.is_empty() {
        let (from, node) = (&status.node, &config.node.id);
        output::error(&format!(
            "saltus: {from} ships no space to {node} of which a segment is here; --space names one"
        ));
        return Ok(ExitCode::from(EXIT_NO));
    }
    let mut report =
        Report { node: config.node.id, from: status.node.clone(), set_aside: None, spaces: vec![] };
    // Held open, it keeps the node from being started meanwhile.
    let catalog = if args.check { None } else { Some(work.open(&mut report)?) };
    let known = catalog.as_ref().map_or_else(|| Ok(BTreeMap::new()), |catalog| catalog.load())?;
    for space in names {
        let head = status.spaces.iter().find(|found| found.space == space);
        let mut found = SpaceReport::new(&space, head.map_or(0, |found| found.head_lsn));
        let done = work.space(&space, &status, known.get(&space), catalog.as_ref(), &mut found);
        if work.shows {
            // The line that is redrawn gives way.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        done?;
        report.spaces.push(found);
    }
    if json {
        output::json(&report)?;
    } else {
        output::print(&render(&report))?;
    }
    let whole = |space: &SpaceReport| space.verdict != Verdict::Refused && space.rotten.is_empty();
    let whole = report.spaces.iter().all(whole);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO) })
}

/// Whether the node that is asked can be the primary of this one.
fn check_other(config: &Config, status: &NodeStatus, from: SocketAddr) -> Result<(), UsageError> {
    let NodeStatus { node, cluster, .. } = status;
    if *cluster != config.node.cluster {
        let (ours, at) = (&config.node.cluster, from);
        return Err(UsageError(format!("{at} is of cluster {cluster}, this node of {ours}")));
    }
    if *node == config.node.id {
        return Err(UsageError(format!("{from} is {node}, the node that is to be rebuilt")));
    }
    Ok(())
}

impl SpaceReport {
    fn new(space: &SpaceId, head_lsn: u64) -> Self {
        Self {
            space: space.clone(),
            verdict: Verdict::Refused,
            lsn: 0,
            records: 0,
            head_lsn,
            read_bytes: 0,
            unmatched_bytes: 0,
            unmatched_segments: Vec::new(),
            rotten: Vec::new(),
            notices: Vec::new(),
            problem: None,
        }
    }

    fn refuse(&mut self, why: String) {
        self.verdict = Verdict::Refused;
        self.problem = Some(why);
    }

    fn note(&mut self, finding: &Finding) {
        let survey = &finding.survey;
        self.lsn = finding.common.lsn.0;
        self.records = finding.common.records;
        self.read_bytes = survey.bytes;
        self.unmatched_bytes = finding.unmatched_bytes;
        self.unmatched_segments = finding.strangers.iter().map(ToString::to_string).collect();
        self.notices.extend(survey.trouble.iter().map(ToString::to_string));
        let here = survey.rotten.iter().filter(|rotten| rotten.before.lsn < finding.common.lsn);
        self.rotten = here
            .map(|rotten| Rotten {
                segment: rotten.segment.to_string(),
                offset: rotten.offset,
                bytes: rotten.bytes,
                lsn: rotten.before.lsn.0,
                problem: rotten.error.to_string(),
            })
            .collect();
    }
}

impl Work<'_> {
    /// The spaces to look at: those that were named, or those that the other
    /// node ships to this one and of which something is here.
    fn selected(&self, node: &NodeId, status: &NodeStatus) -> Vec<SpaceId> {
        if !self.args.space.is_empty() {
            return self.args.space.clone();
        }
        let ships = |space: &&crate::engine::status::SpaceStatus| {
            space.role == Role::Primary && space.replicas.iter().any(|it| it.id == *node)
        };
        let shipped = status.spaces.iter().filter(ships).map(|space| space.space.clone());
        shipped.filter(|space| self.is_here(space)).collect()
    }

    /// Whether a segment of it is here.
    fn is_here(&self, space: &SpaceId) -> bool {
        discover::segments(&self.places.wal(space)).is_ok_and(|names| !names.is_empty())
    }

    /// The catalog: the one that is there, or a new one.
    fn open(&self, report: &mut Report) -> anyhow::Result<Catalog> {
        let open = || Catalog::open_on(&self.places.host, &self.places.state_dir);
        match open() {
            Ok(catalog) => Ok(catalog),
            Err(error @ CatalogError::Damaged { .. }) => {
                let aside = catalog::set_aside(&*self.places.host, &self.places.state_dir)
                    .with_context(|| format!("{error}; it cannot be renamed"))
                    .map_err(NotPermitted::sift)?;
                report.set_aside = Some(aside);
                open().map_err(NotPermitted::sift)
            }
            Err(error) => Err(NotPermitted::sift(error)),
        }
    }

    /// One space. An error only if nothing more can be done.
    fn space(
        &self,
        space: &SpaceId,
        status: &NodeStatus,
        known: Option<&SpaceRecord>,
        catalog: Option<&Catalog>,
        report: &mut SpaceReport,
    ) -> anyhow::Result<()> {
        let ships = status.spaces.iter().find(|found| found.space == *space);
        let from = &self.from;
        match ships.map(|found| found.role) {
            Some(Role::Primary) => {}
            Some(_) => report.refuse(format!("{from} receives it, and does not ship it")),
            None => report.refuse(format!("{from} has no such space")),
        }
        if report.problem.is_some() {
            return Ok(());
        }
        let own = match known.map(|record| record.role) {
            Some(catalog::Role::Replica) => {
                report.verdict = Verdict::Known;
                report.lsn = known.map_or(0, |record| record.checkpoint.lsn.0);
                return Ok(());
            }
            Some(catalog::Role::Primary) if self.args.space.is_empty() => {
                report.refuse(format!(
                    "the catalog has it as a space that is written on this node, which is how a \
                     start without a catalog enters what it finds. If it was received: \
                     --space {space}"
                ));
                return Ok(());
            }
            role => role.is_some(),
        };
        if !self.is_here(space) {
            report.verdict = Verdict::Empty;
            return Ok(());
        }
        let chart = asking::chart(&self.client, space)?;
        let record = match chart.record(catalog::Role::Replica) {
            Ok(record) => record,
            Err(why) => {
                report.refuse(format!("what {from} says of it cannot be used: {why}"));
                return Ok(());
            }
        };
        let mut other = Asked {
            client: &self.client,
            space,
            stream: &chart.stream,
            marks: record.marks.clone(),
        };
        let rebuild = Rebuild { places: &self.places, checksums: self.checksums, space };
        let mut read = 0;
        let mut go_on = |bytes| {
            read += bytes;
            if self.shows {
                // Whoever closed standard error does not want to see it.
                let text = output::bytes(read);
                let _ = write!(std::io::stderr(), "\r\x1b[K{space}: verified {text}");
            }
            !self.interrupt.requested()
        };
        let finding = match rebuild.examine(record, &mut other, &mut go_on) {
            Ok(finding) => finding,
            Err(_) if self.interrupt.requested() => {
                return Err(anyhow::anyhow!("interrupted; nothing of {space} was changed"));
            }
            Err(error @ RebuildError::Foreign { .. }) => {
                report.refuse(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error).context(format!("space {space}")),
        };
        report.note(&finding);
        if own && report.unmatched_bytes > 0 {
            report.refuse(format!(
                "the catalog has it as a space that is written on this node, and {} of it are not \
                 in the stream of {from}: if they were written here, this node is its primary. If \
                 not, move the catalog away first",
                output::bytes(report.unmatched_bytes)
            ));
            return Ok(());
        }
        let Some(catalog) = catalog else {
            report.verdict = Verdict::Possible;
            return Ok(());
        };
        let (changes, notices) =
            rebuild.settle(&finding).with_context(|| format!("space {space}"))?;
        report.notices.extend(notices.iter().map(ToString::to_string));
        let forget = own.then_some(Change::Forget);
        let changes: Vec<_> =
            forget.into_iter().chain(changes).map(|change| (space.clone(), change)).collect();
        catalog.commit(&changes)?;
        if own {
            self.unpin(space, report);
        }
        report.verdict = Verdict::Rebuilt;
        Ok(())
    }

    /// Let go of the pins that this node made while it took the space for its
    /// own. One that is the last name of a file stays.
    fn unpin(&self, space: &SpaceId, report: &mut SpaceReport) {
        let released = Pins::open(&self.places.state_dir).and_then(|pins| {
            for pin in pins.of(space)?.iter().filter(|pin| !pin.last_name) {
                pins.release(space, pin.file)?;
            }
            Ok(())
        });
        if let Err(error) = released {
            report.notices.push(format!("its pins are left over: {error}"));
        }
    }
}

/// The result for a person. Writing to a `String` cannot fail.
fn render(report: &Report) -> String {
    let mut text = String::new();
    if let Some(path) = &report.set_aside {
        let path = shown(path);
        let _ = writeln!(text, "the damaged catalog is kept as {path}; a new one was begun");
    }
    for space in &report.spaces {
        render_space(&mut text, space, &report.from);
    }
    text
}

fn shown(path: &Path) -> String {
    output::printable(&path.display().to_string())
}

fn render_space(text: &mut String, space: &SpaceReport, from: &NodeId) {
    let SpaceReport { space: name, lsn, head_lsn, .. } = space;
    let left = output::bytes(head_lsn.saturating_sub(*lsn));
    let records = output::grouped(space.records);
    let _ = match space.verdict {
        Verdict::Rebuilt => writeln!(
            text,
            "{name}: REBUILT up to lsn {lsn}: {records} records are the stream of {from}, proven \
             by the chain; {left} are still to be shipped"
        ),
        Verdict::Possible => writeln!(
            text,
            "{name}: can be rebuilt up to lsn {lsn}: {records} records are the stream of {from}, \
             proven by the chain; {left} would be shipped"
        ),
        Verdict::Known => {
            writeln!(text, "{name}: in the catalog already, up to lsn {lsn}; nothing was done")
        }
        Verdict::Empty => writeln!(text, "{name}: no segment of it is here; it is shipped anew"),
        Verdict::Refused => writeln!(text, "{name}: NOT REBUILT"),
    };
    if let Some(problem) = &space.problem {
        let _ = writeln!(text, "  {}", output::printable(problem));
    }
    if space.unmatched_bytes > 0 {
        let what = match space.verdict {
            Verdict::Rebuilt => "in the quarantine now",
            Verdict::Possible => "it would go to the quarantine",
            _ => "untouched",
        };
        let bytes = output::bytes(space.unmatched_bytes);
        let _ = writeln!(text, "  {bytes} behind that are not the stream of {from}: {what}");
        for segment in &space.unmatched_segments {
            let _ = writeln!(text, "    {segment}, all of it");
        }
    }
    for Rotten { segment, offset, bytes, lsn, problem } in &space.rotten {
        let _ = writeln!(
            text,
            "  ROTTEN: {segment} at {offset}, lsn {lsn}, {bytes} bytes: {problem}; start the node, \
             and mend it with saltus scrub --space {name}"
        );
    }
    for notice in &space.notices {
        let _ = writeln!(text, "  {}", output::printable(notice));
    }
}
