//! Records of this node's own files that do not hold: shipped up to, and not
//! beyond.
//!
//! A walk by headers does not see a payload that has rotted. The replica does,
//! and says so; the keeper looks at the record, and from then on it stands in
//! the way of every replica that does not have it yet. A replica that got it
//! while it was whole goes on.
//!
//! If the operator says so, such a record is left out:
//!
//! ```text
//!   file     ===|===|#####|===|===>      the record at lsn 900 has rotted
//!   stream   ===|===|                    epoch 1, cut at 900
//!                   |===|===>            epoch 2, a run that begins behind it
//! ```
//!
//! As an epoch it is the same hole for every replica, also one that comes late.
//! But a record that a replica has is not lost, and the stream keeps it: it is
//! left out only once every replica was heard to be without it, or was not
//! heard of for long.

use std::time::{Duration, Instant};

use super::retention::Unresumable;
use super::space::{Space, Turn, Turned};
use crate::engine::keeper::{BadRecord, Job};
use crate::engine::shard::Standing;
use crate::ids::NodeId;
use crate::limits::UNHEARD_GRACE;
use crate::lsn::{Lsn, Mark};
use crate::protocol::Now;
use crate::protocol::sender::Found;
use crate::state::catalog::{Change, Hole, Role};
use crate::state::runs::Run;
use crate::wal::record::RecordError;

/// How long debris must have been the same before it is left out. A write in
/// flight ends within milliseconds; what is left out is never taken back.
const SKIP_DELAY: Duration = Duration::from_secs(3);

/// Bytes in mid-file that are no record, with one behind them: what a write
/// leaves that failed half way.
#[derive(Clone, Debug)]
pub(super) struct Debris {
    from: u64,
    to: u64,
    error: RecordError,
    /// For how long it has been the same: a write in progress can look like it.
    since: Instant,
    /// Why it is not left out, in a sentence.
    kept: Option<String>,
}

/// A record that is not shipped.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) text: String,
    /// The text without what becomes of it.
    what: String,
    bad: BadRecord,
    /// For how long it has been the same.
    since: Instant,
    /// Why it could not be left out.
    refused: Option<String>,
}

/// What a replica is known to have of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The replica.
    pub replica: NodeId,
    /// Up to where it has the stream, in memory at least; nothing if it was
    /// not heard of since this process started.
    pub has: Option<Lsn>,
}

impl Space {
    /// The walk stands before something that is no record.
    pub(super) fn found_debris(
        &mut self,
        now: Instant,
        from: u64,
        resync: Option<u64>,
        error: RecordError,
    ) {
        self.debris = resync.map(|to| match self.debris.take() {
            Some(known) if (known.from, known.to) == (from, to) => known,
            _ => Debris { from, to, error, since: now, kept: None },
        });
    }

    /// What the walk stands before that does not hold, and what becomes of it.
    pub(super) fn damaged(&self) -> Option<String> {
        let what = self.damage.as_ref()?;
        let kept = self.debris.as_ref().and_then(|debris| debris.kept.as_deref());
        let fate = kept.unwrap_or(match (self.skips_damage, &self.debris) {
            (true, Some(_)) => {
                "It is left out once it was the same for a while, if no replica has what was there"
            }
            (true, None) => "It is not left out before a record follows",
            (false, _) => "To leave it out for good: wal.on_corrupt_source = \"skip\"",
        });
        Some(format!("{what}. {fate}"))
    }

    /// Debris stays where it is: why, in a sentence.
    fn keep_debris(&mut self, why: String) {
        let Some(debris) = &mut self.debris else { return };
        if debris.kept.as_ref() != Some(&why) {
            tracing::warn!(space = %self.id, lsn = %self.index.head().lsn, "{why}");
            debris.kept = Some(why);
        }
    }

