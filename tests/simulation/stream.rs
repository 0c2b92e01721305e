//! The stream of one space as the oracle knows it: what was shipped of it,
//! under each reign.
//!
//! ```text
//!   epoch 1   ==============================|  lost at the source
//!   epoch 1            ^==============|        shipped by a primary that did
//!                      | fork                  not know, until a replica said so
//!   epoch 2            ^============>
//!                      | start
//! ```
//!
//! A new reign is the one before, cut at its start. What it has cut is kept: a
//! replica that holds it may not lose it but to its quarantine. After a crash
//! of its host a primary that was started again cannot know what was shipped
//! before of what the source has lost: it may ship other records in the same
//! epoch, as a branch of the stream, until it meets a replica that knows.

use std::collections::BTreeMap;
use std::ops::Range;

use saltus::ids::{Epoch, SegmentName, StreamId};
use saltus::lsn::{Lsn, Mark};
use saltus::protocol::message::SegmentOpen;
use saltus::wal::record::{self, Checksums, Header};

use super::invariant::Invariant::{Epochs, Equality, Prefix};

/// The stream under one epoch, or one branch of it.
#[derive(Clone, Debug)]
pub struct Reign {
    pub epoch: Epoch,
    /// Where the epoch began.
    pub start: Lsn,
    /// Up to here it is the one before.
    shares: u64,
    /// The process of the primary that began it.
    begun_by: u64,
    /// The last process that has shipped of it, and how far it came.
    shipped: (u64, u64),
    /// A record that has rotted at the source was shipped behind its end.
    rotten: bool,
    pub bytes: Vec<u8>,
    /// Every record boundary.
    marks: BTreeMap<u64, Mark>,
    /// By their ordinals.
    pub runs: Vec<SegmentOpen>,
    /// Parts that were never shipped: every replica was filled anew behind
    /// them.
    pub gaps: Vec<Range<u64>>,
    /// Bytes before gaps that the source had lost by then: what it had there
    /// instead was shipped to nobody either.
    instead: u64,
    /// Ordinals at which a seed began.
    seeds: Vec<u32>,
}

/// The stream of one space.
#[derive(Debug)]
pub struct Stream {
    pub id: StreamId,
    /// By epoch; never empty.
    reigns: Vec<Reign>,
    /// The least that the source was seen to hold of the present reign.
    pub kept: u64,
    /// What it held the last time of the files that a primary does not go past: whatever
    /// came back of what that had let go of, and whatever went whole.
    pub held: u64,
    /// How often it had lost something when that began.
    pub losses: u64,
}

impl Stream {
    pub fn new(id: StreamId, (epoch, start): (Epoch, Lsn)) -> Self {
        assert!(start == Lsn::ZERO, "{Epochs}: the first epoch of a stream begins at {start}");
        let first = Reign {
            epoch,
            start,
            shares: 0,
            begun_by: 0,
            shipped: (0, 0),
            rotten: false,
            bytes: Vec::new(),
            marks: BTreeMap::new(),
            runs: Vec::new(),
            gaps: Vec::new(),
            instead: 0,
            seeds: Vec::new(),
        };
        Self { id, reigns: vec![first], kept: u64::MAX, held: u64::MAX, losses: 0 }
    }

    pub fn present(&self) -> &Reign {
        self.reigns.last().unwrap()
    }

    pub fn present_mut(&mut self) -> &mut Reign {
        self.reigns.last_mut().unwrap()
    }

    pub fn reign(&self, index: usize) -> &Reign {
        &self.reigns[index]
    }

    pub fn last(&self) -> usize {
        self.reigns.len() - 1
    }

    /// The last reign of an epoch up to this one.
    pub fn under(&self, epoch: Epoch) -> usize {
        self.reigns.partition_point(|reign| reign.epoch <= epoch).saturating_sub(1)
    }

    /// What a process ships that has opened the space when `reign` was the
    /// last one: it may have left it for a branch.
    pub fn shipped_by(&self, process: u64, reign: usize) -> usize {
        let epoch = self.reigns[reign].epoch;
        let later = self.reigns.iter().enumerate().skip(reign + 1);
        let branches = later.take_while(|(_, later)| later.epoch == epoch);
        let own = branches.filter(|(_, later)| later.begun_by == process);
        own.last().map_or(reign, |(index, _)| index)
    }

    /// The epochs that are known, and where each began, as far as none that
    /// began later at `cut` has ended them.
    pub fn history(&self, cut: Lsn) -> Vec<(Epoch, Lsn)> {
        let mut history: Vec<_> =
            self.reigns.iter().map(|reign| (reign.epoch, reign.start)).collect();
        history.dedup();
        let mut least = cut;
        for index in (0..history.len()).rev() {
            if history[index].1 > least {
                history.remove(index);
            } else {
                least = least.min(history[index].1);
            }
        }
        history
    }

