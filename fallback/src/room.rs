//! How much room a file system has.

use std::io;
use std::path::Path;

/// The bytes that this user may still write to the file system of `path`.
///
/// # Errors
///
/// The system's: the path is not there, or may not be looked at.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(path)?;
    // Of 32 bits on some systems.
    #[allow(clippy::useless_conversion)]
    let blocks = u64::from(found.blocks_available());
    #[allow(clippy::useless_conversion)]
    let block_bytes = u64::from(found.fragment_size());
    Ok(blocks.saturating_mul(block_bytes))
}
