//! What a replica keeps that is filled anew, also when it is killed meanwhile.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::matched::tests::{Rig, alive, open, space};
use super::super::retired::tests::{
    Received, UNNAMED, at_seconds, pieces, receive, receive_from, retire,
};
use super::*;
use crate::engine::keeper::{Job, News};
use crate::engine::mortal::Mortal;
use crate::engine::quarantine::Piece;
use crate::lsn::Chain;
use crate::protocol::message::Retirement;
use crate::state::catalog::Change;
use crate::state::host::Host;
use crate::state::meddler::{Call, Meddler};
use crate::wal::record::Header;

/// Where the seed of these tests begins, and ends.
const BASE: u64 = 50_000;

fn mark_at(at: u64) -> Mark {
    Mark { lsn: Lsn(at), chain: Chain(at), records: 90, ..Mark::START }
}

fn reseed(base: u64, head: u64, vouched: bool) -> Job {
    let reseed = Reseed { base: mark_at(base), head: Lsn(head), first_run: 9, vouched };
    let Job::OpenReplica { shard, ticket, open } = open(&[(1, 0)]) else { panic!() };
    Job::Reseed { shard, ticket, open, reseed }
}

/// The session has made all up to there durable.
fn reached(at: u64) -> Job {
    let change = Change::Checkpoint(mark_at(at));
    Job::Commit { shard: 0, ticket: None, space: space(), change }
}

/// Pieces that are whole, by the number of their file.
fn kept(root: &Path) -> BTreeMap<u64, Piece> {
    let all = pieces(root);
    let whole: Vec<_> = all.into_iter().filter(|piece| piece.manifest.is_some()).collect();
    let count = whole.len();
    let number = |piece: &Piece| piece.manifest.as_ref().unwrap().file;
    let kept: BTreeMap<_, _> = whole.into_iter().map(|piece| (number(&piece), piece)).collect();
    assert_eq!(kept.len(), count, "each of them once");
    kept
}

/// Segment 1 had lost its name to 2, and was written on with.
fn filled(rig: &mut Rig) -> Received {
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(rig, &UNNAMED);
    rig.batch(vec![retire(1, Retirement::Aside, received.end())]);
    received
}

fn of_first(received: &Received) -> Vec<u8> {
    [received.bytes(0..5), received.bytes(10..15)].concat()
}

fn old_copies(root: &Path) -> PathBuf {
    root.join(".saltus/superseded/alpha")
}

