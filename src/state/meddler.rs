//! A host for tests: the real one, but where a test says otherwise.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::host::{Host, ThisHost};

/// What a host is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    /// Make a file durable, with its length or without.
    Sync,
    SyncDirectory(&'a Path),
    Open(&'a Path),
    /// The file, where in it, and how much.
    Read(&'a Path, u64, u64),
    Write,
    SetLen,
    MakeDirectory(&'a Path),
    /// The name that is given, or taken over.
    Name(&'a Path),
    Remove(&'a Path),
}

/// The real host. What it is asked to do goes past the test first, which may take
/// its time, or fail it.
pub(crate) struct Meddler<F>(pub(crate) F);

impl<F> fmt::Debug for Meddler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meddler").finish_non_exhaustive()
    }
}

impl<F: Fn(Call<'_>) -> io::Result<()> + Send + Sync> Host for Meddler<F> {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.0(Call::Sync)?;
        ThisHost.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.0(Call::Sync)?;
        ThisHost.sync_all(file)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.0(Call::SyncDirectory(directory))?;
        ThisHost.sync_directory(directory)
    }

    fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        self.0(Call::Open(path))?;
        ThisHost.open(options, path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0(Call::Write)?;
        ThisHost.write_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.0(Call::SetLen)?;
        ThisHost.set_len(file, bytes)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.0(Call::MakeDirectory(directory))?;
        ThisHost.make_directory(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0(Call::Name(to))?;
        ThisHost.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0(Call::Name(to))?;
        ThisHost.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0(Call::Remove(path))?;
        ThisHost.remove(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.0(Call::Remove(directory))?;
        ThisHost.remove_directory(directory)
    }

    fn may_read(&self, path: &Path, offset: u64, bytes: u64) -> io::Result<()> {
        self.0(Call::Read(path, offset, bytes))
    }

    fn random_u128(&self) -> io::Result<u128> {
        ThisHost.random_u128()
    }
}
