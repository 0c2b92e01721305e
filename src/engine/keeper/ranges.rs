//! Bytes of a stream at rest: read for a peer that asks for them again, and
//! looked at when a peer says that a record does not hold. What does not hold
//! here either may be left out of the stream.

use std::fs::File;
use std::io;

use super::{BadRecord, Keeper, Unopened, Verdict};
use crate::ids::SpaceId;
use crate::limits::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Fetch;
use crate::state::catalog::{Hole, Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::record::{Header, RecordError};
use crate::wal::search::{self, Found};

impl Keeper {
    /// The bytes of a range, up to the end of the run that it begins in.
    pub(super) fn read_range(&self, space: &SpaceId, fetch: Fetch) -> Result<Vec<u8>, String> {
        let (run, offset, file) = self.file_at(space, fetch.lsn)?;
        let left = run
            .bytes
            .map_or(u64::MAX, |bytes| run.start.advance(bytes).0.saturating_sub(fetch.lsn.0));
        let most = usize::try_from(left.min(u64::from(fetch.bytes))).unwrap_or(0);
        let mut bytes = vec![0; most];
        let count = search::read_up_to(&file, &mut bytes, offset)
            .map_err(|error| format!("{} cannot be read at {offset}: {error}", run.segment))?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Look at the record that begins at `at`.
    pub(super) fn check_record(&self, space: &SpaceId, at: Lsn) -> Verdict {
        let (run, offset, file) = match self.file_at(space, at) {
            Ok(found) => found,
            Err(why) => return Verdict::Unknown(why),
        };
        match self.trouble_at(&file, offset) {
            Ok(Ok(_)) => Verdict::Whole,
            Ok(Err(error)) => {
                let span = self.span(&file, &run, offset, &error).unwrap_or_else(|error| {
                    tracing::warn!(%space, segment = %run.segment, offset, %error, "cannot be read");
                    None
                });
                let Run { segment, file, .. } = run;
                Verdict::Damaged(BadRecord { segment, file, offset, span, error })
            }
            Err(error) => {
                Verdict::Unknown(format!("{} cannot be read at {offset}: {error}", run.segment))
            }
        }
    }

    /// The length of the record at an offset, or what is wrong with it.
    fn trouble_at(&self, file: &File, offset: u64) -> io::Result<Result<u64, RecordError>> {
        let mut raw = [0; RECORD_HEADER_BYTES];
        search::read_up_to(file, &mut raw, offset)?;
        Ok(match Header::parse(&raw, self.checksums) {
            Ok(header) => {
                search::check_payload_at(file, offset, &header)?.map(|()| header.record_bytes())
            }
            Err(error) => Err(error),
        })
    }

    /// How many bytes from a bad record on are no better. A payload that does
    /// not hold leaves a length that can be believed; of a header nothing can,
    /// so the next record is searched for.
    fn span(
        &self,
        file: &File,
        run: &Run,
        offset: u64,
        error: &RecordError,
    ) -> io::Result<Option<u64>> {
        let size = file.metadata()?.len();
        let end = run.bytes.map_or(size, |bytes| run.offset + bytes).min(size);
        let limit = end.min(offset.saturating_add(MAX_RECORD_BYTES));
        match error {
            RecordError::PayloadCrc { .. } => {}
            // The file is shorter than it was: that is no rot.
            RecordError::Truncated { .. } => return Ok(None),
            _ => {
                let found = self.next_record(file, offset + 1, limit, end)?;
                // Nothing of a run that has ended is still to come.
                let rest = run.bytes.map(|bytes| run.offset + bytes).filter(|to| *to == limit);
                return Ok(found.or(rest).map(|at| at - offset));
            }
        }
        let mut at = offset;
        let mut raw = [0; RECORD_HEADER_BYTES];
        // What lies in a rotten page is rotten together.
        while at < limit {
            search::read_up_to(file, &mut raw, at)?;
            let Ok(header) = Header::parse(&raw, self.checksums) else { break };
            match search::check_payload_at(file, at, &header)? {
                Err(RecordError::PayloadCrc { .. }) => at += header.record_bytes(),
                _ => break,
            }
        }
        Ok((at <= end).then_some(at - offset))
    }

    /// Where the next good record begins.
    fn next_record(
        &self,
        file: &File,
        mut from: u64,
        limit: u64,
        end: u64,
    ) -> io::Result<Option<u64>> {
        while from < limit {
            match search::find_record(file, from, limit - from, end, self.checksums)? {
                Found::Record(at) => return Ok(Some(at)),
                Found::NoneBefore(at) if at > from => from = at,
                Found::NoneBefore(_) => break,
            }
        }
        Ok(None)
    }

    /// Leave a record that does not hold out of the stream: what lies behind it
    /// follows what lies before it, in a new epoch. Gives the space's record as
    /// it will be once the batch is durable.
    ///
    /// Nobody's word is taken for it: the bytes are read here once more, and
    /// must be as bad as they were.
    pub(super) fn leave_out(
        &mut self,
        space: &SpaceId,
        at: &Mark,
        bad: &BadRecord,
        unix_ns: u64,
    ) -> Result<SpaceRecord, String> {
        match self.check_record(space, at.lsn) {
            Verdict::Damaged(found) if found == *bad => {}
            Verdict::Damaged(found) => {
                return Err(format!("it is not the damage that it was: {}", found.error));
            }
            Verdict::Whole => return Err("the record is whole again".to_owned()),
            Verdict::Unknown(why) => return Err(why),
        }
        let span = bad.span.ok_or("nobody knows where the next record begins")?;
        let runs = self.spaces.get(space).and_then(|entry| entry.record.runs.locate(at.lsn));
        let (ordinal, _) = runs.ok_or_else(|| format!("no run holds lsn {}", at.lsn))?;
        let run = Run {
            start: at.lsn,
            segment: bad.segment,
            file: bad.file,
            offset: bad.offset + span,
            bytes: None,
        };
        let hole = Hole {
            lsn: at.lsn,
            segment: bad.segment,
            file: bad.file,
            offset: bad.offset,
            bytes: span,
            unix_ns,
            reason: bad.error.to_string(),
        };
        let record = self.turn_epoch(space, (*at, at.lsn), ordinal + 1, Some((hole, run)))?;
        tracing::error!(
            %space, segment = %bad.segment, offset = bad.offset, bytes = span, lsn = %at.lsn,
            reason = %bad.error,
            "no replica has it: left out of the stream for good, as wal.on_corrupt_source says"
        );
        Ok(record)
    }

    /// The file that holds a position, and where in it.
    fn file_at(&self, space: &SpaceId, at: Lsn) -> Result<(Run, u64, File), String> {
        let entry = self.spaces.get(space).ok_or("the space is not in the catalog")?;
        let record = &entry.record;
        let (run, offset) = record
            .runs
            .locate(at)
            .and_then(|(ordinal, offset)| Some((*record.runs.get(ordinal)?, offset)))
            .ok_or_else(|| format!("no run holds lsn {at}"))?;
        let opened = match record.role {
            Role::Primary => {
                let opened = self.open_segment(space, run.file).map_err(Unopened::into_why)?;
                opened.file.try_clone()
            }
            Role::Replica => File::open(self.place_of(space, record, &run)),
        };
        match opened {
            Ok(file) => Ok((run, offset, file)),
            Err(error) => Err(format!("{} cannot be opened: {error}", run.segment)),
        }
    }
}
