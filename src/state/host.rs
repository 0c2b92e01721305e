//! What this process changes on its host beyond moving bytes of logs: names
//! of files, what is durable, and the bytes of its own files. Everything that
//! does so asks a [`Host`], so that the simulator can stand in for it: there a
//! host loses what was not synced, refuses a name for want of space, and stops
//! between any two calls.
//!
//! ```text
//!   catalog, pins, recovery, quarantine, keeper --> Host --> ThisHost: the system
//!                                                      `---> the simulator's
//! ```
//!
//! Reading is not in here: what can be read is what is there. A host only says
//! where a disk has failed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The host that a node runs on.
///
/// Each call may block on a disk: not for a data core. After a sync that
/// failed, what is durable is unknown: do not sync again, start over from what
/// the disk holds.
pub trait Host: std::fmt::Debug + Send + Sync {
    /// Make the bytes of a file durable, and its length.
    ///
    /// # Errors
    ///
    /// As `fdatasync`. Never to be tried again.
    fn sync_data(&self, file: &File) -> io::Result<()>;

    /// As [`Host::sync_data`], with the rest of the file's attributes.
    ///
    /// # Errors
    ///
    /// As `fsync`. Never to be tried again.
    fn sync_all(&self, file: &File) -> io::Result<()>;

    /// Make the names in a directory durable.
    ///
    /// # Errors
    ///
    /// The directory cannot be opened or synced. Never to be tried again.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Open a file, perhaps making it.
    ///
    /// # Errors
    ///
    /// As `open`.
    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File>;

    /// Write all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// As `pwrite`; any part of the bytes may be there.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cut a file, or lengthen it by zeroes.
    ///
    /// # Errors
    ///
    /// As `ftruncate`.
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()>;

    /// Make a directory that only this user may enter.
    ///
    /// # Errors
    ///
    /// As `mkdir`; `AlreadyExists` if the name is taken.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;

    /// Give a file another name, which is taken from whatever bears it.
    ///
    /// # Errors
    ///
    /// As `rename`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Give a file a second name.
    ///
    /// # Errors
    ///
    /// As `link`; `AlreadyExists` if the name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Take a name away.
    ///
    /// # Errors
    ///
    /// As `unlink`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Take away a directory in which there is nothing.
    ///
    /// # Errors
    ///
    /// As `rmdir`.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;

    /// Asked before `bytes` bytes of a received segment are read at `offset` to
    /// tell what the disk holds.
    ///
    /// # Errors
    ///
    /// What the disk would say. The real one says it when it is read.
    fn may_read(&self, _path: &Path, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// 128 bits that nobody can guess, for a
    /// [`NodeUuid`](crate::ids::NodeUuid) or a
    /// [`StreamId`](crate::ids::StreamId).
    ///
    /// # Errors
    ///
    /// There is no source of them; the error names it.
    fn random_u128(&self) -> io::Result<u128>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        options.open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn random_u128(&self) -> io::Result<u128> {
        // In a container without `/dev` there is none.
        const SOURCE: &str = "/dev/urandom";
        let mut bytes = [0; 16];
        File::open(SOURCE)
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|error| io::Error::new(error.kind(), format!("{SOURCE}: {error}")))?;
        Ok(u128::from_le_bytes(bytes))
    }
}

/// Have a directory that only this user may enter, its name durable.
///
/// One that is there already may have been made by a process that was killed
/// before it synced the name, or whose sync failed; so that is done here.
///
/// # Errors
///
/// The system's. The directory may be there all the same.
pub fn ensure_directory(host: &dyn Host, directory: &Path) -> io::Result<()> {
    let parent = directory.parent().unwrap_or(Path::new("/"));
    match host.make_directory(directory) {
        Ok(()) => host.sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {
            match host.sync_directory(parent) {
                // Made by somebody who may, and who saw to it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                other => other,
            }
        }
        Err(error) => Err(error),
    }
}

/// As [`ensure_directory`], with the parents below `root`.
///
/// # Errors
///
/// The system's, or `directory` does not lie below `root`. What was made of the
/// way stays.
pub fn make_directories(host: &dyn Host, root: &Path, directory: &Path) -> io::Result<()> {
    let below = directory.strip_prefix(root).map_err(io::Error::other)?;
    let mut path = root.to_path_buf();
    for part in below.components() {
        path.push(part);
        ensure_directory(host, &path)?;
    }
    Ok(())
}

/// Have a file that holds exactly these bytes, durably: or what was there
/// before, if the process is stopped meanwhile.
///
/// # Errors
///
/// The system's. `<path>.tmp` may be left behind.
pub fn write_whole(host: &dyn Host, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = host.open(&options, &unfinished)?;
    host.write_at(&file, bytes, 0)?;
    host.sync_all(&file)?;
    host.rename(&unfinished, path)?;
    host.sync_directory(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::state::meddler::{Call, Meddler};

    #[test]
    fn two_random_numbers_differ() {
        assert_ne!(ThisHost.random_u128().unwrap(), ThisHost.random_u128().unwrap());
    }

    /// A replica made the directory of a space, and the sync of its name
    /// failed. The next attempt found the directory there, took its name for
    /// durable, and acknowledged records in it that a crash could take.
    #[test]
    fn a_directory_that_is_there_is_not_taken_for_durable() {
        let root = tempfile::tempdir().unwrap();
        let (failed, synced) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let host = Meddler(|call: Call<'_>| {
            let Call::SyncDirectory(directory) = call else { return Ok(()) };
            if !failed.swap(true, Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            synced.lock().unwrap().push(directory.to_path_buf());
            Ok(())
        });
        let wal = root.path().join("alpha/wal");
        make_directories(&host, root.path(), &wal).unwrap_err();
        assert!(root.path().join("alpha").is_dir());
        make_directories(&host, root.path(), &wal).unwrap();
        assert_eq!(*synced.lock().unwrap(), [root.path(), &root.path().join("alpha")]);
    }

    #[test]
    fn directories_are_made_below_their_root_and_may_be_there() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("alpha/wal");
        for _ in 0..2 {
            make_directories(&ThisHost, root.path(), &deep).unwrap();
            assert!(deep.is_dir());
        }
        let elsewhere = tempfile::tempdir().unwrap();
        make_directories(&ThisHost, root.path(), &elsewhere.path().join("beta")).unwrap_err();
        fs::write(root.path().join("file"), b"").unwrap();
        make_directories(&ThisHost, root.path(), &root.path().join("file/wal")).unwrap_err();
    }
}
