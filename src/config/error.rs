//! Why a configuration was refused, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A position in a configuration file, as an editor counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the caller named it.
    pub file: Box<str>,
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why a configuration was refused. Nothing has been started or created;
/// the person who wrote the file corrects it at the place named.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is no TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// Where the parser stopped.
        place: Place,
        /// What it missed.
        message: String,
    },
    /// A key or a section that does not exist. Never ignored: a misspelt
    /// setting that silently keeps its default is worse than no start.
    #[error("{place}: unknown {what} {key:?}{hint}; allowed here: {allowed}",
        hint = Hint(*nearest), allowed = allowed.join(", "))]
    Unknown {
        /// Where the key stands.
        place: Place,
        /// `"section"` or `"key"`.
        what: &'static str,
        /// The key.
        key: String,
        /// What may stand there.
        allowed: &'static [&'static str],
        /// The allowed key that looks most like it, if one does.
        nearest: Option<&'static str>,
    },
    /// A key that has no default is absent.
    #[error("{place}: {key} is missing: expected {expected}")]
    Missing {
        /// The section that lacks it, or the start of the file.
        place: Place,
        /// The key, with its section.
        key: String,
        /// What to write there.
        expected: String,
    },
    /// A value of the wrong type, out of range, or none of the choices.
    #[error("{place}: {key}: found {found}, expected {expected}")]
    Value {
        /// Where the value stands.
        place: Place,
        /// The key, with its section.
        key: String,
        /// The value as written, shortened.
        found: String,
        /// The allowed range or choices.
        expected: String,
    },
    /// Two settings, each valid, that cannot both hold.
    #[error("{place}: {key}: {conflict}")]
    Conflict {
        /// Where the second one stands.
        place: Place,
        /// The key, with its section.
        key: String,
        /// What contradicts what, and the remedy.
        conflict: String,
    },
}

/// Prints a suggestion, or nothing.
struct Hint(Option<&'static str>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, " (did you mean {key:?}?)"),
            None => Ok(()),
        }
    }
}
