//! Turning new bytes into marks, by headers alone.
//!
//! A cursor stands between two records of one segment. Asked to advance, it
//! walks from header to header and reports each boundary that it passes; of
//! the payloads it touches nothing, with the exceptions below.
//!
//! ```text
//!   file    |hdr|payload   |hdr|payload  |hdr|payl          (end of file)
//!           ^              ^             ^
//!       cursor          boundary     boundary, Incomplete: wait
//! ```
//!
//! # Wait, or damage?
//!
//! A header may be visible before its payload, and the first bytes of it
//! before the rest (T5). The cursor **waits** ([`Stop::Incomplete`]) while
//! what it sees could be the beginning of a record that is being written:
//!
//! 1. a good header, and a file that ends within the payload;
//! 2. fewer than 64 bytes that begin with the magic, or are all zero;
//! 3. nothing but zeroes up to the end of the file: space that was allocated
//!    and not written, or a tail that a crash has zeroed;
//! 4. a header that begins with the magic and whose CRC is not all written yet,
//!    with nothing or nothing but zeroes behind it: a write into allocated
//!    space that has got this far;
//! 5. a good header whose payload does not hold, with nothing but zeroes
//!    behind it: the same, a little later.
//!
//! Everything else is **damage** ([`Stop::Corrupt`]), reported at once. It is
//! looked at afresh on each call, so a misjudgement heals by itself. A writer
//! that dies leaves 1, 2 or 4 behind for good: once a later segment has
//! begun, who owns the cursor knows that waiting is over, and says so.
//!
//! # When a payload is read
//!
//! A write that failed half way leaves a good header whose payload is cut
//! short and runs into the next record (T7). Walked by headers alone it would
//! pass. So a boundary is reported only after the bytes behind it have been
//! looked at, and if those are no record, the payload before them is checked.
//! The payload of a record that was once seen incomplete is checked too.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use crate::limits::{CURSOR_WINDOW_BYTES, MAX_SEARCH_BYTES_PER_TURN, RECORD_HEADER_BYTES};
use crate::lsn::{Chain, Lsn, Mark};
use crate::wal::map::Map;
use crate::wal::record::{self, Checksums, Header, MAGIC_BYTES, RecordError};
use crate::wal::search::{self, Found};
use crate::wal::segment::Segment;

/// A header, as a file offset counts it.
const HEADER_BYTES: u64 = RECORD_HEADER_BYTES as u64;

/// A tail shorter than this is read header by header instead of mapped: a
/// space that gets one record now and then needs no map.
const SHORT_TAIL_BYTES: u64 = 4096;

/// How many records ahead a header is fetched into the processor's cache, on
/// the guess that records are of one size. A miss, with the walk of the page
/// tables before it, takes as long as eight headers take to check.
const EXPECTED_AHEAD: u64 = 8;

/// Why an advance ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stop {
    /// The budget is spent; more may follow. Call again.
    Budget,
    /// The cursor stands exactly at the end of the file.
    End,
    /// The beginning of a record is there. Wait for the file to change.
    Incomplete {
        /// Bytes that are missing at least.
        need: u64,
    },
    /// What lies at the cursor is no record. Report the range; then
    /// [`Cursor::skip_to`] the next record.
    Corrupt {
        /// Where the damage begins: the offset of the cursor.
        offset: u64,
        /// What is wrong there.
        error: RecordError,
        /// Where the next good record begins, if one was found.
        resync: Option<u64>,
        /// None was found yet, and the search is bounded: call again soon.
        /// False: everything visible was searched, wait for more.
        more: bool,
    },
    /// The file is shorter than what was walked (T6). The stream continues at
    /// the last boundary that the file still has, in a new epoch.
    Shrunk {
        /// Its length now.
        len: u64,
    },
    /// The file could not be read. The cursor stays where it is.
    Failed {
        /// Where.
        offset: u64,
        /// What the system said.
        error: io::Error,
    },
}

/// What an advance came to.
#[derive(Debug)]
#[must_use]
pub struct Advance {
    /// Bytes of whole records passed.
    pub bytes: u64,
    /// Why it ended.
    pub stop: Stop,
}

/// Why a position was not reached. The cursor stands at the last boundary
/// before it, or at the first one behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeekError {
    /// No record ends there: the position belongs to another stream.
    #[error("lsn {target} is no record boundary: records end at {before} and {behind}")]
    NotABoundary {
        /// The position asked for.
        target: Lsn,
        /// The last boundary before it.
        before: Lsn,
        /// The first boundary behind it.
        behind: Lsn,
    },
    /// The segment does not reach that far, or is damaged before.
    #[error("lsn {target} was not reached: the walk stopped at {reached}: {stop:?}")]
    Stopped {
        /// The position asked for.
        target: Lsn,
        /// The boundary that was reached.
        reached: Lsn,
        /// Why it went no further.
        stop: Stop,
    },
}

