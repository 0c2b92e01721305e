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

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::{Receiver, Sender};

use super::recovery;
use super::replica::log::SegmentFiles;
use super::status::{self, SpaceStatus};
use crate::ids::{Epoch, SpaceId, StreamId};
use crate::io::Waker;
use crate::limits::{MAX_JOBS_PER_COMMIT, MAX_SPACES};
use crate::lsn::Mark;
use crate::protocol::message::{ErrorCode, OpenSpace};
use crate::state::catalog::{Catalog, CatalogError, Change, FileRecord, Role, SpaceRecord};
use crate::state::pins::Pins;
use crate::state::runs::{Run, Runs};
use crate::state::{random_u128, sync_directory};
use crate::wal::discover;
use crate::wal::record::Checksums;
use crate::wal::segment::{Identity, Segment, SegmentError};

/// Something that a data core must not do itself.
#[derive(Debug)]
pub enum Job {
    /// List the spaces of the data root.
    ScanRoot {
        /// Who asks.
        shard: usize,
    },
    /// List the segments of a space: pin, number and open what is new.
    ScanSpace {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
    },
    /// Open a segment again that was delivered, or skipped, before.
    OpenSegment {
        /// Who asks.
        shard: usize,
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
    },
    /// Make a change durable. News come only if a ticket is given.
    Commit {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: Option<u64>,
        /// The space.
        space: SpaceId,
        /// What changes.
        change: Change,
    },
    /// Borrow a space in order to receive it.
    OpenReplica {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// What the primary says of the space.
        open: Box<OpenSpace>,
    },
    /// Make the file of a run, or open it again.
    OpenRun {
        /// Who asks.
        shard: usize,
        /// Comes back in the news.
        ticket: u64,
        /// The space.
        space: SpaceId,
        /// Its ordinal.
        ordinal: u32,
        /// The run.
        run: Run,
        /// True if the catalog has it already.
        known: bool,
    },
    /// Give a borrowed space back.
    CloseReplica {
        /// The space.
        space: SpaceId,
        /// Its state: what is durable and verified; nothing after a failure,
        /// and then the log is recovered from the disk before it is lent
        /// again.
        state: Option<Box<(SpaceRecord, Mark)>>,
    },
    /// Stop when everything before this has been done.
    Stop,
}

/// The answer to a job.
#[derive(Debug)]
pub enum News {
    /// The spaces of the data root that exist as directories.
    Spaces(Vec<SpaceId>),
    /// What is known of a primary's space, and segments not delivered before.
    Space {
        /// The space.
        space: SpaceId,
        /// The catalog's record, with the first news of a space.
        record: Option<Box<SpaceRecord>>,
        /// New segments, by number.
        found: Vec<(u64, Arc<Segment>)>,
        /// What could not be opened, in a sentence each.
        problems: Vec<String>,
    },
    /// A segment is open again, or why not.
    Segment {
        /// The space.
        space: SpaceId,
        /// Its number.
        file: u64,
        /// The segment.
        result: Result<Arc<Segment>, String>,
    },
    /// The change is durable, or why not.
    Committed {
        /// As given.
        ticket: u64,
        /// The outcome.
        result: Result<(), String>,
    },
    /// A space is lent, or why not.
    ReplicaOpened {
        /// As given.
        ticket: u64,
        /// The catalog's record and the durable end.
        result: Result<Box<(SpaceRecord, Mark)>, (ErrorCode, String)>,
    },
    /// A run can be written to, or why not.
    RunOpened {
        /// As given.
        ticket: u64,
        /// The open files.
        result: Result<SegmentFiles, String>,
    },
}

/// Where a shard takes its news.
#[derive(Clone)]
pub struct Mailbox {
    /// The news.
    pub news: Sender<News>,
    /// To be called after each.
    pub waker: Waker,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

/// Where the received spaces stand while no session has them. Shared with the
/// control plane; no data core touches it.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<Mutex<BTreeMap<SpaceId, SpaceStatus>>>);

impl Received {
    fn publish(&self, status: SpaceStatus) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(status.space.clone(), status);
    }

