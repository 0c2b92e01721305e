//! Records of this node's own files that do not hold: shipped up to, and not
//! beyond.
//!
//! A walk by headers does not see a payload that has rotted. The replica does,
//! and says so; the keeper looks at the record, and from then on it stands in
//! the way of every replica that does not have it yet. A replica that got it
//! while it was whole goes on.

use super::space::Space;
use crate::engine::keeper::BadRecord;
use crate::engine::shard::Standing;
use crate::lsn::Lsn;
use crate::state::catalog::Role;

/// A record that is not shipped.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) text: String,
}

impl Space {
    /// The record at `at` does not hold at rest.
    pub fn block(&mut self, at: Lsn, bad: &BadRecord) {
        let BadRecord { segment, offset, error, .. } = bad;
        let text = format!(
            "{segment} is damaged at offset {offset}, lsn {at}: {error}; nothing from there on is \
             shipped to a replica that does not have it. Either mend the file: saltus repair \
             --space {space} gets the bytes from a replica that has them; or leave the record out \
             for good: wal.on_corrupt_source = \"skip\"",
            space = self.id
        );
        if self.blocks.get(&at).is_none_or(|known| known.text != text) {
            tracing::error!(space = %self.id, "{text}");
            self.blocks.insert(at, Block { text });
        }
    }

    /// The record at `at` holds again.
    pub fn unblock(&mut self, at: Lsn) {
        if self.blocks.remove(&at).is_some() {
            tracing::warn!(space = %self.id, lsn = %at, "the record that was damaged is whole again");
        }
    }

    /// The records that do not hold.
    #[must_use]
    pub fn blocks(&self) -> Vec<Lsn> {
        self.blocks.keys().copied().collect()
    }

    /// How much of `most` bytes from `from` on may be shipped.
    pub(super) fn unblocked(&self, from: Lsn, most: u32) -> u32 {
        let Some((at, _)) = self.blocks.range(from..).next() else { return most };
        u32::try_from(at.bytes_since(from)).map_or(most, |bytes| bytes.min(most))
    }

    /// Where it stands, for a look at what is at rest.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            mark: self.head,
            runs: self.runs.clone(),
            role: Role::Primary,
            holes: self.holes.clone(),
        }
    }
}
