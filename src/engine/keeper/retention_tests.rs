//! Facts about slots and their budgets, on a keeper with real files and pins.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, unbounded};

use super::super::{Job, Mailbox, Places, Received};
use super::*;
use crate::engine::mortal::Mortal;
use crate::ids::SegmentName;
use crate::io::Waker;
use crate::state::catalog::Catalog;
use crate::state::host::{Host, ThisHost};
use crate::state::pins::Pins;
use crate::state::runs::Run;
use crate::wal::record::Checksums;

fn alpha() -> SpaceId {
    "alpha".parse().unwrap()
}

fn replica(number: u32) -> NodeId {
    format!("replica-{number}").parse().unwrap()
}

fn rule(replicas: u32) -> Rule {
    let replicas = (1..=replicas).map(replica).collect();
    Rule { max_bytes: None, max_age: None, max_disk_share: 90, replicas }
}

/// A keeper over a space of segments of a kilobyte each.
struct Rig {
    root: tempfile::TempDir,
    keeper: Keeper,
    news: Receiver<News>,
    start: Instant,
    /// Segments that their writer has not closed.
    written: BTreeSet<u64>,
}

impl Rig {
    fn new(rule: Rule, segments: u64) -> Self {
        Self::on(&(Arc::new(ThisHost) as _), rule, segments)
    }

