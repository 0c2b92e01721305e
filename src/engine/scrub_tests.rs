//! Scrubbing of real files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Instant;

use super::*;
use crate::ids::SegmentName;

/// Bytes of each record: 64 of header, 236 of payload.
const RECORD: u64 = 300;
const DEADLINE: Duration = Duration::from_secs(60);

fn records(from: u64, count: u64) -> Vec<u8> {
    let one = |sequence: u64| {
        let payload = vec![sequence.to_le_bytes()[0]; 236];
        let header = Header::new(sequence, 1_000 + sequence, 1, &payload).unwrap();
        [header.encode().as_slice(), &payload].concat()
    };
    (from..from + count).flat_map(one).collect()
}

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    /// Two segments of a space, of 10,000 and 100 records.
    fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.root.path().join("alpha/wal")).unwrap();
        fs::write(place.segment(1), records(0, 10_000)).unwrap();
        fs::write(place.segment(2), records(10_000, 100)).unwrap();
        place
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.root.path().join("alpha/wal").join(SegmentName(number).to_string())
    }

    fn flip(&self, number: u64, at: u64) {
        let mut bytes = fs::read(self.segment(number)).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        fs::write(self.segment(number), bytes).unwrap();
    }

    fn append(&self, number: u64, more: &[u8]) {
        let mut bytes = fs::read(self.segment(number)).unwrap();
        bytes.extend_from_slice(more);
        fs::write(self.segment(number), bytes).unwrap();
    }

    fn start(&self, options: ScrubOptions) -> ScrubHandle {
        let spaces: Spaces =
            Arc::new(|| vec![("alpha".parse().unwrap(), PathBuf::from("alpha/wal"))]);
        Scrubber::start(self.root.path(), spaces, options).unwrap()
    }

    /// The report of one pass.
    fn scrub(&self) -> ScrubReport {
        let handle = self.start(at_once());
        assert!(handle.wait_for_passes(1, DEADLINE));
        handle.report()
    }
}

fn at_once() -> ScrubOptions {
    ScrubOptions {
        bytes_per_second: u64::MAX,
        first_delay: Duration::ZERO,
        confirm_delay: Duration::ZERO,
        ..ScrubOptions::default()
    }
}

fn ranges(report: &ScrubReport) -> Vec<(u64, u64)> {
    report.bad.iter().map(|range| (range.offset, range.bytes)).collect()
}

#[test]
fn a_whole_log_has_no_bad_range() {
    let report = Place::new().scrub();
    assert_eq!((report.segments, report.records, report.bytes), (2, 10_100, 10_100 * RECORD));
    assert_eq!((report.bad_ranges, report.unfinished_tails, report.unreadable), (0, 0, 0));
    assert_eq!(report.bad, []);
}

#[test]
fn one_flipped_byte_is_reported_as_one_record() {
    // In a payload, in a header, in the record that lies across two reads, in
    // the last record.
    for (at, record) in [(5_100, 17), (5_110, 17), (1 << 20, 3495), (2_999_999, 9_999)] {
        let place = Place::new();
        place.flip(1, at);
        let report = place.scrub();
        assert_eq!(ranges(&report), [(record * RECORD, RECORD)], "byte {at}");
        assert_eq!(report.bad[0].path, place.segment(1));
        assert_eq!((report.bad_ranges, report.bad_bytes), (1, RECORD));
        assert_eq!(report.records, 10_099, "all others were verified");
    }
}

#[test]
fn debris_is_reported_up_to_the_next_good_record() {
    let place = Place::new();
    place.append(2, &[0xee; 1234]);
    place.append(2, &records(0, 5));
    place.flip(2, 7);
    let report = place.scrub();
    assert_eq!(ranges(&report), [(0, RECORD), (100 * RECORD, 1234)]);
    assert_eq!(report.records, 10_000 + 99 + 5);
}

