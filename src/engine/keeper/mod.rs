//! The thread that keeps the catalog: everything that may wait for a
//! directory, a lock or a commit happens here, never on a data core.
//!
//! ```text
//!   shard 0 --+                     +--> redb (one commit for all that wait)
//!   shard 1 --+-- Job --> keeper ---+--> pins, directories, opened segments
//!   ...     --+           |
//!   shard n <---- News ---+
//! ```
//!
//! The keeper also owns every received space while no session does: a session
//! borrows it ([`Job::OpenReplica`]) and gives it back ([`Job::CloseReplica`]),
//! so that two connections can never write one log.
//!
//! News of a change are sent only after the change is durable.

mod adopt;
mod batch;
mod ignored;
mod job;
mod matched;
mod mending;
mod offer;
mod presence;
mod publishing;
mod ranges;
mod received;
mod releasing;
pub mod retention;
mod retired;
mod root;
mod search;
mod seed;
mod shipped;
mod superseded;
mod turns;
mod unnamed;
mod walked;

pub use ignored::Ignored;
pub use job::{
    AtRest, BadRecord, Denial, Job, Kept, Loan, Mailbox, News, Unmatched, Unopened, Verdict,
};
pub use offer::{Built, Ground, Offer, Scratch};
pub use shipped::open_numbered;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use self::adopt::Adoption;
use self::root::Root;
use super::scrub::{FreeBytes, ScrubRequests};
use super::status::{QuarantineStatus, SpaceStatus};
use crate::ids::{Epoch, SpaceId};
use crate::limits::{CATALOG_RETRY_DELAY, MAX_JOBS_PER_COMMIT};
use crate::lsn::Mark;
use crate::state::catalog::{Catalog, CatalogError, Change, Role, SpaceRecord};
use crate::state::host::Host;
use crate::state::pins::Pins;
use crate::state::runs::Run;
use crate::wal::record::Checksums;

/// Where the received spaces stand while no session has them, and what is
/// wrong with the data root. Shared with the control plane; no data core
/// touches it.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<Mutex<Published>>);

#[derive(Debug, Default)]
struct Published {
    /// Each with the moment since when it is so.
    statuses: BTreeMap<SpaceId, (SpaceStatus, Instant)>,
    quarantines: BTreeMap<SpaceId, QuarantineStatus>,
    /// What does not hold of what was durable.
    damages: BTreeMap<SpaceId, String>,
    /// What is wrong with the catalog.
    problem: Option<String>,
    /// What is wrong with the data root.
    root_problem: Option<String>,
}

impl Received {
    fn lock(&self) -> MutexGuard<'_, Published> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, status: SpaceStatus) {
        self.lock().statuses.insert(status.space.clone(), (status, Instant::now()));
    }

    fn publish_quarantine(&self, space: SpaceId, status: QuarantineStatus) {
        self.lock().quarantines.insert(space, status);
    }

    fn set_root_problem(&self, problem: Option<String>) {
        self.lock().root_problem = problem;
    }

    /// Bytes of a space that were durable do not hold; it is received all the
    /// same, and must be mended.
    fn damaged(&self, space: &SpaceId, what: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.damages.insert(space.clone(), what);
    }

    /// Everything that is durable in a space holds again.
    pub fn mended(&self, space: &SpaceId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.damages.remove(space).is_some() {
            tracing::warn!(%space, "everything that was durable holds again");
        }
    }

    /// The spaces of which something that was durable does not hold, and what.
    #[must_use]
    pub fn damages(&self) -> BTreeMap<SpaceId, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).damages.clone()
    }

    /// All of them.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<SpaceId, SpaceStatus> {
        let published = self.lock();
        let status = |(space, (status, since)): (&SpaceId, &(SpaceStatus, Instant))| {
            let mut status = status.clone();
            status.no_primary_seconds = Some(since.elapsed().as_secs_f64());
            (space.clone(), status)
        };
        published.statuses.iter().map(status).collect()
    }

    /// What is in quarantine, by space; of both roles.
    #[must_use]
    pub fn quarantines(&self) -> BTreeMap<SpaceId, QuarantineStatus> {
        self.lock().quarantines.clone()
    }

    /// What was last said to be wrong with a space.
    fn problem_of(&self, space: &SpaceId) -> Option<String> {
        self.lock().statuses.get(space)?.0.problem.clone()
    }

    /// What is wrong with the data root or the catalog, in a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let all = self.lock();
        all.root_problem.clone().or_else(|| all.problem.clone())
    }

    /// True if that is news.
    fn set_problem(&self, problem: Option<String>) -> bool {
        let mut all = self.lock();
        let news = all.problem != problem;
        all.problem = problem;
        news
    }
}