    /// With a catalog on that host.
    fn on(host: &Arc<dyn Host>, rule: Rule, segments: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (keeper, news) = open(host, root.path().to_path_buf(), rule);
        let start = Instant::now();
        let mut rig = Self { root, keeper, news, start, written: BTreeSet::new() };
        std::fs::create_dir_all(rig.wal()).unwrap();
        for number in 1..=segments {
            std::fs::write(rig.wal().join(SegmentName(number).to_string()), [0; 1000]).unwrap();
        }
        rig.batch(vec![Job::ScanSpace { shard: 0, space: alpha() }]);
        for number in 1..=segments {
            let run = Run {
                start: Lsn((number - 1) * 1000),
                segment: SegmentName(number),
                file: number,
                offset: 0,
                bytes: None,
            };
            let change = Change::OpenRun(run);
            rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: alpha(), change }]);
        }
        rig
    }

    fn wal(&self) -> PathBuf {
        self.root.path().join("alpha/wal")
    }

    /// The keeper of the next process.
    fn restart(&mut self, rule: Rule) {
        self.reopen(&(Arc::new(ThisHost) as _), rule);
        self.scan();
    }

    fn scan(&mut self) -> Vec<News> {
        self.batch(vec![Job::ScanSpace { shard: 0, space: alpha() }])
    }

    /// The same with a catalog on that host, before it has looked at anything.
    fn reopen(&mut self, host: &Arc<dyn Host>, rule: Rule) {
        let Self { root, keeper, news, start, .. } = self;
        let root = root.path().to_path_buf();
        // The catalog must be closed before it is opened again.
        let nowhere = tempfile::tempdir().unwrap();
        let (placeholder, _) = open(host, nowhere.path().to_path_buf(), rule.clone());
        drop(std::mem::replace(keeper, placeholder));
        (*keeper, *news) = open(host, root, rule);
        *start = Instant::now();
    }

    fn batch(&mut self, jobs: Vec<Job>) -> Vec<News> {
        jobs.into_iter().for_each(|job| self.keeper.handle(job));
        self.keeper.publish();
        self.news.try_iter().collect()
    }

    /// The database's compaction removes the first segments.
    fn unlink(&mut self, segments: u64) {
        for number in 1..=segments {
            std::fs::remove_file(self.wal().join(SegmentName(number).to_string())).unwrap();
        }
        self.batch(vec![Job::ScanSpace { shard: 0, space: alpha() }]);
    }

    /// What the shard says of the segments: whether they have a name does not
    /// matter.
    fn spare(&self) -> BTreeSet<u64> {
        (1..=9).filter(|file| !self.written.contains(file)).collect()
    }

    /// At `seconds`, the replicas have flushed that much of a stream of `head`.
    fn at(&mut self, seconds: u64, head: u64, flushed: &[u64]) -> Vec<SlotView> {
        self.told(seconds, head, flushed, true)
    }

    fn told(&mut self, seconds: u64, head: u64, flushed: &[u64], sure: bool) -> Vec<SlotView> {
        let slot = |(index, lsn): (usize, &u64)| SlotPosition {
            replica: replica(u32::try_from(index).unwrap() + 1),
            flushed: Mark { lsn: Lsn(*lsn), ..Mark::START },
            sure,
            streaming: false,
            behind: Duration::ZERO,
        };
        let slots = flushed.iter().enumerate().map(slot).collect();
        let spare = self.spare();
        let spaces = vec![Positions { space: alpha(), head: Lsn(head), spare, slots }];
        let now = Now {
            instant: self.start + Duration::from_secs(seconds),
            unix_ns: (1_000_000 + seconds) * 1_000_000_000,
        };
        let news = self.batch(vec![Job::Positions { shard: 0, now, spaces }]);
        match &news[..] {
            [News::Slots { slots, .. }] => slots.iter().map(|(_, view)| *view).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn durable(&self, number: u32) -> SlotRecord {
        self.keeper.catalog.load().unwrap()[&alpha()].slots[&replica(number)]
    }
}

fn open(host: &Arc<dyn Host>, data_root: PathBuf, rule: Rule) -> (Keeper, Receiver<News>) {
    let state_dir = data_root.join(".saltus");
    let catalog = Arc::new(Catalog::open_on(host, &state_dir).unwrap());
    let pins = Pins::open(&state_dir).unwrap();
    let places = Places { data_root, state_dir, host: Arc::new(ThisHost) };
    let checksums = Checksums::Required;
    let received = Received::default();
    let mut keeper = Keeper::new(places, catalog, pins, checksums, rule, received).unwrap();
    let (tell, news) = unbounded();
    keeper.mailboxes = vec![Mailbox { news: tell, waker: Waker::new(|| {}) }];
    (keeper, news)
}

#[test]
fn a_segment_that_has_its_name_costs_nothing() {
    let mut rig = Rig::new(Rule { max_bytes: Some(1), ..rule(1) }, 3);
    let views = rig.at(0, 3000, &[0]);
    assert_eq!((views[0].retained_bytes, views[0].record.state), (0, SlotState::Retaining));
}

#[test]
fn a_slot_costs_the_unnamed_segments_that_it_still_needs() {
    let mut rig = Rig::new(rule(2), 4);
    rig.unlink(2);
    let views = rig.at(0, 4000, &[0, 1500]);
    assert_eq!([views[0].retained_bytes, views[1].retained_bytes], [2000, 1000]);
    let views = rig.at(1, 4000, &[1000, 2000]);
    assert_eq!([views[0].retained_bytes, views[1].retained_bytes], [1000, 0]);
}

#[test]
fn a_slot_past_its_bytes_is_lost_durably_and_the_other_is_not() {
    let mut rig = Rig::new(Rule { max_bytes: Some(1999), ..rule(2) }, 4);
    rig.unlink(2);
    let views = rig.at(0, 4000, &[0, 1500]);
    let states = [views[0].record.state, views[1].record.state];
    assert_eq!(states, [SlotState::Lost, SlotState::Retaining]);
    assert_eq!(views[0].retained_bytes, 0, "what is lost costs nothing");
    assert_eq!(rig.durable(1).state, SlotState::Lost);
    rig.restart(rule(2));
    assert_eq!(rig.durable(1).state, SlotState::Lost);
    assert_eq!(rig.durable(2).flushed.lsn, Lsn(1500));
}

/// A writer goes on with the segment that its own compaction has unlinked. Its
/// length was charged to every replica that had not flushed the last byte of
/// it: with a smaller budget each look said that the slot was lost.
#[test]
fn a_segment_that_is_still_written_is_charged_to_no_slot() {
    let mut rig = Rig::new(Rule { max_bytes: Some(500), ..rule(2) }, 3);
    rig.unlink(2);
    rig.written = [2].into();
    let views = rig.at(0, 3000, &[1000, 1990]);
    for view in views {
        assert_eq!((view.retained_bytes, view.record.state), (0, SlotState::Retaining));
    }
    rig.written.clear();
    let views = rig.at(1, 3000, &[1000, 2000]);
    let states = [views[0].record.state, views[1].record.state];
    assert_eq!(states, [SlotState::Lost, SlotState::Retaining], "now it is held for one of them");
}

#[test]
fn a_slot_past_its_age_is_lost_only_if_it_costs_something() {
    let hour = Duration::from_secs(3600);
    let mut rig = Rig::new(Rule { max_age: Some(hour), ..rule(2) }, 4);
    rig.at(0, 4000, &[0, 3000]);
    let views = rig.at(3601, 4000, &[0, 3000]);
    assert!(views.iter().all(|view| view.record.retains()));
    rig.unlink(2);
    let views = rig.at(3602, 4000, &[0, 3000]);
    let states = [views[0].record.state, views[1].record.state];
    assert_eq!(states, [SlotState::Lost, SlotState::Retaining]);
}

#[test]
fn an_age_goes_on_over_a_restart() {
    let rule = Rule { max_age: Some(Duration::from_secs(3600)), ..rule(1) };
    let mut rig = Rig::new(rule.clone(), 2);
    rig.unlink(1);
    rig.at(0, 2000, &[0]);
    rig.restart(rule);
    // The wall clock says that an hour has gone by.
    let views = rig.at(3601, 2000, &[0]);
    assert_eq!(views[0].record.state, SlotState::Lost);
}

#[test]
fn the_slot_that_holds_the_most_goes_when_the_disk_share_is_spent() {
    let mut rig = Rig::new(rule(2), 4);
    rig.unlink(3);
    rig.at(0, 4000, &[0, 1500]);
    let now = Now { instant: rig.start, unix_ns: 1 };
    rig.keeper.spend(now, Some(2500));
    rig.keeper.publish();
    let states = [rig.durable(1).state, rig.durable(2).state];
    assert_eq!(states, [SlotState::Lost, SlotState::Retaining], "3000 were held, now 2000 are");
}

/// The boundaries of what stands now in the place of something lost say nothing of
/// what was lost: a second restart took them for it.
#[test]
fn what_was_acknowledged_behind_the_last_boundary_is_in_doubt_until_it_is_heard_of() {
    let mut rig = Rig::new(rule(1), 4);
    rig.at(0, 4000, &[2500]);
    for (boundary, doubted) in [(1000, 1000), (2000, 1000), (3000, 1000)] {
        let change = Change::AddMark(Mark { lsn: Lsn(boundary), ..Mark::START });
        rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: alpha(), change }]);
        rig.restart(rule(1));
        assert_eq!(rig.durable(1).doubted, Some(Lsn(doubted)), "after {boundary}");
    }
    rig.at(1, 4000, &[2500]);
    assert_eq!(rig.durable(1).doubted, None);
    rig.restart(rule(1));
    assert_eq!(rig.durable(1).doubted, None, "a boundary lies behind it");
}