/// What lies at one offset.
enum Seen {
    Whole { raw: [u8; RECORD_HEADER_BYTES], header: Header },
    Incomplete { need: u64 },
    End,
    Bad { raw: [u8; RECORD_HEADER_BYTES], error: RecordError },
}

/// A record that was passed but not reported yet: it starts at the cursor.
struct Pending {
    header: Header,
    mark: Mark,
}

/// Walks one segment.
#[derive(Debug)]
pub struct Cursor {
    segment: Arc<Segment>,
    checksums: Checksums,
    offset: u64,
    mark: Mark,
    window: Option<Map>,
    /// How long the segment is, looked at for the next advance already.
    end: Option<u64>,
    /// Where the last record before the cursor starts, and the chain before it.
    last: Option<(u64, Chain)>,
    /// A record at this offset was seen incomplete.
    awaited: Option<u64>,
    /// Damage at the first offset was searched up to the second.
    searched: Option<(u64, u64)>,
    /// Bytes that were found to be zero. Trusted afterwards: a log is written
    /// from front to back.
    zeroes: Option<(u64, u64)>,
}

impl Cursor {
    /// A cursor at `offset` of the file, where the stream stands at `mark`.
    #[must_use]
    pub const fn new(segment: Arc<Segment>, offset: u64, mark: Mark, checksums: Checksums) -> Self {
        Self {
            segment,
            checksums,
            offset,
            mark,
            window: None,
            end: None,
            last: None,
            awaited: None,
            searched: None,
            zeroes: None,
        }
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where in the file the cursor stands.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Where in the stream the cursor stands.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// Where the last record before the cursor starts in the file, and the chain
    /// before it. `None` if this cursor has not passed a record.
    #[must_use]
    pub const fn last_record(&self) -> Option<(u64, Chain)> {
        self.last
    }

    /// How long the segment is. The next advance goes no further, if it comes
    /// before anything else is waited for; looking twice would tell it no more.
    ///
    /// # Errors
    ///
    /// As `fstat`.
    pub fn look_at_end(&mut self) -> io::Result<u64> {
        self.end = None;
        let end = self.segment.len()?;
        self.end = Some(end);
        Ok(end)
    }

    /// Give up the memory map. Worth it for a space that has gone quiet; the
    /// next advance maps anew if it must.
    pub fn release(&mut self) {
        self.window = None;
    }

    /// Go on behind damage. The bytes between are no part of the stream: its
    /// position stays, and a new run begins here.
    pub const fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
        self.awaited = None;
        self.searched = None;
    }

    /// Walk over whole records until at least `max_bytes` of them are passed
    /// or nothing more can be. `each` is given every boundary, ascending.
    ///
    /// Blocks on the disk only for pages that are not in the cache: bring them
    /// there first, from [`offset`](Self::offset) on. Touches no payload of
    /// good records.
    pub fn advance(&mut self, max_bytes: u64, each: &mut impl FnMut(&Mark)) -> Advance {
        let from = self.mark.lsn;
        let stop = self
            .walk(max_bytes, each)
            .unwrap_or_else(|error| Stop::Failed { offset: self.offset, error });
        Advance { bytes: self.mark.lsn.bytes_since(from), stop }
    }

    fn walk(&mut self, max_bytes: u64, each: &mut impl FnMut(&Mark)) -> io::Result<Stop> {
        let mut end = match self.end.take() {
            Some(end) => end,
            None => self.segment.len()?,
        };
        let target = self.mark.lsn.0.saturating_add(max_bytes);
        let ahead = max_bytes.min(end.saturating_sub(self.offset));
        if ahead > SHORT_TAIL_BYTES
            && let Some(window) = &self.window
        {
            window.enter(self.offset, ahead);
        }
        let mut pending: Option<Pending> = None;
        loop {
            let at = self.offset + pending.as_ref().map_or(0, |p| p.header.record_bytes());
            if at > end {
                return Ok(Stop::Shrunk { len: end });
            }
            let seen = match self.look(at, end)? {
                Ok(seen) => seen,
                Err(len) if len < self.offset => return Ok(Stop::Shrunk { len }),
                Err(len) => {
                    // The file shrank to somewhere behind the cursor: what
                    // was passed and not reported may be gone as well.
                    end = len;
                    pending = None;
                    continue;
                }
            };
            if let Some(passed) = pending.take() {
                if let Some(stop) = self.doubt(&passed, at, &seen, end)? {
                    return Ok(stop);
                }
                self.commit(&passed);
                each(&self.mark);
            }
            match seen {
                Seen::Whole { .. } if self.mark.lsn.0 >= target => return Ok(Stop::Budget),
                Seen::Whole { raw, header } => {
                    let mark = record::step(&self.mark, &raw, &header);
                    pending = Some(Pending { header, mark });
                }
                Seen::End => return Ok(Stop::End),
                Seen::Incomplete { need } => {
                    self.awaited = Some(at);
                    return Ok(Stop::Incomplete { need });
                }
                Seen::Bad { raw, error } => return self.judge(at, &raw, error, end),
            }
        }
    }

