//! Where a stream lies: what a node's catalog has of a space, for another node
//! that has lost its own.
//!
//! ```text
//!   /chart?space=alpha&first=0
//!
//!   {"role": "primary", "stream": "5f..", "epochs": [..], "highest_epoch": 1,
//!    "base_lsn": 0, "base_run": 0, "total_runs": 2, "first_run": 0,
//!    "runs": [{"start", "segment", "file", "offset"}, ..],
//!    "marks": [{"lsn", "chain", "records", "sequence", "timestamp_ns"}, ..]}
//! ```
//!
//! A chart is a claim, as all that comes from another node: who takes it holds
//! his own bytes against it, and proves by the chain that they are the same.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::question::QuestionError;
use crate::engine::status::{EpochStatus, Role};
use crate::ids::{Epoch, SegmentName, SpaceId, StreamId};
use crate::limits::MAX_CHART_RUNS;
use crate::lsn::{Chain, Lsn, Mark};
use crate::state::catalog::{self, SpaceRecord};
use crate::state::runs::{Run, Runs};

/// Which part of which chart is asked for. Prints as a query string, and is
/// read from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartAsk {
    /// The space.
    pub space: SpaceId,
    /// The first run; the answer has at most
    /// [`MAX_CHART_RUNS`] from there on.
    pub first: u32,
}

impl fmt::Display for ChartAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space={}&first={}", self.space, self.first)
    }
}

impl FromStr for ChartAsk {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let (mut space, mut first) = (None, 0);
        let wrong = |key, value: &str| QuestionError::Value { key, value: value.to_owned() };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "space" => space = Some(value.parse().map_err(|_| wrong("space", value))?),
                "first" => first = value.parse().map_err(|_| wrong("first", value))?,
                other => return Err(QuestionError::Unknown { key: other.to_owned() }),
            }
        }
        let space = space.ok_or(QuestionError::Missing { key: "space" })?;
        Ok(Self { space, first })
    }
}

/// What a catalog has of one space, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// Which way the space flows through the node that was asked.
    pub role: Role,
    /// The stream, 32 hexadecimal digits.
    pub stream: String,
    /// Its epochs, oldest first.
    pub epochs: Vec<EpochStatus>,
    /// The highest one ever heard of.
    pub highest_epoch: Epoch,
    /// Where the stream begins there: behind its start on a replica that was
    /// filled anew.
    #[serde(default)]
    pub base_lsn: u64,
    /// How many runs lie before that.
    #[serde(default)]
    pub base_run: u32,
    /// How many runs there are.
    pub total_runs: u32,
    /// The ordinal of the first one here.
    pub first_run: u32,
    /// The runs from there on; each ends where the next begins.
    pub runs: Vec<ChartedRun>,
    /// Boundaries that are known, ascending; with the first part only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<ChartedMark>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChartedRun {
    /// Where in the stream it begins.
    pub start: u64,
    /// The segment's name.
    pub segment: String,
    /// Which file of that name, as the primary numbered it.
    pub file: u64,
    /// Where in the file it begins.
    pub offset: u64,
}

/// One boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChartedMark {
    /// The position.
    pub lsn: u64,
    /// The chain there, 16 hexadecimal digits.
    pub chain: String,
    /// How many records lie before.
    pub records: u64,
    /// The last one's sequence.
    pub sequence: u64,
    /// The last one's timestamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
}

/// Why a chart is none. It was not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChartError {
    /// A value that cannot be.
    #[error("its {field} cannot be {found:?}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it says.
        found: String,
    },
    /// Runs that do not follow each other.
    #[error("its run {ordinal} does not follow the one before: {why}")]
    Run {
        /// Which.
        ordinal: u32,
        /// Why not.
        why: String,
    },
    /// The other node was filled anew, and has not had what lies before: a
    /// replica may have more. For a primary that is no harm.
    #[error(
        "that node was filled anew from lsn {base} on and does not know what lies before: ask \
         another one"
    )]
    Based {
        /// Where its copy begins.
        base: u64,
    },
    /// Another part of it was of another stream, or of other runs.
    #[error("the space was changed there while it was asked for: try again")]
    Changed,
}

impl Chart {
    /// A part of what a catalog has.
    #[must_use]
    pub fn of(record: &SpaceRecord, first: u32) -> Self {
        let from = record.runs.iter().skip(usize::try_from(first).unwrap_or(usize::MAX));
        let runs = from.take(MAX_CHART_RUNS).map(|(_, run)| ChartedRun {
            start: run.start.0,
            segment: run.segment.to_string(),
            file: run.file,
            offset: run.offset,
        });
        let mut marks = record.marks.clone();
        marks.extend(record.begins.values().chain([&record.base, &record.checkpoint]));
        marks.sort_by_key(|mark| mark.lsn);
        marks.dedup_by_key(|mark| mark.lsn);
        marks.retain(|mark| mark.lsn > Lsn::ZERO);
        let marks = marks.into_iter().filter(|_| first == 0).map(|mark| ChartedMark {
            lsn: mark.lsn.0,
            chain: format!("{:?}", mark.chain),
            records: mark.records,
            sequence: mark.sequence,
            timestamp_ns: mark.timestamp_ns,
        });
        Self {
            role: match record.role {
                catalog::Role::Primary => Role::Primary,
                catalog::Role::Replica => Role::Replica,
            },
            stream: format!("{:?}", record.stream),
            epochs: EpochStatus::of(&record.history),
            highest_epoch: record.highest_epoch,
            base_lsn: record.base.lsn.0,
            base_run: record.runs.first(),
            total_runs: record.runs.len() - record.runs.first(),
            first_run: first,
            runs: runs.collect(),
            marks: marks.collect(),
        }
    }

