//! The stream of one space as the oracle knows it: what was shipped of it,
//! under each reign.
//!
//! ```text
//!   reign 1   ==============================|  lost at the source
//!   reign 2   ================^=============>
//!                             start: up to here the two are one
//! ```
//!
//! A new reign is the one before, cut at its start. What it has cut is kept: a
//! replica that holds it may not lose it but to its quarantine.

use std::collections::BTreeMap;

use saltus::ids::{Epoch, StreamId};
use saltus::lsn::{Lsn, Mark};
use saltus::protocol::message::SegmentOpen;
use saltus::wal::record::{self, Checksums, Header};

/// The stream under one epoch.
#[derive(Clone, Debug)]
pub struct Reign {
    pub epoch: Epoch,
    /// Where it began.
    pub start: Lsn,
    pub bytes: Vec<u8>,
    /// Every record boundary.
    marks: BTreeMap<u64, Mark>,
    pub runs: Vec<SegmentOpen>,
}

/// The stream of one space.
#[derive(Debug)]
pub struct Stream {
    pub id: StreamId,
    /// By epoch; never empty.
    reigns: Vec<Reign>,
    /// The least that the source was seen to hold of the present reign.
    pub kept: u64,
}

impl Stream {
    pub fn new(id: StreamId, (epoch, start): (Epoch, Lsn)) -> Self {
        assert_eq!(start, Lsn::ZERO, "Epochs: the first epoch of a stream begins at {start}");
        let first =
            Reign { epoch, start, bytes: Vec::new(), marks: BTreeMap::new(), runs: Vec::new() };
        Self { id, reigns: vec![first], kept: u64::MAX }
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

    /// The epochs that are known, and where each began.
    pub fn history(&self) -> Vec<(Epoch, Lsn)> {
        self.reigns.iter().map(|reign| (reign.epoch, reign.start)).collect()
    }

    /// Up to where the streams of two reigns are one.
    pub fn common(&self, earlier: usize, later: usize) -> u64 {
        let between = self.reigns.get(earlier + 1..=later).unwrap_or_default();
        between.iter().map(|reign| reign.start.0).min().unwrap_or(u64::MAX)
    }

    /// A new epoch begins.
    pub fn begin(&mut self, epoch: Epoch, start: Lsn) {
        let mut reign = Reign { epoch, start, ..self.present().clone() };
        assert!(
            start.0 > reign.bytes.len() as u64 || reign.mark(start).is_some(),
            "Epochs: epoch {epoch} begins at {start}, where no record ends"
        );
        // Runs in which nothing was shipped are told again, or are others.
        reign.runs.retain(|run| run.start < start);
        reign.bytes.truncate(usize::try_from(start.0).unwrap());
        reign.marks.retain(|lsn, _| *lsn <= start.0);
        self.reigns.push(reign);
        self.kept = u64::MAX;
    }
}

impl Reign {
    pub fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn last_mark(&self) -> Mark {
        self.marks.last_key_value().map_or(Mark::START, |(_, mark)| *mark)
    }

    /// The mark at a boundary.
    pub fn mark(&self, lsn: Lsn) -> Option<Mark> {
        if lsn == Lsn::ZERO { Some(Mark::START) } else { self.marks.get(&lsn.0).copied() }
    }

    /// Shipped bytes: known ones must be the same, new ones whole records.
    pub fn take(&mut self, start: Lsn, bytes: &[u8]) {
        let at = usize::try_from(start.0).unwrap();
        let known = self.bytes.len();
        assert!(at <= known, "Prefix: shipped from {start}, and nobody has {known} to {start}");
        let again = bytes.len().min(known - at);
        assert!(
            self.bytes[at..at + again] == bytes[..again],
            "Prefix: other bytes are shipped at {start} than before"
        );
        assert!(self.mark(start).is_some(), "Prefix: {start} is no record boundary");
        let mut rest = &bytes[again..];
        self.bytes.extend_from_slice(rest);
        while let Some(raw) = rest.first_chunk::<64>() {
            let header = Header::parse(raw, Checksums::Required).expect("Prefix: no record");
            let size = usize::try_from(header.record_bytes()).unwrap();
            let payload = rest.get(64..size).expect("Prefix: a partial record is shipped");
            header.check_payload(payload).expect("Verified: a damaged record is shipped");
            let mark = record::step(&self.last_mark(), raw, &header);
            self.marks.insert(mark.lsn.0, mark);
            rest = &rest[size..];
        }
        assert!(rest.is_empty(), "Prefix: a partial record is shipped");
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
