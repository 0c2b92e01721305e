//! The replica's half of a connection.
//!
//! What the primary sends becomes an [`Intent`] for the engine; what the engine
//! has done with it becomes an ack. The header of each frame is judged when it
//! arrives, before a byte of its payload is taken: a stale epoch, or data that
//! does not continue the stream, never reaches a buffer.
//!
//! Acks are coalesced: however many frames and flushes lie between two calls of
//! [`Receiver::poll_transmit`], a space with news sends one ack. A flush is
//! always news; verified and written bytes alone are, once they are megabytes.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::Now;
use super::frame::{FrameHeader, Handle, Kind, VERSION};
use super::intake::{Admitted, Intake, Phase};
pub use super::intent::Intent;
use super::link::Link;
use super::message::{
    Boundary, ErrorCode, FEATURES, Hello, HelloAck, Identity, Message, OpenSpace, Refusal,
    SegmentOpen, Standing,
};
use crate::ids::Epoch;
use crate::limits::{MAX_GREETING_BYTES, MAX_SPACES};
use crate::lsn::{Lsn, Mark};

/// What a frame that may not come puts an end to.
#[derive(Debug)]
enum Refused {
    Connection(ErrorCode, String),
    Space(ErrorCode, String),
}

/// The machine.
///
/// # Calling order
///
/// For each frame: decode the header, ask [`admit`](Self::admit). If it may
/// come, receive its payload, call [`handle_frame`](Self::handle_frame) and do
/// what the intent says. If it may not, call `handle_frame` at once with an
/// empty body, do what the intent says, and discard the payload as it arrives.
/// Report what was done by [`handle_verified`](Self::handle_verified),
/// [`handle_written`](Self::handle_written) and
/// [`handle_flushed`](Self::handle_flushed), then send what
/// [`poll_transmit`](Self::poll_transmit) has, then arm a timer for
/// [`next_timeout`](Self::next_timeout). After [`Intent::Closed`] only
/// `poll_transmit` still has something to give, and every other input is
/// ignored.
#[derive(Debug)]
pub struct Receiver {
    me: Identity,
    pub(super) link: Link,
    pub(super) spaces: BTreeMap<Handle, Intake>,
    /// Spaces with news to acknowledge.
    news: VecDeque<Handle>,
    duplicate_bytes: u64,
}

impl Receiver {
    /// A session on a connection that has just been accepted.
    #[must_use]
    pub fn new(now: Now, me: Identity) -> Self {
        Self {
            me,
            link: Link::new(now),
            spaces: BTreeMap::new(),
            news: VecDeque::new(),
            duplicate_bytes: 0,
        }
    }