    /// Add the next part.
    ///
    /// # Errors
    ///
    /// [`ChartError::Changed`].
    pub fn extend(&mut self, next: Self) -> Result<(), ChartError> {
        let have = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        let same = (&self.stream, &self.epochs) == (&next.stream, &next.epochs);
        if !same || next.first_run != have || next.runs.is_empty() {
            return Err(ChartError::Changed);
        }
        self.runs.extend(next.runs);
        Ok(())
    }

    /// What it says, as a catalog would have it, for a node that is `role` to
    /// the space. Marks are those of the node that was asked.
    ///
    /// # Errors
    ///
    /// [`ChartError`].
    pub fn record(&self, role: catalog::Role) -> Result<SpaceRecord, ChartError> {
        let wrong = |field, found: &str| ChartError::Value { field, found: found.to_owned() };
        if self.base_lsn > 0 && role == catalog::Role::Replica {
            return Err(ChartError::Based { base: self.base_lsn });
        }
        let stream = u128::from_str_radix(&self.stream, 16);
        let stream = stream.map_err(|_| wrong("stream", &self.stream))?;
        let mut runs = self.before()?;
        for (ordinal, run) in (self.base_run..).zip(&self.runs) {
            let segment: SegmentName =
                run.segment.parse().map_err(|_| wrong("segment", &run.segment))?;
            let run = Run {
                start: Lsn(run.start),
                segment,
                file: run.file,
                offset: run.offset,
                bytes: None,
            };
            let fits = match runs.last() {
                // Of the open run, only the next one tells where it ends.
                Some(_) if ordinal == self.base_run => run.start == Lsn(self.base_lsn),
                Some(last) => last.start <= run.start,
                None => run.start == Lsn::ZERO,
            };
            let refused = |why: String| ChartError::Run { ordinal, why };
            if !fits {
                return Err(refused(format!("it begins at {}", run.start)));
            }
            runs.accepts(&run).map_err(|error| refused(error.to_string()))?;
            if runs.open(run) != ordinal {
                return Err(refused("it is the one before once more".to_owned()));
            }
        }
        let mut marks = Vec::new();
        for mark in &self.marks {
            let chain = u64::from_str_radix(&mark.chain, 16);
            marks.push(Mark {
                lsn: Lsn(mark.lsn),
                chain: Chain(chain.map_err(|_| wrong("chain", &mark.chain))?),
                records: mark.records,
                sequence: mark.sequence,
                timestamp_ns: mark.timestamp_ns,
            });
        }
        let base = match self.base_lsn {
            0 => Some(Mark::START),
            base => marks.iter().find(|mark| mark.lsn == Lsn(base)).copied(),
        };
        let base = base.ok_or_else(|| wrong("base_lsn", &self.base_lsn.to_string()))?;
        let history: Vec<_> =
            self.epochs.iter().map(|reign| (reign.epoch, Lsn(reign.start_lsn))).collect();
        if history.is_empty() {
            return Err(wrong("epochs", ""));
        }
        Ok(SpaceRecord {
            highest_epoch: self.highest_epoch,
            runs,
            marks,
            base,
            ..SpaceRecord::new(role, StreamId(stream), history)
        })
    }

