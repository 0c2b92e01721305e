//! Hard links that keep segments readable.
//!
//! The database's own start-up compaction unlinks segments that a replica may
//! still need. A pin is a second name for the same file:
//!
//! ```text
//!   <state directory>/pins/<space>/<file number, 16 hex digits>
//! ```
//!
//! A pin holds disk space, never memory, and survives a restart of this
//! process and of the host. It is made as soon as a segment is seen, because
//! afterwards may be too late. Between looking at a name and linking it, the
//! name can come to mean another file; so the link is compared with the file
//! that was meant, and taken back if it is not that one.
//!
//! Every call blocks on the file system: not for a data core.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::host::{Host, ThisHost, ensure_directory};
use crate::ids::SpaceId;

/// One pinned file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The space that it belongs to.
    pub space: SpaceId,
    /// Its number in the catalog.
    pub file: u64,
    /// The pin's own name.
    pub path: PathBuf,
    /// Device and inode.
    pub identity: (u64, u64),
    /// Size of the file, bytes.
    pub bytes: u64,
    /// True if the pin is its last name: releasing it frees the bytes.
    pub last_name: bool,
}

/// The directory of pins.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
    host: Arc<dyn Host>,
}

impl Pins {
    /// Open or create `pins/` in the state directory, which must exist.
    ///
    /// # Errors
    ///
    /// The system's, with the name of the directory.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        Self::open_on(&(Arc::new(ThisHost) as _), state_dir)
    }

    /// As [`Pins::open`], on a host that may be a simulated one.
    ///
    /// # Errors
    ///
    /// The system's, with the name of the directory.
    pub fn open_on(host: &Arc<dyn Host>, state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("pins");
        ensure_directory(&**host, &root).map_err(|e| named(&e, &root))?;
        Ok(Self { root, host: host.clone() })
    }

    /// Where the pin of a file is or would be.
    #[must_use]
    pub fn path(&self, space: &SpaceId, file: u64) -> PathBuf {
        self.root.join(space.as_str()).join(format!("{file:016x}"))
    }

    /// Pin files of a space, however many; they are durable with
    /// [`Pinning::finish`].
    #[must_use]
    pub fn pin<'a>(&'a self, space: &'a SpaceId) -> Pinning<'a> {
        Pinning { pins: self, space, directory: None, files: Vec::new() }
    }

    /// Give a file back. One that has no pin is fine. Not synced: a pin that
    /// a crash brings back is in [`Pins::list`], and is released again.
    ///
    /// # Errors
    ///
    /// The system's, with the name of the pin.
    pub fn release(&self, space: &SpaceId, file: u64) -> io::Result<()> {
        let path = self.path(space, file);
        match self.host.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(&error, &path)),
            _ => Ok(()),
        }
    }

    /// All pins, by space and number. Names that are no pins are left out.
    ///
    /// # Errors
    ///
    /// A directory or a pin in it cannot be read; the error names it.
    pub fn list(&self) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for directory in fs::read_dir(&self.root).map_err(|e| named(&e, &self.root))? {
            let directory = directory.map_err(|e| named(&e, &self.root))?;
            let Some(space) = directory.file_name().to_str().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            pins.extend(self.of(&space)?);
        }
        pins.sort_by(|a, b| a.space.cmp(&b.space));
        Ok(pins)
    }

    /// The pins of one space, by number. Names that are no pins are left out.
    ///
    /// # Errors
    ///
    /// The directory or a pin in it cannot be read; the error names it.
    pub fn of(&self, space: &SpaceId) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        let directory = self.root.join(space.as_str());
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pins),
            entries => entries.map_err(|e| named(&e, &directory))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| named(&e, &directory))?.path();
            let Some(file) = path.file_name().and_then(|name| file_number(name.to_str()?)) else {
                continue;
            };
            let metadata = path.symlink_metadata().map_err(|e| named(&e, &path))?;
            pins.push(Pin {
                space: space.clone(),
                file,
                identity: identity(&metadata),
                bytes: metadata.len(),
                last_name: metadata.nlink() == 1,
                path,
            });
        }
        pins.sort_by_key(|pin| pin.file);
        Ok(pins)
    }
}

/// Pins that are being made: one sync makes all of them durable, since a node
/// that starts beside a long log finds thousands at once.
#[derive(Debug)]
pub struct Pinning<'a> {
    pins: &'a Pins,
    space: &'a SpaceId,
    directory: Option<PathBuf>,
    files: Vec<u64>,
}

