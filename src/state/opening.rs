//! Opening the catalog's database, for the first time and after a failure.
//!
//! A database that failed to read, write or sync knows no more what its file
//! holds: it is closed, the file is synced, the kernel's memory of it is
//! dropped, and what the disk has is checked against its checksums. That is what a restart of
//! the process would do, and a little more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use redb::{Builder, Database, DatabaseError, StorageError};

use super::access::guarded;
use super::catalog::{CATALOG_FILE, Catalog, CatalogError};
use super::host::{Host, ensure_directory};
use super::storage::Storage;
use crate::limits::CATALOG_CACHE_BYTES;

/// Drops what the kernel remembers of a file, or says why not.
pub(super) type Forget<'a> = &'a dyn Fn(&File) -> io::Result<()>;

impl Catalog {
    /// Close the database, and open it anew from what the disk holds. `forget`
    /// drops what the kernel remembers of the file, which has been synced.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`]; a database that is gone is one, and then nothing has
    /// changed. Otherwise the catalog stays closed; every use of it fails until it is reopened.
    pub fn reopen(&self, forget: Forget<'_>) -> Result<(), CatalogError> {
        // What another file holds is not what this process remembers.
        self.is_in_place()?;
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        // The old one holds the lock of the file.
        drop(place.take());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let opened = guarded(&self.path, || self.open_file(&options, Some(forget)));
        let database = opened.map_err(|error| match error {
            // It could be opened before: it is not the user that is wrong.
            CatalogError::Directory { source, .. } => self.storage(StorageError::Io(source)),
            error => error,
        })?;
        *place = Some(database);
        Ok(())
    }

    /// Open the database for the first time, making it if need be.
    pub(super) fn open_or_make(&self) -> Result<(), CatalogError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        ensure_directory(&*self.host, directory)
            .map_err(|source| CatalogError::Directory { path: directory.to_path_buf(), source })?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let database = self.open_file(&options, None)?;
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }

    fn open_file(
        &self,
        options: &OpenOptions,
        forget: Option<Forget<'_>>,
    ) -> Result<Arc<Database>, CatalogError> {
        let (path, host) = (&self.path, &self.host);
        let directory = path.parent().unwrap_or(Path::new("/"));
        let file = host
            .open(options, path)
            .and_then(|file| host.sync_directory(directory).map(|()| file))
            .map_err(|source| CatalogError::Directory { path: path.clone(), source })?;
        let found = file
            .metadata()
            .map_err(|source| CatalogError::Directory { path: path.clone(), source })?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((found.dev(), found.ino()));
        if let Some(forget) = forget {
            // What the last one wrote and did not sync counts as its commit, if
            // it is there: it must be there for good.
            host.sync_data(&file)
                .and_then(|()| forget(&file))
                .map_err(|source| CatalogError::Directory { path: path.clone(), source })?;
        }
        let mut database = Storage::new(host.clone(), file)
            .and_then(|storage| {
                Builder::new().set_cache_size(CATALOG_CACHE_BYTES).create_with_backend(storage)
            })
            .map_err(|error| opening(path, error))?;
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                path = %path.display(),
                "the catalog needed a repair and was brought back to its last commit"
            ),
            Err(error) => return Err(opening(path, error)),
        }
        Ok(Arc::new(database))
    }

    /// Whether the open database still bears its name. Blocks on a directory, at
    /// most.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Gone`].
    pub fn is_in_place(&self) -> Result<(), CatalogError> {
        let known = *self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || CatalogError::Gone { path: self.path.clone() };
        match self.path.metadata() {
            Ok(found) if known.is_none_or(|known| known == (found.dev(), found.ino())) => Ok(()),
            Ok(_) => Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            // Who may not look cannot say that it is not there.
            Err(_) => Ok(()),
        }
    }

    /// The open database.
    pub(super) fn database(&self) -> Result<Arc<Database>, CatalogError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| self.storage(StorageError::DatabaseClosed))
    }
}

/// Make the catalog at `path`, if there is none. It comes into being under
/// another name and gets its own when it is whole, so that a stop in between
/// leaves none, never half of one. The name is durable once the catalog has
/// been opened.
pub(super) fn make_if_missing(host: &Arc<dyn Host>, path: &Path) -> Result<(), CatalogError> {
    let failed = |source| CatalogError::Directory { path: path.to_path_buf(), source };
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let unfinished = path.with_extension("redb.new");
    drop(match Catalog::at(host, &unfinished) {
        Err(CatalogError::Damaged { .. }) => {
            // Of a start that was cut off; nothing was ever kept in it.
            host.remove(&unfinished).map_err(failed)?;
            Catalog::at(host, &unfinished)?
        }
        other => other?,
    });
    host.rename(&unfinished, path).map_err(failed)
}

/// Give a catalog that cannot be read another name in its directory, where it
/// is kept. Returns that.
///
/// # Errors
///
/// The system's.
pub fn set_aside(host: &dyn Host, state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join(CATALOG_FILE);
    let mut number = 0;
    let aside = loop {
        let aside = state_dir.join(format!("{CATALOG_FILE}.damaged.{number}"));
        if !aside.try_exists()? {
            break aside;
        }
        number += 1;
    };
    host.rename(&path, &aside)?;
    host.sync_directory(state_dir)?;
    Ok(aside)
}

/// What redb's refusal to open means.
fn opening(path: &Path, error: DatabaseError) -> CatalogError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen => CatalogError::AlreadyOpen { path },
        DatabaseError::Storage(StorageError::Corrupted(detail)) => {
            CatalogError::Damaged { path, detail }
        }
        // redb's answer to a file that does not begin like a database.
        DatabaseError::Storage(StorageError::Io(source))
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            CatalogError::Damaged { path, detail: source.to_string() }
        }
        other => CatalogError::Storage { path, source: Box::new(other.into()) },
    }
}
