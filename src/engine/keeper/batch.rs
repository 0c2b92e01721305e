//! The end of a batch: durable, or not.
//!
//! ```text
//!   commit --> let go of pins, files, old copies --> tell the news
//!      `-- failed: what was to be let go waits until all that comes before it
//!          is durable; news are withheld, or told as bad news
//! ```

use std::collections::BTreeSet;
use std::mem::take;

use super::mending::Failure;
use super::walked::last_walked;
use super::{Keeper, News, retired};
use crate::ids::SpaceId;
use crate::state::catalog::Change;

impl Keeper {
    /// Make the batch durable, then tell the news that waited for it.
    pub(super) fn publish(&mut self) {
        let changes = take(&mut self.changes);
        let failure = self.commit(&changes).err();
        match &failure {
            None => self.let_go(),
            Some(Failure { waits: true, .. }) => {}
            Some(Failure { waits: false, .. }) => {
                self.keep_what_rests_on(&changes);
                self.let_go();
            }
        }
        if failure.is_none() {
            self.restore_names(&changes);
        }
        let lending = take(&mut self.lending);
        if let Some(why) = &failure {
            self.withdraw(changes, lending, why);
        }
        let waiting = take(&mut self.waiting);
        let Some(failure) = failure else {
            return waiting.into_iter().for_each(|(shard, news)| self.tell(shard, news));
        };
        let goes_on = self.may_go_on(&failure);
        for (shard, news) in waiting {
            let scanned = match &news {
                News::Space { space, .. } if goes_on(space) => {
                    self.tell(shard, news);
                    continue;
                }
                News::Space { space, record, found, .. } => {
                    let files = found.iter().map(|(file, _)| *file).collect();
                    Some((space.clone(), record.is_some(), files))
                }
                _ => None,
            };
            let Some(news) = self.withhold(shard, news, &failure) else { continue };
            if let Some((space, record, files)) = scanned {
                self.undeliver(&space, record, files);
            }
            self.tell(shard, news);
        }
    }

    /// Where a file lies a start tells by what the catalog holds: it is told what waits of
    /// a space before anything there is moved by that.
    pub(super) fn record_now(&mut self, space: &SpaceId) {
        if self.changes.iter().any(|(of, _)| of == space) {
            self.publish();
        }
    }

    /// Let go of what is needed no more by what was recorded. Nothing goes while
    /// any of that is not durable: a batch without a change says nothing of the
    /// changes of earlier ones.
    pub(super) fn let_go(&mut self) {
        if !self.unwritten.changes.is_empty() {
            return;
        }
        for release in take(&mut self.releases) {
            self.remove_pin(release);
        }
        for (_, path) in take(&mut self.removals) {
            retired::remove(&*self.places.host, &path);
        }
        for space in take(&mut self.seeded) {
            // It may be filled anew once more meanwhile.
            if self.spaces.get(&space).is_some_and(|entry| entry.record.seed.is_none()) {
                self.remove_superseded(&space);
            }
        }
    }

    /// What was to be let go of the spaces of these changes rests on what this
    /// process will not record. The next one finds it all, and lets it go.
    fn keep_what_rests_on(&mut self, changes: &[(SpaceId, Change)]) {
        let refused: BTreeSet<_> = changes.iter().map(|(space, _)| space).collect();
        self.releases.retain(|release| !refused.contains(&release.space));
        self.removals.retain(|(space, _)| !refused.contains(space));
        self.seeded.retain(|space| !refused.contains(space));
    }

    pub(super) fn tell(&self, shard: usize, news: News) {
        // A shard that is gone needs no news.
        if let Some(mailbox) = self.mailboxes.get(shard)
            && mailbox.news.send(news).is_ok()
        {
            mailbox.waker.wake();
        }
    }

    /// The shard does not hear of these files after all. The next scan numbers
    /// and delivers them afresh; the record too, if it was to hear of that: one
    /// that it works with already would take it back to its start.
    fn undeliver(&mut self, space: &SpaceId, record: bool, files: Vec<u64>) {
        if record {
            self.doubt_again(space);
        }
        let Some(entry) = self.spaces.get_mut(space) else { return };
        entry.announced &= !record;
        // Whether they end as they did is to be told again, too.
        let mut walked = last_walked(&entry.record);
        walked.retain(|file, _| files.contains(file));
        entry.walked.append(&mut walked);
        for file in files {
            entry.delivered.remove(&file);
            let in_stream = entry.record.runs.first_in(file).is_some();
            if !in_stream {
                entry.record.files.retain(|known| known.file != file);
            }
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