    /// Whether the handshake is done and the connection not closed.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.link.is_established()
    }

    /// When the primary was last heard.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.link.last_heard()
    }

    /// Payload bytes that came again although they were here already.
    #[must_use]
    pub fn duplicate_bytes(&self) -> u64 {
        self.duplicate_bytes
    }

    /// When to call [`Receiver::handle_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.link.next_timeout()
    }

    /// A frame header has arrived, its payload has not yet: may it come?
    /// (Kind sensible here, handle known, epoch current, no gap.) Changes
    /// nothing.
    ///
    /// # Errors
    /// Why not, as [`handle_frame`](Self::handle_frame) will tell the peer.
    /// Call that with an empty body, and discard the payload.
    pub fn admit(&self, header: &FrameHeader) -> Result<(), (ErrorCode, String)> {
        self.judge(header).map_err(|refused| match refused {
            Refused::Connection(code, reason) | Refused::Space(code, reason) => (code, reason),
        })
    }

    /// Bytes have arrived that are no complete frame yet: the primary lives.
    pub fn handle_bytes(&mut self, now: Now) {
        self.link.heard(now);
    }

    /// A frame from the primary, payload complete. For `Data` the payload is
    /// not passed: the engine holds and verifies it.
    pub fn handle_frame(&mut self, now: Now, header: &FrameHeader, body: &[u8]) -> Option<Intent> {
        if self.link.is_closed() {
            return None;
        }
        self.link.heard(now);
        let intent = match self.judge(header) {
            Ok(()) if header.kind == Kind::Data => self.take_data(header),
            Ok(()) => match Message::decode(header, body) {
                Ok(Some(message)) => self.take_message(header, message),
                Ok(None) => None,
                Err(error) => self.fail(error.code(), format!("{:?}: {error}", header.kind)),
            },
            Err(Refused::Space(code, reason)) => self.stop(header.handle, code, reason),
            Err(Refused::Connection(code, reason)) => self.fail(code, reason),
        };
        if self.link.is_overfull() {
            let reason = "the primary does not read what it asks for".to_owned();
            return self.fail(ErrorCode::Limit, reason);
        }
        intent
    }

    /// The answer to [`Intent::Open`] and to [`Intent::Truncate`]. One that
    /// comes after the space was stopped is ignored.
    pub fn handle_opened(
        &mut self,
        _now: Now,
        handle: Handle,
        standing: Result<Standing, (ErrorCode, String)>,
    ) {
        let Some(space) = self.spaces.get_mut(&handle) else {
            return;
        };
        if space.phase != Phase::Opening {
            return;
        }
        match standing {
            Ok(standing) => {
                space.open(&standing);
                // Also to a stale primary: it learns from it that it is fenced.
                self.link.queue(&Message::OpenAck(standing), handle, space.epoch);
            }
            Err((code, reason)) => self.forsake(handle, code, reason),
        }
    }

    /// The space is refused to a primary whose reign is over: `highest` was
    /// seen. Answers [`Intent::Open`], or ends an open space.
    pub fn handle_fenced(&mut self, _now: Now, handle: Handle, highest: Epoch, reason: String) {
        if let Some(space) = self.spaces.get_mut(&handle)
            && space.phase != Phase::Closing
        {
            space.phase = Phase::Closing;
            self.link.refuse(handle, highest, ErrorCode::Fenced, reason);
        }
    }

    /// The answer to [`Intent::Match`]. One that comes after the space was
    /// stopped is ignored.
    pub fn handle_matched(
        &mut self,
        _now: Now,
        handle: Handle,
        found: Result<Boundary, (ErrorCode, String)>,
    ) {
        let Some(space) = self.spaces.get_mut(&handle) else {
            return;
        };
        if space.phase == Phase::Closing {
            return;
        }
        match found {
            Ok(boundary) => {
                if space.matched(&boundary) {
                    self.link.queue(&Message::Matched(boundary), handle, space.epoch);
                }
            }
            Err((code, reason)) => self.forsake(handle, code, reason),
        }
    }

    /// The payload held: the stream is verified up to `end`.
    pub fn handle_verified(&mut self, _now: Now, handle: Handle, end: Mark) {
        self.report(handle, |space| space.verified(&end));
    }

    /// Handed to the file system up to here.
    pub fn handle_written(&mut self, _now: Now, handle: Handle, to: Lsn) {
        self.report(handle, |space| space.wrote(to));
    }

    /// Durable up to here: the end of a frame.
    pub fn handle_flushed(&mut self, _now: Now, handle: Handle, to: Mark) {
        self.report(handle, |space| space.durable(&to));
    }

    /// The space cannot go on here: tell the primary. Gives no intent.
    pub fn stop_space(&mut self, _now: Now, handle: Handle, code: ErrorCode, reason: String) {
        self.forsake(handle, code, reason);
    }

    /// The peer that [`Intent::Established`] has just named will not do: it is
    /// told why, in the place of an answer to its hello. Gives no intent.
    pub fn refuse_peer(&mut self, code: ErrorCode, reason: String) {
        self.link.unsay();
        self.link.close(code, reason);
        self.clear();
    }

    /// Close the connection with an error (bad frame, storage, shutdown).
    /// What is durable and not acknowledged is acknowledged first. Gives no
    /// intent.
    pub fn close(&mut self, _now: Now, code: ErrorCode, reason: String) {
        while !self.link.is_closed() && self.queue_ack() {}
        self.link.close(code, reason);
        self.clear();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) -> Option<Intent> {
        let reason = self.link.handle_timeout(now)?;
        self.fail(ErrorCode::Timeout, reason)
    }

    /// Control frames to send next: acks coalesced, one per space with news.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Vec<u8>> {
        while !self.link.batch_is_full() && self.queue_ack() {}
        self.link.take(now).or_else(|| self.link.take_heartbeat(now))
    }

    /// Queues the ack of one space with news. False if there is none.
    fn queue_ack(&mut self) -> bool {
        let Some(handle) = self.news.pop_front() else {
            return false;
        };
        if let Some(space) = self.spaces.get_mut(&handle)
            && std::mem::take(&mut space.queued)
            && space.phase == Phase::Open
        {
            let ack = Message::Ack(space.ack());
            self.link.queue(&ack, handle, space.epoch);
        }
        true
    }

    /// What the header alone says about a frame.
    fn judge(&self, header: &FrameHeader) -> Result<(), Refused> {
        let of_connection = header.handle == Handle::CONNECTION;
        let makes_sense = match header.kind {
            Kind::Hello => !self.link.is_established(),
            Kind::Error => of_connection || self.link.is_established(),
            Kind::OpenSpace
            | Kind::SegmentOpen
            | Kind::Data
            | Kind::Match
            | Kind::Truncate
            | Kind::Fetch
            | Kind::Fetched
            | Kind::SegmentRetire
            | Kind::Reseed => self.link.is_established() && !of_connection,
            Kind::Heartbeat => self.link.is_established(),
            Kind::HelloAck | Kind::OpenAck | Kind::Ack | Kind::Matched => false,
        };
        if !makes_sense {
            let reason = format!("a {:?} frame makes no sense here", header.kind);
            return Err(Refused::Connection(ErrorCode::Protocol, reason));
        }
        if !self.link.is_established() && header.payload_bytes > MAX_GREETING_BYTES {
            let reason = format!("a {:?} frame of {} bytes", header.kind, header.payload_bytes);
            return Err(Refused::Connection(ErrorCode::Protocol, reason));
        }
        let of_stream = matches!(
            header.kind,
            Kind::SegmentOpen
                | Kind::Data
                | Kind::Match
                | Kind::Truncate
                | Kind::Fetch
                | Kind::Fetched
                | Kind::SegmentRetire
                | Kind::Reseed
        );
        if !of_stream {
            return Ok(());
        }
        let Some(space) = self.spaces.get(&header.handle) else {
            let reason =
                format!("{:?} for space {}, which is not open", header.kind, header.handle);
            return Err(Refused::Connection(ErrorCode::Protocol, reason));
        };
        match header.kind {
            Kind::Data => space.admit_data(header),
            Kind::SegmentOpen | Kind::SegmentRetire => space.admit_told(header),
            Kind::Fetch | Kind::Fetched => space.admit_fetch(header),
            _ => space.admit(header.epoch),
        }
        .map_err(|(code, reason)| Refused::Space(code, reason))
    }

    fn take_data(&mut self, header: &FrameHeader) -> Option<Intent> {
        let handle = header.handle;
        let space = self.spaces.get_mut(&handle)?;
        if space.phase == Phase::Closing {
            return None;
        }
        match space.take_data(header) {
            Admitted::New { start, skip } => {
                self.duplicate_bytes += u64::from(skip);
                Some(Intent::Data { handle, start, skip })
            }
            Admitted::Duplicate => {
                self.duplicate_bytes += u64::from(header.payload_bytes);
                // The primary may not know that it is here.
                self.report(handle, |_| true);
                None
            }
        }
    }

    fn take_message(&mut self, header: &FrameHeader, message: Message) -> Option<Intent> {
        let handle = header.handle;
        match message {
            Message::Hello(hello) => self.greet(hello),
            Message::OpenSpace(open) => self.open(header, open),
            Message::SegmentOpen(run) => self.take_run(handle, run),
            Message::SegmentRetire(retire) => {
                let intent = Intent::Retire { handle, retire };
                self.take_told(handle, intent, |space| space.admit_retire(&retire))
            }
            Message::Reseed(reseed) => {
                self.take_told(handle, Intent::Reseed { handle, reseed }, Intake::begin_anew)
            }
            Message::Error(refusal) if handle == Handle::CONNECTION => {
                self.link.closed_by_peer();
                self.clear();
                let Refusal { code, sentence, .. } = refusal;
                let reason = format!("the primary closed the connection: {sentence}");
                Some(Intent::Closed { code, reason })
            }
            Message::Error(refusal) => self.stopped_by_peer(handle, refusal),
            Message::Fetch(fetch) => self.asked(handle, fetch),
            Message::Fetched(fetched) => self.answered(handle, fetched),
            Message::Match(lsn) => self.question(handle, |space| {
                space.take_match(lsn).map(|()| Intent::Match { handle, lsn })
            }),
            Message::Truncate(to) => self.question(handle, |space| {
                space.take_truncate(&to).map(|()| Intent::Truncate { handle, to })
            }),
            Message::Heartbeat(_)
            | Message::HelloAck(_)
            | Message::OpenAck(_)
            | Message::Ack(_)
            | Message::Matched(_) => None,
        }
    }

    fn greet(&mut self, hello: Hello) -> Option<Intent> {
        let Some(version) = hello.common_version() else {
            let reason = format!(
                "the primary speaks versions {} to {}, this replica {VERSION}",
                hello.min_version, hello.max_version
            );
            return self.fail(ErrorCode::Version, reason);
        };
        if let Err((code, reason)) = self.me.check_peer(&hello.identity) {
            return self.fail(code, reason);
        }
        let ack =
            HelloAck { version, features: hello.features & FEATURES, identity: self.me.clone() };
        self.link.queue(&Message::HelloAck(ack), Handle::CONNECTION, Epoch(0));
        self.link.establish();
        Some(Intent::Established { peer: hello.identity, shard: hello.shard })
    }

    fn open(&mut self, header: &FrameHeader, open: OpenSpace) -> Option<Intent> {
        let handle = header.handle;
        match self.spaces.get(&handle) {
            Some(space) if space.phase == Phase::Closing => return None,
            Some(_) => {
                let reason =
                    format!("handle {handle} is in use, for {} it is asked again", open.space);
                return self.stop(handle, ErrorCode::Protocol, reason);
            }
            None => {}
        }
        if open.epoch() != Some(header.epoch) {
            let reason = format!(
                "OpenSpace of epoch {} with a history that ends in {:?}",
                header.epoch,
                open.history.last()
            );
            return self.fail(ErrorCode::Protocol, reason);
        }
        if self.spaces.len() >= MAX_SPACES {
            let reason = format!("more than {MAX_SPACES} spaces on one connection");
            self.link.refuse(handle, header.epoch, ErrorCode::Limit, reason);
            return None;
        }
        self.spaces.insert(handle, Intake::new(header.epoch));
        Some(Intent::Open { handle, open })
    }

    /// A frame about the history of a space: an intent, or the space's end.
    fn question(
        &mut self,
        handle: Handle,
        take: impl FnOnce(&mut Intake) -> Result<Intent, (ErrorCode, String)>,
    ) -> Option<Intent> {
        let space = self.spaces.get_mut(&handle)?;
        if space.phase == Phase::Closing {
            return None;
        }
        match take(space) {
            Ok(intent) => Some(intent),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    fn take_run(&mut self, handle: Handle, run: SegmentOpen) -> Option<Intent> {
        let space = self.spaces.get_mut(&handle)?;
        if space.phase == Phase::Closing {
            return None;
        }
        match space.take_run(&run) {
            Ok(true) => Some(Intent::Run { handle, run }),
            Ok(false) => None,
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    /// What the primary says of a space that is open, unless it may not.
    fn take_told(
        &mut self,
        handle: Handle,
        intent: Intent,
        admit: impl FnOnce(&mut Intake) -> Result<(), (ErrorCode, String)>,
    ) -> Option<Intent> {
        let space = self.spaces.get_mut(&handle).filter(|space| space.phase != Phase::Closing)?;
        match admit(space) {
            Ok(()) => Some(intent),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    /// The primary's `Error` for one space: its first word, or its answer. One
    /// for a space that was never taken in answers our refusal of it.
    fn stopped_by_peer(&mut self, handle: Handle, refusal: Refusal) -> Option<Intent> {
        let space = self.spaces.remove(&handle)?;
        if space.phase == Phase::Closing {
            return None;
        }
        let Refusal { code, sentence: reason, .. } = refusal;
        self.link.refuse(handle, space.epoch, code, String::new());
        Some(Intent::Stopped { handle, code, reason })
    }

    /// Applies what the engine has done to an open space, and queues its ack
    /// if one is due. A space that was stopped meanwhile has no more news.
    fn report(&mut self, handle: Handle, apply: impl FnOnce(&mut Intake) -> bool) {
        if let Some(space) = self.spaces.get_mut(&handle)
            && space.phase == Phase::Open
            && apply(space)
            && !space.queued
        {
            space.queued = true;
            self.news.push_back(handle);
        }
    }

    /// Stops a space by the machine's own decision.
    pub(super) fn stop(
        &mut self,
        handle: Handle,
        code: ErrorCode,
        reason: String,
    ) -> Option<Intent> {
        self.forsake(handle, code, reason.clone());
        Some(Intent::Stopped { handle, code, reason })
    }

    /// Ends a space at this side, if it has not ended yet.
    fn forsake(&mut self, handle: Handle, code: ErrorCode, reason: String) {
        if let Some(space) = self.spaces.get_mut(&handle)
            && space.phase != Phase::Closing
        {
            space.phase = Phase::Closing;
            // Who is fenced must learn by which epoch.
            let fenced = code == ErrorCode::Fenced;
            let epoch = if fenced { space.highest_epoch() } else { space.epoch };
            self.link.refuse(handle, epoch, code, reason);
        }
    }

    /// Closes the connection by the machine's own decision.
    fn fail(&mut self, code: ErrorCode, reason: String) -> Option<Intent> {
        self.link.close(code, reason.clone());
        self.clear();
        Some(Intent::Closed { code, reason })
    }

    fn clear(&mut self) {
        self.spaces.clear();
        self.news.clear();
    }
}
