//! What is kept for replicas that are behind, as far as a data core has a part
//! in it: it tells the keeper where they are, and obeys what the keeper says.

use std::time::Instant;

use super::Shard;
use super::links::refuse;
use crate::engine::keeper::Job;
use crate::engine::keeper::retention::{Positions, SlotPosition, SlotView};
use crate::engine::primary::slot::Slot;
use crate::ids::{NodeId, SpaceId};
use crate::limits::{LINGER_INTERVAL, RETENTION_INTERVAL};
use crate::lsn::Lsn;
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::ErrorCode;

impl Shard {
    /// Do what is due by now.
    pub(super) fn mind_retention(&mut self, instant: Instant) {
        if self.next_linger.is_some_and(|at| at <= instant) {
            self.next_linger = None;
            let lingering = std::mem::take(&mut self.lingering);
            lingering.into_iter().for_each(|handle| self.retain_soon(handle));
        }
        if self.next_retention.is_some_and(|at| at <= instant) {
            self.tell_positions(self.now());
        }
    }

    /// Tell the keeper soon where the replicas of this space are.
    pub(super) fn retain_soon(&mut self, handle: Handle) {
        if self.retaining.insert(handle) && self.next_retention.is_none() && self.stopping.is_none()
        {
            self.next_retention = Some(self.now().instant + RETENTION_INTERVAL);
        }
    }

    /// What every replica has made durable for which something is kept.
    pub(super) fn lowest(&self, handle: Handle) -> Lsn {
        let space = self.spaces.get(handle);
        let needs = |slot: &Slot| {
            let needs = slot.needs()?;
            Some(space.map_or(needs, |space| space.borrow().vouched(slot)))
        };
        let slots = self.links.iter().map(|link| link.slots.get(handle.0 as usize));
        let needs = slots.filter_map(|slot| slot.map_or(Some(Lsn::ZERO), needs));
        needs.min().unwrap_or(Lsn(u64::MAX))
    }

    /// Tell the keeper where the replicas are, and let go of what none needs.
    /// A space is told again until all its replicas have all of it.
    pub(super) fn tell_positions(&mut self, now: Now) {
        self.next_retention = None;
        let mut told = Vec::new();
        for handle in std::mem::take(&mut self.retaining) {
            self.observe_rates(now, handle);
            self.meet(handle);
            let Some((positions, settled)) = self.positions(now, handle) else { continue };
            let lowest = self.lowest(handle);
            let Some(space) = self.spaces.get(handle) else { continue };
            let jobs = space.borrow_mut().release(lowest, &positions.spare);
            if !positions.slots.is_empty() {
                told.push(positions);
            }
            let pending = space.borrow().holds_unnamed();
            for job in jobs {
                self.job(job);
            }
            let untold = self.mirror(now, handle);
            if !settled || untold {
                self.retain_soon(handle);
            } else if pending && self.stopping.is_none() {
                self.lingering.insert(handle);
                self.next_linger.get_or_insert(now.instant + LINGER_INTERVAL);
            }
        }
        if !told.is_empty() {
            self.job(Job::Positions { shard: self.setup.shard, now, spaces: told });
        }
    }

    /// Look whether what replicas had made durable before this process started is in
    /// the stream.
    fn meet(&mut self, handle: Handle) {
        let Some(space) = self.spaces.get(handle) else { return };
        let space = space.borrow();
        let slots = self.links.iter_mut().filter_map(|link| link.slots.get_mut(handle.0 as usize));
        for slot in slots.filter(|slot| slot.met.is_none()) {
            slot.met = space.meets(slot);
        }
    }

