//! Filling a replica anew, as its primary does it.
//!
//! ```text
//!   OpenAck: what it needs is gone
//!      |  may it be tried again yet? can it come to an end? where from?
//!      v
//!   Reserve --> keeper --> Reserved     everything from the base on is held
//!      |
//!      v
//!   Reseed --> replica --> OpenAck at the base --> the stream, as ever
//! ```

use super::Shard;
use super::links::refuse;
use crate::engine::keeper::Job;
use crate::engine::primary::link::Link;
use crate::engine::primary::retention::Unresumable;
use crate::engine::primary::seed::{outrun, pause_left};
use crate::engine::rate::Rate;
use crate::ids::{NodeId, SpaceId};
use crate::limits::MEASURED_LAG_BYTES;
use crate::lsn::{Lsn, Mark};
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::{ErrorCode, Reseed};

impl Shard {
    /// What a replica that stands `at` needs is gone: fill it anew, or say why
    /// not now.
    pub(super) fn begin_seed(
        &mut self,
        now: Now,
        index: usize,
        handle: Handle,
        at: Lsn,
        why: &str,
    ) {
        let slot = handle.0 as usize;
        self.busy_links.insert(index);
        let Some(link) = self.links.get_mut(index) else { return };
        let record = link.slot(slot).view.map(|view| view.record).unwrap_or_default();
        if at < link.slot(slot).stands {
            // Its records were being compared with ours, further back.
            let why = super::reign::incomparable(why);
            if let Some(up) = link.up() {
                up.sender.handle_diverged(now, handle, why);
            }
            return;
        }
        let lost = |link: &mut Link, reason: String| {
            refuse(now, link, handle, ErrorCode::Lost, format!("{why}. {reason}"));
        };
        if let Some(left) = pause_left(&record, now.unix_ns) {
            let reason = format!(
                "{} attempts to fill this replica anew were lost in a row; the next one begins in \
                 {} s. Raise the limits in [retention], or find out why it is so slow",
                record.lost_seeds,
                left.as_secs() + 1
            );
            return lost(link, reason);
        }
        let Some(space) = self.spaces.get(handle) else { return };
        let mut space = space.borrow_mut();
        let limit = self.setup.seed_bytes_per_second;
        if let Some(reason) = outrun(space.growth.per_second(), link.capacity, limit) {
            return lost(link, reason);
        }
        let mut jobs = Vec::new();
        let found = space.seed_base(&mut jobs);
        let (id, target) = (space.id.clone(), space.head().lsn);
        drop(space);
        match found {
            // It is asked again with the news of what is being opened.
            None => link.slot(slot).resume = Some(at),
            Some(Err(Unresumable::Gone(gap))) => {
                let reason = format!(
                    "It cannot be filled anew either: {gap}. Once the database has compacted its \
                     log (it does when it starts) this goes on by itself"
                );
                lost(link, reason);
            }
            Some(Err(Unresumable::Unreadable(why))) => {
                refuse(now, link, handle, ErrorCode::Storage, why);
            }
            Some(Ok(base)) => {
                let target = target.max(base.mark.lsn);
                tracing::warn!(
                    space = %id, replica = %link.replica, base = %base.mark.lsn, %target,
                    bytes = target.bytes_since(base.mark.lsn),
                    "{why}. The replica is filled anew from the oldest segment that has a name"
                );
                link.slot(slot).reserve(base, target);
                let (shard, replica) = (self.setup.shard, link.replica.clone());
                jobs.push(Job::Reserve { shard, now, space: id, replica, base: base.mark, target });
            }
        }
        for job in jobs {
            self.job(job);
        }
    }

    /// The keeper holds what a seed needs: begin it, if the replica still
    /// waits for it.
    pub(super) fn reserved(
        &mut self,
        now: Now,
        id: &SpaceId,
        replica: &NodeId,
        base: Mark,
        result: Result<(), String>,
    ) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let link = self.links.iter_mut().enumerate().find(|(_, link)| link.replica == *replica);
        let Some((index, link)) = link else { return };
        let slot = link.slot(handle.0 as usize);
        let Some(waiting) = slot.reserving.take().filter(|waiting| waiting.mark == base) else {
            return;
        };
        let head = slot.view.map_or(base.lsn, |view| view.record.target);
        self.busy_links.insert(index);
        if let Err(why) = result {
            return refuse(now, link, handle, ErrorCode::Storage, why);
        }
        slot.throttle = None;
        let (stands, chain) = (slot.stands, slot.stands_with);
        let space = self.spaces.get(handle);
        let vouched = space.is_some_and(|space| space.borrow().vouches_for(stands, chain));
        if let Some(up) = link.up() {
            let reseed = Reseed { base, head, first_run: waiting.first_run, vouched };
            up.sender.handle_reseed(now, handle, reseed);
        }
    }

    /// Look at how fast the log grows and each replica gets on.
    pub(super) fn observe_rates(&mut self, now: Now, handle: Handle) {
        let Some(space) = self.spaces.get(handle) else { return };
        let head = space.borrow().head().lsn;
        space.borrow_mut().growth.observe(now.instant, head.0);
        for link in &mut self.links {
            let slot = link.slot(handle.0 as usize);
            if !slot.is_seeding() {
                slot.throttle = None;
            }
            if !slot.streaming {
                slot.rate = Rate::default();
                continue;
            }
            slot.rate.observe(now.instant, slot.flushed.lsn.0);
            let far = head.bytes_since(slot.flushed.lsn) >= MEASURED_LAG_BYTES;
            let free = far && slot.throttle.is_none();
            if let Some(rate) = slot.rate.per_second().filter(|_| free) {
                link.carried(rate);
            }
        }
    }
}
