//! What is kept for replicas, and how one is filled anew: the part of the
//! oracle that hears of slots, retired files and seeds.
//!
//! ```text
//!   pins go --> Reseed told --> the copy begins anew at its base
//!                                   |  the old copy lies aside
//!                                   v
//!             everything up to the head of then is durable --> the old one goes
//! ```
//!
//! A pin goes when every replica whose slot retains has made its file durable.
//! A replica is filled anew only if something behind its position is gone, and
//! only with what is all there. Its old copy stays until the new one is as far
//! as the primary was: so whatever a replica had acknowledged and the primary
//! still names is durable on it at every moment but in between.

use saltus::ids::SpaceId;
use saltus::lsn::Lsn;
use saltus::protocol::frame::FrameHeader;
use saltus::protocol::message::{Reseed, Retirement, SegmentOpen, SegmentRetire};
use saltus::state::catalog::SpaceRecord;
use saltus::state::slots::SlotState;

use super::copies::{holds, places};
use super::cuts::CutOff;
use super::database::Database;
use super::disk::Disk;
use super::invariant::Invariant::{Corrupt, Epochs, Equality, Loss};
use super::machine::name_of;
use super::oracle::{Oracle, Said, Sender, Session, records};
use super::source::Shipped;
use super::stream::Reign;
use super::world::World;

/// A seed that a replica was told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed {
    /// Where it begins.
    base: Lsn,
    /// The primary's head then.
    head: Lsn,
    /// Of which reign.
    reign: usize,
    /// The replica has begun it.
    begun: bool,
}

impl Oracle {
    /// A replica is told that a file has no name any more, or is gone.
    pub(super) fn retired(
        &mut self,
        connection: usize,
        header: &FrameHeader,
        retire: SegmentRetire,
        sender: &Sender<'_>,
    ) {
        let session = self.session(connection, header.handle);
        if self.stale {
            return;
        }
        let replica = session.replica.expect("a replica that has not answered");
        let reign = self.streams[&session.space].reign(self.reign_of(&session));
        let run = reign.runs.iter().find(|run| run.file == retire.file);
        let database = database_of(sender.databases, &session.space);
        if let Some(run) = run.filter(|run| is_named(database, reign, run)) {
            panic!("{Corrupt}: {} has a name, and {retire:?} is told", run.segment);
        }
        if retire.what == Retirement::Gone {
            self.gone.insert((replica, session.space, retire.file));
        }
    }

    /// A replica is told to begin anew.
    pub(super) fn reseeded(
        &mut self,
        connection: usize,
        header: &FrameHeader,
        reseed: &Reseed,
        sender: &Sender<'_>,
    ) {
        let session = self.session(connection, header.handle);
        if self.stale {
            return;
        }
        let replica = session.replica.expect("a replica that has not answered");
        let index = self.reign_of(&session);
        let Session { space, .. } = session;
        let database = database_of(sender.databases, &space);
        let stream = self.streams.get_mut(&space).unwrap();
        assert!(index == stream.last(), "{Epochs}: a replica is filled with a stream that is over");
        let base = reseed.base;
        // It was reserved before another one from farther on, and is told after it.
        let overtaken = stream.begins_in_gap(base);
        let known = stream.present();
        if base.lsn.0 <= known.end() && known.mark(base.lsn) != Some(base) {
            // The source has lost what was shipped, and holds something else: nobody
            // has told this process.
            stream.leaves(base.lsn, sender.process);
            self.branched(&space, sender.process);
        }
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let stream = self.streams.get_mut(&space).unwrap();
        let (index, kept) = (stream.last(), stream.kept);
        let common = stream.common(said.reign, index);
        let present = stream.present();
        let end = present.end();
        if base.lsn.0 <= end && !overtaken {
            let known = present.mark(base.lsn).filter(|_| !present.is_in_gap(base.lsn.0));
            assert!(
                known == Some(base),
                "{Equality}: {space} is filled from {base:?}, and what lies there is {known:?}"
            );
            let at = said.flushed.min(common);
            let mut pieces = present.pieces(at, base.lsn.0).into_iter();
            assert!(
                at < base.lsn.0
                    && (present.is_in_gap(at)
                        || pieces.any(|piece| !database.is_named(&Shipped::of(present, piece)))),
                "{Loss}: replica {replica} has {at} of {space} and is filled anew \
                 from {} on, and everything behind has its name",
                base.lsn
            );
            assert!(
                is_there(present, base.lsn.0, end.min(kept), database, sender.disk),
                "{Loss}: {space} is filled anew from {}, and not all of it is here",
                base.lsn
            );
        }
        stream.leaps(base, reseed.first_run, sender.process);
        let reign = stream.last();
        if reign != index {
            self.branched(&space, sender.process);
        }
        let seed = Seed { base: base.lsn, head: reseed.head, reign, begun: false };
        self.seeds.entry((replica, space)).or_default().push(seed);
    }

