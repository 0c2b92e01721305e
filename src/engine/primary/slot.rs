//! What a primary remembers of one replica for one space.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::retention::Base;
use super::space::Turned;
use super::throttle::Throttle;
use crate::engine::keeper::retention::SlotView;
use crate::engine::latency::Latencies;
use crate::engine::rate::Rate;
use crate::io::Strategy;
use crate::limits::{DEGRADED_AFTER, PEER_TIMEOUT};
use crate::lsn::{Chain, Lsn, Mark};
use crate::protocol::Now;
use crate::protocol::message::{Ack, Retirement, Standing};
use crate::state::slots::{SlotRecord, SlotState};

/// One of them. Outlives the connection, and by the catalog the process.
#[derive(Debug, Default)]
pub struct Slot {
    /// The space is being shipped on the present connection.
    pub streaming: bool,
    /// Its positions, as last acknowledged.
    pub ack: Ack,
    /// What is known at the flushed position.
    pub flushed: Mark,
    /// How far it has been sent.
    pub sent: Lsn,
    /// It was heard of since this process started.
    pub known: bool,
    /// What it has made durable is of this stream: it was found there since this
    /// process started, by the replica or by the walk. Nothing if nobody has looked.
    pub met: Option<bool>,
    /// Its positions were told on the present connection: what it held before
    /// that, it may have lost.
    pub confirmed: bool,
    /// When the replica, on the present connection, was first heard to be
    /// close behind; ns since the Unix epoch. A record that was written before
    /// that is old news: how long it took says nothing of this connection.
    pub close_since: Option<u64>,
    /// From a record's timestamp to its flushed acknowledgement, of records
    /// written since then. Made with the first one.
    pub latency: Option<Latencies>,
    /// Bytes by the strategy that moved them.
    pub sent_bytes: HashMap<Strategy, u64>,
    /// Why it is not shipped.
    pub problem: Option<String>,
    /// It will not go on without a person.
    pub failed: bool,
    /// How often in a row it was stopped and asked for again.
    pub stops: u32,
    /// When it was last gone on with.
    pub resumed_at: Option<Instant>,
    /// The replica's position that waits for the walk to get there.
    pub resume: Option<Lsn>,
    /// The farthest position at which it ever said to stand in this epoch,
    /// whether or not this node could go on there.
    pub farthest: Option<Lsn>,
    /// Where it said it stands.
    pub stands: Lsn,
    /// The chain that it has there.
    pub stands_with: Chain,
    /// The runs that it has up to there.
    pub stands_in: u32,
    /// What the keeper last said of what is kept for it.
    pub view: Option<SlotView>,
    /// How fast its flushed position moves.
    pub rate: Rate,
    /// The seed's bucket, where there is a limit.
    pub throttle: Option<Throttle>,
    /// A seed is being reserved, from there.
    pub reserving: Option<Base>,
    /// Where it is, while a seed from another place is held for it that it has
    /// not accepted.
    before: Option<Box<Reached>>,
    /// Files without a name that it was told of on this connection.
    pub told: BTreeMap<u64, Retirement>,
    /// The version of what there is to tell of them, if it was told all of it.
    pub told_all: Option<u64>,
    /// Who waits for a range that the replica was asked for.
    pub asked: Option<Answer>,
    /// It holds other records, and whose fault that is has to be found out.
    pub dispute: Option<Dispute>,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// What it was sent.
    pub sent: Lsn,
    /// What it has acknowledged.
    pub ack: Ack,
    /// What it has made durable.
    pub flushed: Mark,
}

/// A replica that holds other records where the epochs are the same.
#[derive(Clone, Copy, Debug)]
pub struct Dispute {
    /// The last boundary that both have.
    pub common: Mark,
    /// Where it stands.
    pub standing: Standing,
    /// The source is being walked again for it.
    pub looked: bool,
}

/// Where the bytes of a range go that a peer was asked for. Dropped without
/// them when they cannot be had.
pub type Answer = crossbeam::channel::Sender<Vec<u8>>;

impl Slot {
    /// A slot as the catalog remembers it: where the replica was before this
    /// process started. It is not known to be there now.
    pub fn recall(&mut self, record: &SlotRecord) {
        let at = record.flushed.lsn;
        self.flushed = record.flushed;
        self.met = None;
        self.sent = at;
        self.ack = Ack { received: at, written: at, flushed: at, ..self.ack };
        self.view = Some(SlotView {
            record: *record,
            retained_bytes: 0,
            budget_bytes: None,
            forecast: None,
        });
    }

