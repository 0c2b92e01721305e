//! One machine's disk: what programs see, and what would be there after the
//! power went.
//!
//! What programs see are real files below a private directory, so that memory
//! maps and plain reads work as ever. The simulator keeps, for every file,
//! what its sectors held before they were written and not synced, and for
//! every directory the changes of names that were not synced:
//!
//! ```text
//!   write  --> real file changes, the old sectors go to `undo`
//!   sync   --> `undo` is forgotten: the new bytes are durable
//!   crash  --> of `undo`, a random part is put back; of the names, too
//! ```
//!
//! After a sync that failed, the sectors that did not get to the disk are
//! `lost`: the page cache still shows them and holds them for clean, so no
//! later sync writes them; they are gone when the cache is dropped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::chance::Chance;
use super::cuts::CutOff;
use super::flips::{Adopted, Flips};
use super::names::{self, Entry, NameChange, Names, apply};

/// What a disk writes all of, or nothing.
pub const SECTOR: u64 = 512;

/// Names a file of this disk, whatever it is called.
pub type FileId = usize;

/// One file.
#[derive(Debug)]
pub struct Content {
    /// Open as long as the file can come back.
    pub file: File,
    /// Sectors as they were when last synced.
    pub undo: BTreeMap<u64, Vec<u8>>,
    /// Sectors that a failed sync left behind: as they are on the disk.
    pub lost: BTreeMap<u64, Vec<u8>>,
    pub durable_len: u64,
    /// The lengths that it has had since, and whether it came there by writes.
    pub lengths: Vec<(u64, bool)>,
    /// Bits that have flipped at rest.
    pub flips: Flips,
}

/// How often the disk fails; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// One in so many changes of bytes or names fails.
    pub error_one_in: u64,
    /// One in so many syncs fails.
    pub sync_error_one_in: u64,
    /// There is no space left.
    pub full: bool,
}

/// One disk.
#[derive(Debug)]
pub struct Disk {
    pub(super) root: PathBuf,
    pub(super) chance: Chance,
    pub(super) contents: Vec<Content>,
    by_inode: HashMap<u64, FileId>,
    /// What programs see, and what would be left.
    pub(super) live: Names,
    pub(super) durable: Names,
    pub(super) pending: Vec<NameChange>,
    pub trouble: Trouble,
    /// Nothing changes any more: the process that would change it is dead.
    frozen: bool,
    /// The process dies after so many more changes.
    fuse: Option<u64>,
    /// What was done, for the trace.
    pub log: Vec<String>,
    pub logging: bool,
    /// Its machine receives: what its logs lose is noted.
    pub receives: bool,
    pub cuts: Vec<CutOff>,
    /// Files that have come to stand in the place of damaged ones.
    pub adopted: Vec<Adopted>,
    /// Files that the node has let go of, by inode.
    pub let_go: Vec<u64>,
    /// Somebody else than the node does something.
    pub(super) guest: bool,
}

impl Disk {
    /// An empty disk in `root`, which exists and is empty.
    pub fn new(root: &Path, chance: Chance) -> Self {
        let attic = root.join("attic");
        fs::create_dir(&attic).unwrap();
        fs::create_dir(root.join("data")).unwrap();
        let names: Names =
            [(PathBuf::new(), [(OsString::from("data"), Entry::Directory)].into())].into();
        let mut live = names;
        live.insert(PathBuf::from("data"), BTreeMap::new());
        Self {
            root: root.to_path_buf(),
            chance,
            contents: Vec::new(),
            by_inode: HashMap::new(),
            durable: live.clone(),
            live,
            pending: Vec::new(),
            trouble: Trouble::default(),
            frozen: false,
            fuse: None,
            log: Vec::new(),
            logging: false,
            receives: false,
            cuts: Vec::new(),
            adopted: Vec::new(),
            let_go: Vec::new(),
            guest: false,
        }
    }

    /// Where programs keep their files.
    pub fn data_root(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.logging {
            self.log.push(text());
        }
    }

    /// The process dies after so many more changes.
    pub fn set_fuse(&mut self, changes: u64) {
        self.fuse = Some(changes);
    }

