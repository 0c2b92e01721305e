//! Where a stream lies on this node, run by run, for reading.
//!
//! The catalog says which run holds a position, and in which file; the file is
//! then looked for where a node of that role keeps it. What is not found is an
//! answer as well: a range that is [absent](Stretch::Absent), and why.
//!
//! The record is the catalog's last commit. A run is committed before its
//! first byte is shipped or written, so everything that is durable on any node
//! lies in a run that is found here.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::engine::keeper::{Places, Unopened, open_numbered};
use crate::engine::recovery::{path_of, retired_path};
use crate::ids::{SegmentName, SpaceId};
use crate::io::bulk::{BulkFile, Reads};
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::{Role, SpaceRecord};
use crate::state::pins::Pins;
use crate::state::runs::Run;

/// A piece of the stream, from the position that was asked for.
pub(super) enum Stretch<'a> {
    /// It lies in a file.
    Held(Piece<'a>),
    /// This node does not have it, up to a position.
    Absent {
        /// Where the stream goes on here; the end of everything if nowhere.
        until: Lsn,
        /// In which segment it lay.
        segment: Option<SegmentName>,
        /// Why it is not there.
        why: String,
        /// Whether it may be gone rightly.
        retired: bool,
    },
}

/// A piece of the stream in a file.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The file.
    pub(super) file: &'a BulkFile,
    /// Its name.
    pub(super) segment: SegmentName,
    /// Where the piece begins in the file.
    pub(super) offset: u64,
    /// How long it is, to the end of the run or of the file.
    pub(super) bytes: u64,
    /// Where the run ends in the stream, if it does: there a record begins.
    pub(super) run_end: Option<Lsn>,
}

/// The run that is open.
struct Open {
    ordinal: u32,
    run: Run,
    found: Result<(BulkFile, u64), Missing>,
}

/// Why a run has no file.
struct Missing {
    why: String,
    retired: bool,
}

/// The stream of one space, open for reading.
pub(super) struct Ground {
    places: Places,
    pins: Pins,
    space: SpaceId,
    record: SpaceRecord,
    reads: Reads,
    open: Option<Open>,
}

impl Ground {
    pub(super) fn new(
        places: Places,
        pins: Pins,
        space: SpaceId,
        record: SpaceRecord,
        reads: Reads,
    ) -> Self {
        Self { places, pins, space, record, reads, open: None }
    }

    /// What the catalog knows.
    pub(super) fn record(&self) -> &SpaceRecord {
        &self.record
    }

    /// The last boundary at or before `lsn` that is known without reading,
    /// with the chain there if that is known as well.
    pub(super) fn boundary(&self, lsn: Lsn) -> Option<(Lsn, Option<Mark>)> {
        let start = self.record.base.lsn == Lsn::ZERO;
        let marks = self.record.marks.iter().chain([&self.record.checkpoint, &self.record.base]);
        let mark = marks
            .filter(|mark| mark.lsn <= lsn && (start || mark.lsn > Lsn::ZERO))
            .max_by_key(|mark| mark.lsn)
            .copied()
            .or_else(|| start.then_some(Mark::START));
        let run = self
            .record
            .runs
            .locate(lsn)
            .and_then(|(ordinal, _)| self.record.runs.get(ordinal))
            .map(|run| run.start);
        match (mark, run) {
            (Some(mark), Some(run)) if run > mark.lsn => Some((run, None)),
            (Some(mark), _) => Some((mark.lsn, Some(mark))),
            (None, run) => run.map(|run| (run, None)),
        }
    }

    /// What this node has from `lsn` on.
    ///
    /// # Errors
    ///
    /// A file is there and cannot be opened.
    pub(super) fn stretch(&mut self, lsn: Lsn) -> io::Result<Stretch<'_>> {
        let Some((ordinal, offset)) = self.record.runs.locate(lsn) else {
            let (_, first) = self.record.runs.iter().next().unzip();
            let until = first.map_or(Lsn(u64::MAX), |first| first.start);
            let why = "no segment of this node holds it".to_owned();
            return Ok(Stretch::Absent { until, segment: None, why, retired: true });
        };
        let open = match self.open.take() {
            Some(open) if open.ordinal == ordinal => open,
            _ => {
                let run = *self.record.runs.get(ordinal).ok_or(io::ErrorKind::NotFound)?;
                Open { ordinal, run, found: self.find(&run)? }
            }
        };
        let Open { run, found, .. } = self.open.insert(open);
        let run_end = run.bytes.map(|bytes| run.start.advance(bytes));
        let until = run_end.unwrap_or(Lsn(u64::MAX));
        let segment = run.segment;
        match found {
            Ok((file, len)) => {
                let end =
                    run.bytes.map_or(*len, |bytes| len.min(&mut (run.offset + bytes)).to_owned());
                match end.checked_sub(offset) {
                    Some(bytes @ 1..) => {
                        Ok(Stretch::Held(Piece { file, segment, offset, bytes, run_end }))
                    }
                    _ => Ok(Stretch::Absent {
                        until,
                        segment: Some(segment),
                        why: format!("the file ends at {len}, before offset {offset}"),
                        retired: false,
                    }),
                }
            }
            Err(Missing { why, retired }) => Ok(Stretch::Absent {
                until,
                segment: Some(segment),
                why: why.clone(),
                retired: *retired,
            }),
        }
    }

    /// The file of a run, and its length.
    fn find(&self, run: &Run) -> io::Result<Result<(BulkFile, u64), Missing>> {
        let file = match self.record.role {
            Role::Primary => {
                let record = &self.record;
                match open_numbered(&self.pins, &self.places, &self.space, record, run.file) {
                    Ok(segment) => segment.file.try_clone()?,
                    Err(Unopened::Gone { why, .. }) => {
                        let retired = record.file(run.file).is_some();
                        return Ok(Err(Missing { why, retired }));
                    }
                    Err(Unopened::Unreadable(why)) => return Err(io::Error::other(why)),
                }
            }
            Role::Replica if self.record.is_gone(run.file) => {
                let why = format!("{} was retired", run.segment);
                return Ok(Err(Missing { why, retired: true }));
            }
            Role::Replica => match self.find_received(run)? {
                Ok(file) => file,
                Err(path) => {
                    let why = format!("{} is missing", path.display());
                    return Ok(Err(Missing { why, retired: false }));
                }
            },
        };
        let len = file.metadata()?.len();
        Ok(Ok((BulkFile::new(file, self.reads)?, len)))
    }

    /// The file of a received run. A segment is put aside before the run of
    /// its successor is committed, so it may already be where it will belong.
    fn find_received(&self, run: &Run) -> io::Result<Result<File, PathBuf>> {
        let Places { data_root, state_dir, .. } = &self.places;
        let named = path_of(data_root, state_dir, &self.space, &self.record, run);
        for path in [&retired_path(state_dir, &self.space, run.file), &named] {
            match File::open(path) {
                Ok(file) => return Ok(Ok(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(Err(named))
    }
}