    /// The runs that lie before the base. Nobody knows where they lay, and
    /// nobody needs to: a replica is filled anew from the oldest segment that
    /// has a name, so their files are gone. They are entered as runs of files
    /// that are not here, because those behind keep their ordinals; empty ones,
    /// and a last one that reaches up to the base.
    fn before(&self) -> Result<Runs, ChartError> {
        let wrong = |field, found: u64| ChartError::Value { field, found: found.to_string() };
        if (self.base_run == 0) != (self.base_lsn == 0) || self.base_run > Runs::MOST {
            return Err(wrong("base_run", self.base_run.into()));
        }
        let mut runs = Runs::default();
        let known: BTreeSet<u64> = self.runs.iter().map(|run| run.file).collect();
        // Two in turn: a run that begins where the last one does is that one.
        let mut free = (0..).filter(|file| !known.contains(file));
        let files = [free.next().unwrap_or_default(), free.next().unwrap_or_default()];
        for (_, file) in (0..self.base_run).zip(files.into_iter().cycle()) {
            let segment = SegmentName(0);
            runs.open(Run { start: Lsn::ZERO, segment, file, offset: 0, bytes: None });
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(count: u64) -> SpaceRecord {
        let mut runs = Runs::default();
        for file in 0..count {
            runs.open(Run {
                start: Lsn(file * 1000),
                segment: SegmentName(100 + file),
                file: file + 7,
                offset: 0,
                bytes: None,
            });
        }
        let mark = Mark { lsn: Lsn(64), chain: Chain(5), records: 1, ..Mark::START };
        let history = vec![(Epoch(1), Lsn::ZERO), (Epoch(3), Lsn(500))];
        SpaceRecord {
            highest_epoch: Epoch(4),
            runs,
            marks: vec![mark],
            ..SpaceRecord::new(catalog::Role::Primary, StreamId(9), history)
        }
    }

    #[test]
    fn a_chart_in_parts_says_what_the_catalog_has() {
        let whole = record(2 * MAX_CHART_RUNS as u64 + 3);
        let mut chart = Chart::of(&whole, 0);
        let mut parts = 1;
        while chart.runs.len() < chart.total_runs as usize {
            let first = u32::try_from(chart.runs.len()).unwrap();
            let text = serde_json::to_string(&Chart::of(&whole, first)).unwrap();
            assert!(text.len() < crate::limits::MAX_ANSWER_BYTES);
            chart.extend(serde_json::from_str(&text).unwrap()).unwrap();
            parts += 1;
        }
        assert_eq!(parts, 3);
        assert_eq!(chart.record(catalog::Role::Primary), Ok(whole));
    }

    /// What a node has that was filled anew, behind four runs.
    fn seeded() -> SpaceRecord {
        let base = Mark { lsn: Lsn(5000), records: 9, ..Mark::START };
        let mut seeded = SpaceRecord { runs: Runs::based(4, base.lsn), base, ..record(0) };
        let run = *record(1).runs.last().unwrap();
        seeded.runs.open(Run { start: base.lsn, ..run });
        seeded.runs.open(Run { start: Lsn(5300), file: 0, ..run });
        seeded
    }

    #[test]
    fn a_chart_of_a_node_that_was_filled_anew_serves_a_primary_only() {
        let chart = Chart::of(&seeded(), 0);
        assert_eq!((chart.total_runs, chart.runs.len()), (2, 2));
        let refused = chart.record(catalog::Role::Replica);
        assert_eq!(refused, Err(ChartError::Based { base: 5000 }));
        let record = chart.record(catalog::Role::Primary).unwrap();
        assert_eq!((record.base, record.runs.len()), (seeded().base, 6));
        for ordinal in [4, 5] {
            assert_eq!(record.runs.get(ordinal), seeded().runs.get(ordinal), "its ordinal is kept");
        }
        assert_eq!(record.runs.locate(Lsn(4999)).unwrap().0, 3, "nothing lies between");
        let before: Vec<_> = record.runs.iter().take(4).map(|(_, run)| run.file).collect();
        assert_eq!(before, [1, 2, 1, 2], "no file that is known");
    }

    #[test]
    fn a_base_that_cannot_be_is_refused() {
        let wrong = |change: fn(&mut Chart)| {
            let mut chart = Chart::of(&seeded(), 0);
            change(&mut chart);
            chart.record(catalog::Role::Primary).unwrap_err()
        };
        wrong(|chart| chart.base_run = 0);
        wrong(|chart| chart.base_run = u32::MAX);
        wrong(|chart| chart.base_lsn = 0);
        wrong(|chart| chart.base_lsn = 4999);
        wrong(|chart| chart.runs[0].start = 5001);
        wrong(|chart| chart.marks.clear());
    }

    #[test]
    fn a_chart_that_contradicts_itself_is_refused() {
        let good = Chart::of(&record(3), 0);
        let wrong = |change: fn(&mut Chart)| {
            let mut chart = good.clone();
            change(&mut chart);
            chart.record(catalog::Role::Replica).unwrap_err()
        };
        wrong(|chart| chart.stream = "x".into());
        wrong(|chart| chart.epochs.clear());
        wrong(|chart| chart.runs[0].start = 1);
        wrong(|chart| chart.runs[1].start = 5000);
        wrong(|chart| chart.runs[1].segment = "../x".into());
        wrong(|chart| chart.runs[2] = ChartedRun { offset: 10, ..chart.runs[0].clone() });
        wrong(|chart| chart.marks[0].chain = "-".into());
        let mut chart = good.clone();
        assert_eq!(chart.extend(Chart::of(&record(4), 2)), Err(ChartError::Changed));
    }

    #[test]
    fn what_is_asked_for_is_read_as_it_is_written() {
        let ask = ChartAsk { space: "alpha".parse().unwrap(), first: 8 };
        assert_eq!(ask.to_string().parse(), Ok(ask));
        for wrong in ["", "space=..", "space=alpha&first=-1", "space=alpha&more=1"] {
            assert!(wrong.parse::<ChartAsk>().is_err(), "{wrong}");
        }
    }
}