#[test]
fn what_the_primary_may_have_nowhere_outlives_a_seed_that_is_killed_at_any_step() {
    let mut steps = 0;
    for budget in 0.. {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
        let seen: Arc<dyn Host> = host.clone();
        let mut rig = Rig::open(root.path(), &seen);
        let received = filled(&mut rig);
        host.0.store(budget, Ordering::SeqCst);
        rig.batch(vec![reseed(BASE, BASE, true)]);
        rig.batch(vec![reached(BASE)]);
        let done = host.0.swap(0, Ordering::SeqCst) > 0;
        drop(rig);

        let at = format!("killed at step {budget}");
        let mut rig = Rig::open(root.path(), &alive());
        assert_eq!(rig.keeper.received.damages().len(), 0, "{at}: nothing is wrong");
        let mark = rig.loan(open(&[(1, 0)])).unwrap().mark;
        if mark.lsn != Lsn(BASE) {
            assert_eq!(mark, received.end(), "{at}: all of the old copy");
            rig.batch(vec![reseed(BASE, BASE, true)]);
        }
        rig.batch(vec![reached(BASE)]);
        drop(rig);
        // What is left of the old copy goes at the latest with the next start.
        let rig = Rig::open(root.path(), &alive());
        assert!(!old_copies(root.path()).exists(), "{at}");
        assert_eq!(rig.keeper.spaces[&space()].record.seed, None, "{at}");
        let kept = kept(root.path());
        // Of the last segment nobody knows what replaced it.
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&1, &3], "{at}");
        assert!(fs::read(&kept[&1].path).unwrap() == of_first(&received), "{at}");
        let manifest = kept[&1].manifest.as_ref().unwrap();
        assert_eq!(manifest.reason, Reason::Unnamed);
        let extents: Vec<_> = manifest.extents.iter().map(|extent| extent.lsn).collect();
        assert_eq!(extents, [0, received.marks[10].lsn.0], "{at}: where they lay");
        if done {
            steps = budget;
            break;
        }
    }
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn a_copy_that_the_primary_does_not_vouch_for_is_kept_whole() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let received = filled(&mut rig);
    rig.batch(vec![reseed(BASE, BASE, false)]);
    assert_eq!(pieces(root.path()), [], "it stands aside until then");
    // Also if the process that was told so is not the one that ends it.
    drop(rig);
    let mut rig = Rig::open(root.path(), &alive());
    rig.batch(vec![reached(BASE)]);
    assert!(!old_copies(root.path()).exists());
    let kept = kept(root.path());
    let content: Vec<_> = kept.values().map(|piece| fs::read(&piece.path).unwrap()).collect();
    let second = received.bytes(5..10).to_vec();
    assert!(content == [of_first(&received), second, received.bytes(15..20).to_vec()]);
    for piece in kept.values() {
        let manifest = piece.manifest.as_ref().unwrap();
        assert_eq!((manifest.reason, manifest.bytes), (Reason::Superseded, piece.bytes));
        let named: u64 = manifest.extents.iter().map(|extent| extent.bytes).sum();
        assert_eq!(named, piece.bytes, "each byte has its place in the stream");
    }
}

#[test]
fn a_seed_that_did_not_come_to_its_end_leaves_nothing_but_what_is_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    filled(&mut rig);
    let first = Lsn(BASE);
    rig.loan(reseed(first.0, 2 * BASE, true)).unwrap();
    let copy = || {
        let files = listed(&old_copies(root.path()).join("000000000000c350")).unwrap();
        let bytes = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
        (files.len(), bytes)
    };
    let before = copy();
    for attempt in 1..4 {
        // It has a segment that was written on without its name, and others.
        let unfinished = receive_from(&mut rig, first, 9, &UNNAMED);
        assert_eq!(unfinished.marks.len(), 21);
        rig.batch(vec![retire(1, Retirement::Aside, unfinished.end())]);
        // Vouched for or not.
        rig.loan(reseed(BASE, 2 * BASE, attempt != 2)).unwrap();
        let wal = rig.keeper.places.wal(&space());
        assert_eq!(listed(&wal).unwrap().len(), 0);
        let (files, _) = copy();
        // Where nobody vouches for it, its end too: here that is all of it.
        let expected = [1, 4, 5][attempt - 1];
        assert_eq!(files, before.0 + expected, "{attempt}");
    }
    rig.batch(vec![reached(2 * BASE)]);
    assert!(!old_copies(root.path()).exists());
    let mut files: Vec<_> =
        pieces(root.path()).iter().map(|piece| piece.manifest.as_ref().unwrap().file).collect();
    files.sort_unstable();
    assert_eq!(files, [1, 1, 1, 1, 2, 3, 3]);
}

#[test]
fn the_end_of_an_unfinished_seed_is_kept_if_nobody_vouches_for_it() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    rig.loan(reseed(BASE, 2 * BASE, true)).unwrap();
    let early = at_seconds(0, [0.0, 0.1]);
    let runs = [1, 2, 3, 4].map(|file| (file, &early[..]));
    receive_from(&mut rig, Lsn(BASE), 9, &runs);
    let path = rig.keeper.places.wal(&space()).join(SegmentName(3).to_string());
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(UNVOUCHED_END_BYTES).unwrap();
    rig.loan(reseed(2 * BASE, 3 * BASE, false)).unwrap();
    rig.batch(vec![reached(3 * BASE)]);
    let kept = kept(root.path());
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&3, &4]);
    let reason = |piece: &Piece| piece.manifest.as_ref().unwrap().reason;
    assert!(kept.values().all(|piece| reason(piece) == Reason::Superseded));
}

