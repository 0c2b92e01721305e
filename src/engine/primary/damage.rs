//! Records of this node's own files that do not hold: shipped up to, and not
//! beyond.
//!
//! A walk by headers does not see a payload that has rotted. The replica does,
//! and says so; the keeper looks at the record, and from then on it stands in
//! the way of every replica that does not have it yet. A replica that got it
//! while it was whole goes on.

use std::time::{Duration, Instant};

use super::space::{Space, Turn};
use crate::engine::keeper::{BadRecord, Job};
use crate::engine::shard::Standing;
use crate::lsn::Lsn;
use crate::protocol::Now;
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
}

/// A record that is not shipped.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) text: String,
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
            _ => Debris { from, to, error, since: now },
        });
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
    pub fn skip_debris(&mut self, now: Now) -> Vec<Job> {
        let ripe = |debris: &Debris| now.instant.duration_since(debris.since) >= SKIP_DELAY;
        let Some(debris) = self.debris.clone().filter(ripe) else { return Vec::new() };
        let at = self.index.head();
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

    /// The record at `at` does not hold at rest.
    pub fn block(&mut self, at: Lsn, bad: &BadRecord) {
        let BadRecord { segment, offset, error, .. } = bad;
        let text = format!(
            "{segment} is damaged at offset {offset}, lsn {at}: {error}; nothing from there on is \
             shipped to a replica that does not have it. To mend the file: saltus repair --space \
             {space} gets the bytes from a replica that has them",
            space = self.id
        );
        if self.blocks.get(&at).is_none_or(|known| known.text != text) {
            tracing::error!(space = %self.id, "{text}");
            self.blocks.insert(at, Block { text });
        }
    }

    /// The record at `at` holds again.
    pub fn unblock(&mut self, at: Lsn) {
        if self.blocks.remove(&at).is_some() {
            tracing::warn!(space = %self.id, lsn = %at, "the record that was damaged is whole again");
        }
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
            runs: self.runs.clone(),
            role: Role::Primary,
            holes: self.holes.clone(),
        }
    }
}
