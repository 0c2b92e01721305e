//! What is remembered besides runs: of a seed that a replica is receiving, and of
//! files that have no name on the primary any more.

use super::catalog::SpaceRecord;
use crate::lsn::Lsn;

/// A seed that a replica is receiving: the stream from a base on, in the place
/// of an older copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedRecord {
    /// Where the primary's head was when the seed began. Once that is durable
    /// here, the older copy is needed no more.
    pub target: Lsn,
    /// The older copy has been moved aside. Until then nothing is received.
    pub moved: bool,
}

/// What became of a file that has no name on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retired {
    /// It is out of the directory; its records are here, and may grow.
    Aside,
    /// It is gone, here and on the primary. Its runs keep their place. On a
    /// primary: its pin was let go of on purpose, so that no crash of the host has
    /// taken it.
    Gone,
}

impl SpaceRecord {
    /// True of a file that was let go of on purpose: nothing of it is here any more.
    #[must_use]
    pub fn is_gone(&self, file: u64) -> bool {
        self.retired.get(&file) == Some(&Retired::Gone)
    }
}