    /// A replica stands at a position: perhaps where a seed of which it was
    /// told begins.
    pub(super) fn stands(&mut self, replica: usize, space: &SpaceId, flushed: Lsn) {
        let key = (replica, space.clone());
        let Some(seeds) = self.seeds.get_mut(&key) else { return };
        let Some(at) = seeds.iter().rposition(|seed| !seed.begun && seed.base == flushed) else {
            return;
        };
        let said = self.said.entry(key).or_default();
        let shows_it = said.flushed != flushed.0 || said.flushed == said.base;
        if shows_it {
            seeds[at].begun = true;
            *said = Said {
                flushed: flushed.0,
                base: flushed.0,
                reign: seeds[at].reign,
                highest_epoch: said.highest_epoch,
                before_rot: 0,
            };
        }
    }

    /// A replica was told of a seed that it has not begun, as far as one knows.
    fn may_begin(&self, replica: usize, space: &SpaceId) -> bool {
        let seeds = self.seeds.get(&(replica, space.clone()));
        seeds.is_some_and(|seeds| seeds.iter().any(|seed| !seed.begun))
    }

    /// A replica is about to begin a seed, and what it has is an earlier one that
    /// never came to its end: what that was to replace still lies aside.
    pub(super) fn is_unfinished(&self, replica: usize, space: &SpaceId) -> bool {
        let key = (replica, space.clone());
        let begun = self.seeds.get(&key).and_then(|seeds| seeds.iter().rfind(|seed| seed.begun));
        let said = self.said.get(&key);
        let is_it = |seed: &Seed| {
            said.is_some_and(|said| said.base == seed.base.0 && said.flushed < seed.head.0)
        };
        begun.is_some_and(is_it) && self.may_begin(replica, space)
    }

    /// A received file is moved beside what a seed brings.
    pub(super) fn superseded(&self, replica: usize, space: &SpaceId, cut: &CutOff) {
        assert!(
            self.may_begin(replica, space),
            "{Loss}: replica {replica} gives up {:?}, and was not told to",
            cut.path
        );
    }

    /// An old copy is removed: the new one must be as far as the primary was
    /// when it began.
    pub(super) fn dropped(&self, replica: usize, space: &SpaceId, cut: &CutOff, disk: &Disk) {
        let seeds = self.seeds.get(&(replica, space.clone()));
        let directory = cut.path.parent().and_then(|path| path.file_name());
        let of = |seed: &Seed| directory == Some(format!("{:016x}", seed.base.0).as_ref());
        if seeds.is_some_and(|seeds| seeds.iter().any(of)) {
            // What an unfinished seed had brought: what it was to replace is here.
            return;
        }
        let begun = seeds.and_then(|seeds| seeds.iter().rfind(|seed| seed.begun));
        let Some(seed) = begun else {
            panic!("{Loss}: replica {replica} removes {:?}, and no seed", cut.path)
        };
        let stream = &self.streams[space];
        let said = &self.said[&(replica, space.clone())];
        let reign = stream.reign(said.reign);
        let to = seed.head.0.min(stream.common(seed.reign, said.reign)).min(reign.end());
        self.is_durable(replica, space, reign, (said.base, to), disk);
    }

    fn is_durable(
        &self,
        replica: usize,
        space: &SpaceId,
        reign: &Reign,
        (from, to): (u64, u64),
        disk: &Disk,
    ) {
        for (run, begin, end) in reign.pieces(from, to) {
            if self.is_gone(replica, space, run.file) {
                continue;
            }
            let offset = run.offset + begin - run.start.0;
            let found = places(&disk.data_root(), space, &run).into_iter().any(|path| {
                disk.durable(&path, offset, end - begin).as_deref() == Ok(reign.slice(begin, end))
            });
            assert!(
                found,
                "{Loss}: replica {replica} removes its old copy of {space}, and \
                 {begin} to {end} of the new one are not durable"
            );
        }
    }

    /// A replica was told that a file is gone.
    pub(super) fn is_gone(&self, replica: usize, space: &SpaceId, file: u64) -> bool {
        self.gone.contains(&(replica, space.clone(), file))
    }

    /// A file that is gone from its primary goes. What was appended after its
    /// name had gone stands nowhere else: it must be in the quarantine.
    pub(super) fn removed(&self, replica: usize, space: &SpaceId, file: u64, cut: &CutOff) {
        let stream = &self.streams[space];
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        let reign = stream.reign(said.reign);
        let first = reign.runs.iter().find(|run| run.file == file).map(|run| run.ordinal);
        let other = reign.runs.iter().find(|run| Some(run.ordinal) > first && run.file != file);
        for (run, begin, end) in reign.pieces(said.base, said.flushed) {
            let behind = other.is_some_and(|other| other.ordinal < run.ordinal);
            if run.file != file || !behind || run.offset < cut.offset {
                continue;
            }
            assert!(
                holds(
                    &cut.kept,
                    &run,
                    begin,
                    reign.slice(begin, end),
                    self.rotten(replica, space, file)
                ),
                "{Loss}: replica {replica} removes {begin} to {end} of {space}, \
                 which {} had got when its name was gone, and its quarantine does not hold them",
                run.segment
            );
        }
    }