    /// Up to where the streams of two reigns are one.
    pub fn common(&self, earlier: usize, later: usize) -> u64 {
        let between = self.reigns.get(earlier + 1..=later).unwrap_or_default();
        between.iter().map(|reign| reign.shares).min().unwrap_or(u64::MAX)
    }

    /// From where on the epochs up to `later` have ended what `earlier` held.
    pub fn ended(&self, earlier: usize, later: usize) -> u64 {
        let epoch = self.reigns[earlier].epoch;
        let between = self.reigns.get(earlier + 1..=later).unwrap_or_default();
        let new = between.iter().filter(|reign| reign.epoch > epoch);
        new.map(|reign| reign.start.0).min().unwrap_or(u64::MAX)
    }

    /// An epoch begins within what nobody was shipped: the source has lost some of that.
    pub fn lost_in_gap(&mut self, start: Lsn) {
        let gaps = &self.present().gaps;
        let gap = gaps.iter().find(|gap| gap.contains(&start.0)).map(|gap| gap.start);
        self.kept = self.kept.min(gap.unwrap_or(u64::MAX));
    }

    /// A new epoch begins.
    pub fn begin(&mut self, epoch: Epoch, start: Lsn, process: u64) {
        let end = self.present().end();
        if start.0 < end && self.present().mark(start).is_none() {
            // It begins in a branch of which nothing was shipped. What a crash has
            // taken of a file that was let go of before is none of that: the primary
            // goes on from where the file ended.
            self.fork(self.held.min(start.0), process);
        }
        let present = self.present().clone();
        let mut reign = Reign { epoch, start, begun_by: process, rotten: false, ..present };
        // Runs in which nothing was shipped are told again, or are others.
        reign.runs.retain(|run| run.start < start);
        reign.cut(start.0);
        self.reigns.push(reign);
        if self.kept >= start.0 {
            self.kept = u64::MAX;
        }
        if self.held >= start.0 {
            self.held = u64::MAX;
        }
    }

    /// A process ships something else at `lsn` than was shipped before.
    fn fork(&mut self, lsn: u64, process: u64) {
        let present = self.present();
        let kept = present.lost_from(self.kept);
        assert!(
            kept <= lsn,
            "{Prefix}: other records are shipped at {lsn} than before, and the source has lost \
             nothing before {kept}"
        );
        let (shipper, to) = present.shipped;
        assert!(
            shipper != process || to <= lsn,
            "{Prefix}: a process ships other records at {lsn} than it did before"
        );
        let mut branch = Reign { begun_by: process, ..present.clone() };
        branch.cut(branch.boundary(lsn));
        self.reigns.push(branch);
    }

    /// A process fills a replica anew from `base` on, which is no boundary of what
    /// was shipped before.
    pub fn leaves(&mut self, base: Lsn, process: u64) {
        let kept = self.present().boundary(self.kept);
        assert!(
            kept <= base.0,
            "{Equality}: a replica is filled anew from another boundary at {base}, and the source \
             has lost nothing before {kept}"
        );
        let held = self.present().boundary(self.held);
        let at = if held <= base.0 { held } else { kept };
        self.fork(at, process);
        self.present_mut().runs.retain(|run| run.start.0 < at);
    }

    /// A run is announced.
    pub fn opens(&mut self, run: SegmentOpen, process: u64) {
        let present = self.present();
        let at = present.runs.partition_point(|known| known.ordinal < run.ordinal);
        if let Some(known) = present.runs.get(at).filter(|known| known.ordinal == run.ordinal) {
            assert!(*known == run, "{Prefix}: a run has changed from {known:?} to {run:?}");
            return;
        }
        let next = at.checked_sub(1).map_or(0, |before| present.runs[before].ordinal + 1);
        let is_next = run.ordinal == next || present.seeds.contains(&run.ordinal);
        assert!(is_next, "{Prefix}: a run is left out before {run:?}");
        // One that was left out comes before others that are known.
        let is_last = at == present.runs.len();
        // Nor is one other than before that begins where nobody was shipped anything.
        let is_new = present.is_in_gap(run.start.0);
        if run.start.0 < present.end() && is_last && !is_new {
            self.fork(run.start.0, process);
        }
        let runs = &mut self.present_mut().runs;
        let at = runs.partition_point(|known| known.ordinal < run.ordinal);
        runs.insert(at, run);
    }

