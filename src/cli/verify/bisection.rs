//! Finding where two nodes' copies of a stream differ, by digests.
//!
//! ```text
//!   4 GiB   | 4 MiB | 4 MiB | 4 MiB | ...      every part once, on both nodes
//!                       x
//!           | 64 KiB | 64 KiB | ...            of the part that differs
//!                  x
//!           | 1 KiB | 1 KiB | ...              the smallest parts
//!               x
//!           record, record                     listed, with their places
//! ```
//!
//! What agrees is read once and never again. Of parts that differ in a row the
//! first is searched for its first record: behind it everything may be shifted,
//! and the rest says nothing.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admin::{Client, ClientError};
use crate::engine::proof::question::{Absent, Answer, Damaged, Listed, Of, Question};
use crate::ids::SpaceId;
use crate::limits::{MAX_PROOF_PARTS, MIN_PROOF_PART_BYTES};

/// Parts into which a whole stream is cut at first, unless they would be too
/// small or too large: 4 MiB of 4 GiB.
const FIRST_PARTS: u64 = 1024;

/// The smallest and the largest first part. A node has three seconds for one,
/// and no disk is so slow that it cannot read 16 MiB in that time.
const FIRST_PART_BYTES: (u64, u64) = (64 << 10, 16 << 20);

/// Differences that are searched for their records; the others are counted.
const MAX_LOCATED: usize = 16;

/// How long a node may be busy before it is given up, and the pause between
/// two attempts.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// What the comparison of one space came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The stream, as each side names it.
    pub(super) streams: [String; 2],
    /// The chain at the last boundary both know, if they know it.
    pub(super) chains: [Option<Boundary>; 2],
    /// Bytes of a first part, and how many of them differ.
    pub(super) part_bytes: u64,
    pub(super) parts: u64,
    pub(super) parts_different: u64,
    /// Where the copies differ, in the order of the stream.
    pub(super) differences: Vec<Difference>,
    /// Ranges that one side holds no longer, and may hold no longer.
    pub(super) gaps: Vec<Gap>,
    /// Headers that do not hold.
    pub(super) damaged: [Vec<Damaged>; 2],
    /// Differences that were gone at a second look.
    pub(super) settled: u64,
}

/// A boundary with its chain.
pub(super) type Boundary = (u64, String);

/// One place where the copies differ.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    /// Where it begins: the first record that differs, or the first position
    /// that one side lacks.
    pub(super) lsn: u64,
    /// What each side has there: the one asked, then the other.
    pub(super) sides: [Found; 2],
}

/// What one side has where the copies differ.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Found {
    /// This record.
    Record(Listed),
    /// Nothing, and it should have something.
    Missing(Absent),
    /// No record begins there.
    Nothing,
}

/// A range that was not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub(super) from_lsn: u64,
    pub(super) to_lsn: u64,
    /// Which side does not hold it: 0 the one asked, 1 the other.
    #[serde(skip)]
    pub(super) side: usize,
    pub(super) why: String,
}

/// Compare the copies of a stream on two nodes up to `to`.
pub(super) fn compare(
    sides: [&Client; 2],
    space: &SpaceId,
    of: Of,
    to: u64,
) -> Result<Outcome, ClientError> {
    let (least, most) = FIRST_PART_BYTES;
    let part = (to / FIRST_PARTS).next_power_of_two().clamp(least, most);
    let range = Range { from: 0, to, part, hints: [None; 2] };
    let mut search =
        Search { sides, space, of, outcome: Outcome::default(), located: 0, in_a_row: false };
    let passes = search.ask_whole(&range)?;
    let outcome = &mut search.outcome;
    outcome.part_bytes = part;
    outcome.parts = to.div_ceil(part);
    for (side, pass) in passes.iter().enumerate() {
        outcome.streams[side].clone_from(&pass.stream);
        outcome.chains[side].clone_from(&pass.chain);
        outcome.damaged[side].extend(pass.damaged.values().cloned());
    }
    if outcome.streams[0] == outcome.streams[1] {
        search.outcome.parts_different = search.inspect(&range, &passes)?;
    }
    Ok(search.outcome)
}

/// A range that is cut into parts.
#[derive(Clone, Copy, Debug)]
struct Range {
    from: u64,
    to: u64,
    part: u64,
    hints: Hints,
}

/// For each side a record's beginning at or before the range's, if known.
type Hints = [Option<u64>; 2];

impl Range {
    fn part(&self, index: usize) -> (u64, u64) {
        let begin = self.from + index as u64 * self.part;
        (begin, (begin + self.part).min(self.to))
    }
}

/// Everything that one side says about a range.
#[derive(Debug, Default)]
struct Pass {
    stream: String,
    digests: Vec<Option<String>>,
    records: Vec<Option<u64>>,
    chain: Option<Boundary>,
    absent: Vec<Absent>,
    damaged: BTreeMap<u64, Damaged>,
}

