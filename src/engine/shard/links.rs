//! The sending side: spaces walk, links ship.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Pending, Shard, Spaces};
use crate::engine::inbox::{Inbox, Step};
use crate::engine::patience::Patience;
use crate::engine::primary::fenced;
use crate::engine::primary::link::{Link, State, Up};
use crate::engine::primary::slot::{Dispute, Slot};
use crate::io::{Op, Outcome, SlabPool, Token};
use crate::limits::{CONNECT_TIMEOUT, CONTROL_SLAB_BYTES, FAREWELL_TIMEOUT};
use crate::lsn::Mark;
use crate::protocol::Now;
use crate::protocol::frame::{FrameHeader, Handle, Kind};
use crate::protocol::message::{ErrorCode, Identity, SegmentOpen};
use crate::protocol::sender::{Event, Found, Sender, Streams, Transmit};
use crate::wal::record::Checksums;

/// A data frame of records that may have no checksums of their own gets one
/// over its payload.
fn with_checksum(header: [u8; 64], payload: &[u8]) -> [u8; 64] {
    FrameHeader::decode(&header)
        .map_or(header, |decoded| decoded.with_payload_crc(crc32c::crc32c(payload)).encode())
}

impl Spaces {
    /// The replica has to prove itself: open a single space, any `but` that.
    fn probe(&self, now: Now, up: &mut Up, but: Option<Handle>) {
        let spaces = self.list.iter().map(|space| space.borrow());
        let mut others = spaces.filter(|space| Some(space.handle) != but);
        up.probe = others.find_map(|space| {
            up.sender.open_space(now, space.handle, space.open()?);
            Some(space.handle)
        });
    }

    /// A space was stopped here. If it is the one by which the replica was to
    /// prove itself, no answer will come for it: another takes its place.
    pub(super) fn pass_probe_on(&self, now: Now, up: &mut Up, handle: Handle) {
        if up.probe == Some(handle) {
            self.probe(now, up, Some(handle));
        }
    }
}

/// The spaces as one link may ship them: what has sent its share has nothing
/// to ship for the moment.
struct Held<'a> {
    spaces: &'a Spaces,
    held: &'a BTreeMap<Handle, Instant>,
    slots: &'a [Slot],
    /// Bytes a second of a seed.
    limit: Option<u64>,
}

impl Streams for Held<'_> {
    fn head(&self, handle: Handle) -> Mark {
        match self.held.contains_key(&handle) {
            true => Mark::START,
            false => self.spaces.head(handle),
        }
    }

    fn run(&self, handle: Handle, ordinal: u32) -> Option<SegmentOpen> {
        self.spaces.run(handle, ordinal)
    }

    fn cut(
        &self,
        handle: Handle,
        ordinal: u32,
        from: &Mark,
        max_bytes: u32,
    ) -> Option<(Mark, u64)> {
        let slot = self.slots.get(handle.0 as usize);
        let most = slot.map_or(max_bytes, |slot| slot.frame_bytes(self.limit, max_bytes));
        self.spaces.cut(handle, ordinal, from, most)
    }
}

/// A space cannot be shipped to this replica now; it is asked for again.
pub(super) fn refuse(now: Now, link: &mut Link, handle: Handle, code: ErrorCode, why: String) {
    if let Some(up) = link.up() {
        up.sender.stop_space(now, handle, code, why.clone());
    }
    link.stopped(handle.0 as usize, now.instant, code, why, true);
}

impl Shard {
    /// Let every space that grows walk a turn.
    pub(super) fn grow(&mut self) {
        if self.growing.is_empty() {
            return;
        }
        let now = self.now();
        for handle in std::mem::take(&mut self.growing) {
            let Some(space) = self.spaces.get(handle) else { continue };
            let turn = space.borrow_mut().advance(now.instant);
            for job in turn.jobs {
                self.job(job);
            }
            if let Some(turned) = turn.turned {
                self.cut_off(now, handle, turned);
            }
            for (segment, offset, bytes) in turn.prefetch {
                let file = segment.file.clone();
                let pending = Pending::Prefetch(handle, offset);
                self.submit(pending, Op::Prefetch { file, offset, bytes });
            }
            if turn.more {
                self.growing.insert(handle);
            }
            if self.spaces.get(handle).is_some_and(|space| space.borrow().needs_attention()) {
                self.attend_to(handle, now.instant);
            }
            self.head_moved(now, handle);
        }
    }