/// Who has a received space.
#[derive(Debug)]
enum Lease {
    /// Nobody: it can be lent. The mark is its durable end.
    Here(Mark),
    /// A session.
    Lent(Lessee),
    /// Nobody can: it must be mended first.
    Broken(String),
}

/// The session that has a received space.
#[derive(Clone, Copy, Debug)]
struct Lessee {
    shard: usize,
    /// The reign that it is received under.
    epoch: Epoch,
    /// The durable end when it was lent.
    mark: Mark,
}

/// One space of the catalog.
#[derive(Debug)]
struct Space {
    record: SpaceRecord,
    /// A primary's: files whose segments the shard has.
    delivered: BTreeSet<u64>,
    announced: bool,
    /// Of files that the shard does not have yet: where an earlier process is known
    /// to have walked to, and in which run.
    walked: BTreeMap<u64, (Run, Mark)>,
    /// What is kept of it for replicas.
    kept: retention::Kept,
    /// A replica's.
    lease: Lease,
    /// Files to be put in their place when the space is given back.
    adoptions: Vec<Adoption>,
    /// How often this process has cut or recovered it.
    recoveries: u64,
    /// Files that are gone from the primary and not here yet, and what was
    /// durable then: their last run is not known to have ended, or what is to be
    /// kept of them could not be.
    going: BTreeMap<u64, Mark>,
    /// Why the last session with it failed, if it did.
    trouble: Option<String>,
    /// Where it stood when that was last known, since it is not any more.
    last_known: Option<Mark>,
}

impl Space {
    fn new(record: SpaceRecord, lease: Lease) -> Self {
        let (delivered, kept) = (BTreeSet::new(), retention::Kept::default());
        Self {
            record,
            delivered,
            announced: false,
            walked: BTreeMap::new(),
            kept,
            lease,
            adoptions: Vec::new(),
            recoveries: 0,
            going: BTreeMap::new(),
            trouble: None,
            last_known: None,
        }
    }
}

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// `<data_root>`.
    pub data_root: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The host that both are on.
    pub host: Arc<dyn Host>,
}

impl Places {
    /// The directory that holds a space's segments.
    #[must_use]
    pub fn wal(&self, space: &SpaceId) -> PathBuf {
        self.data_root.join(space.as_str()).join("wal")
    }

    /// Where diverged and damaged bytes are kept.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.state_dir.join("quarantine")
    }
}

/// The keeper of one node.
pub struct Keeper {
    places: Places,
    catalog: Arc<Catalog>,
    pins: Pins,
    checksums: Checksums,
    rule: retention::Rule,
    spaces: BTreeMap<SpaceId, Space>,
    received: Received,
    ignored: Ignored,
    /// Whose log is the directory of that device and inode.
    logs: BTreeMap<(u64, u64), SpaceId>,
    mailboxes: Vec<Mailbox>,
    /// Changes of the batch that is being gathered.
    changes: Vec<(SpaceId, Change)>,
    /// Pins to be let go once everything so far is durable.
    releases: Vec<releasing::Release>,
    /// Those that could not be let go of.
    unreleased: BTreeMap<(SpaceId, u64), releasing::Unreleased>,
    /// Files to be removed once everything so far is durable.
    removals: Vec<(SpaceId, PathBuf)>,
    /// Spaces whose old copy is to be removed once everything so far is durable.
    seeded: Vec<SpaceId>,
    /// Spaces whose old copy could not be put away, and why.
    uncleared: BTreeMap<SpaceId, String>,
    /// Received spaces with files that are gone from the primary and cannot go.
    unretired: BTreeMap<SpaceId, retired::Unretired>,
    /// Files that were moved aside, or went, since others were looked after.
    retirements: u32,
    /// News that wait for the batch to be durable.
    waiting: Vec<(usize, News)>,
    /// Spaces lent in this batch; not lent after all if it fails.
    lending: Vec<SpaceId>,
    /// Spaces whose record here may be ahead of the catalog's, because a
    /// commit failed, and why. None of them is lent as long as it is.
    unrecorded: BTreeMap<SpaceId, String>,
    /// How many bytes are free on a file system.
    free_bytes: FreeBytes,
    /// Where to ask for a look at a space that is damaged.
    scrub: Option<ScrubRequests>,
    unwritten: mending::Unwritten,
    root: Root,
    /// Received spaces where somebody has made a file without a byte in it.
    unsettled: BTreeSet<SpaceId>,
    /// Where the jobs come from, to look after others while one takes long.
    inbox: Option<Receiver<Job>>,
    /// Jobs that wait for the one that takes long.
    deferred: VecDeque<Job>,
    /// Other spaces are looked after while one takes long.
    attending: bool,
    /// Boundaries that are searched for.
    searches: VecDeque<search::Search>,
    /// [`Job::Stop`] is among what was done.
    stopped: bool,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Take over the catalog. Every received space is recovered before this
    /// returns, so no torn tail outlives a restart; one that cannot be is no
    /// error here, it is refused to its primary by name.
    ///
    /// # Errors
    ///
    /// The catalog cannot be read or written.
    pub fn new(
        places: Places,
        catalog: Arc<Catalog>,
        pins: Pins,
        checksums: Checksums,
        rule: retention::Rule,
        received: Received,
    ) -> Result<Self, CatalogError> {
        let mut keeper = Self {
            root: Root::new(places.data_root.clone()),
            places,
            catalog,
            pins,
            checksums,
            rule,
            spaces: BTreeMap::new(),
            received,
            ignored: Ignored::default(),
            logs: BTreeMap::new(),
            mailboxes: Vec::new(),
            changes: Vec::new(),
            releases: Vec::new(),
            unreleased: BTreeMap::new(),
            removals: Vec::new(),
            seeded: Vec::new(),
            uncleared: BTreeMap::new(),
            unretired: BTreeMap::new(),
            retirements: 0,
            waiting: Vec::new(),
            lending: Vec::new(),
            unrecorded: BTreeMap::new(),
            free_bytes: crate::io::free_bytes,
            scrub: None,
            unwritten: mending::Unwritten::default(),
            unsettled: BTreeSet::new(),
            inbox: None,
            deferred: VecDeque::new(),
            attending: false,
            searches: VecDeque::new(),
            stopped: false,
        };
        for (space, record) in keeper.catalog.load()? {
            keeper.sweep_retired(&space, &record);
            let mut entry = Space::new(record, Lease::Here(Mark::START));
            if entry.record.role == Role::Replica {
                if let Err(error) = keeper.sweep_mending(&space, &entry.record) {
                    tracing::error!(%space, %error, "scratch files of mending are left over");
                }
                keeper.recover(&space, &mut entry);
            }
            keeper.keep(space.clone(), entry);
            keeper.settle_seed(&space);
            keeper.sweep_superseded(&space);
        }
        let changes = std::mem::take(&mut keeper.changes);
        keeper.catalog.commit(&changes)?;
        keeper.restore_names(&changes);
        Ok(keeper)
    }