    /// All of them.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<SpaceId, SpaceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who has a received space.
#[derive(Debug)]
enum Lease {
    /// Nobody: it can be lent. The mark is its durable end.
    Here(Mark),
    /// A session.
    Lent,
    /// Nobody can: it must be mended first.
    Broken(String),
}

/// One space of the catalog.
#[derive(Debug)]
struct Space {
    record: SpaceRecord,
    /// A primary's: files whose segments the shard has.
    delivered: BTreeSet<u64>,
    announced: bool,
    /// A replica's.
    lease: Lease,
}

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// `<data_root>`.
    pub data_root: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
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
    spaces: BTreeMap<SpaceId, Space>,
    received: Received,
    mailboxes: Vec<Mailbox>,
    /// Changes of the batch that is being gathered.
    changes: Vec<(SpaceId, Change)>,
    /// News that wait for the batch to be durable.
    waiting: Vec<(usize, News)>,
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
        received: Received,
    ) -> Result<Self, CatalogError> {
        let mut keeper = Self {
            places,
            catalog,
            pins,
            checksums,
            spaces: BTreeMap::new(),
            received,
            mailboxes: Vec::new(),
            changes: Vec::new(),
            waiting: Vec::new(),
        };
        for (space, mut record) in keeper.catalog.load()? {
            let lease = match record.role {
                Role::Primary => Lease::Here(Mark::START),
                Role::Replica => keeper.recover(&space, &mut record),
            };
            let entry = Space { record, delivered: BTreeSet::new(), announced: false, lease };
            keeper.keep(space, entry);
        }
        keeper.catalog.commit(&std::mem::take(&mut keeper.changes))?;
        Ok(keeper)
    }

    /// Enter or replace a space, and publish where it stands.
    fn keep(&mut self, id: SpaceId, space: Space) {
        if space.record.role == Role::Replica {
            let state = match &space.lease {
                Lease::Here(mark) => Some((*mark, None)),
                Lease::Broken(why) => Some((space.record.checkpoint, Some(why.clone()))),
                // The session that has it knows better.
                Lease::Lent => None,
            };
            if let Some((mark, problem)) = state {
                let status = SpaceStatus {
                    space: id.clone(),
                    role: status::Role::Replica,
                    epoch: space.record.highest_epoch,
                    head_lsn: mark.lsn.0,
                    head_sequence: mark.sequence,
                    flushed_lsn: Some(mark.lsn.0),
                    primary: None,
                    problem,
                    replicas: Vec::new(),
                };
                self.received.publish(status);
            }
        }
        self.spaces.insert(id, space);
    }

    /// Work until [`Job::Stop`], or until all shards are gone.
    pub fn run(mut self, mailboxes: Vec<Mailbox>, jobs: &Receiver<Job>) {
        self.mailboxes = mailboxes;
        while let Ok(first) = jobs.recv() {
            let mut stop = false;
            for job in std::iter::once(first).chain(jobs.try_iter()).take(MAX_JOBS_PER_COMMIT) {
                stop |= matches!(job, Job::Stop);
                self.handle(job);
            }
            self.publish();
            if stop {
                return;
            }
        }
    }

    /// Make the batch durable, then tell the news that waited for it.
    fn publish(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let result = if changes.is_empty() { Ok(()) } else { self.catalog.commit(&changes) };
        let failure = result.err().map(|error| {
            tracing::error!(%error, changes = changes.len(), "the catalog cannot be written");
            error.to_string()
        });
        for (shard, news) in std::mem::take(&mut self.waiting) {
            let news = match &failure {
                Some(why) => spoil(news, why),
                None => news,
            };
            let Some(mailbox) = self.mailboxes.get(shard) else { continue };
            // A shard that is gone needs no news.
            if mailbox.news.send(news).is_ok() {
                mailbox.waker.wake();
            }
        }
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::ScanRoot { shard } => {
                let spaces = self.scan_root();
                self.waiting.push((shard, News::Spaces(spaces)));
            }
            Job::ScanSpace { shard, space } => {
                if let Some(news) = self.scan_space(&space) {
                    self.waiting.push((shard, news));
                }
            }
            Job::OpenSegment { shard, space, file } => {
                let result = self.open_segment(&space, file).map(Arc::new);
                self.waiting.push((shard, News::Segment { space, file, result }));
            }
            Job::Commit { shard, ticket, space, change } => {
                if let Some(entry) = self.spaces.get_mut(&space) {
                    remember(&mut entry.record, &change);
                }
                self.changes.push((space, change));
                if let Some(ticket) = ticket {
                    self.waiting.push((shard, News::Committed { ticket, result: Ok(()) }));
                }
            }
            Job::OpenReplica { shard, ticket, open } => {
                let result = self.open_replica(&open).map(Box::new);
                self.waiting.push((shard, News::ReplicaOpened { ticket, result }));
            }
            Job::OpenRun { shard, ticket, space, ordinal, run, known } => {
                let result = self
                    .open_run(&space, ordinal, run, known)
                    .map_err(|error| format!("cannot open {} of {space}: {error}", run.segment));
                self.waiting.push((shard, News::RunOpened { ticket, result }));
            }
            Job::CloseReplica { space, state } => self.close_replica(&space, state),
            Job::Stop => {}
        }
    }

    fn scan_root(&self) -> Vec<SpaceId> {
        match discover::spaces(&self.places.data_root) {
            Ok(mut spaces) => {
                if spaces.len() > MAX_SPACES {
                    tracing::error!(
                        found = spaces.len(),
                        limit = MAX_SPACES,
                        "more spaces than one node carries: the last ones by name are left out"
                    );
                    spaces.truncate(MAX_SPACES);
                }
                spaces.retain(|space| {
                    self.spaces.get(space).is_none_or(|entry| entry.record.role == Role::Primary)
                });
                spaces
            }
            Err(error) => {
                tracing::error!(%error, "the data root cannot be listed");
                Vec::new()
            }
        }
    }

    /// Number, pin and open what is new in a space that this node ships.
    fn scan_space(&mut self, space: &SpaceId) -> Option<News> {
        let mut problems = Vec::new();
        if !self.spaces.contains_key(space) {
            match self.create_primary(space) {
                Ok(entry) => {
                    self.keep(space.clone(), entry);
                }
                Err(error) => {
                    tracing::error!(%space, %error, "cannot take up the space");
                    return None;
                }
            }
        }
        let directory = self.places.wal(space);
        let names = match discover::segments(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                problems.push(format!("cannot list {}: {error}", directory.display()));
                Vec::new()
            }
        };
        let entry = self.spaces.get_mut(space)?;
        if entry.record.role == Role::Replica {
            return None;
        }
        let first = !std::mem::replace(&mut entry.announced, true);
        let mut found = Vec::new();
        for name in names {
            let path = directory.join(name.to_string());
            match Segment::open(&path) {
                Ok(segment) => {
                    let file = match number_of(&entry.record, segment.identity) {
                        Some(file) => file,
                        None => {
                            let file = entry.record.files.last().map_or(1, |file| file.file + 1);
                            let known = FileRecord {
                                file,
                                segment: name,
                                device: segment.identity.device,
                                inode: segment.identity.inode,
                                birth_ns: segment.identity.birth_ns,
                            };
                            let change = Change::AddFile(known);
                            remember(&mut entry.record, &change);
                            self.changes.push((space.clone(), change));
                            file
                        }
                    };
                    if entry.delivered.insert(file) {
                        let identity = (segment.identity.device, segment.identity.inode);
                        if let Err(error) = self.pins.pin(space, file, &path, identity) {
                            problems.push(format!("cannot pin {}: {error}", path.display()));
                        }
                        found.push((file, Arc::new(segment)));
                    }
                }
                // Retired between the listing and the opening.
                Err(SegmentError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        if first {
            // Files whose names are gone are still there by their pins.
            let missing: Vec<_> = (entry.record.files.iter().map(|file| file.file))
                .filter(|file| !entry.delivered.contains(file))
                .collect();
            for file in missing {
                if let Ok(segment) = self.open_segment(space, file) {
                    found.push((file, Arc::new(segment)));
                    if let Some(entry) = self.spaces.get_mut(space) {
                        entry.delivered.insert(file);
                    }
                }
            }
        }
        found.sort_by_key(|(file, _)| *file);
        let record = first
            .then(|| self.spaces.get(space).map(|entry| Box::new(entry.record.clone())))
            .flatten();
        Some(News::Space { space: space.clone(), record, found, problems })
    }

    /// A space that nobody has shipped before.
    fn create_primary(&mut self, space: &SpaceId) -> io::Result<Space> {
        let stream = StreamId(random_u128()?);
        let history = vec![(Epoch::FIRST, crate::lsn::Lsn::ZERO)];
        Ok(self.create(space, Role::Primary, stream, history))
    }

    fn create(
        &mut self,
        space: &SpaceId,
        role: Role,
        stream: StreamId,
        history: Vec<(Epoch, crate::lsn::Lsn)>,
    ) -> Space {
        let highest_epoch = history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch);
        let record = SpaceRecord {
            role,
            stream,
            history: history.clone(),
            highest_epoch,
            runs: Runs::default(),
            files: Vec::new(),
            checkpoint: Mark::START,
            marks: Vec::new(),
        };
        self.changes.push((space.clone(), Change::Create { role, stream, history }));
        Space {
            record,
            delivered: BTreeSet::new(),
            announced: false,
            lease: Lease::Here(Mark::START),
        }
    }

    /// A numbered file, by its pin or else by its name.
    fn open_segment(&self, space: &SpaceId, file: u64) -> Result<Segment, String> {
        let known = self
            .spaces
            .get(space)
            .and_then(|entry| entry.record.files.iter().find(|known| known.file == file))
            .ok_or_else(|| format!("file {file} of space {space} is not in the catalog"))?;
        let identity =
            Identity { device: known.device, inode: known.inode, birth_ns: known.birth_ns };
        let named = self.places.wal(space).join(known.segment.to_string());
        for path in [self.pins.path(space, file), named] {
            if let Ok(segment) = Segment::open_as(known.segment, &path)
                && segment.identity == identity
            {
                return Ok(segment);
            }
        }
        Err(format!("{} of space {space} is gone, and so is its pin", known.segment))
    }

    /// Lend a received space, making it if need be.
    fn open_replica(
        &mut self,
        open: &OpenSpace,
    ) -> Result<(SpaceRecord, Mark), (ErrorCode, String)> {
        let space = &open.space;
        if !self.spaces.contains_key(space) {
            let directory = self.places.wal(space);
            match discover::segments(&directory) {
                Ok(names) if !names.is_empty() => {
                    return Err((
                        ErrorCode::Role,
                        format!(
                            "{} holds segments that this node did not receive: move them away, \
                             or do not ship the space here",
                            directory.display()
                        ),
                    ));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err((ErrorCode::Storage, format!("{}: {error}", directory.display())));
                }
                _ => {}
            }
            make_directories(&self.places.data_root, &directory).map_err(|error| {
                (ErrorCode::Storage, format!("{}: {error}", directory.display()))
            })?;
            let entry = self.create(space, Role::Replica, open.stream, open.history.clone());
            self.keep(space.clone(), entry);
        }
        if matches!(self.spaces.get(space).map(|entry| &entry.lease), Some(Lease::Broken(_)))
            && let Some(mut entry) = self.spaces.remove(space)
        {
            // The operator may have mended it meanwhile.
            entry.lease = self.recover(space, &mut entry.record);
            self.keep(space.clone(), entry);
        }
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")));
        };
        if entry.record.role == Role::Primary {
            return Err((
                ErrorCode::Role,
                format!(
                    "space {space} is written on this node: it ships it, it does not receive it"
                ),
            ));
        }
        if entry.record.stream != open.stream {
            return Err((
                ErrorCode::Stream,
                format!(
                    "space {space} holds stream {:?} here, not {:?}: another primary filled it, or \
                     the primary's state directory was lost; move {} and its catalog entry away to \
                     receive the new stream",
                    entry.record.stream,
                    open.stream,
                    self.places.wal(space).display()
                ),
            ));
        }
        match &entry.lease {
            Lease::Here(mark) => {
                let lent = (entry.record.clone(), *mark);
                entry.lease = Lease::Lent;
                Ok(lent)
            }
            Lease::Lent => Err((
                ErrorCode::Busy,
                format!("space {space} is being received over another connection"),
            )),
            Lease::Broken(why) => Err((ErrorCode::Storage, why.clone())),
        }
    }

    fn close_replica(&mut self, space: &SpaceId, state: Option<Box<(SpaceRecord, Mark)>>) {
        let Some(mut entry) = self.spaces.remove(space) else { return };
        entry.lease = if let Some(state) = state {
            let (record, mark) = *state;
            if record.checkpoint.lsn > entry.record.checkpoint.lsn {
                self.changes.push((space.clone(), Change::Checkpoint(record.checkpoint)));
            }
            entry.record = record;
            Lease::Here(mark)
        } else {
            self.recover(space, &mut entry.record)
        };
        self.keep(space.clone(), entry);
    }

    /// Verify what a received space has on disk and cut what is not whole.
    fn recover(&mut self, space: &SpaceId, record: &mut SpaceRecord) -> Lease {
        let quarantine = self.places.quarantine();
        match recovery::recover(&self.places.data_root, space, record, &quarantine, self.checksums)
        {
            Ok(recovered) => {
                for notice in &recovered.notices {
                    tracing::warn!(%space, "{notice}");
                }
                for change in recovered.changes {
                    remember(record, &change);
                    self.changes.push((space.clone(), change));
                }
                Lease::Here(recovered.mark)
            }
            Err(error) => {
                tracing::error!(%space, %error, "the space cannot be received");
                Lease::Broken(error.to_string())
            }
        }
    }

    /// The file of a run, its name durable, its catalog entry in this batch.
    fn open_run(
        &mut self,
        space: &SpaceId,
        ordinal: u32,
        run: Run,
        known: bool,
    ) -> io::Result<SegmentFiles> {
        let directory = self.places.wal(space);
        let path = directory.join(run.segment.to_string());
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err(io::Error::other("the space is not in the catalog"));
        };
        if !known {
            debug_assert_eq!(ordinal, entry.record.runs.len(), "runs come in order");
            // Another file bore this name before: the name now means this one.
            let earlier = entry
                .record
                .runs
                .iter()
                .filter(|(_, other)| other.segment == run.segment && other.file != run.file)
                .map(|(_, other)| other.file)
                .max();
            let fresh = entry.record.runs.latest_in(run.file).is_none();
            if let (Some(file), true) = (earlier, fresh) {
                let retired = recovery::retired_path(&self.places.state_dir, space, file);
                if let Some(parent) = retired.parent() {
                    make_directories(&self.places.state_dir, parent)?;
                    if path.try_exists()? {
                        fs::rename(&path, &retired)?;
                        sync_directory(parent)?;
                    }
                }
            }
            let change = Change::OpenRun(run);
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
        let path = recovery::path_of(
            &self.places.data_root,
            &self.places.state_dir,
            space,
            &entry.record,
            &run,
        );
        let buffered = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        sync_directory(&directory)?;
        let end = buffered.metadata()?.len();
        let expected = if known { end } else { run.offset };
        if end != expected {
            return Err(io::Error::other(format!(
                "{} is {end} bytes long, and the run begins at {expected}",
                path.display()
            )));
        }
        let direct = crate::io::open_direct(&path).map(Arc::new);
        Ok(SegmentFiles { buffered: Arc::new(buffered), direct })
    }
}