    /// Tell the links that there is more to ship, and those that wait for the
    /// walk that it has moved.
    pub(super) fn head_moved(&mut self, now: Now, handle: Handle) {
        let mut jobs = Vec::new();
        let mut gone = Vec::new();
        let mut disputes = false;
        for (index, link) in self.links.iter_mut().enumerate() {
            let slot = link.slot(handle.0 as usize);
            let (resume, stands, runs) = (slot.resume, slot.stands, slot.stands_in);
            disputes |= slot.dispute.is_some();
            let Some(up) = link.up() else { continue };
            if !up.established {
                continue;
            }
            let found = resume.and_then(|lsn| {
                let space = self.spaces.get(handle)?;
                space.borrow_mut().answer_at(lsn, stands, runs, &mut jobs)
            });
            if let Some(found) = found {
                let slot = handle.0 as usize;
                link.slot(slot).resume = None;
                let probes = link.up().is_some_and(|up| up.sender.is_probing(handle));
                if let Found::Gone(why) = &found
                    && !probes
                {
                    let why = why.clone();
                    gone.push((index, resume.unwrap_or_default(), why));
                    continue;
                }
                let Some(up) = link.up() else { continue };
                let streams = up.sender.handle_resume(now, handle, found);
                let slot = link.slot(slot);
                if let Some(mark) = streams
                    && let Some(space) = self.spaces.get(handle)
                {
                    let space = space.borrow();
                    slot.resumed(mark, space.head().lsn);
                    slot.resumed_at = Some(now.instant);
                    if space.is_close(mark.lsn, now) {
                        slot.note_close(now);
                    }
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
        self.note_followed(handle);
        self.retain_soon(handle);
        for job in jobs {
            self.job(job);
        }
        if disputes {
            self.settle_disputes(now, handle);
        }
        for (index, at, why) in gone {
            self.begin_seed(now, index, handle, at, &why);
        }
    }

    pub(super) fn link_down(&mut self, index: usize, why: String) {
        let (instant, jitter) = (self.now().instant, self.jitter.draw());
        let ends = self.stopping.is_some();
        if let Some(link) = self.links.get_mut(index) {
            // As this node ends, that a connection does is no news.
            if ends {
                link.end(instant);
            } else {
                link.down(instant, why, jitter);
            }
        }
    }

    pub(super) fn drive_links(&mut self) {
        for index in std::mem::take(&mut self.busy_links) {
            self.drive_link(index);
        }
    }

    pub(super) fn drive_link(&mut self, index: usize) {
        let now = self.now();
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        match &link.state {
            State::Waiting(at) if *at <= now.instant && self.stopping.is_none() => {
                let address = link.address;
                let attempt = Token(self.next_token);
                link.state = State::Connecting(now.instant + CONNECT_TIMEOUT, attempt);
                self.submit(Pending::Connect(index, serial), Op::Connect { address });
                return;
            }
            State::Connecting(at, token) if *at <= now.instant => {
                let (address, token) = (link.address, *token);
                // The kernel would go on trying for two minutes.
                self.backend.cancel(token);
                self.link_down(
                    index,
                    format!("no connection to {address} within {CONNECT_TIMEOUT:?}"),
                );
                return;
            }
            State::Waiting(_) | State::Connecting(..) => return,
            State::Up(_) => {}
        }
        self.link_timers(now, index);
        self.link_frames(now, index);
        self.link_events(now, index);
        self.link_transmit(now, index);
    }

    pub(super) fn link_timers(&mut self, now: Now, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.mind_age(now.instant);
        let mut due = Vec::new();
        while let Some((at, handle)) = link.retries.first().copied()
            && at <= now.instant
        {
            link.retries.pop_first();
            due.push(Handle(u32::try_from(handle).unwrap_or(u32::MAX - 1)));
        }
        let State::Up(up) = &mut link.state else { return };
        link.held.retain(|handle, until| {
            let held = *until > now.instant;
            if !held {
                up.sender.handle_head(now, *handle);
            }
            held
        });
        if up.closing.is_some_and(|at| at <= now.instant) {
            // Not even the last words were taken.
            let why = link.problem.clone().unwrap_or_else(|| "closed".into());
            return self.link_down(index, why);
        }
        if up.taking.is_over(now.instant) {
            return self.link_down(index, "the replica does not take what it is sent".into());
        }
        if up.receiving && up.giving.is_over(now.instant) {
            let why = "no whole answer comes from the replica: it hangs, or the link is slower than \
                       any that carries a log";
            return self.link_down(index, why.into());
        }
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
    pub(super) fn link_frames(&mut self, now: Now, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        let Some(up) = link.up() else { return };
        while !up.receiving && up.closing.is_none() {
            match up.inbox.step() {
                Ok(Step::Header(header)) if header.kind == Kind::Data => {
                    self.link_down(
                        index,
                        "the replica sends data, which only a primary does".into(),
                    );
                    return;
                }
                Ok(Step::Header(header)) => {
                    up.giving.begin(now.instant, header.payload_bytes.into());
                }
                Ok(Step::Frame(header, range, _)) => {
                    up.giving.end();
                    let body = up.inbox.payload(range);
                    up.sender.handle_frame(now, &header, body);
                }
                Ok(Step::Receive { slab, low_water, most }) => {
                    up.receiving = true;
                    up.giving.go_on(now.instant, 0);
                    let socket = up.socket.clone();
                    self.submit(
                        Pending::LinkReceive(index, serial),
                        Op::Receive { socket, slab, low_water, most },
                    );
                    return;
                }
                Ok(Step::Starved) => return,
                Err(error) if error.is_damage(up.established) => {
                    let why = format!("a frame from the replica came damaged: {error}");
                    return self.link_corrupted(now, index, why);
                }
                Err(error) => {
                    self.link_down(index, format!("what the replica sends is no frame: {error}"));
                    return;
                }
            }
        }
    }

    pub(super) fn link_events(&mut self, now: Now, index: usize) {
        loop {
            let Some(link) = self.links.get_mut(index) else { return };
            let Some(event) = link.up().and_then(|up| up.sender.poll_event()) else { return };
            match event {
                Event::Established { peer } => self.link_established(now, index, &peer),
                Event::Resume { handle, at, standing } => {
                    let slot = link.slot(handle.0 as usize);
                    (slot.resume, slot.stands) = (Some(at), standing.flushed);
                    (slot.stands_with, slot.stands_in) = (standing.chain, standing.runs);
                    slot.farthest = slot.farthest.max(Some(at));
                    self.head_moved(now, handle);
                    self.probed(now, index, handle);
                }
                Event::Diverged { handle, common, standing, .. } => {
                    let dispute = Dispute { common, standing, looked: false };
                    link.slot(handle.0 as usize).dispute = Some(dispute);
                    self.settle_disputes(now, handle);
                }
                Event::Fenced { handle, highest } => self.fence(now, handle, highest),
                Event::Acked { handle, ack, flushed } => {
                    let slot = link.slot(handle.0 as usize);
                    slot.acked(ack, flushed);
                    if let Some(mark) = flushed {
                        slot.note_latency(now, &mark);
                        let space = self.spaces.get(handle);
                        if space.is_some_and(|space| space.borrow().is_close(mark.lsn, now)) {
                            slot.note_close(now);
                        }
                        link.proven();
                        self.forget(handle);
                    }
                }
                Event::Stopped { handle, code, mut reason, retry } => {
                    if code == ErrorCode::Fenced
                        && let Some(space) = self.spaces.get(handle)
                        && space.borrow().is_fenced()
                    {
                        let space = space.borrow();
                        reason = fenced(space.epoch(), space.highest_epoch());
                    }
                    link.stopped(handle.0 as usize, now.instant, code, reason, retry);
                    // A replica that refuses one space by name does its work.
                    self.probed(now, index, handle);
                }
                Event::Damaged { handle, at, reason } => {
                    self.suspect(index, handle, at, reason);
                    self.probed(now, index, handle);
                }
                Event::Fetch { handle, fetch } => self.serve_link(index, handle, fetch),
                Event::Fetched { handle, fetched } => {
                    if let Some(answer) = link.slot(handle.0 as usize).asked.take()
                        && !fetched.bytes.is_empty()
                    {
                        // Who asked may have given up.
                        let _ = answer.send(fetched.bytes);
                    }
                }
                Event::Closed { code, reason, retry } => {
                    if retry {
                        link.problem = Some(reason.clone());
                    } else {
                        link.refuse(reason.clone());
                    }
                    if code == ErrorCode::Corrupt {
                        link.corrupted();
                    }
                    let Some(up) = link.up() else { return };
                    if up.sending && code == ErrorCode::Timeout {
                        // Whoever takes nothing takes no last words either.
                        return self.link_down(index, reason);
                    }
                    up.closing.get_or_insert(now.instant + FAREWELL_TIMEOUT);
                }
            }
        }
    }

    pub(super) fn link_established(&mut self, now: Now, index: usize, peer: &Identity) {
        let Some(link) = self.links.get_mut(index) else { return };
        if peer.node != link.replica {
            let why = format!(
                "{} answers as {}, and the configuration calls it {}",
                link.address, peer.node, link.replica
            );
            link.refuse(why.clone());
            self.link_down(index, why);
            return;
        }
        let probe = link.established(now.instant);
        let Some(up) = link.up() else { return };
        if probe {
            return self.spaces.probe(now, up, None);
        }
        for space in &self.spaces.list {
            let space = space.borrow();
            if let Some(open) = space.open() {
                up.sender.open_space(now, space.handle, open);
            }
        }
    }

    /// The replica has answered for a space. If that was the one by which it
    /// was to prove itself, all others are opened too.
    fn probed(&mut self, now: Now, index: usize, handle: Handle) {
        let Some(up) = self.links.get_mut(index).and_then(Link::up) else { return };
        if up.probe != Some(handle) {
            return;
        }
        up.probe = None;
        for space in &self.spaces.list {
            let space = space.borrow();
            if let Some(open) = space.open().filter(|_| space.handle != handle) {
                up.sender.open_space(now, space.handle, open);
            }
        }
    }

    /// Boundaries that every replica has passed are needed no more.
    pub(super) fn forget(&mut self, handle: Handle) {
        let lowest = self.lowest(handle);
        if let Some(space) = self.spaces.get(handle) {
            space.borrow_mut().forget_before(lowest);
        }
        self.retain_soon(handle);
    }

    pub(super) fn link_transmit(&mut self, now: Now, index: usize) {
        let strategy = self.setup.strategy;
        let Some(link) = self.links.get_mut(index) else { return };
        let serial = link.serial;
        let State::Up(up) = &mut link.state else { return };
        if up.sending {
            return;
        }
        let socket = up.socket.clone();
        let limit = self.setup.seed_bytes_per_second;
        let streams = Held { spaces: &self.spaces, held: &link.held, slots: &link.slots, limit };
        let Some(transmit) = up.sender.poll_transmit(now, &streams) else {
            if up.closing.is_some() {
                let why = link.problem.clone().unwrap_or_else(|| "closed".into());
                self.link_down(index, why);
            }
            return;
        };
        up.sending = true;
        match transmit {
            Transmit::Control(bytes) => {
                up.taking.begin(now.instant, bytes.len() as u64);
                self.submit(Pending::LinkSend(index, serial), Op::Send { socket, bytes });
            }
            Transmit::Data { handle, header, ordinal, start, bytes } => {
                up.taking.begin(now.instant, bytes.into());
                let end = start.advance(u64::from(bytes));
                // Records that may have no checksums of their own never go
                // without one of the frame's.
                let sealed = self.setup.checksums == Checksums::Required;
                let source = (self.spaces.get(handle))
                    .and_then(|space| space.borrow_mut().source(ordinal, start, bytes, strategy))
                    .filter(|source| sealed || source.mapped.is_some());
                let Some(source) = source else {
                    // Nothing of the frame was sent: the other spaces go on.
                    up.sending = false;
                    up.taking.end();
                    let why = format!("the bytes at {start} are no longer readable");
                    refuse(now, link, handle, ErrorCode::Storage, why);
                    self.busy_links.insert(index);
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
                if let Some(until) = slot.pay(now.instant, self.setup.seed_bytes_per_second, bytes)
                {
                    link.held.insert(handle, until);
                }
                self.submit(
                    Pending::LinkData(index, serial, handle, bytes),
                    Op::Transmit { socket, header, source, strategy },
                );
            }
        }
    }

    pub(super) fn link_sent(
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
                    up.taking.end();
                }
            }
            Err(error) => self.link_down(index, format!("sending failed: {error}")),
        }
    }

    pub(super) fn connected(
        &mut self,
        now: Now,
        index: usize,
        serial: u32,
        result: std::io::Result<Outcome>,
    ) {
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
                    sender: Sender::new(now, self.setup.me.clone(), shard, self.setup.batch),
                    inbox: Inbox::new(SlabPool::new(2, CONTROL_SLAB_BYTES)),
                    receiving: false,
                    sending: false,
                    established: false,
                    closing: None,
                    probe: None,
                    giving: Patience::default(),
                    taking: Patience::default(),
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
}