/// Where the end of the source was lost and less was written since, an epoch begins
/// behind what was written. A restart took the boundary for what was acknowledged.
#[test]
fn what_was_acknowledged_behind_what_an_epoch_is_sure_of_is_in_doubt_over_restarts() {
    let mut rig = Rig::new(rule(1), 4);
    rig.at(0, 4000, &[3500]);
    let (at, sure) = (Mark { lsn: Lsn(3000), ..Mark::START }, Lsn(2000));
    rig.batch(vec![Job::BeginEpoch { shard: 0, space: alpha(), at, sure, runs: 3 }]);
    rig.restart(rule(1));
    let slot = rig.durable(1);
    assert_eq!((slot.flushed.lsn, slot.doubted), (Lsn(3000), Some(Lsn(2000))));
    rig.at(1, 3000, &[3000]);
    assert_eq!(rig.durable(1).doubted, None);
}

/// The catalog knew of less than the replica had acknowledged when an epoch began: the
/// boundary of the cut was recorded as acknowledged.
#[test]
fn a_position_that_is_that_of_a_cut_is_in_doubt_from_what_was_recorded_before() {
    let mut rig = Rig::new(rule(1), 4);
    rig.unlink(3);
    rig.at(0, 1000, &[1000]);
    let views = rig.told(1, 4000, &[3000], false);
    assert_eq!(views[0].retained_bytes, 2000, "what is held for the doubt counts");
    let slot = rig.durable(1);
    assert_eq!((slot.flushed.lsn, slot.doubted), (Lsn(3000), Some(Lsn(1000))));
    rig.at(2, 4000, &[2000]);
    assert_eq!(rig.durable(1).doubted, None);
}