    /// Somebody else than the node does something: nothing of what is in the
    /// node's way concerns it.
    pub fn unhindered<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let trouble = std::mem::take(&mut self.trouble);
        let (frozen, fuse) = (std::mem::take(&mut self.frozen), self.fuse.take());
        let guest = std::mem::replace(&mut self.guest, true);
        let result = act(self);
        (self.trouble, self.frozen, self.fuse, self.guest) = (trouble, frozen, fuse, guest);
        result
    }

    /// Nothing changes any more.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The next process may begin.
    pub fn thaw(&mut self) {
        (self.frozen, self.fuse) = (false, None);
    }

    fn relative(&self, path: &Path) -> (PathBuf, OsString) {
        let below = path.strip_prefix(&self.root).expect("a path of this machine");
        let name = below.file_name().expect("a name").to_owned();
        (below.parent().unwrap().to_path_buf(), name)
    }

    /// Before each change: a dead process does nothing more, and what is asked
    /// of a failing disk may fail.
    fn gate(&mut self, what: &str, grows: bool) -> io::Result<()> {
        self.tick()?;
        if grows && self.trouble.full {
            self.note(|| format!("{what}: no space left"));
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if self.chance.one_in(self.trouble.error_one_in) {
            self.note(|| format!("{what}: fails"));
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn tick(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.fuse {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.frozen = true,
            }
        }
        if self.frozen { Err(io::Error::other("the process is dead")) } else { Ok(()) }
    }

    fn id_of(&self, file: &File) -> FileId {
        let inode = file.metadata().unwrap().ino();
        *self.by_inode.get(&inode).expect("a file of this machine")
    }

    fn content(&mut self, id: FileId) -> &mut Content {
        &mut self.contents[id]
    }

    // Bytes.

    /// Write all of `bytes`, or on a failing disk a part of them.
    pub fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.watch_over(|disk| disk.names_of(file));
        let outcome = self.gate("write", true);
        let bytes = match &outcome {
            Ok(()) => bytes,
            Err(_) if self.frozen => return outcome,
            Err(_) => {
                let part = self.chance.below(bytes.len() as u64 + 1);
                &bytes[..usize::try_from(part).unwrap()]
            }
        };
        let id = self.id_of(file);
        self.put(id, bytes, offset);
        outcome
    }

    /// A part of what a process that dies now had asked for.
    pub fn write_some(&mut self, file: &File, bytes: &[u8], offset: u64) {
        let part = usize::try_from(self.chance.below(bytes.len() as u64 + 1)).unwrap();
        let id = self.id_of(file);
        self.put(id, &bytes[..part], offset);
    }

    fn put(&mut self, id: FileId, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        self.note_old(id, offset, end);
        let content = &mut self.contents[id];
        if end > content.file.metadata().unwrap().len() {
            content.lengths.push((end, true));
        }
        content.flips.overwritten(offset..end);
        content.file.write_all_at(bytes, offset).unwrap();
    }

    /// Keep what the sectors of a range hold, before they change.
    fn note_old(&mut self, id: FileId, from: u64, to: u64) {
        let content = self.content(id);
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let lost = content.lost.remove(&sector);
            if content.undo.contains_key(&sector) {
                continue;
            }
            if lost.is_none() {
                content.flips.sector_changes(sector);
            }
            // What the disk has of a lost sector is not what is seen.
            let old = lost.unwrap_or_else(|| read_sector(&content.file, sector));
            content.undo.insert(sector, old);
        }
    }

    pub fn set_len(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        let len = file.metadata()?.len();
        self.gate("set_len", bytes > len)?;
        self.watch_over(|disk| disk.names_of(file));
        let id = self.id_of(file);
        if bytes < len {
            self.note_cut(file, bytes);
            self.note_old(id, bytes, len);
        }
        let content = self.content(id);
        content.lengths.push((bytes, false));
        content.flips.overwritten(bytes..u64::MAX);
        content.file.set_len(bytes)
    }

    /// Make a file durable, or fail; then any part of it may be durable.
    pub fn sync(&mut self, file: &File) -> io::Result<()> {
        self.tick()?;
        let id = self.id_of(file);
        let fails = self.chance.one_in(self.trouble.sync_error_one_in);
        if fails {
            self.note(|| "sync: fails".into());
            let mut chance = self.chance.fork();
            let content = self.content(id);
            for (sector, old) in std::mem::take(&mut content.undo) {
                if chance.percent(50) {
                    content.lost.entry(sector).or_insert(old);
                }
            }
            content.flips.synced(&content.lost);
            if chance.percent(50) {
                content.durable_len = content.file.metadata().unwrap().len();
                content.lengths.clear();
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let content = self.content(id);
        content.undo.clear();
        content.flips.synced(&content.lost);
        content.durable_len = content.file.metadata()?.len();
        content.lengths.clear();
        Ok(())
    }

    /// A byte changes at rest: nobody has written it.
    pub fn rot(&mut self, file: &File, offset: u64, byte: u8) {
        let id = self.id_of(file);
        self.contents[id].file.write_all_at(&[byte], offset).unwrap();
    }

    /// The cache of a file is dropped: what a failed sync lost shows as it is
    /// on the disk.
    pub fn drop_cache(&mut self, file: &File) {
        let id = self.id_of(file);
        self.show_lost(id);
    }

    pub(super) fn show_lost(&mut self, id: FileId) {
        let content = self.content(id);
        let len = content.file.metadata().unwrap().len();
        for (sector, old) in std::mem::take(&mut content.lost) {
            let at = sector * SECTOR;
            let most = usize::try_from(len.saturating_sub(at).min(SECTOR)).unwrap();
            content.file.write_all_at(&old[..most], at).unwrap();
            content.flips.sector_is_back(sector);
        }
        content.flips.overwritten(len..u64::MAX);
    }

    /// As [`Disk::sync`], by a process that syncs before it reads again.
    pub fn sync_and_reread(&mut self, file: &File) -> io::Result<()> {
        self.sync(file)?;
        self.drop_cache(file);
        Ok(())
    }

    // Names.

    /// Open a file, perhaps making it.
    pub fn open(&mut self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        let (directory, name) = self.relative(path);
        if self.entry(&directory, &name).is_some() {
            if self.frozen {
                return Err(io::Error::other("the process is dead"));
            }
            return options.open(path);
        }
        self.watch_over(|_| vec![directory.join(&name)]);
        self.gate("create", true)?;
        let file = options.open(path)?;
        let id = self.contents.len();
        let content = Content {
            file: OpenOptions::new().read(true).write(true).open(path)?,
            undo: BTreeMap::new(),
            lost: BTreeMap::new(),
            durable_len: 0,
            lengths: Vec::new(),
            flips: Flips::default(),
        };
        let inode = content.file.metadata()?.ino();
        self.by_inode.insert(inode, id);
        self.contents.push(content);
        self.change(NameChange::Set(directory, name, Entry::File(id)));
        Ok(file)
    }

    fn entry(&self, directory: &Path, name: &OsString) -> Option<Entry> {
        self.live.get(directory)?.get(name).copied()
    }

    fn change(&mut self, change: NameChange) {
        self.note(|| format!("{change}"));
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    pub fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.relative(path);
        if self.entry(&directory, &name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.gate("mkdir", true)?;
        fs::create_dir(path)?;
        self.change(NameChange::Set(directory, name, Entry::Directory));
        Ok(())
    }

    pub fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate("link", true)?;
        let (directory, name) = self.relative(from);
        let entry = self.entry(&directory, &name).ok_or(io::ErrorKind::NotFound)?;
        fs::hard_link(from, to)?;
        let (directory, name) = self.relative(to);
        self.watch_over(|_| vec![directory.join(&name)]);
        self.change(NameChange::Set(directory, name, entry));
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate("rename", false)?;
        let (from_directory, from_name) = self.relative(from);
        let (to_directory, to_name) = self.relative(to);
        self.entry(&from_directory, &from_name).ok_or(io::ErrorKind::NotFound)?;
        self.watch_over(|_| vec![from_directory.join(&from_name), to_directory.join(&to_name)]);
        self.note_name_lost(from, Some(to));
        if let Some(entry) = self.entry(&to_directory, &to_name) {
            if !self.note_adopted(from, to) {
                self.note_name_lost(to, None);
            }
            self.keep_in_attic(entry, to);
        }
        fs::rename(from, to)?;
        self.change(NameChange::Move((from_directory, from_name), (to_directory, to_name)));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.relative(path);
        let entry = self.entry(&directory, &name).ok_or(io::ErrorKind::NotFound)?;
        self.gate("remove", false)?;
        self.watch_over(|_| vec![directory.join(&name)]);
        self.note_name_lost(path, None);
        self.note_let_go(path);
        self.keep_in_attic(entry, path);
        fs::remove_file(path)?;
        self.change(NameChange::Remove(directory, name));
        Ok(())
    }

    pub fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.relative(path);
        self.gate("rmdir", false)?;
        fs::remove_dir(path)?;
        self.change(NameChange::Remove(directory, name));
        Ok(())
    }

    /// A file about to lose its last name may get it back by a crash.
    fn keep_in_attic(&self, entry: Entry, path: &Path) {
        let Entry::File(id) = entry else { return };
        let names = self.live.values().flat_map(BTreeMap::values);
        if names.filter(|other| **other == entry).count() == 1 {
            fs::hard_link(path, self.attic(id)).unwrap();
        }
    }

    pub(super) fn attic(&self, id: FileId) -> PathBuf {
        self.root.join("attic").join(id.to_string())
    }

    /// Make the names in a directory durable.
    pub fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        self.tick()?;
        let below = directory.strip_prefix(&self.root).unwrap().to_path_buf();
        if !self.live.contains_key(&below) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.compare(&below);
        if self.chance.one_in(self.trouble.sync_error_one_in) {
            self.note(|| format!("sync of directory {}: fails", below.display()));
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for change in names::take_with(&mut self.pending, &below) {
            apply(&mut self.durable, &change);
        }
        Ok(())
    }

    /// Nobody has changed names behind the simulator's back.
    fn compare(&self, directory: &Path) {
        let found: HashSet<OsString> = fs::read_dir(self.root.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        let known: HashSet<OsString> = self.live[directory].keys().cloned().collect();
        let differ: Vec<_> = found.symmetric_difference(&known).collect();
        assert!(
            differ.is_empty(),
            "{} was changed past the host: {differ:?}; see state::host",
            directory.display()
        );
    }

    // What is left.

    /// The bytes at `offset` of the file at `path` that a crash could not take, as
    /// if nothing had flipped.
    /// Nothing if its name, or a byte of the range, would be gone.
    pub fn durable(&self, path: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let below = path.strip_prefix(&self.root).unwrap();
        let mut at = PathBuf::new();
        let mut entry = Entry::Directory;
        for part in below.components() {
            let names = self.durable.get(&at).ok_or_else(|| format!("{at:?} is not durable"))?;
            entry = *names
                .get(part.as_os_str())
                .ok_or_else(|| format!("the name {part:?} in {at:?} is not durable"))?;
            at.push(part);
        }
        let Entry::File(id) = entry else { return Err(format!("{at:?} is no file")) };
        let durable_len = self.contents[id].durable_len;
        if durable_len < offset + bytes {
            return Err(format!("{at:?} has {durable_len} durable bytes"));
        }
        let mut found = self.durable_of(id, offset, bytes);
        Self::flip_back_durable(&self.contents[id], &mut found, offset);
        Ok(found)
    }

    /// Bytes of a file that a crash could not take.
    pub(super) fn durable_of(&self, id: FileId, offset: u64, bytes: u64) -> Vec<u8> {
        let content = &self.contents[id];
        let mut found = vec![0; usize::try_from(bytes).unwrap()];
        // What was cut off since it was synced is in `undo`.
        read_up_to(&content.file, &mut found, offset);
        for sector in offset / SECTOR..(offset + bytes).div_ceil(SECTOR) {
            // The older of the two is what the disk has.
            let old = content.undo.get(&sector).or_else(|| content.lost.get(&sector));
            for (place, byte) in old.into_iter().flatten().enumerate() {
                let position = sector * SECTOR + place as u64;
                if (offset..offset + bytes).contains(&position) {
                    found[usize::try_from(position - offset).unwrap()] = *byte;
                }
            }
        }
        found
    }

    /// The names under which a file is seen.
    pub fn names_of(&self, file: &File) -> Vec<PathBuf> {
        let entry = Entry::File(self.id_of(file));
        let mut found = Vec::new();
        for (directory, names) in &self.live {
            for (name, _) in names.iter().filter(|(_, other)| **other == entry) {
                found.push(directory.join(name));
            }
        }
        found
    }
}

/// One sector as it is seen, zeroes beyond the end.
fn read_sector(file: &File, sector: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SECTOR).unwrap()];
    read_up_to(file, &mut bytes, sector * SECTOR);
    bytes
}

/// Fill `bytes` from `offset` on, as far as the file goes.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) {
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], offset + have as u64).unwrap() {
            0 => break,
            count => have += count,
        }
    }
}
