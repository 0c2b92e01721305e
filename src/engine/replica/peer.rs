//! One accepted connection from a primary, and the spaces it is filling.
//!
//! ```text
//!   socket -> inbox (frames) -> Receiver (may it come?) -> verify -> Log -> disk
//!        <------------------- acks <-----------------------------------+
//! ```
//!
//! A peer that fails, lies or falls silent loses its connection; what it had
//! delivered is flushed and given back to the keeper.

mod leaving;
mod lending;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::{Log, LogOp};
use super::primaries::{Entry, Primaries};
use crate::engine::inbox::{Inbox, Step};
use crate::engine::keeper::Job;
use crate::engine::patience::Patience;
use crate::engine::primary::slot::Answer;
use crate::ids::{NodeId, SpaceId};
use crate::io::{Op, SlabPool, Socket};
use crate::limits::{
    MAX_JOBS_PER_PEER, MIN_DIRECT_BYTES, SLAB_BYTES, SLABS_PER_CONNECTION, STRANGER_SLAB_BYTES,
};
use crate::lsn::Lsn;
use crate::protocol::Now;
use crate::protocol::frame::{FrameHeader, Handle, Kind};
use crate::protocol::message::{ErrorCode, Fetch, Identity, OpenSpace, Reseed, Truncate};
use crate::protocol::receiver::{Intent, Receiver};
use crate::state::catalog::Change;
use crate::wal::record::{self, Checksums};

/// What a peer asks of its shard.
#[derive(Debug)]
pub enum Action {
    /// Submit this for one of its logs.
    Disk(Handle, LogOp, Op),
    /// Receive.
    Receive(Op),
    /// Send.
    Send(Op),
    /// For the keeper.
    Job(Job),
    /// Borrow a space from the keeper.
    Open(Handle, Box<OpenSpace>),
    /// Begin a borrowed space anew.
    Reseed(Handle, Box<OpenSpace>, Reseed),
    /// Find a boundary of a borrowed space; the question has this number.
    Match(SpaceId, Handle, u64, Lsn),
    /// Give a space back, have it cut, and borrow it again.
    Truncate(Handle, Box<OpenSpace>, Truncate),
    /// Open the file of a run.
    Run(SpaceId, Handle, u32, crate::state::runs::Run, bool),
    /// Read a range that the primary asks for.
    Serve(SpaceId, Handle, Fetch),
}

/// One accepted connection.
pub struct Peer {
    /// It.
    pub socket: Arc<Socket>,
    /// Where from.
    pub address: SocketAddr,
    /// Who, once it has said so.
    pub node: Option<NodeId>,
    /// Others that ship here.
    primaries: Primaries,
    /// Among them, until the connection ends.
    entry: Option<Entry>,
    /// A space of it was accepted.
    ships: bool,
    pub(super) machine: Receiver,
    inbox: Inbox,
    receiving: bool,
    sending: bool,
    /// Why the connection ends; nothing more is read from it.
    pub(super) closing: Option<String>,
    /// What is still to be said to the primary, behind the last acks.
    farewell: Option<(ErrorCode, String)>,
    /// When the connection ends although not everything was said; runs once
    /// the logs are settled.
    leave_at: Option<Instant>,
    /// For the frame that the primary sends.
    giving: Patience,
    /// For what the primary takes.
    taking: Patience,
    /// Jobs of the keeper under way that answer.
    asked: usize,
    /// Questions of a primary that have been asked so far.
    questions: u64,
    /// The one that a session waits for.
    matching: BTreeMap<Handle, u64>,
    /// Those that cannot be answered, for what is here is damaged: until when that
    /// may be mended, and the damage.
    pub(super) comparing: BTreeMap<Handle, (Instant, String)>,
    pub(super) logs: BTreeMap<Handle, Log>,
    /// Those that may have something to submit.
    pub(super) active: BTreeSet<Handle>,
    /// Those that take nothing more, and go back to the keeper.
    pub(super) ended: BTreeSet<Handle>,
    /// Spaces asked of the keeper.
    opening: BTreeMap<Handle, OpenSpace>,
    /// What the primary has said of those that are here.
    opened: BTreeMap<Handle, OpenSpace>,
    checksums: Checksums,
    flush_delay: Duration,
    shard: usize,
    /// Disk operations in flight.
    in_flight: u32,
    /// The frame that is coming in may not: its payload is passed over.
    refused: bool,
    /// When the header of the present frame came.
    frame_began: Instant,
    /// The frame that was placed last, and the length of its carry.
    placed: Option<(Handle, usize)>,
    /// The connection ends because a frame came damaged.
    pub(super) corrupted: bool,
    /// Who waits for a range that the primary was asked for.
    pub(super) fetching: BTreeMap<Handle, Answer>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Peer {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new(
        now: Now,
        me: Identity,
        socket: Arc<Socket>,
        address: SocketAddr,
        shard: usize,
        checksums: Checksums,
        flush_delay: Duration,
    ) -> Self {
        Self {
            socket,
            address,
            node: None,
            primaries: Primaries::default(),
            entry: None,
            ships: false,
            machine: Receiver::new(now, me),
            // Who says nothing gets next to nothing.
            inbox: Inbox::new(SlabPool::new(2, STRANGER_SLAB_BYTES)),
            receiving: false,
            sending: false,
            closing: None,
            farewell: None,
            leave_at: None,
            giving: Patience::default(),
            taking: Patience::default(),
            asked: 0,
            questions: 0,
            matching: BTreeMap::new(),
            comparing: BTreeMap::new(),
            logs: BTreeMap::new(),
            active: BTreeSet::new(),
            ended: BTreeSet::new(),
            opening: BTreeMap::new(),
            opened: BTreeMap::new(),
            checksums,
            flush_delay,
            shard,
            in_flight: 0,
            refused: false,
            placed: None,
            frame_began: now.instant,
            corrupted: false,
            fetching: BTreeMap::new(),
        }
    }

    /// The same peer, which must not bear the name of another one of these.
    #[must_use]
    pub fn among(self, primaries: Primaries) -> Self {
        Self { primaries, ..self }
    }

    /// The spaces it fills.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        self.logs.values()
    }