/// A primary that was started on a full disk shipped nothing before there was room.
#[test]
fn a_space_is_told_of_while_only_what_is_in_doubt_cannot_be_recorded() {
    let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
    let seen: Arc<dyn Host> = host.clone();
    let mut rig = Rig::new(rule(1), 4);
    rig.at(0, 4000, &[2500]);
    let full = |rig: &mut Rig| {
        host.0.store(u64::MAX, Ordering::SeqCst);
        rig.reopen(&seen, rule(1));
        host.0.store(0, Ordering::SeqCst);
        let told = rig.scan();
        let change = Change::AddMark(Mark { lsn: Lsn(3000), ..Mark::START });
        let job = Job::Commit { shard: 0, ticket: None, space: alpha(), change };
        assert!(rig.batch(vec![job]).is_empty());
        assert!(rig.keeper.needs_mending());
        told
    };
    let known = |told: &[News]| {
        let told: Vec<_> = told.iter().filter(|news| matches!(news, News::Space { .. })).collect();
        match told[..] {
            [] => false,
            [News::Space { record: Some(record), problems, .. }] => {
                assert_eq!(record.slots[&replica(1)].doubted, Some(Lsn(0)));
                assert!(problems.is_empty(), "{problems:?}");
                true
            }
            _ => panic!("{told:?}"),
        }
    };
    assert!(known(&full(&mut rig)));
    // The next process finds the same, as no boundary has become durable before.
    rig.reopen(&(Arc::new(ThisHost) as _), rule(1));
    assert_eq!(rig.durable(1).doubted, None);
    assert!(known(&rig.scan()));
    assert_eq!(rig.durable(1).doubted, Some(Lsn(0)));
    // A segment that appeared meanwhile is to be recorded first, and is told of once.
    rig.at(1, 4000, &[2500]);
    std::fs::write(rig.wal().join(SegmentName(5).to_string()), [0; 1000]).unwrap();
    assert!(!known(&full(&mut rig)));
    host.0.store(u64::MAX, Ordering::SeqCst);
    rig.keeper.mend();
    assert!(known(&rig.news.try_iter().collect::<Vec<_>>()));
    assert_eq!(rig.durable(1).doubted, Some(Lsn(0)));
    assert_eq!(rig.keeper.catalog.load().unwrap()[&alpha()].marks.last().unwrap().lsn, Lsn(3000));
}

/// A change that the catalog refuses takes all with it that is in its batch.
#[test]
fn what_was_not_told_for_a_refused_change_is_told_again_and_nothing_else() {
    let refused = || Job::Commit {
        shard: 0,
        ticket: None,
        space: "nobody".parse().unwrap(),
        change: Change::Checkpoint(Mark::START),
    };
    let scan = || Job::ScanSpace { shard: 0, space: alpha() };
    let told = |news: Vec<News>| {
        let mut told = news.into_iter().filter_map(|news| match news {
            News::Space { record, found, .. } => Some((record, found.len())),
            _ => None,
        });
        told.next().unwrap()
    };
    let mut rig = Rig::new(rule(1), 4);
    rig.at(0, 4000, &[2500]);
    rig.reopen(&(Arc::new(ThisHost) as _), rule(1));
    assert_eq!(told(rig.batch(vec![scan(), refused()])), (None, 0));
    assert_eq!(rig.durable(1).doubted, None);
    let (record, found) = told(rig.scan());
    assert_eq!((record.unwrap().slots[&replica(1)].doubted, found), (Some(Lsn(0)), 4));
    assert_eq!(rig.durable(1).doubted, Some(Lsn(0)), "it was found again");
    // The shard works with it: it was set back to what the catalog last had.
    std::fs::write(rig.wal().join(SegmentName(5).to_string()), [0; 1000]).unwrap();
    assert_eq!(told(rig.batch(vec![scan(), refused()])), (None, 0));
    assert_eq!(told(rig.scan()), (None, 1));
}

