//! The catalog: one redb database in the state directory, `catalog.redb`.
//!
//! ```text
//!   table    key                     value (drawn in layout)
//!   meta     "schema" | "node"       version | uuid
//!   spaces   space                   role, stream, epochs, checkpoint, seed
//!   runs     (space, ordinal)        run
//!   files    (space, number)         file
//!   marks    (space, lsn)            mark
//!   begins   (space, file number)    mark: where a file's first run begins
//!   retired  (space, file number)    what became of a file without a name
//!   slots    (space, replica)        slot (drawn in slots)
//!   holes    (space, file, offset)   hole
//! ```
//!
//! A commit is one transaction with redb's immediate durability: when
//! [`Catalog::commit`] returns, the changes have been synced; when it fails,
//! none of them is there. Repeating a batch that was applied is harmless. How
//! it is asked, and what happens if the database asserts, stands in `access`.
//!
//! The catalog checks what it is told against what it holds, because a change
//! that contradicts it (a run that goes back, another stream under a known
//! name) would be obeyed after every restart from then on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::access::guarded;
use super::batch::{
    BEGINS, Batch, FILES, HOLES, MARKS, RETIRED, RUNS, SLOTS, SPACES, nodes, numbers, ordinals,
    places,
};
pub use super::error::CatalogError;
pub(crate) use super::history::is_history;
use super::history::{continues, cut_history};
pub use super::holes::Hole;
use super::host::{Host, ThisHost};
use super::layout;
use super::opening::make_if_missing;
pub use super::opening::set_aside;
pub use super::received::{Retired, SeedRecord};
use super::runs::{Run, Runs};
use super::slots::{self, SlotRecord};
use super::thinning::thin;
use crate::ids::{Epoch, NodeId, NodeUuid, SpaceId, StreamId};
use crate::lsn::{Lsn, Mark};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The database's name in the state directory.
pub const CATALOG_FILE: &str = "catalog.redb";

/// Which way a space flows through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The local database writes it; this node ships it.
    Primary,
    /// This node receives it.
    Replica,
}

/// A file the primary has numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// The number: `Run::file`.
    pub file: u64,
    /// Name at first sight.
    pub segment: crate::ids::SegmentName,
    /// Device, by its number at first sight, which need not outlive a boot: it
    /// is the state directory's.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Birth, nanoseconds since the Unix epoch; 0 where the file system keeps
    /// none.
    pub birth_ns: u64,
}

impl FileRecord {
    /// True of a file of which nothing is left, and nothing is missed: when the
    /// catalog was made anew it was numbered by its runs, and was never seen; or
    /// it was empty, was let go of, and a new epoch has cut off its runs.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        self.device == 0 && self.inode == 0
    }
}

/// Everything remembered of one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRecord {
    /// Which way it flows.
    pub role: Role,
    /// Which stream it is.
    pub stream: StreamId,
    /// Epochs and where each began; the last is the present one. Never empty.
    pub history: Vec<(Epoch, Lsn)>,
    /// Highest epoch ever seen. Survives a truncation that took the epoch out
    /// of the history.
    pub highest_epoch: Epoch,
    /// Where the stream lies.
    pub runs: Runs,
    /// The primary's numbered files, by number.
    pub files: Vec<FileRecord>,
    /// A replica: everything up to here is durable and was verified.
    pub checkpoint: Mark,
    /// A primary: boundaries remembered, sparse, ascending.
    pub marks: Vec<Mark>,
    /// Where the stream begins here: the start, or where a seed began.
    pub base: Mark,
    /// A replica: a seed under way.
    pub seed: Option<SeedRecord>,
    /// A replica: files without a name on the primary, by number.
    pub retired: BTreeMap<u64, Retired>,
    /// Where the first run of each file begins, by number.
    pub begins: BTreeMap<u64, Mark>,
    /// A primary: what is remembered of each replica.
    pub slots: BTreeMap<NodeId, SlotRecord>,
    /// A primary: bytes of its files that are in no stream, because they did
    /// not hold; by file and offset.
    pub holes: Vec<Hole>,
}