struct Search<'a> {
    sides: [&'a Client; 2],
    space: &'a SpaceId,
    of: Of,
    outcome: Outcome,
    located: usize,
    /// Whether what lies just before differs as well.
    in_a_row: bool,
}

impl Search<'_> {
    /// Ask both sides about every part of a range, each at its own speed.
    fn ask_whole(&self, range: &Range) -> Result<[Pass; 2], ClientError> {
        let [one, other] = [0, 1].map(|side| {
            let (client, hint) = (self.sides[side], range.hints[side]);
            move || pass(client, self.space, self.of, range, hint)
        });
        let (one, other) = thread::scope(|scope| {
            let here = scope.spawn(one);
            let there = other();
            (here.join(), there)
        });
        let one = one.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok([one?, other?])
    }

    /// Look into every part that is not equal. Returns how many differ.
    fn inspect(&mut self, range: &Range, passes: &[Pass; 2]) -> Result<u64, ClientError> {
        let parts = passes[0].digests.len().min(passes[1].digests.len());
        let mut different = 0;
        for index in 0..parts {
            let digests = [0, 1].map(|side| passes[side].digests[index].as_ref());
            let hints = [0, 1].map(|side| passes[side].records.get(index).copied().flatten());
            let differs = match digests {
                [Some(one), Some(other)] if one == other => {
                    self.in_a_row = false;
                    false
                }
                [Some(_), Some(_)] => self.descend(range.part(index), hints)?,
                _ => self.inspect_pieces(range.part(index), hints, passes)?,
            };
            different += u64::from(differs);
        }
        Ok(different)
    }

    /// Look into a part that differs; false if it does so no longer.
    fn descend(&mut self, part: (u64, u64), hints: Hints) -> Result<bool, ClientError> {
        if self.in_a_row || self.located >= MAX_LOCATED {
            self.in_a_row = true;
            return Ok(true);
        }
        let (from, to) = part;
        let settled = self.outcome.settled;
        let found = if to - from > MIN_PROOF_PART_BYTES {
            self.compare_anew(part, hints)? > 0
        } else {
            let found = self.locate(from, to, hints, None)?;
            self.in_a_row = found;
            found
        };
        if !found && self.outcome.settled == settled {
            self.outcome.settled += 1;
        }
        Ok(found)
    }

    /// Cut a range into smaller parts, and inspect these.
    fn compare_anew(&mut self, (from, to): (u64, u64), hints: Hints) -> Result<u64, ClientError> {
        let part = ((to - from) / MAX_PROOF_PARTS as u64).next_power_of_two();
        let range = Range { from, to, part: part.max(MIN_PROOF_PART_BYTES), hints };
        let passes = self.ask_whole(&range)?;
        self.inspect(&range, &passes)
    }

    /// Look into a part that one side at least does not have whole: it is cut
    /// where what is missing begins and ends, and the pieces that both have
    /// are compared.
    fn inspect_pieces(
        &mut self,
        part: (u64, u64),
        hints: Hints,
        passes: &[Pass; 2],
    ) -> Result<bool, ClientError> {
        let (begin, end) = part;
        let absents = || passes.iter().flat_map(|pass| &pass.absent);
        let mut cuts: Vec<u64> = absents()
            .flat_map(|absent| [absent.from, absent.to])
            .filter(|lsn| (begin + 1..end).contains(lsn))
            .chain([begin, end])
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let whole = cuts.len() == 2;
        let mut different = false;
        for piece in cuts.windows(2) {
            let (from, to) = (piece[0], piece[1]);
            let lacking = [0, 1].into_iter().filter_map(|side| {
                let mut absents = passes[side].absent.iter();
                Some((side, absents.find(|absent| absent.from <= from && to <= absent.to)?))
            });
            // What should be there comes before what may be gone.
            match lacking.min_by_key(|(_, absent)| absent.retired) {
                Some((side, absent)) if absent.retired => {
                    self.in_a_row = false;
                    self.gap(Gap { from_lsn: from, to_lsn: to, side, why: absent.why.clone() });
                }
                Some((side, absent)) => {
                    if !self.in_a_row && self.located < MAX_LOCATED {
                        self.locate(from, to, [None; 2], Some((side, absent.clone())))?;
                    }
                    self.in_a_row = true;
                    different = true;
                }
                // It is missing, and not among those that are named.
                None if whole => different |= self.descend(part, hints)?,
                None => {
                    let hints = if from == begin { hints } else { [None; 2] };
                    different |= self.compare_anew((from, to), hints)? > 0;
                }
            }
        }
        Ok(different)
    }

    /// Note what was not compared; ranges that touch are one.
    fn gap(&mut self, gap: Gap) {
        if let Some(last) = self.outcome.gaps.last_mut()
            && (last.to_lsn, last.side) == (gap.from_lsn, gap.side)
            && last.why == gap.why
        {
            last.to_lsn = gap.to_lsn;
        } else {
            self.outcome.gaps.push(gap);
        }
    }

    /// Name the first record of a range that differs, or that the side given
    /// lacks; false if none does any longer.
    fn locate(
        &mut self,
        from: u64,
        to: u64,
        hints: Hints,
        missing: Option<(usize, Absent)>,
    ) -> Result<bool, ClientError> {
        let to = to.min(from + MIN_PROOF_PART_BYTES);
        let mut listed: [Vec<Listed>; 2] = [Vec::new(), Vec::new()];
        for (side, listed) in listed.iter_mut().enumerate() {
            if missing.as_ref().is_some_and(|(absent, _)| *absent == side) {
                continue;
            }
            let question = Question {
                space: self.space.clone(),
                of: Of::Records,
                from,
                to,
                part: MIN_PROOF_PART_BYTES,
                record: hints[side],
                chain: None,
            };
            *listed = patiently(self.sides[side], &question)?.listed;
        }
        let [one, other] = listed;
        let sides = match missing {
            Some((side, absent)) => {
                let mut held = [one, other].into_iter().flatten();
                let held = held.next().map_or(Found::Nothing, Found::Record);
                let absent = Found::Missing(absent);
                if side == 0 { [absent, held] } else { [held, absent] }
            }
            None => match first_difference(one, other) {
                Some(sides) => sides,
                None => return Ok(false),
            },
        };
        self.located += 1;
        let lsns = sides.iter().filter_map(|found| match found {
            Found::Record(record) => Some(record.lsn),
            Found::Missing(_) | Found::Nothing => None,
        });
        let lsn = lsns.min().unwrap_or(from);
        // A long record reaches into several parts.
        if self.outcome.differences.last().is_none_or(|last| last.lsn != lsn) {
            self.outcome.differences.push(Difference { lsn, sides });
        }
        Ok(true)
    }
}

