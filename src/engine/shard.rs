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

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, TryRecvError};

use super::inbox::{Inbox, Step};
use super::keeper::{Job, News};
use super::primary::link::{Link, State, Up};
use super::primary::space::Space;
use super::primary::{run_of_ticket, run_ticket};
use super::replica::log::LogOp;
use super::replica::peer::{Action, Peer};
use super::report::ShardReport;
use crate::ids::{NodeId, SegmentName, SpaceId};
use crate::io::{
    Backend, Completion, Op, Outcome, SlabPool, Socket, Strategy, Token, WatchEvent, WatchId,
};
use crate::limits::{
    CONNECT_TIMEOUT, CONTROL_SLAB_BYTES, DRAIN_TIMEOUT, MAX_CONNECTIONS, SCAN_INTERVAL,
};
use crate::lsn::Mark;
use crate::protocol::Now;
use crate::protocol::frame::{FrameHeader, Handle, Kind};
use crate::protocol::message::{ErrorCode, Identity, SegmentOpen};
use crate::protocol::sender::{BatchRule, Event, Sender as SenderMachine, Streams, Transmit};
use crate::wal::record::Checksums;

/// What a shard is told from outside.
#[derive(Debug)]
pub enum Command {
    /// A primary has connected.
    Accepted(Socket, SocketAddr),
    /// Say what you know.
    Report(Sender<ShardReport>),
    /// Bring to the disk what is here, tell the peers, and end.
    Stop,
}

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its number.
    pub shard: usize,
    /// Of how many.
    pub shards: usize,
    /// This node.
    pub me: Identity,
    /// `<data_root>`.
    pub data_root: PathBuf,
    /// Whom to ship to.
    pub replicas: Vec<(NodeId, SocketAddr)>,
    /// When to ship a batch.
    pub batch: BatchRule,
    /// How.
    pub strategy: Strategy,
    /// Which records are taken.
    pub checksums: Checksums,
    /// How long a replica's written bytes may wait for their flush.
    pub flush_delay: Duration,
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
    Prefetch(Handle),
}

/// Where a directory stands in the search for segments.
#[derive(Clone, Debug)]
enum Watched {
    Root,
    /// Waits for `wal/` to appear.
    Space(SpaceId),
    Wal(SpaceId),
}

