//! `saltus epoch show`: the reigns of a space, as a node knows them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output;
use super::table::Table;
use super::{EXIT_NO, EXIT_OK};
use crate::admin::Client;
use crate::config::DEFAULT_ADMIN;
use crate::engine::status::{EpochStatus, Role, SpaceStatus};
use crate::ids::{Epoch, NodeId, SpaceId};

#[derive(Debug, Subcommand)]
pub(super) enum EpochCommand {
    /// Show the history of each space: its epochs, and where they began
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Only this space
    #[arg(long)]
    space: Option<SpaceId>,
    /// The admin address of a node, its [listen] admin; may be given for several
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: Vec<SocketAddr>,
}

/// A space on one node, as JSON.
#[derive(Debug, Serialize)]
struct Reigns {
    node: NodeId,
    space: SpaceId,
    role: Role,
    epoch: Epoch,
    highest_epoch: Epoch,
    /// A higher epoch was seen than the one that is shipped.
    fenced: bool,
    epochs: Vec<EpochStatus>,
}

pub(super) fn run(command: &EpochCommand, json: bool) -> anyhow::Result<ExitCode> {
    let EpochCommand::Show(args) = command;
    let mut found = Vec::new();
    for admin in &args.admin {
        let status = Client::new(*admin)?.status()?;
        let wanted = |space: &SpaceStatus| args.space.as_ref().is_none_or(|id| space.space == *id);
        let node = status.node;
        found.extend(status.spaces.into_iter().filter(wanted).map(|space| reigns(&node, space)));
    }
    found.sort_by(|a, b| a.space.cmp(&b.space));
    let none = found.is_empty();
    if json {
        output::json(&found)?;
    } else {
        output::print(&render(&found))?;
    }
    // A space that was asked for by name is nowhere.
    Ok(ExitCode::from(if none && args.space.is_some() { EXIT_NO } else { EXIT_OK }))
}

fn reigns(node: &NodeId, space: SpaceStatus) -> Reigns {
    let highest = space.highest_epoch.unwrap_or(space.epoch).max(space.epoch);
    Reigns {
        node: node.clone(),
        fenced: space.role == Role::Primary && highest > space.epoch,
        space: space.space,
        role: space.role,
        epoch: space.epoch,
        highest_epoch: highest,
        epochs: space.epochs,
    }
}

/// For a person. Writing to a `String` cannot fail.
fn render(found: &[Reigns]) -> String {
    if found.is_empty() {
        return "no spaces\n".to_owned();
    }
    let mut text = String::new();
    for reigns in found {
        let _ = writeln!(
            text,
            "{}  on {}  {}  epoch {}  highest seen {}",
            reigns.space,
            reigns.node,
            reigns.role.as_str(),
            reigns.epoch,
            reigns.highest_epoch
        );
        if reigns.fenced {
            let _ = writeln!(
                text,
                "  FENCED: another node has become the primary, nothing is shipped from here"
            );
        }
        let mut table = Table::new(2, 0, &["EPOCH", "FROM LSN"]);
        for epoch in &reigns.epochs {
            table.row(vec![epoch.epoch.to_string(), epoch.start_lsn.to_string()]);
        }
        text.push_str(&table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(role: Role, highest: u64) -> Reigns {
        Reigns {
            node: "alpha-1".parse().expect("a name"),
            space: "default".parse().expect("a name"),
            fenced: role == Role::Primary && highest > 2,
            role,
            epoch: Epoch(2),
            highest_epoch: Epoch(highest),
            epochs: EpochStatus::of(&[
                (Epoch(1), crate::lsn::Lsn::ZERO),
                (Epoch(2), crate::lsn::Lsn(2320)),
            ]),
        }
    }

    #[test]
    fn a_fenced_space_stands_out() {
        assert!(render(&[space(Role::Primary, 3)]).contains("FENCED"));
        assert!(!render(&[space(Role::Primary, 2)]).contains("FENCED"));
        let text = render(&[space(Role::Replica, 2)]);
        assert!(text.lines().any(|line| line.trim() == "2      2320"), "{text}");
    }
}