    /// A replica is filled anew from `base` on. Where the source has lost what was
    /// shipped before, and that is behind what was shipped ever, what comes in
    /// between is a branch, unless its process has shipped of what was lost.
    pub fn leaps(&mut self, base: Mark, first_run: u32, process: u64) {
        let present = self.present();
        let (kept, held) = (present.boundary(self.kept), present.boundary(self.held));
        let (shipper, to) = present.shipped;
        let has_shipped_it = shipper == process && to > held;
        if held < present.end() && present.end() < base.lsn.0 && !has_shipped_it {
            self.fork(held, process);
        }
        let present = self.present_mut();
        let end = present.end();
        if base.lsn.0 > end {
            present.instead += end.saturating_sub(kept);
            present.gaps.push(end..base.lsn.0);
            present.bytes.resize(usize::try_from(base.lsn.0).unwrap(), 0);
            present.marks.insert(base.lsn.0, base);
        }
        present.seeds.push(first_run);
    }

    /// True of a copy that begins within what nobody was shipped yet: from there on it
    /// will be.
    pub fn begins_in_gap(&mut self, base: Mark) -> bool {
        let present = self.present_mut();
        let is_new = present.mark(base.lsn).is_none() && present.is_in_gap(base.lsn.0);
        if is_new {
            present.marks.insert(base.lsn.0, base);
        }
        is_new
    }

    /// Shipped bytes. Returns what is new of them.
    pub fn takes(&mut self, start: Lsn, bytes: &[u8], process: u64) -> Range<u64> {
        let present = self.present();
        let (at, known) = (usize::try_from(start.0).unwrap(), present.bytes.len());
        if at > known && present.rotten {
            // The replica takes nothing behind what it has refused.
            return 0..0;
        }
        assert!(at <= known, "{Prefix}: shipped from {start}, and nobody has {known} to {start}");
        // It may begin with what is known, and go on where nobody was shipped anything.
        let gap = self.present().gap_from(start, bytes);
        let fresh = bytes.get(usize::try_from(gap.bytes_since(start)).unwrap()..);
        if let Some(to) = self.present_mut().fill(gap, fresh.unwrap_or_default()) {
            return gap.0..to;
        }
        let before = &self.present().bytes[at..];
        let again = bytes.len().min(before.len());
        let same = bytes.iter().zip(before).take_while(|(new, old)| new == old).count();
        if same < again {
            if has_rotten(bytes, same) {
                self.present_mut().rotten = true;
                return 0..0;
            }
            self.fork(start.0 + same as u64, process);
        }
        let known = self.present().end();
        let present = self.present_mut();
        let new = present.take(start, bytes);
        let (shipper, to) = present.shipped;
        let before = if shipper == process { to } else { 0 };
        present.shipped = (process, before.max(new));
        known.max(start.0)..self.present().end()
    }
}

impl Reign {
    pub fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn is_in_gap(&self, lsn: u64) -> bool {
        self.gaps.iter().any(|gap| gap.contains(&lsn))
    }

    /// From where on the source may have lost something, as it has nothing of what
    /// was shipped from `kept` on. What it has of a gap before that nobody knows.
    pub fn lost_from(&self, kept: u64) -> u64 {
        let kept = self.boundary(kept);
        let gap = self.gaps.iter().find(|gap| (gap.start..=gap.end).contains(&kept));
        gap.map_or(kept, |gap| gap.start)
    }

