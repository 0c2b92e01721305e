//! Boundaries that are far from every mark.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::matched::tests::{Rig, alive, cut, open, space};
use super::*;
use crate::engine::keeper::retired::tests::close;
use crate::ids::SegmentName;
use crate::state::runs::Run;
use crate::wal::record::{self, Header};

const RECORDS: u64 = 100_000;

/// So many records in one file, as a session leaves them; no mark lies between
/// its ends. Gives every boundary.
fn fill(root: &Path) -> Vec<Mark> {
    let mut rig = Rig::open(root, &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let run = Run { start: Lsn::ZERO, segment: SegmentName(1), file: 1, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 0, run, known: false };
    let news = rig.batch(vec![job]);
    let [News::RunOpened { result: Ok(files), .. }, ..] = &news[..] else { panic!("{news:?}") };
    let (mut marks, mut stream) = (vec![Mark::START], Vec::new());
    for number in 0..RECORDS {
        let payload = [u8::try_from(number % 251).unwrap(); 100];
        let header = Header::new(number, 1000 + number, 1, &payload).unwrap();
        marks.push(record::step(marks.last().unwrap(), &header.encode(), &header));
        stream.extend(header.encode());
        stream.extend(payload);
    }
    files.buffered.write_all_at(&stream, 0).unwrap();
    let end = *marks.last().unwrap();
    rig.batch(vec![close(&rig, end, end)]);
    marks
}

fn match_at(at: Lsn) -> Job {
    Job::Match { shard: 0, ticket: 7, space: space(), at }
}

fn scan() -> Job {
    Job::ScanSpace { shard: 0, space: "beta".parse().unwrap() }
}

type Answer = Result<Boundary, Unmatched>;

/// The answer, and whether the listing was answered.
fn answers(news: &[News]) -> (Option<Answer>, bool) {
    let matched = news.iter().find_map(|news| match news {
        News::Matched { result, ticket: 7 } => Some(result.clone()),
        _ => None,
    });
    (matched, news.iter().any(|news| matches!(news, News::Access { .. })))
}

/// It held the keeper, and with it every space of the node, for as long as the
/// walk took.
#[test]
fn a_boundary_that_is_far_is_searched_for_in_turns_and_others_are_served_between() {
    let root = tempfile::tempdir().unwrap();
    let marks = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0), (2, marks[95_000].lsn.0)])).unwrap();
    let sought = marks[90_000];
    let mut jobs = vec![match_at(sought.lsn)];
    let mut turns = 0;
    let boundary = loop {
        turns += 1;
        assert!(turns < 100);
        jobs.push(scan());
        let (matched, listed) = answers(&rig.batch(std::mem::take(&mut jobs)));
        assert!(listed, "in turn {turns}");
        match matched {
            Some(result) => break result.unwrap(),
            None => assert!(rig.keeper.is_searching()),
        }
    };
    assert_eq!((boundary.lsn, boundary.chain), (sought.lsn, sought.chain));
    assert_eq!(turns, sought.lsn.0.div_ceil(MAX_WALK_BYTES_PER_TURN), "no turn walks more");
    // What was found need not be searched for again.
    assert!(rig.keeper.catalog.load().unwrap()[&space()].marks.contains(&sought));
    let (matched, _) = answers(&rig.batch(vec![match_at(Lsn(marks[90_001].lsn.0 - 1))]));
    assert_eq!(matched.unwrap().unwrap(), boundary);
    assert!(!rig.keeper.is_searching());
}

#[test]
fn a_second_question_of_a_space_ends_the_search_for_the_first() {
    let root = tempfile::tempdir().unwrap();
    let marks = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0), (2, marks[95_000].lsn.0)])).unwrap();
    rig.batch(vec![match_at(marks[90_000].lsn)]);
    // A session asks for one at a time.
    let news = rig.batch(vec![match_at(marks[80_000].lsn)]);
    let (matched, _) = answers(&news);
    let refused = matched.unwrap().unwrap_err();
    assert!(matches!(refused, Unmatched::Refused(ErrorCode::Protocol, _)), "{refused:?}");
    assert_eq!(rig.keeper.searches.len(), 1);
}

