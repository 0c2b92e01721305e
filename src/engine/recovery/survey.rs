//! What the files of a space hold, along its runs: read and verified from one
//! boundary to the end, and nothing changed.
//!
//! Recovery cuts what is not whole, since the catalog says that it was never
//! durable. Here nobody knows that: a payload that does not hold, with good
//! records behind it, has rotted at rest. Its header tells its size and carries
//! the chain, so it is named, and the walk goes on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::reading::{end_of_run, reread};
use super::{Notice, RecoveryError, describe, io_error};
use crate::engine::verifier::Verifier;
use crate::ids::SegmentName;
use crate::io::disk::DiskFile;
use crate::limits::{MAX_SAVED_MARKS_PER_SPACE, RECORD_HEADER_BYTES, VERIFY_PIECE_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::SpaceRecord;
use crate::state::host::Host;
use crate::state::runs::Run;
use crate::wal::record::{Checksums, Header, RecordError, step};
use crate::wal::search;

/// A record whose payload does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotten {
    /// The segment.
    pub segment: SegmentName,
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The boundary before it.
    pub before: Mark,
    /// What is wrong.
    pub error: RecordError,
}

/// What the files hold.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The end of it.
    pub mark: Mark,
    /// Boundaries on the way, ascending: the beginnings of runs, and some
    /// between.
    pub marks: Vec<Mark>,
    /// Records that do not hold, and have others behind them.
    pub rotten: Vec<Rotten>,
    /// Why it ends before the runs do, if so.
    pub trouble: Option<Notice>,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Read and verify every record from `from` on. `locate` says where the file of
/// a run is; `go_on` is told how much was read, and says whether to go on.
///
/// Each file is synced, dropped from the page cache and read anew: what is
/// found is what the disk holds.
///
/// # Errors
///
/// A file is there and cannot be read or synced; or `go_on` said no.
pub fn survey(
    host: &dyn Host,
    record: &SpaceRecord,
    from: Mark,
    checksums: Checksums,
    locate: &dyn Fn(&Run) -> PathBuf,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Survey, RecoveryError> {
    let mut walk = Walk {
        host,
        checksums,
        go_on,
        found: Survey { mark: from, ..Survey::default() },
        spacing: SPACING_BYTES,
        piece: vec![0; VERIFY_PIECE_BYTES],
    };
    let first = record.runs.locate(from.lsn).map_or(record.runs.first(), |(ordinal, _)| ordinal);
    for (ordinal, run) in record.runs.iter().filter(|(ordinal, _)| *ordinal >= first) {
        if ordinal > first {
            walk.remember(true);
        }
        let begin = run.offset + walk.found.mark.lsn.bytes_since(run.start);
        walk.found.trouble = walk.run(&locate(run), run, begin)?;
        if walk.found.trouble.is_some() {
            break;
        }
    }
    let mut found = walk.found;
    // Behind which nothing holds: not rot, but the end of what was written.
    while let Some(last) =
        found.rotten.pop_if(|last| last.before.lsn.advance(last.bytes) == found.mark.lsn)
    {
        found.mark = last.before;
    }
    found.marks.retain(|mark| mark.lsn < found.mark.lsn);
    Ok(found)
}

/// The first distance between two boundaries that are remembered.
const SPACING_BYTES: u64 = 4 << 20;

struct Walk<'a> {
    host: &'a dyn Host,
    checksums: Checksums,
    go_on: &'a mut dyn FnMut(u64) -> bool,
    found: Survey,
    spacing: u64,
    piece: Vec<u8>,
}

impl Walk<'_> {
    /// Keep the present boundary, if it is far enough from the last, or must be.
    fn remember(&mut self, always: bool) {
        let Survey { mark, marks, .. } = &mut self.found;
        let last = marks.last().map_or(Lsn::ZERO, |last| last.lsn);
        let far = mark.lsn.bytes_since(last);
        if mark.lsn > last && (far >= self.spacing || always) {
            marks.push(*mark);
        }
        if marks.len() > 4 * MAX_SAVED_MARKS_PER_SPACE {
            let mut place = 0;
            marks.retain(|_| {
                place += 1;
                place % 2 == 0
            });
            self.spacing = self.spacing.saturating_mul(2);
        }
    }

    /// Verify one run from `begin` on. Nothing if it is all there.
    fn run(&mut self, path: &Path, run: &Run, begin: u64) -> Result<Option<Notice>, RecoveryError> {
        let failed = io_error("read", path);
        let expected = run.bytes.map(|bytes| run.offset + bytes);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Nothing was written yet to an open run, or to an empty one.
                let lost = expected.is_some_and(|expected| expected > begin);
                return Ok(lost.then(|| Notice::Missing { path: path.to_path_buf() }));
            }
            Err(error) => return Err(failed(error)),
        };
        let file = reread(self.host, file, path, begin)?;
        let size = file.bytes().map_err(&failed)?;
        let stop = expected.map_or(size, |expected| expected.min(size));
        let mut verifier = Verifier::new(self.found.mark, self.checksums);
        // Where the verifier's mark lies in the file, and what is fed next.
        let (mut base, mut at) = ((begin, self.found.mark.lsn), begin);
        while at < stop {
            let most = usize::try_from(stop - at).unwrap_or(usize::MAX).min(self.piece.len());
            let count = search::read_up_to(&file, &mut self.piece[..most], at).map_err(&failed)?;
            if count == 0 {
                break;
            }
            at += count as u64;
            self.found.bytes += count as u64;
            if !(self.go_on)(count as u64) {
                return Err(failed(io::ErrorKind::Interrupted.into()));
            }
            let fed = verifier.feed(&self.piece[..count]);
            self.found.mark = verifier.mark();
            self.remember(false);
            let Err(error) = fed else { continue };
            let offset = base.0 + verifier.mark().lsn.bytes_since(base.1);
            let Some(behind) = self.pass(&file, run, offset, error).map_err(&failed)? else {
                return describe(&file, path, offset, error, &verifier).map(Some).map_err(failed);
            };
            verifier = Verifier::new(self.found.mark, self.checksums);
            (base, at) = ((behind, self.found.mark.lsn), behind);
        }
        Ok(end_of_run(path, expected, at, &verifier))
    }

    /// Go past a record whose payload does not hold. Where the next one begins;
    /// nothing if not even that is known.
    fn pass(
        &mut self,
        file: &DiskFile,
        run: &Run,
        offset: u64,
        error: RecordError,
    ) -> io::Result<Option<u64>> {
        if !matches!(error, RecordError::PayloadCrc { .. }) {
            return Ok(None);
        }
        let mut raw = [0; RECORD_HEADER_BYTES];
        search::read_up_to(file, &mut raw, offset)?;
        let Ok(header) = Header::parse(&raw, self.checksums) else { return Ok(None) };
        let (before, bytes) = (self.found.mark, header.record_bytes());
        self.found.mark = step(&before, &raw, &header);
        self.found.rotten.push(Rotten { segment: run.segment, offset, bytes, before, error });
        Ok(Some(offset + bytes))
    }
}