impl Pinning<'_> {
    /// Pin the file of number `file`, which was seen under the name `source`
    /// with the (device, inode) `expected`. Returns the pin's path; a pin that
    /// is there already is left as it is.
    ///
    /// # Errors
    ///
    /// Nothing of this file is left behind by any of them:
    ///
    /// - `NotFound`: the name is gone, or means another file by now. A
    ///   descriptor that is open still reads the file.
    /// - `AlreadyExists`: another file has a pin of this number.
    /// - `CrossesDevices`: the state directory is on another file system.
    /// - `PermissionDenied`: the kernel lets only the owner link a file
    ///   (`fs.protected_hardlinks`), or the file system knows no hard links.
    pub fn add(&mut self, file: u64, source: &Path, expected: (u64, u64)) -> io::Result<PathBuf> {
        let host = &*self.pins.host;
        if self.directory.is_none() {
            let directory = self.pins.root.join(self.space.as_str());
            ensure_directory(host, &directory).map_err(|e| named(&e, &directory))?;
            self.directory = Some(directory);
        }
        let path = self.pins.path(self.space, file);
        let linked = host.link(source, &path);
        let found = match &linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(explain(error, &path));
            }
            _ => identity(&path.symlink_metadata()?),
        };
        let told = |(device, inode)| format!("device {device} inode {inode}");
        if found == expected {
            // Who made one that is there may not have lived to sync its name.
            self.files.push(file);
            return Ok(path);
        }
        let (found, expected) = (told(found), told(expected));
        if linked.is_err() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} pins {found}, not {expected} ({}); if the catalog was rebuilt it is a \
                     leftover: move it away",
                    path.display(),
                    source.display()
                ),
            ));
        }
        host.remove(&path)?;
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "{} has come to mean another file ({found}, expected {expected}): not pinned",
                source.display()
            ),
        ))
    }

    /// Make them durable. Gives the numbers of the files, and whether they are
    /// pinned from now on.
    ///
    /// # Errors
    ///
    /// The directory cannot be synced: the files may be pinned or not.
    pub fn finish(self) -> (Vec<u64>, io::Result<()>) {
        let synced = match &self.directory {
            Some(directory) if !self.files.is_empty() => {
                self.pins.host.sync_directory(directory).map_err(|e| named(&e, directory))
            }
            _ => Ok(()),
        };
        (self.files, synced)
    }
}

/// The number that a pin's name stands for.
fn file_number(name: &str) -> Option<u64> {
    let hex = name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex { u64::from_str_radix(name, 16).ok() } else { None }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The same error, with the name of what it is about.
fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What a refused link means, and what to do.
fn explain(error: &io::Error, path: &Path) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::CrossesDevices => {
            "; a pin is a hard link: node.state_dir must be on the file system of the segment, which \
             is that of node.data_root unless the space is a link or a mount of its own"
        }
        io::ErrorKind::PermissionDenied => {
            "; run this process as the user that writes the segments (the kernel's \
             protected_hardlinks lets only a file's owner link it), on a file system that has \
             hard links"
        }
        io::ErrorKind::TooManyLinks => "; the file has as many names as the file system allows",
        _ => "",
    };
    io::Error::new(error.kind(), format!("no link {}: {error}{advice}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn space() -> SpaceId {
        "alpha".parse().unwrap()
    }

    fn meant(path: &Path) -> (u64, u64) {
        identity(&path.metadata().unwrap())
    }

    /// A state directory and a segment with some bytes.
    fn segment() -> (tempfile::TempDir, Pins, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::open(directory.path()).unwrap();
        let source = directory.path().join("wal-0000000000000001.log");
        fs::write(&source, b"records").unwrap();
        (directory, pins, source)
    }

    /// Pin one file of the space.
    fn pin(pins: &Pins, file: u64, source: &Path, meant: (u64, u64)) -> io::Result<PathBuf> {
        let space = space();
        let mut pinning = pins.pin(&space);
        let path = pinning.add(file, source, meant)?;
        let (files, synced) = pinning.finish();
        assert_eq!(files, [file]);
        synced.map(|()| path)
    }

    #[test]
    fn a_pinned_segment_outlives_its_name() {
        let (_directory, pins, source) = segment();
        let path = pin(&pins, 3, &source, meant(&source)).unwrap();
        assert!(path.ends_with("pins/alpha/0000000000000003"));
        fs::remove_file(&source).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"records");
        let listed = pins.list().unwrap();
        assert_eq!((listed.len(), listed[0].file, listed[0].bytes), (1, 3, 7));
        assert!(listed[0].last_name);
        pins.release(&space(), 3).unwrap();
        pins.release(&space(), 3).unwrap();
        assert_eq!(pins.list().unwrap(), []);
    }

    #[test]
    fn pinning_twice_is_pinning_once() {
        let (_directory, pins, source) = segment();
        let expected = meant(&source);
        let first = pin(&pins, 3, &source, expected).unwrap();
        assert_eq!(pin(&pins, 3, &source, expected).unwrap(), first);
        assert_eq!(pins.list().unwrap().len(), 1);
        assert!(!pins.list().unwrap()[0].last_name);
    }

    #[test]
    fn a_name_that_means_another_file_is_not_pinned() {
        let (directory, pins, source) = segment();
        let expected = meant(&source);
        let next = directory.path().join("wal-0000000000000001.log.tmp");
        fs::write(&next, b"compacted").unwrap();
        fs::rename(&next, &source).unwrap();
        let error = pin(&pins, 3, &source, expected).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        assert_eq!(pins.list().unwrap(), []);

        fs::remove_file(&source).unwrap();
        let error = pin(&pins, 3, &source, expected).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }

    #[test]
    fn a_pin_is_never_replaced() {
        let (directory, pins, source) = segment();
        pin(&pins, 3, &source, meant(&source)).unwrap();
        let other = directory.path().join("wal-0000000000000002.log");
        fs::write(&other, b"other").unwrap();
        let error = pin(&pins, 3, &other, meant(&other)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert_eq!(pins.list().unwrap()[0].identity, meant(&source));
    }

    #[test]
    fn another_file_system_is_refused_with_advice() {
        let (_directory, pins, source) = segment();
        let shared = Path::new("/dev/shm");
        if !shared.is_dir() || meant(shared).0 == meant(&source).0 {
            return;
        }
        let elsewhere = tempfile::NamedTempFile::new_in(shared).unwrap();
        let expected = meant(elsewhere.path());
        let error = pin(&pins, 1, elsewhere.path(), expected).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{error}");
        assert!(error.to_string().contains("state_dir"), "{error}");
    }
}
