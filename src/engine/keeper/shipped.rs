//! Spaces that this node ships: found, numbered, pinned, opened.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::releasing::Release;
use super::walked::last_walked;
use super::{Keeper, Lease, News, Places, Space, Unopened, remember};
use crate::engine::primary::fenced;
use crate::ids::{Epoch, SpaceId, StreamId};
use crate::limits::{MAX_EPOCHS_PER_SPACE, MAX_SPACES, MAX_WATCHED_STRANGERS};
use crate::lsn::{Lsn, Mark};
use crate::planted::{self, Bug};
use crate::state::catalog::{Change, FileRecord, Hole, Role, SpaceRecord};
use crate::state::pins::{Pin, Pins};
use crate::state::runs::Run;
use crate::wal::discover::{self, Root};
use crate::wal::segment::{Identity, Segment, SegmentError};

impl Keeper {
    /// The spaces that this node ships or may ship, and directories that can
    /// be none and hold no log yet.
    pub(super) fn scan_root(&mut self) -> (Vec<SpaceId>, Vec<OsString>) {
        let found = discover::look(&self.places.data_root, |id| self.spaces.contains_key(id));
        match found {
            Ok(Root { mut spaces, ignored, mut strangers }) => {
                self.ignored.publish(ignored);
                strangers.truncate(MAX_WATCHED_STRANGERS);
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
                (spaces, strangers)
            }
            Err(error) => {
                tracing::error!(%error, "the data root cannot be listed");
                (Vec::new(), Vec::new())
            }
        }
    }