impl SpaceRecord {
    /// A space of which nothing is here yet.
    #[must_use]
    pub fn new(role: Role, stream: StreamId, history: Vec<(Epoch, Lsn)>) -> Self {
        Self {
            role,
            stream,
            highest_epoch: history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch),
            history,
            runs: Runs::default(),
            files: Vec::new(),
            checkpoint: Mark::START,
            marks: Vec::new(),
            base: Mark::START,
            seed: None,
            retired: BTreeMap::new(),
            begins: BTreeMap::new(),
            slots: BTreeMap::new(),
            holes: Vec::new(),
        }
    }

    /// A primary's file with a number.
    #[must_use]
    pub fn file(&self, number: u64) -> Option<&FileRecord> {
        let found = self.files.binary_search_by_key(&number, |known| known.file);
        found.ok().and_then(|index| self.files.get(index))
    }

    /// What [`Catalog::commit`] does to the catalog's record, done to one in
    /// memory. A change that the catalog would refuse is left out here; the
    /// commit names it.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { .. } | Change::Forget => {}
            Change::OpenRun(run) => {
                // Only the last run can be meant again: of several empty ones,
                // an earlier may lie where a later does.
                let follows = run.start >= self.runs.last().map_or(Lsn::ZERO, |last| last.start);
                if follows && run.fits().is_ok() {
                    self.runs.open(*run);
                }
            }
            Change::AddFile(file) => {
                match self.files.binary_search_by_key(&file.file, |known| known.file) {
                    Ok(index) => self.files[index] = *file,
                    Err(index) => self.files.insert(index, *file),
                }
            }
            Change::Checkpoint(mark) => self.checkpoint = *mark,
            Change::AddMark(mark) => {
                match self.marks.binary_search_by_key(&mark.lsn, |known| known.lsn) {
                    Ok(index) => self.marks[index] = *mark,
                    Err(index) => self.marks.insert(index, *mark),
                }
                drop(thin(&mut self.marks, |mark| mark.lsn, mark.lsn));
            }
            Change::Truncate { end, runs } => {
                let left = self.runs.truncate(*runs);
                let is_received = self.role == Role::Replica;
                self.retired.retain(|file, _| !(is_received && left.contains(file)));
                self.marks.retain(|mark| mark.lsn <= *end);
                let runs = &self.runs;
                let stands = |hole: &Hole| runs.iter().any(|(_, run)| hole.ends_before(run));
                self.holes.retain(|hole| hole.lsn < *end || stands(hole));
                if self.checkpoint.lsn > *end {
                    self.checkpoint = self.marks.last().copied().unwrap_or(self.base);
                }
                self.begins.retain(|_, mark| mark.lsn <= *end);
                cut_history(&mut self.history, *end);
            }
            Change::Begin { file, mark } => {
                self.begins.insert(*file, *mark);
            }
            Change::Retire { file, what } => {
                let known = self.retired.entry(*file).or_insert(*what);
                *known = (*known).max(*what);
            }
            Change::Slot { replica, slot } => {
                self.slots.insert(replica.clone(), *slot);
            }
            Change::DropSlot { replica } => {
                self.slots.remove(replica);
            }
            Change::Seed { base, first_run, target } => {
                self.runs = Runs::based(*first_run, base.lsn);
                self.marks.clear();
                self.begins.clear();
                self.retired.clear();
                (self.base, self.checkpoint) = (*base, *base);
                self.seed = Some(SeedRecord { target: *target, moved: false });
            }
            Change::SeedMoved => {
                if let Some(seed) = &mut self.seed {
                    seed.moved = true;
                }
            }
            Change::SeedDone => self.seed = None,
            Change::AddHole { hole, run } => {
                let place = |known: &Hole| (known.file, known.offset);
                match self.holes.binary_search_by_key(&place(hole), place) {
                    Ok(index) => self.holes[index] = hole.clone(),
                    Err(index) => self.holes.insert(index, hole.clone()),
                }
                self.apply(&Change::OpenRun(*run));
            }
            Change::Epoch { epoch, start } => {
                if continues(&self.history, *epoch, *start) {
                    self.history.push((*epoch, *start));
                    self.highest_epoch = self.highest_epoch.max(*epoch);
                }
            }
            Change::SawEpoch(epoch) => self.highest_epoch = self.highest_epoch.max(*epoch),
            Change::Adopt(history) => {
                if is_history(history) {
                    self.history.clone_from(history);
                    let last = history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch);
                    self.highest_epoch = self.highest_epoch.max(last);
                }
            }
        }
    }
}

