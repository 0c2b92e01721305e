//! When a shard has to act without being told to, and what is due then.

use std::time::Instant;

use super::Shard;
use crate::engine::primary::link::{Link, State};
use crate::engine::replica::peer::Peer;
use crate::limits::JOB_RETRY_DELAY;

impl Shard {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if !self.is_calm() {
            return Some(self.now().instant);
        }
        let links = self.links.iter().filter_map(|link| self.link_timeout(link));
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let keeper = self.jobs.is_congested().then(|| self.now().instant + JOB_RETRY_DELAY);
        let retention = [self.next_retention, self.next_linger].into_iter().flatten().min();
        let mine = [
            self.next_scan,
            self.next_accept,
            self.next_attention,
            self.stopping,
            self.door.next_timeout(),
            retention,
        ];
        links.chain(peers).chain(mine.into_iter().flatten()).chain(keeper).min()
    }

    /// When something is due on a link. One that is stopped for good, as all
    /// are that are down while the shard drains, is never due.
    pub(super) fn link_timeout(&self, link: &Link) -> Option<Instant> {
        let ends = self.stopping.is_some() && !matches!(link.state, State::Up(_));
        link.next_timeout().filter(|_| !ends)
    }

    /// Do what is due by now, and is not done by what comes in.
    pub(super) fn timeouts(&mut self, instant: Instant) {
        for (index, link) in self.links.iter().enumerate() {
            if self.link_timeout(link).is_some_and(|at| at <= instant) {
                self.busy_links.insert(index);
            }
        }
        for (id, peer) in &self.peers {
            if peer.next_timeout().is_some_and(|at| at <= instant) {
                self.busy_peers.insert(*id);
            }
        }
        if self.next_scan.is_some_and(|at| at <= instant) {
            self.scan_unwatched(instant);
        }
        self.mind_retention(instant);
        if self.next_accept.is_some_and(|at| at <= instant) {
            self.accept();
        }
        if self.door.next_timeout().is_some_and(|at| at <= instant) {
            self.tell_left_out(instant);
        }
        if self.next_attention.is_some_and(|at| at <= instant) {
            self.attend(instant);
        }
    }
}
