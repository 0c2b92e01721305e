//! Reading what the disk holds of a file, not what the kernel remembers of it.
//!
//! After a sync that failed the kernel holds pages for clean that never got to
//! the disk, and shows them to whoever reads. So they have to go before the
//! bytes are believed:
//!
//! ```text
//!   sync --> drop all pages of the file --> none is left: plain reads
//!                                       `-> some are:     reads past the cache,
//!                                                         or an error
//! ```
//!
//! All pages of the file, since the kernel keeps a large page of which only a
//! part is named; and it keeps those that another process has mapped. A file
//! system in memory has no disk behind the cache: there the cache is believed.
//! Where the kernel cannot say what it keeps (before Linux 6.5), reads go past
//! the cache if they can.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use saltus_fallback::cache::{cached_pages, forget, is_in_memory};

use crate::limits::{DIRECT_BLOCK_BYTES, VERIFY_PIECE_BYTES};

/// Why it cannot be read what the disk holds. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The system's answer.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The kernel keeps pages of the file, and it cannot be read past them.
    #[error(
        "the kernel keeps {pages} pages of it in memory, so what the disk holds of it cannot be \
         told; end the processes that have it open (fuser lists them), then it is tried again"
    )]
    Cached {
        /// How many.
        pages: u64,
    },
}

/// What the kernel keeps of a file after it was told to drop it.
enum Kept {
    Nothing,
    /// It cannot say.
    Unknown,
    Pages(u64),
}

/// Drop all of a file, and see what is kept of it from `from` on.
fn drop_cache(file: &File, from: u64) -> io::Result<Kept> {
    forget(file, 0, 0);
    let bytes = file.metadata()?.len().saturating_sub(from);
    if bytes == 0 || is_in_memory(file) {
        return Ok(Kept::Nothing);
    }
    Ok(match cached_pages(file, from, bytes) {
        None => Kept::Unknown,
        Some(0) => Kept::Nothing,
        Some(pages) => Kept::Pages(pages),
    })
}

/// Have the kernel forget a file that has just been synced, so that plain reads
/// show what the disk holds.
///
/// # Errors
///
/// See [`DiskError`].
pub fn forget_all(file: &File) -> Result<(), DiskError> {
    match drop_cache(file, 0)? {
        Kept::Nothing | Kept::Unknown => Ok(()),
        Kept::Pages(pages) => Err(DiskError::Cached { pages }),
    }
}

/// A file whose reads show what the disk holds, from some offset on.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    direct: Option<Direct>,
}

/// A descriptor for reads past the cache, and room for whole blocks.
#[derive(Debug)]
struct Direct {
    file: File,
    room: RefCell<Vec<u8>>,
}

impl DiskFile {
    /// Take a file that has just been synced, and that nobody writes to. It is
    /// going to be read from `from` on; `path` is its name.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub fn new(file: File, path: &Path, from: u64) -> Result<Self, DiskError> {
        let kept = drop_cache(&file, from)?;
        if matches!(kept, Kept::Nothing) {
            return Ok(Self { file, direct: None });
        }
        let direct = Direct::open(&file, path)?;
        match kept {
            Kept::Pages(pages) if direct.is_none() => Err(DiskError::Cached { pages }),
            _ => Ok(Self { file, direct }),
        }
    }

    /// Read into `buffer` from `offset` on. Fewer bytes than fit are not the
    /// end of the file, 0 are.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.direct {
            None => self.file.read_at(buffer, offset),
            Some(direct) => direct.read_at(buffer, offset),
        }
    }

    /// Bytes of the file.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Direct {
    /// Nothing where the file system has no such reads.
    fn open(file: &File, path: &Path) -> io::Result<Option<Self>> {
        let Some(direct) = super::open_direct_reader(path) else { return Ok(None) };
        let (ours, theirs) = (file.metadata()?, direct.metadata()?);
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            return Err(io::Error::other("its name was given to another file meanwhile"));
        }
        let room = RefCell::new(vec![0; VERIFY_PIECE_BYTES + 2 * DIRECT_BLOCK_BYTES]);
        Ok(Some(Self { file: direct, room }))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut room = self.room.borrow_mut();
        let aligned = room.as_ptr().align_offset(DIRECT_BLOCK_BYTES);
        let room = room.get_mut(aligned..).unwrap_or_default();
        let skip = offset % DIRECT_BLOCK_BYTES as u64;
        let before = usize::try_from(skip).unwrap_or(0);
        let blocks = room.len() / DIRECT_BLOCK_BYTES * DIRECT_BLOCK_BYTES;
        let most = (before + buffer.len()).next_multiple_of(DIRECT_BLOCK_BYTES).min(blocks);
        let count = self.file.read_at(&mut room[..most], offset - skip)?;
        let found = room.get(before..count).unwrap_or_default();
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        if count == 0 && !buffer.is_empty() && offset < self.file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
