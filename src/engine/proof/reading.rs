//! Answering one question: from positions to bytes to digests.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use crc32c::crc32c_append;

use super::ProofError;
use super::ground::{Ground, Stretch};
use super::question::{Absent, Answer, Boundary, Listed, Of, Question};
use super::walker::{Ahead, View, Walker};
use crate::limits::{MAX_PROOF_RECORDS, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, VERIFY_PIECE_BYTES};
use crate::lsn::{Chain, Lsn};
use crate::state::catalog::Role;
use crate::wal::digest::{Digest, Digester};
use crate::wal::record::{Checksums, Header};

/// How far headers are walked between two looks at the clock: at worst 16,000
/// reads of 64 bytes.
const WALK_STEP_BYTES: u64 = 1 << 20;

/// The reading for one answer.
pub(super) struct Reading<'a> {
    question: &'a Question,
    ground: Ground,
    walker: Walker,
    piece: Vec<u8>,
    /// Read from the disk what is in the page cache: what a replica holds is
    /// seldom wanted, and proves nothing while it is a copy in memory. A
    /// primary's is what the database and the senders read.
    afresh: bool,
    /// Records have been small of late.
    dense: bool,
    deadline: Instant,
    /// Whether anybody still waits for the answer.
    wanted: &'a dyn Fn() -> bool,
}

/// Records that are smaller than this on average are read whole for the sake
/// of their headers.
const DENSE_RECORD_BYTES: u64 = 64 << 10;

/// What a read came to.
enum Fetched {
    /// As many bytes lie in the piece.
    Bytes(usize),
    /// This node does not have what lies before that position.
    Absent { until: u64 },
}

/// The time is up, or nobody waits any longer.
struct Late;

impl<'a> Reading<'a> {
    pub(super) fn new(
        question: &'a Question,
        ground: Ground,
        checksums: Checksums,
        deadline: Instant,
        wanted: &'a dyn Fn() -> bool,
    ) -> Self {
        let (at, chain) = match question.record {
            Some(record) => (Lsn(record), question.chain.map(Chain)),
            None => match ground.boundary(Lsn(question.from)) {
                Some((lsn, mark)) => (lsn, mark.map(|mark| mark.chain)),
                None => (Lsn(question.from), None),
            },
        };
        let walker = Walker::new(at, chain, Lsn(question.to), checksums, deadline);
        let piece = vec![0; VERIFY_PIECE_BYTES];
        let afresh = question.of == Of::Bytes && ground.record().role == Role::Replica;
        Self { question, ground, walker, piece, afresh, dense: true, deadline, wanted }
    }

    /// Read, and answer.
    pub(super) async fn answer(mut self) -> Result<Answer, ProofError> {
        let mut answer = Answer {
            stream: format!("{:?}", self.ground.record().stream),
            to: self.question.from,
            ..Answer::default()
        };
        match self.question.of {
            Of::Records => self.list(&mut answer).await?,
            Of::Bytes | Of::Headers => self.parts(&mut answer).await?,
        }
        let (damaged, absent) = self.walker.findings();
        answer.damaged = damaged;
        let (from, to) = (self.question.from, answer.to);
        answer.absent = absent
            .into_iter()
            .map(|absent| Absent { from: absent.from.max(from), to: absent.to.min(to), ..absent })
            .filter(|absent| absent.from < absent.to)
            .collect();
        Ok(answer)
    }

    /// Whether to go on.
    fn in_time(&self) -> Result<(), Late> {
        if Instant::now() < self.deadline && (self.wanted)() { Ok(()) } else { Err(Late) }
    }

    fn late(&self) -> ProofError {
        let Question { space, from, part, .. } = self.question;
        ProofError::Late { space: space.clone(), lsn: Lsn(*from), part_bytes: *part }
    }

