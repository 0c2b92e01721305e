//! The log: lines on standard error.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::UsageError;

/// The environment variable that says what is logged.
const VARIABLE: &str = "SALTUS_LOG";

/// Start logging at `level`, or at what the environment asks for.
pub(super) fn start(level: &str) -> anyhow::Result<()> {
    let wanted = env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty());
    let filter = wanted.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        UsageError(format!("{VARIABLE}={filter:?} is no filter ({error}): expected as info"))
    })?;
    // A second subscriber in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    Ok(())
}
