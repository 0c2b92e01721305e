//! Byte comparison of log directories, segment by segment.
//!
//! Stricter than a comparison of records: names, lengths and every byte must
//! agree. Segments of size zero hold no record and are left out on both sides.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::ids::SegmentName;

/// Bytes compared at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// Where two directories part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// Only one of them has the segment.
    #[error("{segment} is in {present} and not in {absent}", present = present.display(),
        absent = absent.display())]
    Missing {
        /// The segment.
        segment: SegmentName,
        /// Who has it.
        present: PathBuf,
        /// Who lacks it.
        absent: PathBuf,
    },
    /// The segment is longer in one of them; the shared part is equal or not.
    #[error("{segment} has {left} bytes in {directory}, and {right} in the other")]
    Length {
        /// The segment.
        segment: SegmentName,
        /// The directory that was named first.
        directory: PathBuf,
        /// Its length there.
        left: u64,
        /// Its length in the other.
        right: u64,
    },
    /// The segment has the same length and another content.
    #[error("{segment} differs from byte {offset} on")]
    Content {
        /// The segment.
        segment: SegmentName,
        /// The first byte that differs.
        offset: u64,
    },
}

/// What a comparison has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Segments that are equal.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Every difference, in the order of the names.
    pub differences: Vec<Difference>,
}

/// Compare the segments of two log directories. Neither may be written to
/// meanwhile.
///
/// # Errors
///
/// A directory or a segment cannot be read.
pub fn compare(left: &Path, right: &Path) -> io::Result<Comparison> {
    let (of_left, of_right) = (segments(left)?, segments(right)?);
    let mut comparison = Comparison::default();
    for (&segment, &bytes) in &of_left {
        match of_right.get(&segment) {
            None => comparison.differences.push(Difference::Missing {
                segment,
                present: left.into(),
                absent: right.into(),
            }),
            Some(&other) if other != bytes => comparison.differences.push(Difference::Length {
                segment,
                directory: left.into(),
                left: bytes,
                right: other,
            }),
            Some(_) => {
                let name = segment.to_string();
                match first_difference(&left.join(&name), &right.join(&name))? {
                    Some(offset) => {
                        comparison.differences.push(Difference::Content { segment, offset });
                    }
                    None => {
                        comparison.segments += 1;
                        comparison.bytes += bytes;
                    }
                }
            }
        }
    }
    for &segment in of_right.keys().filter(|segment| !of_left.contains_key(segment)) {
        comparison.differences.push(Difference::Missing {
            segment,
            present: right.into(),
            absent: left.into(),
        });
    }
    Ok(comparison)
}

/// The segments of a directory that are not empty, and their sizes. An absent
/// directory has none.
fn segments(directory: &Path) -> io::Result<BTreeMap<SegmentName, u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut segments = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let bytes = entry.metadata()?.len();
        if bytes > 0 {
            segments.insert(name, bytes);
        }
    }
    Ok(segments)
}

/// The first byte in which two files of one length differ.
fn first_difference(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut offset = 0;
    loop {
        let (of_a, of_b) = (fill(&mut left, &mut a)?, fill(&mut right, &mut b)?);
        let shared = of_a.min(of_b);
        if let Some(index) = a[..shared].iter().zip(&b[..shared]).position(|(x, y)| x != y) {
            return Ok(Some(offset + index as u64));
        }
        offset += shared as u64;
        if of_a != of_b {
            return Ok(Some(offset));
        }
        if of_a < BLOCK_BYTES {
            return Ok(None);
        }
    }
}

/// Read until the block is full or the file ends.
fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn directories() -> (tempfile::TempDir, tempfile::TempDir) {
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
    }

    fn write(directory: &tempfile::TempDir, segment: u64, bytes: &[u8]) {
        fs::write(directory.path().join(SegmentName(segment).to_string()), bytes).unwrap();
    }

    #[test]
    fn equal_directories_are_identical() {
        let (a, b) = directories();
        let long = vec![7; 2 * BLOCK_BYTES];
        for directory in [&a, &b] {
            write(directory, 1, &long);
            write(directory, 2, b"xyz");
        }
        write(&a, 3, b"");
        fs::write(b.path().join("wal-0000000000000004.log.tmp"), "debris").unwrap();
        let comparison = compare(a.path(), b.path()).unwrap();
        assert_eq!((comparison.segments, comparison.bytes), (2, long.len() as u64 + 3));
        assert_eq!(comparison.differences, []);
    }

    #[test]
    fn one_flipped_byte_is_found() {
        let (a, b) = directories();
        let mut bytes = vec![7; BLOCK_BYTES + 10];
        write(&a, 1, &bytes);
        bytes[BLOCK_BYTES + 3] ^= 1;
        write(&b, 1, &bytes);
        let offset = BLOCK_BYTES as u64 + 3;
        let difference = Difference::Content { segment: SegmentName(1), offset };
        assert_eq!(compare(a.path(), b.path()).unwrap().differences, [difference]);
    }

    #[test]
    fn missing_segment_and_other_length_are_found_from_either_side() {
        let (a, b) = directories();
        write(&a, 1, b"abc");
        write(&b, 1, b"ab");
        write(&b, 2, b"only here");
        for (left, right) in [(&a, &b), (&b, &a)] {
            let found = compare(left.path(), right.path()).unwrap().differences;
            assert!(matches!(found[0], Difference::Length { .. }), "{found:?}");
            assert!(matches!(found[1], Difference::Missing { .. }), "{found:?}");
        }
    }
}
