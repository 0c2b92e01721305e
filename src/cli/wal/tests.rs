//! Facts about `saltus wal`.

#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
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
