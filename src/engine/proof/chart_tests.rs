#![allow(clippy::unwrap_used)]

use super::*;

fn record(count: u64) -> SpaceRecord {
    let mut runs = Runs::default();
    for file in 0..count {
        runs.open(Run {
            start: Lsn(file * 1000),
            segment: SegmentName(100 + file),
            file: file + 7,
            offset: 0,
            bytes: None,
        });
    }
    let mark = Mark { lsn: Lsn(64), chain: Chain(5), records: 1, ..Mark::START };
    let history = vec![(Epoch(1), Lsn::ZERO), (Epoch(3), Lsn(500))];
    SpaceRecord {
        highest_epoch: Epoch(4),
        runs,
        marks: vec![mark],
        ..SpaceRecord::new(catalog::Role::Primary, StreamId(9), history)
    }
}

#[test]
fn a_chart_in_parts_says_what_the_catalog_has() {
    let whole = record(2 * MAX_CHART_RUNS as u64 + 3);
    let mut chart = Chart::of(&whole, 0);
    let mut parts = 1;
    while chart.runs.len() < chart.total_runs as usize {
        let first = u32::try_from(chart.runs.len()).unwrap();
        let text = serde_json::to_string(&Chart::of(&whole, first)).unwrap();
        assert!(text.len() < crate::limits::MAX_ANSWER_BYTES);
        chart.extend(serde_json::from_str(&text).unwrap()).unwrap();
        parts += 1;
    }
    assert_eq!(parts, 3);
    assert_eq!(chart.record(catalog::Role::Primary), Ok(whole));
}

/// A chart came with the beginnings of all files in its first part: of some
/// thousands of segments that was more than a client takes.
#[test]
fn the_chart_of_many_files_comes_in_parts_that_are_taken() {
    let count = 2 * MAX_CHART_RUNS as u64 + 3;
    // Numbers as long as they come.
    let far = 1 << 60;
    let mark = |lsn: u64| Mark {
        lsn: Lsn(lsn),
        chain: Chain(u64::MAX - lsn),
        records: lsn / 64,
        sequence: u64::MAX,
        timestamp_ns: u64::MAX,
    };
    let mut whole = record(1);
    for number in 1..count {
        let (start, file) = (far + number, far + number);
        let run = Run { start: Lsn(start), file, offset: 0, ..*whole.runs.last().unwrap() };
        whole.runs.open(run);
        whole.begins.insert(file, mark(start));
    }
    whole.marks = (0..crate::limits::MAX_SAVED_MARKS_PER_SPACE as u64)
        .map(|number| mark(far / 2 + number))
        .collect();
    let part = |first| {
        let text = serde_json::to_string(&Chart::of(&whole, first)).unwrap();
        assert!(text.len() < crate::limits::MAX_ANSWER_BYTES, "{} bytes", text.len());
        serde_json::from_str::<Chart>(&text).unwrap()
    };
    let mut chart = part(0);
    while chart.missing().unwrap() > 0 {
        chart.extend(part(u32::try_from(chart.runs.len()).unwrap())).unwrap();
    }
    let found = chart.record(catalog::Role::Replica).unwrap();
    let known: Vec<_> = whole.marks.iter().chain(whole.begins.values()).copied().collect();
    assert!(found.marks == known && found.runs == whole.runs);
}

/// What a node has that was filled anew, behind four runs.
fn seeded() -> SpaceRecord {
    let base = Mark { lsn: Lsn(5000), records: 9, ..Mark::START };
    let mut seeded = SpaceRecord { runs: Runs::based(4, base.lsn), base, ..record(0) };
    let run = *record(1).runs.last().unwrap();
    seeded.runs.open(Run { start: base.lsn, ..run });
    seeded.runs.open(Run { start: Lsn(5300), file: 0, ..run });
    seeded
}

