//! Files that were built in the place of damaged ones, on their way from the
//! scrubber to the keeper.
//!
//! ```text
//!   scrubber -- Offer --> keeper, at once or when the space comes back
//!       `-- takes it back when it has waited for too long
//! ```
//!
//! Whoever takes an offer has its files, and nobody else: none is put in place
//! that its builder has given up. What is not put in place is removed, wherever
//! it gets lost.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::Epoch;
use crate::lsn::{Lsn, Mark};
use crate::protocol::matching::common_point;
use crate::state::host::Host;

/// What a file was built for: the stream of these epochs up to a boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The epochs, and where each began.
    pub history: Vec<(Epoch, Lsn)>,
    /// The boundary.
    pub mark: Mark,
    /// How often the space had been cut or recovered, as the keeper counts it.
    pub recoveries: u64,
}

impl Ground {
    /// Whether a stream of these epochs is the same up to the boundary.
    #[must_use]
    pub fn is_of(&self, history: &[(Epoch, Lsn)]) -> bool {
        common_point(history, self.mark.lsn, &self.history) == self.mark.lsn
    }
}

/// A file in this process's own directory that is removed when it is dropped,
/// unless it has got another name.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
    /// The host that it is on.
    pub host: Arc<dyn Host>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match self.host.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a scratch file is left behind");
            }
            _ => {}
        }
    }
}

/// A file that was built, and verified.
#[derive(Debug)]
pub struct Built {
    /// The number of the file in whose place it is to be put.
    pub file: u64,
    /// Where it is.
    pub scratch: Scratch,
    /// How many bytes it has: all of them were durable when they were read.
    pub bytes: u64,
}

/// What they were built for, and the files; nothing once they were taken.
type Offered = Option<(Ground, Vec<Built>)>;

/// Files that were built, for whoever takes them first.
#[derive(Clone, Debug)]
pub struct Offer(Arc<Mutex<Offered>>);

impl Offer {
    /// Offer files.
    #[must_use]
    pub fn new(ground: Ground, built: Vec<Built>) -> Self {
        Self(Arc::new(Mutex::new(Some((ground, built)))))
    }

    /// Take them; nothing if somebody has.
    #[must_use]
    pub fn take(&self) -> Option<(Ground, Vec<Built>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether somebody has taken them.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
