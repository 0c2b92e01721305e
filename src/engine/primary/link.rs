//! One connection to one replica, from the first attempt to the last byte.
//!
//! ```text
//!   Waiting --due--> Connecting --connected--> Up --error, silence--> Waiting
//!      ^                  |                                              |
//!      +---- refused -----+------ 100 ms, 1 s, 10 s, 60 s, jittered -----+
//! ```
//!
//! That a connection can be made proves little: a replica may crash, or hang,
//! at the first record each time. So the pauses go on growing until one is
//! *proven*: something was made durable over it, or it has lasted. After
//! [`DEGRADED_AFTER`] failures in a row the next one is a probe: a single space
//! is opened, and all others only when the replica has answered for that one. If
//! that space is stopped at this end first, another takes its place.
//!
//! What is known of the replica (its slots) outlives the connection: status
//! and lag go on while it is down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::slot::Slot;
use crate::engine::inbox::Inbox;
use crate::engine::patience::Patience;
use crate::ids::NodeId;
use crate::io::{Slab, Socket, Token};
use crate::limits::{DEGRADED_AFTER, PEER_TIMEOUT, RECONNECT_DELAYS, SPACE_RETRY_DELAY};
use crate::protocol::frame::Handle;
use crate::protocol::message::ErrorCode;
use crate::protocol::sender::Sender;

/// Where the connection stands.
#[derive(Debug)]
pub enum State {
    /// Down until then.
    Waiting(Instant),
    /// Being made; given up then. The token names the attempt.
    Connecting(Instant, Token),
    /// Made.
    Up(Box<Up>),
}

/// A connection that has been made.
#[derive(Debug)]
pub struct Up {
    /// It.
    pub socket: Arc<Socket>,
    /// The machine.
    pub sender: Sender,
    /// Where the replica's frames come together.
    pub inbox: Inbox,
    /// A `Receive` is in flight.
    pub receiving: bool,
    /// A `Send` or `Transmit` is in flight.
    pub sending: bool,
    /// The handshake is done.
    pub established: bool,
    /// Nothing more will be done but sending what is left, until then.
    pub closing: Option<Instant>,
    /// The one space that was opened so far, while the replica has to prove
    /// itself.
    pub probe: Option<Handle>,
    /// For the frame that the replica sends.
    pub giving: Patience,
    /// For the frame that the replica takes.
    pub taking: Patience,
}

/// One replica, as one shard sees it.
#[derive(Debug)]
pub struct Link {
    /// The replica's name.
    pub replica: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the connection stands.
    pub state: State,
    /// Distinguishes this connection's operations from the last one's.
    pub serial: u32,
    /// By handle.
    pub slots: Vec<Slot>,
    /// Spaces to ask for again, and when.
    pub retries: BTreeSet<(Instant, usize)>,
    /// Spaces that have sent their share, and until when they wait.
    pub held: BTreeMap<Handle, Instant>,
    /// The most bytes a second that this connection was seen to carry while a
    /// replica was far behind.
    pub capacity: Option<f64>,
    /// Failures in a row, none of which was of a connection that was proven.
    pub failures: u32,
    /// Since when it is as it is: made, or not.
    pub since: Instant,
    /// Why it is down, in a sentence.
    pub problem: Option<String>,
    /// It was reached, and is not who may receive here, or will not receive
    /// from here: a person must change something. Tried on all the same.
    pub refused: bool,
    /// When a frame last came.
    pub heard_at: Option<Instant>,
    /// Frames, either way, that came damaged since the process started.
    pub corrupt_frames: u64,
    /// The connection ends because of one.
    is_corrupted: bool,
}

