//! From record to record along a stream, wherever its runs lie.
//!
//! The walker stands at a boundary and looks at what begins there: a record, a
//! header that does not hold, or nothing. It never stops for damage: behind a
//! bad header it goes on at the next record of the run, or at the next run,
//! where a record begins in any case. The chain is known until then.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::ground::{Ground, Piece, Stretch};
use super::question::{Absent, Damaged};
use crate::limits::{
    MAX_PROOF_PARTS, MAX_RECORD_BYTES, MAX_SEARCH_BYTES_PER_TURN, RECORD_HEADER_BYTES,
};
use crate::lsn::{Chain, Lsn};
use crate::wal::record::{Checksums, Header, RecordError};
use crate::wal::search::{self, Found};

const HEADER_BYTES: u64 = RECORD_HEADER_BYTES as u64;

/// What begins at the walker.
#[derive(Clone, Debug)]
pub(super) enum Ahead {
    /// A record.
    Record { raw: [u8; RECORD_HEADER_BYTES], header: Header },
    /// A header that does not hold; the next record begins `behind`, if one
    /// was found.
    Bad { raw: [u8; RECORD_HEADER_BYTES], error: RecordError, behind: Option<Lsn> },
    /// A range that this node does not have.
    Absent { until: Lsn },
    /// The stream ends here, or within the next header.
    Nothing,
}

/// Bytes of the stream that were read already.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Where they begin in the stream.
    pub(super) from: Lsn,
    /// What they are.
    pub(super) bytes: &'a [u8],
}

impl View<'_> {
    /// No bytes: every header is read from its file.
    pub(super) const NONE: Self = View { from: Lsn::ZERO, bytes: &[] };

    /// The header at a position, if all of it is in view.
    fn header_at(&self, lsn: Lsn) -> Option<[u8; RECORD_HEADER_BYTES]> {
        let skip = usize::try_from(lsn.0.checked_sub(self.from.0)?).ok()?;
        self.bytes.get(skip..)?.first_chunk().copied()
    }
}

/// Stands at a boundary of a stream.
#[derive(Debug)]
pub(super) struct Walker {
    at: Lsn,
    chain: Option<Chain>,
    ahead: Option<Ahead>,
    /// Behind this nothing is searched, and after that time neither.
    limit: Lsn,
    deadline: Instant,
    checksums: Checksums,
    damaged: Vec<Damaged>,
    absent: Vec<Absent>,
}

impl Walker {
    /// A walker at a boundary, that will not be asked to go beyond `end`.
    pub(super) fn new(
        at: Lsn,
        chain: Option<Chain>,
        end: Lsn,
        checksums: Checksums,
        deadline: Instant,
    ) -> Self {
        let limit = end.advance(MAX_RECORD_BYTES);
        let (damaged, absent) = (Vec::new(), Vec::new());
        Self { at, chain, ahead: None, limit, deadline, checksums, damaged, absent }
    }

    /// Where it stands.
    pub(super) fn at(&self) -> Lsn {
        self.at
    }

    /// The chain there.
    pub(super) fn chain(&self) -> Option<Chain> {
        self.chain
    }

    /// The headers that did not hold, and the ranges that were not there.
    pub(super) fn findings(self) -> (Vec<Damaged>, Vec<Absent>) {
        (self.damaged, self.absent)
    }

    /// Note a range that is not there, once.
    pub(super) fn note_absent(&mut self, absent: Absent) {
        let known = self.absent.last().is_some_and(|last| last.to >= absent.to);
        if !known && self.absent.len() < MAX_PROOF_PARTS {
            self.absent.push(absent);
        }
    }