    /// How far it has come, seen from a record at `at` that nobody may have;
    /// nothing if that is not known. A position that the catalog remembers may be
    /// an old one: it tells what a replica has, and not what it lacks. So does one
    /// that it was sent more behind: what was on its way when a connection ended
    /// may have come.
    #[must_use]
    pub fn has(&self, at: Lsn) -> Option<Lsn> {
        // Bytes in its memory become durable as soon as it can.
        let acked = self.ack.received.max(self.flushed.lsn);
        let acked = Some(acked).filter(|acked| self.known || *acked > at);
        // Where nothing can be shipped, nothing is acknowledged.
        let has = acked.max(self.farthest);
        has.filter(|has| *has > at || self.sent <= at)
    }

    /// It is being filled anew.
    #[must_use]
    pub fn is_seeding(&self) -> bool {
        self.view.is_some_and(|view| view.record.state == SlotState::Seeding)
    }

    /// How far it is. From the reservation of a seed on, its positions here are
    /// those that the seed begins with, and until it has accepted the seed it
    /// has nothing of that.
    #[must_use]
    pub fn reached(&self) -> Reached {
        let here = Reached { sent: self.sent, ack: self.ack, flushed: self.flushed };
        self.before.as_deref().copied().unwrap_or(here)
    }

    /// What it has made durable, if anything is kept for it. One that is shipped
    /// to again needs what comes next, also before its slot retains again.
    #[must_use]
    pub fn needs(&self) -> Option<Lsn> {
        (self.streaming || !self.is_lost()).then_some(self.flushed.lsn)
    }

    /// Everything from `base` on is held for it: before that is durable no pin
    /// of it may go.
    pub fn reserve(&mut self, base: Base, target: Lsn) {
        self.before = Some(Box::new(self.reached()));
        let record = SlotRecord {
            state: SlotState::Seeding,
            flushed: base.mark,
            doubted: None,
            base: base.mark.lsn,
            target,
            ..self.view.map(|view| view.record).unwrap_or_default()
        };
        let known = self.known;
        self.recall(&record);
        // Of what lies before the base it needs nothing.
        (self.known, self.met) = (known, Some(true));
        self.reserving = Some(base);
    }

    /// The most bytes of one frame: that of a slow seed lasts a tenth of a
    /// second.
    #[must_use]
    pub fn frame_bytes(&self, limit: Option<u64>, most: u32) -> u32 {
        let seed = self.view.map(|view| view.record).filter(|_| self.is_seeding());
        match limit.filter(|_| seed.is_some_and(|seed| self.sent < seed.target)) {
            Some(limit) => u32::try_from(limit / 10).unwrap_or(most).min(most),
            None => most,
        }
    }

    /// A frame of a seed is sent: until when the next one waits, if it must.
    pub fn pay(&mut self, now: Instant, limit: Option<u64>, bytes: u32) -> Option<Instant> {
        let seed = self.view.map(|view| view.record).filter(|_| self.is_seeding());
        let limit = limit.filter(|_| seed.is_some_and(|seed| self.sent < seed.target))?;
        let throttle = self.throttle.get_or_insert_with(|| Throttle::new(limit, now));
        Some(throttle.sent(now, bytes)).filter(|until| *until > now)
    }

    /// Shipping has gone on for as long as proves that it does, also of a space
    /// in which nothing is written.
    #[must_use]
    pub fn has_lasted(&self, now: Instant) -> bool {
        let since = self.resumed_at.filter(|_| self.streaming);
        since.is_some_and(|since| now.duration_since(since) >= PEER_TIMEOUT)
    }

    /// It was stopped time and again. Of one that is being shipped again this is
    /// over when there is nothing that it lacks, or when it has lasted; the count
    /// goes on until something proves it, so that one which stops again a moment
    /// later is degraded again at once.
    #[must_use]
    pub fn is_degraded(&self, lacks_nothing: bool, now: Instant) -> bool {
        let well = self.streaming && lacks_nothing || self.has_lasted(now);
        self.stops >= DEGRADED_AFTER && !well
    }