    /// The passed record is part of the stream.
    #[inline]
    fn commit(&mut self, passed: &Pending) {
        self.last = Some((self.offset, self.mark.chain));
        self.offset += passed.header.record_bytes();
        self.mark = passed.mark;
    }

    /// What lies at `at`, in a file of `end` bytes. The inner error is the
    /// length of the file, if that turns out to be less.
    #[inline]
    fn look(&mut self, at: u64, end: u64) -> io::Result<Result<Seen, u64>> {
        let visible = end - at;
        if visible < HEADER_BYTES {
            return self.look_at_few(at, visible);
        }
        let raw = match self.window.as_ref().and_then(|window| window.header_at(at)) {
            Some(raw) => raw,
            None => self.map_and_read(at, end)?,
        };
        match Header::parse(&raw, self.checksums) {
            Ok(header) => {
                if let Some(window) = &self.window {
                    window.expect(at + EXPECTED_AHEAD * header.record_bytes());
                }
                Ok(Ok(Self::whole(raw, header, visible)))
            }
            Err(error) => self.look_again(at, end, raw, error),
        }
    }

    #[inline]
    fn whole(raw: [u8; RECORD_HEADER_BYTES], header: Header, visible: u64) -> Seen {
        match header.record_bytes().checked_sub(visible) {
            None | Some(0) => Seen::Whole { raw, header },
            Some(need) => Seen::Incomplete { need },
        }
    }

    /// The header at `at`, through a window that begins there.
    #[cold]
    fn map_and_read(&mut self, at: u64, end: u64) -> io::Result<[u8; RECORD_HEADER_BYTES]> {
        if end - at > SHORT_TAIL_BYTES {
            self.window = None;
            let window = Map::new(&self.segment.file, at, CURSOR_WINDOW_BYTES)?;
            let raw = window.header_at(at);
            self.window = Some(window);
            if let Some(raw) = raw {
                return Ok(raw);
            }
        }
        self.segment.header_bytes_at(at)
    }

    /// No header was read. If the map is to blame, read without it.
    #[cold]
    fn look_again(
        &mut self,
        at: u64,
        end: u64,
        raw: [u8; RECORD_HEADER_BYTES],
        error: RecordError,
    ) -> io::Result<Result<Seen, u64>> {
        if !self.window.as_ref().is_some_and(Map::is_damaged) {
            return Ok(Ok(Seen::Bad { raw, error }));
        }
        self.window = None;
        let len = self.segment.len()?;
        if len < end {
            return Ok(Err(len));
        }
        let raw = self.segment.header_bytes_at(at)?;
        Ok(Ok(match Header::parse(&raw, self.checksums) {
            Ok(header) => Self::whole(raw, header, end - at),
            Err(error) => Seen::Bad { raw, error },
        }))
    }

    /// Fewer bytes than a header has.
    fn look_at_few(&self, at: u64, visible: u64) -> io::Result<Result<Seen, u64>> {
        if visible == 0 {
            return Ok(Ok(Seen::End));
        }
        let mut raw = [0; RECORD_HEADER_BYTES];
        let have = search::read_up_to(&*self.segment.file, &mut raw, at)?;
        if (have as u64) < visible {
            return Ok(Err(at + have as u64));
        }
        let begins_well = raw[..have].iter().zip(&MAGIC_BYTES).all(|(a, b)| a == b);
        if begins_well || raw[..have].iter().all(|&byte| byte == 0) {
            return Ok(Ok(Seen::Incomplete { need: HEADER_BYTES - visible }));
        }
        let found = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        Ok(Ok(Seen::Bad { raw, error: RecordError::Magic { found } }))
    }

    /// May the passed record be reported, given what lies behind it? If not,
    /// what to answer instead.
    #[inline]
    fn doubt(
        &mut self,
        passed: &Pending,
        behind: u64,
        seen: &Seen,
        end: u64,
    ) -> io::Result<Option<Stop>> {
        let bad = match seen {
            Seen::Bad { raw, .. } => Some(raw),
            _ if self.awaited == Some(self.offset) => None,
            _ => return Ok(None),
        };
        self.check_passed(passed, behind, bad, end)
    }

