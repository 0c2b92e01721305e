//! The loop of one data core: the only code that joins the machines to I/O.
//!
//! ```text
//!   commands, news, watch events, completions
//!        |
//!        v
//!   spaces walk what is new --> links ship it      (primary)
//!   peers verify and append --> logs flush --> ack (replica)
//!        |
//!        v
//!   submit, wait for the next completion
//! ```
//!
//! Nothing here blocks but the wait itself. What an operation was is kept in
//! a table under its token; a completion whose connection is gone in the
//! meantime finds a serial that no longer matches, and is dropped.

mod damage;
mod due;
mod jobs;
mod links;
mod peers;
mod reign;
mod retention;
mod seeding;
mod setup;
mod standing;
mod watching;

pub use setup::Setup;
pub use standing::Standing;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, TryRecvError};

use self::jobs::Jobs;
use super::doorkeeper::{Complaints, Doorkeeper};
use super::jitter::Jitter;
use super::keeper::{Job, News};
use super::primary::link::{Link, State};
use super::primary::slot::Answer;
use super::primary::space::Space;
use super::replica::log::LogOp;
use super::replica::peer::Peer;
use super::replica::primaries::Primaries;
use super::report::ShardReport;
use crate::ids::{NodeId, SpaceId};
use crate::io::{Backend, Completion, Op, Outcome, Socket, Token, WatchEvent, WatchId};
use crate::limits::{DRAIN_TIMEOUT, FAREWELL_TIMEOUT};
use crate::lsn::{Lsn, Mark};
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::{ErrorCode, Fetch, SegmentOpen};
use crate::protocol::sender::Streams;

/// What a shard is told from outside.
#[derive(Debug)]
pub enum Command {
    /// A primary has connected.
    Accepted(Socket, SocketAddr),
    /// Say what you know.
    Report(Sender<ShardReport>),
    /// Say where a space stands that is open here.
    Standing(SpaceId, Sender<Standing>),
    /// Ask the primary, the replica that is named, or any, for a range. No answer
    /// if nobody is there.
    Fetch(SpaceId, Option<NodeId>, Fetch, Answer),
    /// End the session that receives this space.
    Yield(SpaceId),
    /// Bring to the disk what is here, tell the peers, and end.
    Stop,
}

/// What an operation was.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Connect(usize, u32),
    LinkReceive(usize, u32),
    LinkSend(usize, u32),
    LinkData(usize, u32, Handle, u32),
    Accept,
    PeerReceive(u64),
    PeerSend(u64),
    Disk(u64, Handle, LogOp),
    Prefetch(Handle, u64),
}

/// Where a directory stands in the search for segments.
#[derive(Clone, Debug)]
enum Watched {
    Root,
    /// Waits for `wal/` to appear.
    Space(SpaceId),
    /// A directory that can be no space: waits for a `wal/` to warn of.
    Stranger(OsString),
    Wal(SpaceId),
    /// The log of a space that is received: names only.
    Received(SpaceId),
}

/// Whom an answer of the keeper goes to.
#[derive(Clone, Copy, Debug)]
enum Ticket {
    Open(u64, Handle),
    Run(u64, Handle, u32),
    Match(u64, Handle, u64),
    /// A range that a replica asks for, over the connection of that serial.
    ServeLink(usize, u32, Handle, Lsn),
    /// A range that a primary asks for.
    ServePeer(u64, Handle, Lsn),
    /// A record that a replica found damaged.
    Suspect(usize, u32, Handle, Lsn),
    /// A record that was damaged at rest.
    Again(Handle, Lsn),
}

/// The spaces of a shard, as its senders see them.
#[derive(Default)]
struct Spaces {
    list: Vec<RefCell<Space>>,
    handles: BTreeMap<SpaceId, Handle>,
}

impl Spaces {
    fn get(&self, handle: Handle) -> Option<&RefCell<Space>> {
        self.list.get(handle.0 as usize)
    }
}

impl Streams for Spaces {
    fn head(&self, handle: Handle) -> Mark {
        self.get(handle).map_or(Mark::START, |space| space.borrow().walked())
    }

    fn run(&self, handle: Handle, ordinal: u32) -> Option<SegmentOpen> {
        self.get(handle)?.borrow().run(ordinal)
    }

