//! Reigns: a new epoch begins, and later a primary of the old one is back, as
//! from a snapshot of its machine. It must be obeyed by nobody who knows better.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use saltus::ids::{Epoch, SpaceId};
use saltus::lsn::Lsn;
use saltus::state::catalog::{CATALOG_FILE, Catalog, Change};
use saltus::state::host::Host;

use super::world::World;

/// How far it is.
#[derive(Debug, Default)]
pub enum Succession {
    #[default]
    First,
    /// A new epoch has begun in these spaces; the catalog before it is kept. With
    /// the epoch in which each space was then.
    Second { old: Vec<u8>, spaces: Vec<(SpaceId, Epoch)>, reigns: BTreeMap<SpaceId, Epoch> },
    /// The old catalog is in place, the right one is kept.
    Back { right: Vec<u8>, pins: Vec<Kept> },
    /// The right one is in place again.
    Over,
}

/// A pin, and the name under which it is kept meanwhile: the right catalog and
/// its pins belong together.
#[derive(Debug)]
pub struct Kept {
    pin: PathBuf,
    kept: PathBuf,
}

impl World {
    fn keep_pins(&mut self) -> Vec<Kept> {
        let root = self.machines[0].data_root();
        let directory = root.join(".kept");
        let mut pins = Vec::new();
        let spaces = self.databases.iter().map(|database| database.space.clone());
        for space in spaces {
            let entries = fs::read_dir(root.join(".saltus/pins").join(space.as_str()));
            for entry in entries.into_iter().flatten() {
                let pin = entry.unwrap().path();
                let number = pin.file_name().unwrap().to_str().unwrap().to_owned();
                pins.push(Kept { pin, kept: directory.join(format!("{space}.{number}")) });
            }
        }
        pins.sort_by(|a, b| a.pin.cmp(&b.pin));
        self.machines[0].disk.lock().unhindered(|disk| {
            disk.make_directory(&directory).unwrap();
            for Kept { pin, kept } in &pins {
                disk.link(pin, kept).unwrap();
            }
            disk.sync_directory(&root).unwrap();
            disk.sync_directory(&directory).unwrap();
        });
        pins
    }

    fn give_pins_back(&mut self, pins: &[Kept]) {
        self.machines[0].disk.lock().unhindered(|disk| {
            for Kept { pin, kept } in pins {
                if pin.exists() {
                    disk.remove(pin).unwrap();
                }
                disk.rename(kept, pin).unwrap();
            }
            for Kept { pin, .. } in pins {
                disk.sync_directory(pin.parent().unwrap()).unwrap();
            }
        });
    }

    /// The next step of the succession, if it is time for it.
    pub fn old_catalog(&mut self) {
        match &self.succession {
            // A catalog that does not know a space would draw another stream.
            Succession::First if self.oracle.streams.len() == self.databases.len() => {
                self.begin_reign();
            }
            Succession::Second { reigns, .. } if self.has_cut_since(reigns).is_none() => {}
            Succession::Second { reigns, .. } if self.has_cut_since(reigns) == Some(true) => {
                self.say(|| {
                    "the primary has begun an epoch by itself: its old catalog would too".into()
                });
                self.succession = Succession::Over;
            }
            Succession::Second { old, spaces, .. } => {
                let told = (1..self.machines.len()).all(|replica| {
                    spaces.iter().all(|(space, epoch)| {
                        let said = self.oracle.said.get(&(replica, space.clone()));
                        said.and_then(|said| said.highest_epoch) >= Some(*epoch)
                    })
                });
                if told {
                    let old = old.clone();
                    self.kill(0);
                    let right = self.exchange_catalog(&old);
                    self.oracle.stale = true;
                    self.say(|| "the primary's catalog is of the epoch before".into());
                    let pins = self.keep_pins();
                    self.succession = Succession::Back { right, pins };
                }
            }
            Succession::Back { .. } => self.right_catalog(),
            Succession::First | Succession::Over => {}
        }
    }

