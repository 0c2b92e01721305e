//! Facts about `saltus wal`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::cli::UsageError;
use crate::wal::discover;

/// Run a command; its answer and its output.
fn run_to_text(command: WalCommand, json: bool) -> (bool, String) {
    let mut out = Vec::new();
    let answer = execute(command, json, &mut out).unwrap();
    (answer, String::from_utf8(out).unwrap())
}

fn write_command(dir: &Path, records: u64) -> WalCommand {
    WalCommand::Write {
        dir: dir.to_path_buf(),
        records,
        record_bytes: 100,
        rate: 0,
        segment_bytes: 1000,
        fsync: FsyncChoice::Never,
    }
}

fn verify_command(path: &Path) -> WalCommand {
    WalCommand::Verify { path: path.to_path_buf(), allow_no_checksums: false }
}

#[test]
fn what_was_written_is_whole_and_lines_hold_in_80_columns() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("space/wal");
    let (_, text) = run_to_text(write_command(&dir, 20), true);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&document["records"], &document["last_sequence"]), (&json!(20), &json!(19)));
    let (whole, text) = run_to_text(verify_command(&dir), false);
    assert!(whole && text.contains("whole: 4 segments, 20 records, 3280 bytes"), "{text}");
    let command = WalCommand::Inspect { path: dir.clone(), records: true };
    let (_, records) = run_to_text(command, false);
    assert_eq!(records.lines().filter(|line| line.contains("EpisodeStore")).count(), 20);
    for line in text.lines().chain(records.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn verify_says_no_and_names_every_bad_range() {
    let root = tempfile::tempdir().unwrap();
    run_to_text(write_command(root.path(), 5), false);
    let name = discover::segments(root.path()).unwrap()[0].to_string();
    let path = root.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    bytes.truncate(800);
    fs::write(&path, bytes).unwrap();
    let (whole, text) = run_to_text(verify_command(&path), false);
    assert!(!whole);
    assert!(text.contains("bad range: 164 bytes at 0..164"), "{text}");
    assert!(text.contains("torn tail: 144 bytes at 656..800"), "{text}");
    let (_, text) = run_to_text(verify_command(&path), true);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["segments"][0]["bad"][0]["next_record"], 164);
    assert_eq!(document["segments"][0]["bad"][1]["next_record"], Value::Null);
}

#[test]
fn compare_says_what_differs() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    run_to_text(write_command(&a, 5), false);
    fs::create_dir(&b).unwrap();
    let name = discover::segments(&a).unwrap()[0].to_string();
    fs::copy(a.join(&name), b.join(&name)).unwrap();
    let compare = || WalCommand::Compare { first: a.clone(), second: b.clone() };
    assert!(run_to_text(compare(), false).0);
    let mut bytes = fs::read(b.join(&name)).unwrap();
    bytes[400] ^= 1;
    fs::write(b.join(&name), bytes).unwrap();
    let (identical, text) = run_to_text(compare(), false);
    assert!(!identical && text.contains("differs from byte 400 on, in record 2"), "{text}");
    let (_, text) = run_to_text(compare(), true);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["differences"][0]["record"], 2);
}

#[test]
fn a_closed_standard_output_is_told_from_other_errors() {
    let closed = io::Error::from(ErrorKind::BrokenPipe);
    assert!(is_broken_pipe(&anyhow::Error::from(closed).context("cannot write")));
    let full = io::Error::from(ErrorKind::StorageFull);
    assert!(!is_broken_pipe(&full.into()));
}

#[test]
fn nothing_is_not_whole_and_not_identical() {
    let root = tempfile::tempdir().unwrap();
    let refused = |command| {
        let error = execute(command, false, &mut Vec::new()).unwrap_err();
        assert!(
            error.is::<UsageError>() && error.to_string().contains("no segments in"),
            "{error}"
        );
    };
    refused(verify_command(root.path()));
    refused(WalCommand::Inspect { path: root.path().into(), records: false });
    refused(WalCommand::Compare { first: root.path().into(), second: root.path().into() });
    // An empty log says that it is one.
    let wal = root.path().join("space/wal");
    fs::create_dir_all(&wal).unwrap();
    assert_eq!(run_to_text(verify_command(&wal), false), (true, "empty: no segments\n".into()));
    let (_, text) = run_to_text(verify_command(&wal), true);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["empty"], true);
    let compare = WalCommand::Compare { first: wal.clone(), second: wal };
    let empty = (true, "empty: no segments on either side\n".into());
    assert_eq!(run_to_text(compare, false), empty);
}

#[test]
fn a_data_root_is_looked_at_space_by_space() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    for space in ["alpha", "beta"] {
        run_to_text(write_command(&a.join(space).join("wal"), 3), false);
    }
    let copy = |space: &str| {
        let wal = b.join(space).join("wal");
        fs::create_dir_all(&wal).unwrap();
        for name in discover::segments(&a.join(space).join("wal")).unwrap() {
            let name = name.to_string();
            fs::copy(a.join(space).join("wal").join(&name), wal.join(&name)).unwrap();
        }
        wal
    };
    let compare = |json| {
        let command = WalCommand::Compare { first: a.clone(), second: b.clone() };
        run_to_text(command, json)
    };
    copy("alpha");
    let (identical, text) = compare(false);
    assert!(!identical && text.contains("beta\nDIFFERENT: the space is only in"), "{text}");
    assert!(
        text.ends_with(
            "DIFFERENT: 2 spaces, 1 segment in both, 3 records, 492 bytes, 1 difference\n"
        ),
        "{text}"
    );
    let wal = copy("beta");
    assert!(compare(false).0 && compare(true).0);
    let (whole, text) = run_to_text(verify_command(&b), false);
    assert!(
        whole
            && text.ends_with("whole: 2 spaces, 2 segments, 6 records, 984 bytes, 0 bad ranges\n"),
        "{text}"
    );
    // One bad byte in one space, and a tail that is too short for a header.
    let path = wal.join(discover::segments(&wal).unwrap()[0].to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    bytes.push(0xef);
    fs::write(&path, bytes).unwrap();
    let (whole, text) = run_to_text(verify_command(&b), false);
    assert!(!whole && text.contains("header of 64 bytes, only 1 of them are there"), "{text}");
    let (_, text) = run_to_text(verify_command(&b), true);
    let document: Value = serde_json::from_str(&text).unwrap();
    let whole = |space: usize| document["spaces"][space]["whole"].as_bool().unwrap();
    assert!(whole(0) && !whole(1) && document["whole"] == false, "{document}");
    assert_eq!(document["spaces"][1]["space"], "beta");
    assert!(!compare(false).0);
}
