//! Whether anybody still has a file open for writing, asked of the kernel.
//!
//! A read lease is granted only on a file that nobody has open for writing, so
//! taking one and giving it back at once answers the question, without a look
//! at other processes. Nothing waits: the kernel answers from the inode.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `fcntl`'s number for the signal that a broken lease sends; the same on every
/// architecture, and missing in `libc`.
const F_SETSIG: libc::c_int = 10;

/// True if some descriptor, here or elsewhere, can still write to the file.
/// `file` must be open for reading only.
///
/// # Errors
///
/// The file system knows no leases, or the file belongs to another user: then
/// nothing is known.
pub fn has_writer(file: &File) -> io::Result<bool> {
    // Somebody who opens the file for writing in the instant in which the
    // lease is held would have this process signalled, by default with one
    // that ends it. SIGURG is ignored by default.
    set(file, F_SETSIG, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            set(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn set(file: &File, what: libc::c_int, to: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and
    // these commands take an integer, no pointer.
    match unsafe { libc::fcntl(file.as_raw_fd(), what, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_writer_shows_for_as_long_as_it_has_the_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        match has_writer(&reader) {
            Ok(found) => assert!(found),
            // Where leases are not to be had, nothing is claimed.
            Err(error) => return crate::skipped::skipped(&format!("no leases here: {error}")),
        }
        drop(writer);
        assert!(!has_writer(&reader).unwrap());
        assert!(!has_writer(&reader).unwrap(), "the lease was given back");
    }
}