/// The ends of all that a long log had ever been were read in one go, and every
/// other space waited.
#[test]
fn other_spaces_are_served_while_it_is_decided_what_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = crossbeam::channel::unbounded();
    rig.keeper.inbox = Some(inbox);
    filled(&mut rig);
    let Job::OpenReplica { open: mut other, .. } = open(&[(1, 0)]) else { panic!() };
    other.space = "beta".parse().unwrap();
    jobs.send(Job::OpenReplica { shard: 0, ticket: 77, open: other }).unwrap();
    let (reply, standing) = crossbeam::channel::unbounded();
    jobs.send(Job::Standing { space: space(), reply }).unwrap();
    let news = rig.batch(vec![reseed(BASE, BASE, true)]);
    let tickets: Vec<_> = (news.iter())
        .map(|news| match news {
            News::ReplicaOpened { ticket, result: Ok(_) } => *ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    let Job::Reseed { ticket, .. } = reseed(BASE, BASE, true) else { panic!() };
    assert_eq!(tickets, [77, ticket], "served meanwhile");
    let standing = standing.try_recv().unwrap().unwrap().standing;
    assert_eq!(standing.mark.lsn, Lsn(BASE), "what is asked of this one is answered behind it");
    rig.batch(vec![reached(BASE)]);
    assert_eq!(kept(root.path()).keys().collect::<Vec<_>>(), [&1, &3]);
}

#[test]
fn what_is_needed_by_nobody_goes_even_if_the_disk_has_no_room_for_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let mut rig = Rig::open(root.path(), &without_room(full.clone()));
    filled(&mut rig);
    rig.batch(vec![reseed(BASE, BASE, true)]);
    full.store(true, Ordering::SeqCst);
    rig.batch(vec![reached(BASE)]);
    let names = || {
        let files = listed(&old_copies(root.path()).join("000000000000c350")).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = files.iter().map(name).collect();
        names.sort();
        names
    };
    let needed = [PLAN_FILE.into(), "retired-0000000000000001".into(), SegmentName(3).to_string()];
    assert_eq!(names(), needed, "the rest would have made room");
    assert_eq!(pieces(root.path()), [], "no attempt leaves anything");
    assert!(rig.keeper.needs_mending());
    rig.keeper.mend();
    assert_eq!((names(), pieces(root.path())), (needed.into(), Vec::new()));
    full.store(false, Ordering::SeqCst);
    rig.keeper.mend();
    assert!(!rig.keeper.needs_mending());
    assert!(!old_copies(root.path()).exists());
    assert_eq!(kept(root.path()).keys().collect::<Vec<_>>(), [&1, &3]);
}

#[test]
fn what_was_rebuilt_beside_an_older_copy_is_moved_aside_when_it_is_filled_anew() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    for change in
        [Change::Seed { base: Mark::START, first_run: 0, target: Lsn(2 * BASE) }, Change::SeedMoved]
    {
        rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: space(), change }]);
    }
    let received = receive(&mut rig, &UNNAMED);
    rig.loan(reseed(BASE, BASE, true)).unwrap();
    let directory = old_copies(root.path()).join("000000000000c350");
    let path = directory.join(SegmentName(2).to_string());
    assert!(fs::read(path).unwrap() == received.bytes(5..10), "the only good copy");
}

#[test]
fn a_segment_that_cannot_be_read_is_kept_and_stops_no_seed() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    filled(&mut rig);
    let path = rig.keeper.places.wal(&space()).join(SegmentName(2).to_string());
    fs::remove_file(&path).unwrap();
    // It can be opened; each read fails.
    std::os::unix::fs::symlink(root.path(), &path).unwrap();
    rig.loan(reseed(BASE, BASE, true)).unwrap();
    rig.batch(vec![reached(BASE)]);
    assert_eq!(kept(root.path()).keys().collect::<Vec<_>>(), [&1, &2, &3]);
    assert!(!old_copies(root.path()).exists());
}