#[test]
fn a_chart_of_a_node_that_was_filled_anew_serves_a_primary_only() {
    let chart = Chart::of(&seeded(), 0);
    assert_eq!((chart.total_runs, chart.runs.len()), (2, 2));
    let refused = chart.record(catalog::Role::Replica);
    assert_eq!(refused, Err(ChartError::Based { base: 5000 }));
    let record = chart.record(catalog::Role::Primary).unwrap();
    assert_eq!((record.base, record.runs.len()), (seeded().base, 6));
    for ordinal in [4, 5] {
        assert_eq!(record.runs.get(ordinal), seeded().runs.get(ordinal), "its ordinal is kept");
    }
    assert_eq!(record.runs.locate(Lsn(4999)).unwrap().0, 3, "nothing lies between");
    let before: Vec<_> = record.runs.iter().take(4).map(|(_, run)| run.file).collect();
    assert_eq!(before, [1, 2, 1, 2], "no file that is known");
}

#[test]
fn a_base_that_cannot_be_is_refused() {
    let wrong = |change: fn(&mut Chart)| {
        let mut chart = Chart::of(&seeded(), 0);
        change(&mut chart);
        chart.record(catalog::Role::Primary).unwrap_err()
    };
    wrong(|chart| chart.base_run = 0);
    wrong(|chart| chart.base_run = u32::MAX);
    wrong(|chart| chart.base_lsn = 0);
    wrong(|chart| chart.base_lsn = 4999);
    wrong(|chart| chart.runs[0].start = 5001);
    wrong(|chart| chart.marks.clear());
}

#[test]
fn a_chart_that_contradicts_itself_is_refused() {
    let good = Chart::of(&record(3), 0);
    let wrong = |change: fn(&mut Chart)| {
        let mut chart = good.clone();
        change(&mut chart);
        chart.record(catalog::Role::Replica).unwrap_err()
    };
    wrong(|chart| chart.stream = "x".into());
    wrong(|chart| chart.epochs.clear());
    wrong(|chart| chart.runs[0].start = 1);
    wrong(|chart| chart.runs[1].start = 5000);
    wrong(|chart| chart.runs[1].segment = "../x".into());
    wrong(|chart| chart.runs[2] = ChartedRun { offset: 10, ..chart.runs[0].clone() });
    wrong(|chart| chart.marks[0].chain = "-".into());
    let mut chart = good.clone();
    assert_eq!(chart.extend(Chart::of(&record(4), 2)), Err(ChartError::Changed));
}

#[test]
fn what_is_asked_for_is_read_as_it_is_written() {
    let ask = ChartAsk { space: "alpha".parse().unwrap(), first: 8 };
    assert_eq!(ask.to_string().parse(), Ok(ask));
    for wrong in ["", "space=..", "space=alpha&first=-1", "space=alpha&more=1"] {
        assert!(wrong.parse::<ChartAsk>().is_err(), "{wrong}");
    }
}

/// A document as a peer may send it: a good one, with one value replaced.
fn document(path: &str, value: &str) -> String {
    let good = serde_json::to_value(Chart::of(&seeded(), 0)).unwrap();
    let mut text = good;
    *text.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = "@".into();
    text.to_string().replace("\"@\"", value)
}

/// What is made of a document, for each role: a reason, or something that a
/// catalog can hold.
#[track_caller]
fn take(text: &str) -> Result<SpaceRecord, String> {
    let chart: Chart = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let left = chart.missing().map_err(|error| error.to_string());
    let replica = chart.record(catalog::Role::Replica);
    assert!(replica.is_err() || chart.base_lsn == 0);
    left?;
    chart.record(catalog::Role::Primary).map_err(|error| error.to_string())
}