impl Link {
    /// A replica that is to be connected to at once.
    #[must_use]
    pub fn new(replica: NodeId, address: SocketAddr, now: Instant) -> Self {
        Self {
            replica,
            address,
            state: State::Waiting(now),
            serial: 0,
            slots: Vec::new(),
            retries: BTreeSet::new(),
            held: BTreeMap::new(),
            capacity: None,
            failures: 0,
            since: now,
            problem: None,
            refused: false,
            heard_at: None,
            corrupt_frames: 0,
            is_corrupted: false,
        }
    }

    /// Attempt after attempt has failed.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.failures >= DEGRADED_AFTER
    }

    /// The handshake is done. Whether the replica has to prove itself.
    pub fn established(&mut self, now: Instant) -> bool {
        let down = now.duration_since(self.since);
        let (replica, address) = (&self.replica, &self.address);
        if self.failures > 0 {
            tracing::info!(%replica, %address, failures = self.failures, "connected after {down:.1?}");
        } else {
            tracing::info!(%replica, %address, "connected");
        }
        self.since = now;
        self.problem = None;
        self.refused = false;
        if let Some(up) = self.up() {
            up.established = true;
        }
        self.is_degraded()
    }

    /// What answers there will not do, whatever is tried. The same answer again
    /// is no news.
    pub fn refuse(&mut self, why: String) {
        if self.problem.as_ref() != Some(&why) {
            let (replica, address) = (&self.replica, &self.address);
            tracing::error!(%replica, %address, "{why}");
        }
        self.problem = Some(why);
        self.refused = true;
    }

    /// The connection has proven itself.
    pub fn proven(&mut self) {
        self.failures = 0;
    }

    /// It has lasted, which proves it too.
    pub fn mind_age(&mut self, now: Instant) {
        let lasts = now.duration_since(self.since) >= PEER_TIMEOUT;
        if lasts && self.failures > 0 && self.up().is_some_and(|up| up.established) {
            self.proven();
        }
    }

    /// So many bytes a second were made durable over it, of a space that is far
    /// behind. One that stood still says nothing of the way there, nor does one
    /// that shared it with others: what counts is the most.
    pub fn carried(&mut self, rate: f64) {
        if rate > 0.0 {
            self.capacity = Some(self.capacity.map_or(rate, |most| most.max(rate)));
        }
    }

    /// When the next attempt is made, from now on; nothing while it is made
    /// or under way.
    #[must_use]
    pub fn next_attempt(&self, now: Instant) -> Option<Duration> {
        match &self.state {
            State::Waiting(at) => Some(at.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// The slot of a space, made if need be.
    pub fn slot(&mut self, handle: usize) -> &mut Slot {
        if handle >= self.slots.len() {
            self.slots.resize_with(handle + 1, Slot::default);
        }
        &mut self.slots[handle]
    }

    /// The connection, if it is made.
    pub fn up(&mut self) -> Option<&mut Up> {
        match &mut self.state {
            State::Up(up) => Some(up),
            _ => None,
        }
    }

    /// The connection failed or ended: wait before the next attempt. `jitter`
    /// (0 to 1) spreads the attempts of many.
    pub fn down(&mut self, now: Instant, why: String, jitter: f64) {
        // Nobody answers any more: who did is no longer what is wrong.
        self.refused &= matches!(self.state, State::Up(_));
        if self.hang_up(now) {
            self.since = now;
        }
        let delay = |index: u32| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            RECONNECT_DELAYS[index.min(RECONNECT_DELAYS.len() - 1)]
        };
        // A bit that flipped once is no reason to wait.
        let pause = match (std::mem::take(&mut self.is_corrupted), self.failures) {
            (false, failures) => delay(failures),
            (true, 0) => Duration::ZERO,
            (true, failures) => delay(failures - 1),
        };
        let pause = pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        // The same failure again is no news.
        if self.problem.as_ref() != Some(&why) {
            tracing::warn!(replica = %self.replica, address = %self.address, "{why}; next attempt in {pause:.1?}");
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures == DEGRADED_AFTER && !self.refused {
            tracing::warn!(
                replica = %self.replica,
                address = %self.address,
                "degraded: {DEGRADED_AFTER} attempts in a row have failed; trying on with growing \
                 pauses, and with a single space first"
            );
        }
        self.problem = Some(why);
        self.state = State::Waiting(now + pause);
    }

    /// Let go of the connection for good, as this node ends.
    pub fn end(&mut self, now: Instant) {
        self.hang_up(now);
        self.state = State::Waiting(now);
    }

    /// End what is in flight. True if the handshake had been done.
    fn hang_up(&mut self, now: Instant) -> bool {
        let established = match &self.state {
            State::Up(up) => {
                // Already closed is as good.
                let _ = up.socket.shutdown(std::net::Shutdown::Both);
                up.established
            }
            _ => false,
        };
        self.serial = self.serial.wrapping_add(1);
        self.retries.clear();
        // The next one may go another way.
        self.capacity = None;
        for slot in &mut self.slots {
            slot.ended(now);
        }
        established
    }

    /// A frame came damaged, here or there, and the connection ends for it.
    pub fn corrupted(&mut self) {
        self.corrupt_frames += 1;
        self.is_corrupted = true;
    }

    /// A space was stopped on this connection.
    pub fn stopped(
        &mut self,
        handle: usize,
        now: Instant,
        code: ErrorCode,
        reason: String,
        retry: bool,
    ) {
        let replica = self.replica.clone();
        let slot = self.slot(handle);
        slot.ended(now);
        slot.failed = !retry;
        if !retry {
            tracing::error!(%replica, ?code, "stopped: {reason}");
        }
        slot.problem = Some(reason);
        if retry {
            let pause = SPACE_RETRY_DELAY.saturating_mul(1 << slot.stops.min(8));
            slot.stops += 1;
            self.retries.insert((now + pause, handle));
        }
    }

    /// The space is asked for now: no attempt is due any more.
    pub fn asked(&mut self, handle: usize) {
        self.retries.retain(|(_, waiting)| *waiting != handle);
    }

    /// When something is due here.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(at) | State::Connecting(at, _) => Some(*at),
            State::Up(up) if up.closing.is_some() => up.closing,
            State::Up(up) => {
                let retry = self.retries.first().map(|(at, _)| *at);
                let held = self.held.values().min().copied();
                let patience = [up.giving.until(), up.taking.until()];
                let timers = [up.sender.next_timeout(), retry, held];
                timers.into_iter().chain(patience).flatten().min()
            }
        }
    }
}

