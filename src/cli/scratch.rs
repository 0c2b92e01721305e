//! A directory for the time of one command.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, bail};

use super::output;

/// A private directory, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// A new directory in `root`; its name says which command made it.
    pub(super) fn new(root: &Path, command: &str) -> anyhow::Result<Self> {
        for attempt in 0..100 {
            let path = root.join(format!("saltus-{command}-{}-{attempt}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, keep: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        bail!("{} is full of old saltus-{command}-* directories: remove them", root.display())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leave it there at the end, and say where, if `keep`.
    pub(super) fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Self { path, keep } = self;
        if *keep {
            output::error(&format!("kept {}", path.display()));
        } else if let Err(error) = fs::remove_dir_all(&*path) {
            output::error(&format!("cannot remove {}: {error}", path.display()));
        }
    }
}
