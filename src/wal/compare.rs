//! Comparing two WAL directories: are they the same, byte for byte?
//!
//! Segments are compared, empty ones included; other files that lie around
//! (T9) are not mirrored and not looked at. Where two segments differ, the
//! first difference is named by file, offset and record.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::SegmentName;
use crate::lsn::Mark;
use crate::wal::cursor::{Advance, Cursor, Stop};
use crate::wal::discover::{self, Kind};
use crate::wal::record::Checksums;
use crate::wal::scan::{Item, explain_zeroes, scan};
use crate::wal::search;
use crate::wal::segment::{Segment, SegmentError};

const CHUNK_BYTES: usize = 1 << 20;

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one named first.
    First,
    /// The one named second.
    Second,
}

/// One way in which two directories differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A segment is in one directory only.
    OnlyIn {
        /// Where it is.
        side: Side,
        /// Which.
        segment: SegmentName,
        /// Its size.
        bytes: u64,
    },
    /// A segment differs. If one is the beginning of the other, the first
    /// difference is its end.
    Content {
        /// Which.
        segment: SegmentName,
        /// The first byte that differs.
        offset: u64,
        /// In which record of the segment it lies, counted from 0, as the
        /// first directory has it.
        record: u64,
        /// Sizes of the two files.
        bytes: (u64, u64),
        /// Who has nothing but zeroes there that are no record, and how many.
        zeroes: Option<(Side, u64)>,
    },
}