/// Keep the record in memory equal to the catalog.
fn remember(record: &mut SpaceRecord, change: &Change) {
    record.apply(change);
}

/// The number of a file that is known already.
fn number_of(record: &SpaceRecord, identity: Identity) -> Option<u64> {
    record
        .files
        .iter()
        .find(|file| {
            file.device == identity.device
                && file.inode == identity.inode
                && file.birth_ns == identity.birth_ns
        })
        .map(|file| file.file)
}

/// Turn news into the bad news that its batch was not made durable.
fn spoil(news: News, why: &str) -> News {
    let why = format!("the catalog cannot be written: {why}");
    match news {
        News::Committed { ticket, .. } => News::Committed { ticket, result: Err(why) },
        News::ReplicaOpened { ticket, .. } => {
            News::ReplicaOpened { ticket, result: Err((ErrorCode::Storage, why)) }
        }
        News::RunOpened { ticket, .. } => News::RunOpened { ticket, result: Err(why) },
        News::Space { space, record, mut problems, .. } => {
            problems.push(why);
            News::Space { space, record, found: Vec::new(), problems }
        }
        other @ (News::Spaces(_) | News::Segment { .. }) => other,
    }
}

/// Make a directory and its parents below `root`, each name durable.
fn make_directories(root: &Path, directory: &Path) -> io::Result<()> {
    let Ok(below) = directory.strip_prefix(root) else {
        return fs::create_dir_all(directory);
    };
    let mut path = root.to_path_buf();
    for part in below.components() {
        let parent = path.clone();
        path.push(part);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync_directory(&parent)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