/// The first record, in the order of the stream, that is not the same on both
/// sides.
fn first_difference(one: Vec<Listed>, other: Vec<Listed>) -> Option<[Found; 2]> {
    let same = |a: &Listed, b: &Listed| (a.lsn, a.bytes, &a.digest) == (b.lsn, b.bytes, &b.digest);
    let equal = one.iter().zip(&other).take_while(|(a, b)| same(a, b)).count();
    let mut one = one.into_iter().skip(equal).peekable();
    let mut other = other.into_iter().skip(equal).peekable();
    let lsn = match (one.peek(), other.peek()) {
        (None, None) => return None,
        (Some(a), Some(b)) => a.lsn.min(b.lsn),
        (Some(record), None) | (None, Some(record)) => record.lsn,
    };
    let at = |record: Option<Listed>| {
        record.filter(|record| record.lsn == lsn).map_or(Found::Nothing, Found::Record)
    };
    Some([at(one.next()), at(other.next())])
}

/// Everything that a side says about a range, question by question.
fn pass(
    client: &Client,
    space: &SpaceId,
    of: Of,
    range: &Range,
    hint: Option<u64>,
) -> Result<Pass, ClientError> {
    let mut pass = Pass::default();
    let (mut at, mut record, mut chain) = (range.from, hint, None);
    while at < range.to {
        let to = range.to.min(at + range.part * MAX_PROOF_PARTS as u64);
        let (space, part) = (space.clone(), range.part);
        let question = Question { space, of, from: at, to, part, record, chain };
        let answer = patiently(client, &question)?;
        let Answer { stream, to: until, digests, records, boundary, absent, damaged, .. } = answer;
        let parts = until.saturating_sub(at).div_ceil(range.part);
        if until <= at
            || until > to
            || digests.len() as u64 != parts
            || digests.len() != records.len()
        {
            let found = format!("it answers {until} to a question from {at} to {to}");
            return Err(ClientError::Foreign { address: client.address(), found });
        }
        pass.stream = stream;
        pass.digests.extend(digests);
        pass.records.extend(records);
        for absent in absent {
            match pass.absent.last_mut() {
                Some(last) if last.to == absent.from && last.why == absent.why => {
                    last.to = absent.to;
                }
                _ => pass.absent.push(absent),
            }
        }
        pass.damaged.extend(damaged.into_iter().map(|damaged| (damaged.lsn, damaged)));
        at = until;
        (record, chain) = (None, None);
        pass.chain = None;
        if let Some(boundary) = boundary.filter(|boundary| boundary.lsn <= until) {
            record = Some(boundary.lsn);
            chain = boundary.chain.as_ref().and_then(|text| u64::from_str_radix(text, 16).ok());
            pass.chain = boundary.chain.map(|chain| (boundary.lsn, chain));
        }
    }
    Ok(pass)
}

/// Ask until the node is not busy.
fn patiently(client: &Client, question: &Question) -> Result<Answer, ClientError> {
    let begun = Instant::now();
    loop {
        match client.ask(question) {
            Err(ClientError::Busy { .. }) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            other => return other,
        }
    }
}