#[test]
fn hostile_documents_are_refused_by_name() {
    assert!(take(&document("/first_run", "0")).is_ok());
    let top = u64::MAX.to_string();
    let far = (1_u64 << 63).to_string();
    let hostile = [
        // Counts that nobody can have, and such as are none.
        ("/total_runs", "4294967295"),
        ("/total_runs", "-1"),
        ("/total_runs", "1e3"),
        ("/base_run", "4294967295"),
        ("/base_run", "-4"),
        ("/first_run", "1"),
        // Positions behind which nothing could be counted.
        ("/base_lsn", top.as_str()),
        ("/base_lsn", "18446744073709551616"),
        ("/runs/1/start", top.as_str()),
        ("/runs/1/start", far.as_str()),
        ("/runs/1/start", "-1"),
        ("/runs/1/offset", top.as_str()),
        ("/runs/1/offset", "99999999999999999999999999"),
        ("/runs/1/file", "-7"),
        ("/marks/0/lsn", top.as_str()),
        ("/marks/0/records", top.as_str()),
        ("/marks/0/records", "79"),
        ("/marks/0/chain", "\"00000000000000000000\""),
        ("/marks/0/chain", "\"+000000000000005\""),
        // Reigns that cannot have been.
        ("/epochs", "[]"),
        ("/epochs/0/epoch", "0"),
        ("/epochs/1/epoch", "1"),
        ("/epochs/0/start_lsn", "501"),
        ("/epochs/1/start_lsn", top.as_str()),
        ("/highest_epoch", "2"),
        ("/highest_epoch", top.as_str()),
        ("/stream", "\"100000000000000000000000000000000\""),
        ("/stream", "\"+9\""),
        ("/role", "\"master\""),
        ("/runs/0/segment", "\"../../etc/passwd\""),
        ("/runs", "{}"),
        ("/runs", "null"),
    ];
    for (path, value) in hostile {
        let why = take(&document(path, value)).expect_err(&format!("{path}: {value}"));
        assert!(!why.is_empty());
    }
    let many: Vec<_> = (1..=1 + crate::limits::MAX_EPOCHS_PER_SPACE)
        .map(|epoch| format!("{{\"epoch\": {epoch}, \"start_lsn\": 0}}"))
        .collect();
    take(&document("/epochs", &format!("[{}]", many.join(",")))).unwrap_err();
}

#[test]
fn runs_that_overlap_are_refused() {
    let run = |start: u64, file: u64, offset: u64| {
        let segment = SegmentName(100 + file);
        format!(
            "{{\"start\": {start}, \"segment\": \"{segment}\", \"file\": {file}, \
             \"offset\": {offset}}}"
        )
    };
    let runs = |list: &[(u64, u64, u64)]| {
        let list: Vec<_> = list.iter().map(|(start, file, at)| run(*start, *file, *at)).collect();
        take(&document("/runs", &format!("[{}]", list.join(","))))
    };
    assert!(runs(&[(5000, 7, 0), (5300, 8, 0), (5400, 7, 300)]).is_ok());
    for wrong in [
        // Over the bytes before, at once or behind another file's.
        [(5000, 7, 0), (5300, 7, 299), (5400, 8, 0)],
        [(5000, 7, 0), (5300, 8, 0), (5400, 7, 299)],
        // Backwards, and the same once more.
        [(5000, 7, 0), (5300, 8, 0), (5299, 9, 0)],
        [(5000, 7, 0), (5300, 8, 0), (5300, 8, 0)],
    ] {
        runs(&wrong).unwrap_err();
    }
}

#[test]
fn a_document_nested_without_end_is_refused_without_going_down() {
    for deep in ["[".repeat(200_000), "{\"runs\":".repeat(200_000)] {
        assert!(take(&deep).is_err());
        // Also where nobody looks at what it is.
        let known = document("/first_run", "0");
        let text = format!("{{\"unknown\":{deep},{}", &known[1..]);
        assert!(take(&text).is_err());
    }
}

#[test]
fn marks_are_taken_in_order_and_once() {
    let mut chart = Chart::of(&seeded(), 0);
    let first = ChartedMark { lsn: 5200, ..chart.marks[0].clone() };
    chart.marks = vec![first.clone(), chart.marks[1].clone(), first];
    let marks = chart.record(catalog::Role::Primary).unwrap().marks;
    let positions: Vec<_> = marks.iter().map(|mark| mark.lsn.0).collect();
    assert_eq!(positions, [5000, 5200]);
}

#[test]
fn parts_of_two_bases_are_not_one_chart() {
    let mut chart = Chart::of(&seeded(), 0);
    chart.runs.truncate(1);
    let next = Chart { base_lsn: 4000, ..Chart::of(&seeded(), 1) };
    assert_eq!(chart.missing(), Ok(1));
    assert_eq!(chart.extend(next), Err(ChartError::Changed));
    chart.extend(Chart::of(&seeded(), 1)).unwrap();
    assert_eq!(chart.missing(), Ok(0));
}
