//! The receiving side: connections from primaries.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Command, Pending, Shard, Ticket};
use crate::engine::keeper::Job;
use crate::engine::replica::peer::{Action, Peer};
use crate::ids::NodeId;
use crate::io::{Op, Socket};
use crate::limits::MAX_CONNECTIONS;
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
                    tracing::warn!(%address, "a shard is overloaded: the connection is refused");
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
        if self.peers.len() >= MAX_CONNECTIONS {
            tracing::warn!(%address, limit = MAX_CONNECTIONS, "too many connections: refused");
            return;
        }
        let id = self.next_peer;
        self.next_peer += 1;
        let peer = Peer::new(
            self.now(),
            self.setup.me.clone(),
            Arc::new(socket),
            address,
            self.setup.shard,
            self.setup.checksums,
            self.setup.flush_delay,
        );
        self.peers.insert(id, peer);
        self.busy_peers.insert(id);
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
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let mut actions = Vec::new();
            peer.pump(now, &mut actions);
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
                    None => tracing::info!(address = %peer.address, "disconnected: {why}"),
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
                Action::Serve(space, handle, fetch) => {
                    let ticket = self.ticket(Ticket::ServePeer(id, handle, fetch.lsn));
                    let shard = self.setup.shard;
                    self.job(Job::ReadRange { shard, ticket, space, fetch });
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
