//! Background reads on a ring of their own, by tokio-uring.

#![forbid(unsafe_code)]

use std::fs::File;
use std::future::Future;
use std::io;

use tokio_uring::buf::BoundedBuf;

use super::bulk::Reads;

/// Reads in flight at a time: one task reads one piece.
const RING_ENTRIES: u32 = 8;

/// Run a task on a runtime with a ring, or give it back.
pub(super) fn run<F: Future, T: FnOnce(Reads) -> F>(task: T) -> Result<F::Output, T> {
    match tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)) {
        Ok(runtime) => Ok(runtime.block_on(task(Reads::Ring))),
        Err(error) => {
            tracing::info!(%error, "no ring for background reads: they block their thread");
            Err(task)
        }
    }
}

/// A file on the thread's ring.
pub(super) struct Reader(tokio_uring::fs::File);

impl Reader {
    /// Only within [`run`].
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
    pub(super) fn new(file: File) -> Option<Self> {
        Some(Self(tokio_uring::fs::File::from_std(file)))
    }

    /// The ring owns the piece while the read is in flight.
    pub(super) async fn read(
        &self,
        piece: Vec<u8>,
        most: usize,
        offset: u64,
    ) -> (io::Result<usize>, Vec<u8>) {
        let (result, lent) = self.0.read_at(piece.slice(..most), offset).await;
        (result, lent.into_inner())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}
