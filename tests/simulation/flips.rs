//! Bits of a replica's logs that have flipped at rest, and what stands in the
//! place of a file in which some had.
//!
//! The oracle compares what a disk holds as if none of these bits had flipped:
//! whatever else differs, differs. A byte that is written again has not flipped
//! any more, and what a crash brings back of a sector, it brings back as it was.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::cuts::space_of_log;
use super::disk::{Content, Disk, FileId, SECTOR};
use super::names::Entry;

/// The bytes of one file that have flipped, each with its bits.
#[derive(Debug, Default)]
pub struct Flips {
    /// As programs see the file.
    seen: BTreeMap<u64, u8>,
    /// As its sectors are on the disk, where that is something else.
    beneath: BTreeMap<u64, u8>,
}

/// The bytes of a sector.
fn sector_of(sector: u64) -> Range<u64> {
    sector * SECTOR..(sector + 1) * SECTOR
}

fn within(flips: &BTreeMap<u64, u8>, range: Range<u64>) -> Vec<(u64, u8)> {
    flips.range(range).map(|(at, bits)| (*at, *bits)).collect()
}

fn forget(flips: &mut BTreeMap<u64, u8>, range: Range<u64>) {
    flips.retain(|at, _| !range.contains(at));
}

impl Flips {
    /// A sector that is clean is about to change.
    pub fn sector_changes(&mut self, sector: u64) {
        forget(&mut self.beneath, sector_of(sector));
        self.beneath.extend(within(&self.seen, sector_of(sector)));
    }

    /// Bytes are written, or cut off.
    pub fn overwritten(&mut self, range: Range<u64>) {
        forget(&mut self.seen, range);
    }

    /// All is on the disk but for these sectors.
    pub fn synced(&mut self, lost: &BTreeMap<u64, Vec<u8>>) {
        self.beneath.retain(|at, _| lost.contains_key(&(at / SECTOR)));
    }

    /// A sector is seen as it is on the disk.
    pub fn sector_is_back(&mut self, sector: u64) {
        forget(&mut self.seen, sector_of(sector));
        self.seen.extend(within(&self.beneath, sector_of(sector)));
        forget(&mut self.beneath, sector_of(sector));
    }

    /// A crash has left a file of that length.
    pub fn crashed(&mut self, len: u64) {
        forget(&mut self.seen, len..u64::MAX);
        self.beneath.clear();
    }
}

/// A file that has come to stand in the place of a damaged one.
#[derive(Debug)]
pub struct Adopted {
    /// Its name, below the disk's root.
    pub path: PathBuf,
    /// What it holds, and what of that no crash could take.
    pub seen: Vec<u8>,
    pub durable: Vec<u8>,
    /// The damaged one has another name that no crash could take.
    pub is_kept: bool,
}

fn flip_back(bytes: &mut [u8], offset: u64, flips: &BTreeMap<u64, u8>) {
    for (at, bits) in flips.range(offset..offset + bytes.len() as u64) {
        bytes[usize::try_from(at - offset).unwrap()] ^= bits;
    }
}

impl Disk {
    fn file_at(&self, path: &Path) -> Option<FileId> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        match self.live.get(below.parent()?)?.get(below.file_name()?)? {
            Entry::File(id) => Some(*id),
            Entry::Directory => None,
        }
    }

    /// Bits of a byte flip, if it is at rest: it has been durable for a while.
    /// All the bits of it that have flipped by then.
    pub fn flip(&mut self, path: &Path, offset: u64, bits: u8) -> Option<u8> {
        self.durable(path, offset, 1).ok()?;
        let id = self.file_at(path)?;
        let content = &mut self.contents[id];
        let sector = offset / SECTOR;
        let in_motion = content.undo.contains_key(&sector) || content.lost.contains_key(&sector);
        if in_motion || offset >= content.file.metadata().unwrap().len() {
            return None;
        }
        let mut byte = [0];
        content.file.read_exact_at(&mut byte, offset).unwrap();
        content.file.write_all_at(&[byte[0] ^ bits], offset).unwrap();
        let all = content.flips.seen.remove(&offset).unwrap_or(0) ^ bits;
        if all != 0 {
            content.flips.seen.insert(offset, all);
        }
        let below = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        self.note(|| format!("{below} rots at {offset}: {bits:#04x}"));
        Some(all)
    }

    /// The bytes of a file that have flipped, as it is seen.
    pub fn flipped(&self, path: &Path) -> Vec<u64> {
        let flips = self.file_at(path).map(|id| &self.contents[id].flips.seen);
        flips.map_or(Vec::new(), |flips| flips.keys().copied().collect())
    }

    /// Somebody writes the good bytes back, durably.
    pub fn write_good_bytes(&mut self, path: &Path) {
        let bytes = self.unrotten(path);
        let Some(id) = self.file_at(path) else { return };
        let content = &mut self.contents[id];
        content.file.write_all_at(&bytes, 0).unwrap();
        content.flips.seen.clear();
    }

    /// What would be seen of a file if nothing had flipped.
    pub fn unrotten(&self, path: &Path) -> Vec<u8> {
        let mut bytes = std::fs::read(path).unwrap_or_default();
        if let Some(id) = self.file_at(path) {
            flip_back(&mut bytes, 0, &self.contents[id].flips.seen);
        }
        bytes
    }

    /// The same, of bytes that were read past the cache.
    pub(super) fn flip_back_durable(content: &Content, bytes: &mut [u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        let mut flips = content.flips.beneath.clone();
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            if !content.undo.contains_key(&sector) && !content.lost.contains_key(&sector) {
                flips.extend(within(&content.flips.seen, sector_of(sector)));
            }
        }
        flip_back(bytes, offset, &flips);
    }

    /// Whether a rename puts a file in the place of a damaged one. What had
    /// flipped there before it was copied has flipped in the new file, too.
    pub(super) fn note_adopted(&mut self, from: &Path, to: &Path) -> bool {
        let below = |path: &Path| path.strip_prefix(&self.root).unwrap().to_path_buf();
        let (from, to) = (below(from), below(to));
        let is_built = from.starts_with("data/.saltus/mending");
        if !self.receives || !is_built || space_of_log(&to).is_none() {
            return false;
        }
        let Some(new) = self.file_at(&from) else { return false };
        let old = self.file_at(&to);
        for (at, bits) in
            old.map_or(Vec::new(), |old| within(&self.contents[old].flips.seen, 0..u64::MAX))
        {
            let byte = |id: FileId| {
                let mut byte = [0];
                self.contents[id].file.read_exact_at(&mut byte, at).ok().map(|()| byte[0])
            };
            if old.and_then(byte) == byte(new) {
                self.contents[new].flips.seen.insert(at, bits);
            }
        }
        let content = &self.contents[new];
        let mut seen = super::cuts::read_all(&content.file);
        flip_back(&mut seen, 0, &content.flips.seen);
        let mut durable = self.durable_of(new, 0, content.durable_len);
        Self::flip_back_durable(content, &mut durable, 0);
        let is_kept = old.is_none_or(|old| {
            let mut names = self.durable.iter().flat_map(|(directory, names)| {
                let of_node = directory.starts_with("data/.saltus/mending");
                names.values().filter(move |_| of_node)
            });
            names.any(|entry| *entry == Entry::File(old))
        });
        self.adopted.push(Adopted { path: to, seen, durable, is_kept });
        true
    }
}
