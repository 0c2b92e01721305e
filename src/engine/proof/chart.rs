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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::question::QuestionError;
use crate::engine::status::{EpochStatus, Role};
use crate::ids::{Epoch, SegmentName, SpaceId, StreamId};
use crate::limits::{MAX_CHART_RUNS, MAX_LSN, RECORD_HEADER_BYTES};
use crate::lsn::{Chain, Lsn, Mark};
use crate::state::catalog::{self, SpaceRecord, is_history};
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
    /// Boundaries that are known, ascending: those at which these runs begin, and
    /// with the first part all others.
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
        let runs: Vec<Run> = from.take(MAX_CHART_RUNS).map(|(_, run)| *run).collect();
        let begin = |run: &Run| record.begins.get(&run.file).filter(|mark| mark.lsn == run.start);
        let mut marks: Vec<Mark> = runs.iter().filter_map(begin).copied().collect();
        if first == 0 {
            marks.extend(record.marks.iter().chain([&record.base, &record.checkpoint]));
        }
        marks.sort_by_key(|mark| mark.lsn);
        marks.dedup_by_key(|mark| mark.lsn);
        marks.retain(|mark| mark.lsn > Lsn::ZERO);
        let marks = marks.into_iter().map(|mark| ChartedMark {
            lsn: mark.lsn.0,
            chain: format!("{:?}", mark.chain),
            records: mark.records,
            sequence: mark.sequence,
            timestamp_ns: mark.timestamp_ns,
        });
        let runs = runs.into_iter().map(|run| ChartedRun {
            start: run.start.0,
            segment: run.segment.to_string(),
            file: run.file,
            offset: run.offset,
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

    /// How many runs are still to be asked for.
    ///
    /// # Errors
    ///
    /// [`ChartError::Value`]: more than any space has.
    pub fn missing(&self) -> Result<u32, ChartError> {
        if self.total_runs > Runs::MOST {
            let found = self.total_runs.to_string();
            return Err(ChartError::Value { field: "total_runs", found });
        }
        let have = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        Ok(self.total_runs.saturating_sub(have))
    }

    /// Add the next part.
    ///
    /// # Errors
    ///
    /// [`ChartError::Changed`].
    pub fn extend(&mut self, next: Self) -> Result<(), ChartError> {
        let have = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        let base = (self.base_lsn, self.base_run) == (next.base_lsn, next.base_run);
        let same = base && (&self.stream, &self.epochs) == (&next.stream, &next.epochs);
        if !same || next.first_run != have || next.runs.is_empty() {
            return Err(ChartError::Changed);
        }
        self.runs.extend(next.runs);
        self.marks.extend(next.marks);
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
        let stream = digits(&self.stream, 32).ok_or_else(|| wrong("stream", &self.stream))?;
        if self.first_run != 0 {
            return Err(wrong("first_run", &self.first_run.to_string()));
        }
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
            if !fits || run.start.0 > MAX_LSN {
                return Err(refused(format!("it begins at {}", run.start)));
            }
            runs.accepts(&run).map_err(|error| refused(error.to_string()))?;
            if runs.open(run) != ordinal {
                return Err(refused("it is the one before once more".to_owned()));
            }
        }
        let mut marks = BTreeMap::new();
        for mark in &self.marks {
            let ChartedMark { lsn, records, sequence, timestamp_ns, .. } = *mark;
            // No record is shorter than its header.
            if lsn > MAX_LSN || records > lsn / RECORD_HEADER_BYTES as u64 {
                return Err(wrong("marks", &format!("{records} records up to {lsn}")));
            }
            let chain = digits(&mark.chain, 16).and_then(|chain| u64::try_from(chain).ok());
            let chain = Chain(chain.ok_or_else(|| wrong("chain", &mark.chain))?);
            let lsn = Lsn(lsn);
            marks.insert(lsn, Mark { lsn, chain, records, sequence, timestamp_ns });
        }
        let marks: Vec<_> = marks.into_values().collect();
        let base = match self.base_lsn {
            0 => Some(Mark::START),
            base => marks.iter().find(|mark| mark.lsn == Lsn(base)).copied(),
        };
        let base = base.ok_or_else(|| wrong("base_lsn", &self.base_lsn.to_string()))?;
        let history: Vec<_> =
            self.epochs.iter().map(|reign| (reign.epoch, Lsn(reign.start_lsn))).collect();
        // One more can always begin.
        let last = history.last().map_or(Epoch(0), |(epoch, _)| *epoch);
        let counted = history.first().is_some_and(|(epoch, _)| *epoch >= Epoch::FIRST)
            && (last..Epoch(u64::MAX)).contains(&self.highest_epoch);
        let within = history.iter().all(|(_, start)| start.0 <= MAX_LSN);
        if !is_history(&history) || !counted || !within {
            let found = format!("{history:?}, up to {}", self.highest_epoch);
            return Err(wrong("epochs", &found));
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

/// A number in hexadecimal, as it is written here: of so many digits.
fn digits(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