    #[cold]
    fn check_passed(
        &mut self,
        passed: &Pending,
        behind: u64,
        bad: Option<&[u8; RECORD_HEADER_BYTES]>,
        end: u64,
    ) -> io::Result<Option<Stop>> {
        let offset = self.offset;
        let Err(error) = search::check_payload_at(&*self.segment.file, offset, &passed.header)?
        else {
            if self.awaited == Some(offset) {
                self.awaited = None;
            }
            return Ok(None);
        };
        if let Some(raw) = bad
            && raw.iter().all(|&byte| byte == 0)
        {
            match self.only_zeroes(behind, end)? {
                Some(true) => return Ok(Some(Stop::Incomplete { need: 1 })),
                Some(false) => {}
                None => return Ok(Some(Stop::Budget)),
            }
        }
        self.corrupt(offset, error, end).map(Some)
    }

    /// Bytes that are no header: a write in progress, or damage?
    #[cold]
    fn judge(
        &mut self,
        at: u64,
        raw: &[u8; RECORD_HEADER_BYTES],
        error: RecordError,
        end: u64,
    ) -> io::Result<Stop> {
        let may_become_a_header = match error {
            RecordError::Magic { .. } => {
                let written = raw.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                MAGIC_BYTES.starts_with(&raw[..written])
            }
            // With the last byte of its CRC all of a header is there: what follows
            // is zero.
            RecordError::HeaderCrc { .. } => raw[35] == 0,
            RecordError::NoChecksums => true,
            _ => false,
        };
        if may_become_a_header && end - at >= HEADER_BYTES {
            match self.only_zeroes(at + HEADER_BYTES, end)? {
                Some(true) => return Ok(Stop::Incomplete { need: 1 }),
                Some(false) => {}
                None => return Ok(Stop::Budget),
            }
        }
        self.corrupt(at, error, end)
    }

    /// Is there nothing but zeroes in `from..end`? `None`: not known yet, the
    /// work of one call is bounded.
    fn only_zeroes(&mut self, from: u64, end: u64) -> io::Result<Option<bool>> {
        let (known_from, known_to) = match self.zeroes {
            Some((start, to)) if (start..=to).contains(&from) && to <= end => (start, to),
            _ => (from, from),
        };
        let to = end.min(known_to.saturating_add(MAX_SEARCH_BYTES_PER_TURN));
        if search::first_nonzero(&*self.segment.file, known_to, to)?.is_some() {
            self.zeroes = None;
            return Ok(Some(false));
        }
        self.zeroes = Some((known_from, to));
        Ok((to == end).then_some(true))
    }

    /// Damage at `offset`: search for the next record, a bounded part at a
    /// time, going on where the last call ended.
    fn corrupt(&mut self, offset: u64, error: RecordError, end: u64) -> io::Result<Stop> {
        let from = match self.searched {
            Some((origin, to)) if origin == offset => to,
            _ => offset + 1,
        };
        let most = MAX_SEARCH_BYTES_PER_TURN;
        let found = search::find_record(&*self.segment.file, from, most, end, self.checksums)?;
        Ok(match found {
            Found::Record(at) => {
                // Asked again, the same answer comes at once.
                self.searched = Some((offset, at));
                Stop::Corrupt { offset, error, resync: Some(at), more: false }
            }
            Found::NoneBefore(to) => {
                self.searched = Some((offset, to));
                let more = to > from && end - to >= HEADER_BYTES;
                Stop::Corrupt { offset, error, resync: None, more }
            }
        })
    }

    /// Walk exactly to `target`. For start-up and for old positions: reads
    /// as far as it must, and waits for the disk.
    ///
    /// # Errors
    ///
    /// See [`SeekError`].
    pub fn seek_forward(&mut self, target: Lsn) -> Result<Mark, SeekError> {
        while self.mark.lsn < target {
            let missing = target.bytes_since(self.mark.lsn);
            let mut before = self.mark.lsn;
            let mut note = |mark: &Mark| {
                if mark.lsn <= target {
                    before = mark.lsn;
                }
            };
            let Advance { stop, .. } = self.advance(missing, &mut note);
            let behind = self.mark.lsn;
            if behind > target {
                return Err(SeekError::NotABoundary { target, before, behind });
            }
            if behind < target && !matches!(stop, Stop::Budget) {
                return Err(SeekError::Stopped { target, reached: behind, stop });
            }
        }
        if self.mark.lsn > target {
            let behind = self.mark.lsn;
            return Err(SeekError::NotABoundary { target, before: behind, behind });
        }
        Ok(self.mark)
    }

    /// The sequence of the record that starts at `offset` of the file.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`](crate::wal::segment::HeaderError).
    pub fn first_sequence_at(&self, offset: u64) -> Result<u64, crate::wal::segment::HeaderError> {
        self.segment.first_sequence_at(offset, self.checksums)
    }
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
