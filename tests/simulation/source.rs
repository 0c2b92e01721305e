//! What a database still has of its files: what the oracle asks it. Of several files
//! that have had one name, what was shipped tells which is meant.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr;

use saltus::ids::SegmentName;
use saltus::protocol::message::SegmentOpen;

use super::database::{Database, LogFile};
use super::disk::Disk;
use super::stream::{Reign, Stream};

/// A header: it has a checksum of a payload that no other record has.
const TELLING_BYTES: usize = 64;

/// A place in a file, and what was shipped of it.
#[derive(Clone, Copy)]
pub struct Shipped<'a> {
    pub name: SegmentName,
    pub offset: u64,
    pub bytes: &'a [u8],
}

impl fmt::Debug for Shipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} at {}", self.bytes.len(), self.name, self.offset)
    }
}

impl<'a> Shipped<'a> {
    /// What lies from `begin` to `end` in a run of a reign.
    pub fn of(reign: &'a Reign, (run, begin, end): (SegmentOpen, u64, u64)) -> Self {
        let offset = run.offset + begin - run.start.0;
        // Of a run of which nothing has come, its start may lie behind the end.
        let bytes = if begin < end { reign.slice(begin, end) } else { &[] };
        Self { name: run.segment, offset, bytes }
    }

    /// What the bytes of a file are from there on.
    fn found_in<'b>(&self, bytes: &'b [u8]) -> (usize, &'b [u8]) {
        let offset = usize::try_from(self.offset).unwrap();
        (offset, bytes.get(offset..).unwrap_or_default())
    }
}

impl Database {
    /// The files that this may have been shipped of: where no file of that name has ever
    /// shown any of it, all of them.
    fn files_of(&self, shipped: &Shipped<'_>) -> Vec<&LogFile> {
        let named = self.files.iter().filter(|log| log.name == shipped.name);
        let mut named: Vec<_> = named.collect();
        let telling = &shipped.bytes[..shipped.bytes.len().min(TELLING_BYTES)];
        let has_shown = |log: &LogFile| {
            let mut ever = log.before.iter().chain([&log.bytes]);
            !telling.is_empty() && ever.any(|bytes| shipped.found_in(bytes).1.starts_with(telling))
        };
        if named.len() > 1 && named.iter().any(|log| has_shown(log)) {
            named.retain(|log| has_shown(log));
        }
        named
    }

    /// Whether that can only be of a file that has its name.
    pub fn is_named(&self, shipped: &Shipped<'_>) -> bool {
        let files = self.files_of(shipped);
        !files.is_empty() && files.iter().all(|log| !log.unlinked)
    }

    /// The file that it has open for writing, by inode.
    pub fn writes_to(&self) -> Option<u64> {
        self.current.map(|current| self.files[current].inode())
    }

    /// The primary has let go of a file.
    /// True if nothing leads to it any more.
    pub fn let_go(&mut self, inode: u64, disk: &Disk) -> bool {
        let log = self.files.iter_mut().find(|log| log.inode() == inode);
        let Some(log) = log.filter(|log| disk.names_of(&log.file).is_empty()) else { return false };
        log.released = true;
        true
    }

    /// Whether the primary has let go of every file that it may be of, and no crash
    /// has brought one back.
    pub fn has_released(&self, shipped: &Shipped<'_>, disk: &Disk) -> bool {
        let files = self.files_of(shipped);
        files.iter().all(|log| log.released && disk.names_of(&log.file).is_empty())
    }

    /// Whether a primary that begins now goes past every file that it may be of: nothing
    /// leads to it, let go of or taken whole by a crash, or a crash has brought back
    /// pins alone of what it knows that it has let go of. It ships nothing else in its
    /// place: it goes on where the file ended, or begins an epoch.
    pub fn is_passed(&self, shipped: &Shipped<'_>, disk: &Disk) -> bool {
        let directory = self.directory();
        let is_named = |path: &PathBuf| directory.ends_with(path.parent().unwrap());
        self.files_of(shipped).iter().all(|log| {
            let names = disk.names_of(&log.file);
            names.is_empty() || log.released && !names.iter().any(is_named)
        })
    }

    /// How much of it a file holds, if somebody who begins now can still find that.
    pub fn holds(&self, shipped: &Shipped<'_>, disk: &Disk) -> u64 {
        self.held(shipped, disk, |_, _| false)
    }

    /// The same, but for bytes that have changed at rest: a primary does not look again
    /// at what it has walked.
    pub fn shows(&self, shipped: &Shipped<'_>, disk: &Disk) -> u64 {
        self.held(shipped, disk, |file, offset| self.flipped.contains(&(file, offset)))
    }

    fn held(
        &self,
        shipped: &Shipped<'_>,
        disk: &Disk,
        is_let: impl Fn(usize, usize) -> bool,
    ) -> u64 {
        let there =
            |log: &LogFile| log.name == shipped.name && !disk.names_of(&log.file).is_empty();
        let files = self.files.iter().enumerate().filter(|(_, log)| there(log));
        let held = files.map(|(file, log)| {
            let (offset, found) = shipped.found_in(&log.bytes);
            let pairs = (offset..).zip(found.iter().zip(shipped.bytes));
            let same =
                pairs.take_while(|(at, (found, wanted))| found == wanted || is_let(file, *at));
            same.count() as u64
        });
        held.max().unwrap_or(0)
    }

    /// Whether something there was damaged, ever.
    pub fn was_damaged(&self, name: SegmentName, range: &Range<u64>) -> bool {
        let meets = |there: &Range<u64>| there.start < range.end && range.start < there.end;
        self.damaged.iter().any(|(of, there)| *of == name && meets(there))
    }

    /// Whether nobody was ever told of a run in a file.
    pub fn never_had(&self, stream: &Stream, log: &LogFile) -> bool {
        let of_it = |reign: &Reign, run: &SegmentOpen| {
            let pieces = reign.pieces(run.start.0, reign.end()).into_iter();
            let mut of_run = pieces.filter(|(of, ..)| of.ordinal == run.ordinal);
            let nothing = (*run, run.start.0, run.start.0);
            self.may_be_of(log, &Shipped::of(reign, of_run.next().unwrap_or(nothing)))
        };
        let mut reigns = (0..=stream.last()).map(|index| stream.reign(index));
        !reigns.any(|reign| reign.runs.iter().any(|run| of_it(reign, run)))
    }

    /// Whether what stands there in a file was of the stream in an earlier reign.
    pub fn had(&self, stream: &Stream, log: &LogFile, offset: u64) -> bool {
        (0..stream.last()).map(|index| stream.reign(index)).any(|reign| {
            reign.pieces(0, reign.end()).into_iter().any(|piece| {
                let shipped = Shipped::of(reign, piece);
                let behind = shipped.offset + shipped.bytes.len() as u64;
                (shipped.offset..behind).contains(&offset) && self.may_be_of(log, &shipped)
            })
        })
    }

    fn may_be_of(&self, log: &LogFile, shipped: &Shipped<'_>) -> bool {
        shipped.name == log.name && self.files_of(shipped).iter().any(|of| ptr::eq(*of, log))
    }
}
