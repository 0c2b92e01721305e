//! A received space that begins anew: what the replica had is moved aside, and
//! removed once something better is durable.
//!
//! ```text
//!   Reseed --> Change::Seed durable --> files moved aside --> Change::SeedMoved
//!                   |                                              |
//!                   | a stop here: done again at the start         v
//!                   |                                     the stream from the base
//!                   v                                              |
//!   superseded/<space>/<base>/...                                  v
//!        removed <--- Change::SeedDone <--- flushed what the head was then
//! ```
//!
//! Until the move is durable nothing is received, so the files of the old copy
//! and of the new one are never taken for each other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Denial, Keeper, Lease, Loan, remember};
use crate::ids::SpaceId;
use crate::limits::SEED_SPARE_BYTES;
use crate::protocol::message::{ErrorCode, OpenSpace, Reseed};
use crate::state::catalog::{Change, Role, SpaceRecord};
use crate::state::host::{Host, make_directories};
use crate::wal::discover;

impl Keeper {
    /// Give up what was received of a borrowed space and begin anew. Refused,
    /// it stays here.
    pub(super) fn reseed(
        &mut self,
        shard: usize,
        open: &OpenSpace,
        reseed: &Reseed,
    ) -> Result<Loan, Denial> {
        // What was told before must be in the catalog before this is.
        self.publish();
        let space = &open.space;
        let Some(mut entry) = self.spaces.remove(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        if !matches!(entry.lease, Lease::Lent(_)) {
            self.spaces.insert(space.clone(), entry);
            return Err((ErrorCode::Protocol, format!("space {space} is not lent")).into());
        }
        let result = self.begin_anew(space, reseed, &mut entry.record);
        match (&result, self.unrecorded.get(space)) {
            (Ok(()), _) => {
                // What was read before is no longer what lies here.
                entry.recoveries += 1;
                entry.lease = Lease::Here(reseed.base);
            }
            (Err(_), Some(why)) => entry.lease = Lease::Broken(why.clone()),
            (Err(_), None) => self.recover(space, &mut entry),
        }
        self.keep(space.clone(), entry);
        result?;
        self.enter(space, Change::Adopt(open.history.clone()));
        self.lend(shard, open, reseed.base)
    }

    fn begin_anew(
        &mut self,
        space: &SpaceId,
        reseed: &Reseed,
        record: &mut SpaceRecord,
    ) -> Result<(), (ErrorCode, String)> {
        if record.role == Role::Primary {
            let why = format!("space {space} is written on this node: it does not begin anew");
            return Err((ErrorCode::Role, why));
        }
        if let Some(why) = self.unrecorded.get(space) {
            return Err((ErrorCode::Storage, format!("space {space}: {why}")));
        }
        if !self.unwritten.changes.is_empty() {
            let why = "the catalog cannot be written now".to_owned();
            return Err((ErrorCode::Storage, format!("space {space}: {why}")));
        }
        let base = reseed.base;
        let bytes = reseed.head.bytes_since(base.lsn);
        if let Ok(free) = crate::io::free_bytes(&self.places.data_root)
            && free < bytes.saturating_add(SEED_SPARE_BYTES)
        {
            return Err((
                ErrorCode::Limit,
                format!(
                    "filling space {space} anew takes {bytes} bytes, and {free} are free on {}: \
                     make room; what this node has of the space is needed until the seed is here, \
                     unless you decide otherwise and remove it",
                    self.places.data_root.display()
                ),
            ));
        }
        let storage = |what: String| (ErrorCode::Storage, format!("space {space}: {what}"));
        let change = Change::Seed { base, first_run: reseed.first_run, target: reseed.head };
        self.commit_now(space, record, change).map_err(storage)?;
        tracing::warn!(
            %space, base = %base.lsn, head = %reseed.head, bytes,
            "this replica is filled anew: what it needed is gone from the primary. Its old copy is \
             kept in {} until the new one is here",
            superseded(&self.places.state_dir, space).display()
        );
        self.supersede(space, record).map_err(|error| storage(error.to_string()))?;
        self.commit_now(space, record, Change::SeedMoved).map_err(storage)
    }

    /// One change, durable at once.
    fn commit_now(
        &mut self,
        space: &SpaceId,
        record: &mut SpaceRecord,
        change: Change,
    ) -> Result<(), String> {
        let batch = [(space.clone(), change)];
        let result = self.catalog.commit(&batch);
        let [(_, change)] = batch;
        if let Err(error) = result {
            let why = format!("the catalog could not be written: {error}; restart this node");
            self.unrecorded.insert(space.clone(), why.clone());
            return Err(why);
        }
        remember(record, &change);
        Ok(())
    }

    /// Bring to its end a move that was interrupted.
    pub(super) fn finish_move(
        &mut self,
        space: &SpaceId,
        record: &mut SpaceRecord,
    ) -> io::Result<()> {
        if record.seed.is_some_and(|seed| !seed.moved) {
            self.supersede(space, record)?;
            remember(record, &Change::SeedMoved);
            self.changes.push((space.clone(), Change::SeedMoved));
        }
        Ok(())
    }

    /// Move every segment of the space aside, those without a name too.
    fn supersede(&self, space: &SpaceId, record: &SpaceRecord) -> io::Result<()> {
        let (host, state_dir) = (&*self.places.host, &self.places.state_dir);
        let wal = self.places.wal(space);
        let retired = state_dir.join("retired").join(space.as_str());
        let names = match discover::segments(&wal) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut moves: Vec<(PathBuf, String)> = Vec::new();
        for name in names {
            moves.push((wal.join(name.to_string()), name.to_string()));
        }
        for path in files(&retired)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            moves.push((path, format!("retired-{}", name.unwrap_or_default())));
        }
        if moves.is_empty() {
            return Ok(());
        }
        let base = format!("{:016x}", record.base.lsn.0);
        let to = superseded(state_dir, space).join(base);
        make_directories(host, state_dir, &to)?;
        for (path, name) in moves {
            host.rename(&path, &free_name(&to, &name)?)?;
        }
        host.sync_directory(&to)?;
        for directory in [&wal, &retired] {
            if directory.try_exists()? {
                host.sync_directory(directory)?;
            }
        }
        Ok(())
    }