    fn cut(
        &self,
        handle: Handle,
        ordinal: u32,
        from: &Mark,
        max_bytes: u32,
    ) -> Option<(Mark, u64)> {
        self.get(handle)?.borrow_mut().cut(ordinal, from, max_bytes)
    }
}

/// One data core.
pub struct Shard {
    setup: Setup,
    backend: Box<dyn Backend>,
    commands: Receiver<Command>,
    news: Receiver<News>,
    jobs: Jobs,
    listener: Option<Arc<Socket>>,
    /// Other shards, to hand accepted connections to.
    others: Vec<(Sender<Command>, crate::io::Waker)>,
    next_shard: usize,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    spaces: Spaces,
    /// Spaces that may have something to walk.
    growing: BTreeSet<Handle>,
    links: Vec<Link>,
    /// Links that may have something to do.
    busy_links: BTreeSet<usize>,
    peers: BTreeMap<u64, Peer>,
    /// Who ships to this node, over whichever shard.
    primaries: Primaries,
    busy_peers: BTreeSet<u64>,
    next_peer: u64,
    /// Of the peers, those that have not said who they are.
    door: Doorkeeper,
    /// The keeper's queue was full a moment ago.
    congested: bool,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    watches: BTreeMap<WatchId, Watched>,
    /// Directories that could not be watched, and are scanned instead.
    unwatched: BTreeSet<SpaceId>,
    /// Spaces that cannot be read for now, and are looked at again.
    obstructed: BTreeSet<SpaceId>,
    /// Directories of which something could not be opened.
    rescan: BTreeSet<SpaceId>,
    root_unwatched: bool,
    /// The data root has been listed.
    listed: bool,
    /// Spaces whose log is shipped under another name.
    refused: BTreeSet<SpaceId>,
    next_scan: Option<Instant>,
    /// Spaces whose replicas moved, or are behind: the keeper is told.
    retaining: BTreeSet<Handle>,
    /// When.
    next_retention: Option<Instant>,
    /// Spaces with a segment that has no name and is still held; looked at
    /// now and then.
    lingering: BTreeSet<Handle>,
    /// When.
    next_linger: Option<Instant>,
    /// When to accept again after an attempt that failed.
    next_accept: Option<Instant>,
    stopping: Option<Instant>,
    /// Writes and flushes in flight.
    disk_operations: u32,
    /// Who waits for a report.
    asked: Vec<Sender<ShardReport>>,
    jitter: Jitter,
    /// Damaged frames of connections to primaries, by who was at the other end.
    corrupt_frames: BTreeMap<String, u64>,
    /// Spaces to be looked at again, and when.
    attended: BTreeSet<Handle>,
    next_attention: Option<Instant>,
    /// When something of all that is due, as the last turn left it.
    due: Option<Instant>,
    /// Room for what one wait brings, and one look at the watches.
    completions: Vec<Completion>,
    events: Vec<WatchEvent>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("shard", &self.setup.shard).finish_non_exhaustive()
    }
}

/// The shard that carries a space.
#[must_use]
pub fn shard_of(space: &SpaceId, shards: usize) -> usize {
    // FNV-1a: the same on every start, so that a space stays where it is.
    let hash = space.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % shards.max(1) as u64).unwrap_or(0)
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// All that could be done is done: wait, until then at the latest.
    Wait(Option<Instant>),
    /// The shard has come to its end.
    Ended,
}