#[test]
fn where_it_cannot_be_read_what_is_to_be_kept_everything_is() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let received = filled(&mut rig);
    rig.batch(vec![reseed(BASE, BASE, true)]);
    let plan = old_copies(root.path()).join("000000000000c350").join(PLAN_FILE);
    fs::write(&plan, b"{\"keep\": [").unwrap();
    // A seed that begins at the same base stops at it as little as the end does.
    rig.loan(reseed(BASE, BASE, true)).unwrap();
    fs::write(&plan, b"{\"keep\": [").unwrap();
    rig.batch(vec![reached(BASE)]);
    assert!(!old_copies(root.path()).exists());
    let kept: Vec<_> =
        pieces(root.path()).iter().map(|piece| fs::read(&piece.path).unwrap()).collect();
    assert_eq!(kept.len(), 3);
    for content in [of_first(&received), received.bytes(5..10).to_vec()] {
        assert!(kept.contains(&content));
    }
}

#[test]
fn records_of_a_clock_that_was_set_back_outlive_a_seed() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let live = at_seconds(0, [6.0, 9.9, 10.5, 3.0]);
    let snapshot = at_seconds(0, [2.0]);
    receive(&mut rig, &[(5, &live), (10, &snapshot), (20, &snapshot)]);
    rig.batch(vec![reseed(BASE, BASE, true)]);
    rig.batch(vec![reached(BASE)]);
    assert_eq!(kept(root.path()).keys().collect::<Vec<_>>(), [&5, &20]);
}

/// A host without room for what a piece in quarantine is, while that is so.
fn without_room(full: Arc<AtomicBool>) -> Arc<dyn Host> {
    Arc::new(Meddler(move |call: Call<'_>| {
        let of_piece = |path: &Path| {
            path.extension().is_some_and(|extension| extension == "json")
                && path.to_string_lossy().contains("/quarantine/")
        };
        let refused = matches!(call, Call::Open(path) if of_piece(path));
        let refused = refused && full.load(Ordering::SeqCst);
        if refused { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }))
}

/// What goes of a replica that was filled anew: it has a snapshot, and what
/// came after that into a segment which had no name any more.
#[track_caller]
fn unlinked_before_the_seed(last: Job, told: &[u64], ended: bool, younger: bool) {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    rig.loan(reseed(BASE, BASE + 1, true)).unwrap();
    let snapshot = at_seconds(0, [2.0, 6.0, 7.0]);
    let live = at_seconds(5, [11.0, 12.0, 13.0, 14.0, 15.0]);
    let all: [(u64, &[_]); 3] = [(10, &snapshot), (5, &live), (20, &[])];
    let runs = if younger { &all[..] } else { &all[..2] };
    let received = receive_from(&mut rig, Lsn(BASE), 9, runs);
    if ended {
        rig.batch(vec![reached(BASE + 1)]);
    }
    for file in told {
        rig.batch(vec![retire(*file, Retirement::Aside, received.end())]);
    }
    rig.batch(vec![last]);
    rig.batch(vec![reached(3 * BASE)]);
    let kept = kept(root.path());
    let piece = kept.get(&5).expect("it is in no segment of the primary");
    assert!(fs::read(&piece.path).unwrap() == received.bytes(3..8));
    assert_eq!(piece.manifest.as_ref().unwrap().reason, Reason::Unnamed);
    assert!(!rig.keeper.places.wal(&space()).join(SegmentName(5).to_string()).exists());
}

#[test]
fn what_was_unlinked_before_a_seed_is_kept_whatever_became_of_the_snapshot() {
    let end = mark_at(BASE + 900);
    unlinked_before_the_seed(retire(5, Retirement::Gone, end), &[5, 10], true, true);
    // When the next seed begins instead; also if this one had not ended, and
    // also if it was not told yet that anything is gone.
    for ended in [true, false] {
        for told in [&[5, 10][..], &[5], &[]] {
            for younger in [true, false] {
                let next = reseed(2 * BASE, 3 * BASE, true);
                unlinked_before_the_seed(next, told, ended, younger);
            }
        }
    }
}