    /// A `Receive` has ended.
    pub fn received(&mut self, now: Now, result: std::io::Result<(crate::io::Slab, usize)>) {
        self.receiving = false;
        match result {
            Ok((slab, bytes)) => {
                self.inbox.received(slab);
                self.machine.handle_bytes(now);
                if bytes == 0 {
                    self.broken("the primary closed the connection".into());
                }
            }
            Err(error) => self.broken(format!("receiving failed: {error}")),
        }
    }

    /// A `Send` has ended.
    pub fn sent(&mut self, result: std::io::Result<()>) {
        self.sending = false;
        self.taking.end();
        if let Err(error) = result {
            self.broken(format!("sending failed: {error}"));
        }
    }

    /// A disk operation of a log has ended.
    pub fn completed(&mut self, now: Now, handle: Handle, op: LogOp, result: std::io::Result<()>) {
        self.in_flight -= 1;
        self.active.insert(handle);
        let Some(log) = self.logs.get_mut(&handle) else { return };
        let failed = log.failed().is_some();
        let moved = log.completed(op, result);
        if moved.written {
            self.machine.handle_written(now, handle, log.written().lsn);
        }
        if moved.flushed {
            self.machine.handle_flushed(now, handle, *log.flushed());
        }
        if log.failed().is_some() && !failed {
            self.poisoned(now, handle);
        }
    }

    /// The keeper has answered an [`Action::Run`].
    pub fn run_opened(
        &mut self,
        now: Now,
        handle: Handle,
        ordinal: u32,
        result: Result<super::log::SegmentFiles, String>,
    ) {
        self.asked = self.asked.saturating_sub(1);
        let Some(log) = self.logs.get_mut(&handle) else { return };
        self.active.insert(handle);
        match result {
            Ok(files) => log.run_ready(ordinal, files),
            Err(why) => {
                log.fail(why);
                self.poisoned(now, handle);
            }
        }
    }

    /// Do all that can be done now. While the keeper is `congested`, nothing
    /// more is read.
    pub fn pump(&mut self, now: Now, congested: bool, actions: &mut Vec<Action>) {
        self.mind_time(now, actions);
        // First of all: a log that failed lets go of its slabs here, and no
        // completion is left to tell of it.
        if self.closing.is_none() {
            self.give_back(actions);
        }
        while self.closing.is_none() && !self.receiving {
            if congested || self.asked >= MAX_JOBS_PER_PEER {
                self.giving.end();
                break;
            }
            match self.inbox.step() {
                Ok(Step::Header(header)) => self.admit(now, &header, actions),
                Ok(Step::Frame(..)) if std::mem::take(&mut self.refused) => self.giving.end(),
                Ok(Step::Frame(header, range, placed)) => {
                    self.giving.end();
                    if header.payload_bytes >= MIN_DIRECT_BYTES {
                        self.inbox.pace(now.instant.duration_since(self.frame_began));
                    }
                    let at = (range.start, range.end, placed);
                    let body =
                        if header.kind == Kind::Data { &[] } else { self.inbox.payload(range) };
                    if let Some(intent) = self.machine.handle_frame(now, &header, body) {
                        self.obey(now, intent, Some((at, header)), actions);
                    }
                }
                Ok(Step::Receive { slab, low_water, most }) => {
                    self.receiving = true;
                    let bytes = self.inbox.awaiting().map_or(0, |h| h.payload_bytes);
                    self.giving.go_on(now.instant, bytes.into());
                    let socket = self.socket.clone();
                    actions.push(Action::Receive(Op::Receive { socket, slab, low_water, most }));
                }
                Ok(Step::Starved) => {
                    self.giving.end();
                    break;
                }
                Err(error) if error.is_damage(self.machine.is_established()) => {
                    self.corrupted = true;
                    let why = format!("a frame from the primary came damaged: {error}");
                    self.close(ErrorCode::Corrupt, why);
                }
                Err(error) => {
                    self.close(ErrorCode::Protocol, format!("what it sends is no frame: {error}"));
                }
            }
        }
        self.write(now, actions);
        self.give_back(actions);
        self.say_farewell(now);
        self.send(now, actions);
        self.hang_up();
    }

