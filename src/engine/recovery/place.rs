//! Where the files of a received space lie.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use crate::ids::{SegmentName, SpaceId};
use crate::state::catalog::SpaceRecord;
use crate::state::runs::Run;

/// One file of the space.
pub(super) struct Place {
    pub(super) segment: SegmentName,
    pub(super) path: PathBuf,
    /// True if it has its own name.
    pub(super) named: bool,
}

/// Where a received segment is kept once another file bears its name.
#[must_use]
pub fn retired_path(state_dir: &Path, space: &SpaceId, file: u64) -> PathBuf {
    state_dir.join("retired").join(space.as_str()).join(format!("{file:016x}"))
}

/// Where the file of a run of `record` lies. Of several files that bore one
/// name, the one whose first run is the latest has it; the others, and those
/// that have no name on the primary any more, are at their [`retired_path`].
#[must_use]
pub fn path_of(
    data_root: &Path,
    state_dir: &Path,
    space: &SpaceId,
    record: &SpaceRecord,
    run: &Run,
) -> PathBuf {
    let retired = record.retired.contains_key(&run.file);
    // The name that it had first: a file that is renamed has runs of two.
    let segment = record.runs.first_in(run.file).map_or(run.segment, |(_, first)| first.segment);
    if !retired && bearer(record, segment).is_none_or(|file| file == run.file) {
        wal_directory(data_root, space).join(segment.to_string())
    } else {
        retired_path(state_dir, space, run.file)
    }
}

/// The number of the file that bears a name now.
pub(in crate::engine) fn bearer(record: &SpaceRecord, segment: SegmentName) -> Option<u64> {
    let is_first = |ordinal, run: &Run| {
        record.runs.first_in(run.file).is_some_and(|(first, _)| first == ordinal)
    };
    let mut all = record.runs.iter().filter(|(_, run)| run.segment == segment);
    let named = all
        .rfind(|(ordinal, run)| !record.retired.contains_key(&run.file) && is_first(*ordinal, run));
    named.map(|(_, run)| run.file)
}

pub(super) fn wal_directory(data_root: &Path, space: &SpaceId) -> PathBuf {
    data_root.join(space.as_str()).join("wal")
}

/// Where the file of each run lies, by number: [`path_of`] of all of them, in one
/// pass over the runs.
pub(in crate::engine) fn paths(
    data_root: &Path,
    state_dir: &Path,
    space: &SpaceId,
    record: &SpaceRecord,
) -> BTreeMap<u64, PathBuf> {
    let all = locate_all(data_root, state_dir, space, record);
    all.into_iter().map(|(file, place)| (file, place.path)).collect()
}

/// Every file that a run names and that is not gone, by number.
pub(super) fn locate_files(
    data_root: &Path,
    state_dir: &Path,
    space: &SpaceId,
    record: &SpaceRecord,
) -> BTreeMap<u64, Place> {
    let mut all = locate_all(data_root, state_dir, space, record);
    all.retain(|file, _| !record.is_gone(*file));
    all
}

fn locate_all(
    data_root: &Path,
    state_dir: &Path,
    space: &SpaceId,
    record: &SpaceRecord,
) -> BTreeMap<u64, Place> {
    // The file whose first run is the latest bears the name.
    let mut bearers = BTreeMap::new();
    let mut files = BTreeMap::new();
    for (_, run) in record.runs.iter() {
        // What follows of the file may say another name.
        let Entry::Vacant(first) = files.entry(run.file) else { continue };
        first.insert(run.segment);
        if !record.retired.contains_key(&run.file) {
            bearers.insert(run.segment, run.file);
        }
    }
    let place = |(file, segment): (u64, SegmentName)| {
        let named = bearers.get(&segment) == Some(&file);
        let path = if named {
            wal_directory(data_root, space).join(segment.to_string())
        } else {
            retired_path(state_dir, space, file)
        };
        (file, Place { segment, path, named })
    };
    files.into_iter().map(place).collect()
}
