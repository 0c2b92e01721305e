//! Where bytes go that do not belong to a stream any more. Nothing is ever
//! removed from there by this process.
//!
//! ```text
//!   quarantine/<space>/<segment>.<offset>.<n>         the bytes
//!                      <segment>.<offset>.<n>.json    what they are: a manifest
//!                                 |        +-- 0, or the first that is free
//!                                 +----------- where in the segment they lay
//! ```
//!
//! Bytes and manifest are durable before anything is cut. A stop in between
//! leaves a copy of bytes that are still where they were, perhaps without a
//! manifest; the next attempt takes another number.

#![forbid(unsafe_code)]

mod piece;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use piece::{Extent, Manifest, Piece, Reason, find, list, tally};

use super::scrub::FreeBytes;
use crate::ids::SpaceId;
use crate::limits::{CUT_SLICE_BYTES, KEEPING_FREE_BYTES, KEPT_AT_ONCE_BYTES, VERIFY_PIECE_BYTES};
use crate::planted::{self, Bug};
use crate::state::host::{Host, ensure_directory};
use crate::wal::search::read_up_to;

/// The quarantine of one space.
#[derive(Debug)]
pub(super) struct Quarantine {
    root: PathBuf,
    directory: PathBuf,
    host: Arc<dyn Host>,
    /// How many bytes are free, and how many of them have to stay so.
    free_bytes: FreeBytes,
    left_free: u64,
}

impl Quarantine {
    /// Below `root`, which is made when it is first needed.
    pub(super) fn new(host: Arc<dyn Host>, root: &Path, space: &SpaceId) -> Self {
        Self {
            root: root.to_path_buf(),
            directory: root.join(space.as_str()),
            host,
            free_bytes: crate::io::free_bytes,
            left_free: 0,
        }
    }

    /// One that copies only what leaves the log of all spaces its room.
    pub(super) fn that_leaves_room(self, free_bytes: FreeBytes) -> Self {
        Self { free_bytes, left_free: KEEPING_FREE_BYTES, ..self }
    }

    /// Move a whole file here. Durable when it returns the new path.
    pub(super) fn take(&self, path: &Path, manifest: &Manifest) -> io::Result<PathBuf> {
        let (to, _) = self.reserve(manifest)?;
        let moved = self
            .describe(&to, manifest)
            .and_then(|()| self.host.sync_directory(&self.directory))
            .and_then(|()| self.host.rename(path, &to));
        if let Err(error) = moved {
            if path.symlink_metadata().is_ok() {
                // Nothing is here then. What cannot be removed takes only a name.
                let _ = self.host.remove(&piece::manifest_path(&to));
                let _ = self.host.remove(&to);
            }
            return Err(error);
        }
        self.host.sync_directory(&self.directory)?;
        if let Some(parent) = path.parent() {
            self.host.sync_directory(parent)?;
        }
        Ok(to)
    }

    /// Copy everything from the manifest's offset on here, make that durable,
    /// then cut the file there and make that durable too. Returns the copy's
    /// path. A long copy is made in slices, and `between` is called after each.
    pub(super) fn cut(
        &self,
        path: &Path,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<PathBuf> {
        let file = self.host.open(OpenOptions::new().read(true).write(true), path)?;
        let to = self.save_anew(&file, manifest, between)?;
        self.end_at(&file, manifest.offset)?;
        Ok(to)
    }

    /// Copy everything from the manifest's offset on here, and make that
    /// durable; the file stays what it is. A whole copy that an attempt left
    /// which was stopped behind it is taken for this one. Returns the copy's
    /// path. `between` is called as in [`Quarantine::cut`], also while such a
    /// copy is compared.
    pub(super) fn copy(
        &self,
        path: &Path,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<PathBuf> {
        let file = self.host.open(OpenOptions::new().read(true), path)?;
        match self.made_before(&file, manifest, between)? {
            Some(there) => Ok(there),
            None => self.save_anew(&file, manifest, between),
        }
    }

    /// A whole copy of the file's end that is here already, durable. One that
    /// cannot be read is none.
    fn made_before(
        &self,
        file: &File,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<Option<PathBuf>> {
        for number in 0_u64.. {
            let path = self.path_of(manifest, number);
            if !path.try_exists()? {
                break;
            }
            let Some(made) = piece::manifest(&path).filter(|made| is_of_same(made, manifest))
            else {
                continue;
            };
            let copy = self.host.open(OpenOptions::new().read(true).write(true), &path);
            let compared = copy.and_then(|copy| {
                Ok(is_end_of(&copy, file, manifest.offset, between)?.then_some(copy))
            });
            let copy = match compared {
                Ok(Some(copy)) => copy,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "a piece in the quarantine cannot be compared: another copy is made"
                    );
                    continue;
                }
            };
            // Whoever made it may have been stopped before he had synced it.
            self.host.sync_all(&copy)?;
            self.describe(&path, &made)?;
            self.host.sync_directory(&self.directory)?;
            return Ok(Some(path));
        }
        Ok(None)
    }

    /// Everything from the manifest's offset on, in a new file; or nothing.
    fn save_anew(
        &self,
        file: &File,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<PathBuf> {
        self.has_room(file, manifest, between)?;
        let (to, copy) = self.reserve(manifest)?;
        if let Err(error) = self.save(file, &copy, &to, manifest, between) {
            // Half a copy is none. What cannot be removed only takes room.
            let _ = self.host.remove(&to);
            let _ = self.host.remove(&piece::manifest_path(&to));
            return Err(error);
        }
        Ok(to)
    }

    /// Whether there is room for the copy, as far as that can be told. One that
    /// does not fit is refused before a byte of it is written: it is tried again
    /// and again, and would take the disk from all other spaces each time.
    fn has_room(
        &self,
        file: &File,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let found = file.metadata()?;
        // What the file has no blocks for needs none here.
        let allocated = found.blocks().saturating_mul(512);
        let most = found.len().saturating_sub(manifest.offset).min(allocated);
        if most <= KEPT_AT_ONCE_BYTES {
            return Ok(());
        }
        let there = self.directory.ancestors().find(|path| path.is_dir());
        let Some((there, free)) =
            there.and_then(|path| Some((path, (self.free_bytes)(path).ok()?)))
        else {
            return Ok(());
        };
        if free >= most.saturating_add(self.left_free) {
            return Ok(());
        }
        let bytes = to_write(file, manifest.offset, between)?;
        let needed = bytes.saturating_add(self.left_free);
        if free >= needed {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "{bytes} bytes are to be kept in {}{}, and {free} are free on {}: {} more are \
                 needed",
                self.directory.display(),
                match self.left_free {
                    0 => String::new(),
                    left => format!(", {left} are left to what is received"),
                },
                there.display(),
                needed - free
            ),
        ))
    }

