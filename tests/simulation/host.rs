//! The host of a simulated node: its disk, by the calls of a real one.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use saltus::engine::writers::Writers;
use saltus::state::host::Host;

use super::chance::Chance;
use super::disk::Disk;

/// A machine's disk, shared by all that runs on the machine.
#[derive(Clone, Debug)]
pub struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    pub fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that databases have open for writing, by inode; nothing where the
/// file system does not tell.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles(Arc<Mutex<Option<BTreeSet<u64>>>>);

impl OpenFiles {
    pub fn set(&self, files: BTreeSet<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(files);
    }
}

impl Writers for OpenFiles {
    fn has_writer(&self, file: &File) -> io::Result<bool> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(files) => Ok(files.contains(&file.metadata()?.ino())),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// What a node asks of its host.
#[derive(Debug)]
pub struct SimulatedHost {
    pub disk: SharedDisk,
    pub chance: Mutex<Chance>,
}

impl Host for SimulatedHost {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        // Who syncs here drops the cache next, and reads what the disk has.
        self.disk.lock().sync_and_reread(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.disk.lock().sync_and_reread(file)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.lock().sync_directory(directory)
    }

    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        self.disk.lock().open(options, path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.lock().write(file, bytes, offset)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.disk.lock().set_len(file, bytes)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.lock().make_directory(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.lock().rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.lock().link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().remove(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.lock().remove_directory(directory)
    }

    fn random_u128(&self) -> io::Result<u128> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(u128::from(chance.next()) << 64 | u128::from(chance.next()))
    }
}
