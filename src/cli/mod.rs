//! The `saltus` command: what an operator types, and what comes back.
//!
//! ```text
//!   saltus [--json] run | config | status | wait | epoch | quarantine | verify | scrub | repair |
//!                   rebuild | demo | wal | bench
//!
//!   result    -> standard output: text for a person, or one JSON document
//!   log,error -> standard error
//!   verdict   -> exit code
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done; the answer is yes |
//! | 1 | the answer is no: not identical, not whole, not healthy, not caught up |
//! | 2 | the command line or the configuration is wrong, or it may not use what they name; nothing was done |
//! | 3 | it failed, or was interrupted |
//!
//! Errors carry context with `anyhow` here, and only here. A reader of
//! standard output may go away at any time; that is no error.
#![forbid(unsafe_code)]

mod bench;
mod config;
pub mod demo;
mod epoch;
pub mod interrupt;
mod logging;
pub mod node;
pub mod output;
mod payload;
mod quarantine;
mod ready;
mod rebuild;
mod run;
mod scratch;
mod scrub;
mod status;
pub mod table;
mod verify;
mod wait;
pub mod wal;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, quantity};
use crate::io::BackendChoice;

/// Done; the answer is yes.
pub const EXIT_OK: u8 = 0;
/// The answer is no.
pub const EXIT_NO: u8 = 1;
/// The command line or the configuration is wrong. Also what clap exits with.
pub const EXIT_USAGE: u8 = 2;
/// It failed.
pub const EXIT_FAILURE: u8 = 3;

/// The longest duration that an argument may give: a day. Deadlines are
/// computed with it.
const MAX_DURATION: Duration = Duration::from_secs(86_400);

const AFTER_HELP: &str = "\
Exit codes:
  0  done; the answer is yes
  1  the answer is no: not identical, not whole, not healthy, not caught up
  2  the command line or the configuration is wrong, or names what this
     process may not use; nothing was done
  3  it failed, or was interrupted

Environment:
  SALTUS_LOG  what to log on standard error: error, warn, info, debug, trace,
              or a filter such as info,saltus::engine=debug";

/// Replicate write-ahead logs: bytes go from the page cache to the socket,
/// every record is verified before it is durable, and lag is told truthfully.
#[derive(Debug, Parser)]
#[command(name = "saltus", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    /// Print results as JSON
    #[arg(long, global = true, display_order = 100)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: ship the spaces of its data root, receive those of others
    Run(run::RunArgs),
    /// Check a configuration without starting a node
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show the spaces of a running node, and how far each replica is behind
    Status(status::StatusArgs),
    /// Wait until the replicas have what the node has now
    Wait(wait::WaitArgs),
    /// Prove that two nodes hold the same, or find where they differ
    Verify(verify::VerifyArgs),
    /// Read what is at rest again, now, and mend what is damaged in received spaces
    Scrub(scrub::ScrubArgs),
    /// Build good copies of damaged segments of a shipped space, from a replica
    Repair(scrub::RepairArgs),
    /// Make the catalog anew of a stopped node that has lost it, from its segments
    Rebuild(rebuild::RebuildArgs),
    /// Show the epochs of spaces: which reigns their streams have had
    #[command(subcommand)]
    Epoch(epoch::EpochCommand),
    /// List, show and export bytes that were taken out of a stream and kept
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Watch a primary and its replicas at work, in a temporary directory
    Demo(demo::DemoArgs),
    /// Write, list, verify and compare logs on disk; no node is needed
    #[command(subcommand)]
    Wal(wal::WalCommand),
    /// Measure this machine, and Saltus beside it
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// A command line that clap accepts and that makes no sense nevertheless.
/// Nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A node that cannot start where it was told to, because it may not: nothing
/// changes by itself, and nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{}", output::chain(.0))]
struct NotPermitted(anyhow::Error);

impl NotPermitted {
    /// The error of a start, marked if permission is what it lacks.
    fn sift(error: impl Into<anyhow::Error>) -> anyhow::Error {
        let error = error.into();
        let refused =
            error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| {
                matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
            });
        if refused { Self(error).into() } else { error }
    }
}

/// Run the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                // Every error begins with the name of the program.
                output::error(error.to_string().replacen("error:", "saltus:", 1).trim_end());
                return ExitCode::from(EXIT_USAGE);
            }
            // Whoever closed standard output does not want to read the help.
            let _ = error.print();
            return ExitCode::from(EXIT_OK);
        }
    };
    let Cli { json, command } = cli;
    let level = if matches!(command, Command::Run(_)) { "info" } else { "warn" };
    let result = logging::start(level).and_then(|()| match command {
        Command::Run(args) => run::run(&args, json),
        Command::Config(command) => config::run(&command, json),
        Command::Status(args) => status::run(&args, json),
        Command::Wait(args) => wait::run(&args, json),
        Command::Verify(args) => verify::run(&args, json),
        Command::Scrub(args) => scrub::run(&args, json),
        Command::Repair(args) => scrub::repair(&args, json),
        Command::Rebuild(args) => rebuild::run(&args, json),
        Command::Epoch(command) => epoch::run(&command, json),
        Command::Quarantine(command) => quarantine::run(command, json),
        Command::Demo(args) => demo::run(&args, json),
        Command::Wal(command) => wal::run(command, json),
        Command::Bench(command) => bench::run(command, json),
    });
    result.unwrap_or_else(|error| {
        output::error(&format!("saltus: {}", output::chain(&error)));
        ExitCode::from(exit_code(&error))
    })
}

/// The exit code of an error, wherever in its chain the cause stands.
fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        cause.is::<UsageError>() || cause.is::<ConfigError>() || cause.is::<NotPermitted>()
    });
    if usage { EXIT_USAGE } else { EXIT_FAILURE }
}

/// Reads a duration argument. A number without a unit is seconds: what is
/// typed is read by a person at once, unlike a setting.
///
/// # Errors
///
/// A sentence for clap to print.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = || text.trim().parse().ok().map(Duration::from_secs);
    quantity::duration(text)
        .or_else(seconds)
        .filter(|duration| *duration <= MAX_DURATION)
        .ok_or_else(|| {
            "expected a whole number and a unit, as 500ms, 30s or 2min, at most 1440min; a plain \
             number is seconds"
                .to_owned()
        })
}

/// Reads an admin address.
///
/// # Errors
///
/// A sentence for clap to print.
pub fn parse_admin(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, as 127.0.0.1:7421 or [::1]:7421; host names are not \
         resolved"
            .to_owned()
    })
}

/// Reads the name of a backend.
///
/// # Errors
///
/// A sentence for clap to print.
pub fn parse_backend(text: &str) -> Result<BackendChoice, String> {
    match text {
        "auto" => Ok(BackendChoice::Auto),
        "uring" => Ok(BackendChoice::Uring),
        "portable" => Ok(BackendChoice::Portable),
        _ => Err("expected auto, uring or portable".to_owned()),
    }
}

/// Reads an argument that is a size in bytes.
///
/// # Errors
///
/// A sentence for clap to print.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    quantity::bytes(text)
        .ok_or_else(|| "expected a whole number of bytes, or as 64KiB, 16MiB, 4GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_configuration_is_a_usage_error_beneath_any_context() {
        let error = Config::parse("", "node.toml").map_err(anyhow::Error::from);
        let error = error.map_err(|e| e.context("cannot start")).expect_err("empty");
        assert_eq!(exit_code(&error), EXIT_USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("disk on fire")), EXIT_FAILURE);
    }

    use crate::config::Config;
}
