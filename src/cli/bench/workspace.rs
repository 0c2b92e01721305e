//! The directory of one bench, and the way out of it.

use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cli::interrupt::Interrupt;
use crate::cli::output;
use crate::cli::scratch::Scratch;

/// A directory of its own, removed at the end, and an ear for Ctrl-C.
#[derive(Debug)]
pub(super) struct Workspace {
    directory: Scratch,
    interrupt: Interrupt,
    /// Whether anybody is there to read what is going on.
    watched: bool,
}

impl Workspace {
    /// A new directory in `parent`, or in the one for temporary files.
    pub(super) fn new(parent: Option<&Path>, json: bool) -> anyhow::Result<Self> {
        let interrupt = Interrupt::install().context("cannot handle signals")?;
        let root = parent.map_or_else(env::temp_dir, Path::to_path_buf);
        // Children are told paths, and stand elsewhere.
        let root = fs::canonicalize(&root)
            .with_context(|| format!("cannot work in {}", root.display()))?;
        let watched = !json && io::stderr().is_terminal();
        Ok(Self { directory: Scratch::new(&root, "bench")?, interrupt, watched })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Say what is going on, if somebody is watching.
    pub(super) fn say(&self, line: &str) {
        if self.watched {
            output::error(line);
        }
    }

    /// Wait.
    ///
    /// # Errors
    ///
    /// Somebody asked the bench to stop: it is to clean up.
    pub(super) fn pause(&self, duration: Duration) -> anyhow::Result<()> {
        if self.interrupt.pause(duration) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Remove what lies at `name`, if anything does, and let the file system
    /// finish with it, so that it does not do so in the next measurement.
    pub(super) fn clear(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path().join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        self.settle()
    }

    /// Commit what the file system has pending.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        File::open(self.path())
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("cannot sync {}", self.path().display()))
    }
}
