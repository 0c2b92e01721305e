//! What replicas say of their copies, and what lies on their disks: the half of
//! the oracle that listens to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use saltus::engine::quarantine::Manifest;
use saltus::engine::status::SpaceStatus;
use saltus::ids::{Epoch, SpaceId};
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::FrameHeader;
use saltus::protocol::message::{Ack, SegmentOpen, Standing};

use super::cuts::{CutOff, Kept, space_of_superseded};
use super::disk::Disk;
use super::invariant::Invariant::{Corrupt, Epochs, Equality, Flushed, Loss, Prefix, Verified};
use super::oracle::{Oracle, Sender, Session};
use super::rotten::Rotten;
use super::stream::Reign;

impl Oracle {
    /// A replica says where it stands when a space is opened, or was cut.
    pub(super) fn standing(
        &mut self,
        connection: usize,
        sender: &Sender<'_>,
        header: &FrameHeader,
        standing: &Standing,
    ) {
        let session = self.session(connection, header.handle);
        let (replica, reign) = (sender.machine, self.reign_of(&session));
        self.answered(connection, header.handle, replica);
        let Session { space, epoch, .. } = session;
        self.stands(replica, &space, standing.flushed);
        self.lowered(replica, &space, standing.flushed, reign, sender.disk);
        let stream = &self.streams[&space];
        let said = self.said.entry((replica, space.clone())).or_default();
        assert!(
            said.highest_epoch <= Some(standing.highest_epoch),
            "{Epochs}: replica {replica} has forgotten epoch {:?} of {space}",
            said.highest_epoch
        );
        assert!(
            standing.highest_epoch <= epoch,
            "{Epochs}: replica {replica} has seen epoch {} of {space}, and goes on in epoch {epoch}",
            standing.highest_epoch
        );
        said.highest_epoch = Some(standing.highest_epoch);
        if reign > said.reign && standing.flushed.0 <= stream.common(said.reign, reign) {
            said.reign = reign;
        }
        self.claims(replica, &space, standing.flushed, standing.chain, sender.disk);
    }

    /// A replica has less than it had acknowledged: an epoch that it has seen
    /// must have ended what is missing, and its quarantine must hold it.
    fn lowered(&mut self, replica: usize, space: &SpaceId, flushed: Lsn, seen: usize, disk: &Disk) {
        let Some(mut said) = self.said.get(&(replica, space.clone())).copied() else { return };
        if flushed.0 >= said.flushed {
            return;
        }
        let stream = &self.streams[space];
        let ended = stream.ended(said.reign, seen);
        let reign = stream.reign(said.reign);
        // Behind its last checkpoint, what has rotted looks like what was never
        // whole: it is shipped again.
        let rotten = self.had_flipped(replica, space, reign, flushed.0);
        // Of a copy whose base an epoch has ended, nothing is of the stream.
        // It may have told before that it has seen that epoch, and has only its base.
        let is_bare = said.flushed == said.base && reign.start.0 == said.base;
        let anew = flushed == Lsn::ZERO && (ended <= said.base || is_bare);
        assert!(
            flushed.0 >= ended || anew || rotten,
            "{Flushed}: replica {replica} had acknowledged {} of {space}, and has \
             {flushed}",
            said.flushed
        );
        let kept = disk.kept(space);
        for (run, begin, end) in reign.pieces(flushed.0.max(said.base), said.flushed) {
            if self.gone.contains(&(replica, space.clone(), run.file)) {
                continue;
            }
            assert!(
                holds(
                    &kept,
                    &run,
                    begin,
                    reign.slice(begin, end),
                    self.rotten(replica, space, run.file)
                ),
                "{Loss}: replica {replica} had acknowledged {begin} to {end} of \
                 {space}, and has it neither in its log nor in its quarantine"
            );
        }
        if rotten && flushed.0 < ended {
            said.before_rot = said.before_rot.max(said.flushed);
        }
        said.flushed = flushed.0;
        if anew {
            said.base = 0;
        }
        self.said.insert((replica, space.clone()), said);
    }

