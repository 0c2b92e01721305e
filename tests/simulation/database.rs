//! The database that writes the logs of one space, as the real one does:
//! segments named by the second, several per restart, some of them empty;
//! sequences that begin anew; headers that are visible before their payloads;
//! a compaction at the start, after which it goes on with the file that it
//! has unlinked. And as some scripts do it: a file that takes over the name of
//! another one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use saltus::ids::{SegmentName, SpaceId};
use saltus::wal::record::{Checksums, Header};

use super::backend::Happened;
use super::chance::Chance;
use super::disk::Disk;
use super::oracle::records;

/// Bytes of one database that are rotten at a time.
const MOST_ROTS: usize = 3;

/// One log file, and what was written to it.
#[derive(Debug)]
pub struct LogFile {
    pub name: SegmentName,
    pub file: File,
    /// Everything that was written.
    pub bytes: Vec<u8>,
    /// The same before each crash that took something of it.
    pub before: Vec<Vec<u8>>,
    /// Up to here it is whole records.
    pub whole: usize,
    /// Its name is gone.
    pub unlinked: bool,
    /// The primary has let go of it.
    pub released: bool,
    /// A crash has left something behind the whole records.
    torn: bool,
}

impl LogFile {
    fn new(name: SegmentName, file: File, bytes: Vec<u8>) -> Self {
        let whole = bytes.len();
        let (unlinked, released, torn) = (false, false, false);
        Self { name, file, bytes, before: Vec::new(), whole, unlinked, released, torn }
    }

    pub fn inode(&self) -> u64 {
        self.file.metadata().unwrap().ino()
    }

    /// A database that starts can go on in it.
    fn is_usable(&self) -> bool {
        !self.unlinked && !self.torn
    }
}

/// A byte that has changed at rest.
#[derive(Clone, Copy, Debug)]
struct Rot {
    file: usize,
    offset: usize,
}

/// A change in the directory that somebody may watch.
#[derive(Debug)]
pub struct Noise {
    pub directory: PathBuf,
    pub name: OsString,
    pub what: Happened,
}

/// What a space of a seed is like.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Bytes after which it writes no more.
    pub most_bytes: usize,
    /// Bytes after which a segment is left.
    pub segment_bytes: usize,
    /// Files after which it begins no more.
    pub most_files: usize,
    pub restarts: bool,
    pub compacts: bool,
    /// Records may come in pieces.
    pub dribbles: bool,
    /// The clock on the wall goes back now and then.
    pub clock_steps: bool,
    /// What it writes is durable before anybody sees it. Else a crash of the
    /// host takes what it takes.
    pub syncs: bool,
    /// After such a crash it goes on in the segment that it was writing, or in one
    /// that it had left for another.
    pub goes_on: bool,
    /// A new file may take over the name of another one.
    pub takes_names: bool,
}

/// The writer of one space.
#[derive(Debug)]
pub struct Database {
    pub space: SpaceId,
    root: PathBuf,
    habits: Habits,
    chance: Chance,
    pub files: Vec<LogFile>,
    /// The file that is written to.
    pub(super) current: Option<usize>,
    sequence: u64,
    next_id: u64,
    /// Records that are not all written.
    rest: Vec<u8>,
    written: usize,
    /// The next name, in seconds.
    second: u64,
    /// It was restarted and has not compacted yet.
    fresh: bool,
    rots: Vec<Rot>,
    /// Every byte that has changed at rest, ever, by file and offset.
    pub(super) flipped: Vec<(usize, usize)>,
    /// What was ever damaged, by file and offsets.
    pub(super) damaged: Vec<(SegmentName, Range<u64>)>,
    /// How often a crash has taken something of what it had written.
    pub losses: u64,
}

