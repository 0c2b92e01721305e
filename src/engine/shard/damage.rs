//! What came damaged, what is damaged at rest, and ranges that are asked for
//! again because of it.
//!
//! ```text
//!   replica: "the record at lsn 900 does not hold"
//!      |
//!      v                 it holds here      damaged on its way: count it,
//!   keeper looks at it ------------------>  renew the connection
//!      |
//!      | it does not hold here either
//!      v
//!   the space is shipped up to it, and looked at again every second
//!      |
//!      | nobody has it, and the operator says "skip"
//!      v
//!   keeper looks once more, and leaves it out: a new epoch begins there
//! ```

use std::time::Instant;

use super::{Shard, Standing, Ticket};
use crate::engine::keeper::{Job, Verdict};
use crate::engine::primary::Holder;
use crate::engine::primary::link::Link;
use crate::engine::primary::slot::Answer;
use crate::engine::primary::space::Turn;
use crate::ids::{NodeId, SpaceId};
use crate::limits::{ATTENTION_INTERVAL, FAREWELL_TIMEOUT};
use crate::lsn::Lsn;
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::{ErrorCode, Fetch};
use crate::state::catalog::{Role, SpaceRecord};

impl Shard {
    /// A frame from the replica came damaged: say so, and renew the connection.
    pub(super) fn link_corrupted(&mut self, now: Now, index: usize, why: String) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.corrupted();
        if let Some(up) = link.up() {
            up.sender.close(now, ErrorCode::Corrupt, why.clone());
            up.closing.get_or_insert(now.instant + FAREWELL_TIMEOUT);
        }
        tracing::warn!(replica = %link.replica, "{why}; the connection is renewed");
        link.problem = Some(why);
        self.busy_links.insert(index);
    }

    /// A replica found a record damaged: look at it here.
    pub(super) fn suspect(&mut self, index: usize, handle: Handle, at: Lsn, reason: String) {
        let now = self.now().instant;
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        let slot = link.slot(handle.0 as usize);
        slot.streaming = false;
        slot.asked = None;
        slot.problem = Some(reason);
        let Some(space) = self.spaces.get(handle) else { return };
        if !space.borrow().begins_record(at) {
            // What lies within a record looks like damage.
            let why =
                format!("the replica calls a record damaged that begins at {at}, where none does");
            return link.stopped(handle.0 as usize, now, ErrorCode::Protocol, why, true);
        }
        let space = space.borrow().id.clone();
        let ticket = self.ticket(Ticket::Suspect(index, serial, handle, at));
        self.job(Job::CheckRecord { shard: self.setup.shard, ticket, space, at });
    }

    /// The keeper has looked at a record.
    pub(super) fn record_checked(&mut self, now: Now, ticket: u64, verdict: Verdict) {
        match self.tickets.remove(&ticket) {
            Some(Ticket::Suspect(index, serial, handle, at)) => {
                self.judge(now, (index, serial), handle, at, verdict);
            }
            Some(Ticket::Again(handle, at)) => {
                let Some(space) = self.spaces.get(handle) else { return };
                match verdict {
                    Verdict::Whole => {
                        space.borrow_mut().unblock(at);
                        self.head_moved(now, handle);
                    }
                    // A new epoch has begun meanwhile: other records are there.
                    Verdict::Damaged(_) if !space.borrow().is_blocked(at) => {}
                    Verdict::Damaged(bad) => {
                        let holders = self.holders(handle, at);
                        let Some(space) = self.spaces.get(handle) else { return };
                        space.borrow_mut().block(now, at, &bad, holders.as_deref());
                        let first = space.borrow().first_block();
                        let holders = first.and_then(|first| self.holders(handle, first));
                        self.leave_out(now, handle, holders);
                    }
                    Verdict::Unknown(why) => {
                        tracing::warn!(space = %space.borrow().id, lsn = %at, "{why}");
                    }
                }
            }
            _ => {}
        }
    }

    /// What a replica found damaged is whole here, or it is not.
    fn judge(
        &mut self,
        now: Now,
        (index, serial): (usize, u32),
        handle: Handle,
        at: Lsn,
        verdict: Verdict,
    ) {
        let holders = self.holders(handle, at);
        let Some(space) = self.spaces.get(handle) else { return };
        let damaged = matches!(verdict, Verdict::Damaged(_));
        if let Verdict::Damaged(bad) = &verdict {
            space.borrow_mut().block(now, at, bad, holders.as_deref());
            self.attended.insert(handle);
            self.next_attention.get_or_insert(now.instant + ATTENTION_INTERVAL);
        }
        // Whatever it was, over another connection it begins anew.
        let Some(link) = self.links.get_mut(index).filter(|link| link.serial == serial) else {
            return;
        };
        match verdict {
            Verdict::Whole => {
                let why = format!(
                    "the record of space {} at lsn {at} came damaged to the replica, and is whole \
                     here: it was damaged on its way",
                    space.borrow().id
                );
                self.link_corrupted(now, index, why);
            }
            Verdict::Damaged(_) | Verdict::Unknown(_) => {
                let open = space.borrow().open().filter(|_| damaged);
                match (link.up().filter(|up| up.established), open, verdict) {
                    (Some(up), Some(open), _) => up.sender.open_space(now, handle, open),
                    (_, _, Verdict::Unknown(why)) => {
                        let code = ErrorCode::Damaged;
                        link.stopped(handle.0 as usize, now.instant, code, why, true);
                    }
                    _ => {}
                }
                self.busy_links.insert(index);
            }
        }
    }

    /// Who may have what lies at `at` and does not hold here; nothing if it must not
    /// be left out.
    fn holders(&self, handle: Handle, at: Lsn) -> Option<Vec<Holder>> {
        let holder = |link: &Link| {
            let slot = link.slots.get(handle.0 as usize);
            Holder { replica: link.replica.clone(), has: slot.and_then(|slot| slot.has(at)) }
        };
        self.setup.skips_damage.then(|| self.links.iter().map(holder).collect())
    }

    /// Leave a record out that nobody has.
    fn leave_out(&mut self, now: Now, handle: Handle, holders: Option<Vec<Holder>>) {
        let (Some(holders), Some(space)) = (holders, self.spaces.get(handle)) else { return };
        let mut turn = Turn::default();
        space.borrow_mut().leave_out(now, &holders, &mut turn);
        for job in turn.jobs {
            self.job(job);
        }
        if let Some(turned) = turn.turned {
            self.cut_off(now, handle, turned);
        }
    }

    /// The keeper has left a record out, or has not.
    pub(super) fn left_out(
        &mut self,
        now: Now,
        id: &SpaceId,
        at: Lsn,
        result: Result<Box<SpaceRecord>, String>,
    ) {
        let why = match result {
            Ok(record) => return self.reigns(now, id, Ok(record)),
            Err(why) => why,
        };
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let Some(space) = self.spaces.get(handle) else { return };
        space.borrow_mut().stay(at, why);
        self.growing.insert(handle);
        self.open_everywhere(now, handle);
    }

    /// See to it that a space is looked at again soon.
    pub(super) fn attend_to(&mut self, handle: Handle, now: Instant) {
        self.attended.insert(handle);
        self.next_attention.get_or_insert(now + ATTENTION_INTERVAL);
    }

    /// Look again at what is wrong.
    pub(super) fn attend(&mut self, now: Instant) {
        self.next_attention = None;
        let clock = self.now();
        for handle in std::mem::take(&mut self.attended) {
            let Some(space) = self.spaces.get(handle) else { continue };
            // Debris lies where the walk stands.
            let holders = self.holders(handle, space.borrow().walked().lsn);
            let (id, blocks, jobs) = {
                let mut space = space.borrow_mut();
                space.look_at_unfinished(now);
                let jobs = holders.map(|holders| space.skip_debris(clock, &holders));
                let jobs = jobs.unwrap_or_default();
                (space.id.clone(), space.blocks(), jobs)
            };
            if !jobs.is_empty() {
                self.growing.insert(handle);
            }
            for job in jobs {
                self.job(job);
            }
            let lasts = self.spaces.get(handle).is_some_and(|it| it.borrow().needs_attention());
            if !lasts {
                continue;
            }
            for at in blocks {
                let (shard, space) = (self.setup.shard, id.clone());
                let ticket = self.ticket(Ticket::Again(handle, at));
                self.job(Job::CheckRecord { shard, ticket, space, at });
            }
            self.attend_to(handle, now);
        }
    }

    /// A replica asks for a range.
    pub(super) fn serve_link(&mut self, index: usize, handle: Handle, fetch: Fetch) {
        let Some(serial) = self.links.get(index).map(|link| link.serial) else { return };
        let Some(space) = self.spaces.get(handle).map(|space| space.borrow().id.clone()) else {
            return;
        };
        let ticket = self.ticket(Ticket::ServeLink(index, serial, handle, fetch.lsn));
        self.job(Job::ReadRange { shard: self.setup.shard, ticket, space, fetch });
    }

    /// The keeper has read a range for a peer.
    pub(super) fn range_read(&mut self, now: Now, ticket: u64, bytes: Vec<u8>) {
        match self.tickets.remove(&ticket) {
            Some(Ticket::ServeLink(index, serial, handle, lsn)) => {
                let Some(link) = self.links.get_mut(index).filter(|link| link.serial == serial)
                else {
                    return;
                };
                if let Some(up) = link.up() {
                    up.sender.serve(now, handle, lsn, bytes);
                    self.busy_links.insert(index);
                }
            }
            Some(Ticket::ServePeer(id, handle, lsn)) => {
                self.peer(now, id, |peer, _| peer.serve(now, handle, lsn, bytes));
            }
            _ => {}
        }
    }

    /// Where a space stands that is open here.
    pub(super) fn tell_standing(&self, id: &SpaceId, reply: &super::Sender<Standing>) {
        let received = self.peers.values().find_map(|peer| {
            let log = peer.logs().find(|log| log.space == *id)?;
            let (mark, base, runs) = (*log.flushed(), log.record.base, log.record.runs.clone());
            Some(Standing { mark, base, runs, role: Role::Replica, holes: Vec::new() })
        });
        let shipped = || {
            let space = self.spaces.get(*self.spaces.handles.get(id)?)?.borrow();
            Some(space.standing())
        };
        if let Some(standing) = received.or_else(shipped) {
            // Who asked may have given up.
            let _ = reply.send(standing);
        }
    }

    /// Ask whoever is at the other end for a range.
    pub(super) fn fetch(
        &mut self,
        id: &SpaceId,
        from: Option<&NodeId>,
        fetch: Fetch,
        answer: Answer,
    ) {
        let now = self.now();
        let open = self.peers.iter().find_map(|(peer, it)| Some((*peer, it.handle_of(id)?)));
        if let Some((peer, handle)) = open {
            return self.peer(now, peer, |peer, _| peer.fetch(now, handle, fetch, answer));
        }
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let end = fetch.lsn.advance(u64::from(fetch.bytes));
        for (index, link) in self.links.iter_mut().enumerate() {
            let there = link.slot(handle.0 as usize).flushed.lsn >= end
                && from.is_none_or(|from| *from == link.replica);
            if there
                && let Some(up) = link.up()
                && up.sender.fetch(now, handle, fetch)
            {
                link.slot(handle.0 as usize).asked = Some(answer);
                self.busy_links.insert(index);
                return;
            }
        }
    }

    /// Let go of a space that is being received.
    pub(super) fn yield_space(&mut self, id: &SpaceId) {
        let now = self.now();
        let open = self.peers.iter().find_map(|(peer, it)| Some((*peer, it.handle_of(id)?)));
        if let Some((peer, handle)) = open {
            let why = format!("space {id} is being mended here; it goes on in a moment");
            self.peer(now, peer, |peer, _| peer.yield_space(now, handle, &why));
        }
    }
}