/// The receiving side of [`Up`], while its slab is with the backend.
impl Up {
    /// The slab is back.
    pub fn received(&mut self, slab: Slab) {
        self.receiving = false;
        self.inbox.received(slab);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lsn::{Lsn, Mark};

    /// A replica that was far behind and did nothing for half a minute gave a
    /// rate of zero, and a slow one the rate of its disk: the next one was not
    /// filled anew for that.
    #[test]
    fn what_a_connection_carries_is_the_most_that_it_was_seen_to_carry() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut link = Link::new("replica".parse().unwrap(), address, Instant::now());
        link.carried(0.0);
        assert_eq!(link.capacity, None, "nothing has moved");
        link.carried(100.0);
        link.carried(20.0);
        assert_eq!(link.capacity, Some(100.0));
        link.down(Instant::now(), "broken".into(), 0.0);
        assert_eq!(link.capacity, None, "the next one is not known yet");
    }

    /// Nothing is written to an idle space, so nothing made durable tells that
    /// the replica is well again.
    #[test]
    fn a_replica_that_goes_on_is_degraded_until_it_lacks_nothing_and_again_if_it_flaps() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut link = Link::new("replica".parse().unwrap(), ([127, 0, 0, 1], 1).into(), start);
        let stop = |link: &mut Link, now| {
            link.stopped(0, now, ErrorCode::Storage, "broken".into(), true);
        };
        let go_on = |link: &mut Link, now| {
            link.slot(0).resumed(Mark::START, Lsn::ZERO);
            link.slot(0).resumed_at = Some(now);
        };
        for _ in 0..DEGRADED_AFTER {
            assert!(!link.slot(0).is_degraded(false, start));
            stop(&mut link, start);
        }
        assert!(link.slot(0).is_degraded(false, start) && link.slot(0).is_degraded(true, start));
        go_on(&mut link, after(1));
        assert!(!link.slot(0).is_degraded(true, after(1)), "it has all there is");
        assert!(link.slot(0).is_degraded(false, after(1)), "it may stop at what comes next");
        stop(&mut link, after(2));
        assert!(link.slot(0).is_degraded(true, after(2)), "it flaps");
        go_on(&mut link, after(3));
        assert!(!link.slot(0).is_degraded(false, after(13)), "it has lasted");
        stop(&mut link, after(13));
        assert_eq!(link.slot(0).stops, 1, "and what comes then is a first time");
        assert!(!link.slot(0).is_degraded(false, after(13)));
    }

    /// The pause after the connection has failed, to the nanosecond.
    fn pause(link: &mut Link, jitter: f64) -> Duration {
        let now = Instant::now();
        link.down(now, "broken".into(), jitter);
        match link.state {
            State::Waiting(at) => at - now,
            _ => panic!("it is not down"),
        }
    }

    fn unconnected() -> Link {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Link::new("replica".parse().unwrap(), address, Instant::now())
    }

    #[test]
    fn pauses_grow_to_a_minute_and_stay_there_until_the_connection_is_proven() {
        let mut link = unconnected();
        assert_eq!(link.next_attempt(Instant::now()), Some(Duration::ZERO), "the first is at once");
        for expected in [100, 1000, 10_000, 60_000, 60_000, 60_000] {
            assert_eq!(pause(&mut link, 1.0), Duration::from_millis(expected));
        }
        // Made, and broken again before anything was durable over it.
        link.established(Instant::now());
        assert_eq!(pause(&mut link, 1.0), Duration::from_secs(60));
        link.proven();
        assert_eq!(pause(&mut link, 1.0), Duration::from_millis(100));
        link.failures = u32::MAX;
        assert_eq!(pause(&mut link, 1.0), Duration::from_secs(60), "and never wraps");
        assert_eq!(link.failures, u32::MAX);
    }

    #[test]
    fn a_pause_is_at_least_half_as_long_as_it_may_be() {
        for (jitter, percent) in [(0.0, 50), (0.5, 75), (1.0, 100), (-1.0, 50), (2.0, 100)] {
            let mut link = unconnected();
            for longest in RECONNECT_DELAYS {
                let expected = longest * percent / 100;
                assert_eq!(pause(&mut link, jitter), expected, "{jitter} of {longest:?}");
            }
        }
    }

    #[test]
    fn three_failures_in_a_row_degrade_a_connection_until_it_is_proven() {
        let mut link = unconnected();
        for failures in 1..=3 {
            assert!(!link.is_degraded(), "after {} failures", failures - 1);
            pause(&mut link, 0.5);
        }
        assert!(link.is_degraded());
        assert!(link.established(Instant::now()), "a handshake is no proof: it is probed");
        assert!(link.is_degraded());
        link.proven();
        assert!(!link.is_degraded());
        assert!(!link.established(Instant::now()), "and then it is not");
    }

    #[test]
    fn after_a_first_damaged_frame_the_connection_is_renewed_at_once() {
        let mut link = unconnected();
        for expected in [0, 100, 1000, 10_000, 60_000, 60_000] {
            link.corrupted();
            assert_eq!(pause(&mut link, 1.0), Duration::from_millis(expected));
        }
        // Progress: the next one is a first one again.
        link.failures = 0;
        link.corrupted();
        assert!(pause(&mut link, 1.0).is_zero());
        assert_eq!(link.corrupt_frames, 7);
    }
}