    /// Tell the replicas which files have no name any more, each once it holds
    /// what stands instead of them. True if one is still to be told.
    fn mirror(&mut self, now: Now, handle: Handle) -> bool {
        let Some(space) = self.spaces.get(handle) else { return false };
        let mut space = space.borrow_mut();
        let (retirements, version) = space.retirements();
        let mut untold = false;
        for (index, link) in self.links.iter_mut().enumerate() {
            let slot = link.slot(handle.0 as usize);
            let flushed = slot.flushed.lsn;
            // One that is not streaming is told when it is shipped to again.
            if !slot.streaming || slot.told_all == Some(version) {
                continue;
            }
            let mut told = std::mem::take(&mut slot.told);
            let mut told_all = true;
            for retire in retirements {
                if told.get(&retire.file).is_some_and(|what| *what >= retire.what) {
                    continue;
                }
                let due = retire.after <= flushed;
                let sender = link.up().filter(|_| due).map(|up| &mut up.sender);
                if sender.is_some_and(|sender| sender.retire(now, handle, *retire)) {
                    told.insert(retire.file, retire.what);
                    self.busy_links.insert(index);
                } else {
                    told_all = false;
                }
            }
            untold |= !told_all;
            let slot = link.slot(handle.0 as usize);
            slot.told = told;
            slot.told_all = told_all.then_some(version);
        }
        untold
    }

    /// Where the replicas of a space are, and whether all have all of it.
    /// Nothing before the walk has been where the catalog left off: the head
    /// is not known then.
    fn positions(&self, now: Now, handle: Handle) -> Option<(Positions, bool)> {
        let mut space = self.spaces.get(handle)?.borrow_mut();
        space.open()?;
        let head = space.head().lsn;
        let spare = space.spare(now.instant);
        let mut settled = true;
        let unknown = Slot::default();
        let slots: Vec<_> = (self.links.iter())
            .map(|link| {
                let slot = link.slots.get(handle.0 as usize).unwrap_or(&unknown);
                settled &= slot.flushed.lsn >= head;
                SlotPosition {
                    replica: link.replica.clone(),
                    flushed: slot.flushed,
                    sure: slot.met == Some(true),
                    streaming: slot.streaming,
                    // The catalog knows what was before this process.
                    behind: space.age_behind(slot.flushed.lsn, now.instant).unwrap_or_default(),
                }
            })
            .collect();
        Some((Positions { space: space.id.clone(), head, spare, slots }, settled))
    }

    /// It is durable that a file was let go of. The replicas are to hear of it
    /// also where nothing else ever happens to the space.
    pub(super) fn released(&mut self, id: &SpaceId, file: u64) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        if let Some(space) = self.spaces.get(handle) {
            space.borrow_mut().released(file);
        }
        self.retain_soon(handle);
    }

    /// The keeper has looked at the slots of a space.
    pub(super) fn slots(&mut self, now: Now, id: &SpaceId, views: Vec<(NodeId, SlotView)>) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let mut lost = false;
        for (replica, view) in views {
            let link = self.links.iter_mut().enumerate().find(|(_, link)| link.replica == replica);
            let Some((index, link)) = link else { continue };
            let slot = link.slot(handle.0 as usize);
            if slot.reserving.is_some() {
                // It speaks of what was before the seed was asked for.
                continue;
            }
            let was_lost = slot.is_lost();
            slot.view = Some(view);
            if was_lost || view.record.retains() {
                continue;
            }
            lost = true;
            let streaming = std::mem::take(&mut slot.streaming);
            if streaming && link.up().is_some() {
                // What it would read next may be gone in a moment. It is asked
                // for again, and goes on if it needs nothing of that.
                let why = "the slot of this replica is lost: its budget was spent".to_owned();
                refuse(now, link, handle, ErrorCode::Lost, why);
                self.busy_links.insert(index);
            }
        }
        if lost {
            // Durable now: what was held for it alone goes at once.
            self.retain_soon(handle);
            let lowest = self.lowest(handle);
            if let Some(space) = self.spaces.get(handle) {
                let mut space = space.borrow_mut();
                let spare = space.spare(now.instant);
                let jobs = space.release(lowest, &spare);
                drop(space);
                jobs.into_iter().for_each(|job| self.job(job));
            }
        }
    }
}
