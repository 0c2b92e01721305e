//! What one node asks another about a range of a stream, and the answer.
//!
//! ```text
//!   /proof?space=alpha&of=bytes&from=0&to=67108864&part=1048576&record=0
//!
//!   {"stream": "5f..", "to": 67108864, "digests": ["0123456789abcdef", null, ..],
//!    "records": [0, 1047900, ..], "boundary": {"lsn": 67108000, "chain": "..."},
//!    "absent": [{"from", "to", "segment", "offset", "why", "retired"}],
//!    "damaged": [{"lsn", "segment", "offset", "problem"}]}
//! ```
//!
//! The range is cut into parts of one size. A part's digest is over the bytes
//! of the stream, so it is the same on two nodes however their files are cut.
//! An answer may end early ([`Answer::to`]): the time for one answer is
//! bounded, and whoever asks goes on from there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::SpaceId;
use crate::limits::{MAX_PROOF_PARTS, MIN_PROOF_PART_BYTES};

/// What is asked about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A digest of every byte of each part, read from the segments.
    Bytes,
    /// A digest of the headers of the records that begin in each part.
    Headers,
    /// Each record that lies in the range or reaches into it.
    Records,
}

impl Of {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Headers => "headers",
            Self::Records => "records",
        }
    }
}

/// A question about a range of a stream. Prints as a query string, and is read
/// from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The space.
    pub space: SpaceId,
    /// What about it.
    pub of: Of,
    /// Where the range begins.
    pub from: u64,
    /// Where it ends; beyond `from`.
    pub to: u64,
    /// Bytes of a part, at least [`MIN_PROOF_PART_BYTES`]; the last part may
    /// be smaller. At most [`MAX_PROOF_PARTS`] parts. Not for records.
    pub part: u64,
    /// A record begins here, at or before `from`: an earlier answer said so.
    /// Saves a walk from a boundary that is known of old.
    pub record: Option<u64>,
    /// The chain there.
    pub chain: Option<u64>,
}

/// Why a text is no question. Nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// A key that is missing.
    #[error("{key} is missing")]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// A key that is not known.
    #[error("{key:?} is no part of a question")]
    Unknown {
        /// The key.
        key: String,
    },
    /// A value that is not what its key wants.
    #[error("{key} cannot be {value:?}")]
    Value {
        /// Of which key.
        key: &'static str,
        /// What was given.
        value: String,
    },
    /// A range that is empty, or begins before its record does.
    #[error("from {from} to {to}, with a record at {record:?}, is no range")]
    Range {
        /// Where it begins.
        from: u64,
        /// Where it ends.
        to: u64,
        /// Where the record begins.
        record: Option<u64>,
    },
    /// Too many parts, or too small ones.
    #[error(
        "parts of {part} bytes cut the range into {parts}: at most {MAX_PROOF_PARTS} are \
         answered, of at least {MIN_PROOF_PART_BYTES} bytes each"
    )]
    Parts {
        /// Bytes of one.
        part: u64,
        /// How many these are.
        parts: u64,
    },
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, of, from, to, part, record, chain } = self;
        write!(f, "space={space}&of={}&from={from}&to={to}&part={part}", of.as_str())?;
        if let Some(record) = record {
            write!(f, "&record={record}")?;
        }
        if let Some(chain) = chain {
            write!(f, "&chain={chain:016x}")?;
        }
        Ok(())
    }
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let (mut space, mut of, mut from, mut to) = (None, Of::Bytes, None, None);
        let (mut part, mut record, mut chain) = (None, None, None);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "space" => space = Some(parsed("space", value)?),
                "of" => {
                    let all = [Of::Bytes, Of::Headers, Of::Records];
                    of = all
                        .into_iter()
                        .find(|of| of.as_str() == value)
                        .ok_or_else(|| wrong("of", value))?;
                }
                "from" => from = Some(parsed("from", value)?),
                "to" => to = Some(parsed("to", value)?),
                "part" => part = Some(parsed("part", value)?),
                "record" => record = Some(parsed("record", value)?),
                "chain" => {
                    let bits = u64::from_str_radix(value, 16).map_err(|_| wrong("chain", value))?;
                    chain = Some(bits);
                }
                other => return Err(QuestionError::Unknown { key: other.to_owned() }),
            }
        }
        let missing = |key| QuestionError::Missing { key };
        let question = Self {
            space: space.ok_or_else(|| missing("space"))?,
            of,
            from: from.ok_or_else(|| missing("from"))?,
            to: to.ok_or_else(|| missing("to"))?,
            part: part.ok_or_else(|| missing("part"))?,
            record,
            chain,
        };
        question.check()?;
        Ok(question)
    }
}