#[test]
fn a_cut_that_is_far_is_searched_for_in_turns_and_what_is_about_its_space_waits() {
    let root = tempfile::tempdir().unwrap();
    let marks = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    let (to, epochs) = (marks[60_000], [(1, 0), (2, marks[60_000].lsn.0)]);
    rig.loan(open(&epochs)).unwrap();
    let (reply, standing) = crossbeam::channel::bounded(1);
    let asked = Job::Standing { space: space(), reply };
    let mut jobs = vec![cut(&epochs, &to), asked];
    let mut turns = 0;
    let loan = loop {
        turns += 1;
        assert!(turns < 100);
        jobs.push(scan());
        let news = rig.batch(std::mem::take(&mut jobs));
        assert!(answers(&news).1, "in turn {turns}");
        let opened = news.into_iter().find_map(|news| match news {
            News::ReplicaOpened { result, .. } => Some(result),
            _ => None,
        });
        match opened {
            Some(result) => break result.unwrap(),
            None => assert!(standing.is_empty(), "it is answered behind the cut"),
        }
    };
    assert!(turns > 2, "{turns}");
    assert_eq!(loan.mark, to);
    assert_eq!(standing.try_recv().unwrap().unwrap().standing.runs.len(), 1);
    assert_eq!(rig.keeper.catalog.load().unwrap()[&space()].checkpoint, to);
}

#[test]
fn who_asks_again_goes_on_where_the_search_of_a_session_that_ended_had_come() {
    let root = tempfile::tempdir().unwrap();
    let marks = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    let epochs = [(1, 0), (2, marks[95_000].lsn.0)];
    let loan = rig.loan(open(&epochs)).unwrap();
    rig.batch(vec![match_at(marks[90_000].lsn)]);
    rig.batch(vec![]);
    let state = Ok(Box::new((loan.record, loan.mark)));
    let news = rig.batch(vec![Job::CloseReplica { space: space(), state }]);
    assert!(answers(&news).0.unwrap().is_err());
    assert!(!rig.keeper.is_searching());
    let known = rig.keeper.catalog.load().unwrap()[&space()].marks.clone();
    assert!(known[0].lsn.0 > MAX_WALK_BYTES_PER_TURN && known[0].lsn < marks[90_000].lsn);
    rig.loan(open(&epochs)).unwrap();
    rig.batch(vec![match_at(marks[90_000].lsn)]);
    assert!(rig.keeper.is_searching());
    assert!(!rig.keeper.batch(std::iter::once(Job::Stop)), "and an end ends it at once");
    assert!(!rig.keeper.is_searching());
}

/// A file that was moved aside without a word in the catalog was missing for the
/// search, and there for who mends: neither went on.
#[test]
fn a_boundary_is_searched_for_where_the_file_lies() {
    let root = tempfile::tempdir().unwrap();
    let marks = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0), (2, marks[95_000].lsn.0)])).unwrap();
    let named = root.path().join("alpha/wal").join(SegmentName(1).to_string());
    let aside = recovery::retired_path(&root.path().join(".saltus"), &space(), 1);
    std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
    std::fs::rename(&named, &aside).unwrap();
    let (matched, _) = answers(&rig.batch(vec![match_at(marks[10].lsn)]));
    assert_eq!(matched.unwrap().unwrap().lsn, marks[10].lsn);

    // One that is nowhere is damage, for the scrubber to mend.
    std::fs::remove_file(&aside).unwrap();
    let (matched, _) = answers(&rig.batch(vec![match_at(marks[20].lsn)]));
    let Err(Unmatched::Damaged(why)) = matched.unwrap() else { panic!("the file is gone") };
    assert!(why.contains("is missing"), "{why}");
    assert_eq!(rig.keeper.received.damages().len(), 1);
}
