//! A catalog that could not be written, until it can be again.
//!
//! ```text
//!   a commit fails --> its changes wait here, in order, and all later ones
//!        |             behind them; replicas are refused by name, primaries'
//!        |             news wait
//!        +-- every few seconds: reopen, look what the disk has, write --> go on
//! ```
//!
//! Nothing is synced twice: the database is closed and opened again from what
//! the disk holds, and the changes are written anew unless they are found there:
//! all of those that were written together, or none.
//! Whatever needs no new entry in the catalog goes on meanwhile: a run that is
//! recorded is shipped and received.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Keeper, Lease, News};
use crate::ids::SpaceId;
use crate::io::disk;
use crate::limits::{CATALOG_RETRY_DELAY, MAX_UNWRITTEN_CHANGES};
use crate::protocol::message::ErrorCode;
use crate::state::catalog::{CatalogError, Change, Role, SpaceRecord};

/// What waits for the catalog.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub(super) changes: Vec<(SpaceId, Change)>,
    /// What was written last, and may be there.
    attempt: Attempt,
    /// News to be told once the changes are durable.
    news: Vec<(usize, News)>,
    /// Why the first of them is not durable.
    cause: String,
    /// Writing will not be tried again by this process.
    hopeless: bool,
}

/// Changes that were written in one transaction whose end is not known.
#[derive(Debug, Default)]
struct Attempt {
    /// How many, from the first that waits on.
    changes: usize,
    /// What the catalog holds of their spaces if they are there.
    records: BTreeMap<SpaceId, Option<SpaceRecord>>,
}

/// Why a batch is not durable.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// It is tried again.
    pub(super) waits: bool,
}

impl Keeper {
    /// Make changes durable, unless earlier ones wait. No changes are always
    /// durable, whatever waits.
    pub(super) fn commit(&mut self, changes: &[(SpaceId, Change)]) -> Result<(), Failure> {
        if changes.is_empty() {
            return Ok(());
        }
        if !self.unwritten.changes.is_empty() {
            let why = format!("an earlier change waits: {}", self.unwritten.cause);
            return Err(Failure { why, waits: !self.unwritten.hopeless });
        }
        self.catalog.commit(changes).map_err(|error| {
            let waits = is_of_the_disk(&error);
            if waits {
                self.say_unwritten(&error);
            } else {
                tracing::error!(%error, changes = changes.len(), "the catalog refuses a change");
            }
            Failure { why: error.to_string(), waits }
        })
    }

    /// The batch was not made durable. What was to be lent with it stays here,
    /// and a space whose changes wait is not lent: its record here may name a
    /// run that a restart would not know, and bytes acknowledged in such a run
    /// would be lost.
    pub(super) fn withdraw(
        &mut self,
        changes: Vec<(SpaceId, Change)>,
        lending: Vec<SpaceId>,
        failure: &Failure,
    ) {
        let why = &failure.why;
        for (space, change) in &changes {
            if !failure.waits && matches!(change, Change::Create { role: Role::Primary, .. }) {
                // Nobody has heard of it: it can be drawn anew.
                self.spaces.remove(space);
            }
            self.unrecorded.entry(space.clone()).or_insert_with(|| {
                let then = if failure.waits { "it is tried again" } else { "restart this node" };
                format!("the catalog could not be written: {why}; {then}")
            });
        }
        for space in lending {
            if let Some(entry) = self.spaces.get_mut(&space) {
                entry.lease = Lease::Broken(format!("the catalog could not be written: {why}"));
            }
        }
        if !failure.waits {
            return;
        }
        if self.unwritten.changes.is_empty() {
            self.unwritten.cause.clone_from(why);
            self.unwritten.attempt = self.attempt(&changes);
        }
        self.unwritten.changes.extend(changes);
        if self.unwritten.changes.len() > MAX_UNWRITTEN_CHANGES {
            self.give_up("too many changes wait for it");
        }
    }

    /// What becomes of news whose batch was not made durable: bad news at
    /// once, or good news later.
    pub(super) fn withhold(&mut self, shard: usize, news: News, failure: &Failure) -> Option<News> {
        match news {
            News::Committed { .. }
            | News::Space { .. }
            | News::EpochBegun { .. }
            | News::LeftOut { .. }
                if failure.waits && !self.unwritten.hopeless =>
            {
                self.unwritten.news.push((shard, news));
                None
            }
            news => Some(spoil(news, &failure.why)),
        }
    }

    /// The spaces that a batch that was not made durable keeps from nothing: nothing of
    /// their streams waits. What is to be remembered of slots is remembered before any
    /// boundary that comes now, and until then a restart finds what this start has found.
    pub(super) fn may_go_on(&self, failure: &Failure) -> impl Fn(&SpaceId) -> bool + use<> {
        let of_slots =
            |change: &Change| matches!(change, Change::Slot { .. } | Change::DropSlot { .. });
        let waiting = self.unwritten.changes.iter().filter(|(_, change)| !of_slots(change));
        let waiting: BTreeSet<_> = waiting.map(|(space, _)| space.clone()).collect();
        let tried_again = failure.waits && !self.unwritten.hopeless;
        move |space| tried_again && !waiting.contains(space)
    }

    /// True while something waits that may be done yet.
    #[must_use]
    pub fn needs_mending(&self) -> bool {
        self.catalog_waits()
            || !self.uncleared.is_empty()
            || !self.unreleased.is_empty()
            || !self.unretired.is_empty()
    }

