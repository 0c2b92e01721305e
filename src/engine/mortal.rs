//! A host for tests, of which a process is killed in the midst of its work.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::host::{Host, ThisHost};

/// A host that stops for good after so many changes.
#[derive(Debug)]
pub(super) struct Mortal(pub(super) AtomicU64);

impl Mortal {
    fn live(&self) -> io::Result<()> {
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("killed")),
        }
    }
}

impl Host for Mortal {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.live()?;
        ThisHost.sync_data(file)
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.live()?;
        ThisHost.sync_all(file)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.sync_directory(directory)
    }
    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        self.live()?;
        ThisHost.open(options, path)
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.live()?;
        ThisHost.write_at(file, bytes, offset)
    }
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.live()?;
        ThisHost.set_len(file, bytes)
    }
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.make_directory(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.remove(path)
    }
    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.live()?;
        ThisHost.remove_directory(directory)
    }
    fn random_u128(&self) -> io::Result<u128> {
        ThisHost.random_u128()
    }
}
