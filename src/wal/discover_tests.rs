#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

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

fn root_with(directories: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in directories {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    root
}

fn names(ignored: &[Ignored]) -> Vec<&str> {
    ignored.iter().map(|ignored| ignored.name.to_str().unwrap()).collect()
}

#[test]
fn log_under_an_impossible_name_is_ignored_by_name() {
    let long = "l".repeat(70);
    let long_wal = format!("{long}/wal");
    let root = root_with(&[
        "alpha/wal",
        "Space Three/wal",
        "UPPER/wal",
        "x/wal",
        "a.b/wal",
        &long_wal,
        ".hidden/wal",
        ".saltus/wal",
        "No Log",
    ]);
    fs::write(root.path().join("A FILE"), b"").unwrap();
    let found = look(root.path(), |_| false).unwrap();
    assert_eq!(found.spaces, ["alpha".parse().unwrap()]);
    assert_eq!(names(&found.ignored), ["Space Three", "UPPER", "a.b", &long, "x"]);
    assert!(found.ignored.iter().all(|i| i.reason.contains("3 to 64 characters of a-z")));
    assert_eq!(found.strangers, ["No Log"]);
}

#[test]
fn log_with_two_names_is_one_space() {
    let root = root_with(&["beta/wal", "delta"]);
    let link = |to: &str, name: &str| symlink(to, root.path().join(name)).unwrap();
    // Sorts before the real one, and is not preferred to it.
    link("beta", "alpha");
    link("../beta/wal", "delta/wal");
    // These lead nowhere, or to themselves.
    link("nothing", "gone");
    link("loop", "loop");
    let found = look(root.path(), |_| false).unwrap();
    assert_eq!(found.spaces, ["beta".parse().unwrap()]);
    assert_eq!(names(&found.ignored), ["alpha", "delta", "loop"]);
    assert!(found.ignored[0].reason.contains("space beta"), "{found:?}");
    // What was shipped under one of the names stays under that one.
    let found = look(root.path(), |space| space.as_str() == "alpha").unwrap();
    assert_eq!(found.spaces, ["alpha".parse().unwrap()]);
    assert_eq!(names(&found.ignored), ["beta", "delta", "loop"]);
}

#[test]
fn log_that_lies_elsewhere_is_a_space() {
    let elsewhere = root_with(&["data/wal"]);
    let root = root_with(&[]);
    symlink(elsewhere.path().join("data"), root.path().join("alpha")).unwrap();
    let found = look(root.path(), |_| false).unwrap();
    assert_eq!(found.spaces, ["alpha".parse().unwrap()]);
    assert_eq!(found.ignored, []);
}