impl Shard {
    /// A shard on the calling thread.
    #[must_use]
    pub fn new(
        setup: Setup,
        backend: Box<dyn Backend>,
        commands: Receiver<Command>,
        news: Receiver<News>,
        jobs: Sender<Job>,
        listener: Option<Socket>,
        others: Vec<(Sender<Command>, crate::io::Waker)>,
    ) -> Self {
        let start = setup.clock.now().instant;
        let links = setup
            .replicas
            .iter()
            .map(|(replica, address)| Link::new(replica.clone(), *address, start))
            .collect();
        Self {
            jitter: Jitter::new(setup.jitter_seed),
            setup,
            backend,
            commands,
            news,
            jobs: Jobs::new(jobs),
            listener: listener.map(Arc::new),
            others,
            next_shard: 0,
            pending: HashMap::new(),
            next_token: 0,
            spaces: Spaces::default(),
            growing: BTreeSet::new(),
            links,
            busy_links: BTreeSet::new(),
            peers: BTreeMap::new(),
            primaries: Primaries::default(),
            busy_peers: BTreeSet::new(),
            next_peer: 0,
            door: Doorkeeper::default(),
            congested: false,
            tickets: HashMap::new(),
            next_ticket: 0,
            watches: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            obstructed: BTreeSet::new(),
            rescan: BTreeSet::new(),
            root_unwatched: false,
            listed: false,
            refused: BTreeSet::new(),
            next_scan: None,
            retaining: BTreeSet::new(),
            next_retention: None,
            lingering: BTreeSet::new(),
            next_linger: None,
            next_accept: None,
            stopping: None,
            disk_operations: 0,
            asked: Vec::new(),
            corrupt_frames: BTreeMap::new(),
            attended: BTreeSet::new(),
            next_attention: None,
            due: Some(start),
            completions: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The same shard, beside others that receive for the same node.
    #[must_use]
    pub fn among(self, primaries: Primaries, complaints: Complaints) -> Self {
        Self { primaries, door: self.door.among(complaints), ..self }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> usize {
        self.setup.shard
    }

    /// Work until told to stop.
    ///
    /// # Errors
    ///
    /// The completion queue has failed; nothing more moves in this shard.
    pub fn run(mut self) -> std::io::Result<()> {
        self.begin();
        while let Turn::Wait(deadline) = self.turn() {
            self.wait(deadline)?;
        }
        Ok(())
    }

    /// Before the first turn: watch, and accept.
    pub fn begin(&mut self) {
        self.watch_root();
        self.accept();
    }

    /// Do all that can be done now. Who drives a shard by hand calls
    /// [`Shard::wait`] after each turn, and this after each wait.
    pub fn turn(&mut self) -> Turn {
        self.take_commands();
        self.take_news();
        let mut events = std::mem::take(&mut self.events);
        self.backend.take_watch_events(&mut events);
        for event in events.drain(..) {
            self.watched(&event);
        }
        self.events = events;
        self.relieve();
        self.grow();
        self.drive_links();
        self.drive_peers();
        self.answer();
        if self.is_drained() {
            // The last word on where the replicas are.
            self.tell_positions(self.now());
            return Turn::Ended;
        }
        self.due = self.next_timeout();
        Turn::Wait(self.due)
    }

    /// Wait for completions until `deadline`, and take them; then do what was due by
    /// now when the last turn ended.
    ///
    /// # Errors
    ///
    /// The completion queue has failed; nothing more moves in this shard.
    pub fn wait(&mut self, deadline: Option<Instant>) -> std::io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.backend.wait(deadline, &mut completions)?;
        for completion in completions.drain(..) {
            self.completed(completion);
        }
        self.completions = completions;
        if let Some(due) = self.due {
            let instant = self.now().instant;
            if due <= instant {
                self.timeouts(instant);
            }
        }
        Ok(())
    }

    /// What the clocks say.
    fn now(&self) -> Now {
        self.setup.clock.now()
    }

    fn submit(&mut self, what: Pending, op: Op) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, what);
        self.backend.submit(Token(token), op);
    }

    fn job(&self, job: Job) {
        self.jobs.send(job);
    }

