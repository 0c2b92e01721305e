//! `saltus rebuild`: a new catalog for a stopped node that has lost its own.
//!
//! What is in the files is read here and verified, record by record; where it
//! lies in the stream, the other node of the pair says: of a space that is
//! received here the primary, of one that is shipped from here a replica.
//! Nothing is believed: the chain over all headers must be the other node's.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | every space is in the catalog now, or was before |
//! | 1 | one is not, or holds records that have rotted; it says which |
//! | 2 | the command line or the configuration is wrong; nothing was done |
//! | 3 | it failed, or was interrupted; it can be begun again |

mod asking;
mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use self::asking::Asked;
use self::report::{Report, SpaceReport, Verdict, render};
use super::interrupt::Interrupt;
use super::{EXIT_NO, NotPermitted, UsageError, output, parse_admin};
use crate::admin::Client;
use crate::config::{self, Config};
use crate::engine::keeper::Places;
use crate::engine::rebuild::{Rebuild, RebuildError};
use crate::engine::status::{NodeStatus, Role, SpaceStatus};
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
    /// The admin address of the other node: the primary that ships to this one,
    /// or, for the spaces that this one ships, the replica that has most of them
    #[arg(long, value_name = "ADDR", value_parser = parse_admin)]
    from: SocketAddr,
    /// Only this space, also if the catalog has it as one that began here, as a
    /// start without a catalog leaves it; may be given several times
    #[arg(long)]
    space: Vec<SpaceId>,
    /// Read and compare only; change nothing
    #[arg(long)]
    check: bool,
}

