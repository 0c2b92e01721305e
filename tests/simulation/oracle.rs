//! What must hold, checked at every step. The oracle knows what the databases
//! wrote and hears everything that nodes say; it knows nothing of how they
//! come to say it. Each check names the invariant that it asserts.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use saltus::ids::{Epoch, SpaceId, StreamId};
use saltus::lsn::{Chain, Lsn, Mark};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{Ack, Message, OpenSpace, SegmentOpen, Standing};
use saltus::wal::record::{self, Checksums, Header};

use super::database::Database;
use super::disk::Disk;

/// The stream of one space, as it was shipped.
#[derive(Debug, Default)]
pub struct Stream {
    pub stream: Option<StreamId>,
    pub bytes: Vec<u8>,
    /// Every record boundary.
    marks: BTreeMap<u64, Mark>,
    pub runs: Vec<SegmentOpen>,
    epoch: Option<Epoch>,
    /// That epoch, and where it began.
    began: Option<(Epoch, Lsn)>,
}

/// What one replica has said of one space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Acknowledged as flushed, ever.
    pub flushed: u64,
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
}

impl Stream {
    fn end(&self) -> Mark {
        self.marks.last_key_value().map_or(Mark::START, |(_, mark)| *mark)
    }

    /// The mark at a boundary.
    fn mark(&self, lsn: Lsn) -> Option<Mark> {
        if lsn == Lsn::ZERO { Some(Mark::START) } else { self.marks.get(&lsn.0).copied() }
    }

    /// Shipped bytes: known ones must be the same, new ones whole records.
    fn take(&mut self, start: Lsn, bytes: &[u8]) {
        let at = usize::try_from(start.0).unwrap();
        let known = self.bytes.len();
        assert!(at <= known, "Prefix: shipped from {start}, and nobody has {known} to {start}");
        let again = bytes.len().min(known - at);
        assert!(
            self.bytes[at..at + again] == bytes[..again],
            "Prefix: other bytes are shipped at {start} than before"
        );
        assert!(self.mark(start).is_some(), "Prefix: {start} is no record boundary");
        let mut rest = &bytes[again..];
        self.bytes.extend_from_slice(rest);
        while let Some(raw) = rest.first_chunk::<64>() {
            let header = Header::parse(raw, Checksums::Required).expect("Prefix: no record");
            let size = usize::try_from(header.record_bytes()).unwrap();
            let payload = rest.get(64..size).expect("Prefix: a partial record is shipped");
            header.check_payload(payload).expect("Verified: a damaged record is shipped");
            let mark = record::step(&self.end(), raw, &header);
            self.marks.insert(mark.lsn.0, mark);
            rest = &rest[size..];
        }
        assert!(rest.is_empty(), "Prefix: a partial record is shipped");
    }

    /// Where bytes of the stream lie in files: each piece with its run.
    fn pieces(&self, from: u64, to: u64) -> Vec<(SegmentOpen, u64, u64)> {
        let mut pieces = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let end = self.runs.get(index + 1).map_or(u64::MAX, |next| next.start.0);
            let (begin, end) = (from.max(run.start.0), to.min(end));
            if begin < end {
                pieces.push((*run, begin, end));
            }
        }
        pieces
    }

    fn slice(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
    }
}

impl Oracle {
    /// A node sends control frames.
    pub fn hears(
        &mut self,
        primary: bool,
        connection: usize,
        sender: usize,
        bytes: &[u8],
        disk: &Disk,
    ) {
        let mut rest = bytes;
        while let Some(raw) = rest.first_chunk::<64>() {
            let header = FrameHeader::decode(raw).expect("a node sends what is no frame");
            let end = 64 + usize::try_from(header.payload_bytes).unwrap();
            let message = Message::decode(&header, &rest[64..end]).expect("a frame that is none");
            rest = &rest[end..];
            match message {
                Some(Message::OpenSpace(open)) if primary => {
                    self.space_opened(connection, &header, &open);
                }
                Some(Message::SegmentOpen(run)) if primary => {
                    self.run_opened(connection, &header, run);
                }
                Some(Message::OpenAck(standing)) => {
                    self.standing(connection, sender, &header, &standing, disk);
                }
                Some(Message::Ack(ack)) => self.acked(connection, sender, &header, &ack, disk),
                _ => {}
            }
        }
    }

    fn space_of(&self, connection: usize, handle: Handle) -> (SpaceId, Epoch) {
        let session = self.sessions.get(&connection).expect("a session");
        session.spaces.get(&handle).expect("a frame of a space that is not open").clone()
    }