impl Question {
    /// Whether a node would answer it.
    fn check(&self) -> Result<(), QuestionError> {
        let Self { from, to, part, record, .. } = *self;
        // Positions are added up below, and no stream reaches that far.
        let far = to > u64::MAX / 2;
        if from >= to || far || record.is_some_and(|record| record > from) {
            return Err(QuestionError::Range { from, to, record });
        }
        let parts = self.parts();
        if part < MIN_PROOF_PART_BYTES || parts > MAX_PROOF_PARTS as u64 {
            return Err(QuestionError::Parts { part, parts });
        }
        Ok(())
    }

    /// How many parts the range has.
    #[must_use]
    pub fn parts(&self) -> u64 {
        (self.to - self.from).div_ceil(self.part.max(1))
    }
}

fn wrong(key: &'static str, value: &str) -> QuestionError {
    QuestionError::Value { key, value: value.to_owned() }
}

fn parsed<T: FromStr>(key: &'static str, value: &str) -> Result<T, QuestionError> {
    value.parse().map_err(|_| wrong(key, value))
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The stream that the space holds here, 32 hexadecimal digits. Positions
    /// in two streams have nothing to do with each other.
    pub stream: String,
    /// Up to where this answer goes.
    pub to: u64,
    /// The digest of each part, 16 hexadecimal digits; nothing of one that
    /// this node does not hold whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Option<String>>,
    /// For each part the last position at or before its beginning at which a
    /// record begins, if one is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Option<u64>>,
    /// The last position up to `to` at which a record ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// The records, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Listed>,
    /// Ranges that this node does not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// Headers in the range that do not hold. At most
    /// [`MAX_PROOF_PARTS`] are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Damaged>,
}

/// A position between two records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// The position.
    pub lsn: u64,
    /// The chain there, 16 hexadecimal digits; nothing if it is not known,
    /// because the range does not begin where it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

/// A range of the stream that a node does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Where it begins.
    pub from: u64,
    /// Where it ends.
    pub to: u64,
    /// The segment in which it lay, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Why it is not there, and where it was looked for.
    pub why: String,
    /// True if it may be gone rightly: the database owns its files, and
    /// removes those that it needs no longer. False if it should be there.
    pub retired: bool,
}

/// A header that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Where in the stream it stands.
    pub lsn: u64,
    /// In which segment.
    pub segment: String,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// One record, as a node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Where in the stream it begins.
    pub lsn: u64,
    /// In which segment.
    pub segment: String,
    /// Where in the file.
    pub offset: u64,
    /// Header and payload; of a record whose header does not hold, up to the
    /// next record that does.
    pub bytes: u64,
    /// Over all of these bytes.
    pub digest: String,
    /// Its sequence, if the header holds. No identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Its entry type, likewise.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub entry_type: Option<u32>,
    /// What is wrong with it; nothing if header and payload hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn question() -> Question {
        Question {
            space: "alpha".parse().unwrap(),
            of: Of::Headers,
            from: 100,
            to: 5000,
            part: 1024,
            record: Some(64),
            chain: Some(0xabc),
        }
    }

    #[test]
    fn a_question_is_read_as_it_is_written() {
        for question in [question(), Question { record: None, chain: None, ..question() }] {
            assert_eq!(question.to_string().parse(), Ok(question));
        }
    }

    #[test]
    fn every_wrong_question_is_refused_by_what_is_wrong() {
        let refusal = |text: &str| text.parse::<Question>().unwrap_err().to_string();
        let good = question().to_string();
        for (from, to, expected) in [
            ("space=alpha", "", "space is missing"),
            ("space=alpha", "space=../x", "space cannot be \"../x\""),
            ("of=headers", "of=payloads", "of cannot be \"payloads\""),
            ("from=100", "from=-1", "from cannot be \"-1\""),
            ("to=5000", "to=100", "is no range"),
            ("to=5000", "to=18446744073709551615", "is no range"),
            ("record=64", "record=101", "is no range"),
            ("part=1024", "part=1023", "at most"),
            ("to=5000", "to=500000", "at most"),
            ("chain=", "chain=x", "chain cannot be"),
            ("&chain", "&more", "\"more\" is no part of a question"),
        ] {
            let text = refusal(&good.replace(from, to));
            assert!(text.contains(expected), "{text}");
        }
    }
}
