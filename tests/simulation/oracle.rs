//! What must hold, checked at every step. The oracle knows what the databases
//! wrote and hears everything that nodes say; it knows nothing of how they
//! come to say it. What a check says begins with the invariant that it asserts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use saltus::ids::{Epoch, SpaceId, StreamId};
use saltus::lsn::Lsn;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Message, OpenSpace, SegmentOpen};
use saltus::wal::record::{self, Checksums, Header};

use super::chance::Chance;
use super::database::{Database, Habits};
use super::disk::Disk;
use super::invariant::Invariant::{Corrupt, Epochs, Prefix};
use super::rotten::Rotten;
use super::seeding::Seed;
use super::source::Shipped;
use super::stream::Stream;

/// What one replica has said of one space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Acknowledged as flushed, and not cut since.
    pub flushed: u64,
    /// The reign whose stream it holds.
    pub reign: usize,
    pub highest_epoch: Option<Epoch>,
    /// Where its copy begins.
    pub base: u64,
    /// What it had acknowledged when rot took the end of it.
    pub before_rot: u64,
}

/// A space that is open on a connection.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) space: SpaceId,
    pub(super) epoch: Epoch,
    /// The process of the primary that has opened it, and the last reign then.
    process: u64,
    pub(super) reign: usize,
    /// Who has answered.
    pub(super) replica: Option<usize>,
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub streams: BTreeMap<SpaceId, Stream>,
    sessions: HashMap<(usize, Handle), Session>,
    pub said: BTreeMap<(usize, SpaceId), Said>,
    /// The seeds that each replica was told of.
    pub(super) seeds: BTreeMap<(usize, SpaceId), Vec<Seed>>,
    /// Files that each replica was told to let go of.
    pub(super) gone: BTreeSet<(usize, SpaceId, u64)>,
    /// What has flipped at rest, ever, by replica and file.
    pub(super) rotten: BTreeMap<(usize, SpaceId, u64), Rotten>,
    /// The primary was set back to an earlier state of its catalog.
    pub stale: bool,
}

/// Who sends, and what there is to compare it with.
pub struct Sender<'a> {
    /// 0 is the primary.
    pub machine: usize,
    /// How often it was started.
    pub process: u64,
    pub disk: &'a Disk,
    pub databases: &'a [Database],
}

impl Oracle {
    /// A node sends control frames.
    pub fn hears(&mut self, connection: usize, sender: &Sender<'_>, bytes: &[u8]) {
        let primary = sender.machine == 0;
        let mut rest = bytes;
        while let Some(raw) = rest.first_chunk::<64>() {
            let header = FrameHeader::decode(raw).expect("a node sends what is no frame");
            let end = 64 + usize::try_from(header.payload_bytes).unwrap();
            let message = Message::decode(&header, &rest[64..end]).expect("a frame that is none");
            rest = &rest[end..];
            match message {
                Some(Message::OpenSpace(open)) if primary => {
                    self.space_opened(connection, &header, &open, sender);
                }
                Some(Message::SegmentOpen(run)) if primary => {
                    self.run_opened(connection, &header, run, sender);
                }
                Some(Message::SegmentRetire(retire)) if primary => {
                    self.retired(connection, &header, retire, sender);
                }
                Some(Message::Reseed(reseed)) if primary => {
                    self.reseeded(connection, &header, &reseed, sender);
                }
                Some(Message::OpenAck(standing)) => {
                    self.standing(connection, sender, &header, &standing);
                }
                Some(Message::Ack(ack)) => self.acked(connection, sender, &header, &ack),
                _ => {}
            }
        }
    }

    pub(super) fn session(&self, connection: usize, handle: Handle) -> Session {
        self.sessions
            .get(&(connection, handle))
            .expect("a frame of a space that is not open")
            .clone()
    }

    /// A process has left what was shipped before for a branch: whoever listens
    /// to it gets that.
    pub(super) fn branched(&mut self, space: &SpaceId, process: u64) {
        let stream = &self.streams[space];
        for session in self.sessions.values() {
            if session.process == process
                && session.space == *space
                && let Some(replica) = session.replica
                && let Some(said) = self.said.get_mut(&(replica, space.clone()))
                && said.flushed <= stream.common(said.reign, stream.last())
            {
                said.reign = said.reign.max(stream.shipped_by(process, session.reign));
            }
        }
    }