    /// A header has come: refuse the frame before its payload, or prepare the
    /// place for it.
    fn admit(&mut self, now: Now, header: &FrameHeader, actions: &mut Vec<Action>) {
        self.placed = None;
        self.frame_began = now.instant;
        self.giving.begin(now.instant, header.payload_bytes.into());
        if self.machine.admit(header).is_err() {
            // The machine tells the primary why; the payload is passed over.
            self.refused = true;
            if let Some(intent) = self.machine.handle_frame(now, header, &[]) {
                self.obey(now, intent, None, actions);
            }
            return;
        }
        if header.kind != Kind::Data {
            return;
        }
        if let Some(log) = self.logs.get(&header.handle)
            && let Some((offset, carry)) = log.placement(header.start, header.payload_bytes)
        {
            self.placed = Some((header.handle, carry.len()));
            self.inbox.place(offset, carry);
        }
    }

    fn obey(
        &mut self,
        now: Now,
        intent: Intent,
        at: Option<((usize, usize, bool), FrameHeader)>,
        actions: &mut Vec<Action>,
    ) {
        match intent {
            Intent::Established { peer, .. } => match self.primaries.enter(&peer, self.address) {
                Ok(entry) => {
                    self.entry = Some(entry);
                    self.node = Some(peer.node);
                    self.inbox.widen(SlabPool::new(SLABS_PER_CONNECTION, SLAB_BYTES));
                }
                Err(why) => {
                    self.machine.refuse_peer(ErrorCode::Itself, why.clone());
                    self.begin_closing(why);
                }
            },
            Intent::Open { handle, .. }
                if self.logs.contains_key(&handle) || self.opening.contains_key(&handle) =>
            {
                // What the handle stood for before is not given back yet.
                let why = format!("space {handle} is still being brought to its end here");
                self.machine.stop_space(now, handle, ErrorCode::Busy, why);
            }
            Intent::Open { handle, open } => {
                self.opening.insert(handle, open.clone());
                self.asked += 1;
                actions.push(Action::Open(handle, Box::new(open)));
            }
            Intent::Match { handle, lsn } => {
                if let Some(log) = self.logs.get(&handle) {
                    self.asked += 1;
                    self.questions += 1;
                    self.matching.insert(handle, self.questions);
                    let space = log.space.clone();
                    actions.push(Action::Match(space, handle, self.questions, lsn));
                }
            }
            Intent::Truncate { handle, to } => self.give_back_to_cut(handle, to, actions),
            Intent::Run { handle, run } => {
                if let Some(log) = self.logs.get_mut(&handle) {
                    if let Err(error) = log.accepts_run(&run) {
                        let why = format!("space {}: {error}", log.space);
                        tracing::error!("{why}");
                        log.stop(why.clone());
                        log.flush_at_once();
                        self.ended.insert(handle);
                        self.active.insert(handle);
                        self.machine.stop_space(now, handle, ErrorCode::Protocol, why);
                        return;
                    }
                    let run = log.begin_run(&run);
                    let ordinal = log.record.runs.len() - 1;
                    if log.record.runs.first_in(run.file).is_some_and(|(at, _)| at == ordinal) {
                        // Once what lies before has been let go, this is the
                        // first boundary that two copies can be compared at.
                        let (space, shard) = (log.space.clone(), self.shard);
                        let change = Change::Begin { file: run.file, mark: *log.received() };
                        actions.push(Action::Job(Job::Commit {
                            shard,
                            ticket: None,
                            space,
                            change,
                        }));
                    }
                    self.asked += 1;
                    actions.push(Action::Run(log.space.clone(), handle, ordinal, run, false));
                }
            }
            Intent::Retire { handle, retire } => {
                if let Some(log) = self.logs.get(&handle) {
                    actions.push(Action::Job(Job::Retire {
                        space: log.space.clone(),
                        file: retire.file,
                        what: retire.what,
                        flushed: *log.flushed(),
                    }));
                }
            }
            Intent::Reseed { handle, reseed } => self.give_back_to_seed(handle, reseed, actions),
            Intent::Data { handle, skip, .. } => {
                if let Some(((start, end, placed), header)) = at {
                    let checked = header.check_payload(self.inbox.payload(start..end));
                    if let Err(error) = checked {
                        self.corrupted = true;
                        let why = format!("a frame from the primary came damaged: {error}");
                        self.close(ErrorCode::Corrupt, why);
                    } else {
                        self.take(now, handle, skip as usize, start..end, placed);
                    }
                }
            }
            Intent::Stopped { handle, .. } if self.opening.contains_key(&handle) => {
                // Lent or not, what the keeper answers goes back.
                self.ended.insert(handle);
            }
            Intent::Stopped { handle, code, reason } => {
                if let Some(log) = self.logs.get_mut(&handle) {
                    tracing::warn!(space = %log.space, ?code, "stopped: {reason}");
                    log.stop(reason);
                    log.flush_at_once();
                    self.ended.insert(handle);
                    self.active.insert(handle);
                }
            }
            Intent::Fetch { handle, fetch } => {
                if let Some(log) = self.logs.get(&handle) {
                    actions.push(Action::Serve(log.space.clone(), handle, fetch));
                }
            }
            Intent::Fetched { handle, fetched } => {
                if let Some(answer) = self.fetching.remove(&handle)
                    && !fetched.bytes.is_empty()
                {
                    // Who asked may have given up.
                    let _ = answer.send(fetched.bytes);
                }
            }
            Intent::Closed { code, reason } => {
                self.corrupted |= code == ErrorCode::Corrupt;
                self.begin_closing(reason);
            }
        }
    }

