//! Whether what an earlier process had walked of a segment still ends as it did.
//!
//! A crash of the host may take the end of a segment, and the database write as much
//! again before the node is started: its length tells nothing. So of each segment that
//! is opened first, the last record is looked at before which a boundary is remembered.
//! Its header is enough, and it is found backwards from there: what the shards then do
//! is to walk again what they must.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Keeper;
use super::adopt::boundaries;
use crate::engine::recovery::stands_before;
use crate::ids::SpaceId;
use crate::lsn::{Lsn, Mark};
use crate::state::catalog::SpaceRecord;
use crate::state::runs::Run;
use crate::wal::segment::Segment;

/// The last boundary that is remembered of each file, behind some of it, and the run
/// that it is of.
pub(super) fn last_walked(record: &SpaceRecord) -> BTreeMap<u64, (Run, Mark)> {
    let known = boundaries(record);
    let last = |run: &Run| {
        let end = run.bytes.map_or(Lsn(u64::MAX), |bytes| run.start.advance(bytes));
        let within = (end > run.start).then(|| known.range(run.start.advance(1)..=end));
        within.and_then(|mut within| Some((run.file, (*run, *within.next_back()?.1))))
    };
    record.runs.iter().filter_map(|(_, run)| last(run)).collect()
}

impl Keeper {
    /// Where files end otherwise than an earlier process is known to have walked them. A
    /// crash may have taken the last record, and the writer have gone on there: their
    /// length tells nothing. Reads the header of that record of each.
    pub(super) fn end_otherwise(
        &mut self,
        space: &SpaceId,
        found: &[(u64, Arc<Segment>)],
    ) -> BTreeMap<u64, Lsn> {
        let checksums = self.checksums;
        let Some(entry) = self.spaces.get_mut(space) else { return BTreeMap::new() };
        let is_another = |(file, segment): &(u64, Arc<Segment>)| {
            let (run, mark) = entry.walked.remove(file)?;
            let end = run.offset + mark.lsn.bytes_since(run.start);
            match stands_before(&*segment.file, run.offset, end, &mark, checksums) {
                Ok(true) => None,
                Ok(false) => Some((*file, mark.lsn)),
                Err(error) => {
                    let name = segment.name;
                    tracing::warn!(%space, "cannot read {name} before offset {end}: {error}");
                    Some((*file, mark.lsn))
                }
            }
        };
        found.iter().filter_map(is_another).collect()
    }
}