    /// Up to where what a replica has said of a space is of the present stream.
    pub fn common(&self, replica: usize, space: &SpaceId) -> u64 {
        let said = self.said.get(&(replica, space.clone())).zip(self.streams.get(space));
        said.map_or(u64::MAX, |(said, stream)| stream.common(said.reign, stream.last()))
    }

    /// A primary lets go of a file.
    pub fn let_go(&self, database: &Database, inode: u64, record: &SpaceRecord) {
        let Some(log) = database.files.iter().find(|log| log.inode() == inode) else { return };
        let space = &database.space;
        assert!(
            database.writes_to() != Some(inode),
            "{Loss}: {} is let go of, and still written to",
            log.name
        );
        let Some(stream) = self.streams.get(space).filter(|_| !self.stale) else { return };
        let reign = stream.present();
        let pieces = reign.pieces(0, reign.end());
        let of_it = pieces.iter().filter_map(|(run, begin, end)| {
            if run.segment != log.name || reign.is_in_gap(*begin) {
                return None;
            }
            // A crash may have shortened it, or left zeroes, and nobody was shipped
            // anything since.
            let from = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let there = log.bytes.get(from..).unwrap_or_default();
            let shipped = reign.slice(*begin, *end);
            let mut held = 0;
            for record in records(shipped) {
                if !there[held..].starts_with(record) {
                    break;
                }
                held += record.len();
            }
            (held > 0).then_some(begin + held as u64)
        });
        let Some(end) = of_it.max() else { return };
        for ((replica, of), said) in self.said.iter().filter(|((_, of), _)| of == space) {
            let slot = record.slots.get(&name_of(*replica)).copied().unwrap_or_default();
            // What rot has taken of it, nobody knows before it says so.
            let has =
                said.flushed.max(said.before_rot).min(stream.common(said.reign, stream.last()));
            assert!(
                slot.state == SlotState::Lost || has.max(slot.base.0) >= end,
                "{Loss}: {} of {of} is let go of, and replica {replica}, whose slot \
                 holds it, has {has} of {end}: {slot:?}",
                log.name
            );
        }
    }
}

impl World {
    /// A replica cannot be filled anew either, because something behind the oldest
    /// file that has a name is gone as well; its primary says so, and that the
    /// database is to compact its log. Somebody has it do that, once.
    pub fn compact_as_asked(&mut self, replica: usize, space: &SpaceId, problem: &str) {
        let asks = problem.contains("It cannot be filled anew either: the log from ")
            && problem.contains("Once the database has compacted its log");
        if !asks || !self.compacted.insert(space.clone()) {
            return;
        }
        let at = self.databases.iter().position(|database| database.space == *space).unwrap();
        let (reign, database) = (self.oracle.streams[space].present(), &self.databases[at]);
        let named = |run: &&SegmentOpen| run.offset == 0 && is_named(database, reign, run);
        let oldest = reign.runs.iter().find(named);
        let disk = self.machines[0].disk.lock();
        let lacks = |run: &SegmentOpen| !is_there(reign, run.start.0, reign.end(), database, &disk);
        // What nobody was told of yet may be gone as well.
        let unheard = database.files.iter().any(|log| {
            let is_named = problem.contains(&format!("{} was retired", log.name));
            let never_had = database.never_had(&self.oracle.streams[space], log);
            is_named && never_had && disk.names_of(&log.file).is_empty()
        });
        let is_so = unheard || oldest.is_some_and(lacks);
        drop(disk);
        assert!(
            is_so,
            "Liveness: replica {replica} could be filled with all of {space} from {oldest:?} on, \
             and its primary says {problem}"
        );
        self.say(|| format!("somebody has {space} compacted: {problem}"));
        let noise = self.databases[at].be_compacted_as_asked(&mut self.machines[0].disk.lock());
        self.heard(noise);
    }
}

/// Whether the source holds a part of the stream.
fn is_there(reign: &Reign, from: u64, to: u64, database: &Database, disk: &Disk) -> bool {
    reign.pieces(from, to).into_iter().all(|piece| {
        let (_, begin, end) = piece;
        !reign.is_in_gap(begin) && database.holds(&Shipped::of(reign, piece), disk) == end - begin
    })
}

/// Whether the file of a run can only be one that has its name.
fn is_named(database: &Database, reign: &Reign, run: &SegmentOpen) -> bool {
    let mut pieces = reign.pieces(run.start.0, reign.end()).into_iter();
    let shipped = pieces.find(|(of, ..)| of.file == run.file);
    database.is_named(&Shipped::of(reign, shipped.unwrap_or((*run, run.start.0, run.start.0))))
}

fn database_of<'a>(databases: &'a [Database], space: &SpaceId) -> &'a Database {
    databases.iter().find(|database| database.space == *space).unwrap()
}
