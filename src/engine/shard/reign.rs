//! The end of a reign on this shard: its own, when the source of a space was
//! changed behind the stream, and a fenced one.
//!
//! ```text
//!   source changed --> stop the space on all links
//!                      keeper: cut, new epoch, durable --> open it on all links
//!   fenced         --> stop the space on all links, for good
//! ```
//!
//! A frame of the old epoch that is on its way to a socket is finished before
//! the next one is asked for, and the `Error` that ends the space goes behind
//! it: no byte of the old epoch follows one of the new.

use super::{Shard, Ticket};
use crate::engine::primary::space::{Turn, Turned};
use crate::engine::primary::{Verdict, fenced};
use crate::ids::{Epoch, SpaceId};
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::ErrorCode;
use crate::state::catalog::SpaceRecord;

impl Shard {
    /// The stream was cut: the space is stopped everywhere until the new epoch is
    /// durable.
    pub(super) fn cut_off(&mut self, now: Now, handle: Handle, turned: Turned) {
        let why = format!("a new epoch begins at {}", turned.at.lsn);
        // Positions behind it mean other records from now on.
        self.tickets.retain(|_, ticket| {
            !matches!(ticket, Ticket::Suspect(.., of, _) | Ticket::Again(of, _) if *of == handle)
        });
        for (index, link) in self.links.iter_mut().enumerate() {
            link.slot(handle.0 as usize).cut(turned);
            link.asked(handle.0 as usize);
            if let Some(up) = link.up() {
                up.sender.stop_space(now, handle, ErrorCode::NewEpoch, why.clone());
                self.spaces.pass_probe_on(now, up, handle);
                self.busy_links.insert(index);
            }
        }
    }

    /// The keeper has made a new epoch durable, or has not.
    pub(super) fn reigns(
        &mut self,
        now: Now,
        id: &SpaceId,
        result: Result<Box<SpaceRecord>, String>,
    ) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let Some(space) = self.spaces.get(handle) else { return };
        match result {
            Ok(record) => space.borrow_mut().reign(*record),
            Err(why) => space.borrow_mut().cannot_reign(why),
        }
        self.growing.insert(handle);
        self.open_everywhere(now, handle);
    }

    /// Look whether all replicas go on in the present epoch, if that is waited
    /// for.
    pub(super) fn note_followed(&self, handle: Handle) {
        let Some(space) = self.spaces.get(handle).filter(|s| s.borrow().is_to_be_followed()) else {
            return;
        };
        let mut slots = self.links.iter().map(|link| link.slots.get(handle.0 as usize));
        if slots.all(|slot| slot.is_some_and(|slot| slot.known)) {
            space.borrow_mut().followed();
        }
    }

    /// Open a space on every connection that is up. Where the replica proves
    /// itself by another one, it is opened when it has.
    pub(super) fn open_everywhere(&mut self, now: Now, handle: Handle) {
        let Some(open) = self.spaces.get(handle).and_then(|space| space.borrow().open()) else {
            return;
        };
        for (index, link) in self.links.iter_mut().enumerate() {
            link.asked(handle.0 as usize);
            let slot = link.slot(handle.0 as usize);
            (slot.failed, slot.stops) = (false, 0);
            if let Some(up) = link.up()
                && up.established
                && up.closing.is_none()
                && up.probe.is_none_or(|probe| probe == handle)
            {
                up.sender.open_space(now, handle, open.clone());
                self.busy_links.insert(index);
            }
        }
    }

    /// Replicas that hold other records than this node: what is to be done?
    pub(super) fn settle_disputes(&mut self, now: Now, handle: Handle) {
        let mut turn = Turn::default();
        for (index, link) in self.links.iter_mut().enumerate() {
            let slot = link.slot(handle.0 as usize);
            let Some(mut dispute) = slot.dispute else { continue };
            let Some(space) = self.spaces.get(handle) else { continue };
            let mut space = space.borrow_mut();
            let (common, standing) = (dispute.common, dispute.standing);
            match space.judge(common, &standing, dispute.looked, &mut turn) {
                Verdict::Wait => {}
                Verdict::Look => {
                    dispute.looked = true;
                    slot.dispute = Some(dispute);
                    self.growing.insert(handle);
                }
                Verdict::NewEpoch => break,
                verdict @ (Verdict::Replica | Verdict::Incomparable(_)) => {
                    slot.dispute = None;
                    let why = match verdict {
                        Verdict::Incomparable(why) => incomparable(&why),
                        _ => format!(
                            "the replica holds other records than this node behind {}, in the \
                             same epoch {}: it has the stream up to {} with chain {:?}, and the \
                             head here is {}. What was walked here before is still the same. \
                             Nothing was cut: compare the two directories with saltus wal \
                             verify, and set the wrong one aside",
                            common.lsn,
                            space.epoch(),
                            standing.flushed,
                            standing.chain,
                            space.head().lsn
                        ),
                    };
                    drop(space);
                    if let Some(up) = link.up() {
                        up.sender.handle_diverged(now, handle, why);
                        self.busy_links.insert(index);
                    }
                }
            }
        }
        for job in turn.jobs {
            self.job(job);
        }
        if let Some(turned) = turn.turned {
            self.cut_off(now, handle, turned);
        }
    }

    /// A replica has seen a higher epoch than the one that is shipped.
    pub(super) fn fence(&mut self, now: Now, handle: Handle, highest: Epoch) {
        let Some(space) = self.spaces.get(handle) else { return };
        let mut jobs = Vec::new();
        let shipped = space.borrow().epoch();
        space.borrow_mut().fence(highest, &mut jobs);
        for job in jobs {
            self.job(job);
        }
        let why = fenced(shipped, highest);
        for (index, link) in self.links.iter_mut().enumerate() {
            link.asked(handle.0 as usize);
            let slot = link.slot(handle.0 as usize);
            (slot.streaming, slot.failed, slot.problem) = (false, true, Some(why.clone()));
            (slot.resume, slot.dispute) = (None, None);
            if let Some(up) = link.up() {
                up.sender.stop_space(now, handle, ErrorCode::Fenced, why.clone());
                self.spaces.pass_probe_on(now, up, handle);
                self.busy_links.insert(index);
            }
        }
    }
}

/// Why a replica that holds other records is not shipped to, if nobody can tell
/// where they part.
pub(super) fn incomparable(why: &str) -> String {
    format!(
        "the replica holds other records than this node, and where they part cannot be found out: \
         {why}. Nothing of it is touched: set its directory and its catalog aside by hand, and it \
         is filled anew"
    )
}
