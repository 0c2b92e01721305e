//! What the page cache holds, and advice about it.
//!
//! Linux answers and listens; elsewhere nothing is known and nothing happens.

#![allow(unsafe_code)]

use std::fs::File;

/// How many pages of a range are in the page cache, pages included whose
/// reading has only begun. `None`: the kernel (before Linux 6.5) cannot say.
#[cfg(target_os = "linux")]
#[must_use]
pub fn cached_pages(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    use std::os::fd::AsRawFd;

    /// `cachestat(2)`: one number on all architectures.
    const SYS_CACHESTAT: libc::c_long = 451;

    /// `struct cachestat_range` of the kernel.
    #[repr(C)]
    struct Range {
        offset: u64,
        bytes: u64,
    }

    let range = Range { offset, bytes };
    // `struct cachestat`: cached, dirty, writeback, evicted, recently evicted.
    let mut pages = [0_u64; 5];
    // SAFETY: both structures have the kernel's layout and outlive the call;
    // the descriptor is open.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut pages, 0)
    };
    (result == 0).then_some(pages[0])
}

/// Nothing is known.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn cached_pages(_file: &File, _offset: u64, _bytes: u64) -> Option<u64> {
    None
}

/// Ask the kernel to drop clean pages of a range from the page cache
/// (`bytes` 0: to the end of the file), so that the next read comes from the
/// disk. Pages stay that are mapped, dirty, or larger than the part of them
/// that lies in the range, and where the system knows no such request nothing
/// happens.
#[cfg(target_os = "linux")]
pub fn forget(file: &File, offset: u64, bytes: u64) {
    if let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) {
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // An error only means that the advice was not taken.
        let _ = nix::fcntl::posix_fadvise(file, offset, bytes, advice);
    }
}

/// There is no such request.
#[cfg(not(target_os = "linux"))]
pub fn forget(_file: &File, _offset: u64, _bytes: u64) {}

/// True if the file lies in a file system that has no disk behind the page
/// cache. Whoever cannot tell says no.
#[cfg(target_os = "linux")]
#[must_use]
pub fn is_in_memory(file: &File) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
    fstatfs(file).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Nothing is known.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn is_in_memory(_file: &File) -> bool {
    false
}

/// No read-ahead for this descriptor: it would bring the next pieces into the
/// cache, where they would pass for pages that somebody else wants.
#[cfg(target_os = "linux")]
pub fn no_read_ahead(file: &File) {
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM;
    // An error only means that the advice was not taken.
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, advice);
}

/// There is no such advice.
#[cfg(not(target_os = "linux"))]
pub fn no_read_ahead(_file: &File) {}
