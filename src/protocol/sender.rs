//! The primary's half of a connection.
//!
//! Ships many spaces in turn, one frame each, so that a large catch-up delays
//! another space by one extent at most. A space with nothing to ship stands in
//! no queue and costs nothing.
//!
//! ```text
//!   news, acks, batch timers --> ready: [space 7][space 2][space 9] --> a frame of 7,
//!                                                 ^                      7 goes to the end
//!                                                 +----------------------------+
//! ```
//!
//! The machine knows positions, never bytes: where a frame may be cut it asks
//! of [`Streams`], and the bytes go from the log to the socket past it.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::Now;
use super::frame::{FrameHeader, Handle, Kind, VERSION};
use super::link::Link;
use super::message::{
    Ack, ErrorCode, FEATURES, Fetch, Fetched, Hello, HelloAck, Identity, Message, OpenSpace,
    Refusal, SegmentRetire,
};
use super::slot::{Phase, Slot, Step};
use crate::ids::Epoch;
use crate::limits::MAX_SPACES;
use crate::lsn::Lsn;

pub use super::event::{Event, Transmit};
pub use super::opening::Found;
pub use super::slot::{BatchRule, Streams};

/// The machine.
///
/// # Calling order
///
/// After each input (`open_space`, `handle_*`, `stop_space`), take every event
/// from [`poll_event`](Self::poll_event) and answer it; then, while the socket
/// has room, call [`poll_transmit`](Self::poll_transmit); then arm a timer for
/// [`next_timeout`](Self::next_timeout). After [`Event::Closed`] only
/// `poll_transmit` still has something to give, and every other input is
/// ignored.
#[derive(Debug)]
pub struct Sender {
    me: Identity,
    batch: BatchRule,
    pub(super) link: Link,
    pub(super) slots: BTreeMap<Handle, Slot>,
    /// Spaces whose `OpenSpace` is to be sent.
    openings: VecDeque<Handle>,
    /// Spaces that may have something to ship, in turn.
    ready: VecDeque<Handle>,
    /// Spaces that gather a batch, by the time at which it is shipped.
    gathers: BTreeSet<(Instant, Handle)>,
    pub(super) events: VecDeque<Event>,
}

impl Sender {
    /// A session on a connection that has just been made. `Hello` waits to be
    /// sent at once.
    #[must_use]
    pub fn new(now: Now, me: Identity, shard: u16, batch: BatchRule) -> Self {
        let mut link = Link::new(now);
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            shard,
            features: FEATURES,
            identity: me.clone(),
        };
        link.queue(&Message::Hello(hello), Handle::CONNECTION, Epoch(0));
        Self {
            me,
            batch,
            link,
            slots: BTreeMap::new(),
            openings: VecDeque::new(),
            ready: VecDeque::new(),
            gathers: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether the handshake is done and the connection not closed.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.link.is_established()
    }

