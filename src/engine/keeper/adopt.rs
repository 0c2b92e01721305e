//! Files that were built in the place of damaged ones take their names, while
//! nobody writes to the space.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crossbeam::channel::Sender;

use super::{AtRest, Keeper, Lease};
use crate::engine::quarantine::{Extent, Manifest, Quarantine, Reason};
use crate::engine::recovery;
use crate::engine::shard::Standing;
use crate::ids::SpaceId;
use crate::limits::VERIFY_PIECE_BYTES;
use crate::lsn::Mark;
use crate::state::catalog::{Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::search::read_up_to;

/// Files that wait to be put in their place.
#[derive(Debug)]
pub(super) struct Adoption {
    built: Vec<(u64, PathBuf, u64)>,
    reply: Sender<Result<Vec<PathBuf>, String>>,
}

impl Keeper {
    /// Where a space stands, as far as that is known here.
    pub(super) fn standing(&self, space: &SpaceId) -> Option<Standing> {
        let entry = self.spaces.get(space)?;
        let mark = match &entry.lease {
            Lease::Here(mark) => *mark,
            Lease::Lent(_) | Lease::Broken(_) => entry.record.checkpoint,
        };
        let (runs, holes) = (entry.record.runs.clone(), entry.record.holes.clone());
        Some(Standing { mark, runs, role: entry.record.role, holes })
    }

    /// The file of a run.
    pub(super) fn at_rest(&self, space: &SpaceId, run: &Run) -> AtRest {
        let named = self.places.wal(space).join(run.segment.to_string());
        let Some(entry) = self.spaces.get(space) else {
            let gone = io::Error::other("the space is not in the catalog");
            return AtRest { path: named, file: Err(gone) };
        };
        match entry.record.role {
            Role::Primary => {
                let opened =
                    self.open_segment(space, run.file).map_err(|gone| io::Error::other(gone.why));
                let file = opened.and_then(|segment| segment.file.try_clone());
                AtRest { path: named, file }
            }
            Role::Replica => {
                let path = self.path_of(space, &entry.record, run);
                let file = File::open(&path);
                AtRest { path, file }
            }
        }
    }

    fn path_of(&self, space: &SpaceId, record: &SpaceRecord, run: &Run) -> PathBuf {
        let (data_root, state_dir) = (&self.places.data_root, &self.places.state_dir);
        recovery::path_of(data_root, state_dir, space, record, run)
    }

    /// Put files in their place now, or when the space is given back.
    pub(super) fn adopt(
        &mut self,
        space: &SpaceId,
        built: Vec<(u64, PathBuf, u64)>,
        reply: Sender<Result<Vec<PathBuf>, String>>,
    ) {
        let adoption = Adoption { built, reply };
        match self.spaces.get_mut(space) {
            Some(entry) if matches!(entry.lease, Lease::Lent(_)) => entry.adoptions.push(adoption),
            Some(_) => self.carry_out(space, adoption),
            // Nobody waits for an answer about a space that is gone.
            None => {}
        }
    }

    /// Put files in their place. Nobody writes to the space meanwhile: only
    /// this thread could lend it.
    pub(super) fn carry_out(&mut self, space: &SpaceId, adoption: Adoption) {
        let Adoption { built, reply } = adoption;
        let mut kept = Vec::new();
        let mut outcome = Ok(());
        for (file, path, covered) in built {
            match self.replace(space, file, &path, covered) {
                Ok(old) => kept.extend(old),
                Err(error) => {
                    outcome = Err(format!("file {file} cannot be replaced: {error}"));
                    break;
                }
            }
        }
        if let Err(why) = &outcome {
            tracing::error!(%space, "{why}");
        }
        // Who waited may have given up.
        let _ = reply.send(outcome.map(|()| kept));
    }

    /// Put one file in its place; returns where the damaged one is.
    fn replace(
        &self,
        space: &SpaceId,
        file: u64,
        built: &Path,
        covered: u64,
    ) -> io::Result<Option<PathBuf>> {
        let entry = self.spaces.get(space).ok_or_else(|| io::Error::other("no such space"))?;
        let mark = match &entry.lease {
            Lease::Here(mark) => *mark,
            Lease::Lent(_) => return Err(io::Error::other("the space is being received")),
            Lease::Broken(why) => return Err(io::Error::other(why.clone())),
        };
        let record = &entry.record;
        let (_, run) = record
            .runs
            .latest_in(file)
            .ok_or_else(|| io::Error::other("no run lies in that file any more"))?;
        let end = end_of(record, file, &mark);
        let named = self.path_of(space, record, run);
        let host = &self.places.host;
        if end < covered {
            return Err(io::Error::other(format!(
                "{covered} bytes of it were built, and the stream has only {end} there"
            )));
        }
        if end > covered {
            // What was received since the file was read; the session has ended,
            // so nothing of it is still to come.
            let new = host.open(OpenOptions::new().read(true).write(true), built)?;
            let old = File::open(&named)?;
            let mut piece = vec![0; VERIFY_PIECE_BYTES];
            let mut at = covered;
            while at < end {
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
            host.sync_all(&new)?;
        }
        // A second name first, so that the segment's own never points nowhere.
        let old = built.with_extension("old");
        let there = named.try_exists()?;
        if there {
            host.link(&named, &old)?;
        }
        host.rename(built, &named)?;
        host.sync_directory(named.parent().unwrap_or(Path::new("/")))?;
        if !there {
            return Ok(None);
        }
        let quarantine = Quarantine::new(host.clone(), &self.places.quarantine(), space);
        let manifest = manifest(space, record, run, &old)?;
        quarantine.take(&old, &manifest).map(Some)
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
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let run = u64::from_str_radix(stem, 16)
                .ok()
                .filter(|_| path.extension().is_some_and(|extension| extension == "old"))
                .and_then(|file| record.runs.latest_in(file));
            match run {
                Some((_, run)) if !is_same(&path, &self.path_of(space, record, run))? => {
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

/// Where the stream ends in a file.
fn end_of(record: &SpaceRecord, file: u64, mark: &Mark) -> u64 {
    let ends = record.runs.iter().filter(|(_, run)| run.file == file && run.start < mark.lsn);
    ends.map(|(_, run)| {
        let reach = mark.lsn.bytes_since(run.start);
        run.offset + run.bytes.map_or(reach, |bytes| bytes.min(reach))
    })
    .max()
    .unwrap_or(0)
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
