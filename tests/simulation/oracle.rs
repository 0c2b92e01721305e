//! What must hold, checked at every step. The oracle knows what the databases
//! wrote and hears everything that nodes say; it knows nothing of how they
//! come to say it. Each check names the invariant that it asserts.

use std::collections::{BTreeMap, HashMap};

use saltus::ids::{Epoch, SpaceId};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Message, OpenSpace, SegmentOpen};

use super::database::Database;
use super::disk::Disk;
use super::stream::Stream;

/// What one replica has said of one space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Acknowledged as flushed, and not cut since.
    pub flushed: u64,
    /// The reign whose stream it holds.
    pub reign: usize,
    pub highest_epoch: Option<Epoch>,
}

/// What is open on one connection.
#[derive(Debug, Default)]
struct Session {
    spaces: HashMap<Handle, (SpaceId, Epoch)>,
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub streams: BTreeMap<SpaceId, Stream>,
    sessions: HashMap<usize, Session>,
    pub said: BTreeMap<(usize, SpaceId), Said>,
    /// The primary was set back to an earlier state of its catalog.
    pub stale: bool,
}

/// Who sends, and what there is to compare it with.
pub struct Sender<'a> {
    /// 0 is the primary.
    pub machine: usize,
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
                    self.run_opened(connection, &header, run);
                }
                Some(Message::OpenAck(standing)) => {
                    self.standing(connection, sender, &header, &standing);
                }
                Some(Message::Ack(ack)) => self.acked(connection, sender, &header, &ack),
                _ => {}
            }
        }
    }

    pub(super) fn space_of(&self, connection: usize, handle: Handle) -> (SpaceId, Epoch) {
        let session = self.sessions.get(&connection).expect("a session");
        session.spaces.get(&handle).expect("a frame of a space that is not open").clone()
    }

    fn space_opened(
        &mut self,
        connection: usize,
        header: &FrameHeader,
        open: &OpenSpace,
        sender: &Sender<'_>,
    ) {
        let space = &open.space;
        let session = self.sessions.entry(connection).or_default();
        session.spaces.insert(header.handle, (space.clone(), header.epoch));
        let first = open.history[0];
        let new = || Stream::new(open.stream, first);
        let stream = self.streams.entry(space.clone()).or_insert_with(new);
        assert_eq!(stream.id, open.stream, "{space} has become another stream");
        if self.is_over(space, header.epoch) {
            return;
        }
        let database = sender.databases.iter().find(|database| database.space == *space).unwrap();
        self.look_at_source(database, sender.disk);
        let stream = self.streams.get_mut(space).unwrap();
        let known = stream.history();
        assert_eq!(open.history[..known.len()], known, "Epochs: {space} has another history");
        let before = stream.last();
        let (end, kept) = (stream.present().end(), stream.kept);
        for (epoch, start) in &open.history[known.len()..] {
            stream.begin(*epoch, *start);
        }
        let cut = stream.common(before, stream.last());
        if cut >= end {
            return;
        }
        // Records that were shipped are given up for one reason alone.
        assert!(
            kept < end,
            "Epochs: {space} is cut from {end} to {cut}, and its source has all of it"
        );
        let held = stream.reign(before).pieces(kept, end);
        let (run, ..) = held.first().expect("a run holds every byte");
        assert!(
            cut >= run.start.0,
            "Epochs: {space} is cut from {end} to {cut}, and its source has it up to {kept}, in the \
             run that begins at {}",
            run.start
        );
    }

    /// True of a reign that is over; only a primary that was set back to an
    /// earlier state may take it for the present one.
    fn is_over(&self, space: &SpaceId, epoch: Epoch) -> bool {
        let present = self.streams[space].present().epoch;
        assert!(
            epoch >= present || self.stale,
            "Epochs: {space} is shipped in epoch {epoch}, and epoch {present} has begun"
        );
        self.stale
    }

    /// How much of the present reign the source still holds.
    pub fn look_at_source(&mut self, database: &Database, disk: &Disk) {
        let Some(stream) = self.streams.get_mut(&database.space) else { return };
        let reign = stream.present();
        let end = reign.end();
        let mut kept = end;
        for (run, from, to) in reign.pieces(0, end) {
            let offset = run.offset + from - run.start.0;
            let held = database.holds(run.segment, offset, reign.slice(from, to), disk);
            if held < to - from {
                kept = from + held;
                break;
            }
        }
        // What has come back is no longer the stream's.
        if kept < end {
            stream.kept = stream.kept.min(kept);
        }
    }

    fn run_opened(&mut self, connection: usize, header: &FrameHeader, run: SegmentOpen) {
        let (space, epoch) = self.space_of(connection, header.handle);
        if self.is_over(&space, epoch) {
            return;
        }
        let reign = self.streams.get_mut(&space).unwrap().present_mut();
        let ordinal = usize::try_from(run.ordinal).unwrap();
        match reign.runs.get(ordinal) {
            Some(known) => assert_eq!(*known, run, "Prefix: a run of {space} has changed"),
            None => {
                assert_eq!(reign.runs.len(), ordinal, "Prefix: {space} leaves out a run");
                reign.runs.push(run);
            }
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
        let (space, epoch) = self.space_of(connection, header.handle);
        assert_eq!(header.epoch, epoch, "Epochs: data of another epoch than its space's");
        if self.is_over(&space, epoch) {
            return;
        }
        let reign = self.streams.get_mut(&space).unwrap().present_mut();
        let known = reign.end();
        reign.take(header.start, bytes);
        // What is new must be what the database wrote at that place.
        let (from, to) = (known.max(header.start.0), reign.end());
        let database = databases.iter().find(|database| database.space == space).unwrap();
        for (run, begin, end) in reign.pieces(from, to) {
            let offset = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let shipped = reign.slice(begin, end);
            let is_it = database.files.iter().any(|file| {
                file.name == run.segment
                    && file.bytes[..file.whole].get(offset..offset + shipped.len()) == Some(shipped)
            });
            assert!(is_it, "Prefix: {space} ships at {begin} what its database did not write");
        }
    }

    /// Every record that the database wrote into a file that was ever pinned
    /// is in the stream, once, in the order of its file.
    pub fn is_complete(&self, database: &Database, seen: impl Fn(usize) -> bool) -> bool {
        let stream = self.streams.get(&database.space);
        let bytes = stream.map_or(&[][..], |stream| stream.present().bytes.as_slice());
        let mut shipped: HashMap<&[u8], usize> = HashMap::new();
        for record in records(bytes) {
            *shipped.entry(record).or_default() += 1;
        }
        for (index, file) in database.files.iter().enumerate() {
            for record in records(&file.bytes[..file.whole]) {
                match shipped.get(record) {
                    Some(1) => {}
                    Some(times) => {
                        panic!("Nothing twice: a record of {} is shipped {times} times", file.name)
                    }
                    None if !seen(index) => {}
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
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..64) {
        let payload = u32::from_le_bytes(header[24..28].try_into().unwrap());
        let (record, rest) = bytes.split_at(64 + usize::try_from(payload).unwrap());
        found.push(record);
        bytes = rest;
    }
    found
}
