//! How long segments are kept for a replica that is behind, and when no longer.
//!
//! ```text
//!   shard -- Positions --> sweep --+--> slot in the catalog
//!     ^                            +--> budgets: bytes, age, share of the disk
//!     +------- News::Slots --------+--> forecast, warnings, lost
//! ```
//!
//! What a slot costs are the bytes that would be free without it: segments
//! whose name is gone, held by a pin, of which the replica has not made all
//! durable. A segment that has its name costs nothing, however far behind the
//! replica is; so a slot is never lost for a backlog that the database itself
//! still keeps. Nor does one that its writer goes on with after its own
//! compaction has unlinked it: no loss would make that any smaller.
//!
//! A slot that is past its budget is lost: that is durable before a pin goes.
//! The pins go by the shard's word, which knows what the other slots need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Keeper, News, remember};
use crate::config;
use crate::engine::span;
use crate::ids::{NodeId, SpaceId};
use crate::limits::{
    FORECAST_FARTHEST, FORECAST_LEAST, FORECAST_QUIET, FORECAST_WARNINGS, FORECAST_WINDOW,
    RETENTION_INTERVAL,
};
use crate::lsn::{Lsn, Mark};
use crate::protocol::Now;
use crate::state::catalog::{Change, SpaceRecord};
use crate::state::slots::{SlotRecord, SlotState};

/// How much may be kept, and for whom.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Bytes per slot.
    pub max_bytes: Option<u64>,
    /// How long a slot may be behind while it holds anything.
    pub max_age: Option<Duration>,
    /// Percent of the file system.
    pub max_disk_share: u32,
    /// The replicas of the configuration.
    pub replicas: Vec<NodeId>,
}

impl Rule {
    /// The rule of a configuration.
    #[must_use]
    pub fn of(config: &config::Config) -> Self {
        Self {
            max_bytes: config.retention.max_bytes,
            max_age: config.retention.max_age,
            max_disk_share: config.retention.max_disk_share,
            replicas: config.replicas.iter().map(|replica| replica.id.clone()).collect(),
        }
    }
}

/// Where the replicas of one space are, as its shard knows it.
#[derive(Clone, Debug)]
pub struct Positions {
    /// The space.
    pub space: SpaceId,
    /// Its head.
    pub head: Lsn,
    /// Files without a name that nothing but slots holds.
    pub spare: BTreeSet<u64>,
    /// Each replica of the configuration.
    pub slots: Vec<SlotPosition>,
}

/// Where one replica is.
#[derive(Clone, Debug)]
pub struct SlotPosition {
    /// The replica.
    pub replica: NodeId,
    /// What it has made durable.
    pub flushed: Mark,
    /// That is no memory of the catalog alone: the replica was heard of since, or
    /// the walk has met the position again.
    pub sure: bool,
    /// It is being shipped to.
    pub streaming: bool,
    /// How old the oldest byte is that it has not made durable; zero if there
    /// is none.
    pub behind: Duration,
}

/// What the shard is told of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotView {
    /// The slot, as the catalog has it.
    pub record: SlotRecord,
    /// Bytes that it costs.
    pub retained_bytes: u64,
    /// Bytes that it may cost; nothing if unknown.
    pub budget_bytes: Option<u64>,
    /// When it will be lost; nothing if not known, or not at all.
    pub forecast: Option<Duration>,
}

/// What is remembered of a slot between two looks, and not across restarts.
#[derive(Debug, Default)]
struct Watch {
    /// How far it was behind, when.
    samples: VecDeque<(Instant, u64)>,
    /// Since when it stands where it stands, and how long it had been behind
    /// then. Steps of the wall clock do not matter from there on.
    standing: Option<(Lsn, Instant, Duration)>,
    /// How many of the warnings were given.
    warned: usize,
    retained: u64,
}

/// What the keeper knows of one space's segments.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Files that have a pin.
    pub(super) pinned: BTreeSet<u64>,
    /// Files that had a name when the directory was last listed.
    pub(super) named: BTreeSet<u64>,
    /// Files without a name that nothing but slots holds, by the shard's last
    /// word. One that it does not speak of is held by something else, or was
    /// when it looked.
    spare: BTreeSet<u64>,
    head: Lsn,
    watches: BTreeMap<NodeId, Watch>,
    /// Bytes that pins alone hold and that some slot needs.
    held: u64,
}