/// What everything is done with.
struct Work<'a> {
    args: &'a RebuildArgs,
    places: Places,
    checksums: Checksums,
    client: Client,
    from: NodeId,
    /// The other node is one that this one ships to.
    to_replica: bool,
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
        to_replica: config.replicas.iter().any(|replica| replica.id == status.node),
        interrupt: Interrupt::install().context("cannot take over signals")?,
        shows: !json && std::io::stderr().is_terminal(),
    };
    let names = work.selected(&config.node.id, &status);
    if names.is_empty() {
        let (from, node) = (&status.node, &config.node.id);
        output::error(&format!(
            "saltus: {from} ships no space to {node} of which a segment is here, and receives none \
             from it; --space names one"
        ));
        return Ok(ExitCode::from(EXIT_NO));
    }
    let unknown = |name: &&SpaceId| {
        !status.spaces.iter().any(|known| known.space == **name) && !work.is_here(name)
    };
    if let Some(space) = names.iter().find(unknown).filter(|_| !status.starting) {
        let from = &status.node;
        return Err(UsageError(format!("{from} has no space {space}, and none is here")).into());
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

impl Work<'_> {
    /// The spaces to look at: those that were named, or those that the other
    /// node ships to this one and of which something is here.
    fn selected(&self, node: &NodeId, status: &NodeStatus) -> Vec<SpaceId> {
        if !self.args.space.is_empty() {
            return self.args.space.clone();
        }
        let concerns = |space: &&SpaceStatus| match space.role {
            Role::Primary => space.replicas.iter().any(|replica| replica.id == *node),
            Role::Replica => self.to_replica,
        };
        let both = status.spaces.iter().filter(concerns).map(|space| space.space.clone());
        both.filter(|space| self.is_here(space)).collect()
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
        let found = status.spaces.iter().find(|found| found.space == *space);
        let from = &self.from;
        let role = match found.map(|found| found.role) {
            Some(Role::Primary) => catalog::Role::Replica,
            Some(Role::Replica) if self.to_replica => catalog::Role::Primary,
            Some(_) => {
                report.refuse(format!(
                    "{from} receives it, and is no [[replica]] of this node's configuration"
                ));
                return Ok(());
            }
            None => {
                report.refuse(format!("{from} has no such space"));
                return Ok(());
            }
        };
        let chart = asking::chart(&self.client, space)?;
        let record = match chart.record(role) {
            Ok(record) => record,
            Err(why) => {
                report.refuse(format!("what {from} says of it cannot be used: {why}"));
                return Ok(());
            }
        };
        if let Some(known) = known
            && !self.may_replace(known, &record, report)
        {
            return Ok(());
        }
        if !self.is_here(space) {
            report.verdict = Verdict::Empty;
            return Ok(());
        }
        let other = Asked {
            client: &self.client,
            space,
            stream: &chart.stream,
            marks: record.marks.clone(),
        };
        let changes = match role {
            catalog::Role::Replica => {
                self.received(space, record, other, known.is_some(), catalog.is_some(), report)
            }
            catalog::Role::Primary => self.shipped(space, record, other, report),
        };
        let changes = match changes {
            Ok(changes) => changes,
            Err(_) if self.interrupt.requested() => {
                return Err(anyhow::anyhow!("interrupted; space {space} is not in the catalog"));
            }
            Err(
                error @ (RebuildError::Foreign { .. }
                | RebuildError::Gone { .. }
                | RebuildError::Epochs),
            ) => {
                report.refuse(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error).context(format!("space {space}")),
        };
        if report.problem.is_some() {
            return Ok(());
        }
        let Some(catalog) = catalog else {
            report.verdict = Verdict::Possible;
            return Ok(());
        };
        let forget = known.map(|_| Change::Forget);
        let changes: Vec<_> =
            forget.into_iter().chain(changes).map(|change| (space.clone(), change)).collect();
        catalog.commit(&changes)?;
        // Those that are there bear other numbers.
        self.unpin(space, report);
        report.verdict = Verdict::Rebuilt;
        Ok(())
    }

    /// Whether what the catalog has of a space may give way.
    fn may_replace(
        &self,
        known: &SpaceRecord,
        wanted: &SpaceRecord,
        report: &mut SpaceReport,
    ) -> bool {
        let SpaceReport { space, .. } = report;
        if (known.role, known.stream) == (wanted.role, wanted.stream) {
            report.verdict = Verdict::Known;
            report.lsn = known.checkpoint.lsn.max(known.runs.end()).0;
            return false;
        }
        if known.role == catalog::Role::Replica {
            report.refuse(format!(
                "the catalog has it as received, of stream {:?}, and {} has stream {:?} of it: that \
                 is no loss of a catalog. Nothing was done",
                known.stream, self.from, wanted.stream
            ));
            return false;
        }
        if self.args.space.is_empty() {
            let why = match wanted.role {
                catalog::Role::Replica => format!(
                    "the catalog has it as a space that is written on this node, which is how a \
                     start without a catalog enters what it finds. If it was received: \
                     --space {space}"
                ),
                catalog::Role::Primary => format!(
                    "the catalog has another stream of it, as a start without a catalog begins \
                     one. To go on with the one that {} has: --space {space}. Who has received \
                     the other one since must be emptied then",
                    self.from
                ),
            };
            report.refuse(why);
            return false;
        }
        true
    }

    /// What to tell the catalog of a space that is received here. Files are
    /// changed only if it `may_change` them.
    fn received(
        &self,
        space: &SpaceId,
        record: SpaceRecord,
        mut other: Asked<'_>,
        own: bool,
        may_change: bool,
        report: &mut SpaceReport,
    ) -> Result<Vec<Change>, RebuildError> {
        let rebuild = self.rebuild(space);
        let finding = rebuild.examine(record, &mut other, &mut self.progress(space))?;
        report.note(&finding);
        if own && finding.unmatched_bytes > 0 {
            report.refuse(format!(
                "the catalog has it as a space that is written on this node, and {} of it are not \
                 in the stream of {}: if they were written here, this node is its primary. If not, \
                 move the catalog away first",
                output::bytes(report.unmatched_bytes),
                self.from
            ));
            return Ok(Vec::new());
        }
        if !may_change {
            return Ok(Vec::new());
        }
        let (changes, notices) = rebuild.settle(&finding)?;
        report.notices.extend(notices.iter().map(ToString::to_string));
        Ok(changes)
    }

    /// What to tell the catalog of a space that is shipped from here.
    fn shipped(
        &self,
        space: &SpaceId,
        record: SpaceRecord,
        mut other: Asked<'_>,
        report: &mut SpaceReport,
    ) -> Result<Vec<Change>, RebuildError> {
        report.role = Role::Primary;
        let rebuild = self.rebuild(space);
        let finding = rebuild.examine_shipped(record, &mut other, &mut self.progress(space))?;
        report.note_shipped(&finding);
        Ok(finding.changes())
    }

    fn rebuild<'a>(&'a self, space: &'a SpaceId) -> Rebuild<'a> {
        Rebuild { places: &self.places, checksums: self.checksums, space }
    }

    /// Shows how far it is. False once it is to stop.
    fn progress(&self, space: &SpaceId) -> impl FnMut(u64) -> bool {
        let mut read = 0;
        move |bytes| {
            read += bytes;
            if self.shows {
                // Whoever closed standard error does not want to see it.
                let text = output::bytes(read);
                let _ = write!(std::io::stderr(), "\r\x1b[K{space}: verified {text}");
            }
            !self.interrupt.requested()
        }
    }

    /// Let go of pins: the node makes those that it needs when it starts. One
    /// that is the last name of a file stays, and the node names it.
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