/// One change; a batch of them is one durable transaction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A space appears in the catalog. It must come before every other change
    /// of that space.
    Create {
        /// Which way.
        role: Role,
        /// Which stream.
        stream: StreamId,
        /// Its history, at least one epoch.
        history: Vec<(Epoch, Lsn)>,
    },
    /// A space goes out of the catalog, with all that was remembered of it. Only
    /// [`Change::Create`] may follow.
    Forget,
    /// A run begins; the one before it ends there.
    OpenRun(Run),
    /// A file gets its number.
    AddFile(FileRecord),
    /// A replica's verified and durable position.
    Checkpoint(Mark),
    /// A boundary worth remembering on a primary. Past
    /// [`MAX_SAVED_MARKS_PER_SPACE`](crate::limits::MAX_SAVED_MARKS_PER_SPACE) the older ones are thinned out.
    AddMark(Mark),
    /// The stream was cut: runs from ordinal `runs` on are forgotten, the last
    /// one left is open again, and so are marks and epochs that begin behind
    /// `end`. A checkpoint behind `end` falls back to the last mark that is
    /// left, or to the start; send a [`Change::Checkpoint`] along. Holes whose
    /// run behind is forgotten are holes no more; what became of a received file
    /// in which no run is left, is forgotten too.
    Truncate {
        /// New end.
        end: Lsn,
        /// How many runs remain.
        runs: u32,
    },
    /// Bytes are left out of the stream, and a run begins behind them: both, or
    /// neither, is there after a crash.
    AddHole {
        /// What is left out.
        hole: Hole,
        /// The run behind it.
        run: Run,
    },
    /// A higher epoch was seen.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// Where it began.
        start: Lsn,
    },
    /// An epoch was heard of that is not (yet) one of this copy's history: no
    /// lower one is obeyed from now on.
    SawEpoch(Epoch),
    /// A replica's copy was matched with its primary's: from now on it has the
    /// primary's epochs.
    Adopt(Vec<(Epoch, Lsn)>),
    /// Where the first run of a file begins.
    Begin {
        /// The file's number.
        file: u64,
        /// Where.
        mark: Mark,
    },
    /// A replica: a file has no name on the primary any more. What is gone
    /// stays gone.
    Retire {
        /// The file's number.
        file: u64,
        /// What became of it.
        what: Retired,
    },
    /// A primary: what is remembered of a replica.
    Slot {
        /// The replica.
        replica: NodeId,
        /// All of it.
        slot: SlotRecord,
    },
    /// A primary: a replica is none any more.
    DropSlot {
        /// The replica.
        replica: NodeId,
    },
    /// A replica: what was received is given up for the stream from `base` on.
    /// Runs, marks and retired files are forgotten; the files are to be moved
    /// aside before anything is received.
    Seed {
        /// Where the seed begins, durable and verified by definition.
        base: Mark,
        /// The ordinal of the first run that will come.
        first_run: u32,
        /// Where the primary's head is.
        target: Lsn,
    },
    /// A replica: the files of the older copy have been moved aside.
    SeedMoved,
    /// A replica: the seed has come to where the head was when it began.
    SeedDone,
}

/// The open catalog. Shared between threads; a commit blocks until it is
/// durable, and commits run one after the other.
#[derive(Debug)]
pub struct Catalog {
    pub(super) host: Arc<dyn Host>,
    /// Nothing between a failure and the next [`Catalog::reopen`].
    pub(super) database: Mutex<Option<Arc<Database>>>,
    /// Device and inode of the open file.
    pub(super) identity: Mutex<Option<(u64, u64)>>,
    pub(super) path: PathBuf,
    node: NodeUuid,
}

impl Catalog {
    /// Open or create the state directory `state_dir` (mode 0700) and its
    /// database; draws the node's uuid on first use. A second process on the
    /// same directory is refused by name. The whole database is checked
    /// against its checksums.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`].
    pub fn open(state_dir: &Path) -> Result<Self, CatalogError> {
        Self::open_on(&(Arc::new(ThisHost) as _), state_dir)
    }

    /// As [`Catalog::open`], on a host that may be a simulated one.
    ///
    /// # Errors
    ///
    /// See [`CatalogError`].
    pub fn open_on(host: &Arc<dyn Host>, state_dir: &Path) -> Result<Self, CatalogError> {
        let path = state_dir.join(CATALOG_FILE);
        guarded(&path, || {
            make_if_missing(host, &path)?;
            Self::at(host, &path)
        })
    }