    /// Go on to the last boundary that is not behind `until`. `each` is given
    /// the header of every record that begins before it and was not looked at
    /// before, good or bad.
    pub(super) fn walk(
        &mut self,
        until: Lsn,
        view: View<'_>,
        ground: &mut Ground,
        each: &mut dyn FnMut(&[u8; RECORD_HEADER_BYTES]),
    ) -> io::Result<()> {
        while self.at < until {
            let fresh = self.ahead.is_none();
            let ahead = self.look(view, ground)?;
            if fresh && let Ahead::Record { raw, .. } | Ahead::Bad { raw, .. } = &ahead {
                each(raw);
            }
            match self.end(&ahead) {
                Some(end) if end <= until => self.pass(&ahead, end),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Where what is ahead ends, if that is known.
    pub(super) fn end(&self, ahead: &Ahead) -> Option<Lsn> {
        match ahead {
            Ahead::Record { header, .. } => Some(self.at.advance(header.record_bytes())),
            Ahead::Bad { behind, .. } => *behind,
            Ahead::Absent { until } => Some(*until),
            Ahead::Nothing => None,
        }
    }

    /// Go behind what is ahead, which ends at `end`.
    pub(super) fn pass(&mut self, ahead: &Ahead, end: Lsn) {
        self.chain = match ahead {
            Ahead::Record { raw, .. } => self.chain.map(|chain| chain.extend(raw)),
            _ => None,
        };
        self.at = end;
        self.ahead = None;
    }

    /// What begins here.
    pub(super) fn look(&mut self, view: View<'_>, ground: &mut Ground) -> io::Result<Ahead> {
        if let Some(ahead) = &self.ahead {
            return Ok(ahead.clone());
        }
        let ahead = self.look_anew(view, ground)?;
        self.ahead = Some(ahead.clone());
        Ok(ahead)
    }

    fn look_anew(&mut self, view: View<'_>, ground: &mut Ground) -> io::Result<Ahead> {
        let piece = match ground.stretch(self.at)? {
            Stretch::Held(piece) => piece,
            Stretch::Absent { until, segment, why, retired } => {
                self.note_absent(Absent {
                    from: self.at.0,
                    to: until.0,
                    segment: segment.map(|segment| segment.to_string()),
                    why,
                    retired,
                });
                return Ok(Ahead::Absent { until });
            }
        };
        let (parsed, raw) = if piece.bytes < HEADER_BYTES {
            if piece.run_end.is_none() {
                return Ok(Ahead::Nothing);
            }
            let (need, have) = (HEADER_BYTES, piece.bytes);
            (Err(RecordError::Truncated { need, have }), [0; RECORD_HEADER_BYTES])
        } else {
            let raw = match view.header_at(self.at) {
                Some(raw) => raw,
                None => read_header(&piece)?,
            };
            (Header::parse(&raw, self.checksums), raw)
        };
        let behind_run = |header: &Header| {
            piece.run_end.is_some_and(|end| self.at.advance(header.record_bytes()) > end)
        };
        let error = match parsed {
            Ok(header) if behind_run(&header) => {
                RecordError::Truncated { need: header.record_bytes(), have: piece.bytes }
            }
            Ok(header) => return Ok(Ahead::Record { raw, header }),
            Err(error) => error,
        };
        let behind = self.search(&piece)?;
        if self.damaged.len() < MAX_PROOF_PARTS {
            self.damaged.push(Damaged {
                lsn: self.at.0,
                segment: piece.segment.to_string(),
                offset: piece.offset,
                problem: error.to_string(),
            });
        }
        Ok(Ahead::Bad { raw, error, behind })
    }

    /// Where the next record behind a bad header begins.
    fn search(&self, piece: &Piece<'_>) -> io::Result<Option<Lsn>> {
        let end = piece.offset + piece.bytes;
        let limit = end.min(piece.offset + self.limit.bytes_since(self.at));
        let mut from = piece.offset + 1;
        while from < limit && Instant::now() < self.deadline {
            let turn = MAX_SEARCH_BYTES_PER_TURN.min(limit - from);
            match search::find_record(piece.file.file(), from, turn, end, self.checksums)? {
                Found::Record(offset) => return Ok(Some(self.at.advance(offset - piece.offset))),
                Found::NoneBefore(offset) if offset > from => from = offset,
                // Too few bytes are left for a header.
                Found::NoneBefore(_) => break,
            }
        }
        Ok(piece.run_end.filter(|_| limit == end && from + HEADER_BYTES > end))
    }
}

fn read_header(piece: &Piece<'_>) -> io::Result<[u8; RECORD_HEADER_BYTES]> {
    let mut raw = [0; RECORD_HEADER_BYTES];
    piece.file.file().read_exact_at(&mut raw, piece.offset)?;
    Ok(raw)
}