    /// Give the keeper what it did not take before; then every peer that was
    /// not listened to meanwhile has its turn.
    fn relieve(&mut self) {
        if self.jobs.is_congested() && !self.jobs.flush() {
            self.congested = true;
        } else if std::mem::take(&mut self.congested) {
            self.busy_peers.extend(self.peers.keys());
        }
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Accepted(socket, address)) => self.take_peer(socket, address),
                Ok(Command::Report(reply)) => self.asked.push(reply),
                Ok(Command::Standing(space, reply)) => self.tell_standing(&space, &reply),
                Ok(Command::Fetch(space, from, fetch, answer)) => {
                    self.fetch(&space, from.as_ref(), fetch, answer);
                }
                Ok(Command::Yield(space)) => self.yield_space(&space),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stop();
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.now();
        self.stopping = Some(now.instant + DRAIN_TIMEOUT);
        (self.next_retention, self.next_linger) = (None, None);
        for (index, link) in self.links.iter_mut().enumerate() {
            if let Some(up) = link.up() {
                up.sender.close(now, ErrorCode::Shutdown, "the primary is going down".into());
                up.closing.get_or_insert(now.instant + FAREWELL_TIMEOUT);
            }
            self.busy_links.insert(index);
        }
        for (id, peer) in &mut self.peers {
            peer.close(ErrorCode::Shutdown, "the replica is going down".into());
            self.busy_peers.insert(*id);
        }
    }

    /// Everything is on the disk and told, or time is up.
    fn is_drained(&self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        let quiet = self.peers.is_empty()
            && self.links.iter().all(|link| !matches!(link.state, State::Up(_)));
        if !quiet && self.now().instant >= deadline {
            tracing::warn!("not everything could be brought to an end in time; closing anyway");
            return true;
        }
        quiet
    }

    /// Nothing else is to be done in this turn.
    fn is_calm(&self) -> bool {
        self.growing.is_empty() && self.busy_links.is_empty() && self.busy_peers.is_empty()
    }

    fn completed(&mut self, completion: Completion) {
        let Some(what) = self.pending.remove(&completion.token.0) else { return };
        let now = self.now();
        match what {
            Pending::Connect(index, serial) => {
                self.connected(now, index, serial, completion.result);
            }
            Pending::LinkReceive(index, serial) => {
                let Some(link) = self.links.get_mut(index).filter(|link| link.serial == serial)
                else {
                    return;
                };
                self.busy_links.insert(index);
                match completion.result {
                    Ok(Outcome::Received(_, 0)) => {
                        self.link_down(index, "the replica closed the connection".into());
                    }
                    Ok(Outcome::Received(slab, _)) => {
                        link.heard_at = Some(now.instant);
                        if let Some(up) = link.up() {
                            up.received(slab);
                            up.sender.handle_bytes(now);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => self.link_down(index, format!("receiving failed: {error}")),
                }
            }
            Pending::LinkSend(index, serial) => {
                self.link_sent(index, serial, completion.result, None);
            }
            Pending::LinkData(index, serial, handle, bytes) => {
                self.link_sent(index, serial, completion.result, Some((handle, bytes)));
            }
            Pending::Accept => {
                match completion.result {
                    Ok(Outcome::Accepted(socket, address)) => self.hand_over(socket, address),
                    Ok(_) => {}
                    Err(error) => {
                        self.not_accepted(now.instant, &error);
                        return;
                    }
                }
                self.accept();
            }
            Pending::PeerReceive(id) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    let result = completion.result.and_then(|outcome| match outcome {
                        Outcome::Received(slab, bytes) => Ok((slab, bytes)),
                        _ => Err(std::io::Error::other("not what was asked for")),
                    });
                    peer.received(now, result);
                    self.busy_peers.insert(id);
                }
            }
            Pending::PeerSend(id) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.sent(completion.result.map(|_| ()));
                    self.busy_peers.insert(id);
                }
            }
            Pending::Disk(id, handle, op) => {
                self.disk_operations -= 1;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.completed(now, handle, op, completion.result.map(|_| ()));
                    self.busy_peers.insert(id);
                }
            }
            Pending::Prefetch(handle, start) => {
                if let Some(space) = self.spaces.get(handle) {
                    let mut space = space.borrow_mut();
                    if let Err(error) = completion.result {
                        space.notice(format!("reading ahead failed: {error}"));
                    }
                    space.prefetched(start);
                    self.growing.insert(handle);
                }
            }
        }
    }

    /// Answer who asked, now that everything that was noticed before the
    /// question is in the answer.
    fn answer(&mut self) {
        for reply in std::mem::take(&mut self.asked) {
            // Who asked may have gone in the meantime.
            let _ = reply.send(self.report());
        }
    }

    fn report(&self) -> ShardReport {
        let report = super::report::of(
            self.backend.name(),
            self.now().instant,
            self.shown().into_iter(),
            &self.links,
            self.peers.values(),
        );
        let links = self.links.iter().filter(|link| link.corrupt_frames > 0);
        let links = links.map(|link| (link.replica.to_string(), link.corrupt_frames));
        let corrupt_frames = links.chain(self.corrupt_frames.clone()).collect();
        ShardReport { corrupt_frames, complete: self.listed, ..report }
    }
}