    /// The primary has cut a stream since its catalog was put aside, because of what
    /// its source has lost. One that has forgotten that finds the same loss, and
    /// gives the same number to another reign. Only the catalog of one that runs says
    /// it, and only where it can be read.
    fn has_cut_since(&self, reigns: &BTreeMap<SpaceId, Epoch>) -> Option<bool> {
        let records = self.machines[0].running.as_ref()?.catalog.load().ok()?;
        let mut begun = records.iter().map(|(space, record)| (space, record.highest_epoch));
        Some(begun.any(|(space, epoch)| Some(&epoch) > reigns.get(space)))
    }

    /// The right catalog is in place from now on.
    pub fn right_catalog(&mut self) {
        if let Succession::Back { right, pins } = std::mem::take(&mut self.succession) {
            self.kill(0);
            self.give_pins_back(&pins);
            self.exchange_catalog(&right);
            self.oracle.stale = false;
            self.say(|| "the primary's catalog is the right one again".into());
        }
        self.succession = Succession::Over;
    }

    fn catalog_path(&self) -> PathBuf {
        self.machines[0].data_root().join(".saltus").join(CATALOG_FILE)
    }

    /// Put these bytes in the place of the catalog; what was there comes back.
    fn exchange_catalog(&mut self, bytes: &[u8]) -> Vec<u8> {
        let path = self.catalog_path();
        let before = fs::read(&path).unwrap();
        let mut disk = self.machines[0].disk.lock();
        disk.unhindered(|disk| {
            let file = disk.open(OpenOptions::new().read(true).write(true), &path).unwrap();
            disk.set_len(&file, bytes.len() as u64).unwrap();
            disk.write(&file, bytes, 0).unwrap();
            disk.sync(&file).unwrap();
        });
        before
    }

    fn begin_reign(&mut self) {
        if !self.catalog_path().exists() {
            return;
        }
        self.kill(0);
        let old = fs::read(self.catalog_path()).unwrap();
        self.machines[0].disk.lock().thaw();
        let trouble = std::mem::take(&mut self.machines[0].disk.lock().trouble);
        let host: Arc<dyn Host> = self.machines[0].host();
        let catalog = Catalog::open_on(&host, self.catalog_path().parent().unwrap()).unwrap();
        let disk = self.machines[0].disk.lock();
        let mut whole = Vec::new();
        for database in &self.databases {
            if self.oracle.is_whole_at_source(database, &disk) {
                whole.push(database.space.clone());
            }
        }
        drop(disk);
        let mut spaces = Vec::new();
        let mut changes = Vec::new();
        let mut reigns = BTreeMap::new();
        for (space, record) in catalog.load().unwrap() {
            reigns.insert(space.clone(), record.highest_epoch);
            let Some(stream) = self.oracle.streams.get(&space) else { continue };
            if record.history != stream.history(Lsn(u64::MAX)) || !whole.contains(&space) {
                // A reign begins where the log of its primary ends, which the
                // world knows only of one that has lost nothing.
                continue;
            }
            let epoch = Epoch(record.highest_epoch.0 + 1);
            let start = Lsn(stream.present().end());
            // As every beginning of a reign, it is remembered as a boundary.
            if let Some(mark) = stream.present().mark(start).filter(|_| start > Lsn::ZERO) {
                changes.push((space.clone(), Change::AddMark(mark)));
            }
            changes.push((space.clone(), Change::Epoch { epoch, start }));
            reigns.insert(space.clone(), epoch);
            spaces.push((space, epoch));
        }
        // In a space without a new epoch nobody knows that the old catalog is one.
        let all = spaces.len() == self.databases.len();
        catalog.commit(if all { &changes } else { &[] }).unwrap();
        drop(catalog);
        self.machines[0].disk.lock().trouble = trouble;
        if !all {
            return;
        }
        self.say(|| format!("epochs begin: {spaces:?}"));
        self.succession = Succession::Second { old, spaces, reigns };
    }
}
