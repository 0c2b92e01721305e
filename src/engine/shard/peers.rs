//! The receiving side: connections from primaries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::{Command, Pending, Shard, Ticket};
use crate::engine::keeper::Job;
use crate::engine::replica::peer::{Action, Peer};
use crate::ids::NodeId;
use crate::io::{Op, Socket};
use crate::limits::{ACCEPT_RETRY_DELAY, COMPLAINT_INTERVAL, MAX_CONNECTIONS, MAX_TURNED_OUT};
use crate::protocol::Now;

impl Shard {
    pub(super) fn accept(&mut self) {
        self.next_accept = None;
        if let Some(listener) = &self.listener
            && self.stopping.is_none()
        {
            let listener = listener.clone();
            self.submit(Pending::Accept, Op::Accept { listener });
        }
    }

    /// Connections go round among the shards.
    pub(super) fn hand_over(&mut self, socket: Socket, address: SocketAddr) {
        let count = self.others.len() + 1;
        let turn = self.next_shard % count;
        self.next_shard = self.next_shard.wrapping_add(1);
        match turn.checked_sub(1).and_then(|index| self.others.get(index)) {
            Some((commands, waker)) => {
                if commands.try_send(Command::Accepted(socket, address)).is_err() {
                    let what = "was refused, as a shard is overloaded";
                    self.complain(self.now().instant, address, what);
                    return;
                }
                waker.wake();
            }
            None => self.take_peer(socket, address),
        }
    }

