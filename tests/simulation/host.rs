//! The host of a simulated node: its disk, by the calls of a real one.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use saltus::engine::writers::Writers;
use saltus::state::host::Host;

use super::chance::Chance;
use super::clock::Time;
use super::disk::Disk;

/// What a disk reads at once, or not at all.
const SECTOR: u64 = 512;

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

/// Sectors of a replica's segments that cannot be read, one after the other, each for a
/// while.
///
/// It has a chance of its own: a seed without them takes the course that it would take
/// if there were none.
#[derive(Debug)]
pub struct Sectors {
    chance: Chance,
    /// One read in so many meets a new one.
    one_in: u64,
    /// How long it lasts.
    lasts: Duration,
    time: Time,
    bad: Option<Sector>,
    /// Reads that were refused.
    refused: u64,
}

#[derive(Debug)]
struct Sector {
    path: PathBuf,
    offset: u64,
    until: u64,
}

impl Sectors {
    /// One seed in four has them.
    pub fn draw(seed: u64, machine: usize, time: &Time) -> Option<Self> {
        let mut of_seed = Chance::new(seed ^ 0x7365_6374_6f72_7320);
        if machine == 0 || !of_seed.one_in(4) {
            return None;
        }
        let mut chance = Chance::new(of_seed.next() ^ machine as u64);
        Some(Self {
            one_in: *chance.pick(&[2, 10, 40]),
            lasts: Duration::from_millis(*chance.pick(&[10, 1_000, 20_000])),
            time: time.clone(),
            bad: None,
            refused: 0,
            chance,
        })
    }

    fn may_read(&mut self, path: &Path, offset: u64, bytes: u64) -> io::Result<()> {
        let now = self.time.passed_ns();
        self.bad.take_if(|bad| bad.until <= now);
        let end = path.metadata().map_or(0, |file| file.len()).min(offset + bytes);
        if self.bad.is_none() && offset < end && self.chance.one_in(self.one_in) {
            let at = self.chance.within(offset, end - 1) / SECTOR * SECTOR;
            let lasts = u64::try_from(self.chance.delay(self.lasts).as_nanos()).unwrap();
            self.bad = Some(Sector { path: path.into(), offset: at, until: now + lasts });
        }
        let is_hit = self.bad.as_ref().is_some_and(|bad| {
            bad.path == path && offset < bad.offset + SECTOR && bad.offset < offset + bytes
        });
        if !is_hit {
            return Ok(());
        }
        self.refused += 1;
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// What a node asks of its host.
#[derive(Debug)]
pub struct SimulatedHost {
    pub disk: SharedDisk,
    pub chance: Mutex<Chance>,
    pub sectors: Mutex<Option<Sectors>>,
}

impl SimulatedHost {
    /// How many reads were refused so far.
    pub fn refused(&self) -> u64 {
        let sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner);
        sectors.as_ref().map_or(0, |sectors| sectors.refused)
    }

    /// From now on these cannot be read, or everything can be.
    pub fn fail_reads(&self, sectors: Option<Sectors>) {
        *self.sectors.lock().unwrap_or_else(PoisonError::into_inner) = sectors;
    }
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

    fn may_read(&self, path: &Path, offset: u64, bytes: u64) -> io::Result<()> {
        let mut sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner);
        sectors.as_mut().map_or(Ok(()), |sectors| sectors.may_read(path, offset, bytes))
    }

    fn random_u128(&self) -> io::Result<u128> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(u128::from(chance.next()) << 64 | u128::from(chance.next()))
    }
}
