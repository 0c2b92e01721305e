//! The ways into the catalog, each behind a guard.
//!
//! The database checks its pages against checksums when it is opened, and
//! trusts them otherwise: a page that has rotted, before that check or after
//! it, can make it assert instead of answer. One bad byte on a disk must not
//! end a node with a stack trace, so an assertion becomes the error that it
//! should have been: the catalog is damaged, and here is what to do.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::catalog::{Catalog, CatalogError, Change, SpaceRecord};
use crate::ids::SpaceId;

impl Catalog {
    /// Everything.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Damaged`] or [`CatalogError::Storage`].
    pub fn load(&self) -> Result<BTreeMap<SpaceId, SpaceRecord>, CatalogError> {
        guarded(&self.path, || self.read(None))
    }

    /// One space, as the last commit left it; nothing if it is unknown. A
    /// commit under way does not hold it up.
    ///
    /// # Errors
    ///
    /// As [`Catalog::load`].
    pub fn space(&self, space: &SpaceId) -> Result<Option<SpaceRecord>, CatalogError> {
        Ok(guarded(&self.path, || self.read(Some(space)))?.remove(space))
    }

    /// Apply all changes, in order, in one durable transaction. Blocks on the
    /// disk. An empty batch is nothing.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`]; nothing was applied, or it was to a database that
    /// is [gone](CatalogError::Gone).
    pub fn commit(&self, changes: &[(SpaceId, Change)]) -> Result<(), CatalogError> {
        if changes.is_empty() {
            return Ok(());
        }
        guarded(&self.path, || self.write(changes))?;
        // Durable in a file that nobody finds again is not durable.
        self.is_in_place()
    }
}

/// Do something with the database at `path`, which may assert. What it was
/// doing is given up, as a transaction that is dropped; if it held a lock, the
/// next one who wants it meets the same error.
pub(super) fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let detail = format!("the database asserts: {}", sentence(&*panic));
        Err(CatalogError::Damaged { path: path.to_path_buf(), detail })
    })
}

fn sentence(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of something")
}
