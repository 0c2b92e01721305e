//! Reading whole files in the background.

use std::fs::File;

/// Ask the kernel to drop clean pages of a range from the page cache
/// (`bytes` 0: to the end of the file), so that the next read comes from the
/// disk. Pages that are mapped or dirty stay, and where the system knows no
/// such request nothing happens.
pub fn forget(file: &File, offset: u64, bytes: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) {
        // Advice: an error only means that it was not taken.
        let _ = nix::fcntl::posix_fadvise(
            file,
            offset,
            bytes,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, bytes);
}