    /// Something is to be looked at again in a moment.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.debris.is_some() || !self.blocks.is_empty() || self.has_unfinished()
    }

    /// Go on behind debris that has not changed for a while. The run ends
    /// before it, and the next one of the same file begins behind: its bytes
    /// take no part in the stream. Both, and the hole by name, are durable
    /// before anything behind is shipped.
    ///
    /// Where an earlier process may have shipped whole records, it is rot, and
    /// stays until every replica was heard to be without them, or was not heard
    /// of for long.
    pub fn skip_debris(&mut self, now: Now, holders: &[Holder]) -> Vec<Job> {
        let age = |debris: &Debris| now.instant.duration_since(debris.since);
        let ripe = |debris: &Debris| age(debris) >= SKIP_DELAY;
        let Some(debris) = self.debris.clone().filter(ripe) else { return Vec::new() };
        let at = self.index.head();
        if at.lsn < self.head.lsn {
            // It was whole when the stream took it in.
            self.keep_debris(format!(
                "It is not left out, as whole records were there: saltus repair --space {} gets \
                 them back from a replica that has them",
                self.id
            ));
            return Vec::new();
        }
        if self.past.is_unsure(at.lsn) {
            let may_have = |holder: &&Holder| match holder.has {
                Some(has) => has > at.lsn,
                None => age(&debris) < UNHEARD_GRACE,
            };
            if let Some(holder) = holders.iter().find(may_have) {
                let replica = &holder.replica;
                self.keep_debris(if holder.has.is_some() {
                    format!(
                        "It is not left out, as {replica} has what was there: saltus repair \
                         --space {} gets it back",
                        self.id
                    )
                } else {
                    format!(
                        "It is left out when {replica} was heard to be without what was there, or \
                         was not heard of for {} s",
                        UNHEARD_GRACE.as_secs()
                    )
                });
                return Vec::new();
            }
        }
        let Some(present) = self.runs.get(self.ordinal).copied() else { return Vec::new() };
        let stands = present.offset + at.lsn.bytes_since(present.start) == debris.from;
        if !stands || self.ordinal + 1 != self.runs.len() || self.problem.is_some() {
            return Vec::new();
        }
        let run = Run { start: at.lsn, offset: debris.to, bytes: None, ..present };
        let hole = Hole {
            lsn: at.lsn,
            segment: present.segment,
            file: present.file,
            offset: debris.from,
            bytes: debris.to - debris.from,
            unix_ns: now.unix_ns,
            reason: debris.error.to_string(),
        };
        if let Err(error) = self.runs.accepts(&run) {
            self.stop(format!("a hole cannot be recorded: {error}"));
            return Vec::new();
        }
        tracing::error!(
            space = %self.id, segment = %hole.segment, offset = hole.offset, bytes = hole.bytes,
            lsn = %hole.lsn, reason = hole.reason,
            "left out of the stream for good, as wal.on_corrupt_source says"
        );
        self.index.push_boundary();
        self.ordinal = self.runs.open(run);
        (self.cursor, self.damage, self.debris) = (None, None, None);
        if let Some(tracked) = self.files.get_mut(&run.file) {
            tracked.walked = debris.to;
            tracked.touched = true;
            tracked.tail = None;
        }
        self.holes.push(hole.clone());
        let mut turn = Turn::default();
        self.remember(at, &mut turn);
        turn.jobs.push(Job::Commit {
            shard: self.shard,
            ticket: Some(super::run_ticket(self.handle, self.ordinal)),
            space: self.id.clone(),
            change: Change::AddHole { hole, run },
        });
        turn.jobs
    }

    /// What was left out of the stream.
    #[must_use]
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The record at `at` does not hold at rest. With `holders`, the replicas
    /// of the space, it may be left out.
    pub fn block(&mut self, now: Now, at: Lsn, bad: &BadRecord, holders: Option<&[Holder]>) {
        let known = self.blocks.get(&at);
        let (since, refused) = match known.filter(|known| known.bad == *bad) {
            Some(known) => (known.since, known.refused.clone()),
            None => (now.instant, None),
        };
        let age = now.instant.duration_since(since);
        let fate = self.fate(at, bad, holders, age, refused.as_deref());
        let BadRecord { segment, offset, error, .. } = bad;
        let what = format!(
            "{segment} is damaged at offset {offset}, lsn {at}: {error}; nothing from there on is \
             shipped to a replica that does not have it. To mend the file: saltus repair --space \
             {space} gets the bytes from a replica that has them",
            space = self.id
        );
        let text = format!("{what}. {fate}");
        if known.is_none_or(|known| known.text != text) {
            tracing::error!(space = %self.id, "{text}");
        }
        self.blocks.insert(at, Block { text, what, bad: bad.clone(), since, refused });
    }

    /// What becomes of a record that does not hold, in a sentence.
    fn fate(
        &self,
        at: Lsn,
        bad: &BadRecord,
        holders: Option<&[Holder]>,
        age: Duration,
        refused: Option<&str>,
    ) -> String {
        let Some(holders) = holders else {
            return "If none has: wal.on_corrupt_source = \"skip\" leaves it out for good".into();
        };
        if let Some(why) = refused {
            return format!("It cannot be left out: {why}");
        }
        if bad.span.is_none() {
            return "It is not left out, as no record follows by which its end could be told"
                .into();
        }
        if let Some(holder) = holders.iter().find(|holder| holder.has.is_some_and(|has| has > at)) {
            return format!("It is not left out, as {} has it", holder.replica);
        }
        match holders.iter().find(|holder| holder.has.is_none()) {
            Some(holder) if age < UNHEARD_GRACE => format!(
                "It is left out when {} was heard not to have it, or was not heard of for {} s",
                holder.replica,
                UNHEARD_GRACE.as_secs()
            ),
            _ => "It is about to be left out for good".to_owned(),
        }
    }

    /// Where the first record is that does not hold.
    #[must_use]
    pub fn first_block(&self) -> Option<Lsn> {
        self.blocks.keys().next().copied()
    }

    /// Leave the first record that does not hold out of the stream, if nobody
    /// has it and it has been the same for a while: a new epoch begins there.
    pub fn leave_out(&mut self, now: Now, holders: &[Holder], turn: &mut Turn) {
        let Some((at, block)) = self.blocks.first_key_value() else { return };
        let (at, bad, age) = (*at, block.bad.clone(), now.instant.duration_since(block.since));
        let is_lost = holders.iter().all(|holder| match holder.has {
            Some(has) => has <= at,
            None => age >= UNHEARD_GRACE,
        });
        let ripe = age >= SKIP_DELAY && is_lost && bad.span.is_some() && block.refused.is_none();
        if !ripe || self.problem.is_some() || !self.is_settled() {
            return;
        }
        // What lies behind is walked anew; what of it is gone would be missing
        // from the stream without a word.
        match self.ready_from(at, &mut turn.jobs) {
            Ok(true) => {}
            // What cannot be opened now is asked for again.
            Ok(false) | Err(Unresumable::Unreadable(_)) => return,
            Err(Unresumable::Gone(why)) => return self.keep_in(at, why),
        }
        let mark = match self.resume_at(at, &mut turn.jobs) {
            Some(Found::Mark(mark)) => mark,
            Some(Found::Nothing) => return self.keep_in(at, "no record begins there".to_owned()),
            Some(Found::Gone(why) | Found::Unavailable(_, why)) => return self.keep_in(at, why),
            // The walk is on its way.
            None => return,
        };
        self.turn_at(mark);
        let (shard, space, unix_ns) = (self.shard, self.id.clone(), now.unix_ns);
        turn.jobs.push(Job::LeaveOut { shard, space, at: mark, bad, unix_ns });
        turn.turned = Some(Turned { at: mark, sure: mark.lsn });
    }

    /// A record could not be left out: it stands where it is.
    pub fn keep_in(&mut self, at: Lsn, why: String) {
        if let Some(block) = self.blocks.get_mut(&at) {
            tracing::error!(space = %self.id, lsn = %at, "a damaged record cannot be left out: {why}");
            block.text = format!("{}. It cannot be left out: {why}", block.what);
            block.refused = Some(why);
        }
    }

    /// The keeper has not left a record out: the stream is what it was.
    pub fn stay(&mut self, at: Lsn, why: String) {
        self.go_on();
        self.keep_in(at, why);
    }

    /// The record at `at` holds again.
    pub fn unblock(&mut self, at: Lsn) {
        if self.blocks.remove(&at).is_some() {
            tracing::warn!(space = %self.id, lsn = %at, "the record that was damaged is whole again");
        }
    }

    /// Whether the record at `at` is known not to hold.
    #[must_use]
    pub fn is_blocked(&self, at: Lsn) -> bool {
        self.blocks.contains_key(&at)
    }

    /// Whether a record begins there of which a replica may speak.
    #[must_use]
    pub fn begins_record(&self, at: Lsn) -> bool {
        let index = self.index_at(at);
        let within = (index.oldest().lsn..index.head().lsn).contains(&at);
        within && matches!(self.mark_at(at), Some(Found::Mark(_)))
    }

    /// The records that do not hold.
    #[must_use]
    pub fn blocks(&self) -> Vec<Lsn> {
        self.blocks.keys().copied().collect()
    }

    /// How much of `most` bytes from `from` on may be shipped.
    pub(super) fn unblocked(&self, from: Lsn, most: u32) -> u32 {
        let Some((at, _)) = self.blocks.range(from..).next() else { return most };
        u32::try_from(at.bytes_since(from)).map_or(most, |bytes| bytes.min(most))
    }

    /// Where it stands, for a look at what is at rest.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            mark: self.head,
            base: Mark::START,
            runs: self.runs.clone(),
            role: Role::Primary,
            holes: self.holes.clone(),
        }
    }
}