    /// A replica has cut a file, or taken away its name.
    pub fn cut_off(&self, replica: usize, cut: &CutOff, disk: &Disk) {
        if let Some(space) = space_of_superseded(&cut.path) {
            return self.dropped(replica, &space, cut, disk);
        }
        let Some((space, written)) = parse(&cut.path) else { return };
        if cut.superseded {
            return self.superseded(replica, &space, cut);
        }
        if self.is_unfinished(replica, &space) {
            return;
        }
        if let Written::Retired(file) = written
            && self.is_gone(replica, &space, file)
        {
            return self.removed(replica, &space, file, cut);
        }
        let Some(stream) = self.streams.get(&space) else { return };
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let reign = stream.reign(said.reign);
        let flipped = self.first_flipped(replica, &space, reign, (said.base, said.flushed));
        let mut acknowledged = false;
        let cut_end = cut.offset + cut.bytes.len() as u64;
        for (run, begin, end) in reign.pieces(said.base, said.flushed) {
            let at = |lsn: u64| run.offset + lsn - run.start.0;
            let (from, to) = (at(begin).max(cut.offset), at(end).min(cut_end));
            if !written.is_of(&run) || from >= to {
                continue;
            }
            let there = usize::try_from(from - cut.offset).unwrap();
            let (begin, end) = (begin + from - at(begin), begin + to - at(begin));
            let rotten = self.rotten(replica, &space, run.file);
            if written.is_shared(reign)
                && !agrees(&cut.bytes[there..], reign.slice(begin, end), from, rotten)
            {
                // It is the other file's that has had this name.
                continue;
            }
            acknowledged = true;
            assert!(
                begin >= stream.ended(said.reign, stream.last())
                    || flipped.is_some_and(|flipped| flipped <= begin),
                "{Corrupt}: replica {replica} cuts {begin} to {end} of {space}, which \
                 it had acknowledged and no epoch has ended"
            );
            assert!(
                holds(&cut.kept, &run, begin, reign.slice(begin, end), rotten),
                "{Loss}: replica {replica} cuts {begin} to {end} of {space}, which \
                 it had acknowledged, before they are durable in its quarantine"
            );
        }
        let is_kept = cut.bytes.is_empty()
            || cut.kept.iter().any(|kept| {
                let place = cut.offset.checked_sub(kept.manifest.offset);
                let same = |place: u64| {
                    let place = usize::try_from(place).unwrap();
                    kept.bytes.get(place..place + cut.bytes.len()) == Some(cut.bytes.as_slice())
                };
                kept.manifest.space == space
                    && written.is_named(&kept.manifest)
                    && place.is_some_and(same)
            });
        // The end of an unfinished record may go when there is no room for it.
        assert!(
            is_kept || (cut.full && !acknowledged),
            "{Loss}: replica {replica} cuts {} bytes of {:?} at {} that its \
             quarantine does not hold",
            cut.bytes.len(),
            cut.path,
            cut.offset
        );
    }

    /// A replica acknowledges.
    pub(super) fn acked(
        &mut self,
        connection: usize,
        sender: &Sender<'_>,
        header: &FrameHeader,
        ack: &Ack,
    ) {
        let session = self.session(connection, header.handle);
        let (replica, reign) = (sender.machine, self.reign_of(&session));
        let Session { space, epoch, .. } = session;
        assert!(header.epoch == epoch, "{Epochs}: an ack of epoch {}, not {epoch}", header.epoch);
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        assert!(
            said.highest_epoch <= Some(epoch),
            "{Epochs}: replica {replica} obeys epoch {epoch} of {space}, and has seen {:?}",
            said.highest_epoch
        );
        assert!(
            said.reign == reign,
            "{Equality}: replica {replica} acknowledges {space} in epoch {epoch}, and holds other \
             records than are shipped there"
        );
        assert!(
            ack.flushed <= ack.written && ack.written <= ack.received,
            "{Flushed}: replica {replica} acknowledges {ack:?} of {space}"
        );
        self.claims(replica, &space, ack.flushed, ack.chain, sender.disk);
    }

