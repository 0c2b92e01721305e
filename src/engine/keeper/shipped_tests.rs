//! Files that are looked for by their pins and their names.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::ids::SegmentName;
use crate::state::catalog::Retired;
use crate::state::host::ThisHost;

/// The directory of a space, and what the catalog knows of its files.
struct Directory {
    root: tempfile::TempDir,
    pins: Pins,
    places: Places,
    record: SpaceRecord,
}

impl Directory {
    /// With so many segments of the stream, each with its name and without a pin.
    fn of(segments: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (data_root, state_dir) = (root.path().to_path_buf(), root.path().join(".saltus"));
        fs::create_dir_all(&state_dir).unwrap();
        let places = Places { data_root, state_dir, host: Arc::new(ThisHost) };
        let pins = Pins::open(&places.state_dir).unwrap();
        fs::create_dir_all(places.wal(&space())).unwrap();
        let record = SpaceRecord::new(Role::Primary, StreamId(5), vec![(Epoch::FIRST, Lsn::ZERO)]);
        let mut directory = Self { root, pins, places, record };
        for file in 1..=segments {
            fs::write(directory.path(file), b"").unwrap();
            directory.number(file, file);
            let (segment, start) = (SegmentName(file), Lsn(64 * file));
            directory.record.runs.open(Run { start, segment, file, offset: 0, bytes: None });
        }
        directory
    }

    /// The file that has a name now gets a number.
    fn number(&mut self, name: u64, file: u64) {
        let segment = SegmentName(name);
        let found = Segment::open_as(segment, &self.path(name)).unwrap();
        let Identity { device, inode, birth_ns } = found.identity;
        self.record.files.push(FileRecord { file, segment, device, inode, birth_ns });
    }

    fn path(&self, file: u64) -> PathBuf {
        self.places.wal(&space()).join(SegmentName(file).to_string())
    }

    /// The file that has a name now is pinned as `file`.
    fn pin(&self, file: u64, name: u64) {
        let pin = self.pins.path(&space(), file);
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        fs::hard_link(self.path(name), pin).unwrap();
    }

    /// Another file takes over the name of one.
    fn take_over(&self, file: u64) {
        let other = self.root.path().join("other");
        fs::write(&other, b"other").unwrap();
        fs::rename(other, self.path(file)).unwrap();
    }

    /// Whether a file is lost; none if it is there.
    fn is_lost(&self, file: u64) -> Option<bool> {
        match open_numbered(&self.pins, &self.places, &space(), &self.record, file) {
            Ok(_) => None,
            Err(Unopened::Gone { lost, .. }) => Some(lost),
            Err(Unopened::Unreadable(why)) => panic!("{why}"),
        }
    }
}

fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

/// No pin of it could be taken. The space waited for a person, and no compaction helped;
/// of one whose name had only been taken away it went on by itself.
#[test]
fn a_segment_whose_name_was_taken_over_is_lost_as_one_that_has_lost_it() {
    let directory = Directory::of(3);
    fs::remove_file(directory.path(1)).unwrap();
    directory.take_over(2);
    assert_eq!([1, 2, 3].map(|file| directory.is_lost(file)), [Some(true), Some(true), None]);
    // That has its pin alone.
    directory.pin(3, 3);
    directory.take_over(3);
    assert_eq!([2, 3].map(|file| directory.is_lost(file)), [Some(true), None]);
}

#[test]
fn nothing_is_lost_of_what_may_be_a_copy_or_was_let_go_of() {
    // All of it may have been copied here, and was numbered.
    let mut directory = Directory::of(2);
    for name in [1, 2] {
        directory.take_over(name);
        directory.number(name, 10 + name);
    }
    assert_eq!([1, 2, 11].map(|file| directory.is_lost(file)), [Some(false), Some(false), None]);

    // It was the only one.
    directory = Directory::of(1);
    directory.take_over(1);
    directory.number(1, 2);
    assert_eq!([1, 2].map(|file| directory.is_lost(file)), [Some(false), None]);

    directory = Directory::of(2);
    directory.take_over(1);
    directory.record.retired.insert(1, Retired::Gone);
    assert_eq!([1, 2].map(|file| directory.is_lost(file)), [Some(false), None]);

    // The directory is not there.
    fs::remove_dir_all(directory.places.wal(&space())).unwrap();
    assert_eq!([1, 2, 9].map(|file| directory.is_lost(file)), [Some(false); 3]);
}

#[test]
fn a_pin_that_leads_to_another_file_tells_nothing() {
    let directory = Directory::of(2);
    directory.pin(1, 2);
    assert_eq!(directory.is_lost(1), None, "its name leads to it");
    fs::remove_file(directory.path(1)).unwrap();
    assert_eq!(directory.is_lost(1), Some(false));
}
