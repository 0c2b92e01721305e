//! Opening the catalog, and making it.
//!
//! A new catalog comes into being under another name and gets its own once it
//! is whole, so that a stop in between leaves none, never half of one:
//!
//! ```text
//!   catalog.redb.new   made, schema and uuid committed
//!        | renamed, the name made durable
//!        v
//!   catalog.redb
//! ```

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, DatabaseError, StorageError};

use super::catalog::{CATALOG_FILE, Catalog, CatalogError};
use super::host::{Host, ThisHost, ensure_directory};
use super::storage::Storage;
use crate::ids::NodeUuid;
use crate::limits::CATALOG_CACHE_BYTES;

/// What a catalog is called until it is whole.
const UNFINISHED_FILE: &str = "catalog.redb.new";

impl Catalog {
    /// Open or create the state directory `state_dir` (mode 0700) and its
    /// database; draws the node's uuid on first use. A second process on the
    /// same directory is refused by name. The whole database is checked
    /// against its checksums.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`].
    pub fn open(state_dir: &Path) -> Result<Self, CatalogError> {
        Self::open_on(&(Arc::new(ThisHost) as _), state_dir)
    }

    /// As [`Catalog::open`], on a host that may be a simulated one.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`].
    pub fn open_on(host: &Arc<dyn Host>, state_dir: &Path) -> Result<Self, CatalogError> {
        let path = state_dir.join(CATALOG_FILE);
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CatalogError::Directory { path, source }
        };
        ensure_directory(&**host, state_dir).map_err(failed(state_dir))?;
        if !path.try_exists().map_err(failed(&path))? {
            let unfinished = state_dir.join(UNFINISHED_FILE);
            drop(match Self::open_file(host, &unfinished) {
                Err(CatalogError::Damaged { .. }) => {
                    // Of a start that was cut off; nothing was ever kept in it.
                    host.remove(&unfinished).map_err(failed(&unfinished))?;
                    Self::open_file(host, &unfinished)?
                }
                other => other?,
            });
            host.rename(&unfinished, &path).map_err(failed(&path))?;
        }
        // It may have been given its name by a start that was cut off.
        host.sync_directory(state_dir).map_err(failed(state_dir))?;
        Self::open_file(host, &path)
    }

    fn open_file(host: &Arc<dyn Host>, path: &Path) -> Result<Self, CatalogError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = host
            .open(&options, path)
            .map_err(|source| CatalogError::Directory { path: path.to_path_buf(), source })?;
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
        let path = path.to_path_buf();
        let mut catalog = Self { database, path, node: NodeUuid::default() };
        catalog.node = catalog.identify(&**host)?;
        Ok(catalog)
    }
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
