//! Whether a range of a file is in the page cache, asked of the kernel without
//! touching the range.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Weak};

use saltus_fallback::cache::cached_pages;

/// How far behind an extent of a cold file the cache must be warm too, as far
/// as the file goes, before the file counts as hot again. More than systems
/// read ahead (128 KiB to 8 MiB).
const AHEAD_BYTES: u64 = 16 << 20;

/// Cold files that are remembered; one per stream that is catching up.
const MOST_COLD_FILES: usize = 64;

/// Tells hot extents from cold ones.
///
/// In a cold file that is read from front to back, the next extent is in the
/// cache already, as pages whose reading has only begun: whoever touches them
/// waits for the disk. So a file that was cold once stays cold until the cache
/// holds more of it than reading ahead explains.
#[derive(Default)]
pub(super) struct Temperature {
    cold: VecDeque<Weak<File>>,
}

impl Temperature {
    /// True when sending the extent will not wait for the disk.
    pub(super) fn is_hot(&mut self, file: &Arc<File>, offset: u64, bytes: u64) -> bool {
        let known = self.cold.iter().position(|cold| cold.as_ptr() == Arc::as_ptr(file));
        let Some(at) = known else {
            let hot = is_cached(file, offset, bytes);
            if !hot {
                if self.cold.len() == MOST_COLD_FILES {
                    self.cold.pop_front();
                }
                self.cold.push_back(Arc::downgrade(file));
            }
            return hot;
        };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let end = offset.saturating_add(bytes);
        let ahead = end.saturating_add(AHEAD_BYTES).min(length).max(end);
        let hot = is_cached(file, offset, ahead - offset);
        if hot {
            self.cold.remove(at);
        }
        hot
    }
}

/// True when every page of the range is in the page cache, or when the kernel
/// will not tell: the range is then taken for hot, because a log is mostly
/// read right behind its writer.
pub(super) fn is_cached(file: &File, offset: u64, bytes: u64) -> bool {
    bytes == 0
        || cached_pages(file, offset, bytes)
            .is_none_or(|cached| cached >= pages_spanned(offset, bytes, page_bytes()))
}

fn pages_spanned(offset: u64, bytes: u64, page: u64) -> u64 {
    let first = offset / page;
    let last = (offset + bytes - 1) / page;
    last - first + 1
}

/// Bytes of one page of memory.
pub(super) fn page_bytes() -> u64 {
    // SAFETY: no memory is involved.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn odd_ranges_span_the_pages_they_touch() {
        assert_eq!(pages_spanned(0, 1, 4096), 1);
        assert_eq!(pages_spanned(4095, 2, 4096), 2);
        assert_eq!(pages_spanned(4096, 4096, 4096), 1);
    }

    #[test]
    fn freshly_written_bytes_are_hot_and_dropped_ones_are_not() {
        let mut file = tempfile::tempfile_in(std::env::current_dir().unwrap()).unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        assert!(is_cached(&file, 0, 1 << 20));
        assert!(is_cached(&file, 777, 12345));
        file.sync_all().unwrap();
        saltus_fallback::cache::forget(&file, 0, 0);
        if cached_pages(&file, 0, 1 << 20).is_some() {
            assert!(!is_cached(&file, 0, 1 << 20));
        }
    }
}
