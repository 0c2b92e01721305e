//! What the database says of a file that it cannot read.

use std::io;
use std::path::Path;

use redb::{DatabaseError, StorageError};

use super::catalog::CatalogError;

/// Do something that reads what the disk holds. redb panics over some bytes
/// that it has not written; to whoever starts a node that is damage like any
/// other.
pub(super) fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let detail = text.unwrap_or("it cannot be read").to_owned();
        Err(CatalogError::Damaged { path: path.to_path_buf(), detail })
    })
}

/// What redb's refusal to open means.
pub(super) fn opening(path: &Path, error: DatabaseError) -> CatalogError {
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
