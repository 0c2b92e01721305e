//! What lies in a data root, and in the WAL directory of a space.
//!
//! ```text
//!   <data root>/
//!     .saltus/                     ours, skipped as all that is hidden
//!     UPPER/wal/                   no name of a space: left alone, and told
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

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
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

/// What lies in a data root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The spaces, by name. Whether one has a `wal` directory yet is not said.
    pub spaces: Vec<SpaceId>,
    /// Directories that hold a log and are no space of their own, by name.
    pub ignored: Vec<Ignored>,
    /// Directories that can be no space and hold no log yet, by name. None of
    /// them is worth a word before one does.
    pub strangers: Vec<OsString>,
}

/// A directory of a data root that is left alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ignored {
    /// Its name.
    pub name: OsString,
    /// Why, in a sentence.
    pub reason: String,
}

/// What speaks against a name as that of a space; nothing if it can be one.
#[must_use]
pub fn name_problem(name: &OsStr) -> Option<String> {
    match name.to_str().map(str::parse::<SpaceId>) {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some(format!("space id {name:?} is not valid: it is no text")),
    }
}

/// What a directory is on its file system, whichever way leads to it.
type Identity = (u64, u64);

/// Which directory holds the log of a space; `None` if none does.
#[must_use]
pub fn identity(data_root: &Path, space: &SpaceId) -> Option<Identity> {
    wal_identity(&data_root.join(space.as_str()))
}

fn wal_identity(directory: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(directory.join("wal")).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}

/// A directory that may be a space.
struct Candidate {
    space: SpaceId,
    /// Its log, or while it has none, itself.
    identity: Identity,
    /// Only a link leads to it.
    linked: bool,
}

/// Look at a data root. Hidden directories are nobody's business. Links are
/// followed, as the writer does; but a log is one space, however many names
/// lead to it: that of `known` spaces first, then of real directories.
///
/// # Errors
///
/// The data root cannot be listed.
pub fn look(data_root: &Path, known: impl Fn(&SpaceId) -> bool) -> io::Result<Root> {
    let mut root = Root::default();
    let mut candidates = Vec::new();
    for entry in std::fs::read_dir(data_root)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // As of a link that leads to itself.
            Err(error) => {
                root.ignored.push(Ignored { name, reason: error.to_string() });
                continue;
            }
        };
        let wal = wal_identity(&path);
        match (name.to_str().and_then(|text| text.parse().ok()), wal) {
            (Some(space), wal) => {
                let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                let identity = wal.unwrap_or((metadata.dev(), metadata.ino()));
                candidates.push(Candidate { space, identity, linked });
            }
            (None, Some(_)) => {
                let reason = name_problem(&name).unwrap_or_default();
                root.ignored.push(Ignored { name, reason });
            }
            (None, None) => root.strangers.push(name),
        }
    }
    candidates.sort_by_cached_key(|c| (!known(&c.space), c.linked, c.space.clone()));
    let mut taken: BTreeMap<Identity, SpaceId> = BTreeMap::new();
    for Candidate { space, identity, .. } in candidates {
        if let Some(first) = taken.get(&identity) {
            let reason =
                format!("it is space {first} under another name, and a log is shipped once");
            root.ignored.push(Ignored { name: space.as_str().into(), reason });
        } else {
            taken.insert(identity, space.clone());
            root.spaces.push(space);
        }
    }
    root.spaces.sort_unstable();
    root.ignored.sort_unstable();
    root.strangers.sort_unstable();
    Ok(root)
}

/// The spaces of a data root, by name. Whether one has a `wal` directory yet
/// is not said.
///
/// # Errors
///
/// The data root cannot be listed.
pub fn spaces(data_root: &Path) -> io::Result<Vec<SpaceId>> {
    look(data_root, |_| false).map(|root| root.spaces)
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
#[path = "discover_tests.rs"]
mod tests;