    /// It is this replica that has answered.
    pub(super) fn answered(&mut self, connection: usize, handle: Handle, replica: usize) {
        if let Some(session) = self.sessions.get_mut(&(connection, handle)) {
            session.replica = Some(replica);
        }
    }

    /// What is shipped in a session.
    pub(super) fn reign_of(&self, session: &Session) -> usize {
        self.streams[&session.space].shipped_by(session.process, session.reign)
    }

    fn space_opened(
        &mut self,
        connection: usize,
        header: &FrameHeader,
        open: &OpenSpace,
        sender: &Sender<'_>,
    ) {
        let space = &open.space;
        let first = open.history[0];
        let new = || Stream::new(open.stream, first);
        let stream = self.streams.entry(space.clone()).or_insert_with(new);
        assert!(stream.id == open.stream, "{Prefix}: {space} has become another stream");
        if !self.is_over(space, header.epoch) {
            self.epochs_told(open, sender);
        }
        let (space, epoch, process) = (space.clone(), header.epoch, sender.process);
        let reign = self.streams[&space].under(epoch);
        let session = Session { space, epoch, process, reign, replica: None };
        self.sessions.insert((connection, header.handle), session);
    }

    /// The epochs of a primary: known ones, and perhaps new ones.
    fn epochs_told(&mut self, open: &OpenSpace, sender: &Sender<'_>) {
        let space = &open.space;
        let database = sender.databases.iter().find(|database| database.space == *space).unwrap();
        self.look_at_source(database, sender.disk);
        let stream = self.streams.get_mut(space).unwrap();
        let present = stream.present().epoch;
        let new = open.history.partition_point(|(epoch, _)| *epoch <= present);
        let (known, new) = open.history.split_at(new);
        let cut = new.iter().map(|(_, start)| *start).min().unwrap_or(Lsn(u64::MAX));
        let history = stream.history(cut);
        assert!(
            known == history,
            "{Epochs}: {space} has the history {known:?}, and had {history:?}"
        );
        let before = stream.last();
        let end = stream.present().end();
        new.iter().for_each(|(_, start)| stream.lost_in_gap(*start));
        let mut kept = stream.kept;
        if kept == u64::MAX && stream.losses < database.losses {
            // What it has lost may have been walked, and not shipped.
            kept = end.saturating_sub(1);
        }
        for (epoch, start) in new {
            stream.begin(*epoch, *start, sender.process);
            stream.losses = database.losses;
        }
        let cut = stream.common(before, stream.last());
        if cut >= end {
            return;
        }
        // Records that were shipped are given up for one of two reasons: the
        // source has lost them, or a replica holds what it had lost before.
        let reign = stream.reign(before);
        // A branch may have ended just where the loss begins.
        let lost = reign.lost_from(kept).min(end.saturating_sub(1));
        let lost = Some(lost).filter(|_| kept != u64::MAX).map(|from| reign.pieces(from, end));
        let run = lost.and_then(|lost| lost.first().map(|(run, ..)| run.start.0));
        let stream = &self.streams[space];
        let disputes = self.said.iter().filter(|((_, of), _)| of == space);
        let disputed = disputes.filter_map(|(_, said)| {
            let common = stream.common(said.reign, before);
            let explained = stream.ended(said.reign, before) <= common;
            (said.flushed > common && !explained).then_some(common)
        });
        // Or it is about to leave out a record that nobody has.
        let rotten = Some(cut).filter(|_| self.may_be_left_out(database, before, cut));
        let least = disputed.chain(run).chain(rotten).min();
        assert!(
            least.is_some_and(|least| cut >= least),
            "{Corrupt}: {space} is cut from {end} to {cut}; its source has it up to {kept}, and nobody \
             has lost anything before {least:?}"
        );
    }

    /// Whether a record that was shipped in a reign was damaged at its source, and
    /// no replica has acknowledged it.
    fn may_be_left_out(&self, database: &Database, reign: usize, at: u64) -> bool {
        let space = &database.space;
        let nobody_has = self.said.iter().all(|((_, of), said)| of != space || said.flushed <= at);
        let pieces = self.streams[space].reign(reign).pieces(at, at + 1);
        nobody_has
            && pieces.first().is_some_and(|(run, ..)| {
                let offset = run.offset + at - run.start.0;
                database.was_damaged(run.segment, &(offset..offset + 1))
            })
    }

