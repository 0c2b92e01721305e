//! How large the terminal is.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

/// Columns and lines of the terminal behind a descriptor; nothing if it is
/// none, or does not know.
#[must_use]
pub fn size(of: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for as long as it is borrowed, and the
    // request writes one `winsize`, which lives until the call returns.
    let result = unsafe { libc::ioctl(of.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let known = result == 0 && size.ws_col > 0 && size.ws_row > 0;
    known.then_some((usize::from(size.ws_col), usize::from(size.ws_row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_size_in_columns() {
        let file = std::fs::File::open("/dev/null").expect("it is always there");
        assert_eq!(size(&file), None);
    }
}
