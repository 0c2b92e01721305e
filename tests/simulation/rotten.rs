//! What the oracle knows of bytes that have flipped at rest on replicas, and
//! what it lets nobody do with them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use saltus::engine::status::SpaceStatus;
use saltus::ids::{SegmentName, SpaceId};
use saltus::lsn::{Lsn, Mark};

use super::copies::{parse, places};
use super::disk::Disk;
use super::flips::Adopted;
use super::invariant::Invariant::{Flushed, Loss, Prefix, Verified};
use super::oracle::Oracle;
use super::source::Shipped;
use super::stream::Reign;

/// Bits of one byte that have flipped by some time, for each of such times.
pub type Rotten = BTreeMap<u64, Vec<u8>>;

/// A byte of a copy that had flipped when a pass began.
#[derive(Clone, Debug)]
pub struct Flipped {
    pub space: SpaceId,
    pub lsn: u64,
    /// Where it lies.
    pub segment: SegmentName,
    pub file: u64,
    pub offset: u64,
}

impl Oracle {
    /// What had flipped, ever, of a file of a replica.
    pub fn rotten(&self, replica: usize, space: &SpaceId, file: u64) -> Option<&Rotten> {
        self.rotten.get(&(replica, space.clone(), file))
    }

    /// Whether a bit had flipped in the record that begins there.
    pub(super) fn had_flipped(
        &self,
        replica: usize,
        space: &SpaceId,
        reign: &Reign,
        record: u64,
    ) -> bool {
        if reign.mark(Lsn(record)).is_none() || record >= reign.end() {
            return false;
        }
        reign.pieces(record, reign.boundary_behind(record)).into_iter().any(|(run, begin, end)| {
            let at = |lsn: u64| run.offset + lsn - run.start.0;
            let rotten = self.rotten(replica, space, run.file);
            rotten.is_some_and(|rotten| rotten.range(at(begin)..at(end)).next().is_some())
        })
    }

    /// The first record of a part of the stream that a replica has acknowledged
    /// in which a bit had flipped.
    pub(super) fn first_flipped(
        &self,
        replica: usize,
        space: &SpaceId,
        reign: &Reign,
        (from, to): (u64, u64),
    ) -> Option<u64> {
        let pieces = reign.pieces(from, to);
        let flipped = pieces.into_iter().filter_map(|(run, begin, end)| {
            let at = |lsn: u64| run.offset + lsn - run.start.0;
            let rotten = self.rotten(replica, space, run.file)?;
            let (offset, _) = rotten.range(at(begin)..at(end)).next()?;
            Some(reign.boundary(run.start.0 + offset - run.offset))
        });
        flipped.min()
    }

    /// Bytes that a replica has acknowledged and that have flipped, as its files
    /// are seen now.
    pub(super) fn flipped_now(&self, replica: usize, disk: &Disk) -> Vec<Flipped> {
        let root = disk.data_root();
        let mut found = Vec::new();
        for ((of, space), said) in self.said.iter().filter(|((of, _), _)| *of == replica) {
            let reign = self.streams[space].reign(said.reign);
            for (run, begin, end) in reign.pieces(said.base, said.flushed) {
                if self.is_gone(*of, space, run.file) {
                    continue;
                }
                let at = |lsn: u64| run.offset + lsn - run.start.0;
                let Some(path) = self.place_of(
                    disk,
                    &places(&root, space, &run),
                    at(begin),
                    reign.slice(begin, end),
                ) else {
                    continue;
                };
                for offset in disk.flipped(&path) {
                    if (at(begin)..at(end)).contains(&offset) {
                        found.push(Flipped {
                            space: space.clone(),
                            lsn: run.start.0 + offset - run.offset,
                            segment: run.segment,
                            file: run.file,
                            offset,
                        });
                    }
                }
            }
        }
        found
    }

    /// What a node that starts reads of a copy, it must not take for good where it
    /// has rotted: what lies behind its last checkpoint, and the record before it.
    pub fn recovered_over_rot(
        &self,
        replica: usize,
        status: &SpaceStatus,
        began_at: Option<&Mark>,
        damages: &BTreeMap<SpaceId, String>,
        disk: &Disk,
    ) {
        let Some(began_at) = began_at.map(|mark| mark.lsn.0) else { return };
        let Some(said) = self.said.get(&(replica, status.space.clone())) else { return };
        let reign = self.streams[&status.space].reign(said.reign);
        let flushed = status.flushed_lsn.unwrap_or(0);
        for flipped in self.flipped_now(replica, disk) {
            if flipped.space != status.space {
                continue;
            }
            assert!(
                !(began_at..flushed).contains(&flipped.lsn),
                "{Verified}: replica {replica} begins with {flushed}, has read all from \
                 {began_at} on, and takes {flipped:?} for good"
            );
            let is_last = reign.boundary_behind(flipped.lsn) == began_at;
            assert!(
                !is_last || damages.contains_key(&status.space),
                "{Loss}: replica {replica} begins at {began_at}, and does not name \
                 {flipped:?}: {damages:?}"
            );
        }
    }

    /// Which of two files has these bytes, but for what has flipped.
    pub(super) fn place_of(
        &self,
        disk: &Disk,
        places: &[PathBuf; 2],
        offset: u64,
        bytes: &[u8],
    ) -> Option<PathBuf> {
        let offset = usize::try_from(offset).unwrap();
        let has =
            |path: &&PathBuf| disk.unrotten(path).get(offset..offset + bytes.len()) == Some(bytes);
        places.iter().find(has).cloned()
    }

    /// A file was put in the place of a damaged one: it holds all that was
    /// acknowledged of it, and no crash could take that.
    pub fn adopted(&self, replica: usize, adopted: &Adopted) {
        let path = &adopted.path;
        let Some((space, written)) = parse(path) else { return };
        let Some(stream) = self.streams.get(&space) else { return };
        assert!(
            adopted.is_kept,
            "{Loss}: replica {replica} replaces {path:?}, and a crash could take \
             the damaged file"
        );
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let reign = stream.reign(said.reign);
        let mut files: BTreeMap<u64, Vec<Shipped<'_>>> = BTreeMap::new();
        for piece in reign.pieces(said.base, said.flushed) {
            let (run, ..) = piece;
            if written.is_of(&run) && !self.is_gone(replica, &space, run.file) {
                files.entry(run.file).or_default().push(Shipped::of(reign, piece));
            }
        }
        let has = |bytes: &[u8], shipped: &Shipped<'_>| {
            let offset = usize::try_from(shipped.offset).unwrap();
            bytes.get(offset..offset + shipped.bytes.len()) == Some(shipped.bytes)
        };
        let is_whole =
            |pieces: &&Vec<Shipped<'_>>| pieces.iter().all(|piece| has(&adopted.seen, piece));
        // Of several that have had this name, it is the one that it is.
        let meant = files.values().find(is_whole).or(files.values().last());
        for shipped in meant.into_iter().flatten() {
            assert!(
                has(&adopted.seen, shipped),
                "{Prefix}: replica {replica} puts a file in the place of {path:?} that is not what \
                 was shipped: {shipped:?}"
            );
            assert!(
                has(&adopted.durable, shipped),
                "{Flushed}: replica {replica} puts a file in the place of {path:?}, \
                 and a crash could take {shipped:?}"
            );
        }
    }
}