    /// Digests, part by part.
    async fn parts(&mut self, answer: &mut Answer) -> Result<(), ProofError> {
        let &Question { from, to, part, of, .. } = self.question;
        for index in 0..self.question.parts() {
            let begin = from + index * part;
            let end = (begin + part).min(to);
            if self.walk_to(Lsn(begin))?.is_err() {
                break;
            }
            let at = self.walker.at();
            let digest = match of {
                Of::Headers => self.headers(begin, end).await?,
                Of::Bytes | Of::Records => self.bytes(begin, end).await?,
            };
            let Ok(digest) = digest else { break };
            answer.digests.push(digest.map(|digest| digest.to_string()));
            answer.records.push((at.0 <= begin).then_some(at.0));
            answer.to = end;
            answer.boundary = Some(Boundary {
                lsn: self.walker.at().0,
                chain: self.walker.chain().map(|chain| format!("{chain:?}")),
            });
        }
        if answer.digests.is_empty() { Err(self.late()) } else { Ok(()) }
    }

    /// Walk to the last boundary up to a position, by headers alone.
    fn walk_to(&mut self, until: Lsn) -> Result<Result<(), Late>, ProofError> {
        let mut at = self.walker.at();
        while at < until {
            if self.in_time().is_err() {
                return Ok(Err(Late));
            }
            at = until.min(at.advance(WALK_STEP_BYTES));
            self.walker.walk(at, View::NONE, &mut self.ground, &mut |_| {})?;
        }
        Ok(Ok(()))
    }

    /// The digest of a part's headers; nothing if a part of it is not there.
    async fn headers(
        &mut self,
        begin: u64,
        end: u64,
    ) -> Result<Result<Option<Digest>, Late>, ProofError> {
        let mut digester = Digester::default();
        let mut at = begin;
        while at < end {
            if self.in_time().is_err() {
                return Ok(Err(Late));
            }
            let step = end.min(at + WALK_STEP_BYTES);
            // Of many small records everything is read, in one go: a read for
            // each header takes longer, and brings in the same pages.
            let fetched = if self.dense { Some(self.fetch(at, step).await?) } else { None };
            let (step, view) = match fetched {
                Some(Fetched::Bytes(count)) => {
                    let bytes = &self.piece[..count];
                    (at + count as u64, View { from: Lsn(at), bytes })
                }
                Some(Fetched::Absent { .. }) | None => (step, View::NONE),
            };
            let mut headers = 0;
            let each = &mut |raw: &[u8; RECORD_HEADER_BYTES]| {
                digester.feed(raw);
                headers += 1;
            };
            self.walker.walk(Lsn(step), view, &mut self.ground, each)?;
            self.dense = headers >= (step - at) / DENSE_RECORD_BYTES;
            at = step;
        }
        Ok(Ok(self.is_held(begin, end)?.then(|| digester.finish())))
    }