    /// A replica claims to have that much, whatever happens.
    fn claims(&mut self, replica: usize, space: &SpaceId, flushed: Lsn, chain: Chain, disk: &Disk) {
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let reign = self.streams[space].reign(said.reign);
        let mark = reign.mark(flushed);
        let Some(mark) = mark else {
            panic!("{Prefix}: replica {replica} claims {flushed} of {space}, where no record ends")
        };
        assert!(
            mark.chain == chain,
            "{Equality}: replica {replica} has chain {chain:?} of {space} at {flushed}, the stream {:?}",
            mark.chain
        );
        for (run, begin, end) in reign.pieces(said.flushed, flushed.0) {
            let offset = run.offset + begin - run.start.0;
            let [named, retired] = places(&disk.data_root(), space, &run);
            let found = disk.durable(&named, offset, end - begin);
            let wanted = reign.slice(begin, end);
            let is_there = found.as_deref() == Ok(wanted)
                || disk.durable(&retired, offset, end - begin).as_deref() == Ok(wanted)
                || self.is_gone(replica, space, run.file);
            assert!(
                is_there,
                "{Flushed}: replica {replica} claims {flushed} of {space}, and a crash \
                 could take {begin} to {end}: {}",
                found.err().unwrap_or_else(|| format!("other bytes in {named:?}"))
            );
        }
        let said = self.said.entry((replica, space.clone())).or_default();
        said.flushed = said.flushed.max(flushed.0);
    }

    /// A node writes to a file that it receives.
    pub fn writes(&self, replica: usize, names: &[PathBuf], offset: u64, bytes: &[u8]) {
        let fits = |space: &SpaceId, written: &Written| {
            let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
            let stream = &self.streams[space];
            let reigns = (said.reign..=stream.last()).map(|reign| stream.reign(reign));
            let mut places = reigns.flat_map(|reign| {
                let runs = reign.runs.iter().enumerate();
                runs.map(move |(index, run)| (reign, index, run))
            });
            places.any(|(reign, index, run)| {
                let limit = reign.runs.get(index + 1).map_or(u64::MAX, |next| next.start.0);
                let Some(within) = offset.checked_sub(run.offset).filter(|_| written.is_of(run))
                else {
                    return false;
                };
                let begin = run.start.0 + within;
                let end = begin + bytes.len() as u64;
                end <= limit && end <= reign.end() && reign.slice(begin, end) == bytes
            })
        };
        let known = names
            .iter()
            .filter_map(|name| parse(name))
            .any(|(space, written)| fits(&space, &written));
        assert!(
            known,
            "{Verified}: replica {replica} writes to {names:?} at {offset} {} bytes \
             that are not the primary's",
            bytes.len()
        );
    }

    /// What a replica has after it was started, before it does anything.
    pub fn recovered(&mut self, replica: usize, status: &SpaceStatus, disk: &Disk) {
        let (space, problem) = (&status.space, &status.problem);
        assert!(problem.is_none(), "{Corrupt}: {space} of {replica}: {problem:?}");
        let flushed = status.flushed_lsn.unwrap_or(0);
        let Some(stream) = self.streams.get(space) else { return };
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        assert!(
            said.highest_epoch <= status.highest_epoch,
            "{Epochs}: replica {replica} has seen epoch {:?} of {space}, and a restart leaves {:?}",
            said.highest_epoch,
            status.highest_epoch
        );
        let seen = stream.under(status.highest_epoch.unwrap_or(Epoch::FIRST));
        self.stands(replica, space, Lsn(flushed));
        self.lowered(replica, space, Lsn(flushed), seen, disk);
        self.lies_there(replica, space, flushed, disk);
    }

    /// The files of a replica show the stream up to there, and nothing else.
    pub fn lies_there(&self, replica: usize, space: &SpaceId, flushed: u64, disk: &Disk) {
        let ends = self.shows(replica, space, flushed, disk);
        // No file exposes anything else.
        let root = disk.data_root();
        for entry in std::fs::read_dir(root.join(space.as_str()).join("wal")).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap().len();
            let end = ends.get(&entry.path()).copied().unwrap_or(0);
            assert!(
                found == end,
                "{Prefix}: {:?} of replica {replica} has {found} bytes, {end} are of the stream",
                entry.path()
            );
        }
    }

    /// Everything that a replica has acknowledged is in its files, and no crash
    /// could take it.
    pub fn is_all_there(&self, replica: usize, disk: &Disk) {
        for ((of, space), said) in &self.said {
            if *of == replica {
                self.shows(replica, space, said.flushed, disk);
            }
        }
    }

    /// The files of a replica show the stream up to there, but for what has
    /// flipped. Where it ends in each of them.
    fn shows(
        &self,
        replica: usize,
        space: &SpaceId,
        flushed: u64,
        disk: &Disk,
    ) -> BTreeMap<PathBuf, u64> {
        let root = disk.data_root();
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let reign = self.streams[space].reign(said.reign);
        let mut ends: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (run, begin, end) in reign.pieces(said.base, flushed) {
            let offset = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let paths = places(&root, space, &run);
            let bytes = reign.slice(begin, end);
            let path = paths.iter().find(|path| {
                let found = disk.unrotten(path);
                found.get(offset..offset + bytes.len()) == Some(bytes)
            });
            let Some(path) = path else {
                if self.is_gone(replica, space, run.file) {
                    continue;
                }
                panic!(
                    "{Prefix}: replica {replica} has not {begin} to {end} of {space} in {paths:?}"
                )
            };
            ends.insert(path.clone(), (offset + bytes.len()) as u64);
        }
        ends
    }
}