    /// Number, pin and open what is new in a space that this node ships, and
    /// say what keeps it from being read. Nothing of a directory that holds no
    /// log yet.
    pub(super) fn scan_space(
        &mut self,
        shard: usize,
        space: &SpaceId,
    ) -> (Option<News>, Option<String>) {
        let mut problems = Vec::new();
        if self.shipped_as(space).is_some() {
            // A link that has appeared since the root was looked at.
            self.scan_root();
            return (Some(News::Refused(space.clone())), None);
        }
        let mut obstacle = None;
        let directory = self.places.wal(space);
        let listed = discover::segments(&directory);
        if !self.spaces.contains_key(space) {
            // A directory alone is no log. A replica makes it before its entry
            // in the catalog is durable: killed between the two, it must not
            // find a log of its own there.
            let is_empty = match &listed {
                Ok(names) => names.is_empty(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if is_empty {
                return (None, None);
            }
            match self.create_primary(space) {
                Ok(entry) => {
                    self.keep(space.clone(), entry);
                }
                Err(error) => {
                    return (None, Some(format!("the space cannot be taken up: {error}")));
                }
            }
        }
        // Without a listing nothing is known of what has a name.
        let mut named = listed.is_ok().then(BTreeSet::new);
        let names = listed.unwrap_or_else(|error| {
            obstacle = Some(self.unlisted(&directory, &error));
            Vec::new()
        });
        let Some(entry) = self.spaces.get_mut(space) else { return (None, obstacle) };
        if entry.record.role == Role::Replica {
            return (None, None);
        }
        let first = !std::mem::replace(&mut entry.announced, true);
        if first {
            entry.walked = last_walked(&entry.record);
        }
        let mut found = Vec::new();
        let device = self.places.device();
        let mut pinning = self.pins.pin(space);
        let mut numbered = Numbered::new(&entry.record, device);
        for name in names {
            let path = directory.join(name.to_string());
            match Segment::open(&path) {
                Ok(segment) => {
                    let file = match numbered.find(segment.identity) {
                        Some(file) => file,
                        None => {
                            let last = entry.record.files.last().map_or(0, |file| file.file);
                            let inode = (segment.identity.device, segment.identity.inode);
                            let file =
                                free_number(&self.pins, space, last + 1, inode, &mut problems);
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
                            numbered.add(known);
                            file
                        }
                    };
                    if let Some(named) = &mut named {
                        named.insert(file);
                    }
                    if entry.delivered.insert(file) {
                        let identity = (segment.identity.device, segment.identity.inode);
                        if let Err(error) = pinning.add(file, &path, identity) {
                            problems.push(format!("cannot pin {}: {error}", path.display()));
                            // The next scan tries again.
                            entry.delivered.remove(&file);
                        }
                        found.push((file, Arc::new(segment)));
                    }
                }
                // Retired between the listing and the opening.
                Err(SegmentError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    // It has a name, and nobody knows which file it is.
                    named = None;
                    let also = obstacle.is_none().then(|| error.to_string());
                    obstacle = obstacle.or(also);
                }
            }
        }
        match pinning.finish() {
            (files, Ok(())) => entry.kept.pinned.extend(files),
            (files, Err(error)) => {
                problems.push(format!("{} segments cannot be pinned: {error}", files.len()));
                for file in files {
                    entry.delivered.remove(&file);
                }
            }
        }
        if let Some(named) = &named {
            entry.kept.named.clone_from(named);
        }
        if first {
            problems.extend(leftover_pins(&self.pins, space, &entry.record));
            // Files whose names are gone are still there by their pins.
            let missing: Vec<_> = (entry.record.files.iter().map(|file| file.file))
                .filter(|file| !entry.delivered.contains(file))
                .map(|file| (file, entry.record.is_gone(file)))
                .collect();
            for (file, is_gone) in missing {
                if is_gone {
                    // The crash of a host has brought its pin back.
                    if self.pins.path(space, file).exists() {
                        self.releases.push(Release { space: space.clone(), file, shard });
                    }
                    continue;
                }
                if let Ok(segment) = self.open_segment(space, file) {
                    found.push((file, Arc::new(segment)));
                    if let Some(entry) = self.spaces.get_mut(space) {
                        entry.delivered.insert(file);
                        entry.kept.pinned.insert(file);
                    }
                }
            }
            self.drop_foreign_slots(space);
            self.doubt_slots(space);
        }
        let otherwise = self.end_otherwise(space, &found);
        problems.extend(self.unreleased_of(space));
        found.sort_by_key(|(file, _)| *file);
        let record = first
            .then(|| self.spaces.get(space).map(|entry| Box::new(entry.record.clone())))
            .flatten();
        let space = space.clone();
        (Some(News::Space { space, record, found, otherwise, named, problems }), obstacle)
    }

    /// Why a space's directory cannot be listed, in a sentence.
    fn unlisted(&self, directory: &Path, error: &io::Error) -> String {
        let root = &self.places.data_root;
        match error.kind() {
            io::ErrorKind::NotFound if !root.exists() => {
                format!("the data root {} is gone", root.display())
            }
            io::ErrorKind::NotFound => format!(
                "the directory {} is gone: what was written there since is not shipped",
                directory.display()
            ),
            io::ErrorKind::PermissionDenied => format!(
                "{} may not be read: this process must run as the user that runs the writer (set \
                 User= in the unit file to the database's user)",
                directory.display()
            ),
            _ => format!("cannot list {}: {error}", directory.display()),
        }
    }

    /// A space that nobody has shipped before.
    pub(super) fn create_primary(&mut self, space: &SpaceId) -> io::Result<Space> {
        let stream = StreamId(self.places.host.random_u128()?);
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        Ok(self.create(space, Role::Primary, stream, history))
    }

    /// Cut the stream of a space that this node ships, and begin a new epoch
    /// there; up to `sure` it is known to be what it was. Gives the record as it will
    /// be once the batch is durable.
    pub(super) fn begin_epoch(
        &mut self,
        space: &SpaceId,
        at: Mark,
        sure: Lsn,
        runs: u32,
    ) -> Result<SpaceRecord, String> {
        self.turn_epoch(space, (at, sure), runs, None)
    }

    /// As [`Keeper::begin_epoch`], with bytes that are left out at its
    /// beginning.
    pub(super) fn turn_epoch(
        &mut self,
        space: &SpaceId,
        (at, sure): (Mark, Lsn),
        runs: u32,
        left_out: Option<(Hole, Run)>,
    ) -> Result<SpaceRecord, String> {
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err(format!("space {space} is not in the catalog"));
        };
        let present = entry.record.history.last().map_or(Epoch::FIRST, |(epoch, _)| *epoch);
        if entry.record.highest_epoch > present {
            return Err(fenced(present, entry.record.highest_epoch));
        }
        if entry.record.history.len() >= MAX_EPOCHS_PER_SPACE {
            return Err(format!(
                "the space has had {MAX_EPOCHS_PER_SPACE} epochs, the most there are"
            ));
        }
        let epoch = Epoch(present.0 + 1);
        let empty = self.empty_and_gone(space, runs);
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err(format!("space {space} is not in the catalog"));
        };
        let mut changes = vec![Change::Truncate { end: at.lsn, runs }];
        changes.extend(empty.into_iter().map(Change::AddFile));
        if at.lsn > Lsn::ZERO {
            changes.push(Change::AddMark(at));
        }
        changes.push(Change::Epoch { epoch, start: at.lsn });
        // A position behind the cut would claim records of the new epoch; and one behind
        // what is sure, something of the old one that may not be there any more.
        for (replica, slot) in &entry.record.slots {
            let mut slot = *slot;
            if slot.cut(at, sure) {
                changes.push(Change::Slot { replica: replica.clone(), slot });
            }
        }
        changes.extend(left_out.map(|(hole, run)| Change::AddHole { hole, run }));
        for change in changes {
            remember(&mut entry.record, &change);
            if !planted::is(Bug::EpochNotDurable) {
                self.changes.push((space.clone(), change));
            }
        }
        tracing::warn!(%space, epoch = epoch.0, start = at.lsn.0, "a new epoch begins");
        Ok(entry.record.clone())
    }