/// Whom an answer of the keeper goes to.
#[derive(Clone, Copy, Debug)]
enum Ticket {
    Open(u64, Handle),
    Run(u64, Handle, u32),
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
    jobs: Sender<Job>,
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
    busy_peers: BTreeSet<u64>,
    next_peer: u64,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    watches: BTreeMap<WatchId, Watched>,
    /// Directories that could not be watched, and are scanned instead.
    unwatched: BTreeSet<SpaceId>,
    root_unwatched: bool,
    next_scan: Option<Instant>,
    stopping: Option<Instant>,
    jitter: u64,
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

/// A data frame of records that may have no checksums of their own gets one
/// over its payload.
fn with_checksum(header: [u8; 64], payload: &[u8]) -> [u8; 64] {
    FrameHeader::decode(&header)
        .map_or(header, |decoded| decoded.with_payload_crc(crc32c::crc32c(payload)).encode())
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) }
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
        let start = Instant::now();
        let links = setup
            .replicas
            .iter()
            .map(|(replica, address)| Link::new(replica.clone(), *address, start))
            .collect();
        Self {
            jitter: u64::from(std::process::id()) | 1,
            setup,
            backend,
            commands,
            news,
            jobs,
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
            busy_peers: BTreeSet::new(),
            next_peer: 0,
            tickets: HashMap::new(),
            next_ticket: 0,
            watches: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            root_unwatched: false,
            next_scan: None,
            stopping: None,
        }
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
        self.watch_root();
        self.accept();
        let mut completions = Vec::new();
        let mut events = Vec::new();
        loop {
            self.take_commands();
            self.take_news();
            self.backend.take_watch_events(&mut events);
            for event in events.drain(..) {
                self.watched(&event);
            }
            self.grow();
            self.drive_links();
            self.drive_peers();
            if self.is_drained() {
                return Ok(());
            }
            let deadline = self.next_timeout();
            self.backend.wait(deadline, &mut completions)?;
            for completion in completions.drain(..) {
                self.completed(completion);
            }
            self.timeouts();
        }
    }

    fn submit(&mut self, what: Pending, op: Op) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, what);
        self.backend.submit(Token(token), op);
    }

    /// Jobs are few; a full queue holds this shard up rather than losing one.
    fn job(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the keeper is gone: nothing new can be recorded");
        }
    }

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Accepted(socket, address)) => self.take_peer(socket, address),
                Ok(Command::Report(reply)) => {
                    // Who asked may have gone in the meantime.
                    let _ = reply.send(self.report());
                }
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
        let now = now();
        self.stopping = Some(now.instant + DRAIN_TIMEOUT);
        for (index, link) in self.links.iter_mut().enumerate() {
            if let Some(up) = link.up() {
                up.sender.close(now, ErrorCode::Shutdown, "the primary is going down".into());
                up.closing = true;
            }
            self.busy_links.insert(index);
        }
        for (id, peer) in &mut self.peers {
            peer.close(now, ErrorCode::Shutdown, "the replica is going down".into());
            self.busy_peers.insert(*id);
        }
    }

    /// Everything is on the disk and told, or time is up.
    fn is_drained(&self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        let quiet = self.peers.is_empty()
            && self.links.iter().all(|link| !matches!(link.state, State::Up(_)));
        if !quiet && Instant::now() >= deadline {
            tracing::warn!("not everything could be brought to an end in time; closing anyway");
            return true;
        }
        quiet
    }

    fn next_timeout(&self) -> Option<Instant> {
        if !self.growing.is_empty() || !self.busy_links.is_empty() || !self.busy_peers.is_empty() {
            return Some(Instant::now());
        }
        let links = self.links.iter().filter_map(Link::next_timeout);
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        links.chain(peers).chain(self.next_scan).chain(self.stopping).min()
    }

    fn timeouts(&mut self) {
        let instant = Instant::now();
        for (index, link) in self.links.iter().enumerate() {
            if link.next_timeout().is_some_and(|at| at <= instant) {
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
    }

    fn completed(&mut self, completion: Completion) {
        let Some(what) = self.pending.remove(&completion.token.0) else { return };
        let now = now();
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
                if let Ok(Outcome::Accepted(socket, address)) = completion.result {
                    self.hand_over(socket, address);
                } else if let Err(error) = completion.result {
                    tracing::warn!(%error, "a connection could not be accepted");
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
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.completed(now, handle, op, completion.result.map(|_| ()));
                    self.busy_peers.insert(id);
                }
            }
            Pending::Prefetch(handle) => {
                if let Some(space) = self.spaces.get(handle) {
                    let mut space = space.borrow_mut();
                    if let Err(error) = completion.result {
                        space.notice(format!("reading ahead failed: {error}"));
                    }
                    space.prefetched();
                    self.growing.insert(handle);
                }
            }
        }
    }

    // ---- noticing what is new --------------------------------------------

    /// True if this shard ships anything or may have to tell of it.
    fn watch_root(&mut self) {
        let root = self.setup.data_root.clone();
        match self.backend.watch(&root) {
            Ok(id) => {
                self.watches.insert(id, Watched::Root);
            }
            Err(error) => {
                self.root_unwatched = true;
                self.fall_back_to_scan(&root.display().to_string(), &error);
            }
        }
        self.job(Job::ScanRoot { shard: self.setup.shard });
    }

    fn fall_back_to_scan(&mut self, what: &str, error: &std::io::Error) {
        tracing::warn!(
            "{what} cannot be watched: {error}; it is scanned every {SCAN_INTERVAL:?} instead. If \
             watches have run out, raise fs.inotify.max_user_watches"
        );
        self.next_scan.get_or_insert(Instant::now() + SCAN_INTERVAL);
    }

    fn scan_unwatched(&mut self, instant: Instant) {
        self.next_scan = None;
        if self.root_unwatched {
            self.job(Job::ScanRoot { shard: self.setup.shard });
        }
        for space in self.unwatched.clone() {
            self.touch(&space, None);
            self.job(Job::ScanSpace { shard: self.setup.shard, space });
        }
        if self.root_unwatched || !self.unwatched.is_empty() {
            self.next_scan = Some(instant + SCAN_INTERVAL);
        }
    }

    /// A directory of the data root that may be a space of this shard.
    fn take_up(&mut self, id: &SpaceId) {
        if shard_of(id, self.setup.shards) != self.setup.shard
            || self.spaces.handles.contains_key(id)
        {
            return;
        }
        let handle = Handle(u32::try_from(self.spaces.list.len()).unwrap_or(u32::MAX - 1));
        self.spaces.handles.insert(id.clone(), handle);
        let space = Space::new(id.clone(), handle, self.setup.shard, self.setup.checksums);
        self.spaces.list.push(RefCell::new(space));
        self.watch_space(id);
    }

    fn watch_space(&mut self, id: &SpaceId) {
        let directory = self.setup.data_root.join(id.as_str());
        // The inner directory first; whatever appears between two looks is
        // found by the scan that follows the watch.
        let wal = directory.join("wal");
        let watched = match self.backend.watch(&wal) {
            Ok(watch) => Ok((watch, Watched::Wal(id.clone()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.backend.watch(&directory).map(|watch| (watch, Watched::Space(id.clone())))
            }
            Err(error) => Err(error),
        };
        match watched {
            Ok((watch, what)) => {
                let wait = matches!(what, Watched::Space(_));
                self.watches.insert(watch, what);
                if wait {
                    // It may have appeared just before the watch.
                    if wal.is_dir() {
                        self.backend.unwatch(watch);
                        self.watches.remove(&watch);
                        return self.watch_space(id);
                    }
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.unwatched.insert(id.clone());
                self.fall_back_to_scan(&directory.display().to_string(), &error);
            }
        }
        self.job(Job::ScanSpace { shard: self.setup.shard, space: id.clone() });
    }

    fn watched(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Overflow => {
                tracing::warn!("file events were lost: every space is scanned once");
                self.job(Job::ScanRoot { shard: self.setup.shard });
                let all: Vec<_> = self.spaces.handles.keys().cloned().collect();
                for space in all {
                    self.touch(&space, None);
                    self.job(Job::ScanSpace { shard: self.setup.shard, space });
                }
            }
            WatchEvent::Appeared(watch, name) => match self.watches.get(watch).cloned() {
                Some(Watched::Root) => {
                    if let Some(id) = name.to_str().and_then(|name| name.parse().ok())
                        && shard_of(&id, self.setup.shards) == self.setup.shard
                    {
                        if self.spaces.handles.contains_key(&id) {
                            self.watch_space(&id);
                        } else {
                            // The keeper knows whether it is received here.
                            self.job(Job::ScanRoot { shard: self.setup.shard });
                        }
                    }
                }
                Some(Watched::Space(id)) if name == "wal" => {
                    self.backend.unwatch(*watch);
                    self.watches.remove(watch);
                    self.watch_space(&id);
                }
                Some(Watched::Wal(space))
                    if name.to_str().is_some_and(|name| name.parse::<SegmentName>().is_ok()) =>
                {
                    self.job(Job::ScanSpace { shard: self.setup.shard, space });
                }
                _ => {}
            },
            WatchEvent::Modified(watch, name) => {
                if let Some(Watched::Wal(space)) = self.watches.get(watch).cloned()
                    && let Some(name) = name.to_str().and_then(|name| name.parse().ok())
                {
                    self.touch(&space, Some(name));
                }
            }
            WatchEvent::Vanished(..) => {}
            WatchEvent::Ended(watch) => {
                if let Some(Watched::Wal(id) | Watched::Space(id)) = self.watches.remove(watch) {
                    self.watch_space(&id);
                }
            }
        }
    }

    fn touch(&mut self, space: &SpaceId, name: Option<SegmentName>) {
        if let Some(handle) = self.spaces.handles.get(space)
            && let Some(space) = self.spaces.get(*handle)
        {
            space.borrow_mut().touch(name);
            self.growing.insert(*handle);
        }
    }

    fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            let now = now();
            match news {
                News::Spaces(spaces) => {
                    for space in spaces {
                        self.take_up(&space);
                    }
                }
                News::Space { space, record, found, problems } => {
                    self.learned(now, &space, record, found, problems);
                }
                News::Segment { space, file, result } => {
                    if let Some(handle) = self.spaces.handles.get(&space).copied() {
                        if let Some(space) = self.spaces.get(handle) {
                            space.borrow_mut().reopened(file, result);
                        }
                        self.growing.insert(handle);
                    }
                }
                News::Committed { ticket, result } => {
                    let (handle, ordinal) = run_of_ticket(ticket);
                    debug_assert_eq!(run_ticket(handle, ordinal), ticket, "tickets are runs");
                    if let Some(space) = self.spaces.get(handle) {
                        match result {
                            Ok(()) => space.borrow_mut().runs_durable(ordinal + 1),
                            Err(why) => space.borrow_mut().halt(why),
                        }
                        self.head_moved(now, handle);
                    }
                }
                News::ReplicaOpened { ticket, result } => {
                    if let Some(Ticket::Open(id, handle)) = self.tickets.remove(&ticket) {
                        self.peer(now, id, |peer, actions| {
                            peer.opened(now, handle, result.map(|state| *state), actions);
                        });
                    }
                }
                News::RunOpened { ticket, result } => {
                    if let Some(Ticket::Run(id, handle, ordinal)) = self.tickets.remove(&ticket) {
                        self.peer(now, id, |peer, _| peer.run_opened(now, handle, ordinal, result));
                    }
                }
            }
        }
    }

    fn learned(
        &mut self,
        now: Now,
        id: &SpaceId,
        record: Option<Box<crate::state::catalog::SpaceRecord>>,
        found: Vec<(u64, Arc<crate::wal::segment::Segment>)>,
        problems: Vec<String>,
    ) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let Some(space) = self.spaces.get(handle) else { return };
        let mut space = space.borrow_mut();
        let first = record.is_some();
        if let Some(record) = record {
            space.learn(*record);
        }
        space.found(found);
        for problem in problems {
            space.notice(problem);
        }
        let open = space.open();
        drop(space);
        self.growing.insert(handle);
        if first && let Some(open) = open {
            for index in 0..self.links.len() {
                if let Some(up) = self.links[index].up()
                    && up.established
                {
                    up.sender.open_space(now, handle, open.clone());
                    self.busy_links.insert(index);
                }
            }
        }
    }

    /// Let every space that grows walk a turn.
    fn grow(&mut self) {
        if self.growing.is_empty() {
            return;
        }
        let now = now();
        for handle in std::mem::take(&mut self.growing) {
            let Some(space) = self.spaces.get(handle) else { continue };
            let turn = space.borrow_mut().advance(now.instant);
            for job in turn.jobs {
                self.job(job);
            }
            for (segment, offset, bytes) in turn.prefetch {
                let file = segment.file.clone();
                self.submit(Pending::Prefetch(handle), Op::Prefetch { file, offset, bytes });
            }
            if turn.more {
                self.growing.insert(handle);
            }
            self.head_moved(now, handle);
        }
    }

    /// Tell the links that there is more to ship, and those that wait for the
    /// walk that it has moved.
    fn head_moved(&mut self, now: Now, handle: Handle) {
        for (index, link) in self.links.iter_mut().enumerate() {
            let resume = link.slot(handle.0 as usize).resume;
            let Some(up) = link.up() else { continue };
            if !up.established {
                continue;
            }
            if let Some(lsn) = resume
                && let Some(found) =
                    self.spaces.get(handle).and_then(|space| space.borrow_mut().resume_at(lsn))
            {
                let at = found.as_ref().ok().copied();
                let goes_on = up.sender.handle_resume(now, handle, found);
                let slot = link.slot(handle.0 as usize);
                slot.resume = None;
                if goes_on && let Some(mark) = at {
                    let head = self.spaces.get(handle).map(|space| space.borrow().head().lsn);
                    slot.resumed(mark, head.unwrap_or(mark.lsn));
                }
            } else if resume.is_some() {
                // A walk that went back to get there goes on by itself.
                if self.spaces.get(handle).is_some_and(|space| space.borrow().wants_turn()) {
                    self.growing.insert(handle);
                }
                continue;
            } else {
                up.sender.handle_head(now, handle);
            }
            self.busy_links.insert(index);
        }
    }

    // ---- connections to replicas -------------------------------------------

    fn jitter(&mut self) -> f64 {
        // xorshift: spreads attempts, nothing depends on its quality.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        #[expect(clippy::cast_precision_loss, reason = "a fraction")]
        let fraction = (self.jitter >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }

    fn link_down(&mut self, index: usize, why: String) {
        let jitter = self.jitter();
        if let Some(link) = self.links.get_mut(index) {
            link.down(Instant::now(), why, jitter);
        }
    }

    fn drive_links(&mut self) {
        for index in std::mem::take(&mut self.busy_links) {
            self.drive_link(index);
        }
    }

    fn drive_link(&mut self, index: usize) {
        let now = now();
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        match &link.state {
            State::Waiting(at) if *at <= now.instant && self.stopping.is_none() => {
                let address = link.address;
                link.state = State::Connecting(now.instant + CONNECT_TIMEOUT);
                self.submit(Pending::Connect(index, serial), Op::Connect { address });
                return;
            }
            State::Connecting(at) if *at <= now.instant => {
                let address = link.address;
                self.link_down(
                    index,
                    format!("no connection to {address} within {CONNECT_TIMEOUT:?}"),
                );
                return;
            }
            State::Waiting(_) | State::Connecting(_) => return,
            State::Up(_) => {}
        }
        self.link_timers(now, index);
        self.link_frames(now, index);
        self.link_events(now, index);
        self.link_transmit(now, index);
    }

    fn link_timers(&mut self, now: Now, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let mut due = Vec::new();
        while let Some((at, handle)) = link.retries.first().copied()
            && at <= now.instant
        {
            link.retries.pop_first();
            due.push(Handle(u32::try_from(handle).unwrap_or(u32::MAX - 1)));
        }
        let State::Up(up) = &mut link.state else { return };
        if up.sender.next_timeout().is_some_and(|at| at <= now.instant) {
            up.sender.handle_timeout(now);
        }
        if up.established {
            for handle in due {
                if let Some(open) = self.spaces.get(handle).and_then(|space| space.borrow().open())
                {
                    up.sender.open_space(now, handle, open);
                }
            }
        }
    }

    /// Take the frames that have come, and ask for more.
    fn link_frames(&mut self, now: Now, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        let Some(up) = link.up() else { return };
        while !up.receiving {
            match up.inbox.step() {
                Ok(Step::Header(header)) if header.kind == Kind::Data => {
                    self.link_down(
                        index,
                        "the replica sends data, which only a primary does".into(),
                    );
                    return;
                }
                Ok(Step::Header(_)) => {}
                Ok(Step::Frame(header, range, _)) => {
                    let body = up.inbox.payload(range);
                    up.sender.handle_frame(now, &header, body);
                }
                Ok(Step::Receive { slab, low_water, most }) => {
                    up.receiving = true;
                    let socket = up.socket.clone();
                    self.submit(
                        Pending::LinkReceive(index, serial),
                        Op::Receive { socket, slab, low_water, most },
                    );
                    return;
                }
                Ok(Step::Starved) => return,
                Err(error) => {
                    self.link_down(index, format!("what the replica sends is no frame: {error}"));
                    return;
                }
            }
        }
    }

    fn link_events(&mut self, now: Now, index: usize) {
        loop {
            let Some(link) = self.links.get_mut(index) else { return };
            let Some(event) = link.up().and_then(|up| up.sender.poll_event()) else { return };
            match event {
                Event::Established { peer } => self.link_established(now, index, &peer),
                Event::Resume { handle, standing } => {
                    let slot = link.slot(handle.0 as usize);
                    slot.resume = Some(standing.flushed);
                    self.head_moved(now, handle);
                }
                Event::Acked { handle, ack, flushed } => {
                    let slot = link.slot(handle.0 as usize);
                    slot.acked(ack, flushed);
                    if let Some(mark) = flushed {
                        let us = now.unix_ns.saturating_sub(mark.timestamp_ns) / 1000;
                        slot.latency.get_or_insert_default().record(us);
                        self.forget(handle);
                    }
                }
                Event::Stopped { handle, code, reason, retry } => {
                    link.stopped(handle.0 as usize, now.instant, code, reason, retry);
                }
                Event::Closed { code, reason, retry } => {
                    if !retry {
                        tracing::error!(replica = %link.replica, ?code, "{reason}");
                    }
                    if let Some(up) = link.up() {
                        up.closing = true;
                    }
                    link.problem = Some(reason);
                }
            }
        }
    }

    fn link_established(&mut self, now: Now, index: usize, peer: &Identity) {
        let Some(link) = self.links.get_mut(index) else { return };
        if peer.node != link.replica {
            let why = format!(
                "{} answers as {}, and the configuration calls it {}",
                link.address, peer.node, link.replica
            );
            self.link_down(index, why);
            return;
        }
        tracing::info!(replica = %link.replica, address = %link.address, "connected");
        link.failures = 0;
        link.problem = None;
        let Some(up) = link.up() else { return };
        up.established = true;
        for space in &self.spaces.list {
            let space = space.borrow();
            if let Some(open) = space.open() {
                up.sender.open_space(now, space.handle, open);
            }
        }
    }

    /// Boundaries that every replica has passed are needed no more.
    fn forget(&mut self, handle: Handle) {
        let lowest = (self.links.iter())
            .map(|link| link.slots.get(handle.0 as usize).map_or(0, |slot| slot.flushed.lsn.0))
            .min();
        if let (Some(lowest), Some(space)) = (lowest, self.spaces.get(handle)) {
            space.borrow_mut().forget_before(crate::lsn::Lsn(lowest));
        }
    }

    fn link_transmit(&mut self, now: Now, index: usize) {
        let strategy = self.setup.strategy;
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        let Some(up) = link.up().filter(|up| !up.sending) else { return };
        let socket = up.socket.clone();
        let Some(transmit) = up.sender.poll_transmit(now, &self.spaces) else {
            if up.closing {
                let why = link.problem.clone().unwrap_or_else(|| "closed".into());
                self.link_down(index, why);
            }
            return;
        };
        up.sending = true;
        match transmit {
            Transmit::Control(bytes) => {
                self.submit(Pending::LinkSend(index, serial), Op::Send { socket, bytes });
            }
            Transmit::Data { handle, header, ordinal, start, bytes } => {
                let end = start.advance(u64::from(bytes));
                let source = self
                    .spaces
                    .get(handle)
                    .and_then(|space| space.borrow_mut().source(ordinal, start, bytes, strategy));
                let Some(source) = source else {
                    self.link_down(index, format!("the bytes at {start} are no longer readable"));
                    return;
                };
                let header = match (&source.mapped, self.setup.checksums) {
                    (Some(mapped), Checksums::Optional) => {
                        with_checksum(header, (**mapped).as_ref())
                    }
                    _ => header,
                };
                let slot = link.slot(handle.0 as usize);
                slot.sent = end;
                slot.streaming = true;
                self.submit(
                    Pending::LinkData(index, serial, handle, bytes),
                    Op::Transmit { socket, header, source, strategy },
                );
            }
        }
    }

    fn link_sent(
        &mut self,
        index: usize,
        serial: u32,
        result: std::io::Result<Outcome>,
        data: Option<(Handle, u32)>,
    ) {
        let Some(link) = self.links.get_mut(index).filter(|link| link.serial == serial) else {
            return;
        };
        self.busy_links.insert(index);
        match result {
            Ok(outcome) => {
                if let (Outcome::Transmitted(how), Some((handle, bytes))) = (outcome, data) {
                    *link.slot(handle.0 as usize).sent_bytes.entry(how).or_default() +=
                        u64::from(bytes);
                }
                if let Some(up) = link.up() {
                    up.sending = false;
                }
            }
            Err(error) => self.link_down(index, format!("sending failed: {error}")),
        }
    }

    fn connected(&mut self, now: Now, index: usize, serial: u32, result: std::io::Result<Outcome>) {
        let Some(link) = self.links.get_mut(index).filter(|link| link.serial == serial) else {
            return;
        };
        match result {
            Ok(Outcome::Connected(socket)) => {
                let shard = u16::try_from(self.setup.shard).unwrap_or(u16::MAX);
                link.serial = link.serial.wrapping_add(1);
                link.heard_at = Some(now.instant);
                link.state = State::Up(Box::new(Up {
                    socket: Arc::new(socket),
                    sender: SenderMachine::new(now, self.setup.me.clone(), shard, self.setup.batch),
                    inbox: Inbox::new(SlabPool::new(2, CONTROL_SLAB_BYTES)),
                    receiving: false,
                    sending: false,
                    established: false,
                    closing: false,
                }));
                self.busy_links.insert(index);
            }
            Ok(_) => {}
            Err(error) => {
                let address = link.address;
                self.link_down(index, format!("cannot connect to {address}: {error}"));
            }
        }
    }

    // ---- connections from primaries ----------------------------------------

    fn accept(&mut self) {
        if let Some(listener) = &self.listener
            && self.stopping.is_none()
        {
            let listener = listener.clone();
            self.submit(Pending::Accept, Op::Accept { listener });
        }
    }

    /// Connections go round among the shards.
    fn hand_over(&mut self, socket: Socket, address: SocketAddr) {
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

    fn take_peer(&mut self, socket: Socket, address: SocketAddr) {
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
            now(),
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
    fn peer(&mut self, _now: Now, id: u64, act: impl FnOnce(&mut Peer, &mut Vec<Action>)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut actions = Vec::new();
        act(peer, &mut actions);
        self.busy_peers.insert(id);
        self.perform(id, actions);
    }

    fn drive_peers(&mut self) {
        for id in std::mem::take(&mut self.busy_peers) {
            let now = now();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let mut actions = Vec::new();
            peer.pump(now, &mut actions);
            self.perform(id, actions);
            if self.peers.get(&id).is_some_and(Peer::is_finished)
                && let Some(peer) = self.peers.remove(&id)
            {
                let why = peer.closing().unwrap_or("closed");
                match &peer.node {
                    Some(node) => tracing::info!(primary = %node, "disconnected: {why}"),
                    None => tracing::info!(address = %peer.address, "disconnected: {why}"),
                }
            }
        }
    }

    fn perform(&mut self, id: u64, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Disk(handle, what, op) => self.submit(Pending::Disk(id, handle, what), op),
                Action::Receive(op) => self.submit(Pending::PeerReceive(id), op),
                Action::Send(op) => self.submit(Pending::PeerSend(id), op),
                Action::Job(job) => self.job(job),
                Action::Open(handle, open) => {
                    let ticket = self.ticket(Ticket::Open(id, handle));
                    self.job(Job::OpenReplica { shard: self.setup.shard, ticket, open });
                }
                Action::Run(space, handle, ordinal, run, known) => {
                    let ticket = self.ticket(Ticket::Run(id, handle, ordinal));
                    let shard = self.setup.shard;
                    self.job(Job::OpenRun { shard, ticket, space, ordinal, run, known });
                }
            }
        }
    }

    fn ticket(&mut self, ticket: Ticket) -> u64 {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(number, ticket);
        number
    }

    // ---- status ------------------------------------------------------------

    fn report(&self) -> ShardReport {
        super::report::of(
            self.backend.name(),
            Instant::now(),
            self.spaces.list.iter(),
            &self.links,
            self.peers.values(),
        )
    }
}
