//! Who can still write to a file. A shard asks [`Writers`], never the kernel:
//! in the simulator the database is none of the kernel's processes.

use std::fs::File;
use std::io;

use crate::io::has_writer;

/// Knows who has files open.
pub trait Writers: std::fmt::Debug + Send + Sync {
    /// True if some descriptor, here or elsewhere, can still write to a file
    /// that is open for reading only. Nothing waits.
    ///
    /// # Errors
    ///
    /// As [`has_writer`]: then nothing is known.
    fn has_writer(&self, file: &File) -> io::Result<bool>;
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Writers for Kernel {
    fn has_writer(&self, file: &File) -> io::Result<bool> {
        has_writer(file)
    }
}
