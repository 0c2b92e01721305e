//! The sending half of a shard: the spaces that it ships and the connections
//! that it ships them over.
//!
//! ```text
//!   Space (files, runs, boundaries)  --+
//!   Space                            --+--> Link (Sender machine) --> replica
//!   ...                              --+--> Link                  --> replica
//! ```
//!
//! A space is walked once, however many replicas follow it; an earlier part again
//! for those that are far behind, and nobody waits for that. A link knows
//! positions only; the bytes go from the page cache to its socket.

#![forbid(unsafe_code)]

mod access;
mod ahead;
mod damage;
mod earlier;
mod gap;
mod lag;
mod left;
pub mod link;
mod past;
mod recheck;
mod resume;
pub mod retention;
pub mod seed;
pub mod slot;
mod source;
pub mod space;
pub mod throttle;
mod unfinished;
mod walk;

pub use damage::Holder;
pub use past::Verdict;

use crate::ids::Epoch;
use crate::protocol::frame::Handle;

/// The ticket under which a run's commit is asked for: it names both.
#[must_use]
pub fn run_ticket(handle: Handle, ordinal: u32) -> u64 {
    u64::from(handle.0) << 32 | u64::from(ordinal)
}

/// The space and the run that a ticket names.
#[must_use]
pub fn run_of_ticket(ticket: u64) -> (Handle, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the ticket")]
    (Handle((ticket >> 32) as u32), ticket as u32)
}

/// What a space says whose reign is over.
#[must_use]
pub fn fenced(shipped: Epoch, highest: Epoch) -> String {
    format!(
        "fenced: this node ships epoch {shipped}, and a replica has seen epoch {highest}: another \
         node has become the primary of this space. Nothing more of it is shipped from here. Stop \
         the database on this node, and let it receive the space from the new primary"
    )
}