impl Difference {
    /// A sentence for a person, who knows the two directories by these names.
    pub fn describe(&self, first: &dyn Display, second: &dyn Display) -> String {
        match *self {
            Self::OnlyIn { side, segment, bytes } => {
                let holder = if side == Side::First { first } else { second };
                format!("{segment}: only in {holder}, {bytes} bytes")
            }
            Self::Content { segment, offset, record, bytes: (one, two), zeroes } => {
                let sizes = if one == two {
                    String::new()
                } else {
                    format!(" ({one} bytes against {two})")
                };
                let zeroes = zeroes.map_or_else(String::new, |(side, bytes)| {
                    let holder = if side == Side::First { first } else { second };
                    format!("; in {holder} there are {}", explain_zeroes(bytes))
                });
                format!(
                    "{segment}: differs from byte {offset} on, in record {record}{sizes}{zeroes}"
                )
            }
        }
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Segments that are in both directories.
    pub segments: u64,
    /// Whole records in them, as the first directory has them.
    pub records: u64,
    /// Bytes in them, as the first directory has them.
    pub bytes: u64,
    /// Every segment that differs, by name.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// True if the directories hold the same.
    #[must_use]
    pub const fn is_identical(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Why two directories could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A directory could not be listed.
    #[error("{}: {source}", path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment could not be opened or read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// Compare two WAL directories that hold still.
///
/// # Errors
///
/// See [`CompareError`]. A difference is not an error.
pub fn compare(first: &Path, second: &Path) -> Result<Comparison, CompareError> {
    let (in_first, in_second) = (segments(first)?, segments(second)?);
    let mut names: Vec<_> = in_first.iter().chain(&in_second).map(|&(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let size_in = |list: &[(SegmentName, u64)], name| {
        list.iter().find(|&&(other, _)| other == name).map(|&(_, bytes)| bytes)
    };
    let mut comparison = Comparison::default();
    for segment in names {
        match (size_in(&in_first, segment), size_in(&in_second, segment)) {
            (Some(_), Some(_)) => compare_segment(&mut comparison, first, second, segment)?,
            (Some(bytes), None) => comparison.differences.push(Difference::OnlyIn {
                side: Side::First,
                segment,
                bytes,
            }),
            (None, bytes) => comparison.differences.push(Difference::OnlyIn {
                side: Side::Second,
                segment,
                bytes: bytes.unwrap_or(0),
            }),
        }
    }
    Ok(comparison)
}

fn segments(directory: &Path) -> Result<Vec<(SegmentName, u64)>, CompareError> {
    let entries = discover::entries(directory)
        .map_err(|source| CompareError::List { path: directory.to_path_buf(), source })?;
    let segments = entries.into_iter().filter_map(|entry| match entry.kind {
        Kind::Segment(name) => Some((name, entry.bytes)),
        _ => None,
    });
    Ok(segments.collect())
}

fn compare_segment(
    comparison: &mut Comparison,
    first: &Path,
    second: &Path,
    name: SegmentName,
) -> Result<(), CompareError> {
    let path = first.join(name.to_string());
    let one = Arc::new(Segment::open(&path)?);
    let two = Segment::open(&second.join(name.to_string()))?;
    let failed = |source| SegmentError::from_io(&path, source);
    let bytes = (one.len().map_err(failed)?, two.len().map_err(failed)?);
    let differs_at = first_difference(&one.file, &two.file).map_err(failed)?;
    comparison.segments += 1;
    comparison.bytes += bytes.0;
    let (before, all) = count_records(&one, differs_at).map_err(failed)?;
    comparison.records += all;
    if let Some(offset) = differs_at {
        let mut zeroes = None;
        for (side, segment) in [(Side::First, &*one), (Side::Second, &two)] {
            let found = zeroes_around(&segment.file, offset).map_err(failed)?;
            zeroes = zeroes.or(found.map(|bytes| (side, bytes)));
        }
        comparison.differences.push(Difference::Content {
            segment: name,
            offset,
            record: before,
            bytes,
            zeroes,
        });
    }
    Ok(())
}

/// How long the range of zeroes is that holds this offset and is no record.
fn zeroes_around(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let mut found = None;
    scan(file, Checksums::Optional, &mut |item| match item {
        Item::Bad(range) => {
            let behind = range.offset + range.bytes;
            found = found
                .or((range.zeroes && (range.offset..behind).contains(&offset))
                    .then_some(range.bytes));
            behind <= offset
        }
        Item::Record { offset: at, .. } => at <= offset,
    })?;
    Ok(found)
}

/// The offset of the first byte that is not the same in both files.
fn first_difference(one: &File, two: &File) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut offset = 0;
    loop {
        let have = search::read_up_to(one, &mut left, offset)?;
        let other = search::read_up_to(two, &mut right, offset)?;
        let (left, right) = (&left[..have], &right[..other]);
        if left != right {
            let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + same as u64));
        }
        if have == 0 {
            return Ok(None);
        }
        offset += have as u64;
    }
}

/// Whole records of a segment: those that end at or before `offset`, and all.
fn count_records(segment: &Arc<Segment>, offset: Option<u64>) -> io::Result<(u64, u64)> {
    let mut cursor = Cursor::new(Arc::clone(segment), 0, Mark::START, Checksums::Optional);
    let mut before = 0;
    // Where the file stands ahead of the stream, because damage was skipped.
    let mut skipped = 0;
    loop {
        let mut note = |mark: &Mark| {
            if offset.is_some_and(|offset| mark.lsn.0 + skipped <= offset) {
                before = mark.records;
            }
        };
        let Advance { stop, .. } = cursor.advance(u64::MAX, &mut note);
        match stop {
            Stop::Budget | Stop::Corrupt { resync: None, more: true, .. } => {}
            Stop::Corrupt { offset, resync: Some(next), .. } => {
                skipped += next - offset;
                cursor.skip_to(next);
            }
            Stop::Failed { error, .. } => return Err(error),
            Stop::Corrupt { .. } | Stop::End | Stop::Incomplete { .. } | Stop::Shrunk { .. } => {
                return Ok((before, cursor.mark().records));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::wal::record::Header;

    fn records(count: u64) -> Vec<u8> {
        (0..count)
            .flat_map(|n| {
                let mut bytes = Header::new(n, n, 1, &[1; 36]).unwrap().encode().to_vec();
                bytes.extend_from_slice(&[1; 36]);
                bytes
            })
            .collect()
    }

    /// Two directories with these segments.
    fn pair(
        first: &[(u64, Vec<u8>)],
        second: &[(u64, Vec<u8>)],
    ) -> (tempfile::TempDir, Comparison) {
        let root = tempfile::tempdir().unwrap();
        for (side, files) in [("a", first), ("b", second)] {
            let directory = root.path().join(side);
            fs::create_dir(&directory).unwrap();
            for (number, bytes) in files {
                fs::write(directory.join(SegmentName(*number).to_string()), bytes).unwrap();
            }
        }
        let found = compare(&root.path().join("a"), &root.path().join("b")).unwrap();
        (root, found)
    }

    #[test]
    fn equal_directories_are_identical() {
        let files = [(1, records(30_000)), (2, Vec::new()), (3, records(5))];
        let (root, found) = pair(&files, &files);
        assert!(found.is_identical());
        assert_eq!((found.segments, found.records, found.bytes), (3, 30_005, 3_000_500));
        fs::write(root.path().join("a/wal-compact-1"), b"not mirrored").unwrap();
        let again = compare(&root.path().join("a"), &root.path().join("b")).unwrap();
        assert!(again.is_identical());
    }

    #[test]
    fn the_first_difference_is_named_by_offset_and_record() {
        let mut other = records(30_000);
        other[2_000_070] ^= 1;
        let (_root, found) = pair(&[(1, records(30_000))], &[(1, other)]);
        assert_eq!(
            found.differences,
            [Difference::Content {
                segment: SegmentName(1),
                offset: 2_000_070,
                record: 20_000,
                bytes: (3_000_000, 3_000_000),
                zeroes: None,
            }]
        );
    }

    #[test]
    fn zeroes_in_place_of_debris_are_explained_on_the_side_that_has_them() {
        let with = |gap: u8| [records(3), vec![gap; 333], records(2)].concat();
        for (one, other, holder) in [(7, 0, Side::Second), (0, 7, Side::First)] {
            let (_root, found) = pair(&[(1, with(one))], &[(1, with(other))]);
            let [difference @ Difference::Content { offset: 300, zeroes, .. }] =
                found.differences[..]
            else {
                panic!("{found:?}")
            };
            assert_eq!(zeroes, Some((holder, 333)));
            let text = difference.describe(&"a", &"b");
            let name = if holder == Side::First { "a" } else { "b" };
            assert!(text.contains(&format!("in {name} there are 333 zero bytes: on a replica")));
        }
    }

    #[test]
    fn a_shorter_segment_differs_at_its_end() {
        let (_root, found) = pair(&[(1, records(10))], &[(1, records(7))]);
        assert_eq!(
            found.differences,
            [Difference::Content {
                segment: SegmentName(1),
                offset: 700,
                record: 7,
                bytes: (1000, 700),
                zeroes: None,
            }]
        );
    }

    #[test]
    fn t10_an_empty_segment_that_is_missing_is_a_difference() {
        let (_root, found) = pair(&[(1, records(1)), (2, Vec::new())], &[(1, records(1))]);
        assert_eq!(
            found.differences,
            [Difference::OnlyIn { side: Side::First, segment: SegmentName(2), bytes: 0 }]
        );
    }
}
