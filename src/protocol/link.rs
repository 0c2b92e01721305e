//! What both machines keep about their connection: how far the handshake is,
//! when the peer was last heard, and the control frames that wait to be sent.
//!
//! One heartbeat per connection, whatever the number of spaces: an idle
//! connection costs one frame a second each way, a busy one none.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::Now;
use super::frame::Handle;
use super::message::{ErrorCode, Heartbeat, Message, Refusal};
use crate::ids::Epoch;
use crate::limits::{CONNECT_TIMEOUT, HEARTBEAT_INTERVAL, PEER_TIMEOUT};
use crate::lsn::Lsn;

/// Control bytes after which a batch of them is handed to the socket; what is
/// still to be said follows in the next one.
pub(super) const CONTROL_BATCH_BYTES: usize = 64 << 10;

/// Control bytes that may wait for a peer that does not read. More than the
/// answers to a full set of spaces, so only a peer that asks without ever
/// reading reaches it.
pub(super) const MAX_QUEUED_CONTROL_BYTES: usize = 16 << 20;

/// The longest answer to one `OpenSpace` is an `OpenAck` and an `Error`.
const MAX_ANSWER_BYTES: usize = (64 + 48) + (64 + 4 + 512);

const _: () = assert!(MAX_QUEUED_CONTROL_BYTES >= crate::limits::MAX_SPACES * MAX_ANSWER_BYTES);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Handshake { deadline: Instant },
    Established,
    Closed,
}

#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    out: Vec<u8>,
    last_heard: Instant,
    next_heartbeat: Instant,
    heartbeat_due: bool,
}

impl Link {
    pub(super) fn new(now: Now) -> Self {
        Self {
            phase: Phase::Handshake { deadline: now.instant + CONNECT_TIMEOUT },
            out: Vec::new(),
            last_heard: now.instant,
            next_heartbeat: now.instant + HEARTBEAT_INTERVAL,
            heartbeat_due: false,
        }
    }

    pub(super) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub(super) fn establish(&mut self) {
        assert!(matches!(self.phase, Phase::Handshake { .. }), "established twice");
        self.phase = Phase::Established;
    }

    /// The peer has closed, or the connection is gone: say nothing more.
    pub(super) fn closed_by_peer(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Take back what was queued and not handed out.
    pub(super) fn unsay(&mut self) {
        self.out.clear();
    }

    /// Tell the peer why, then say nothing more.
    pub(super) fn close(&mut self, code: ErrorCode, sentence: String) {
        if !self.is_closed() {
            self.refuse(Handle::CONNECTION, Epoch(0), code, sentence);
            self.phase = Phase::Closed;
        }
    }

    /// Bytes have arrived.
    pub(super) fn heard(&mut self, now: Now) {
        self.last_heard = self.last_heard.max(now.instant);
    }

    pub(super) fn queue(&mut self, message: &Message, handle: Handle, epoch: Epoch) {
        message.encode(handle, epoch, &mut self.out);
    }

    pub(super) fn refuse(&mut self, handle: Handle, epoch: Epoch, code: ErrorCode, why: String) {
        let refusal = Refusal { code, sentence: why, at: Lsn::ZERO };
        self.queue(&Message::Error(refusal), handle, epoch);
    }

    /// The record at `at` came damaged.
    pub(super) fn refuse_record(&mut self, handle: Handle, epoch: Epoch, at: Lsn, why: String) {
        let refusal = Refusal { code: ErrorCode::Damaged, sentence: why, at };
        self.queue(&Message::Error(refusal), handle, epoch);
    }

    /// Enough control frames wait to make a batch.
    pub(super) fn batch_is_full(&self) -> bool {
        self.out.len() >= CONTROL_BATCH_BYTES
    }

    /// The peer asks and never reads the answers.
    pub(super) fn is_overfull(&self) -> bool {
        self.out.len() > MAX_QUEUED_CONTROL_BYTES
    }

    /// Something other than a control frame goes out.
    pub(super) fn sent(&mut self, now: Now) {
        self.next_heartbeat = now.instant + HEARTBEAT_INTERVAL;
        self.heartbeat_due = false;
    }

    /// The control frames that wait.
    pub(super) fn take(&mut self, now: Now) -> Option<Vec<u8>> {
        if self.out.is_empty() {
            return None;
        }
        self.sent(now);
        Some(std::mem::take(&mut self.out))
    }

    /// A heartbeat, if one is due and nothing else was there to be sent.
    pub(super) fn take_heartbeat(&mut self, now: Now) -> Option<Vec<u8>> {
        if !self.heartbeat_due || !self.is_established() {
            return None;
        }
        let heartbeat = Message::Heartbeat(Heartbeat { unix_ns: now.unix_ns });
        self.queue(&heartbeat, Handle::CONNECTION, Epoch(0));
        self.take(now)
    }

    /// Why the connection is to be given up, if it is.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Option<String> {
        match self.phase {
            Phase::Handshake { deadline } if now.instant >= deadline => {
                return Some(format!("no handshake within {CONNECT_TIMEOUT:?}"));
            }
            Phase::Established if now.instant >= self.last_heard + PEER_TIMEOUT => {
                return Some(format!("nothing heard for {PEER_TIMEOUT:?}"));
            }
            Phase::Closed => return None,
            Phase::Handshake { .. } | Phase::Established => {}
        }
        if self.is_established() && now.instant >= self.next_heartbeat {
            // The timer moves on even if the socket takes nothing: one
            // heartbeat waits at most, and an overdue timer never spins.
            self.heartbeat_due = true;
            self.next_heartbeat = now.instant + HEARTBEAT_INTERVAL;
        }
        None
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Handshake { deadline } => Some(deadline),
            Phase::Established => Some(self.next_heartbeat.min(self.last_heard + PEER_TIMEOUT)),
            Phase::Closed => None,
        }
    }
}