#[test]
fn a_loss_that_is_not_durable_lets_nothing_go() {
    let mut rig = Rig::new(Rule { max_bytes: Some(1), ..rule(1) }, 3);
    rig.unlink(1);
    let flushed = Mark::START;
    let slot = SlotPosition {
        replica: replica(1),
        flushed,
        sure: true,
        streaming: false,
        behind: Duration::ZERO,
    };
    let (head, spare) = (Lsn(3000), rig.spare());
    let spaces = vec![Positions { space: alpha(), head, spare, slots: vec![slot] }];
    let now = Now { instant: rig.start, unix_ns: 1 };
    let refused = Job::Commit {
        shard: 0,
        ticket: None,
        space: "nobody".parse().unwrap(),
        change: Change::Checkpoint(flushed),
    };
    let news = rig.batch(vec![Job::Positions { shard: 0, now, spaces }, refused]);
    assert!(matches!(&news[..], [News::Slots { slots, .. }] if slots.is_empty()), "{news:?}");
}

/// The disk was full for a moment. A pin whose release fell into it was held
/// until the node was restarted; and one that was released by a batch without a
/// change went although what that rested on was not durable.
#[test]
fn while_the_catalog_cannot_be_written_pins_wait_and_then_they_go() {
    let host = Arc::new(Mortal(AtomicU64::new(u64::MAX)));
    let seen: Arc<dyn Host> = host.clone();
    let mut rig = Rig::on(&seen, rule(1), 3);
    rig.unlink(2);
    let pins = [1, 2].map(|file| rig.keeper.pins.path(&alpha(), file));
    let held = || pins.iter().filter(|pin| pin.exists()).count();
    let release = |file| Job::Release { shard: 0, space: alpha(), file };
    let change = Change::AddMark(Mark { lsn: Lsn(3000), ..Mark::START });
    let mark = Job::Commit { shard: 0, ticket: None, space: alpha(), change };
    host.0.store(0, Ordering::SeqCst);
    rig.batch(vec![mark, release(1)]);
    assert_eq!(held(), 2, "what it rests on is not durable");
    rig.batch(vec![release(2)]);
    rig.keeper.mend();
    assert_eq!((held(), rig.keeper.needs_mending()), (2, true));
    host.0.store(u64::MAX, Ordering::SeqCst);
    rig.keeper.mend();
    assert_eq!((held(), rig.keeper.needs_mending()), (0, false));
}

#[test]
fn the_forecast_follows_the_growth_of_the_lag() {
    let mut rig = Rig::new(Rule { max_bytes: Some(101_000), ..rule(2) }, 2);
    rig.unlink(1);
    assert_eq!(rig.at(0, 2000, &[0, 2000])[0].forecast, None, "nothing is known yet");
    let mut views = Vec::new();
    for seconds in 1..=10 {
        let head = 2000 + 100 * seconds;
        views = rig.at(seconds, head, &[0, head]);
    }
    // 100 bytes a second, and 1000 of the budget are spent.
    assert_eq!(views[0].forecast.unwrap().as_secs(), 1000);
    assert_eq!(views[1].forecast, None, "who keeps up is never lost");
    assert_eq!(rig.keeper.spaces[&alpha()].kept.watches[&replica(1)].warned, 1);
}