/// Where a run's file can lie on a replica: under its name, or retired.
pub(super) fn places(root: &Path, space: &SpaceId, run: &SegmentOpen) -> [PathBuf; 2] {
    let named = root.join(space.as_str()).join("wal").join(run.segment.to_string());
    let retired = root.join(".saltus/retired").join(space.as_str());
    [named, retired.join(format!("{:016x}", run.file))]
}

/// Whether a quarantine holds these bytes of a run, from `lsn` on, but for what
/// had flipped of its file.
pub(super) fn holds(
    kept: &[Kept],
    run: &SegmentOpen,
    lsn: u64,
    mut wanted: &[u8],
    rotten: Option<&Rotten>,
) -> bool {
    let mut at = lsn;
    while !wanted.is_empty() {
        let of_file =
            |kept: &&Kept| (kept.manifest.segment, kept.manifest.file) == (run.segment, run.file);
        let reach = |kept: &Kept| {
            let extents = kept.manifest.extents.iter();
            let extent = extents.filter_map(|extent| {
                let within = at.checked_sub(extent.lsn).filter(|within| *within < extent.bytes)?;
                let place = (extent.offset - kept.manifest.offset) + within;
                let found = kept.bytes.get(usize::try_from(place).unwrap()..)?;
                let most = usize::try_from(extent.bytes - within).unwrap().min(wanted.len());
                let offset = run.offset + at - run.start.0;
                agrees(found.get(..most)?, wanted, offset, rotten).then_some(most)
            });
            extent.max()
        };
        let Some(most) = kept.iter().filter(of_file).filter_map(reach).max() else { return false };
        at += most as u64;
        wanted = &wanted[most..];
    }
    true
}

/// Whether what lies from an offset of a file on is this, but for what had flipped of it.
fn agrees(found: &[u8], wanted: &[u8], offset: u64, rotten: Option<&Rotten>) -> bool {
    found.iter().zip(wanted).zip(offset..).all(|((found, wanted), at)| {
        let flipped = rotten.and_then(|rotten| rotten.get(&at));
        found == wanted || flipped.is_some_and(|bits| bits.contains(&(found ^ wanted)))
    })
}

/// What a file of a replica is.
pub(super) enum Written {
    Named(String),
    Retired(u64),
}

impl Written {
    /// Whether a run lies in that file.
    pub(super) fn is_of(&self, run: &SegmentOpen) -> bool {
        match self {
            Self::Named(name) => run.segment.to_string() == *name,
            Self::Retired(file) => run.file == *file,
        }
    }

    /// Whether it may be one of several files, by its name.
    pub(super) fn is_shared(&self, reign: &Reign) -> bool {
        let mut files = reign.runs.iter().filter(|run| self.is_of(run)).map(|run| run.file);
        let first = files.next();
        files.any(|file| Some(file) != first)
    }

    fn is_named(&self, manifest: &Manifest) -> bool {
        match self {
            Self::Named(name) => manifest.segment.to_string() == *name,
            Self::Retired(file) => manifest.file == *file,
        }
    }
}

/// The space that a file of a replica belongs to, by its path.
pub(super) fn parse(path: &Path) -> Option<(SpaceId, Written)> {
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    match parts.as_slice() {
        ["data", space, "wal", name] => {
            Some((space.parse().ok()?, Written::Named((*name).to_owned())))
        }
        ["data", ".saltus", "retired", space, file] => {
            Some((space.parse().ok()?, Written::Retired(u64::from_str_radix(file, 16).ok()?)))
        }
        _ => None,
    }
}
