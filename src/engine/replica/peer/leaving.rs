//! How a connection from a primary ends: at a word of either side, by a break,
//! or because the primary is silent or slower than a connection may be.
//!
//! ```text
//!   closing --> logs flush --> acks --> spaces go back --> Error --> hang up
//!                                                           `-- in time, or without
//! ```

use std::time::Instant;

use super::{Action, Peer};
use crate::engine::keeper::Job;
use crate::engine::replica::log::Log;
use crate::ids::SpaceId;
use crate::limits::FAREWELL_TIMEOUT;
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::ErrorCode;

impl Peer {
    /// Why it is being closed.
    #[must_use]
    pub fn closing(&self) -> Option<&str> {
        self.closing.as_deref()
    }

    /// Nothing of it is in flight and nothing is owed: it can be dropped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_settled() && !self.receiving && !self.sending && self.in_flight == 0
    }

    /// It has not said who it is.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.node.is_none()
    }

    /// End the connection: flush what is here, acknowledge it, say why, give
    /// the spaces back.
    pub fn close(&mut self, code: ErrorCode, why: String) {
        if self.closing.is_none() {
            self.farewell = Some((code, why.clone()));
            self.begin_closing(why);
        }
    }

    pub(super) fn begin_closing(&mut self, why: String) {
        if self.closing.is_none() {
            self.closing = Some(why);
            self.fetching.clear();
            self.entry = None;
            for (handle, log) in &mut self.logs {
                log.flush_at_once();
                self.active.insert(*handle);
            }
        }
    }

    /// The connection broke.
    pub fn broken(&mut self, why: String) {
        self.begin_closing(why);
        self.farewell = None;
        // Ends what is in flight; already closed is as good.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// The log of a space has just failed: it goes back, and its primary is told.
    pub(super) fn poisoned(&mut self, now: Now, handle: Handle) {
        let Some(log) = self.logs.get(&handle) else { return };
        let why = log.failed().unwrap_or_default().to_owned();
        tracing::error!(space = %log.space, "{why}; nothing more of it is acknowledged");
        self.ended.insert(handle);
        self.active.insert(handle);
        self.machine.stop_space(now, handle, ErrorCode::Storage, why);
    }

    /// What lies where this space is received is not as it was left, or may not
    /// be: look, or take somebody's word. Nothing more of it counts then. False
    /// if the space is not here, or nothing is wrong.
    pub fn evict(&mut self, now: Now, space: &SpaceId, why: Option<&str>) -> bool {
        let found = self.logs.iter_mut().find(|(_, log)| log.space == *space);
        let Some((handle, log)) = found.filter(|(_, log)| log.failed().is_none()) else {
            return false;
        };
        let handle = *handle;
        match why {
            Some(why) => log.fail(why.to_owned()),
            None => {
                log.look();
            }
        }
        if log.failed().is_none() {
            return false;
        }
        self.poisoned(now, handle);
        true
    }

    /// When to call [`Peer::pump`] without an event.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let logs = (self.active.iter())
            .filter_map(|handle| self.logs.get(handle).and_then(Log::next_timeout))
            .min();
        let open = [self.machine.next_timeout(), self.giving.until(), self.taking.until()];
        let open = open.into_iter().chain([self.compared_by()]).flatten().min();
        let open = open.filter(|_| self.closing.is_none());
        [open, self.leave_at, logs].into_iter().flatten().min()
    }

    /// Give up a primary that is silent, or slower than a connection may be.
    pub(super) fn mind_time(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.leave_at.is_some_and(|at| at <= now.instant) {
            self.leave_at = None;
            // Ends a Send that is never taken; already closed is as good.
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
        if self.closing.is_some() {
            return;
        }
        self.give_up_comparing(now);
        if !self.receiving && !self.is_stranger() {
            // Nobody listens: the silence is not the primary's.
            self.machine.handle_bytes(now);
        }
        if self.machine.next_timeout().is_some_and(|at| at <= now.instant)
            && let Some(intent) = self.machine.handle_timeout(now)
        {
            self.obey(now, intent, None, actions);
        } else if self.receiving && self.giving.is_over(now.instant) {
            let why = "the primary sends more slowly than any link that carries a log";
            self.close(ErrorCode::Timeout, why.into());
        } else if self.taking.is_over(now.instant) {
            self.broken("the primary does not take what it is sent".into());
        }
    }

    /// The last word to the primary, once all that came from it is on the
    /// disk and acknowledged.
    pub(super) fn say_farewell(&mut self, now: Now) {
        if !self.is_settled() {
            return;
        }
        if let Some((code, why)) = self.farewell.take() {
            self.machine.close(now, code, why);
        }
        self.leave_at.get_or_insert(now.instant + FAREWELL_TIMEOUT);
    }

    /// Nothing more comes, nothing is on its way to the disk, and every space
    /// is back with the keeper.
    fn is_settled(&self) -> bool {
        self.closing.is_some() && self.logs.is_empty() && self.opening.is_empty()
    }

    /// End a connection on which everything has been said.
    pub(super) fn hang_up(&mut self) {
        if self.is_settled() && !self.sending {
            // Also ends a Receive in flight; already closed is as good.
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Return every space that has come to its end here and whose operations
    /// have ended; when all are back, let a closing connection go.
    pub(super) fn give_back(&mut self, actions: &mut Vec<Action>) {
        let closing = self.closing.is_some();
        if closing {
            self.ended.extend(self.logs.keys().copied());
        }
        let (logs, opening, opened) = (&mut self.logs, &self.opening, &mut self.opened);
        let (fetching, matching) = (&mut self.fetching, &mut self.matching);
        let comparing = &mut self.comparing;
        self.ended.retain(|handle| {
            if !logs.get(handle).is_some_and(Log::is_settled) {
                return logs.contains_key(handle) || opening.contains_key(handle);
            }
            fetching.remove(handle);
            matching.remove(handle);
            comparing.remove(handle);
            if let Some(log) = logs.remove(handle) {
                let space = log.space.clone();
                opened.remove(handle);
                actions.push(Action::Job(Job::CloseReplica { space, state: log.into_state() }));
            }
            false
        });
    }
}