    /// Ask here for a look at each space that turns out to be damaged.
    #[must_use]
    pub fn with_scrub(mut self, scrub: ScrubRequests) -> Self {
        self.scrub = Some(scrub);
        self
    }

    /// Work until [`Job::Stop`], or until all shards are gone.
    pub fn run(mut self, mailboxes: Vec<Mailbox>, jobs: &Receiver<Job>) {
        self.begin(mailboxes);
        self.inbox = Some(jobs.clone());
        let mut mend_at = None;
        loop {
            let waits = self.is_searching() || !self.deferred.is_empty();
            let pause = if waits { Duration::ZERO } else { self.root.next_look() };
            let look_at = Instant::now() + pause;
            let wake_at =
                mend_at.filter(|_| self.needs_mending()).map_or(look_at, |at| look_at.min(at));
            // If no more may wait, a cut is searched for.
            let next = if self.has_room() {
                jobs.recv_deadline(wake_at)
            } else {
                Err(RecvTimeoutError::Timeout)
            };
            let goes_on = match next {
                Ok(first) => self.batch(std::iter::once(first).chain(jobs.try_iter())),
                Err(RecvTimeoutError::Timeout) => self.batch(std::iter::empty()),
                Err(RecvTimeoutError::Disconnected) => false,
            };
            let now = Instant::now();
            let at = *mend_at.get_or_insert(now + CATALOG_RETRY_DELAY);
            if !goes_on || at <= now {
                self.mend();
                mend_at = None;
            } else if !self.needs_mending() {
                mend_at = None;
            }
            if !goes_on {
                return;
            }
            self.mind_root();
        }
    }

    /// Before the first batch: where each shard takes its news.
    pub fn begin(&mut self, mailboxes: Vec<Mailbox>) {
        self.mailboxes = mailboxes;
        let received = self.spaces.iter().filter(|(_, entry)| entry.record.role == Role::Replica);
        let received: Vec<_> = received.map(|(space, _)| space.clone()).collect();
        received.iter().for_each(|space| self.have_watched(space));
        self.publish();
    }

