//! Whether a range of a file is in the page cache, asked of the kernel without
//! touching the range.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// `cachestat(2)`, Linux 6.5; the number is the same on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    bytes: u64,
}

#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Set once the kernel has said that it does not know the call.
static MISSING: AtomicBool = AtomicBool::new(false);

/// True when every page of the range is in the page cache, or when the kernel
/// will not tell: the range is then taken for hot, because a log is mostly
/// read right behind its writer.
pub(super) fn is_cached(file: &File, offset: u64, bytes: u64) -> bool {
    if bytes == 0 || MISSING.load(Ordering::Relaxed) {
        return true;
    }
    let range = Range { offset, bytes };
    let mut stat = CacheStat::default();
    // SAFETY: both structures match the kernel's layout and outlive the call.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0)
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOSYS) {
            MISSING.store(true, Ordering::Relaxed);
        }
        return true;
    }
    stat.cached >= pages_spanned(offset, bytes, page_bytes())
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
        // SAFETY: no memory is involved.
        let advised =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(advised, 0);
        if !MISSING.load(Ordering::Relaxed) {
            assert!(!is_cached(&file, 0, 1 << 20));
        }
    }
}