impl Kept {
    /// Files that only a pin holds, and the pin only for slots; and how long
    /// they are.
    fn unnamed(&self, record: &SpaceRecord) -> BTreeMap<u64, u64> {
        let mut lengths = BTreeMap::new();
        let is_unnamed = |file: &&u64| self.pinned.contains(file) && !self.named.contains(file);
        let unnamed: BTreeSet<u64> = self.spare.iter().filter(is_unnamed).copied().collect();
        if unnamed.is_empty() {
            return lengths;
        }
        for (_, run) in record.runs.iter() {
            if unnamed.contains(&run.file) {
                let last = lengths.entry(run.file).or_insert(0);
                *last = run.reach(self.head).max(*last);
            }
        }
        lengths
    }
}

/// The files of `unnamed` that hold a byte behind `flushed`.
fn needed(
    record: &SpaceRecord,
    unnamed: &BTreeMap<u64, u64>,
    flushed: Lsn,
    head: Lsn,
) -> BTreeSet<u64> {
    if unnamed.is_empty() {
        return BTreeSet::new();
    }
    record
        .runs
        .iter()
        .rev()
        .take_while(|(_, run)| run.bytes.is_none_or(|bytes| run.start.advance(bytes) > flushed))
        .filter(|(_, run)| {
            let bytes = run.bytes.unwrap_or_else(|| head.bytes_since(run.start));
            bytes > 0 && run.start.advance(bytes) > flushed
        })
        .map(|(_, run)| run.file)
        .filter(|file| unnamed.contains_key(file))
        .collect()
}