    fn space_opened(&mut self, connection: usize, header: &FrameHeader, open: &OpenSpace) {
        let session = self.sessions.entry(connection).or_default();
        session.spaces.insert(header.handle, (open.space.clone(), header.epoch));
        let stream = self.streams.entry(open.space.clone()).or_default();
        let known = *stream.stream.get_or_insert(open.stream);
        assert_eq!(known, open.stream, "{} has become another stream", open.space);
        if stream.epoch < Some(header.epoch) {
            stream.epoch = Some(header.epoch);
            stream.began = open.history.last().copied();
        }
    }

    fn run_opened(&mut self, connection: usize, header: &FrameHeader, run: SegmentOpen) {
        let (space, _) = self.space_of(connection, header.handle);
        let stream = self.streams.get_mut(&space).unwrap();
        if stream.epoch > Some(header.epoch) {
            // What a primary says whose reign is over is no part of the stream.
            return;
        }
        let ordinal = usize::try_from(run.ordinal).unwrap();
        let end = stream.bytes.len() as u64;
        match stream.runs.get(ordinal) {
            // A new reign may leave out runs in which nothing was shipped.
            Some(known) if *known != run && stream.began == Some((header.epoch, run.start)) => {
                assert_eq!(known.start.0, end, "Prefix: a run of {space} with bytes has changed");
                stream.runs.truncate(ordinal);
                stream.runs.push(run);
            }
            Some(known) => assert_eq!(*known, run, "Prefix: a run of {space} has changed"),
            None => {
                assert_eq!(stream.runs.len(), ordinal, "Prefix: {space} leaves out a run");
                stream.runs.push(run);
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
        let stream = self.streams.get_mut(&space).unwrap();
        if stream.epoch > Some(epoch) {
            return;
        }
        let known = stream.bytes.len() as u64;
        stream.take(header.start, bytes);
        // What is new must be what the database wrote at that place.
        let (from, to) = (known.max(header.start.0), stream.bytes.len() as u64);
        let database = databases.iter().find(|database| database.space == space).unwrap();
        for (run, begin, end) in stream.pieces(from, to) {
            let offset = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let shipped = stream.slice(begin, end);
            let is_it = database.files.iter().any(|file| {
                file.name == run.segment
                    && file.bytes[..file.whole].get(offset..offset + shipped.len()) == Some(shipped)
            });
            assert!(is_it, "Prefix: {space} ships at {begin} what its database did not write");
        }
    }

    /// A replica says where it stands when a space is opened.
    fn standing(
        &mut self,
        connection: usize,
        replica: usize,
        header: &FrameHeader,
        standing: &Standing,
        disk: &Disk,
    ) {
        let (space, _) = self.space_of(connection, header.handle);
        let said = self.said.entry((replica, space.clone())).or_default();
        assert!(
            standing.flushed.0 >= said.flushed,
            "Flushed means flushed: replica {replica} had acknowledged {} of {space}, and has {}",
            said.flushed,
            standing.flushed
        );
        assert!(
            said.highest_epoch <= Some(standing.highest_epoch),
            "Epochs: replica {replica} has forgotten epoch {:?} of {space}",
            said.highest_epoch
        );
        said.highest_epoch = Some(standing.highest_epoch);
        self.claims(replica, &space, standing.flushed, standing.chain, disk);
    }

    /// A replica acknowledges.
    fn acked(
        &mut self,
        connection: usize,
        replica: usize,
        header: &FrameHeader,
        ack: &Ack,
        disk: &Disk,
    ) {
        let (space, epoch) = self.space_of(connection, header.handle);
        assert_eq!(header.epoch, epoch, "Epochs: an ack of another epoch");
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        assert!(
            said.highest_epoch <= Some(epoch),
            "Epochs: replica {replica} obeys epoch {epoch} of {space}, and has seen {:?}",
            said.highest_epoch
        );
        assert!(ack.flushed <= ack.written && ack.written <= ack.received);
        self.claims(replica, &space, ack.flushed, ack.chain, disk);
    }

    /// A replica claims to have that much, whatever happens.
    fn claims(&mut self, replica: usize, space: &SpaceId, flushed: Lsn, chain: Chain, disk: &Disk) {
        let stream = &self.streams[space];
        let said = self.said.entry((replica, space.clone())).or_default();
        let mark = stream.mark(flushed);
        let mark = mark.expect("Prefix: a replica claims to stand where no record ends");
        assert_eq!(mark.chain, chain, "Equality: replica {replica}, {space}, {flushed}");
        for (run, begin, end) in stream.pieces(said.flushed, flushed.0) {
            let offset = run.offset + begin - run.start.0;
            let [named, retired] = places(&disk.data_root(), space, &run);
            let found = disk.durable(&named, offset, end - begin);
            let wanted = stream.slice(begin, end);
            let is_there = found.as_deref() == Ok(wanted)
                || disk.durable(&retired, offset, end - begin).as_deref() == Ok(wanted);
            assert!(
                is_there,
                "Flushed means flushed: replica {replica} claims {flushed} of {space}, and a crash \
                 could take {begin} to {end}: {}",
                found.err().unwrap_or_else(|| format!("other bytes in {named:?}"))
            );
        }
        said.flushed = said.flushed.max(flushed.0);
    }

    /// A node writes to a file that it receives.
    pub fn writes(&self, replica: usize, names: &[PathBuf], offset: u64, bytes: &[u8]) {
        let fits = |space: &SpaceId, segment: &dyn Fn(&SegmentOpen) -> bool| {
            let stream = &self.streams[space];
            stream.runs.iter().enumerate().any(|(index, run)| {
                let limit = stream.runs.get(index + 1).map_or(u64::MAX, |next| next.start.0);
                let Some(within) = offset.checked_sub(run.offset).filter(|_| segment(run)) else {
                    return false;
                };
                let begin = run.start.0 + within;
                let end = begin + bytes.len() as u64;
                end <= limit
                    && end <= stream.bytes.len() as u64
                    && stream.slice(begin, end) == bytes
            })
        };
        let known = names.iter().any(|name| match parse(name) {
            Some((space, Written::Named(name))) => {
                fits(&space, &|run| run.segment.to_string() == name)
            }
            Some((space, Written::Retired(file))) => fits(&space, &|run| run.file == file),
            None => false,
        });
        assert!(
            known,
            "Verified before durable: replica {replica} writes to {names:?} at {offset} {} bytes \
             that are not the primary's",
            bytes.len()
        );
    }

    /// What a replica has after it was started, before it does anything.
    pub fn recovered(
        &self,
        replica: usize,
        space: &SpaceId,
        flushed: u64,
        problem: Option<&str>,
        root: &Path,
    ) {
        let said = self.said.get(&(replica, space.clone())).copied().unwrap_or_default();
        assert!(problem.is_none(), "Corrupt is not absent: {space} of {replica}: {problem:?}");
        assert!(
            flushed >= said.flushed,
            "Flushed means flushed: replica {replica} had acknowledged {} of {space}, and a \
             restart leaves {flushed}",
            said.flushed
        );
        let Some(stream) = self.streams.get(space) else { return };
        let mut ends: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (run, begin, end) in stream.pieces(0, flushed) {
            let offset = usize::try_from(run.offset + begin - run.start.0).unwrap();
            let paths = places(root, space, &run);
            let bytes = stream.slice(begin, end);
            let path = paths.iter().find(|path| {
                let found = std::fs::read(path).unwrap_or_default();
                found.get(offset..offset + bytes.len()) == Some(bytes)
            });
            let Some(path) = path else {
                panic!("Prefix: replica {replica} has not {begin} to {end} of {space} in {paths:?}")
            };
            ends.insert(path.clone(), (offset + bytes.len()) as u64);
        }
        // No file exposes anything else.
        for entry in std::fs::read_dir(root.join(space.as_str()).join("wal")).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap().len();
            let end = ends.get(&entry.path()).copied().unwrap_or(0);
            assert!(
                found == end,
                "Prefix: {:?} of replica {replica} has {found} bytes, {end} are of the stream",
                entry.path()
            );
        }
    }

    /// Every record that the database wrote into a file that was ever pinned
    /// is in the stream, once, in the order of its file.
    pub fn is_complete(&self, database: &Database, seen: impl Fn(usize) -> bool) -> bool {
        let empty = Stream::default();
        let stream = self.streams.get(&database.space).unwrap_or(&empty);
        let mut shipped: HashMap<&[u8], usize> = HashMap::new();
        for record in records(&stream.bytes) {
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

/// Where a run's file can lie on a replica: under its name, or retired.
fn places(root: &Path, space: &SpaceId, run: &SegmentOpen) -> [PathBuf; 2] {
    let named = root.join(space.as_str()).join("wal").join(run.segment.to_string());
    let retired = root.join(".saltus/retired").join(space.as_str());
    [named, retired.join(format!("{:016x}", run.file))]
}

/// What a file of a replica is.
enum Written {
    Named(String),
    Retired(u64),
}

/// The space that a file of a replica belongs to, by its path.
fn parse(path: &Path) -> Option<(SpaceId, Written)> {
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
