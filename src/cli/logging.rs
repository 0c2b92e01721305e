//! The log: lines on standard error.
//!
//! What is logged is a list of levels: a plain one for everything, and one for
//! each module that differs. A word that is neither would be taken for the
//! name of a module that never logs, and silence all others; it is refused.

use std::env;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::UsageError;

/// The environment variable that says what is logged.
const VARIABLE: &str = "SALTUS_LOG";

/// What it may say.
const ALLOWED: &str = "error, warn, info, debug, trace or off, or levels of modules besides, as \
                       info,saltus::engine=debug";

/// Start logging at `level`, or at what the environment asks for.
pub(super) fn start(level: &str) -> anyhow::Result<()> {
    let wanted = match env::var(VARIABLE) {
        Ok(wanted) => wanted,
        Err(env::VarError::NotPresent) => String::new(),
        Err(env::VarError::NotUnicode(_)) => {
            return Err(UsageError(format!("{VARIABLE} is no text; expected {ALLOWED}")).into());
        }
    };
    let directives = directives(&wanted, level)
        .map_err(|why| UsageError(format!("{VARIABLE}={wanted:?}: {why}; expected {ALLOWED}")))?;
    // A second subscriber in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(directives)?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Whoever read standard error may be gone: that must cost the lines,
        // not the thread that logs.
        .log_internal_errors(false)
        .try_init();
    Ok(())
}

/// The filter that `wanted` means; `level` where it names no plain one.
fn directives(wanted: &str, level: &str) -> Result<String, String> {
    let mut filter = level.to_owned();
    for directive in wanted.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if let Some((module, level)) = directive.split_once('=') {
            if module != "saltus" && !module.starts_with("saltus::") {
                return Err(format!("{module:?} is no module of this program"));
            }
            if !is_level(level) {
                return Err(format!("{level:?} is no level"));
            }
        } else if !is_level(directive) {
            return Err(format!("{directive:?} is no level"));
        }
        // Of two for the same, the later one counts.
        filter = format!("{filter},{directive}");
    }
    Ok(filter)
}

/// True for the name of a level. Numbers, which `tracing` takes as well, would
/// be one more thing to know.
fn is_level(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphabetic()) && LevelFilter::from_str(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_modules_come_on_top_of_a_plain_one() {
        assert_eq!(directives("", "info").as_deref(), Ok("info"));
        assert_eq!(directives("DEBUG", "info").as_deref(), Ok("info,DEBUG"));
        let wanted = "warn, saltus::engine=debug,saltus=off";
        let filter = directives(wanted, "info").expect("allowed");
        assert_eq!(filter, "info,warn,saltus::engine=debug,saltus=off");
        let filter = EnvFilter::try_new(filter).expect("a filter");
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::DEBUG));
    }

    #[test]
    fn what_would_silence_the_log_by_mistake_is_refused() {
        for wanted in
            ["bogus", "infoo", "saltus", "3", "saltus::engine=loud", "salts=debug", "=info"]
        {
            assert!(directives(wanted, "info").is_err(), "{wanted}");
        }
    }
}