    /// Bytes that nobody was shipped, in all.
    pub fn gap_bytes(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.end - gap.start).sum::<u64>() + self.instead
    }

    /// Where shipped bytes come to a gap after what is known of them; their
    /// beginning, if they do not.
    fn gap_from(&self, start: Lsn, bytes: &[u8]) -> Lsn {
        let at = usize::try_from(start.0).unwrap();
        let within = self.gaps.iter().map(|gap| usize::try_from(gap.start).unwrap());
        let within = within.filter(|gap| (at..at + bytes.len()).contains(gap)).min();
        let same = within.filter(|gap| self.bytes[at..*gap] == bytes[..gap - at]);
        same.map_or(start, |gap| Lsn(gap as u64))
    }

    /// Something of what nobody was shipped is shipped after all: a crash has
    /// brought back what its primary had let go of.
    fn fill(&mut self, start: Lsn, bytes: &[u8]) -> Option<u64> {
        let gap = self.gaps.iter().position(|gap| gap.contains(&start.0))?;
        let Some(mut mark) = self.mark(start) else {
            assert!(self.rotten, "{Prefix}: no record ends at {start}, where this begins");
            // The replica takes nothing behind what it has refused.
            return Some(start.0);
        };
        let limit = self.gaps[gap].end;
        let mut rest = bytes;
        while let Some(raw) = rest.first_chunk::<64>() {
            let header = Header::parse(raw, Checksums::Required).ok();
            let header = header.filter(|header| {
                let size = usize::try_from(header.record_bytes()).unwrap();
                let payload = rest
                    .get(64..size)
                    .unwrap_or_else(|| panic!("{Prefix}: a partial record is shipped"));
                header.check_payload(payload).is_ok()
            });
            let Some(header) = header else {
                self.rotten = true;
                break;
            };
            mark = record::step(&mark, raw, &header);
            assert!(mark.lsn.0 <= limit, "{Prefix}: a record reaches beyond the run it lies in");
            if mark.lsn.0 == limit {
                assert!(
                    self.marks[&limit].chain == mark.chain,
                    "{Equality}: other records than before end at {limit}"
                );
            }
            self.marks.insert(mark.lsn.0, mark);
            rest = &rest[usize::try_from(header.record_bytes()).unwrap()..];
        }
        let at = usize::try_from(start.0).unwrap();
        let good = bytes.len() - rest.len();
        self.bytes[at..at + good].copy_from_slice(&bytes[..good]);
        let before = self.gaps[gap].start..start.0;
        self.gaps[gap] = mark.lsn.0..limit;
        self.gaps.push(before);
        self.gaps.retain(|gap| !gap.is_empty());
        Some(mark.lsn.0)
    }

    fn last_mark(&self) -> Mark {
        self.marks.last_key_value().map_or(Mark::START, |(_, mark)| *mark)
    }

    /// The mark at a boundary.
    pub fn mark(&self, lsn: Lsn) -> Option<Mark> {
        if lsn == Lsn::ZERO { Some(Mark::START) } else { self.marks.get(&lsn.0).copied() }
    }

    /// Where the last record ends at or before a position.
    pub fn boundary(&self, lsn: u64) -> u64 {
        self.marks.range(..=lsn).next_back().map_or(0, |(at, _)| *at)
    }

    /// Where the record ends that begins at a boundary.
    pub fn boundary_behind(&self, lsn: u64) -> u64 {
        self.marks.range(lsn + 1..).next().map_or(self.end(), |(at, _)| *at)
    }

    fn cut(&mut self, lsn: u64) {
        self.bytes.truncate(usize::try_from(lsn).unwrap());
        self.marks.retain(|at, _| *at <= lsn);
        for gap in &mut self.gaps {
            gap.end = gap.end.min(lsn);
        }
        self.gaps.retain(|gap| !gap.is_empty());
        self.shares = self.end();
    }

    /// Shipped bytes, of which known ones are the same: whole records. One that
    /// has rotted at the source is for the replica to refuse; nothing from there
    /// on is of the stream. Returns how far it went.
    fn take(&mut self, start: Lsn, bytes: &[u8]) -> u64 {
        assert!(self.mark(start).is_some(), "{Prefix}: {start} is no record boundary");
        let known = usize::try_from(self.end() - start.0).unwrap().min(bytes.len());
        let mut rest = &bytes[known..];
        while let Some(raw) = rest.first_chunk::<64>() {
            let Ok(header) = Header::parse(raw, Checksums::Required) else {
                self.rotten = true;
                return self.end();
            };
            let size = usize::try_from(header.record_bytes()).unwrap();
            let payload = rest
                .get(64..size)
                .unwrap_or_else(|| panic!("{Prefix}: a partial record is shipped"));
            if header.check_payload(payload).is_err() {
                self.rotten = true;
                return self.end();
            }
            self.bytes.extend_from_slice(&rest[..size]);
            let mark = record::step(&self.last_mark(), raw, &header);
            self.marks.insert(mark.lsn.0, mark);
            rest = &rest[size..];
        }
        assert!(rest.is_empty(), "{Prefix}: a partial record is shipped");
        start.0 + bytes.len() as u64
    }

    /// Where bytes of the stream lie in files: each piece with its run.
    pub fn pieces(&self, from: u64, to: u64) -> Vec<(SegmentOpen, u64, u64)> {
        let mut pieces = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let end = self.runs.get(index + 1).map_or(u64::MAX, |next| next.start.0);
            let (begin, end) = (from.max(run.start.0), to.min(end));
            if begin < end {
                pieces.push((*run, begin, end));
            }
        }
        pieces
    }

    pub fn slice(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
    }
}

/// Whether the record at that place of a frame does not hold.
fn has_rotten(mut bytes: &[u8], mut place: usize) -> bool {
    while let Some(raw) = bytes.first_chunk::<64>() {
        let Ok(header) = Header::parse(raw, Checksums::Required) else { return true };
        let size = usize::try_from(header.record_bytes()).unwrap();
        if place < size {
            return bytes
                .get(64..size)
                .is_some_and(|payload| header.check_payload(payload).is_err());
        }
        place -= size;
        bytes = &bytes[size..];
    }
    false
}

#[path = "stream_tests.rs"]
mod tests;
