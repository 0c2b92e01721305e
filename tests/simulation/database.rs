//! The database that writes the logs of one space, as the real one does:
//! segments named by the second, several per restart, some of them empty;
//! sequences that begin anew; headers that are visible before their payloads;
//! a compaction at the start, after which it goes on with the file that it
//! has unlinked.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use saltus::ids::{SegmentName, SpaceId};
use saltus::wal::record::Header;

use super::backend::Happened;
use super::chance::Chance;
use super::disk::Disk;

/// One log file, and what was written to it.
#[derive(Debug)]
pub struct LogFile {
    pub name: SegmentName,
    pub file: File,
    /// Everything that was written.
    pub bytes: Vec<u8>,
    /// Up to here it is whole records.
    pub whole: usize,
    /// Its name is gone.
    pub unlinked: bool,
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
    current: Option<usize>,
    sequence: u64,
    next_id: u64,
    /// Records that are not all written.
    rest: Vec<u8>,
    written: usize,
    /// The next name, in seconds.
    second: u64,
    /// It was restarted and has not compacted yet.
    fresh: bool,
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
        if room && self.files[current].bytes.len() >= self.habits.segment_bytes {
            self.begin_segment(disk, noise);
        } else if restarts {
            self.restart(disk, noise);
        } else if compacts && self.chance.percent(50) {
            self.compact(disk, noise);
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
        self.files.push(LogFile { name, file, bytes: Vec::new(), whole: 0, unlinked: false });
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
    }

    /// Write everything that is kept into one new file, take the names of all
    /// others away, and go on with the file that was current.
    fn compact(&mut self, disk: &mut Disk, noise: &mut Vec<Noise>) {
        let name = self.next_name();
        let temporary = format!("{name}.tmp");
        let file = self.create(&temporary, disk, noise);
        let mut bytes = Vec::new();
        for (sequence, _) in (0_u64..).zip(0..self.chance.within(0, 5)) {
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
        for old in self.files.iter_mut().filter(|old| !old.unlinked) {
            disk.remove(&directory.join(old.name.to_string())).unwrap();
            old.unlinked = true;
            let name = old.name.to_string().into();
            noise.push(Noise { directory: directory.clone(), name, what: Happened::Vanished });
        }
        self.written += bytes.len();
        let whole = bytes.len();
        self.files.push(LogFile { name, file, bytes, whole, unlinked: false });
    }

    /// How much of `wanted` a file of that name holds at an offset, if somebody
    /// who begins now can still find it.
    pub fn holds(&self, name: SegmentName, offset: u64, wanted: &[u8], disk: &Disk) -> u64 {
        let there = |log: &&LogFile| log.name == name && !disk.names_of(&log.file).is_empty();
        let same = |log: &LogFile| {
            let found = log.bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count() as u64
        };
        self.files.iter().filter(there).map(same).max().unwrap_or(0)
    }

    /// The machine went down and all that was written is there: the writer of
    /// a log that is synced before it is seen.
    pub fn sync_all(&self, disk: &mut Disk) {
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