impl Database {
    pub fn new(space: SpaceId, root: PathBuf, habits: Habits, chance: Chance) -> Self {
        Self {
            space,
            root,
            habits,
            chance,
            files: Vec::new(),
            current: None,
            sequence: 0,
            next_id: 0,
            rest: Vec::new(),
            written: 0,
            second: 1_790_000_000,
            fresh: false,
            rots: Vec::new(),
            flipped: Vec::new(),
            damaged: Vec::new(),
            losses: 0,
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.root.join(self.space.as_str()).join("wal")
    }

    pub fn is_full(&self) -> bool {
        self.written >= self.habits.most_bytes
    }

    /// Do something.
    pub fn step(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        disk.unhindered(|disk| self.act(disk, &mut noise));
        noise
    }

    fn act(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        if self.current.is_none() && !self.make_place(disk, noise) {
            return;
        }
        let Some(current) = self.current else { return self.begin_segment(disk, noise) };
        if !self.rest.is_empty() {
            return self.write_rest(current, disk, noise);
        }
        let room = self.files.len() < self.habits.most_files;
        let restarts = self.habits.restarts && room && self.chance.one_in(25);
        let compacts = self.habits.compacts && std::mem::take(&mut self.fresh);
        let takes = self.habits.takes_names && room && self.chance.one_in(12);
        if room && self.files[current].bytes.len() >= self.habits.segment_bytes {
            self.begin_segment(disk, noise);
        } else if restarts {
            self.restart(disk, noise);
        } else if compacts && self.chance.percent(50) {
            self.compact(0, disk, noise);
        } else if takes {
            self.take_name(disk, noise);
        } else if !self.is_full() {
            self.append(disk, noise);
        }
    }

    /// The directories of a new space. True once both are there.
    fn make_place(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) -> bool {
        let outer = self.root.join(self.space.as_str());
        for (directory, name) in [
            (self.root.clone(), OsString::from(self.space.as_str())),
            (outer, OsString::from("wal")),
        ] {
            if !directory.join(&name).exists() {
                disk.make_directory(&directory.join(&name)).unwrap();
                self.sync_now_and_then(disk);
                noise.push(Noise { directory, name, what: Happened::Appeared });
                return false;
            }
        }
        true
    }

    fn tell(&self, name: String, what: Happened, noise: &mut Vec<Noise>) {
        noise.push(Noise { directory: self.directory(), name: name.into(), what });
    }

    fn create(&mut self, name: &str, disk: &mut Disk, noise: &mut Vec<Noise>) -> File {
        let path = self.directory().join(name);
        let file =
            disk.open(OpenOptions::new().read(true).write(true).create_new(true), &path).unwrap();
        self.tell(name.to_owned(), Happened::Appeared, noise);
        file
    }

    /// A name that no segment has had.
    fn next_name(&mut self) -> SegmentName {
        self.second += self.chance.within(1, 30);
        let mut second = self.second;
        if self.habits.clock_steps && self.chance.one_in(5) {
            second -= self.chance.below(3600);
        }
        while self.files.iter().any(|file| file.name == SegmentName(second)) {
            second += 1;
        }
        SegmentName(second)
    }

    fn begin_segment(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let name = self.next_name();
        let file = self.create(&name.to_string(), disk, noise);
        self.current = Some(self.files.len());
        self.files.push(LogFile::new(name, file, Vec::new()));
        self.sync_now_and_then(disk);
    }

    /// One that does not sync before it is seen does so later.
    fn sync_now_and_then(&mut self, disk: &mut Disk) {
        if !self.habits.syncs && self.chance.one_in(4) {
            self.sync_all(disk);
        }
    }

    /// Somebody restarts it.
    pub fn be_restarted(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        disk.unhindered(|disk| self.restart(disk, &mut noise));
        noise
    }

    /// The process ends and begins anew, perhaps in the middle of a record.
    fn restart(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        if self.current.is_none() || self.files.len() >= 2 * self.habits.most_files {
            return;
        }
        self.rest.clear();
        self.sequence = 0;
        self.fresh = true;
        for _ in 0..self.chance.within(1, 3) {
            self.begin_segment(disk, noise);
        }
    }

    fn append(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let Some(current) = self.current else { return };
        for _ in 0..self.chance.within(1, 4) {
            let record = self.record();
            self.rest.extend(record);
        }
        if self.habits.dribbles && self.chance.percent(30) {
            return;
        }
        while !self.rest.is_empty() {
            self.write_all(current, self.rest.len(), disk, noise);
        }
    }

    fn record(&mut self) -> Vec<u8> {
        let usual = self.chance.within(0, 300);
        let bytes = if self.chance.one_in(30) { self.chance.within(4_000, 9_000) } else { usual };
        let mut payload = Vec::with_capacity(usize::try_from(bytes).unwrap() + 16);
        self.next_id += 1;
        payload.extend(self.next_id.to_le_bytes());
        if self.chance.one_in(10) {
            // What looks like a record within one.
            payload.extend(Header::new(7, 7, 1, b"").unwrap().encode());
        }
        while payload.len() < usize::try_from(bytes).unwrap() {
            payload.extend(self.chance.next().to_le_bytes());
        }
        let jump = if self.chance.one_in(20) { self.chance.below(3) } else { 1 };
        self.sequence += jump;
        let kind = u32::try_from(self.chance.within(1, 7)).unwrap();
        let header = Header::new(self.sequence, self.second * 1_000_000_000, kind, &payload);
        [header.unwrap().encode().as_slice(), &payload].concat()
    }

    fn write_rest(&mut self, current: usize, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let most = self.rest.len() as u64;
        let part = if self.chance.one_in(3) { most } else { self.chance.within(1, most) };
        self.write_all(current, usize::try_from(part).unwrap(), disk, noise);
    }

    fn write_all(&mut self, current: usize, most: usize, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let part: Vec<u8> = self.rest.drain(..most.min(self.rest.len())).collect();
        let log = &mut self.files[current];
        disk.write(&log.file, &part, log.bytes.len() as u64).unwrap();
        log.bytes.extend(&part);
        log.whole = whole_bytes(&log.bytes, log.whole);
        self.written += part.len();
        let name = log.name.to_string();
        self.tell(name, Happened::Modified, noise);
        self.sync_now_and_then(disk);
    }

    /// Write everything that is kept, of so many records at least, into one new
    /// file, take the names of all others away, and go on with the file that was
    /// current.
    fn compact(&mut self, least: u64, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let (name, before) = (self.next_name(), self.files.len());
        self.write_as(name, least, disk, noise);
        let directory = self.directory();
        for old in self.files[..before].iter_mut().filter(|old| !old.unlinked) {
            disk.remove(&directory.join(old.name.to_string())).unwrap();
            old.unlinked = true;
            let name = old.name.to_string().into();
            noise.push(Noise { directory: directory.clone(), name, what: Happened::Vanished });
        }
    }

    /// Have a new file take over the name of another one, that which is written to
    /// included, and perhaps go on in the new one.
    fn take_name(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let usable = (0..self.files.len()).filter(|index| self.files[*index].is_usable());
        let usable: Vec<_> = usable.collect();
        if usable.is_empty() {
            return;
        }
        let old = *self.chance.pick(&usable);
        let last = self.write_as(self.files[old].name, 0, disk, noise);
        self.files[old].unlinked = true;
        if self.chance.percent(50) {
            self.current = Some(self.files.len() - 1);
            self.sequence = self.sequence.max(last);
        }
    }

    /// A new file of so many records at least, which gets its name when it is written.
    /// Gives how many there are.
    fn write_as(
        &mut self,
        name: SegmentName,
        least: u64,
        disk: &mut Disk,
        noise: &mut Vec<Noise>,
    ) -> u64 {
        let temporary = format!("{name}.tmp");
        let file = self.create(&temporary, disk, noise);
        let (mut bytes, count) = (Vec::new(), self.chance.within(least, 20));
        for sequence in 0..count {
            let payload = self.next_id.to_le_bytes();
            self.next_id += 1;
            let header = Header::new(sequence, self.second * 1_000_000_000, 6, &payload).unwrap();
            bytes.extend(header.encode());
            bytes.extend(payload);
        }
        disk.write(&file, &bytes, 0).unwrap();
        self.tell(temporary.clone(), Happened::Modified, noise);
        let directory = self.directory();
        disk.rename(&directory.join(&temporary), &directory.join(name.to_string())).unwrap();
        self.tell(temporary, Happened::Vanished, noise);
        self.tell(name.to_string(), Happened::Appeared, noise);
        self.written += bytes.len();
        self.files.push(LogFile::new(name, file, bytes));
        count
    }

    /// Somebody restarts it, and has it compact its log.
    pub fn be_compacted(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        disk.unhindered(|disk| {
            self.restart(disk, &mut noise);
            if self.current.is_some() && std::mem::take(&mut self.fresh) {
                self.compact(0, disk, &mut noise);
            }
        });
        noise
    }

    /// Somebody has it compact a log that holds something, because a node asks
    /// for that.
    pub fn be_compacted_as_asked(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        disk.unhindered(|disk| {
            self.sequence = 0;
            self.begin_segment(disk, &mut noise);
            self.compact(1, disk, &mut noise);
        });
        noise
    }

    /// The power goes.
    pub fn before_crash(&self, disk: &mut Disk) {
        if self.habits.syncs {
            self.sync_all(disk);
        }
    }

    /// Everything that was written is there, whatever happens.
    fn sync_all(&self, disk: &mut Disk) {
        let outer = self.root.join(self.space.as_str());
        disk.unhindered(|disk| {
            for log in &self.files {
                disk.sync(&log.file).unwrap();
            }
            for directory in [self.root.clone(), outer, self.directory()] {
                if directory.exists() {
                    disk.sync_directory(&directory).unwrap();
                }
            }
        });
    }

    /// The power is back. Nobody watches.
    pub fn after_crash(&mut self, disk: &mut Disk) {
        disk.unhindered(|disk| {
            if !self.habits.syncs {
                self.look_again(disk);
            }
            let goes_on = self.habits.goes_on && !self.habits.syncs;
            let stays = self.current.filter(|_| goes_on).map(|current| self.left_for(current));
            self.restart(disk, &mut Vec::new());
            if stays.is_some() {
                self.current = stays;
            }
        });
    }

    /// Now and then one that it had left for the present one.
    fn left_for(&mut self, current: usize) -> usize {
        let usable: Vec<_> = (0..=current).filter(|index| self.files[*index].is_usable()).collect();
        if self.chance.percent(30) { *self.chance.pick(&usable) } else { current }
    }

    /// What did the crash leave?
    fn look_again(&mut self, disk: &mut Disk) {
        self.rest.clear();
        // What has rotted is what is there.
        self.rots.clear();
        let directory = self.directory();
        for log in &mut self.files {
            let (was_unlinked, before) = (log.unlinked, log.bytes.clone());
            let names = disk.names_of(&log.file);
            let named = |name: &str| names.iter().any(|path| path.ends_with(name));
            log.unlinked = !named(&log.name.to_string());
            let temporary = format!("{}.tmp", log.name);
            if named(&temporary) {
                disk.remove(&directory.join(temporary)).unwrap();
            }
            if names.is_empty() && !was_unlinked {
                // It has never been.
                log.bytes.clear();
            } else if !names.is_empty() {
                log.bytes = read(&log.file);
            }
            if log.bytes != before {
                self.losses += 1;
                log.before.push(before);
            }
            log.whole = verified_bytes(&log.bytes);
            if log.whole < log.bytes.len() {
                self.damaged.push((log.name, log.whole as u64..log.bytes.len() as u64));
            }
            log.torn = log.whole < log.bytes.len() && !names.is_empty();
            // The database does not start before somebody has cut it.
            if log.torn && self.chance.percent(90) {
                cut(log, disk);
            }
        }
        self.written = self.files.iter().map(|log| log.bytes.len()).sum();
        let there = directory.exists();
        self.current = self.files.iter().rposition(LogFile::is_usable).filter(|_| there);
    }

    /// A bit flips at rest.
    pub fn rot(&mut self, disk: &mut Disk) {
        let file = usize::try_from(self.chance.below(self.files.len().max(1) as u64)).unwrap();
        let Some(log) = self.files.get(file) else { return };
        let is_there = !log.torn && !disk.names_of(&log.file).is_empty();
        if log.whole == 0 || !is_there || self.rots.len() >= MOST_ROTS {
            return;
        }
        let offset = usize::try_from(self.chance.below(log.whole as u64)).unwrap();
        let byte = log.bytes[offset] ^ 1 << self.chance.below(8);
        disk.rot(&log.file, offset as u64, byte);
        self.rots.push(Rot { file, offset });
        self.flipped.push((file, offset));
        // Who looks for the next record may find what looks like one within it.
        let mut at = 0;
        for record in records(&log.bytes[..log.whole]) {
            if (at..at + record.len()).contains(&offset) {
                self.damaged.push((log.name, at as u64..(at + record.len()) as u64));
            }
            at += record.len();
        }
    }

    /// Somebody gets good bytes for what has rotted.
    pub fn be_mended(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        for Rot { file, offset } in std::mem::take(&mut self.rots) {
            let log = &self.files[file];
            disk.rot(&log.file, offset as u64, log.bytes[offset]);
            self.tell(log.name.to_string(), Happened::Modified, &mut noise);
        }
        noise
    }

    /// Somebody cuts what a crash has left behind whole records.
    pub fn be_cut(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        for index in 0..self.files.len() {
            if self.files[index].torn {
                disk.unhindered(|disk| cut(&mut self.files[index], disk));
                self.tell(self.files[index].name.to_string(), Happened::Modified, &mut noise);
            }
        }
        noise
    }

    /// Finish the record that is half written.
    pub fn finish(&mut self, disk: &mut Disk) -> Vec<Noise> {
        let mut noise = Vec::new();
        if let Some(current) = self.current
            && !self.rest.is_empty()
        {
            disk.unhindered(|disk| self.write_all(current, usize::MAX, disk, &mut noise));
        }
        noise
    }
}

/// Let a file end where its whole records end.
fn cut(log: &mut LogFile, disk: &mut Disk) {
    disk.set_len(&log.file, log.whole as u64).unwrap();
    disk.sync(&log.file).unwrap();
    log.bytes.truncate(log.whole);
    log.torn = false;
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Up to where there are whole records that hold.
fn verified_bytes(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(raw) = bytes[at..].first_chunk::<64>() {
        let Ok(header) = Header::parse(raw, Checksums::Required) else { break };
        let end = at + usize::try_from(header.record_bytes()).unwrap();
        let Some(payload) = bytes.get(at + 64..end) else { break };
        if header.check_payload(payload).is_err() {
            break;
        }
        at = end;
    }
    at
}

/// Up to where there are whole records, of which `known` bytes are.
fn whole_bytes(bytes: &[u8], known: usize) -> usize {
    let mut at = known;
    while let Some(header) = bytes.get(at..at + 64) {
        let payload = u32::from_le_bytes(header[24..28].try_into().unwrap());
        let end = at + 64 + usize::try_from(payload).unwrap();
        if end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}
