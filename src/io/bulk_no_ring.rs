//! Where there is no ring, background reads block their thread.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;

use super::bulk::Reads;

/// There is no ring: the task comes back.
pub(super) fn run<F: Future, T: FnOnce(Reads) -> F>(task: T) -> Result<F::Output, T> {
    Err(task)
}

/// There is none.
#[derive(Debug)]
pub(super) struct Reader(Infallible);

impl Reader {
    /// There is none.
    pub(super) fn new(_file: File) -> Option<Self> {
        None
    }

    /// There is none.
    pub(super) async fn read(
        &self,
        _piece: Vec<u8>,
        _most: usize,
        _offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        match self.0 {}
    }
}
