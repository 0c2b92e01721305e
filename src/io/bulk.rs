//! Background reads of whole files, away from the data cores.
//!
//! One thread runs one task, and the task reads its files in large pieces:
//!
//! ```text
//!   ring       tokio-uring: a ring of its own        Linux, feature uring
//!   blocking   tokio and plain reads on the thread   everywhere; also where
//!                                                    the kernel refuses a ring
//! ```
//!
//! Whoever reads a log once must not push out of the page cache what the
//! database and the senders read again and again. So read-ahead is off, and
//! pieces that were not in the cache before are dropped after they were read.

#![forbid(unsafe_code)]

use std::fs::File;
use std::future::Future;
use std::io;

pub use saltus_fallback::cache::forget;
use saltus_fallback::cache::{cached_pages, no_read_ahead};

use super::bulk_ring::{self, Reader};

/// Pieces end on multiples of this, the largest page of any system, so that no
/// page is read with two pieces.
const BLOCK_BYTES: u64 = 64 << 10;

/// The largest page that a file may have in the page cache: of 64-bit systems
/// with pages of 4 KiB. Pages begin at multiples of their size.
const LARGEST_PAGE_BYTES: u64 = 2 << 20;

/// How the reads of one task are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reads {
    /// Through a ring of the thread's own.
    Ring,
    /// By blocking the thread.
    Blocking,
}

/// Run a task to its end on the calling thread, with timers, and with a ring
/// for its reads where there is one.
///
/// # Errors
///
/// No runtime can be made: descriptors or memory have run out. The task was
/// not started.
pub fn run<F: Future>(task: impl FnOnce(Reads) -> F) -> io::Result<F::Output> {
    let task = match bulk_ring::run(task) {
        Ok(output) => return Ok(output),
        Err(task) => task,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(runtime.block_on(task(Reads::Blocking)))
}

/// A file that is read once, in pieces, from a task that [`run`] runs.
#[derive(Debug)]
pub struct BulkFile {
    file: File,
    ring: Option<Reader>,
}

impl BulkFile {
    /// Take a file that is open for reading.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be duplicated.
    pub fn new(file: File, reads: Reads) -> io::Result<Self> {
        no_read_ahead(&file);
        let ring = match reads {
            Reads::Ring => Reader::new(file.try_clone()?),
            Reads::Blocking => None,
        };
        Ok(Self { file, ring })
    }

    /// The file, for anything but reading in bulk.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Drop a range from the page cache, with all pages that it touches, so
    /// that the next read shows what the disk holds. What another process has
    /// mapped stays.
    pub fn forget(&self, offset: u64, bytes: u64) {
        let from = offset - offset % LARGEST_PAGE_BYTES;
        let to = (offset + bytes).next_multiple_of(LARGEST_PAGE_BYTES);
        forget(&self.file, from, to - from);
    }

    /// Read at most `most` bytes from `offset` on into `piece`, which holds at
    /// least as many, and which the kernel may own until the read is done: it
    /// comes back with the outcome. Fewer bytes than asked for are not the end
    /// of the file, 0 are. Pages that were not cached before are not cached
    /// afterwards.
    ///
    /// # Errors
    ///
    /// The system's; what the piece holds is then undefined.
    pub async fn read(
        &self,
        piece: Vec<u8>,
        most: usize,
        offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        let most = to_block_end(offset, most.min(piece.len()));
        let cold = is_uncached(&self.file, offset, most as u64);
        let (result, piece) = self.read_piece(piece, most, offset).await;
        if let (Ok(count @ 1..), true) = (&result, cold) {
            // A page that is named in part would stay.
            let before = offset % BLOCK_BYTES;
            forget(&self.file, offset - before, before + *count as u64);
        }
        (result, piece)
    }

    async fn read_piece(
        &self,
        mut piece: Vec<u8>,
        most: usize,
        offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        if let Some(ring) = &self.ring {
            return ring.read(piece, most, offset).await;
        }
        loop {
            match std::os::unix::fs::FileExt::read_at(&self.file, &mut piece[..most], offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return (result, piece),
            }
        }
    }
}

/// As many of `most` bytes from `offset` on as end with a block, or all of
/// them within one block.
fn to_block_end(offset: u64, most: usize) -> usize {
    let behind = (offset + most as u64) % BLOCK_BYTES;
    match usize::try_from(behind) {
        Ok(behind) if behind < most => most - behind,
        _ => most,
    }
}

/// True if the kernel says that no page of the range is cached. One that
/// cannot say has nothing dropped.
fn is_uncached(file: &File, offset: u64, bytes: u64) -> bool {
    bytes > 0 && cached_pages(file, offset, bytes) == Some(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use saltus_fallback::cache::is_in_memory;
    use std::io::Write;

    fn file_of(bytes: usize) -> File {
        // Not in /tmp: a file system in memory is always cached.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> = (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn read_all(file: &File, reads: Option<Reads>) -> Vec<u8> {
        run(|default| async move {
            let bulk = BulkFile::new(file.try_clone().unwrap(), reads.unwrap_or(default)).unwrap();
            let (mut all, mut piece) = (Vec::new(), vec![0; 256 << 10]);
            loop {
                let count;
                (count, piece) = bulk.read(piece, 200_000, all.len() as u64).await;
                let count = count.unwrap();
                if count == 0 {
                    return all;
                }
                all.extend_from_slice(&piece[..count]);
            }
        })
        .unwrap()
    }

    #[test]
    fn both_ways_of_reading_read_the_same() {
        let file = file_of(300_001);
        let all = read_all(&file, Some(Reads::Blocking));
        assert_eq!(all.len(), 300_001);
        assert_eq!(all[300_000], (300_000 % 251) as u8);
        assert_eq!(read_all(&file, None), all);
    }

    #[test]
    fn pieces_end_where_blocks_end() {
        assert_eq!(to_block_end(0, 1 << 20), 1 << 20);
        assert_eq!(to_block_end(100, 1 << 20), (1 << 20) - 100);
        assert_eq!(to_block_end(100, 50), 50);
        assert_eq!(to_block_end(65_000, 1000), 536);
    }

    #[test]
    fn a_range_is_forgotten_with_the_pages_that_it_lies_in() {
        let file = file_of(1 << 20);
        let bulk = BulkFile::new(file.try_clone().unwrap(), Reads::Blocking).unwrap();
        bulk.forget(70_001, 5);
        // An old kernel, or a file system in memory, says something else.
        let cached = cached_pages(&file, 70_001, 5);
        assert!(cached.is_none_or(|pages| pages == 0) || is_in_memory(&file), "{cached:?}");
    }

    #[test]
    fn reading_once_leaves_the_cache_as_it_was() {
        let bytes = 1 << 20;
        let file = file_of(bytes);
        forget(&file, 0, 0);
        if !is_uncached(&file, 0, bytes as u64) {
            return; // An old kernel, or a file system in memory.
        }
        read_all(&file, None);
        assert!(is_uncached(&file, 0, bytes as u64));

        // What somebody has cached stays cached.
        let mut wanted = vec![0; 100_000];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut wanted, 0).unwrap();
        read_all(&file, None);
        assert!(!is_uncached(&file, 0, 100_000));
    }
}
