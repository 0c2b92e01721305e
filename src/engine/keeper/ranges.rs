//! Bytes of a stream at rest: read for a peer that asks for them again, and
//! looked at when a peer says that a record does not hold.

use std::fs::File;
use std::io;

use super::{BadRecord, Keeper, Verdict};
use crate::engine::recovery;
use crate::ids::SpaceId;
use crate::limits::RECORD_HEADER_BYTES;
use crate::lsn::Lsn;
use crate::protocol::message::Fetch;
use crate::state::catalog::Role;
use crate::state::runs::Run;
use crate::wal::record::Header;
use crate::wal::search;

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
        let bad = |bytes, error| {
            let Run { segment, file, .. } = run;
            Verdict::Damaged(BadRecord { segment, file, offset, bytes, error })
        };
        let read = || -> io::Result<Verdict> {
            let mut raw = [0; RECORD_HEADER_BYTES];
            search::read_up_to(&file, &mut raw, offset)?;
            let header = match Header::parse(&raw, self.checksums) {
                Ok(header) => header,
                Err(error) => return Ok(bad(RECORD_HEADER_BYTES as u64, error)),
            };
            Ok(match search::check_payload_at(&file, offset, &header)? {
                Ok(()) => Verdict::Whole,
                Err(error) => bad(header.record_bytes(), error),
            })
        };
        read().unwrap_or_else(|error| {
            Verdict::Unknown(format!("{} cannot be read at {offset}: {error}", run.segment))
        })
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
                let opened = self.open_segment(space, run.file).map_err(|gone| gone.why)?;
                opened.file.try_clone()
            }
            Role::Replica => {
                let (data_root, state_dir) = (&self.places.data_root, &self.places.state_dir);
                File::open(recovery::path_of(data_root, state_dir, space, record, &run))
            }
        };
        match opened {
            Ok(file) => Ok((run, offset, file)),
            Err(error) => Err(format!("{} cannot be opened: {error}", run.segment)),
        }
    }
}