    /// Files that do not exist any more, of which nothing is in the stream but
    /// empty runs, and these from ordinal `runs` on: when those are cut off, nobody
    /// could tell such a file from one that was lost with what it held.
    fn empty_and_gone(&self, space: &SpaceId, runs: u32) -> Vec<FileRecord> {
        let Some(entry) = self.spaces.get(space) else { return Vec::new() };
        let record = &entry.record;
        let (mut cut, mut other) = (BTreeSet::new(), BTreeSet::new());
        for (ordinal, run) in record.runs.iter() {
            let of_it = if ordinal >= runs && run.bytes == Some(0) { &mut cut } else { &mut other };
            of_it.insert(run.file);
        }
        let is_empty =
            |known: &&FileRecord| cut.contains(&known.file) && !other.contains(&known.file);
        let is_gone = |known: &&FileRecord| {
            matches!(self.open_segment(space, known.file), Err(Unopened::Gone { .. }))
        };
        let files = record.files.iter().filter(is_empty).filter(is_gone);
        files.map(|known| FileRecord { device: 0, inode: 0, ..*known }).collect()
    }

    pub(super) fn create(
        &mut self,
        space: &SpaceId,
        role: Role,
        stream: StreamId,
        history: Vec<(Epoch, Lsn)>,
    ) -> Space {
        let record = SpaceRecord::new(role, stream, history.clone());
        self.changes.push((space.clone(), Change::Create { role, stream, history }));
        Space::new(record, Lease::Here(Mark::START))
    }

    /// A numbered file, by its pin or else by its name.
    pub(super) fn open_segment(&self, space: &SpaceId, file: u64) -> Result<Segment, Unopened> {
        let Some(entry) = self.spaces.get(space) else {
            let why = format!("space {space} is not in the catalog");
            return Err(Unopened::Gone { why, lost: false });
        };
        open_numbered(&self.pins, &self.places, space, &entry.record, file)
    }
}

/// How many others are looked for, the newest first, to tell a name that was taken over
/// from a copy of the directory: of each of its files that is asked.
const WITNESSES: usize = 64;

