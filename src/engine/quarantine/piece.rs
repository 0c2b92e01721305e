//! What lies in a quarantine: pieces of segments, each with its manifest.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, SegmentName, SpaceId};
use crate::limits::MAX_MANIFEST_BYTES;

/// Why bytes are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Whole, verified records of a reign that a later epoch has ended: the
    /// primary's history does not have them.
    Diverged,
    /// What recovery found behind the last whole record after a stop.
    Unverified,
    /// It bore the name of another segment.
    Displaced,
    /// The whole file as it was before ranges of it that did not hold were
    /// replaced.
    Damaged,
    /// Found in a space whose catalog was lost, and not part of the primary's
    /// stream.
    Unmatched,
    /// Records that were appended to a segment which had no name on the
    /// primary any more; kept when the segment was retired. Of a replica that
    /// was filled anew, the whole segment.
    Unnamed,
    /// A whole segment of a replica that was filled anew, of which the primary
    /// could not say whether it was what it had shipped.
    Superseded,
}

impl Reason {
    /// A few words for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Diverged => "diverged",
            Self::Unverified => "unverified",
            Self::Displaced => "displaced",
            Self::Damaged => "damaged",
            Self::Unmatched => "unmatched",
            Self::Unnamed => "unnamed",
            Self::Superseded => "superseded",
        }
    }
}

/// Bytes of a piece that lie contiguously in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Position in the stream of the first byte.
    pub lsn: u64,
    /// Its offset in the segment, not in the piece.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What the bytes beside it are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The space.
    pub space: SpaceId,
    /// The segment's name.
    #[serde(with = "segment_name")]
    pub segment: SegmentName,
    /// Which file of that name, as the primary numbered it.
    pub file: u64,
    /// Where in the segment the first byte lay.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
    /// Where they lay in the stream; bytes that no run names are in none.
    pub extents: Vec<Extent>,
    /// The epochs in which they were received.
    pub epochs: Vec<Epoch>,
    /// The epoch of the primary that had them cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<Epoch>,
}

mod segment_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::ids::SegmentName;

    pub(super) fn serialize<S: Serializer>(name: &SegmentName, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(name)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<SegmentName, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// `<space>/<file name>`: what it is asked for by.
    pub id: String,
    /// The space.
    pub space: SpaceId,
    /// Where the bytes are.
    pub path: PathBuf,
    /// How many there are.
    pub bytes: u64,
    /// What they are; nothing if the manifest is missing or cannot be read:
    /// the process was stopped before it was done, and the bytes are still
    /// where they were.
    pub manifest: Option<Manifest>,
}

/// Where the manifest of these bytes is.
pub(super) fn manifest_path(bytes: &Path) -> PathBuf {
    let mut name = bytes.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// All pieces below `root`, which need not exist, by space and name.
///
/// # Errors
///
/// A directory cannot be read.
pub fn list(root: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for entry in entries(root)? {
        let name = entry.file_name();
        if let Some(space) = name.to_str().and_then(|name| name.parse().ok()) {
            pieces.extend(of_space(&entry.path(), &space)?);
        }
    }
    pieces.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(pieces)
}

/// The piece of that id below `root`; `None` if there is none.
///
/// # Errors
///
/// A directory cannot be read.
pub fn find(root: &Path, id: &str) -> io::Result<Option<Piece>> {
    Ok(list(root)?.into_iter().find(|piece| piece.id == id))
}

/// How many pieces a space has below `root`, and their bytes.
///
/// # Errors
///
/// The directory cannot be read.
pub fn tally(root: &Path, space: &SpaceId) -> io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in entries(&root.join(space.as_str()))? {
        let metadata = entry.metadata()?;
        if is_piece(&entry.file_name()) && metadata.len() > 0 {
            sum = (sum.0 + 1, sum.1 + metadata.len());
        }
    }
    Ok(sum)
}

fn of_space(directory: &Path, space: &SpaceId) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for entry in entries(directory)? {
        let name = entry.file_name();
        let metadata = entry.metadata()?;
        // An empty file is a name that was reserved and never used.
        if !is_piece(&name) || metadata.len() == 0 {
            continue;
        }
        let path = entry.path();
        pieces.push(Piece {
            id: format!("{space}/{}", name.to_string_lossy()),
            space: space.clone(),
            manifest: manifest(&path),
            bytes: metadata.len(),
            path,
        });
    }
    Ok(pieces)
}

/// A directory that is not there has no entries.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_piece(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("wal-") && !name.ends_with(".json"))
}

/// What is written beside these bytes.
pub(super) fn manifest(bytes: &Path) -> Option<Manifest> {
    let path = manifest_path(bytes);
    let small = fs::metadata(&path).is_ok_and(|found| found.len() <= MAX_MANIFEST_BYTES);
    small.then(|| serde_json::from_slice(&fs::read(&path).ok()?).ok()).flatten()
}
