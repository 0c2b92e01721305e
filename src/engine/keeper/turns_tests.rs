//! What waits while something takes long.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;

use crossbeam::channel::unbounded;

use crate::engine::keeper::matched::tests::{Rig, alive, cut, fill, open, space};
use crate::engine::keeper::retired::tests::{close, pieces, receive, retire};
use crate::engine::keeper::{Job, Lease, News};
use crate::ids::SegmentName;
use crate::limits::{CUT_SLICE_BYTES, MAX_JOBS_PER_COMMIT};
use crate::protocol::message::Retirement;
use crate::state::catalog::Retired;
use crate::state::runs::Run;

const EARLY: [(u64, u64); 5] = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)];

/// So many MiB.
fn large(records: u64) -> Vec<(u64, u64)> {
    (1000..1000 + records).map(|sequence| (sequence, 7)).collect()
}

fn standing() -> (Job, crossbeam::channel::Receiver<Option<crate::engine::keeper::Kept>>) {
    let (reply, answer) = unbounded();
    (Job::Standing { space: space(), reply }, answer)
}

/// Each that had waited stood on the stack of the one before, and the node was
/// aborted; and whatever came was taken from the queue, which has a limit, to
/// where there was none.
#[test]
fn however_many_retirements_wait_for_one_they_are_done_one_after_the_other() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = unbounded();
    rig.keeper.inbox = Some(inbox.clone());
    rig.loan(open(&[(1, 0)])).unwrap();
    let tail = large(2 * (CUT_SLICE_BYTES >> 20) + 1);
    let received = receive(&mut rig, &[(1, &EARLY), (2, &EARLY), (1, &tail), (3, &EARLY)]);
    for file in 0..2000 {
        jobs.send(retire(10 + file, Retirement::Gone, received.end())).unwrap();
    }
    let (asked, answer) = standing();
    jobs.send(asked).unwrap();
    rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    assert!(rig.keeper.deferred.is_empty());
    assert_eq!(inbox.len(), 2001 - MAX_JOBS_PER_COMMIT, "no more was taken than may wait");
    assert_eq!(rig.keeper.catalog.load().unwrap()[&space()].retired[&1], Retired::Gone);
    assert!(answer.is_empty());
    rig.keeper.batch(inbox.try_iter());
    assert!(answer.try_recv().unwrap().is_some(), "and the last is not forgotten");
}

#[test]
fn no_more_waits_for_a_cut_than_may_and_nothing_of_it_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let epochs = [(1, 0), (2, marks[7].lsn.0)];
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&epochs)).unwrap();
    rig.keeper.handle(cut(&epochs, &marks[7]));
    let (reply, answers) = unbounded();
    let ask = || Job::Standing { space: space(), reply: reply.clone() };
    // What came in the turns before.
    (1..MAX_JOBS_PER_COMMIT).for_each(|_| rig.keeper.take(ask()));
    let (jobs, inbox) = unbounded();
    (0..10).for_each(|_| jobs.send(ask()).unwrap());
    rig.keeper.batch(inbox.try_iter());
    assert_eq!(inbox.len(), 9);
    assert_eq!(answers.len(), MAX_JOBS_PER_COMMIT);
    rig.keeper.batch(inbox.try_iter());
    assert_eq!(answers.len(), MAX_JOBS_PER_COMMIT + 9);
    assert!(answers.try_iter().all(|kept| kept.unwrap().standing.mark == marks[7]));
}