    /// True while changes wait that may be written yet.
    pub(super) fn catalog_waits(&self) -> bool {
        !self.unwritten.changes.is_empty() && !self.unwritten.hopeless
    }

    /// Try to do what waits; to be called every [`CATALOG_RETRY_DELAY`] as
    /// long as it is [needed](Keeper::needs_mending).
    pub fn mend(&mut self) {
        self.clear_again();
        self.release_again();
        self.retire_again();
        if !self.catalog_waits() {
            return;
        }
        let changes = self.unwritten.changes.clone();
        match self.write_again() {
            Ok(there) => {
                self.unwritten.changes.clear();
                tracing::info!(changes = changes.len(), "the catalog can be written again");
                let spaces = &self.spaces;
                self.unrecorded.retain(|space, _| {
                    spaces.get(space).is_some_and(|entry| there.get(space) != Some(&entry.record))
                });
                self.received.set_problem(None);
                self.restore_names(&changes);
                self.let_go();
                for (shard, news) in std::mem::take(&mut self.unwritten.news) {
                    self.tell(shard, news);
                }
            }
            Err(error) if is_of_the_disk(&error) => self.say_unwritten(&error),
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    /// What the catalog holds when all is written.
    fn write_again(&mut self) -> Result<BTreeMap<SpaceId, SpaceRecord>, CatalogError> {
        self.catalog.reopen(&|file| disk::forget_all(file).map_err(io::Error::other))?;
        // If it was the last sync that failed, they may be there. They may not be
        // written a second time then: an empty run that another one has followed can
        // be opened again.
        let there = self.catalog.load()?;
        let Attempt { changes, records } = &self.unwritten.attempt;
        if records.iter().all(|(space, record)| there.get(space) == record.as_ref()) {
            self.unwritten.changes.drain(..*changes);
        }
        self.unwritten.attempt = self.attempt(&self.unwritten.changes);
        if self.unwritten.changes.is_empty() {
            return Ok(there);
        }
        self.catalog.commit(&self.unwritten.changes)?;
        self.catalog.load()
    }

    /// These changes, as they are written.
    fn attempt(&self, changes: &[(SpaceId, Change)]) -> Attempt {
        let record = |space| self.spaces.get(space).map(|entry| entry.record.clone());
        let records = changes.iter().map(|(space, _)| space).collect::<BTreeSet<_>>();
        let records = records.into_iter().map(|space| (space.clone(), record(space))).collect();
        Attempt { changes: changes.len(), records }
    }

    /// This process cannot bring the catalog in order.
    fn give_up(&mut self, why: &str) {
        self.unwritten.hopeless = true;
        tracing::error!("the catalog can no longer be written: {why}; restart this node");
        self.received.set_problem(Some(format!(
            "the catalog can no longer be written: {why}; restart this node"
        )));
        for (shard, news) in std::mem::take(&mut self.unwritten.news) {
            self.tell(shard, spoil(news, why));
        }
    }

    pub(super) fn say_unwritten(&mut self, error: &CatalogError) {
        let problem = format!(
            "{error}; nothing new can be recorded, and it is tried again every \
             {CATALOG_RETRY_DELAY:?}"
        );
        // The same again is no news.
        if self.received.set_problem(Some(problem.clone())) {
            tracing::error!("{problem}");
        }
    }
}

/// The disk, or the way to it, may be well again some day, and whoever reads
/// the old database is done soon; a change that the catalog refuses is refused
/// for ever.
fn is_of_the_disk(error: &CatalogError) -> bool {
    matches!(
        error,
        CatalogError::Storage { .. }
            | CatalogError::Gone { .. }
            | CatalogError::Directory { .. }
            | CatalogError::AlreadyOpen { .. }
    )
}

/// Turn news into the bad news that its batch was not made durable.
fn spoil(news: News, why: &str) -> News {
    let why = format!("the catalog cannot be written: {why}");
    match news {
        News::Committed { ticket, .. } => News::Committed { ticket, result: Err(why) },
        News::ReplicaOpened { ticket, .. } => {
            News::ReplicaOpened { ticket, result: Err((ErrorCode::Storage, why).into()) }
        }
        News::RunOpened { ticket, .. } => News::RunOpened { ticket, result: Err(why) },
        News::Space { space, mut problems, .. } => {
            problems.push(why);
            // A stream that no restart would know must not be shipped.
            let (record, found, otherwise, named) = (None, Vec::new(), BTreeMap::new(), None);
            News::Space { space, record, found, otherwise, named, problems }
        }
        News::Reserved { space, replica, base, .. } => {
            News::Reserved { space, replica, base, result: Err(why) }
        }
        // A loss that is not durable lets no pin go.
        News::Slots { space, .. } => News::Slots { space, slots: Vec::new() },
        News::EpochBegun { space, .. } => News::EpochBegun { space, result: Err(why) },
        // The record here is ahead of the catalog's: the stream cannot go on.
        News::LeftOut { space, result: Ok(_), .. } => News::EpochBegun { space, result: Err(why) },
        other @ (News::Spaces(_)
        | News::Access { .. }
        | News::RootBack
        | News::Strangers(_)
        | News::Refused(_)
        | News::Released { .. }
        | News::Segment { .. }
        | News::Matched { .. }
        | News::Recalled { .. }
        | News::Evicted { .. }
        | News::Disturbed(_)
        | News::Received(_)
        | News::RangeRead { .. }
        | News::LeftOut { .. }
        | News::RecordChecked { .. }) => other,
    }
}

#[cfg(test)]
#[path = "mending_tests.rs"]
mod tests;