#[test]
fn a_growing_tail_is_not_damage() {
    for torn in [1, 64, 100, 299] {
        let place = Place::new();
        place.append(2, &records(0, 1)[..torn]);
        let report = place.scrub();
        assert_eq!(report.bad, [], "{torn} bytes");
        assert_eq!(report.unfinished_tails, 1);
    }
    let place = Place::new();
    place.append(2, &[0; 8192]);
    let report = place.scrub();
    assert_eq!((report.bad.len(), report.unfinished_tails), (0, 1));
}

#[test]
fn garbage_at_the_end_is_damage() {
    let place = Place::new();
    place.append(2, &[7; 100]);
    assert_eq!(ranges(&place.scrub()), [(100 * RECORD, 100)]);
}

#[test]
fn what_was_mended_leaves_the_report() {
    let place = Place::new();
    place.flip(2, 100);
    let handle = place.start(ScrubOptions { interval: Duration::ZERO, ..at_once() });
    assert!(handle.wait_for_passes(2, DEADLINE));
    assert_eq!(ranges(&handle.report()), [(0, RECORD)], "found twice, listed once");
    place.flip(2, 100);
    // The pass under way may have seen the damage; the one after it has not.
    let passes = handle.report().passes;
    assert!(handle.wait_for_passes(passes + 2, DEADLINE));
    assert_eq!(handle.report().bad, []);
}

#[test]
fn the_listing_is_bounded_and_the_count_is_not() {
    let place = Place::new();
    let mut bytes = fs::read(place.segment(1)).unwrap();
    for record in (0..2 * MAX_LISTED_BAD_RANGES).map(|number| number * 10) {
        bytes[record * 300 + 70] ^= 1;
    }
    fs::write(place.segment(1), bytes).unwrap();
    let report = place.scrub();
    assert_eq!(report.bad.len(), MAX_LISTED_BAD_RANGES);
    assert_eq!(report.bad_ranges, 2 * MAX_LISTED_BAD_RANGES as u64);
}

#[test]
fn damage_that_does_not_last_is_not_reported() {
    // A write that lies before another one ends after it.
    let place = Place::new();
    let whole = fs::read(place.segment(1)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(place.segment(1)).unwrap();
    let hole = 900..90_000;
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; hole.len()], 900).unwrap();
    let late = ScrubOptions { confirm_delay: Duration::from_secs(1), ..at_once() };
    let handle = place.start(late);
    let deadline = Instant::now() + DEADLINE;
    while handle.report().bytes == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    std::os::unix::fs::FileExt::write_all_at(&file, &whole[hole], 900).unwrap();
    assert!(handle.wait_for_passes(1, DEADLINE));
    assert_eq!(handle.report().bad, []);
    assert_eq!(handle.report().records, 10_100);
}

#[test]
fn a_stop_does_not_wait_for_the_pass() {
    let place = Place::new();
    // At this rate the first piece alone is an hour's worth.
    let slow = ScrubOptions { bytes_per_second: 300, ..at_once() };
    place.start(slow).stop();
    // Before the first pass there is nothing to wait for either.
    place.start(ScrubOptions::default()).stop();
}

#[test]
fn a_directory_that_is_gone_is_no_error_and_other_names_are_no_segments() {
    let place = Place::new();
    fs::write(place.root.path().join("alpha/wal/notes.txt"), b"text").unwrap();
    assert_eq!(place.scrub().segments, 2);
    fs::remove_dir_all(place.root.path().join("alpha")).unwrap();
    let report = place.scrub();
    assert_eq!((report.segments, report.unreadable), (0, 0));
}

#[test]
fn reading_keeps_to_its_rate() {
    let mut pace = Pace { begun: Instant::now(), bytes: 0, bytes_per_second: 1000 };
    let hour = Duration::from_secs(3600);
    assert!(pace.delay(7_200_000, Instant::now()) > hour);
    pace.begun -= 3 * hour;
    // Two hours' worth was read in three hours: on from here, without a burst.
    assert!(pace.delay(0, Instant::now()).is_zero());
    assert!(pace.delay(3_600_000, Instant::now()) > hour / 2);
}