/// A space that is lent is cut first if its last run was told, and perhaps
/// written to, and nothing of it was durable. What had waited for that waited on.
#[test]
fn what_waits_for_a_space_that_is_cut_when_it_is_lent_is_done_behind_it() {
    let root = tempfile::tempdir().unwrap();
    let (marks, _) = fill(root.path());
    let mut rig = Rig::open(root.path(), &alive());
    let loan = rig.loan(open(&[(1, 0)])).unwrap();
    let start = marks[20].lsn;
    let offset = marks[15].lsn.bytes_since(marks[5].lsn);
    let run = Run { start, segment: SegmentName(2), file: 2, offset, bytes: None };
    let ordinal = loan.record.runs.len();
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal, run, known: false };
    rig.batch(vec![job]);
    let written = root.path().join("alpha/wal").join(SegmentName(2).to_string());
    let tail = vec![7; usize::try_from(2 * CUT_SLICE_BYTES + 1).unwrap()];
    File::options().write(true).open(written).unwrap().write_all_at(&tail, offset).unwrap();
    rig.batch(vec![close(&rig, loan.record.checkpoint, marks[20])]);

    let (jobs, inbox) = unbounded();
    rig.keeper.inbox = Some(inbox);
    let (asked, answer) = standing();
    jobs.send(asked).unwrap();
    jobs.send(Job::Stop).unwrap();
    let news = rig.batch(vec![open(&[(1, 0), (2, start.0)])]);
    assert!(matches!(&news[..], [News::ReplicaOpened { result: Ok(_), .. }]), "{news:?}");
    assert!(pieces(root.path()).iter().any(|piece| piece.bytes > 2 * CUT_SLICE_BYTES));
    assert!(answer.try_recv().unwrap().is_some());
    assert!(rig.keeper.stopped && rig.keeper.deferred.is_empty());
}

/// The session was closed between two files that went, and the second one
/// brought a checkpoint that was durable in that session only.
#[test]
fn a_session_ends_behind_all_files_that_go_with_its_run() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = unbounded();
    rig.keeper.inbox = Some(inbox);
    rig.loan(open(&[(1, 0)])).unwrap();
    let tail = large(2 * (CUT_SLICE_BYTES >> 20) + 1);
    let all = [(1, &EARLY[..]), (2, &EARLY), (1, &tail), (3, &EARLY), (4, &EARLY), (5, &[])];
    let received = receive(&mut rig, &all);
    let behind_first = received.marks[received.marks.len() - 11];
    let going = &mut rig.keeper.spaces.get_mut(&space()).unwrap().going;
    going.insert(1, behind_first);
    going.insert(2, received.end());
    // What was durable there is so no more.
    let last = root.path().join("alpha/wal").join(SegmentName(4).to_string());
    File::options().write(true).open(last).unwrap().set_len(1).unwrap();
    jobs.send(Job::CloseReplica { space: space(), state: Err("it failed".into()) }).unwrap();
    let start = received.end().lsn;
    let run = Run { start, segment: SegmentName(6), file: 6, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 6, run, known: false };
    rig.batch(vec![job]);
    let entry = &rig.keeper.spaces[&space()];
    assert_eq!(entry.record.retired[&2], Retired::Gone);
    let Lease::Here(mark) = entry.lease else { panic!("{:?}", entry.lease) };
    let told = rig.keeper.received.damages().contains_key(&space());
    assert!(told || mark.lsn >= entry.record.checkpoint.lsn, "{mark:?}");
    assert!(told, "what was durable, and is no more, is named");
}

/// What went with it was copied in one go, as others were looked after already.
#[test]
fn a_run_with_whose_beginning_files_go_waits_while_others_are_looked_after() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = unbounded();
    let open_other = |name: &str, number: u64| {
        let Job::OpenReplica { mut open, .. } = open(&[(1, 0)]) else { panic!() };
        open.space = name.parse().unwrap();
        Job::OpenReplica { shard: 0, ticket: number, open }
    };
    rig.loan(open(&[(1, 0)])).unwrap();
    rig.loan(open_other("beta", 1)).unwrap();
    rig.keeper.inbox = Some(inbox);
    let tail = large(2 * (CUT_SLICE_BYTES >> 20) + 1);
    let received = receive(&mut rig, &[(1, &EARLY), (2, &EARLY), (1, &tail), (3, &EARLY)]);
    let beta: crate::ids::SpaceId = "beta".parse().unwrap();
    rig.keeper.spaces.get_mut(&beta).unwrap().going.insert(1, received.marks[0]);
    let start = received.marks[0].lsn;
    let run = Run { start, segment: SegmentName(1), file: 1, offset: 0, bytes: None };
    let (ordinal, known) = (0, false);
    jobs.send(Job::OpenRun { shard: 0, ticket: 2, space: beta, ordinal, run, known }).unwrap();
    jobs.send(open_other("gamma", 78)).unwrap();
    let news = rig.batch(vec![retire(1, Retirement::Gone, received.end())]);
    assert!(
        matches!(
            &news[..],
            [
                News::ReplicaOpened { ticket: 78, result: Ok(_) },
                News::RunOpened { ticket: 2, result: Ok(_) },
                ..
            ]
        ),
        "{news:?}"
    );
}