    /// When the replica was last heard.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.link.last_heard()
    }

    /// How far this space has been sent on this connection; `None` while it
    /// does not stream.
    #[must_use]
    pub fn sent(&self, handle: Handle) -> Option<Lsn> {
        match &self.slots.get(&handle)?.phase {
            Phase::Streaming(stream) => Some(stream.window.sent().lsn),
            _ => None,
        }
    }

    /// The epoch under which the space is shipped.
    #[must_use]
    pub fn epoch(&self, handle: Handle) -> Option<Epoch> {
        self.slots.get(&handle).map(|slot| slot.epoch)
    }

    /// When to call [`Sender::handle_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let gather = self.gathers.first().map(|&(deadline, _)| deadline);
        self.link.next_timeout().into_iter().chain(gather).min()
    }

    /// Ship this space from now on. May be called at any time, also again
    /// after `Stopped`; ignored while the space is open.
    pub fn open_space(&mut self, _now: Now, handle: Handle, open: OpenSpace) {
        assert!(handle != Handle::CONNECTION, "the connection's own handle");
        if self.link.is_closed() {
            return;
        }
        match self.slots.get_mut(&handle) {
            None => {
                assert!(self.slots.len() < MAX_SPACES, "more spaces than a node has");
                self.begin(handle, open);
            }
            Some(Slot { phase: Phase::Closing { reopen }, .. }) => *reopen = Some(open),
            // Several events may each call for it: whichever comes first opens
            // it, and the others have what they want.
            Some(_) => {}
        }
    }

    fn begin(&mut self, handle: Handle, open: OpenSpace) {
        let epoch = open.epoch();
        assert!(epoch.is_some(), "a stream has at least one epoch");
        let slot = Slot::new(epoch.unwrap_or(Epoch::FIRST), open);
        self.slots.insert(handle, slot);
        self.openings.push_back(handle);
    }

    /// A file of the space has no name any more, or is gone: the replica is
    /// told. False while the space does not stream.
    pub fn retire(&mut self, _now: Now, handle: Handle, retire: SegmentRetire) -> bool {
        let Some(slot) = self.slots.get(&handle) else {
            return false;
        };
        let streams = matches!(slot.phase, Phase::Streaming(_));
        if streams {
            self.link.queue(&Message::SegmentRetire(retire), handle, slot.epoch);
        }
        streams
    }

    /// The space has a new head, or a new run.
    pub fn handle_head(&mut self, _now: Now, handle: Handle) {
        self.queue(handle);
    }

    /// Ask the replica for a range of the stream; the answer comes as
    /// [`Event::Fetched`], unless the space or the connection ends before.
    /// False if that cannot be now: the space is not open there, or a question
    /// is.
    pub fn fetch(&mut self, _now: Now, handle: Handle, fetch: Fetch) -> bool {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return false;
        };
        let open = matches!(slot.phase, Phase::Matching(_) | Phase::Streaming(_));
        if !open || !slot.questions.ask(fetch) {
            return false;
        }
        self.link.queue(&Message::Fetch(fetch), handle, slot.epoch);
        true
    }

    /// The answer to [`Event::Fetch`]; no bytes: they cannot be had here. One
    /// that comes after the space was stopped is ignored.
    pub fn serve(&mut self, _now: Now, handle: Handle, lsn: Lsn, bytes: Vec<u8>) {
        if let Some(slot) = self.slots.get_mut(&handle)
            && matches!(slot.phase, Phase::Matching(_) | Phase::Streaming(_))
            && let Some(fetched) = slot.questions.serve_with(lsn, bytes)
        {
            self.link.queue(&Message::Fetched(fetched), handle, slot.epoch);
        }
    }

    /// Stop shipping a space and tell the replica why. Gives no event.
    pub fn stop_space(&mut self, _now: Now, handle: Handle, code: ErrorCode, reason: String) {
        self.forsake(handle, code, reason);
    }

    /// Close the connection with an error (bad frame, log failure, shutdown).
    /// Gives no event.
    pub fn close(&mut self, _now: Now, code: ErrorCode, reason: String) {
        self.link.close(code, reason);
        self.clear();
    }

    /// Bytes have arrived that are no complete frame yet: the replica lives.
    pub fn handle_bytes(&mut self, now: Now) {
        self.link.heard(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(reason) = self.link.handle_timeout(now) {
            self.fail(ErrorCode::Timeout, reason);
            return;
        }
        while let Some(&(deadline, handle)) = self.gathers.first() {
            if deadline > now.instant {
                break;
            }
            self.gathers.pop_first();
            self.queue(handle);
        }
    }

    /// A frame from the replica: header decoded, body complete. A failure
    /// shows as [`Event::Closed`].
    pub fn handle_frame(&mut self, now: Now, header: &FrameHeader, body: &[u8]) {
        if self.link.is_closed() {
            return;
        }
        self.link.heard(now);
        let message = match Message::decode(header, body) {
            Ok(Some(message)) => message,
            Ok(None) => return self.nonsense(header.kind),
            Err(error) => {
                return self.fail(error.code(), format!("{:?}: {error}", header.kind));
            }
        };
        let (handle, epoch) = (header.handle, header.epoch);
        match message {
            Message::Error(refusal) if handle == Handle::CONNECTION => {
                self.closed_by_peer(refusal);
            }
            Message::HelloAck(ack) if !self.link.is_established() => self.greet(ack),
            _ if !self.link.is_established() => self.nonsense(header.kind),
            Message::OpenAck(standing) => self.opened(handle, epoch, standing),
            Message::Ack(ack) => self.acknowledged(handle, epoch, ack),
            Message::Matched(boundary) => self.matched(handle, epoch, boundary),
            Message::Error(refusal) => self.refused(handle, epoch, refusal),
            Message::Fetch(fetch) => self.asked(handle, epoch, fetch),
            Message::Fetched(fetched) => self.answered(handle, epoch, fetched),
            Message::Heartbeat(_) => {}
            Message::Hello(_)
            | Message::HelloAck(_)
            | Message::OpenSpace(_)
            | Message::SegmentOpen(_)
            | Message::Match(_)
            | Message::Truncate(_)
            | Message::SegmentRetire(_)
            | Message::Reseed(_) => self.nonsense(header.kind),
        }
        if self.link.is_overfull() {
            self.fail(ErrorCode::Limit, "the replica does not read what it asks for".to_owned());
        }
    }

    /// What to put on the socket next. Call when the socket has taken the
    /// last one.
    pub fn poll_transmit(&mut self, now: Now, streams: &dyn Streams) -> Option<Transmit> {
        self.announce_openings();
        loop {
            if let Some(control) = self.link.take(now) {
                return Some(Transmit::Control(control));
            }
            let Some(handle) = self.ready.pop_front() else {
                return self.link.take_heartbeat(now).map(Transmit::Control);
            };
            if let Some(data) = self.turn(now, handle, streams) {
                self.link.sent(now);
                return Some(data);
            }
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// One space's turn: at most one frame.
    fn turn(&mut self, now: Now, handle: Handle, streams: &dyn Streams) -> Option<Transmit> {
        let slot = self.slots.get_mut(&handle).filter(|slot| slot.queued)?;
        slot.queued = false;
        let step = slot.step(now, handle, &self.batch, streams);
        let gather = if let Step::Gather(deadline) = step { Some(deadline) } else { None };
        if let Some(earlier) = std::mem::replace(&mut slot.gather, gather) {
            self.gathers.remove(&(earlier, handle));
        }
        if let Some(deadline) = gather {
            self.gathers.insert((deadline, handle));
        }
        match step {
            Step::Idle | Step::Blocked | Step::Gather(_) => None,
            Step::Announce(run) => {
                self.link.queue(&Message::SegmentOpen(run), handle, slot.epoch);
                // The data of the run follows the announcement at once: the
                // turn is not over.
                slot.queued = true;
                self.ready.push_front(handle);
                None
            }
            Step::Ship { header, ordinal } => {
                self.queue(handle);
                Some(Transmit::Data {
                    handle,
                    header: header.encode(),
                    ordinal,
                    start: header.start,
                    bytes: header.payload_bytes,
                })
            }
            Step::Stop(code, reason) => {
                self.stop(handle, code, reason);
                None
            }
        }
    }

    /// Sends `OpenSpace` of the spaces that wait, a batch of control frames at
    /// a time.
    fn announce_openings(&mut self) {
        while self.link.is_established() && !self.link.batch_is_full() {
            let Some(handle) = self.openings.pop_front() else {
                return;
            };
            let Some(slot) = self.slots.get_mut(&handle) else {
                continue;
            };
            let Phase::Waiting(open) = &slot.phase else {
                continue;
            };
            let message = Message::OpenSpace(open.clone());
            slot.phase = Phase::Opening { cut: None };
            self.link.queue(&message, handle, slot.epoch);
        }
    }

    /// Gives a streaming space its turn, if it does not wait for one already.
    pub(super) fn queue(&mut self, handle: Handle) {
        if let Some(slot) = self.slots.get_mut(&handle)
            && matches!(slot.phase, Phase::Streaming(_))
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(handle);
        }
    }

    fn greet(&mut self, ack: HelloAck) {
        if let Err((code, reason)) = self.me.check_peer(&ack.identity) {
            return self.fail(code, reason);
        }
        if ack.version != VERSION {
            let reason = format!("the replica chose version {}, offered {VERSION}", ack.version);
            return self.fail(ErrorCode::Version, reason);
        }
        if ack.features & !FEATURES != 0 {
            let reason =
                format!("the replica accepts features {:#x}, offered {FEATURES:#x}", ack.features);
            return self.fail(ErrorCode::Protocol, reason);
        }
        self.link.establish();
        self.events.push_back(Event::Established { peer: ack.identity });
    }

    fn acknowledged(&mut self, handle: Handle, epoch: Epoch, ack: Ack) {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return self.unknown(Kind::Ack, handle);
        };
        let stream = match &mut slot.phase {
            Phase::Streaming(stream) => stream,
            Phase::Closing { .. } => return,
            Phase::Waiting(_) => return self.unknown(Kind::Ack, handle),
            Phase::Opening { .. } | Phase::Matching(_) => {
                let reason = "ack before any data".to_owned();
                return self.stop(handle, ErrorCode::Protocol, reason);
            }
        };
        if epoch != slot.epoch {
            return self.foreign_epoch(Kind::Ack, handle, epoch);
        }
        match stream.window.acknowledge(&ack) {
            Ok(flushed) => {
                self.events.push_back(Event::Acked { handle, ack, flushed });
                if flushed.is_some() {
                    // Room in the window, or nothing in flight any more.
                    self.queue(handle);
                }
            }
            Err((code, reason)) => {
                if self.forsake(handle, code, reason.clone()) {
                    // Another attempt begins with a comparison of the two
                    // histories, which tells what is to be done.
                    let retry = code == ErrorCode::Diverged || code.retry_helps();
                    self.events.push_back(Event::Stopped { handle, code, reason, retry });
                }
            }
        }
    }

    /// The slot that a fetch concerns, if it is open. What concerns the
    /// questions of a space that is being closed is of no interest, nor what the
    /// replica has sent before it was told to cut its stream, or to begin anew.
    fn open_slot(&mut self, kind: Kind, handle: Handle, epoch: Epoch) -> Option<&mut Slot> {
        let Some(slot) = self.slots.get(&handle) else {
            self.unknown(kind, handle);
            return None;
        };
        match slot.phase {
            Phase::Closing { .. } | Phase::Opening { cut: Some(_) } => None,
            Phase::Waiting(_) | Phase::Opening { cut: None } => {
                self.unknown(kind, handle);
                None
            }
            Phase::Matching(_) | Phase::Streaming(_) if epoch != slot.epoch => {
                let reason =
                    format!("{kind:?} of epoch {epoch}, the space is in epoch {}", slot.epoch);
                self.stop(handle, ErrorCode::Fenced, reason);
                None
            }
            Phase::Matching(_) | Phase::Streaming(_) => self.slots.get_mut(&handle),
        }
    }

    fn asked(&mut self, handle: Handle, epoch: Epoch, fetch: Fetch) {
        let Some(slot) = self.open_slot(Kind::Fetch, handle, epoch) else { return };
        match slot.questions.serve(fetch) {
            Ok(()) => self.events.push_back(Event::Fetch { handle, fetch }),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    fn answered(&mut self, handle: Handle, epoch: Epoch, fetched: Fetched) {
        let Some(slot) = self.open_slot(Kind::Fetched, handle, epoch) else { return };
        match slot.questions.answered(&fetched) {
            Ok(()) => self.events.push_back(Event::Fetched { handle, fetched }),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    /// The replica's `Error` for one space: its first word, or its answer.
    /// `epoch` is the highest that it has seen, if that is why.
    fn refused(&mut self, handle: Handle, epoch: Epoch, refusal: Refusal) {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return self.unknown(Kind::Error, handle);
        };
        match &mut slot.phase {
            Phase::Closing { reopen } => {
                let reopen = reopen.take();
                self.slots.remove(&handle);
                if let Some(open) = reopen {
                    self.begin(handle, open);
                }
            }
            Phase::Waiting(_) => self.unknown(Kind::Error, handle),
            Phase::Opening { .. } | Phase::Matching(_) | Phase::Streaming(_) => {
                let Refusal { code, sentence, at } = refusal;
                let shipped = slot.epoch;
                self.link.refuse(handle, shipped, code, String::new());
                self.remove(handle);
                if code == ErrorCode::Damaged {
                    self.events.push_back(Event::Damaged { handle, at, reason: sentence });
                    return;
                }
                if code == ErrorCode::Fenced && epoch > shipped {
                    self.events.push_back(Event::Fenced { handle, highest: epoch });
                }
                self.push_stopped(handle, code, sentence);
            }
        }
    }

    fn closed_by_peer(&mut self, refusal: Refusal) {
        self.link.closed_by_peer();
        self.clear();
        let Refusal { code, sentence, .. } = refusal;
        self.events.push_back(Event::Closed {
            code,
            reason: format!("the replica closed the connection: {sentence}"),
            retry: code.retry_helps(),
        });
    }

    /// Stops a space by the machine's own decision.
    pub(super) fn stop(&mut self, handle: Handle, code: ErrorCode, reason: String) {
        if self.forsake(handle, code, reason.clone()) {
            self.push_stopped(handle, code, reason);
        }
    }

    fn push_stopped(&mut self, handle: Handle, code: ErrorCode, reason: String) {
        let retry = code.retry_helps();
        self.events.push_back(Event::Stopped { handle, code, reason, retry });
    }

    /// Ends a space at this side; false if it was not open.
    fn forsake(&mut self, handle: Handle, code: ErrorCode, reason: String) -> bool {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return false;
        };
        match &mut slot.phase {
            Phase::Closing { reopen } => return reopen.take().is_some(),
            // The replica has never heard of it.
            Phase::Waiting(_) => self.remove(handle),
            Phase::Opening { .. } | Phase::Matching(_) | Phase::Streaming(_) => {
                self.link.refuse(handle, slot.epoch, code, reason);
                slot.phase = Phase::Closing { reopen: None };
                if let Some(deadline) = slot.gather.take() {
                    self.gathers.remove(&(deadline, handle));
                }
            }
        }
        true
    }

    fn remove(&mut self, handle: Handle) {
        if let Some(deadline) = self.slots.remove(&handle).and_then(|slot| slot.gather) {
            self.gathers.remove(&(deadline, handle));
        }
    }

    fn nonsense(&mut self, kind: Kind) {
        self.fail(ErrorCode::Protocol, format!("a {kind:?} frame makes no sense here"));
    }

    pub(super) fn unknown(&mut self, kind: Kind, handle: Handle) {
        self.fail(ErrorCode::Protocol, format!("{kind:?} for space {handle}, which is not open"));
    }

    /// Closes the connection by the machine's own decision.
    fn fail(&mut self, code: ErrorCode, reason: String) {
        self.link.close(code, reason.clone());
        self.clear();
        self.events.push_back(Event::Closed { code, reason, retry: code.retry_helps() });
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.openings.clear();
        self.ready.clear();
        self.gathers.clear();
    }
}