    /// Do the next jobs, at most as many as share a commit, and what had waited
    /// for one of them; then tell the news. No more is taken than may wait. False
    /// after [`Job::Stop`].
    pub fn batch(&mut self, jobs: impl Iterator<Item = Job>) -> bool {
        let mut jobs = jobs.take(MAX_JOBS_PER_COMMIT);
        while self.has_room()
            && let Some(job) = jobs.next()
        {
            self.take(job);
        }
        self.go_on_searching(false);
        self.catch_up();
        self.publish();
        !self.stopped
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::ScanRoot { shard } => {
                let (spaces, strangers) = self.scan_root();
                self.waiting.push((shard, News::Spaces(spaces)));
                if shard == 0 && !strangers.is_empty() {
                    self.waiting.push((shard, News::Strangers(strangers)));
                }
            }
            Job::ScanSpace { shard, space } => {
                let (news, obstacle) = self.scan_space(shard, &space);
                self.waiting.extend(news.map(|news| (shard, news)));
                self.waiting.push((shard, News::Access { space, obstacle }));
            }
            Job::OpenSegment { shard, space, file } => {
                let result = self.open_segment(&space, file).map(Arc::new);
                self.waiting.push((shard, News::Segment { space, file, result }));
            }
            Job::Positions { shard, now, spaces } => self.sweep(shard, now, spaces),
            Job::Reserve { shard, now, space, replica, base, target } => {
                self.reserve(now, &space, &replica, base, target);
                let news = News::Reserved { space, replica, base, result: Ok(()) };
                self.waiting.push((shard, news));
            }
            Job::Commit { shard, ticket, space, change } => {
                if let Some(entry) = self.spaces.get_mut(&space) {
                    remember(&mut entry.record, &change);
                }
                let id = space.clone();
                self.changes.push((space, change));
                self.settle_seed(&id);
                if let Some(ticket) = ticket {
                    self.waiting.push((shard, News::Committed { ticket, result: Ok(()) }));
                }
            }
            Job::BeginEpoch { shard, space, at, sure, runs } => {
                let result = self.begin_epoch(&space, at, sure, runs).map(Box::new);
                self.waiting.push((shard, News::EpochBegun { space, result }));
            }
            Job::LeaveOut { shard, space, at, bad, unix_ns } => {
                let result = self.leave_out(&space, &at, &bad, unix_ns).map(Box::new);
                self.waiting.push((shard, News::LeftOut { space, at: at.lsn, result }));
            }
            Job::OpenReplica { shard, ticket, open } => {
                let result = self.open_replica(shard, &open).map(Box::new);
                self.waiting.push((shard, News::ReplicaOpened { ticket, result }));
            }
            Job::Match { shard, ticket, space, at } => self.begin_match(shard, ticket, space, at),
            Job::Truncate { shard, ticket, open, to } => self.begin_cut(shard, ticket, open, to),
            Job::OpenRun { shard, ticket, space, ordinal, run, known } => {
                let result = self
                    .open_run(&space, ordinal, run, known)
                    .map_err(|error| format!("cannot open {} of {space}: {error}", run.segment));
                self.waiting.push((shard, News::RunOpened { ticket, result }));
                self.retire_ended(&space);
                if known || ordinal == 0 {
                    // A session begins; the directory may have been made just now.
                    self.have_watched(&space);
                }
            }
            Job::Retire { space, file, what, flushed } => {
                self.told_to_retire(&space, file, what, flushed);
            }
            Job::Reseed { shard, ticket, open, reseed } => {
                self.end_search(&open.space);
                let result = self.reseed(shard, &open, &reseed).map(Box::new);
                self.waiting.push((shard, News::ReplicaOpened { ticket, result }));
            }
            Job::ReadRange { shard, ticket, space, fetch } => {
                let bytes = self.read_range(&space, fetch).unwrap_or_else(|why| {
                    tracing::warn!(%space, lsn = %fetch.lsn, "a peer asks for a range: {why}");
                    Vec::new()
                });
                self.waiting.push((shard, News::RangeRead { ticket, bytes }));
            }
            Job::CheckRecord { shard, ticket, space, at } => {
                let verdict = self.check_record(&space, at);
                self.waiting.push((shard, News::RecordChecked { ticket, verdict }));
            }
            Job::Standing { space, reply } => {
                // Who asked may have given up.
                let _ = reply.send(self.standing(&space));
            }
            Job::OpenAtRest { space, run, reply } => {
                let _ = reply.send(self.at_rest(&space, &run));
            }
            Job::Adopt { space, offer, reply } => {
                self.adopt(&space, offer, reply);
            }
            Job::CloseReplica { space, state } => {
                self.end_search(&space);
                self.close_replica(&space, state);
                self.settle_seed(&space);
            }
            Job::LookAt { space } => self.look_at(&space),
            Job::Release { shard, space, file } => {
                self.release(releasing::Release { space, file, shard });
            }
            Job::Stop => {
                self.give_up_searching();
                self.stopped = true;
            }
        }
    }
}

/// Keep the record in memory equal to the catalog.
fn remember(record: &mut SpaceRecord, change: &Change) {
    record.apply(change);
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "released_tests.rs"]
mod released;