    /// A checkpoint of a seed that has come to its target ends the seed.
    pub(super) fn settle_seed(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let at = entry.record.checkpoint.lsn;
        if entry.record.seed.is_some_and(|seed| seed.moved && at >= seed.target) {
            remember(&mut entry.record, &Change::SeedDone);
            self.changes.push((space.clone(), Change::SeedDone));
            self.seeded.push(space.clone());
        }
    }

    /// Remove an old copy that is needed no more: the catalog knows of a better
    /// one.
    pub(super) fn remove_superseded(&self, space: &SpaceId) {
        let directory = superseded(&self.places.state_dir, space);
        if !directory.exists() {
            return;
        }
        match remove_all(&*self.places.host, &directory) {
            Ok(bytes) => tracing::info!(
                %space, bytes,
                "this replica has been filled anew: its old copy is removed"
            ),
            Err(error) => tracing::warn!(
                %space, %error,
                "an old copy cannot be removed; it is needed no more: {}",
                directory.display()
            ),
        }
    }
}

/// Where old copies of a space are.
fn superseded(state_dir: &Path, space: &SpaceId) -> PathBuf {
    state_dir.join("superseded").join(space.as_str())
}

/// A name in `directory` that nothing bears yet: an earlier seed from the same
/// base may have been moved there.
fn free_name(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = directory.join(name);
    let mut number = 0;
    while path.try_exists()? {
        number += 1;
        path = directory.join(format!("{name}.{number}"));
    }
    Ok(path)
}

/// The files of a directory; none if there is no such directory.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Remove a directory of directories of files. Returns how many bytes were in
/// it.
fn remove_all(host: &dyn Host, directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for seed in files(directory)? {
        for file in files(&seed)? {
            bytes += file.metadata()?.len();
            host.remove(&file)?;
        }
        host.remove_directory(&seed)?;
    }
    host.remove_directory(directory)?;
    Ok(bytes)
}