impl Keeper {
    /// Slots of replicas that the configuration no longer has.
    pub(super) fn drop_foreign_slots(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let foreign: Vec<_> = (entry.record.slots.keys())
            .filter(|replica| !self.rule.replicas.contains(replica))
            .cloned()
            .collect();
        for replica in foreign {
            tracing::warn!(
                %space, %replica,
                "the configuration does not name this replica any more: what was kept for it is \
                 let go; if it comes back, it is filled anew where need be"
            );
            let change = Change::DropSlot { replica };
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
    }

    /// This process knows no boundary behind the last one of the catalog. A slot
    /// that is farther may have acknowledged what a crash has taken since: that is
    /// remembered before anything else is walked, because the boundaries which
    /// come then tell nothing of it.
    pub(super) fn doubt_slots(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let known = entry.record.marks.last().map_or(Lsn::ZERO, |mark| mark.lsn);
        let mut doubted = entry.record.slots.clone();
        doubted.retain(|_, slot| slot.doubt(known));
        for (replica, slot) in doubted {
            let change = Change::Slot { replica, slot };
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
    }

    /// What [`doubt_slots`](Self::doubt_slots) found was not remembered: it is to be
    /// found again.
    pub(super) fn doubt_again(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let known = entry.record.marks.last().map_or(Lsn::ZERO, |mark| mark.lsn);
        for slot in entry.record.slots.values_mut() {
            slot.doubted = slot.doubted.filter(|from| *from != known);
        }
    }

    /// Take the positions of a shard's spaces; tell it of their slots.
    pub(super) fn sweep(&mut self, shard: usize, now: Now, all: Vec<Positions>) {
        if !self.unwritten.changes.is_empty() {
            // No loss can be made durable, so none is decided; and positions
            // would only wait in the way of what must be recorded.
            return;
        }
        let disk = disk_bytes(&self.places.data_root);
        let share = disk.map(|bytes| bytes / 100 * u64::from(self.rule.max_disk_share));
        let mut touched = Vec::new();
        for positions in all {
            let space = positions.space.clone();
            self.take_positions(now, positions);
            touched.push(space);
        }
        self.spend(now, share);
        let total: u64 = self.spaces.values().map(|entry| entry.kept.held).sum();
        for space in touched {
            let slots = self.views(&space, now, share, total);
            self.waiting.push((shard, News::Slots { space, slots }));
        }
    }

    fn take_positions(&mut self, now: Now, positions: Positions) {
        let space = &positions.space;
        let Some(entry) = self.spaces.get_mut(space) else { return };
        entry.kept.head = positions.head;
        entry.kept.spare.clone_from(&positions.spare);
        for at in positions.slots {
            let known = entry.record.slots.get(&at.replica).copied();
            let mut slot = known.unwrap_or(SlotRecord { since_ns: now.unix_ns, ..at.record() });
            let watch = entry.kept.watches.entry(at.replica.clone()).or_default();
            let lag = positions.head.bytes_since(at.flushed.lsn);
            watch.observe(now, &slot, &at, lag);
            slot.behind_ns = match lag {
                0 => 0,
                _ => now.unix_ns.saturating_sub(nanos(watch.age(now.instant))),
            };
            if known.is_some_and(|known| known.flushed.lsn == at.flushed.lsn && known.behind_ns > 0)
                && lag > 0
            {
                // Not for the wall clock to change.
                slot.behind_ns = known.map_or(0, |known| known.behind_ns);
            }
            slot.flushed = at.flushed;
            match at.sure {
                true => slot.doubted = None,
                // It may be the boundary of a cut that lies behind what is known of it.
                false => {
                    slot.doubt(known.map_or(Lsn::ZERO, |known| known.flushed.lsn));
                }
            }
            settle(space, &at, now, &mut slot);
            if known != Some(slot) {
                let change = Change::Slot { replica: at.replica.clone(), slot };
                remember(&mut entry.record, &change);
                self.changes.push((space.clone(), change));
            }
        }
        entry.weigh();
    }

    /// Take slots that are past their budget for lost.
    fn spend(&mut self, now: Now, share: Option<u64>) {
        let mut over = Vec::new();
        for (space, entry) in &self.spaces {
            for (replica, watch) in &entry.kept.watches {
                let Some(slot) = entry.record.slots.get(replica) else { continue };
                if !slot.retains() || watch.retained == 0 {
                    continue;
                }
                let bytes = self.rule.bytes_of(slot).filter(|most| watch.retained > *most);
                let age = watch.age(now.instant);
                let late = self.rule.max_age.filter(|most| age > *most);
                if let Some(most) = bytes {
                    let why = format!("more than the {most} bytes that retention.max_bytes allows");
                    over.push((space.clone(), replica.clone(), why));
                } else if let Some(most) = late {
                    let why =
                        format!("behind for {age:.0?}, longer than retention.max_age, {most:?}");
                    over.push((space.clone(), replica.clone(), why));
                }
            }
        }
        for (space, replica, why) in over {
            self.lose(&space, &replica, now, &why);
        }
        let Some(share) = share else { return };
        loop {
            let total: u64 = self.spaces.values().map(|entry| entry.kept.held).sum();
            if total <= share {
                return;
            }
            let largest = (self.spaces.iter())
                .flat_map(|(space, entry)| {
                    let retains = |replica: &&NodeId| {
                        entry.record.slots.get(*replica).is_some_and(SlotRecord::retains)
                    };
                    (entry.kept.watches.iter())
                        .filter(move |(replica, _)| retains(replica))
                        .map(move |(replica, watch)| (watch.retained, space, replica))
                })
                .max();
            let Some((bytes, space, replica)) = largest.filter(|(bytes, ..)| *bytes > 0) else {
                return;
            };
            let (space, replica) = (space.clone(), replica.clone());
            let why = format!(
                "all slots together hold {total} bytes, more than the {} % of the disk \
                 ({share} bytes) that retention.max_disk_share allows, and this one holds the \
                 most, {bytes}",
                self.rule.max_disk_share
            );
            self.lose(&space, &replica, now, &why);
        }
    }

    /// A slot's budget is spent: durable first, then its pins go.
    fn lose(&mut self, space: &SpaceId, replica: &NodeId, now: Now, why: &str) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let Some(mut slot) = entry.record.slots.get(replica).copied() else { return };
        let unnamed = entry.kept.unnamed(&entry.record);
        let head = entry.kept.head;
        let files = needed(&entry.record, &unnamed, slot.held_from(), head);
        let names: Vec<_> = (entry.record.files.iter())
            .filter(|file| files.contains(&file.file))
            .map(|file| file.segment.to_string())
            .take(crate::limits::MAX_NAMED_FILES)
            .collect();
        let bytes = entry.kept.watches.get(replica).map_or(0, |watch| watch.retained);
        if slot.state == SlotState::Seeding {
            slot.lost_seeds = slot.lost_seeds.saturating_add(1);
        }
        tracing::error!(
            %space, %replica,
            retained_bytes = bytes, segments = files.len(), from = %slot.flushed.lsn, %head,
            "the slot is lost: {why}. What was kept for this replica alone is let go ({}{}); the \
             database is not affected. When the replica is back and needs it, it is filled anew by \
             itself from the segments that are here then",
            names.join(", "),
            if files.len() > names.len() { ", ..." } else { "" },
        );
        slot.state = SlotState::Lost;
        slot.since_ns = now.unix_ns;
        let change = Change::Slot { replica: replica.clone(), slot };
        remember(&mut entry.record, &change);
        self.changes.push((space.clone(), change));
        entry.weigh();
    }

    /// What the shard is told.
    fn views(
        &mut self,
        space: &SpaceId,
        now: Now,
        share: Option<u64>,
        total: u64,
    ) -> Vec<(NodeId, SlotView)> {
        let Some(entry) = self.spaces.get_mut(space) else { return Vec::new() };
        let mut views = Vec::new();
        for (replica, watch) in &mut entry.kept.watches {
            let Some(record) = entry.record.slots.get(replica).copied() else { continue };
            let most = self.rule.bytes_of(&record);
            let left = [
                most.map(|most| most.saturating_sub(watch.retained)),
                share.map(|share| share.saturating_sub(total)),
            ];
            let left = left.into_iter().flatten().min();
            let budget_bytes = [most, share].into_iter().flatten().min();
            let age_left = self.rule.max_age.filter(|_| watch.retained > 0);
            let age_left = age_left.map(|most| most.saturating_sub(watch.age(now.instant)));
            let forecast = watch.forecast(left, age_left).filter(|_| record.retains());
            watch.warn(space, replica, forecast, budget_bytes);
            let retained_bytes = watch.retained;
            views.push((
                replica.clone(),
                SlotView { record, retained_bytes, budget_bytes, forecast },
            ));
        }
        views
    }

    /// A replica is to be filled anew from `base` on: everything from there is
    /// held for it before anything moves.
    pub(super) fn reserve(
        &mut self,
        now: Now,
        space: &SpaceId,
        replica: &NodeId,
        base: Mark,
        target: Lsn,
    ) {
        let Some(entry) = self.spaces.get_mut(space) else { return };
        let known = entry.record.slots.get(replica).copied().unwrap_or_default();
        let slot = SlotRecord {
            state: SlotState::Seeding,
            lost_seeds: known.lost_seeds,
            flushed: base,
            doubted: None,
            since_ns: now.unix_ns,
            behind_ns: now.unix_ns,
            base: base.lsn,
            target,
        };
        let seed = target.bytes_since(base.lsn);
        if let Some(most) = self.rule.max_bytes.filter(|most| seed > *most) {
            tracing::warn!(
                %space, %replica,
                "the seed is {seed} bytes, more than retention.max_bytes, {most}: while it runs \
                 its own size is allowed instead"
            );
        }
        let change = Change::Slot { replica: replica.clone(), slot };
        remember(&mut entry.record, &change);
        self.changes.push((space.clone(), change));
        entry.kept.watches.insert(replica.clone(), Watch::default());
        entry.weigh();
    }
}

impl super::Space {
    /// Add up what the slots hold.
    fn weigh(&mut self) {
        let unnamed = self.kept.unnamed(&self.record);
        let head = self.kept.head;
        let mut all = BTreeSet::new();
        for (replica, watch) in &mut self.kept.watches {
            watch.retained = 0;
            let Some(slot) = self.record.slots.get(replica).filter(|slot| slot.retains()) else {
                continue;
            };
            let files = needed(&self.record, &unnamed, slot.held_from(), head);
            watch.retained = files.iter().filter_map(|file| unnamed.get(file)).sum();
            all.extend(files);
        }
        self.kept.held = all.iter().filter_map(|file| unnamed.get(file)).sum();
    }
}

impl Rule {
    /// The most bytes that a slot may hold: a seed is never lost for its own
    /// size.
    fn bytes_of(&self, slot: &SlotRecord) -> Option<u64> {
        let seed = match slot.state {
            SlotState::Seeding => slot.target.bytes_since(slot.base),
            SlotState::Retaining | SlotState::Lost => 0,
        };
        self.max_bytes.map(|most| most.max(seed))
    }
}

impl SlotPosition {
    fn record(&self) -> SlotRecord {
        SlotRecord { flushed: self.flushed, ..SlotRecord::default() }
    }
}

/// What a position alone changes in the state of a slot.
fn settle(space: &SpaceId, at: &SlotPosition, now: Now, slot: &mut SlotRecord) {
    let replica = &at.replica;
    let seeded = slot.state == SlotState::Seeding && at.flushed.lsn >= slot.target && at.streaming;
    if seeded {
        tracing::info!(
            %space, %replica, base = %slot.base, at = %at.flushed.lsn,
            "the replica has been filled anew"
        );
        slot.lost_seeds = 0;
    } else if slot.state == SlotState::Lost && at.streaming {
        tracing::info!(
            %space, %replica, at = %at.flushed.lsn,
            "the replica is back, and everything that it needs is here: its slot retains again"
        );
    } else {
        return;
    }
    slot.state = SlotState::Retaining;
    slot.since_ns = now.unix_ns;
}

impl Watch {
    fn observe(&mut self, now: Now, slot: &SlotRecord, at: &SlotPosition, lag: u64) {
        if lag == 0 {
            self.standing = None;
            self.warned = 0;
        } else if self.standing.is_none_or(|(lsn, ..)| lsn != at.flushed.lsn) {
            // After a restart the catalog knows since when.
            let before = match self.standing {
                None if slot.behind_ns > 0 && slot.flushed.lsn == at.flushed.lsn => {
                    Duration::from_nanos(now.unix_ns.saturating_sub(slot.behind_ns))
                }
                _ => at.behind,
            };
            self.standing = Some((at.flushed.lsn, now.instant, before.max(at.behind)));
        }
        let due = self.samples.back().is_none_or(|(last, _)| {
            now.instant.saturating_duration_since(*last) >= RETENTION_INTERVAL / 2
        });
        if due {
            self.samples.push_back((now.instant, lag));
        }
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(first, _)| {
                now.instant.saturating_duration_since(*first) >= FORECAST_WINDOW
            })
        {
            self.samples.pop_front();
        }
    }

