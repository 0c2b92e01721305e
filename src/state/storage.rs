//! The catalog's file, as its database sees it: reads and locks are the
//! system's, and what changes it or makes it durable goes through the
//! [`Host`].

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use super::host::Host;

/// The file.
#[derive(Debug)]
pub(super) struct Storage {
    host: Arc<dyn Host>,
    file: File,
    /// Another descriptor of it, which reads and locks.
    system: FileBackend,
}

impl Storage {
    pub(super) fn new(host: Arc<dyn Host>, file: File) -> Result<Self, DatabaseError> {
        let system = FileBackend::new(file.try_clone()?)?;
        Ok(Self { host, file, system })
    }
}

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        self.system.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.system.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.host.set_len(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.host.sync_data(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.host.write_at(&self.file, data, offset)
    }

    fn close(&self) -> io::Result<()> {
        self.system.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.system.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.system.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.system.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.system.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.system.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.system.query_lock_range(start, end)
    }
}