    /// Its budget was spent: nothing is kept for it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.view.is_some_and(|view| !view.record.retains())
    }

    /// Shipping goes on at `mark`, which the replica has flushed; the stream's
    /// head is at `head`. A problem is over when the replica has come further
    /// than it was, or needs nothing more.
    pub fn resumed(&mut self, mark: Mark, head: Lsn) {
        if mark.lsn > self.flushed.lsn || mark.lsn >= head {
            self.problem = None;
        }
        self.failed = false;
        self.before = None;
        // One that has all of it is shipped to as well: it is told what goes.
        self.streaming = true;
        (self.known, self.confirmed, self.met) = (true, true, Some(true));
        self.told.clear();
        self.told_all = None;
        self.sent = mark.lsn;
        self.flushed = mark;
        self.ack = Ack {
            received: mark.lsn,
            written: mark.lsn,
            flushed: mark.lsn,
            sequence: mark.sequence,
            chain: mark.chain,
            ..self.ack
        };
    }

    /// The stream was cut in a new epoch: positions behind it mean something else now,
    /// and those behind what is sure may.
    pub fn cut(&mut self, turned: Turned) {
        let Turned { at, sure } = turned;
        self.streaming = false;
        self.known = false;
        (self.resume, self.dispute, self.reserving) = (None, None, None);
        (self.farthest, self.before) = (None, None);
        self.told.clear();
        self.told_all = None;
        if let Some(view) = &mut self.view {
            view.record.cut(at, sure);
        }
        self.sent = self.sent.min(at.lsn);
        if sure < at.lsn && self.flushed.lsn > sure {
            // That it was met before tells nothing of what stands there now.
            self.met = self.met.filter(|met| !met);
        }
        if self.flushed.lsn > at.lsn {
            // The boundary is the primary's own, and tells nothing of the replica.
            self.met = self.met.or(Some(false));
            self.flushed = at;
            self.ack = Ack {
                received: at.lsn,
                written: at.lsn,
                flushed: at.lsn,
                sequence: at.sequence,
                chain: at.chain,
                applied: self.ack.applied.min(at.lsn),
            };
        }
    }

    /// It is close behind, as of now.
    pub fn note_close(&mut self, now: Now) {
        self.close_since.get_or_insert(now.unix_ns);
    }

    /// It has made a record durable.
    pub fn note_latency(&mut self, now: Now, mark: &Mark) {
        let written = mark.timestamp_ns;
        if self.close_since.is_some_and(|since| (since..=now.unix_ns).contains(&written)) {
            let latency = self.latency.get_or_insert_with(|| Latencies::new(now.instant));
            latency.record(now.instant, (now.unix_ns - written) / 1000);
        }
    }

    /// Shipping has ended, with the connection or without.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.has_lasted(now) {
            self.stops = 0;
        }
        self.forget_connection();
    }

    /// Nothing that was told on the connection holds any longer.
    fn forget_connection(&mut self) {
        (self.streaming, self.confirmed, self.close_since) = (false, false, None);
        (self.resume, self.dispute, self.reserving) = (None, None, None);
        self.asked = None;
    }

    /// The replica has acknowledged something.
    pub fn acked(&mut self, ack: Ack, flushed: Option<Mark>) {
        self.ack = ack;
        (self.known, self.confirmed, self.met) = (true, true, Some(true));
        if let Some(mark) = flushed {
            self.flushed = mark;
            self.stops = 0;
            self.problem = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(lsn: u64) -> Mark {
        Mark { lsn: Lsn(lsn), ..Mark::START }
    }

    /// What it read was let go under it.
    #[test]
    fn what_a_replica_reads_whose_slot_was_lost_is_held_for_it() {
        let lost = SlotRecord { state: SlotState::Lost, flushed: mark(10), ..Default::default() };
        let mut slot = Slot::default();
        slot.recall(&lost);
        assert_eq!(slot.needs(), None);
        slot.resumed(mark(10), Lsn(100));
        assert!(slot.is_lost(), "the keeper has not said anything yet");
        assert_eq!(slot.needs(), Some(Lsn(10)));
    }

    #[test]
    fn what_was_on_its_way_to_a_replica_it_may_have() {
        let mut slot = Slot { flushed: mark(500), ..Slot::default() };
        assert_eq!((slot.has(Lsn(100)), slot.has(Lsn(700))), (Some(Lsn(500)), None));
        slot.resumed(mark(500), Lsn(1000));
        assert_eq!(slot.has(Lsn(700)), Some(Lsn(500)));
        slot.sent = Lsn(800);
        slot.forget_connection();
        assert_eq!(slot.has(Lsn(700)), None, "its acknowledgement may have been lost");
        assert_eq!(slot.has(Lsn(800)), Some(Lsn(500)), "this it was not sent");
        slot.resumed(mark(500), Lsn(1000));
        assert_eq!(slot.has(Lsn(700)), Some(Lsn(500)), "it has said what has come");
        // It was sent something by an earlier process, and stands before it.
        slot = Slot { farthest: Some(Lsn(600)), ..Slot::default() };
        assert_eq!((slot.has(Lsn(500)), slot.has(Lsn(700))), (Some(Lsn(600)), Some(Lsn(600))));
    }

    #[test]
    fn a_replica_is_shown_where_it_was_until_it_has_accepted_its_seed() {
        let mut slot = Slot::default();
        slot.resumed(mark(500), Lsn(1000));
        let before = slot.reached();
        slot.reserve(Base { mark: mark(900), first_run: 3 }, Lsn(1000));
        assert_eq!((slot.reached(), slot.needs()), (before, Some(Lsn(900))));
        slot.forget_connection();
        slot.reserve(Base { mark: mark(950), first_run: 4 }, Lsn(1000));
        assert_eq!(slot.reached(), before, "nor does another attempt move it");
        slot.resumed(mark(950), Lsn(1000));
        assert_eq!(slot.reached().flushed, mark(950));
    }
}