/// A file that a primary has numbered, by its pin or else by its name.
///
/// # Errors
///
/// Neither leads to it any longer, or it cannot be opened now.
pub fn open_numbered(
    pins: &Pins,
    places: &Places,
    space: &SpaceId,
    record: &SpaceRecord,
    file: u64,
) -> Result<Segment, Unopened> {
    let Some(known) = record.file(file) else {
        let why = format!("file {file} of space {space} is not in the catalog");
        return Err(Unopened::Gone { why, lost: false });
    };
    let device = places.device();
    let directory = places.wal(space);
    let open = |known: &FileRecord, path: &Path| match Segment::open_as(known.segment, path) {
        Ok(segment) if is_same(known, segment.identity, device) => Ok(Found::It(segment)),
        Ok(_) => Ok(Found::Another),
        Err(SegmentError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(Unopened::Unreadable(error.to_string())),
    };
    let pinned = |known: &FileRecord| open(known, &pins.path(space, known.file));
    let named = |known: &FileRecord| open(known, &directory.join(known.segment.to_string()));
    let pin_is_others = match pinned(known)? {
        Found::It(segment) => return Ok(segment),
        found => matches!(found, Found::Another),
    };
    let lost = match named(known)? {
        Found::It(segment) => return Ok(segment),
        _ if pin_is_others => false,
        Found::Nothing => directory.is_dir(),
        // It has taken the name over, if another of the stream is here, by pin or name.
        // Else all that is here may be a copy, which is no crash.
        Found::Another => {
            let is_other = |other: &&FileRecord| {
                let in_stream = record.runs.first_in(other.file).is_some();
                in_stream && other.file != file && !record.is_gone(other.file)
            };
            let is_it = |found| matches!(found, Found::It(_));
            let mut is_here = false;
            for other in record.files.iter().rev().filter(is_other).take(WITNESSES) {
                is_here = is_it(pinned(other)?) || is_it(named(other)?);
                if is_here {
                    break;
                }
            }
            is_here
        }
    };
    let why = format!("{} of space {space} is gone, and so is its pin", known.segment);
    // What was let go of on purpose is not lost.
    Err(Unopened::Gone { why, lost: lost && !record.is_gone(file) })
}

/// What a path leads to.
enum Found {
    It(Segment),
    Another,
    Nothing,
}

impl Places {
    /// What the system now calls the device of the state directory; nothing if
    /// it cannot be asked.
    fn device(&self) -> Option<u64> {
        self.state_dir.metadata().ok().map(|found| found.dev())
    }
}

/// The files of a space that have a number, by what tells them from all others: each
/// name of a directory is looked up here at each look at it.
struct Numbered {
    by_inode: HashMap<(u64, u64), Vec<FileRecord>>,
    /// The state directory's.
    device: Option<u64>,
}

impl Numbered {
    fn new(record: &SpaceRecord, device: Option<u64>) -> Self {
        let mut numbered = Self { by_inode: HashMap::with_capacity(record.files.len()), device };
        record.files.iter().for_each(|known| numbered.add(*known));
        numbered
    }

    fn add(&mut self, known: FileRecord) {
        self.by_inode.entry((known.inode, known.birth_ns)).or_default().push(known);
    }

    /// The number of a file that is known already.
    fn find(&self, identity: Identity) -> Option<u64> {
        let found = self.by_inode.get(&(identity.inode, identity.birth_ns))?;
        let same = found.iter().find(|known| is_same(known, identity, self.device));
        same.map(|known| known.file)
    }
}

/// Whether a file is the one that was numbered. All that are lie on the device
/// of the state directory, for they are pinned there; and that may be called
/// otherwise since the last boot.
fn is_same(known: &FileRecord, identity: Identity, device: Option<u64>) -> bool {
    let Identity { device: found, inode, birth_ns } = identity;
    (known.inode, known.birth_ns) == (inode, birth_ns)
        && !known.is_gone()
        && (known.device == found || device == Some(found))
}

/// Pins that no entry of the catalog names: a process was killed between the
/// two. A file that has another name is numbered by that. Of one that has none,
/// nobody knows the name under which it would be shipped; that is said after
/// each start, for as long as the pin is there.
fn leftover_pins(pins: &Pins, space: &SpaceId, record: &SpaceRecord) -> Vec<String> {
    let found = match pins.of(space) {
        Ok(found) => found,
        Err(error) => return vec![format!("cannot list the pins of {space}: {error}")],
    };
    let is_left = |pin: &&Pin| record.file(pin.file).is_none();
    let mut problems = Vec::new();
    for pin in found.iter().filter(is_left) {
        if pin.last_name {
            problems.push(unshipped(&pin.path));
        } else if let Err(error) = pins.release(space, pin.file) {
            problems.push(format!("a pin without an entry cannot be released: {error}"));
        }
    }
    problems
}

/// What an operator is told of a pin that is the last name of a file that
/// nobody knows.
fn unshipped(path: &Path) -> String {
    format!(
        "{} holds a segment whose name was removed before it was shipped; look at it with saltus \
         wal verify, and move it away",
        path.display()
    )
}

/// The first number from `file` on whose pin is free, or is of that inode
/// already. A process that was killed between a pin and its entry in the
/// catalog leaves a pin behind that no entry names.
fn free_number(
    pins: &Pins,
    space: &SpaceId,
    mut file: u64,
    inode: (u64, u64),
    problems: &mut Vec<String>,
) -> u64 {
    loop {
        let path = pins.path(space, file);
        match path.symlink_metadata() {
            Ok(found) if (found.dev(), found.ino()) != inode => {
                if found.nlink() > 1 && pins.release(space, file).is_ok() {
                    // It has a name besides, and is numbered by that.
                    return file;
                }
                problems.push(unshipped(&path));
                file += 1;
            }
            _ => return file,
        }
    }
}

#[cfg(test)]
#[path = "shipped_tests.rs"]
mod tests;