    pub(super) fn take_peer(&mut self, socket: Socket, address: SocketAddr) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.now();
        // Those that have said who they are; the others make room by themselves.
        if self.peers.len() - self.door.strangers() >= MAX_CONNECTIONS {
            let why = format!("was refused, as {MAX_CONNECTIONS} primaries are connected already");
            self.complain(now.instant, address, &why);
            return;
        }
        let id = self.next_peer;
        self.next_peer += 1;
        if let Some(oldest) = self.door.enter(id, address.ip()) {
            self.turn_out(now.instant, oldest);
        }
        let peer = Peer::new(
            now,
            self.setup.me.clone(),
            Arc::new(socket),
            address,
            self.setup.shard,
            self.setup.checksums,
            self.setup.flush_delay,
        )
        .among(self.primaries.clone());
        self.peers.insert(id, peer);
        self.busy_peers.insert(id);
    }

    /// A stranger makes room for a newer one.
    fn turn_out(&mut self, instant: Instant, id: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.broken("it said nothing, and its place was needed".into());
        self.busy_peers.insert(id);
        let address = peer.address;
        self.complain(instant, address, "was ended: it said nothing, and its place was needed");
    }

    /// Accepting has failed: descriptors or memory have run out. The next
    /// attempt would fail at once, as the connection is still waiting.
    pub(super) fn not_accepted(&mut self, instant: Instant, error: &std::io::Error) {
        self.next_accept = Some(instant + ACCEPT_RETRY_DELAY);
        // Whoever has said nothing gives back a descriptor first; several at
        // a time, or those that wait behind them would wait for long.
        for _ in 0..MAX_TURNED_OUT {
            if let Some(oldest) = self.door.turn_out() {
                self.turn_out(instant, oldest);
            }
        }
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.complain(
            instant,
            nobody,
            &format!(
                "could not be accepted: {error}; if descriptors have run out, raise LimitNOFILE"
            ),
        );
    }

    /// Say of an address what has become of its connection; once a minute.
    fn complain(&mut self, instant: Instant, address: SocketAddr, what: &str) {
        if self.door.complain(instant, address.ip()) {
            tracing::warn!(
                "a connection from {address} {what}; more from there are only counted for \
                 {COMPLAINT_INTERVAL:?}"
            );
        }
    }

    /// How many lines were spared in the last minute.
    pub(super) fn tell_left_out(&mut self, instant: Instant) {
        for (address, count) in self.door.left_out(instant) {
            let from = match address {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => "further addresses".to_owned(),
                address => address.to_string(),
            };
            tracing::warn!(
                "{count} more connections from {from} came to nothing in the last \
                 {COMPLAINT_INTERVAL:?}"
            );
        }
    }

    /// Do something with a peer, then what it asks for.
    pub(super) fn peer(
        &mut self,
        _now: Now,
        id: u64,
        act: impl FnOnce(&mut Peer, &mut Vec<Action>),
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut actions = Vec::new();
        act(peer, &mut actions);
        self.busy_peers.insert(id);
        self.perform(id, actions);
    }

    pub(super) fn drive_peers(&mut self) {
        for id in std::mem::take(&mut self.busy_peers) {
            let now = self.now();
            let congested = self.jobs.is_congested();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let mut actions = Vec::new();
            peer.pump(now, congested, &mut actions);
            if !peer.is_stranger() {
                self.door.leave(id);
            }
            self.congested |= congested;
            self.perform(id, actions);
            if self.peers.get(&id).is_some_and(Peer::is_finished)
                && let Some(peer) = self.peers.remove(&id)
            {
                if peer.is_corrupted() {
                    let name = peer.node.as_ref().map_or("unknown", NodeId::as_str).to_owned();
                    *self.corrupt_frames.entry(name).or_insert(0) += 1;
                }
                let why = peer.closing().unwrap_or("closed");
                match &peer.node {
                    Some(node) => tracing::info!(primary = %node, "disconnected: {why}"),
                    // One that was turned out was spoken of then.
                    None if self.door.leave(id) => {
                        let what = format!("ended before anything was shipped: {why}");
                        self.complain(now.instant, peer.address, &what);
                    }
                    None => {}
                }
            }
        }
    }

    pub(super) fn perform(&mut self, id: u64, actions: Vec<Action>) {
        let disk = actions.iter().filter(|action| matches!(action, Action::Disk(..))).count();
        for action in actions {
            match action {
                Action::Disk(handle, what, mut op) => {
                    if let Op::WriteFlush { alone, .. } = &mut op {
                        *alone = disk == 1 && self.disk_operations == 0 && self.is_calm();
                    }
                    self.disk_operations += 1;
                    self.submit(Pending::Disk(id, handle, what), op);
                }
                Action::Receive(op) => self.submit(Pending::PeerReceive(id), op),
                Action::Send(op) => self.submit(Pending::PeerSend(id), op),
                Action::Job(job) => self.job(job),
                Action::Open(handle, open) => {
                    let ticket = self.ticket(Ticket::Open(id, handle));
                    self.job(Job::OpenReplica { shard: self.setup.shard, ticket, open });
                }
                Action::Reseed(handle, open, reseed) => {
                    let ticket = self.ticket(Ticket::Open(id, handle));
                    let shard = self.setup.shard;
                    self.job(Job::Reseed { shard, ticket, open, reseed });
                }
                Action::Serve(space, handle, fetch) => {
                    let ticket = self.ticket(Ticket::ServePeer(id, handle, fetch.lsn));
                    let shard = self.setup.shard;
                    self.job(Job::ReadRange { shard, ticket, space, fetch });
                }
                Action::Match(space, handle, question, at) => {
                    let ticket = self.ticket(Ticket::Match(id, handle, question));
                    self.job(Job::Match { shard: self.setup.shard, ticket, space, at });
                }
                Action::Truncate(handle, open, to) => {
                    let ticket = self.ticket(Ticket::Open(id, handle));
                    self.job(Job::Truncate { shard: self.setup.shard, ticket, open, to });
                }
                Action::Run(space, handle, ordinal, run, known) => {
                    let ticket = self.ticket(Ticket::Run(id, handle, ordinal));
                    let shard = self.setup.shard;
                    self.job(Job::OpenRun { shard, ticket, space, ordinal, run, known });
                }
            }
        }
    }

    pub(super) fn ticket(&mut self, ticket: Ticket) -> u64 {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(number, ticket);
        number
    }
}