    /// The catalog at `path`, which is made if it is not there.
    pub(super) fn at(host: &Arc<dyn Host>, path: &Path) -> Result<Self, CatalogError> {
        let (host, database, path) = (host.clone(), Mutex::new(None), path.to_path_buf());
        let (identity, node) = (Mutex::new(None), NodeUuid::default());
        let mut catalog = Self { host, database, identity, path, node };
        catalog.open_or_make()?;
        catalog.node = catalog.identify()?;
        Ok(catalog)
    }

    /// This node's number.
    #[must_use]
    pub fn node(&self) -> NodeUuid {
        self.node
    }

    /// One space, or all.
    pub(super) fn read(
        &self,
        only: Option<&SpaceId>,
    ) -> Result<BTreeMap<SpaceId, SpaceRecord>, CatalogError> {
        let read = self.database()?.begin_read().map_err(|e| self.storage(e))?;
        let mut spaces = BTreeMap::new();

        let table = read.open_table(SPACES).map_err(|e| self.storage(e))?;
        let entries = match only {
            Some(space) => table.range(space.as_str()..=space.as_str()),
            None => table.range::<&str>(..),
        };
        for entry in entries.map_err(|e| self.storage(e))? {
            let (name, value) = entry.map_err(|e| self.storage(e))?;
            let (space, held) = name
                .value()
                .parse::<SpaceId>()
                .ok()
                .zip(layout::decode_space(value.value()))
                .ok_or_else(|| self.damaged(format!("space {:?}", name.value())))?;
            let record = SpaceRecord {
                highest_epoch: held.highest_epoch,
                runs: Runs::based(held.first_run, held.base.lsn),
                checkpoint: held.checkpoint,
                base: held.base,
                seed: held.seed,
                ..SpaceRecord::new(held.role, held.stream, held.history)
            };
            spaces.insert(space, record);
        }

        // The tables share the order of the spaces, so each is read once, in
        // step with the map.
        let runs = read.open_table(RUNS).map_err(|e| self.storage(e))?;
        let files = read.open_table(FILES).map_err(|e| self.storage(e))?;
        let marks = read.open_table(MARKS).map_err(|e| self.storage(e))?;
        let begins = read.open_table(BEGINS).map_err(|e| self.storage(e))?;
        let retired = read.open_table(RETIRED).map_err(|e| self.storage(e))?;
        let slots = read.open_table(SLOTS).map_err(|e| self.storage(e))?;
        let holes = read.open_table(HOLES).map_err(|e| self.storage(e))?;
        for (space, record) in &mut spaces {
            record.runs = self.load_runs(&runs, space, &record.runs)?;
            for entry in begins.range(numbers(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let mark = layout::decode_mark(value.value())
                    .ok_or_else(|| self.damaged(format!("begin {:?}", key.value())))?;
                record.begins.insert(key.value().1, mark);
            }
            for entry in retired.range(numbers(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let what = layout::decode_retired(value.value())
                    .ok_or_else(|| self.damaged(format!("retired {:?}", key.value())))?;
                record.retired.insert(key.value().1, what);
            }
            for entry in slots.range(nodes(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let (replica, slot) = key
                    .value()
                    .1
                    .parse::<NodeId>()
                    .ok()
                    .zip(slots::decode(value.value()))
                    .ok_or_else(|| self.damaged(format!("slot {:?}", key.value())))?;
                record.slots.insert(replica, slot);
            }
            for entry in files.range(numbers(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let file = layout::decode_file(key.value().1, value.value())
                    .ok_or_else(|| self.damaged(format!("file {:?}", key.value())))?;
                record.files.push(file);
            }
            for entry in holes.range(places(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let (_, file, offset) = key.value();
                let hole = layout::decode_hole(file, offset, value.value())
                    .ok_or_else(|| self.damaged(format!("hole {:?}", key.value())))?;
                record.holes.push(hole);
            }
            for entry in marks.range(numbers(space.as_str())).map_err(|e| self.storage(e))? {
                let (key, value) = entry.map_err(|e| self.storage(e))?;
                let mark = layout::decode_mark(value.value())
                    .ok_or_else(|| self.damaged(format!("mark {:?}", key.value())))?;
                record.marks.push(mark);
            }
        }
        Ok(spaces)
    }

    /// One durable transaction.
    pub(super) fn write(&self, changes: &[(SpaceId, Change)]) -> Result<(), CatalogError> {
        let write = self.database()?.begin_write().map_err(|e| self.storage(e))?;
        {
            let mut batch = Batch::begin(self, &write)?;
            for (space, change) in changes {
                batch.apply(space, change)?;
            }
            batch.finish()?;
        }
        write.commit().map_err(|e| self.storage(e))
    }

    /// Check the schema and read the uuid, or write both into a new database.
    fn identify(&self) -> Result<NodeUuid, CatalogError> {
        let write = self.database()?.begin_write().map_err(|e| self.storage(e))?;
        let (node, new) = {
            let mut meta = write.open_table(META).map_err(|e| self.storage(e))?;
            let schema = meta
                .get("schema")
                .map_err(|e| self.storage(e))?
                .map(|value| <[u8; 4]>::try_from(value.value()).map(u32::from_le_bytes));
            match schema {
                Some(Ok(layout::SCHEMA)) => {
                    let node = meta.get("node").map_err(|e| self.storage(e))?;
                    let node = node.and_then(|value| <[u8; 16]>::try_from(value.value()).ok());
                    let node = node.ok_or_else(|| self.damaged("no node uuid".to_owned()))?;
                    (NodeUuid(u128::from_le_bytes(node)), false)
                }
                Some(Ok(found)) => {
                    let (path, expected) = (self.path.clone(), layout::SCHEMA);
                    return Err(CatalogError::Schema { path, found, expected });
                }
                Some(Err(_)) => return Err(self.damaged("no schema version".to_owned())),
                None => {
                    let node = self.host.random_u128().map_err(|source| {
                        CatalogError::Directory { path: self.path.clone(), source }
                    })?;
                    meta.insert("schema", layout::SCHEMA.to_le_bytes().as_slice())
                        .map_err(|e| self.storage(e))?;
                    meta.insert("node", node.to_le_bytes().as_slice())
                        .map_err(|e| self.storage(e))?;
                    (NodeUuid(node), true)
                }
            }
        };
        if new {
            // Tables come into being when they are first opened for writing;
            // from here on, reading needs no case for a missing one.
            drop(Batch::begin(self, &write)?);
            write.commit().map_err(|e| self.storage(e))?;
        } else {
            write.abort().map_err(|e| self.storage(e))?;
        }
        Ok(node)
    }

    fn load_runs(
        &self,
        table: &impl ReadableTable<(&'static str, u32), &'static [u8]>,
        space: &SpaceId,
        based: &Runs,
    ) -> Result<Runs, CatalogError> {
        let (first, base) = (based.first(), based.base());
        let mut runs: Vec<Run> = Vec::new();
        for entry in table.range(ordinals(space.as_str(), 0)).map_err(|e| self.storage(e))? {
            let (key, value) = entry.map_err(|e| self.storage(e))?;
            let run = layout::decode_run(value.value())
                .filter(|run| run.fits().is_ok())
                .filter(|run| match runs.last() {
                    Some(last) => touches(last, run),
                    None => run.start >= base,
                })
                .filter(|_| {
                    let index = key.value().1.checked_sub(first);
                    index.and_then(|index| usize::try_from(index).ok()) == Some(runs.len())
                })
                .ok_or_else(|| self.damaged(format!("run {:?}", key.value())))?;
            runs.push(run);
        }
        Ok(Runs::from_stored(first, base, runs))
    }

    pub(super) fn storage(&self, error: impl Into<redb::Error>) -> CatalogError {
        match error.into() {
            redb::Error::Corrupted(detail) => self.damaged(detail),
            other => CatalogError::Storage { path: self.path.clone(), source: Box::new(other) },
        }
    }

    pub(super) fn damaged(&self, detail: String) -> CatalogError {
        CatalogError::Damaged { path: self.path.clone(), detail }
    }
}

/// Whether `run` begins where `last` ends.
fn touches(last: &Run, run: &Run) -> bool {
    last.bytes.is_some_and(|bytes| last.start.0.checked_add(bytes) == Some(run.start.0))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
