//! What a replica takes away from its files, and what its quarantine held by
//! then that no crash could take.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use saltus::engine::quarantine::Manifest;
use saltus::ids::SpaceId;

use super::disk::{Disk, FileId};
use super::invariant::Invariant::Loss;
use super::names::Entry;

/// Bytes that are gone from a received segment, or a segment that has lost its
/// name.
#[derive(Debug)]
pub struct CutOff {
    /// The file, by a name below the disk's root.
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// What stood in the space's quarantine at that moment.
    pub kept: Vec<Kept>,
    /// The disk had no space left.
    pub full: bool,
    /// It is whole, beside what a seed brings.
    pub superseded: bool,
}

/// A piece of a quarantine, with a manifest that can be read.
#[derive(Debug)]
pub struct Kept {
    pub manifest: Manifest,
    pub bytes: Vec<u8>,
}

/// The space whose received segment a path below a disk's root is.
pub fn space_of_log(path: &Path) -> Option<SpaceId> {
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    match parts.as_slice() {
        ["data", space, "wal", _] | ["data", ".saltus", "retired", space, _] => space.parse().ok(),
        _ => None,
    }
}

/// The space whose old copy a path below a disk's root belongs to.
pub fn space_of_superseded(path: &Path) -> Option<SpaceId> {
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    match parts.as_slice() {
        ["data", ".saltus", "superseded", space, _, _] => space.parse().ok(),
        _ => None,
    }
}

impl Disk {
    /// A node changes one of these names, or what it leads to. The log of a
    /// database is nothing that a primary touches.
    pub(super) fn watch_over(&self, names: impl FnOnce(&Self) -> Vec<PathBuf>) {
        if self.receives || self.guest {
            return;
        }
        for name in names(self) {
            let touched = name.starts_with("data") && !name.starts_with("data/.saltus");
            assert!(!touched, "{Loss}: the primary changes {name:?} of its database");
        }
    }

    /// A name is about to go: perhaps it is a pin.
    pub(super) fn note_let_go(&mut self, path: &Path) {
        let below = path.strip_prefix(&self.root).unwrap();
        if !self.receives && !self.guest && below.starts_with("data/.saltus/pins") {
            self.let_go.push(path.metadata().unwrap().ino());
        }
    }

    /// A file is about to be cut to `bytes`.
    pub(super) fn note_cut(&mut self, file: &File, bytes: u64) {
        if !self.receives {
            return;
        }
        let names = self.names_of(file);
        if let Some(path) = names.into_iter().find(|name| space_of_log(name).is_some()) {
            self.push_cut(path, bytes, &read_all(file), None);
        }
    }

    /// A received segment is about to lose a name; it is given another, or none.
    pub(super) fn note_name_lost(&mut self, path: &Path, to: Option<&Path>) {
        let below = |path: &Path| path.strip_prefix(&self.root).unwrap().to_path_buf();
        let (path, to) = (below(path), to.map(below));
        let stays = to.as_ref().is_some_and(|to| {
            let beside = space_of_superseded(&path).is_some() && space_of_superseded(to).is_some();
            space_of_log(to).is_some() || beside
        });
        let is_copy = |path: &Path| space_of_log(path).or(space_of_superseded(path));
        if !self.receives || stays || is_copy(&path).is_none() {
            return;
        }
        let file = File::open(self.root.join(&path)).unwrap();
        let others = self.names_of(&file).into_iter().filter(|name| *name != path);
        if others.into_iter().all(|name| is_copy(&name).is_none()) {
            self.push_cut(path, 0, &read_all(&file), to.as_deref());
        }
    }

    fn push_cut(&mut self, path: PathBuf, offset: u64, bytes: &[u8], to: Option<&Path>) {
        let Some(space) = space_of_log(&path).or(space_of_superseded(&path)) else { return };
        let superseded = to.is_some_and(|to| space_of_superseded(to).is_some());
        let bytes = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default().to_vec();
        let mut kept = self.kept(&space);
        // A rename is there as a whole, or not at all.
        if let Some(manifest) = to.and_then(|to| self.manifest_of(to)) {
            kept.push(Kept { manifest, bytes: bytes.clone() });
        }
        let full = self.trouble.full;
        self.cuts.push(CutOff { path, offset, bytes, kept, full, superseded });
    }

    /// What the quarantine of a space holds, whatever happens.
    pub fn kept(&self, space: &SpaceId) -> Vec<Kept> {
        let directory = Path::new("data/.saltus/quarantine").join(space.as_str());
        let mut kept = Vec::new();
        for (name, entry) in self.durable.get(&directory).into_iter().flatten() {
            let path = directory.join(name);
            if let Entry::File(id) = entry
                && path.extension().is_none_or(|extension| extension != "json")
                && self.is_durable(&path)
                && let Some(manifest) = self.manifest_of(&path)
            {
                kept.push(Kept { manifest, bytes: self.durable_bytes(*id) });
            }
        }
        kept
    }

    fn manifest_of(&self, bytes: &Path) -> Option<Manifest> {
        let mut path = bytes.as_os_str().to_owned();
        path.push(".json");
        let path = PathBuf::from(path);
        let entry = self.durable.get(path.parent()?)?.get(path.file_name()?)?;
        let Entry::File(id) = entry else { return None };
        serde_json::from_slice(&self.durable_bytes(*id)).ok().filter(|_| self.is_durable(&path))
    }

    /// Every name on the way is durable.
    fn is_durable(&self, below: &Path) -> bool {
        below.ancestors().take_while(|path| path.file_name().is_some()).all(|path| {
            let parent = path.parent().unwrap();
            let names = self.durable.get(parent);
            names.is_some_and(|names| names.contains_key(path.file_name().unwrap()))
        })
    }

    fn durable_bytes(&self, id: FileId) -> Vec<u8> {
        self.durable_of(id, 0, self.contents[id].durable_len)
    }
}

pub(super) fn read_all(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
