//! Pins that nobody needs: let go of, and the shard told once they are.
//!
//! ```text
//!   Job::Release --> name gone, durably --> recorded --> pin removed --> Released
//!                          |                                 |
//!                          +--- failed: the pin is kept -----+
//!                               named in the status, tried again
//! ```
//!
//! The replicas are told on the shard's word that a file is gone, and then remove
//! their own. So a file that may still be here, or may come back, is not told.

use std::collections::BTreeMap;
use std::io;

use super::{Keeper, News, remember};
use crate::ids::SpaceId;
use crate::limits::CATALOG_RETRY_DELAY;
use crate::state::catalog::{Change, Retired};

/// A pin to be let go.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub(super) space: SpaceId,
    pub(super) file: u64,
    /// Who is told.
    pub(super) shard: usize,
}

/// One that could not be.
#[derive(Debug)]
pub(super) struct Unreleased {
    release: Release,
    /// The catalog knows that the file was let go of.
    recorded: bool,
    /// In a sentence.
    why: String,
}

impl Keeper {
    /// Let go of the pin of a file that nobody needs, once it is durable that
    /// this was done on purpose: after a crash of the host, a file that has
    /// neither a name nor a pin would be taken for one that the crash took. And
    /// once it is durable that its name is gone: it must not come back with less
    /// in it than replicas were shipped.
    pub(super) fn release(&mut self, release: Release) {
        let Release { space, file, .. } = &release;
        let wal = self.places.wal(space);
        // Somebody may have removed all of the space; where all of the root has been
        // moved away, nothing is known of the name.
        let there = wal.ancestors().find(|directory| directory.is_dir()).unwrap_or(&wal);
        let gone = self.places.host.sync_directory(there);
        if let Err(error) = gone.and_then(|()| self.in_place()) {
            self.keep_pin(release, false, &error);
            return;
        }
        if let Some(entry) = self.spaces.get_mut(space) {
            let change = Change::Retire { file: *file, what: Retired::Gone };
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
        self.releases.push(release);
    }

    /// All that it rests on is durable.
    pub(super) fn remove_pin(&mut self, release: Release) {
        let Release { space, file, shard } = &release;
        let gone = self.pins.release(space, *file);
        if let Err(error) = gone.and_then(|()| self.in_place()) {
            self.keep_pin(release, true, &error);
            return;
        }
        tracing::info!(%space, file, "no replica needs it: pin released");
        if let Some(entry) = self.spaces.get_mut(space) {
            entry.kept.pinned.remove(file);
        }
        self.unreleased.remove(&(space.clone(), *file));
        self.tell(*shard, News::Released { space: space.clone(), file: *file });
    }

    /// A pin that cannot be let go of now is named, and tried again.
    fn keep_pin(&mut self, release: Release, recorded: bool, error: &io::Error) {
        let Release { space, file, shard } = release.clone();
        let pin = self.pins.path(&space, file);
        let why = format!(
            "the pin {} is kept, although no replica needs it: {error}; it is tried again every \
             {CATALOG_RETRY_DELAY:?}, and no replica is told that the segment is gone before",
            pin.display()
        );
        let kept = Unreleased { release, recorded, why: why.clone() };
        let before = self.unreleased.insert((space.clone(), file), kept);
        if before.is_none_or(|before| before.why != why) {
            tracing::warn!(%space, file, "{why}");
            let problems = self.unreleased_of(&space);
            let (record, found, otherwise, named) = (None, Vec::new(), BTreeMap::new(), None);
            self.tell(shard, News::Space { space, record, found, otherwise, named, problems });
        }
    }

    /// What is to be told of the pins of a space that could not be let go of.
    pub(super) fn unreleased_of(&self, space: &SpaceId) -> Vec<String> {
        let of = self.unreleased.values().filter(|kept| kept.release.space == *space);
        of.map(|kept| kept.why.clone()).collect()
    }

    /// Try again to let go of them.
    pub(super) fn release_again(&mut self) {
        if self.unreleased.is_empty() || !self.unwritten.changes.is_empty() {
            return;
        }
        let all: Vec<_> =
            self.unreleased.values().map(|k| (k.release.clone(), k.recorded)).collect();
        for (release, recorded) in all {
            if recorded {
                self.releases.push(release);
            } else {
                self.release(release);
            }
        }
        self.publish();
    }
}

#[cfg(test)]
#[path = "releasing_tests.rs"]
mod tests;
