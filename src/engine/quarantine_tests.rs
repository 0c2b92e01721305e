//! A copy that an attempt has left which was stopped behind it, and one for which
//! there is no room.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::ids::{Epoch, SegmentName};
use crate::state::host::ThisHost;

/// A file of three slices and a bit, of which all but the first byte is copied.
struct Bench {
    root: tempfile::TempDir,
    quarantine: Quarantine,
    manifest: Manifest,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let space: SpaceId = "alpha".parse().unwrap();
        let bytes = 3 * CUT_SLICE_BYTES + 1;
        fs::write(root.path().join("file"), vec![7; usize::try_from(bytes + 1).unwrap()]).unwrap();
        let quarantine =
            Quarantine::new(Arc::new(ThisHost), &root.path().join("quarantine"), &space);
        let manifest = Manifest {
            space,
            segment: SegmentName(5),
            file: 5,
            offset: 1,
            bytes,
            reason: Reason::Unnamed,
            extents: vec![Extent { lsn: 1, offset: 1, bytes }],
            epochs: vec![Epoch::FIRST],
            superseded_by: None,
        };
        Self { root, quarantine, manifest }
    }

    /// Where the copy is, and how often others were looked after.
    fn copy(&self, manifest: &Manifest) -> (PathBuf, usize) {
        let mut turns = 0;
        let file = self.root.path().join("file");
        (self.quarantine.copy(&file, manifest, &mut || turns += 1).unwrap(), turns)
    }
}

/// Each was read to its end, tens of gigabytes perhaps, while all spaces waited.
#[test]
fn a_copy_that_was_made_before_is_compared_in_slices() {
    let bench = Bench::new();
    let (made, turns) = bench.copy(&bench.manifest);
    assert_eq!(turns, 3);
    assert_eq!(bench.copy(&bench.manifest), (made.clone(), 3));
    // One that differs is compared up to there.
    let mut content = fs::read(&made).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&made, content).unwrap();
    let (again, turns) = bench.copy(&bench.manifest);
    assert!(again != made);
    assert_eq!(turns, 6);
}

#[test]
fn a_copy_that_was_made_before_another_epoch_began_is_not_made_again() {
    let bench = Bench::new();
    let (made, _) = bench.copy(&bench.manifest);
    let epochs = vec![Epoch::FIRST, Epoch(2)];
    let later = Manifest { epochs, ..bench.manifest.clone() };
    assert_eq!(bench.copy(&later).0, made);
    assert_eq!(piece::manifest(&made).unwrap(), bench.manifest, "and was received in the first");
    let other = Manifest { reason: Reason::Diverged, ..later };
    assert!(bench.copy(&other).0 != made);
}

/// A piece that has rotted away kept the file from ever being copied.
#[test]
fn a_piece_that_cannot_be_read_is_not_taken_for_the_copy() {
    let bench = Bench::new();
    let (made, _) = bench.copy(&bench.manifest);
    fs::remove_file(&made).unwrap();
    fs::create_dir(&made).unwrap();
    let (again, _) = bench.copy(&bench.manifest);
    assert!(again != made && fs::metadata(again).unwrap().len() == bench.manifest.bytes);
}

/// The copy was begun, filled the disk, was removed, and begun again: all other
/// spaces of the replica stood still meanwhile.
#[test]
fn what_has_no_room_to_be_kept_is_not_cut_and_not_a_byte_of_it_is_written() {
    let mut bench = Bench::new();
    let file = bench.root.path().join("file");
    let had = fs::read(&file).unwrap();
    bench.quarantine.free_bytes = |_| Ok(3 * CUT_SLICE_BYTES);
    let error = bench.quarantine.cut(&file, &bench.manifest, &mut || {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().ends_with(": 1 more are needed"), "{error}");
    assert!(!bench.root.path().join("quarantine").exists());
    assert_eq!(fs::read(&file).unwrap(), had);
    // None has to stay free: the cut gives back what the copy takes.
    bench.quarantine.free_bytes = |_| Ok(3 * CUT_SLICE_BYTES + 1);
    let kept = bench.quarantine.cut(&file, &bench.manifest, &mut || {}).unwrap();
    assert_eq!(fs::read(kept).unwrap(), had[1..]);
    assert_eq!(fs::read(&file).unwrap(), had[..1]);
}

/// It is what a host's crash leaves of a file that grew, and to cut it gives room.
#[test]
fn a_tail_of_zeroes_needs_no_room_to_be_kept() {
    let mut bench = Bench::new();
    let file = bench.root.path().join("file");
    let bytes = usize::try_from(3 * CUT_SLICE_BYTES + 2).unwrap();
    fs::write(&file, vec![0; bytes]).unwrap();
    bench.quarantine.free_bytes = |_| Ok(0);
    let kept = bench.quarantine.cut(&file, &bench.manifest, &mut || {}).unwrap();
    assert_eq!(fs::read(kept).unwrap(), vec![0; bytes - 1]);
}