    /// Verify the records of a frame and hand them to their log.
    fn take(
        &mut self,
        now: Now,
        handle: Handle,
        skip: usize,
        range: std::ops::Range<usize>,
        placed: bool,
    ) {
        let Some(log) = self.logs.get_mut(&handle) else { return };
        if log.failed().is_some() || log.stopped().is_some() {
            return;
        }
        let from = range.start + skip;
        let payload = self.inbox.payload(from..range.end);
        match record::verify(log.received(), payload, self.checksums) {
            Ok(end) => {
                let placed = placed && skip == 0;
                let carried = match self.placed.take() {
                    Some((of, bytes)) if placed && of == handle => bytes,
                    _ => 0,
                };
                if let Some(slice) = self.inbox.slice(from - carried..range.end) {
                    log.append(slice, carried, placed, end);
                    self.active.insert(handle);
                    self.machine.handle_verified(now, handle, end);
                }
            }
            Err((offset, error)) => self.damaged(now, handle, offset, &error.to_string()),
        }
    }

    /// Let the logs submit. A carry goes out unless more of its space is
    /// coming in right now.
    fn write(&mut self, now: Now, actions: &mut Vec<Action>) {
        let coming = self.inbox.awaiting().filter(|h| h.kind == Kind::Data).map(|h| h.handle);
        let before = actions.len();
        let closing = self.closing.is_some();
        let logs = &mut self.logs;
        let shard = self.shard;
        let mut poisoned = Vec::new();
        self.active.retain(|handle| {
            let Some(log) = logs.get_mut(handle) else { return false };
            let settle = coming != Some(*handle) || closing;
            let failed = log.failed().is_some();
            log.submit(now.instant, settle, &mut |op, io| {
                actions.push(Action::Disk(*handle, op, io));
            });
            if log.failed().is_some() && !failed {
                poisoned.push(*handle);
            }
            if let Some(mark) = log.checkpoint(false) {
                // As a boundary, too: positions are compared from there.
                for change in [Change::Checkpoint(mark), Change::AddMark(mark)] {
                    let space = log.space.clone();
                    actions.push(Action::Job(Job::Commit { shard, ticket: None, space, change }));
                }
            }
            // What waits for a completion is made active by it.
            !settle || log.next_timeout().is_some()
        });
        let disk = actions[before..].iter().filter(|a| matches!(a, Action::Disk(..))).count();
        self.in_flight += u32::try_from(disk).unwrap_or(u32::MAX);
        for handle in poisoned {
            self.poisoned(now, handle);
        }
    }

    fn send(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.sending
            && let Some(bytes) = self.machine.poll_transmit(now)
        {
            self.sending = true;
            self.taking.begin(now.instant, bytes.len() as u64);
            actions.push(Action::Send(Op::Send { socket: self.socket.clone(), bytes }));
        }
    }
}