    /// True of a reign that is over; only a primary that was set back to an
    /// earlier state may take it for the present one.
    pub(super) fn is_over(&self, space: &SpaceId, epoch: Epoch) -> bool {
        let present = self.streams[space].present().epoch;
        assert!(
            epoch >= present || self.stale,
            "{Epochs}: {space} is shipped in epoch {epoch}, and epoch {present} has begun"
        );
        self.stale
    }

    /// How much of the present reign the source still holds.
    pub fn look_at_source(&mut self, database: &Database, disk: &Disk) {
        let Some(stream) = self.streams.get_mut(&database.space) else { return };
        let reign = stream.present();
        let end = reign.end();
        type Look = fn(&Database, &Shipped<'_>, &Disk) -> u64;
        type IsOver = fn(&Database, &Shipped<'_>, &Disk) -> bool;
        let up_to = |held: Look, is_over: IsOver| {
            let pieces = reign.pieces(0, end).into_iter();
            let mut needed = pieces.filter(|(_, from, _)| !reign.is_in_gap(*from));
            needed.find_map(|piece| {
                let ((_, from, to), shipped) = (piece, Shipped::of(reign, piece));
                let held = held(database, &shipped, disk);
                (held < to - from && !is_over(database, &shipped, disk)).then_some(from + held)
            })
        };
        // Of what is released nobody needs anything any more.
        let kept = up_to(Database::holds, Database::has_released);
        let held = up_to(Database::shows, Database::is_passed);
        // What has come back is no longer the stream's.
        stream.kept = stream.kept.min(kept.unwrap_or(u64::MAX));
        stream.held = held.unwrap_or(u64::MAX);
    }

    /// Whether the source holds everything that was shipped in the present reign.
    pub fn is_whole_at_source(&mut self, database: &Database, disk: &Disk) -> bool {
        self.look_at_source(database, disk);
        self.streams.get(&database.space).is_some_and(|stream| stream.kept == u64::MAX)
    }

    fn run_opened(
        &mut self,
        connection: usize,
        header: &FrameHeader,
        run: SegmentOpen,
        sender: &Sender<'_>,
    ) {
        let Session { space, epoch, process, .. } = self.session(connection, header.handle);
        if !self.is_over(&space, epoch) {
            let database = sender.databases.iter().find(|database| database.space == space);
            let (last, start) = (self.streams[&space].last(), run.start.0);
            let left_out = self.may_be_left_out(database.unwrap(), last, start);
            let stream = self.streams.get_mut(&space).unwrap();
            if left_out && start < stream.present().end() {
                // What an earlier process had shipped, and no replica has taken.
                stream.kept = stream.kept.min(start);
            }
            stream.opens(run, process);
            self.branched(&space, process);
        }
    }

    /// A primary ships records.
    pub fn ships(
        &mut self,
        connection: usize,
        header: &[u8; 64],
        bytes: &[u8],
        databases: &[Database],
    ) {
        let header = FrameHeader::decode(header).expect("a node sends what is no frame");
        assert_eq!(header.kind, Kind::Data);
        let Session { space, epoch, process, .. } = self.session(connection, header.handle);
        assert!(header.epoch == epoch, "{Epochs}: data of epoch {}, not {epoch}", header.epoch);
        if self.is_over(&space, epoch) {
            return;
        }
        let stream = self.streams.get_mut(&space).unwrap();
        let new = stream.takes(header.start, bytes, process);
        self.branched(&space, process);
        let stream = &self.streams[&space];
        // What is new must be what the database wrote at that place.
        let reign = stream.present();
        let database = databases.iter().find(|database| database.space == space).unwrap();
        for (run, begin, end) in reign.pieces(new.start, new.end) {
            let offset = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let shipped = reign.slice(begin, end);
            let is_it = database.files.iter().any(|file| {
                file.name == run.segment
                    && file.bytes.get(offset..offset + shipped.len()) == Some(shipped)
            });
            assert!(is_it, "{Prefix}: {space} ships at {begin} what its database did not write");
        }
    }

    /// Every record that the database wrote into a file that was ever pinned
    /// is in the stream, once, in the order of its file; but for what was let go
    /// of when no slot held it.
    pub fn is_complete(&self, database: &Database, seen: impl Fn(usize, u64) -> bool) -> bool {
        let stream = self.streams.get(&database.space);
        let mut shipped: HashMap<&[u8], usize> = HashMap::new();
        let mut left_out = 0;
        if let Some(reign) = stream.map(Stream::present) {
            left_out = reign.gap_bytes();
            let mut gaps: Vec<_> = reign.gaps.iter().collect();
            gaps.sort_by_key(|gap| gap.start);
            let mut at = 0;
            for (from, to) in
                gaps.into_iter().map(|gap| (gap.start, gap.end)).chain([(reign.end(), 0)])
            {
                for record in records(reign.slice(at, from)) {
                    *shipped.entry(record).or_default() += 1;
                }
                at = to;
            }
        }
        for (index, file) in database.files.iter().enumerate() {
            let mut at = 0;
            for record in records(&file.bytes[..file.whole]) {
                let offset = at;
                at += record.len() as u64;
                match shipped.get(record) {
                    Some(1) => {}
                    Some(times) => {
                        panic!("{Prefix}: a record of {} is shipped {times} times", file.name)
                    }
                    None if !seen(index, offset) => {}
                    None if file.unlinked && left_out >= record.len() as u64 => {
                        left_out -= record.len() as u64;
                    }
                    None => {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// The records of a log.
pub fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..64) {
        let payload = u32::from_le_bytes(header[24..28].try_into().unwrap());
        let (record, rest) = bytes.split_at(64 + usize::try_from(payload).unwrap());
        found.push(record);
        bytes = rest;
    }
    found
}

/// A log of two files, shipped to its end. Nothing kept the first one when its name was
/// taken away, and it is gone with a crash. The next process fills a replica anew from
/// behind all that was shipped, and then ships what lies before to one that has both.
#[test]
fn a_stream_goes_on_behind_a_file_that_has_gone_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = Disk::new(directory.path(), Chance::new(1));
    let space = "space-0".parse::<SpaceId>().unwrap();
    let habits = Habits {
        most_bytes: 10_000,
        segment_bytes: 1_000,
        most_files: 8,
        restarts: false,
        compacts: false,
        dribbles: false,
        clock_steps: false,
        syncs: false,
        goes_on: false,
        takes_names: false,
    };
    let mut database = Database::new(space.clone(), disk.data_root(), habits, Chance::new(1));
    disk.make_directory(&disk.data_root().join("space-0")).unwrap();
    disk.make_directory(&database.directory()).unwrap();
    database.be_compacted_as_asked(&mut disk);
    database.be_compacted_as_asked(&mut disk);
    let mut full = database.files.iter().filter(|log| !log.bytes.is_empty());
    let [gone, there] = [full.next().unwrap(), full.next().unwrap()];
    assert!(disk.names_of(&gone.file).is_empty() && !there.unlinked);

    let mut stream = Stream::new(StreamId(7), (Epoch(1), Lsn::ZERO));
    let mut end = Lsn::ZERO;
    for (ordinal, log) in (0..).zip([gone, there]) {
        let file = u64::from(ordinal) + 1;
        stream.opens(SegmentOpen { ordinal, start: end, segment: log.name, file, offset: 0 }, 1);
        stream.takes(end, &log.bytes, 1);
        end = end.advance(log.bytes.len() as u64);
    }
    let next = records(&there.bytes)[0];
    let header = Header::parse(next.first_chunk().unwrap(), Checksums::Required).unwrap();
    let known = stream.present().mark(end).unwrap();
    let base = record::step(&known, next.first_chunk().unwrap(), &header);

    let mut oracle = Oracle { streams: [(space.clone(), stream)].into(), ..Oracle::default() };
    oracle.look_at_source(&database, &disk);
    let stream = oracle.streams.get_mut(&space).unwrap();
    assert_eq!((stream.kept, stream.held), (0, u64::MAX));
    stream.leaps(base, 2, 2);
    assert_eq!(stream.takes(end, next, 2), end.0..base.lsn.0);
    assert_eq!(stream.present().slice(0, gone.bytes.len() as u64), gone.bytes);
}