#[test]
fn what_is_here_from_the_middle_of_a_segment_on_had_no_name() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    rig.loan(reseed(BASE, BASE, true)).unwrap();
    let run = Run { start: Lsn(BASE), segment: SegmentName(5), file: 5, offset: 700, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 9, run, known: false };
    rig.batch(vec![job]);
    let path = rig.keeper.places.wal(&space()).join(SegmentName(5).to_string());
    let header = Header::new(5, 11_000_000_000, 1, &[7; 100]).unwrap();
    let bytes = [&header.encode()[..], &[7; 100]].concat();
    fs::write(&path, [&[0; 700], &bytes[..]].concat()).unwrap();
    let end = mark_at(BASE + bytes.len() as u64);
    // What comes next is younger than any of it.
    let run = Run { start: end.lsn, segment: SegmentName(20), file: 20, offset: 0, bytes: None };
    let job = Job::OpenRun { shard: 0, ticket: 2, space: space(), ordinal: 10, run, known: false };
    rig.batch(vec![job]);
    rig.batch(vec![retire(5, Retirement::Aside, end), retire(5, Retirement::Gone, end)]);
    let kept = kept(root.path());
    assert_eq!(kept.get(&5).map(|piece| fs::read(&piece.path).unwrap()), Some(bytes));
}

/// What could not be put away while the data root was away was taken for gone, and
/// stood there until the next start.
#[test]
fn an_old_copy_that_is_away_with_the_data_root_is_put_away_when_it_is_back() {
    let top = tempfile::tempdir().unwrap();
    let (root, away) = (top.path().join("root"), top.path().join("away"));
    fs::create_dir(&root).unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let mut rig = Rig::open(&root, &without_room(full.clone()));
    filled(&mut rig);
    rig.batch(vec![reseed(BASE, BASE, true)]);
    rig.batch(vec![reached(BASE)]);
    fs::rename(&root, &away).unwrap();
    rig.keeper.mend();
    fs::rename(&away, &root).unwrap();
    full.store(false, Ordering::SeqCst);
    assert!(rig.keeper.needs_mending(), "it is not forgotten");
    rig.keeper.mend();
    assert!(!old_copies(&root).exists());
    assert_eq!(kept(&root).keys().collect::<Vec<_>>(), [&1, &3]);
    assert!(!rig.keeper.needs_mending());
}

/// Where the state directory lies elsewhere, a seed was begun below a data root that
/// was away: when it came back, segments stood in it that no run knew of any more.
#[test]
fn no_seed_begins_while_the_data_root_is_away() {
    let top = tempfile::tempdir().unwrap();
    let (root, away) = (top.path().join("root"), top.path().join("away"));
    fs::create_dir(&root).unwrap();
    let mut rig = Rig::open_with(&root, &top.path().join("state"), &alive());
    let received = filled(&mut rig);
    fs::rename(&root, &away).unwrap();
    let refused = rig.loan(reseed(BASE, BASE, true)).unwrap_err();
    assert!(refused.why.contains("the data root"), "{}", refused.why);
    fs::rename(&away, &root).unwrap();
    assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.end());
    rig.loan(reseed(BASE, BASE, true)).unwrap();
}

#[test]
fn the_end_of_a_process_does_not_wait_until_it_is_decided_what_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let (jobs, inbox) = crossbeam::channel::unbounded();
    rig.keeper.inbox = Some(inbox);
    let received = filled(&mut rig);
    jobs.send(Job::Stop).unwrap();
    let refused = rig.loan(reseed(BASE, BASE, true)).unwrap_err();
    assert!(refused.why.contains("stopping"), "{}", refused.why);
    drop(rig);
    let mut rig = Rig::open(root.path(), &alive());
    assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.end(), "nothing has begun");
}