/// It was said of a replica for which nothing was held that its slot would be lost
/// in six seconds, and for minutes after the last record.
#[test]
fn nothing_is_foretold_where_nothing_is_held_or_nothing_grows() {
    let mut rig = Rig::new(Rule { max_bytes: Some(100_000), ..rule(1) }, 2);
    let at = |rig: &mut Rig, seconds, head| rig.at(seconds, head, &[0])[0].forecast;
    for seconds in 0..=10 {
        let forecast = at(&mut rig, seconds, 2000 + 5000 * seconds);
        assert_eq!(forecast, None, "the database keeps all of it");
    }
    assert_eq!(rig.keeper.spaces[&alpha()].kept.watches[&replica(1)].warned, 0);
    rig.unlink(1);
    assert!(at(&mut rig, 11, 57_000).is_some(), "one segment is held, and the lag grows");
    let told: Vec<_> = (12..40).map(|seconds| at(&mut rig, seconds, 57_000).is_some()).collect();
    let quiet = usize::try_from(FORECAST_QUIET.as_secs()).unwrap();
    assert_eq!(told.iter().filter(|told| **told).count(), quiet - 1, "{told:?}");
    assert!(!told[quiet..].iter().any(|told| *told), "it has stopped");
    // Slower than can be measured.
    assert!(at(&mut rig, 40, 57_001).is_some());
    let watch = &rig.keeper.spaces[&alpha()].kept.watches[&replica(1)];
    assert_eq!(watch.forecast(Some(1 << 50), None), None);
}

#[test]
fn a_replica_that_left_the_configuration_leaves_no_slot() {
    let mut rig = Rig::new(rule(2), 2);
    rig.at(0, 2000, &[0, 0]);
    rig.restart(rule(1));
    let slots = &rig.keeper.catalog.load().unwrap()[&alpha()].slots;
    assert_eq!(slots.keys().collect::<Vec<_>>(), [&replica(1)]);
}

#[test]
fn a_seed_is_not_lost_for_its_own_size() {
    let mut rig = Rig::new(Rule { max_bytes: Some(500), ..rule(1) }, 4);
    let now = Now { instant: rig.start, unix_ns: 1 };
    let (space, replica) = (alpha(), replica(1));
    let (base, target) = (Mark::START, Lsn(4000));
    rig.batch(vec![Job::Reserve { shard: 0, now, space, replica, base, target }]);
    rig.unlink(3);
    let views = rig.at(1, 4000, &[0]);
    assert_eq!((views[0].retained_bytes, views[0].record.state), (3000, SlotState::Seeding));
}

/// Without that it would be named as lost after each start.
#[test]
fn an_empty_segment_that_was_let_go_of_is_nothing_lost_when_its_run_is_cut_off() {
    let mut rig = Rig::new(rule(1), 2);
    for number in [3, 4] {
        std::fs::write(rig.wal().join(SegmentName(number).to_string()), []).unwrap();
        rig.batch(vec![Job::ScanSpace { shard: 0, space: alpha() }]);
        let segment = SegmentName(number);
        let run = Run { start: Lsn(2000), segment, file: number, offset: 0, bytes: None };
        let change = Change::OpenRun(run);
        rig.batch(vec![Job::Commit { shard: 0, ticket: None, space: alpha(), change }]);
    }
    rig.unlink(4);
    let release = |file| Job::Release { shard: 0, space: alpha(), file };
    rig.batch([2, 3, 4].map(release).into());
    let at = Mark { lsn: Lsn(1000), ..Mark::START };
    rig.batch(vec![Job::BeginEpoch { shard: 0, space: alpha(), at, sure: at.lsn, runs: 1 }]);
    let record = rig.keeper.catalog.load().unwrap().remove(&alpha()).unwrap();
    let gone: Vec<_> = record.files.iter().map(|known| (known.file, known.is_gone())).collect();
    // Of the last one nobody knows that it was empty.
    assert_eq!(gone, [(1, false), (2, false), (3, true), (4, false)]);
}
