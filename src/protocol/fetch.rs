//! Asking for a range of the stream again, because the bytes at rest no longer
//! hold. Either end may ask the other: a replica its primary, a primary a
//! replica that has what it had.
//!
//! ```text
//!   asking                              serving
//!     |  Fetch lsn, bytes                  |
//!     |----------------------------------->|  read it, off the data core
//!     |                      Fetched lsn   |
//!     |<-----------------------------------|  at most as many bytes; none: not here
//! ```
//!
//! At most one question per space is open each way, so neither end needs more
//! memory than one answer. The bytes prove nothing by themselves: who asked
//! verifies every record of them, and that they continue the chain.

#![forbid(unsafe_code)]

use super::field::{MessageError, Reader, put_u32, put_u64};
use super::refusal::ErrorCode;
use crate::limits::MAX_FETCH_BYTES;
use crate::lsn::Lsn;

/// The body of `Fetch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The first byte.
    pub lsn: Lsn,
    /// How many, 1 to [`MAX_FETCH_BYTES`]. Need not end with a record.
    pub bytes: u32,
}

/// The body of `Fetched`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// As asked.
    pub lsn: Lsn,
    /// The bytes from there on, at most as many as asked for; fewer where a
    /// run ends. None: they cannot be had here.
    pub bytes: Vec<u8>,
}

impl Fetch {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.lsn.0);
        put_u32(out, self.bytes);
        put_u32(out, 0);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let lsn = reader.lsn("lsn")?;
        let bytes = reader.u32("bytes")?;
        if !(1..=MAX_FETCH_BYTES).contains(&bytes) || lsn.0.checked_add(bytes.into()).is_none() {
            return Err(MessageError::Value {
                field: "bytes",
                found: u64::from(bytes),
                expected: "1 to 61440, within the stream",
            });
        }
        reader.zeros("reserved", 4)?;
        Ok(Self { lsn, bytes })
    }
}

impl Fetched {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.lsn.0);
        out.extend_from_slice(&self.bytes);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let lsn = reader.lsn("lsn")?;
        Ok(Self { lsn, bytes: reader.rest("bytes", MAX_FETCH_BYTES as usize)?.to_vec() })
    }
}

/// The open questions of one space on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Questions {
    /// What was asked of the peer.
    asked: Option<Fetch>,
    /// What the peer has asked.
    serving: Option<Fetch>,
}

impl Questions {
    /// Ask, unless a question is open.
    pub(super) fn ask(&mut self, fetch: Fetch) -> bool {
        let free = self.asked.is_none();
        if free {
            self.asked = Some(fetch);
        }
        free
    }

    /// The peer's answer.
    pub(super) fn answered(&mut self, fetched: &Fetched) -> Result<(), (ErrorCode, String)> {
        let fits =
            |asked: &Fetch| asked.lsn == fetched.lsn && fetched.bytes.len() <= asked.bytes as usize;
        match self.asked.take() {
            Some(asked) if fits(&asked) => Ok(()),
            asked => Err((
                ErrorCode::Protocol,
                format!(
                    "{} bytes fetched from {}, asked for was {asked:?}",
                    fetched.bytes.len(),
                    fetched.lsn
                ),
            )),
        }
    }

    /// The peer asks.
    pub(super) fn serve(&mut self, fetch: Fetch) -> Result<(), (ErrorCode, String)> {
        match self.serving.replace(fetch) {
            None => Ok(()),
            Some(open) => Err((
                ErrorCode::Protocol,
                format!("asked for {fetch:?} while {open:?} was not answered"),
            )),
        }
    }

    /// The answer to what the peer asked, if it still waits for this one.
    pub(super) fn serve_with(&mut self, lsn: Lsn, bytes: Vec<u8>) -> Option<Fetched> {
        // More than was asked for is the answer to a question that was ended, when the
        // stream was cut.
        let fits = |open: &mut Fetch| open.lsn == lsn && bytes.len() <= open.bytes as usize;
        self.serving.take_if(fits)?;
        Some(Fetched { lsn, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Fetch = Fetch { lsn: Lsn(64), bytes: 10 };

    #[test]
    fn one_question_is_open_at_a_time() {
        let mut questions = Questions::default();
        assert!(questions.ask(RANGE) && !questions.ask(RANGE));
        assert!(questions.answered(&Fetched { lsn: Lsn(64), bytes: vec![1; 10] }).is_ok());
        assert!(questions.answered(&Fetched { lsn: Lsn(64), bytes: vec![] }).is_err());
        assert!(questions.serve(RANGE).is_ok() && questions.serve(RANGE).is_err());
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_refused() {
        for answer in
            [Fetched { lsn: Lsn(65), bytes: vec![] }, Fetched { lsn: Lsn(64), bytes: vec![0; 11] }]
        {
            let mut questions = Questions::default();
            assert!(questions.ask(RANGE));
            assert!(questions.answered(&answer).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_not_sent() {
        let mut questions = Questions::default();
        assert_eq!(questions.serve_with(Lsn(64), vec![]), None);
        assert!(questions.serve(RANGE).is_ok());
        assert_eq!(questions.serve_with(Lsn(0), vec![]), None);
        assert_eq!(
            questions.serve_with(Lsn(64), vec![7]),
            Some(Fetched { lsn: Lsn(64), bytes: vec![7] })
        );
    }
}