    /// Whether this node has all of a range, as far as its files are long
    /// enough.
    fn is_held(&mut self, mut at: u64, end: u64) -> Result<bool, ProofError> {
        while at < end {
            match self.ground.stretch(Lsn(at))? {
                Stretch::Held(piece) => at += piece.bytes,
                Stretch::Absent { .. } => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The digest of a part's bytes; nothing if a part of it is not there.
    async fn bytes(
        &mut self,
        begin: u64,
        end: u64,
    ) -> Result<Result<Option<Digest>, Late>, ProofError> {
        let mut digester = Digester::default();
        let mut whole = true;
        let mut at = begin;
        while at < end {
            if self.in_time().is_err() {
                return Ok(Err(Late));
            }
            match self.fetch(at, end).await? {
                Fetched::Bytes(count) => {
                    let bytes = &self.piece[..count];
                    digester.feed(bytes);
                    let view = View { from: Lsn(at), bytes };
                    at += count as u64;
                    self.walker.walk(Lsn(at), view, &mut self.ground, &mut |_| {})?;
                }
                Fetched::Absent { until } => {
                    at = until;
                    whole = false;
                }
            }
        }
        Ok(Ok(whole.then(|| digester.finish())))
    }

    /// Read some of the bytes from `at` on, at most to `end`. What is not
    /// there is noted.
    async fn fetch(&mut self, at: u64, end: u64) -> Result<Fetched, ProofError> {
        let (piece, segment) = match self.ground.stretch(Lsn(at))? {
            Stretch::Held(piece) => (piece, piece.segment.to_string()),
            Stretch::Absent { until, segment, why, retired } => {
                let segment = segment.map(|segment| segment.to_string());
                self.walker.note_absent(Absent { from: at, to: until.0, segment, why, retired });
                return Ok(Fetched::Absent { until: until.0 });
            }
        };
        let lent = std::mem::take(&mut self.piece);
        let most = usize::try_from(piece.bytes.min(end - at)).unwrap_or(usize::MAX);
        let most = most.min(lent.len());
        if self.afresh {
            piece.file.forget(piece.offset, most as u64);
        }
        let (result, lent) = piece.file.read(lent, most, piece.offset).await;
        self.piece = lent;
        let why = match result {
            Ok(count @ 1..) => return Ok(Fetched::Bytes(count)),
            Ok(_) => "the file became shorter".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        let segment = Some(segment);
        self.walker.note_absent(Absent { from: at, to: end, segment, why, retired: false });
        Ok(Fetched::Absent { until: end })
    }

    /// Each record that reaches into the range.
    async fn list(&mut self, answer: &mut Answer) -> Result<(), ProofError> {
        let &Question { from, to, .. } = self.question;
        if self.walk_to(Lsn(from))?.is_err() {
            return Err(self.late());
        }
        while self.walker.at() < Lsn(to) && answer.listed.len() < MAX_PROOF_RECORDS {
            if self.in_time().is_err() {
                break;
            }
            let lsn = self.walker.at();
            let ahead = self.walker.look(View::NONE, &mut self.ground)?;
            let end = self.walker.end(&ahead);
            let listed = match &ahead {
                Ahead::Record { header, .. } => {
                    Some(self.record(lsn, Ok(header), header.record_bytes()).await?)
                }
                Ahead::Bad { error, .. } => {
                    let bytes = end.map_or(to - lsn.0.min(to), |end| end.bytes_since(lsn));
                    let bytes = bytes.min(MAX_RECORD_BYTES);
                    Some(self.record(lsn, Err(error.to_string()), bytes).await?)
                }
                Ahead::Absent { .. } | Ahead::Nothing => None,
            };
            answer.listed.extend(listed);
            let Some(end) = end else { break };
            self.walker.pass(&ahead, end);
        }
        answer.to = self.walker.at().0.clamp(from, to);
        Ok(())
    }

    /// One record, read whole, or what can be read of it.
    async fn record(
        &mut self,
        lsn: Lsn,
        header: Result<&Header, String>,
        bytes: u64,
    ) -> Result<Listed, ProofError> {
        let mut digester = Digester::default();
        let (mut crc, mut done) = (0, 0);
        let mut place = None;
        let mut problem = header.as_ref().err().cloned();
        while done < bytes {
            let piece = match self.ground.stretch(lsn.advance(done))? {
                Stretch::Held(piece) => piece,
                Stretch::Absent { why, .. } => {
                    problem.get_or_insert(why);
                    break;
                }
            };
            place.get_or_insert((piece.segment, piece.offset));
            let most = usize::try_from(piece.bytes.min(bytes - done)).unwrap_or(usize::MAX);
            let most = most.min(self.piece.len());
            let count = match piece.file.file().read_at(&mut self.piece[..most], piece.offset) {
                Ok(count @ 1..) => count,
                Ok(_) => {
                    problem.get_or_insert_with(|| "the file became shorter".to_owned());
                    break;
                }
                Err(error) => {
                    problem.get_or_insert_with(|| format!("cannot be read: {error}"));
                    break;
                }
            };
            let taken = &self.piece[..count];
            digester.feed(taken);
            let header_left = (RECORD_HEADER_BYTES as u64).saturating_sub(done);
            let skip = usize::try_from(header_left).unwrap_or(usize::MAX).min(count);
            crc = crc32c_append(crc, &taken[skip..]);
            done += count as u64;
        }
        if problem.is_none()
            && let Ok(header) = header
            && let Err(error) = header.check_payload_crc(crc)
        {
            problem = Some(error.to_string());
        }
        let header = header.ok();
        Ok(Listed {
            lsn: lsn.0,
            segment: place.map_or_else(String::new, |(segment, _)| segment.to_string()),
            offset: place.map_or(0, |(_, offset)| offset),
            bytes,
            digest: digester.finish().to_string(),
            sequence: header.map(|header| header.sequence),
            entry_type: header.map(|header| header.entry_type),
            problem,
        })
    }
}
