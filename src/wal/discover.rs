//! What lies in a data root, and in the WAL directory of a space.
//!
//! ```text
//!   <data root>/
//!     .saltus/                     ours, skipped
//!     alpha/wal/                   a space
//!       wal-000000006b01223f.log   a segment
//!       wal-000000006b01224a.log.tmp, wal-compact-…   being written: not yet
//!       .archive-…, wal-corrupt-…  put aside by somebody: not ours
//! ```
//!
//! At first sight nothing is known of the order in which segments were
//! written but their names, so they join the stream in the order of names.
//! **Name order is not time order** (T8): a clock that stepped back gives a
//! new segment a smaller name. From then on the stream is the order in which
//! things were seen, and a later segment joins it behind everything that is
//! there, whatever it is called.
//!
//! Spaces appear while the process runs (T14), and the directory of a space
//! may be there before its `wal` is: who lists here also watches.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{SegmentName, SpaceId};

/// The directory within a data root that is ours.
pub const STATE_DIRECTORY: &str = ".saltus";

/// What the name of a file in a WAL directory says (T9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A segment. It may be empty (T10).
    Segment(SegmentName),
    /// Being written by a compaction; it becomes a segment by a rename, or is
    /// debris of one that died.
    Temporary,
    /// Put aside by the writer or a script.
    Archive,
    /// Found damaged by the writer and put aside.
    Quarantined,
    /// Anything else.
    Foreign,
}

/// What the name of a file in a WAL directory says. Only segments are read;
/// nothing else is ever touched.
#[must_use]
pub fn classify(name: &OsStr) -> Kind {
    let Some(text) = name.to_str() else {
        return Kind::Foreign;
    };
    if let Ok(segment) = text.parse() {
        Kind::Segment(segment)
    } else if text.contains(".archive-") {
        Kind::Archive
    } else if text.starts_with("wal-corrupt-") {
        Kind::Quarantined
    } else if text.ends_with(".tmp") || text.starts_with("wal-compact-") {
        Kind::Temporary
    } else {
        Kind::Foreign
    }
}

/// One file of a WAL directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What the name says.
    pub kind: Kind,
    /// Its size when it was listed, bytes.
    pub bytes: u64,
}

/// Where the segments of a space lie.
#[must_use]
pub fn wal_directory(data_root: &Path, space: &SpaceId) -> PathBuf {
    data_root.join(space.as_str()).join("wal")
}

/// The spaces of a data root, by name: every directory whose name is a space
/// id. Whether it has a `wal` directory yet is not asked.
///
/// # Errors
///
/// The data root cannot be listed.
pub fn spaces(data_root: &Path) -> io::Result<Vec<SpaceId>> {
    let mut spaces = Vec::new();
    for entry in std::fs::read_dir(data_root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(space) = name.to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // Follows a link, as the writer does.
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => spaces.push(space),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    spaces.sort_unstable();
    Ok(spaces)
}

/// Everything in a WAL directory but directories, segments first and in the
/// order of their names, the rest by name.
///
/// # Errors
///
/// The directory cannot be listed. `NotFound`: the space has none yet.
pub fn entries(wal_directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(wal_directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                let name = entry.file_name();
                entries.push(Entry { kind: classify(&name), name, bytes: metadata.len() });
            }
            // Retired between the listing and the question.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    entries.sort_unstable_by(|a, b| {
        let rank = |entry: &Entry| !matches!(entry.kind, Kind::Segment(_));
        rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(entries)
}

/// The segments of a WAL directory, in the order of first sight: by name.
///
/// # Errors
///
/// As [`entries`].
pub fn segments(wal_directory: &Path) -> io::Result<Vec<SegmentName>> {
    let segments = entries(wal_directory)?.into_iter().filter_map(|entry| match entry.kind {
        Kind::Segment(name) => Some(name),
        _ => None,
    });
    Ok(segments.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn t9_files_that_lie_around_are_no_segments() {
        for (name, kind) in [
            ("wal-000000006b01223f.log", Kind::Segment(SegmentName(0x6b01_223f))),
            ("wal-000000006b01223f.log.tmp", Kind::Temporary),
            ("wal-compact-000000006b01223f.log", Kind::Temporary),
            (".archive-wal-000000006b01223f.log", Kind::Archive),
            ("wal-000000006b01223f.log.archive-1", Kind::Archive),
            ("wal-corrupt-000000006b01223f.log", Kind::Quarantined),
            ("wal-000000006B01223F.log", Kind::Foreign),
            ("wal-6b01223f.log", Kind::Foreign),
            ("wal-000000006b01223f.log~", Kind::Foreign),
            ("lost+found", Kind::Foreign),
        ] {
            assert_eq!(classify(OsStr::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn t8_t10_segments_are_listed_by_name_and_empty_ones_count() {
        let directory = tempfile::tempdir().unwrap();
        for number in [9_u64, 3, 5] {
            let name = SegmentName(number).to_string();
            fs::write(directory.path().join(name), vec![0; usize::try_from(number - 3).unwrap()])
                .unwrap();
        }
        fs::write(directory.path().join("a.tmp"), b"").unwrap();
        fs::create_dir(directory.path().join(SegmentName(1).to_string())).unwrap();
        assert_eq!(
            segments(directory.path()).unwrap(),
            [SegmentName(3), SegmentName(5), SegmentName(9)]
        );
        let entries = entries(directory.path()).unwrap();
        assert_eq!((entries.len(), entries[0].bytes), (4, 0));
        assert_eq!(entries[3].kind, Kind::Temporary);
    }

    #[test]
    fn t14_spaces_are_directories_with_a_space_id_for_a_name() {
        let root = tempfile::tempdir().unwrap();
        for name in ["beta", "alpha", ".saltus", "No", "UPPER", "ab"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("a-file"), b"").unwrap();
        let names: Vec<_> = spaces(root.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["alpha", "beta"]);
        let wal = wal_directory(root.path(), &"alpha".parse().unwrap());
        assert_eq!(entries(&wal).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(&wal).unwrap();
        assert!(segments(&wal).unwrap().is_empty());
    }
}
