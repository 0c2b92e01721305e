#![allow(clippy::unwrap_used)]

use super::*;

fn gap(from_lsn: u64, to_lsn: u64, side: usize) -> Gap {
    Gap { from_lsn, to_lsn, side, why: "gone".into() }
}

/// What is said of a space of 100 bytes with these gaps and differing parts.
fn verdict(gaps: Vec<Gap>, parts_different: u64) -> Verdict {
    let outcome = Outcome { gaps, parts_different, ..Outcome::default() };
    SpaceReport::new("alpha".parse().unwrap(), [100, 120], outcome).verdict
}

#[test]
fn only_a_front_that_is_gone_leaves_a_copy_equal() {
    assert_eq!(verdict(vec![], 0), Verdict::Equal);
    assert_eq!(verdict(vec![gap(0, 40, 0)], 0), Verdict::Equal);
    assert_eq!(verdict(vec![gap(0, 40, 0), gap(40, 60, 1)], 0), Verdict::Equal);
    assert_eq!(verdict(vec![gap(0, 40, 0), gap(50, 60, 0)], 0), Verdict::NotCompared);
    assert_eq!(verdict(vec![gap(50, 60, 0)], 0), Verdict::NotCompared);
    assert_eq!(verdict(vec![gap(0, 100, 0)], 0), Verdict::NotCompared);
    assert_eq!(verdict(vec![gap(50, 60, 0)], 1), Verdict::Different);
}

#[test]
fn a_log_that_was_not_read_yet_is_equal_to_nothing() {
    let status = |role: &str, head_lsn: u64, head_known: bool| -> NodeStatus {
        let text = format!(
            r#"{{"node": "one", "cluster": "test", "version": "0", "pid": 1, "backend": "uring",
            "replication_address": null, "scrub": {{"segments": 0, "bytes": 0, "passes": 0,
            "bad_ranges": []}}, "spaces": [{{"space": "alpha", "role": "{role}", "epoch": 1,
            "head_lsn": {head_lsn}, "head_known": {head_known}, "head_sequence": 0}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let durable_of = |role: &str, head_lsn: u64, head_known: bool| {
        durable_on(&status(role, head_lsn, head_known), &"alpha".parse().unwrap())
    };
    let durable = |head_lsn, head_known| durable_of("primary", head_lsn, head_known);
    assert!(durable(0, false).unwrap_err().contains("one has not read its log"));
    assert_eq!(durable(0, true), Ok(0), "there is nothing in it");
    assert_eq!(durable(70, false), Ok(70), "that much was read");
    // What a replica had it may have lost.
    assert!(durable_of("replica", 70, false).unwrap_err().contains("one does not know"));
    assert_eq!(durable_of("replica", 70, true), Ok(70));
    // Nor is one that only the other node has.
    let lacking = durable_on(&status("replica", 70, true), &"beta".parse().unwrap());
    assert_eq!(lacking.unwrap_err(), "one does not have it");
}

#[test]
fn other_streams_and_other_chains_are_differences() {
    let report = |streams: [&str; 2], chains: [&str; 2]| {
        let streams = streams.map(str::to_owned);
        let chains = chains.map(|chain| Some((90, chain.to_owned())));
        let outcome = Outcome { streams, chains, ..Outcome::default() };
        SpaceReport::new("alpha".parse().unwrap(), [100, 100], outcome)
    };
    assert_eq!(report(["a", "a"], ["c", "c"]).verdict, Verdict::Equal);
    assert_eq!(report(["a", "b"], ["c", "c"]).verdict, Verdict::Different);
    let report = report(["a", "a"], ["c", "d"]);
    assert_eq!(report.verdict, Verdict::Different);
    assert!(report.problem.as_ref().unwrap().contains("chains at 90 are c and d"));
    let report = Report {
        equal: false,
        nodes: ["here".parse().unwrap(), "there".parse().unwrap()],
        compared: "bytes",
        spaces: vec![report],
        exchanged_bytes: 0,
        seconds: 0.0,
    };
    let text = render(&report);
    assert!(text.starts_with("alpha: DIFFERENT, compared up to lsn 100\n"), "{text}");
}

#[test]
fn a_difference_names_the_place_on_both_nodes_and_what_is_wrong() {
    let record = |offset, problem: Option<&str>| {
        Found::Record(Listed {
            lsn: 500,
            segment: "wal-0000000000000001.log".into(),
            offset,
            bytes: 80,
            digest: "0123456789abcdef".into(),
            sequence: Some(7),
            entry_type: Some(2),
            problem: problem.map(str::to_owned),
        })
    };
    let sides = [record(500, None), record(20, Some("payload\u{1b}[2J"))];
    let outcome = Outcome {
        parts: 3,
        parts_different: 1,
        part_bytes: 65536,
        differences: vec![Difference { lsn: 500, sides }],
        ..Outcome::default()
    };
    let report = Report {
        equal: false,
        nodes: ["here".parse().unwrap(), "there".parse().unwrap()],
        compared: "bytes",
        spaces: vec![SpaceReport::new("alpha".parse().unwrap(), [1000, 2000], outcome)],
        exchanged_bytes: 4096,
        seconds: 0.25,
    };
    assert_eq!(
        render(&report),
        "alpha: DIFFERENT in 1 of 3 parts of 64.0 KiB, compared up to lsn 1000\n\
         \x20 at lsn 500\n\
         \x20   here: wal-0000000000000001.log at 500, sequence 7, type 2 MemoryUpdate, \
         80 bytes, digest 0123456789abcdef: its checksums hold\n\
         \x20   there: wal-0000000000000001.log at 20, sequence 7, type 2 MemoryUpdate, \
         80 bytes, digest 0123456789abcdef: DAMAGED, payload\u{fffd}[2J\n\
         here and there, every byte: exchanged 4.00 KiB in 0.2 s\n"
    );
}