    /// For how long there has been something that it has not made durable.
    fn age(&self, now: Instant) -> Duration {
        self.standing
            .map_or(Duration::ZERO, |(_, at, before)| before + now.saturating_duration_since(at))
    }

    /// When `left` bytes will be spent at the rate at which the lag grows, or
    /// `age_left` has passed, whichever comes first. Where nothing is held there
    /// is nothing to lose, however fast a backlog grows that the database keeps.
    fn forecast(&self, left: Option<u64>, age_left: Option<Duration>) -> Option<Duration> {
        if self.retained == 0 {
            return None;
        }
        let spent = left.and_then(|left| {
            let (first, last) = (self.samples.front()?, self.samples.back()?);
            let span = last.0.saturating_duration_since(first.0);
            let quiet = |(at, _): &&_| last.0.saturating_duration_since(*at) >= FORECAST_QUIET;
            let before = self.samples.iter().rev().find(quiet).unwrap_or(first);
            let grown = last.1.checked_sub(first.1).filter(|grown| *grown > 0)?;
            #[expect(clippy::cast_precision_loss, reason = "a forecast")]
            let seconds = left as f64 * span.as_secs_f64() / grown as f64;
            let known = span >= FORECAST_LEAST && last.1 > before.1;
            known.then(|| Duration::try_from_secs_f64(seconds).ok())?
        });
        spent.into_iter().chain(age_left).min().filter(|time| *time <= FORECAST_FARTHEST)
    }

    /// Each warning once, until the replica has caught up.
    fn warn(
        &mut self,
        space: &SpaceId,
        replica: &NodeId,
        forecast: Option<Duration>,
        budget_bytes: Option<u64>,
    ) {
        let Some(forecast) = forecast else { return };
        let due = FORECAST_WARNINGS.iter().filter(|at| forecast < **at).count();
        if due > self.warned {
            self.warned = due;
            tracing::warn!(
                %space, %replica, retained_bytes = self.retained, ?budget_bytes,
                "at the present growth the slot of this replica is lost in {}: bring the replica \
                 back, or raise the limits in [retention]",
                span::in_words(forecast.as_secs_f64())
            );
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The size of the file system.
fn disk_bytes(path: &std::path::Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path);
    if let Err(error) = &found {
        tracing::warn!(path = %path.display(), %error, "the size of the disk cannot be told");
    }
    found.ok().map(|disk| disk.blocks() * disk.fragment_size())
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
