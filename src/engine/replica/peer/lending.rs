//! How a session gets its spaces from the keeper, is asked about their history,
//! and must let go of them.

use super::{Action, Peer};
use crate::engine::keeper::{Denial, Loan, Unmatched};
use crate::engine::replica::log::Log;
use crate::ids::{Epoch, SpaceId};
use crate::planted::{self, Bug};
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::{Boundary, ErrorCode, Reseed, Standing, Truncate};

impl Peer {
    /// The keeper has answered an [`Action::Open`].
    pub fn opened(
        &mut self,
        now: Now,
        handle: Handle,
        result: Result<Loan, Denial>,
        actions: &mut Vec<Action>,
    ) {
        self.asked = self.asked.saturating_sub(1);
        let Some(open) = self.opening.remove(&handle) else { return };
        let epoch = open.epoch().unwrap_or(Epoch::FIRST);
        match result {
            Ok(Loan { record, mark: flushed, common }) => {
                let standing = Standing {
                    flushed: flushed.lsn,
                    chain: flushed.chain,
                    records: flushed.records,
                    highest_epoch: match planted::is(Bug::StaleEpochObeyed) {
                        true => epoch,
                        false => record.highest_epoch,
                    },
                    runs: record.runs.len(),
                    common,
                };
                let space = open.space.clone();
                let mut log = Log::new(space, record, flushed, epoch, self.flush_delay);
                self.opened.insert(handle, open);
                if self.closing.is_none() {
                    if let Some((ordinal, run)) = log.resume_run() {
                        self.asked += 1;
                        actions.push(Action::Run(log.space.clone(), handle, ordinal, run, true));
                    }
                    self.machine.handle_opened(now, handle, Ok(standing));
                    self.accepted();
                }
                self.logs.insert(handle, log);
                self.active.insert(handle);
            }
            Err(Denial { highest: Some(highest), why, .. }) => {
                tracing::warn!(space = %open.space, address = %self.address, "refused: {why}");
                self.machine.handle_fenced(now, handle, highest, why);
            }
            Err(Denial { code, why, .. }) => {
                // What is asked for again is told when it is refused for good.
                if !code.retry_helps() {
                    tracing::warn!(space = %open.space, address = %self.address, "refused: {why}");
                }
                self.machine.handle_opened(now, handle, Err((code, why)));
            }
        }
    }

    /// A space is received from here on. Of thousands, the first is news.
    fn accepted(&mut self) {
        if !std::mem::replace(&mut self.ships, true)
            && let Some(node) = &self.node
        {
            tracing::info!(primary = %node, address = %self.address, "a primary ships here");
        }
    }

    /// The keeper has answered an [`Action::Match`]. The session that has asked
    /// may be over, and the space be opened again under the same handle: to that
    /// one the answer is none.
    pub fn matched(
        &mut self,
        now: Now,
        handle: Handle,
        question: u64,
        result: Result<Boundary, Unmatched>,
    ) {
        self.asked = self.asked.saturating_sub(1);
        if self.matching.get(&handle) != Some(&question) {
            return;
        }
        self.matching.remove(&handle);
        match result {
            Ok(boundary) => self.machine.handle_matched(now, handle, Ok(boundary)),
            Err(Unmatched::Damaged(why)) => self.compare_later(now, handle, why),
            Err(Unmatched::Refused(code, why)) => self.cannot_match(now, handle, code, why),
        }
    }

    /// A question about its history has no answer: the space goes back.
    pub(in crate::engine::replica) fn cannot_match(
        &mut self,
        now: Now,
        handle: Handle,
        code: ErrorCode,
        why: String,
    ) {
        if let Some(log) = self.logs.get_mut(&handle) {
            tracing::error!(space = %log.space, ?code, "stopped: {why}");
            log.stop(why.clone());
            self.ended.insert(handle);
            self.active.insert(handle);
        }
        self.machine.handle_matched(now, handle, Err((code, why)));
    }

    /// A primary with a higher epoch has come for this space: the reign of this
    /// connection's is over. False if the space is not here.
    pub fn recall(&mut self, now: Now, space: &SpaceId, highest: Epoch) -> bool {
        let found = self.logs.iter_mut().find(|(_, log)| log.space == *space);
        let Some((handle, log)) = found.filter(|(_, log)| log.epoch < highest) else {
            return false;
        };
        let handle = *handle;
        let why = format!(
            "space {space}: a primary of epoch {highest} has come, and epoch {} is fenced",
            log.epoch
        );
        tracing::warn!("{why}");
        log.stop(why.clone());
        log.flush_at_once();
        self.ended.insert(handle);
        self.active.insert(handle);
        self.machine.handle_fenced(now, handle, highest, why);
        true
    }

    /// The primary's epochs have ended a part of what is here. Nothing was
    /// received on this connection: the log is as it was lent, and goes back
    /// with the question.
    pub(super) fn give_back_to_cut(
        &mut self,
        handle: Handle,
        to: Truncate,
        actions: &mut Vec<Action>,
    ) {
        let (Some(log), Some(open)) = (self.logs.remove(&handle), self.opened.remove(&handle))
        else {
            return;
        };
        debug_assert!(log.is_settled(), "nothing was received");
        if to.lsn < log.flushed().lsn {
            tracing::warn!(
                space = %log.space,
                epoch = log.epoch.0,
                from = to.lsn.0,
                to = log.flushed().lsn.0,
                "the primary's epochs have ended this part of the stream: it goes to the quarantine"
            );
        }
        self.active.remove(&handle);
        self.matching.remove(&handle);
        self.fetching.remove(&handle);
        self.opening.insert(handle, open.clone());
        self.asked += 1;
        actions.push(Action::Truncate(handle, Box::new(open), to));
    }

    /// What this replica needs is gone from the primary. Nothing was received
    /// on this connection: the log is as it was lent, and goes back.
    pub(super) fn give_back_to_seed(
        &mut self,
        handle: Handle,
        reseed: Reseed,
        actions: &mut Vec<Action>,
    ) {
        let (Some(log), Some(open)) = (self.logs.remove(&handle), self.opened.remove(&handle))
        else {
            return;
        };
        debug_assert!(log.is_settled(), "nothing was received");
        self.active.remove(&handle);
        self.matching.remove(&handle);
        self.fetching.remove(&handle);
        self.opening.insert(handle, open.clone());
        self.asked += 1;
        actions.push(Action::Reseed(handle, Box::new(open), reseed));
    }
}

#[cfg(test)]
#[path = "lending_tests.rs"]
mod tests;