    /// Cut a file without a copy of what goes, and make that durable.
    pub(super) fn drop_end(&self, path: &Path, offset: u64) -> io::Result<()> {
        let file = self.host.open(OpenOptions::new().read(true).write(true), path)?;
        self.end_at(&file, offset)
    }

    fn end_at(&self, file: &File, offset: u64) -> io::Result<()> {
        self.host.set_len(file, offset)?;
        self.host.sync_all(file)
    }

    /// Make a copy of everything from `offset` on durable.
    fn save(
        &self,
        file: &File,
        copy: &File,
        to: &Path,
        manifest: &Manifest,
        between: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let offset = manifest.offset;
        let write = |bytes: &[u8], at| match needs_disk(bytes) {
            true => self.host.write_at(copy, bytes, at - offset),
            false => Ok(()),
        };
        let end = each_piece(file, offset, write, || {
            // Or the last sync would be of all of it.
            self.host.sync_data(copy)?;
            between();
            Ok(())
        })?;
        self.host.set_len(copy, end - offset)?;
        if !planted::is(Bug::CutBeforeSaved) {
            self.host.sync_all(copy)?;
        }
        self.describe(to, manifest)?;
        self.host.sync_directory(&self.directory)
    }

    fn path_of(&self, manifest: &Manifest, number: u64) -> PathBuf {
        self.directory.join(format!("{}.{}.{number}", manifest.segment, manifest.offset))
    }

    /// A new, empty file of the first free name.
    fn reserve(&self, manifest: &Manifest) -> io::Result<(PathBuf, File)> {
        for directory in [&self.root, &self.directory] {
            ensure_directory(&*self.host, directory)?;
        }
        let mut number = 0_u64;
        loop {
            let path = self.path_of(manifest, number);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            match self.host.open(&options, &path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Write the manifest beside the bytes; the caller syncs the directory.
    fn describe(&self, bytes: &Path, manifest: &Manifest) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = self.host.open(&options, &piece::manifest_path(bytes))?;
        self.host.write_at(&file, &text, 0)?;
        self.host.sync_all(&file)
    }
}

/// False for a tail of zeroes, as a host's crash leaves it.
fn needs_disk(piece: &[u8]) -> bool {
    piece.iter().any(|byte| *byte != 0)
}

/// How much of what lies in a file from `offset` on a copy has to write. `between`
/// is called after each slice.
fn to_write(file: &File, offset: u64, between: &mut dyn FnMut()) -> io::Result<u64> {
    let mut bytes = 0;
    let count = |piece: &[u8], _| {
        bytes += if needs_disk(piece) { piece.len() as u64 } else { 0 };
        Ok(())
    };
    each_piece(file, offset, count, || {
        between();
        Ok(())
    })?;
    Ok(bytes)
}

/// Read a file from `offset` on, and say where it ends. `take` is given each piece
/// and where it begins; after each slice `between` is called.
fn each_piece(
    file: &File,
    offset: u64,
    mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
    mut between: impl FnMut() -> io::Result<()>,
) -> io::Result<u64> {
    let mut piece = vec![0; VERIFY_PIECE_BYTES];
    let (mut at, mut slice_ends) = (offset, offset + CUT_SLICE_BYTES);
    loop {
        let count = read_up_to(file, &mut piece, at)?;
        if count == 0 {
            return Ok(at);
        }
        take(&piece[..count], at)?;
        at += count as u64;
        if at >= slice_ends {
            slice_ends = at + CUT_SLICE_BYTES;
            between()?;
        }
    }
}

/// Whether two manifests are of the same bytes. An epoch may have begun since the
/// first of them was written.
fn is_of_same(made: &Manifest, manifest: &Manifest) -> bool {
    *made == Manifest { epochs: made.epochs.clone(), ..manifest.clone() }
}

/// Whether `copy` holds what `file` does from `offset` on, and no more.
/// `between` is called after each slice.
fn is_end_of(copy: &File, file: &File, offset: u64, between: &mut dyn FnMut()) -> io::Result<bool> {
    let (mut one, mut other) = (vec![0; VERIFY_PIECE_BYTES], vec![0; VERIFY_PIECE_BYTES]);
    let mut at = 0;
    let mut slice_ends = CUT_SLICE_BYTES;
    loop {
        let count = read_up_to(copy, &mut one, at)?;
        if count != read_up_to(file, &mut other, offset + at)? || one[..count] != other[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
        if at >= slice_ends {
            slice_ends = at + CUT_SLICE_BYTES;
            between();
        }
    }
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
