//! Files that were built in the place of damaged ones take their names, while
//! nobody writes to the space.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crossbeam::channel::Sender;

use super::{AtRest, Built, Ground, Keeper, Kept, Lease, Offer, Unopened};
use crate::engine::quarantine::{Extent, Manifest, Quarantine, Reason};
use crate::engine::recovery;
use crate::engine::shard::Standing;
use crate::ids::SpaceId;
use crate::limits::{CUT_SLICE_BYTES, VERIFY_PIECE_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::{Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::search::read_up_to;

/// Files that wait to be put in their place.
#[derive(Debug)]
pub(super) struct Adoption {
    offer: Offer,
    reply: Sender<Result<Vec<PathBuf>, String>>,
}

impl Adoption {
    /// Nothing comes of it.
    pub(super) fn refuse(self, why: &str) {
        drop(self.offer.take());
        // Who waited may have given up.
        let _ = self.reply.send(Err(why.to_owned()));
    }
}

/// Every boundary that is known of a space.
pub(super) fn boundaries(record: &SpaceRecord) -> BTreeMap<Lsn, Mark> {
    let firsts = record.runs.firsts();
    let begins = record.begins.iter().filter(|(file, mark)| firsts.get(file) == Some(&mark.lsn));
    let begins = begins.map(|(_, mark)| mark);
    let others = [&record.base, &record.checkpoint];
    record.marks.iter().chain(begins).chain(others).map(|mark| (mark.lsn, *mark)).collect()
}

impl Keeper {
    /// Where a space stands, as far as that is known here.
    pub(super) fn standing(&self, space: &SpaceId) -> Option<Kept> {
        let entry = self.spaces.get(space)?;
        let mark = match &entry.lease {
            Lease::Here(mark) => *mark,
            Lease::Lent(_) | Lease::Broken(_) => entry.record.checkpoint,
        };
        let (runs, holes) = (entry.record.runs.clone(), entry.record.holes.clone());
        let (base, role) = (entry.record.base, entry.record.role);
        let standing = Standing { mark, base, runs, role, holes };
        let history = entry.record.history.clone();
        let boundaries = boundaries(&entry.record);
        let is_lent = matches!(entry.lease, Lease::Lent(_));
        Some(Kept { standing, is_lent, history, recoveries: entry.recoveries, boundaries })
    }

    /// The file of a run.
    pub(super) fn at_rest(&self, space: &SpaceId, run: &Run) -> AtRest {
        let named = self.places.wal(space).join(run.segment.to_string());
        let Some(entry) = self.spaces.get(space) else {
            let gone = io::Error::other("the space is not in the catalog");
            return AtRest { path: named, file: Err(gone), retired: false };
        };
        match entry.record.role {
            Role::Primary => {
                let opened = self.open_segment(space, run.file);
                // What the walk stands in is never let go, but it may be the last
                // one once more when the host has lost what came behind.
                let last = entry.record.runs.last().is_some_and(|last| last.file == run.file);
                let let_go = entry.record.is_gone(run.file);
                let retired = (let_go || !last) && matches!(opened, Err(Unopened::Gone { .. }));
                let file = opened
                    .map_err(|error| io::Error::other(error.into_why()))
                    .and_then(|segment| segment.file.try_clone());
                AtRest { path: named, file, retired }
            }
            Role::Replica => {
                let path = self.place_of(space, &entry.record, run);
                let file = File::open(&path);
                let retired = entry.record.is_gone(run.file);
                AtRest { path, file, retired }
            }
        }
    }

    /// Where the file of a run lies. It is put aside before that is recorded, or
    /// the run of its successor known; and that may fail in between.
    pub(super) fn place_of(&self, space: &SpaceId, record: &SpaceRecord, run: &Run) -> PathBuf {
        let (data_root, state_dir) = (&self.places.data_root, &self.places.state_dir);
        let path = recovery::path_of(data_root, state_dir, space, record, run);
        let aside = recovery::retired_path(state_dir, space, run.file);
        if !path.exists() && aside.exists() { aside } else { path }
    }

    /// Put files in their place now, or when the space is given back.
    pub(super) fn adopt(
        &mut self,
        space: &SpaceId,
        offer: Offer,
        reply: Sender<Result<Vec<PathBuf>, String>>,
    ) {
        let adoption = Adoption { offer, reply };
        match self.spaces.get_mut(space) {
            Some(entry) if matches!(entry.lease, Lease::Lent(_)) => {
                entry.adoptions.retain(|waiting| !waiting.offer.is_taken());
                entry.adoptions.push(adoption);
            }
            Some(_) => self.carry_out(space, &adoption),
            None => adoption.refuse("the space is in no catalog any more"),
        }
    }

    /// Put files in their place. Nobody writes to the space meanwhile: only
    /// this thread could lend it. While much is read or copied for it, the jobs
    /// of other spaces are done.
    pub(super) fn carry_out(&mut self, space: &SpaceId, adoption: &Adoption) {
        // Who has built them may have taken them back.
        let Some((ground, built)) = adoption.offer.take() else { return };
        // A long copy is interrupted by commits, and names are given back by these.
        self.record_now(space);
        let outcome = self.stands(space, &ground).and_then(|()| {
            let mut kept = Vec::new();
            for built in built {
                let file = built.file;
                let named = |error| io::Error::other(format!("file {file}: {error}"));
                kept.extend(self.replace(space, &built).map_err(named)?);
            }
            Ok(kept)
        });
        let outcome = outcome.map_err(|error| error.to_string());
        if let Err(why) = &outcome {
            tracing::error!(%space, "damaged files are not replaced: {why}");
        }
        self.count_quarantine(space);
        // Who waited may have given up.
        let _ = adoption.reply.send(outcome);
    }

    /// Whether what files were built for still stands: the space is the same
    /// stream up to the boundary, and reaches there.
    fn stands(&mut self, space: &SpaceId, ground: &Ground) -> io::Result<()> {
        if let Some(why) = self.unrecorded.get(space) {
            return Err(io::Error::other(why.clone()));
        }
        let entry = self.spaces.get(space).ok_or_else(|| io::Error::other("no such space"))?;
        let mark = mark_of(&entry.lease)?;
        let record = &entry.record;
        let other = |what: &str| {
            let at = ground.mark.lsn;
            io::Error::other(format!("{what} since they were built for what was here up to {at}"))
        };
        if !ground.is_of(&record.history) {
            return Err(other("the space was cut by a new epoch"));
        }
        if mark.lsn < ground.mark.lsn {
            return Err(other("the space has lost its end"));
        }
        if entry.recoveries == ground.recoveries {
            return Ok(());
        }
        // It may have ended before the boundary for a while: what was received
        // then must come to the same chain there.
        let at = ground.mark.lsn;
        let found = self.boundary(space, &mark, at).map_err(io::Error::other)?;
        if (found.lsn, found.chain) != (at, ground.mark.chain) {
            return Err(other("the space was recovered, and has received other records"));
        }
        Ok(())
    }

    /// Put one file in its place; returns where the damaged one is.
    fn replace(&mut self, space: &SpaceId, built: &Built) -> io::Result<Option<PathBuf>> {
        let entry = self.spaces.get(space).ok_or_else(|| io::Error::other("no such space"))?;
        let mark = mark_of(&entry.lease)?;
        let record = &entry.record;
        let run = record.runs.latest_in(built.file).map(|(_, run)| *run);
        let run = run.ok_or_else(|| io::Error::other("no run lies in it any more"))?;
        if record.is_gone(built.file) {
            return Err(io::Error::other("it has been retired since it was read"));
        }
        let end = end_of(record, built.file, &mark);
        let named = self.place_of(space, record, &run);
        let new = &built.scratch.path;
        self.extend(space, built, &named, end)?;
        let entry = self.spaces.get(space).ok_or_else(|| io::Error::other("no such space"))?;
        let record = &entry.record;
        let host = &self.places.host;
        // A second name first, so that the segment's own never points nowhere.
        let old = new.with_extension("old");
        let there = named.try_exists()?;
        if there {
            host.link(&named, &old)?;
        }
        // Durable before the first one is taken: a crash may keep either of two
        // names, and must not take both.
        let second = match new.parent().filter(|_| there) {
            Some(directory) => host.sync_directory(directory),
            None => Ok(()),
        };
        if let Err(error) = second.and_then(|()| host.rename(new, &named)) {
            if there && let Err(error) = host.remove(&old) {
                tracing::warn!(path = %old.display(), %error, "a second name is left behind");
            }
            return Err(error);
        }
        if let Err(error) = host.sync_directory(named.parent().unwrap_or(Path::new("/"))) {
            // Which file the name leads to after a crash is not known: nothing
            // may be received into either before that is looked at.
            let why = format!("the name of {} cannot be made durable: {error}", named.display());
            if let Some(entry) = self.spaces.get_mut(space) {
                entry.lease = Lease::Broken(why.clone());
            }
            return Err(io::Error::other(why));
        }
        if !there {
            return Ok(None);
        }
        let quarantine = Quarantine::new(host.clone(), &self.places.quarantine(), space);
        let kept = manifest(space, record, &run, &old)
            .and_then(|manifest| quarantine.take(&old, &manifest));
        Ok(Some(kept.unwrap_or_else(|error| {
            tracing::error!(
                %space, %error, path = %old.display(),
                "the damaged file is not in the quarantine: it is moved there when the node \
                 starts again"
            );
            old
        })))
    }

    /// Copy to a new file what was received since it was built: the session has
    /// ended, so nothing of it is still to come. In slices, like a cut; given up
    /// when this process is to end.
    fn extend(&mut self, space: &SpaceId, built: &Built, named: &Path, end: u64) -> io::Result<()> {
        let mut at = built.bytes;
        if end < at {
            return Err(io::Error::other(format!(
                "{at} bytes of it were built, and the stream has only {end} there"
            )));
        }
        if end == at {
            return Ok(());
        }
        let host = self.places.host.clone();
        let new = host.open(OpenOptions::new().read(true).write(true), &built.scratch.path)?;
        let old = File::open(named)?;
        let mut piece = vec![0; VERIFY_PIECE_BYTES];
        let mut slice_ends = at + CUT_SLICE_BYTES;
        while at < end {
            if at >= slice_ends {
                slice_ends = at + CUT_SLICE_BYTES;
                // Or the last sync would bring all of it to the disk at once.
                host.sync_data(&new)?;
                self.look_after_others(space);
                if self.is_to_stop() {
                    return Err(io::Error::other("this node is stopping"));
                }
            }
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
            let count = read_up_to(&old, &mut piece[..most], at)?;
            if count == 0 {
                return Err(io::Error::other(format!(
                    "{} ends at {at}, and is durable up to {end}",
                    named.display()
                )));
            }
            host.write_at(&new, &piece[..count], at)?;
            at += count as u64;
        }
        host.sync_all(&new)
    }

    /// Bring to an end what a stop has interrupted between two names. Called
    /// before anything is received.
    pub(super) fn sweep_mending(&self, space: &SpaceId, record: &SpaceRecord) -> io::Result<()> {
        let directory = self.places.state_dir.join("mending").join(space.as_str());
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.split('.').next().and_then(|file| u64::from_str_radix(file, 16).ok());
            let is_old = path.extension().is_some_and(|extension| extension == "old");
            let run = number.filter(|_| is_old).and_then(|file| record.runs.latest_in(file));
            match run {
                None if is_old => {
                    let path = path.display();
                    tracing::error!(%space, %path, "no run lies in this damaged file: it is left");
                }
                Some((_, run)) if !is_same(&path, &self.place_of(space, record, run))? => {
                    let host = self.places.host.clone();
                    let quarantine = Quarantine::new(host, &self.places.quarantine(), space);
                    let manifest = manifest(space, record, run, &path)?;
                    let kept = quarantine.take(&path, &manifest)?;
                    tracing::warn!(%space, kept = %kept.display(), "a damaged file was replaced");
                }
                // A second name of what still has its first, or bytes that were
                // fetched or copied: the stream has them elsewhere.
                _ => self.places.host.remove(&path)?,
            }
        }
        Ok(())
    }
}

/// What a damaged file held, as far as its runs tell.
fn manifest(space: &SpaceId, record: &SpaceRecord, run: &Run, path: &Path) -> io::Result<Manifest> {
    let bytes = path.metadata()?.len();
    let runs = record.runs.iter().filter(|(_, other)| other.file == run.file);
    let extents = runs
        .map(|(_, run)| {
            let there = bytes.saturating_sub(run.offset);
            let bytes = run.bytes.map_or(there, |bytes| bytes.min(there));
            Extent { lsn: run.start.0, offset: run.offset, bytes }
        })
        .filter(|extent| extent.bytes > 0)
        .collect();
    Ok(Manifest {
        space: space.clone(),
        segment: run.segment,
        file: run.file,
        offset: 0,
        bytes,
        reason: Reason::Damaged,
        extents,
        epochs: record.history.iter().map(|(epoch, _)| *epoch).collect(),
        superseded_by: None,
    })
}

/// The durable end of a space that nobody has.
fn mark_of(lease: &Lease) -> io::Result<Mark> {
    match lease {
        Lease::Here(mark) => Ok(*mark),
        Lease::Lent(_) => Err(io::Error::other("the space is being received")),
        Lease::Broken(why) => Err(io::Error::other(why.clone())),
    }
}

/// Where the stream ends in a file.
fn end_of(record: &SpaceRecord, file: u64, mark: &Mark) -> u64 {
    let ends = record.runs.iter().filter(|(_, run)| run.file == file && run.start < mark.lsn);
    ends.map(|(_, run)| run.reach(mark.lsn)).max().unwrap_or(0)
}

/// Whether two names are of one file.
fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| path.metadata().map(|data| (data.dev(), data.ino()));
    match (identity(a), identity(b)) {
        (Ok(a), Ok(b)) => Ok(a == b),
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
