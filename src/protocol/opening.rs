//! From a replica's `OpenAck` to the first byte: are the two histories one?
//!
//! ```text
//!   OpenAck: flushed, common     common = flushed        same chain there
//!        |-------------------------> own mark ------------> Streaming
//!        |                                |
//!        | common < flushed               | another, or none
//!        v                                v
//!    own mark at common, Match    Search: Match, Matched, own mark, ...
//!        |            |                   |
//!        | the same   | another           v
//!        v            +-------------> Event::Diverged, with the last common
//!     Truncate --> OpenAck ...            boundary; the engine decides
//! ```
//!
//! By the epochs the replica is cut only to where the primary's history says
//! that its reign was over. Chains that differ before that are a contradiction
//! which no frame resolves: either the primary finds that its own source was
//! changed, and begins a new epoch, or the space stops, and nothing is cut.

#![forbid(unsafe_code)]

use super::Now;
use super::frame::{Handle, Kind};
use super::matching::Search;
use super::message::{Boundary, ErrorCode, Message, Reseed, Standing, Truncate};
use super::sender::{Event, Sender};
use super::slot::{Phase, Stream};
use crate::ids::Epoch;
use crate::lsn::{Lsn, Mark};

/// What the engine has at the position that [`Event::Resume`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record boundary.
    Mark(Mark),
    /// None. The log was looked at to its end, and is whole.
    Nothing,
    /// It cannot be told. The space stops with this code and sentence.
    Unavailable(ErrorCode, String),
    /// It is gone, or what lies behind it is. The space stops, unless the
    /// replica can be filled anew: see [`Sender::handle_reseed`].
    Gone(String),
}

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Matching {
    standing: Standing,
    question: Question,
}

/// What the comparison waits for.
#[derive(Clone, Debug)]
enum Question {
    /// The own mark where the epochs end to agree.
    Own(Lsn),
    /// The replica's boundary there, to be held against the own mark.
    Theirs(Mark),
    /// The replica's boundary at or before a position.
    Probe(Search, Lsn),
    /// The own mark at that boundary.
    ProbeOwn(Search, Lsn, Boundary),
    /// The engine's decision.
    Verdict,
}

impl Sender {
    /// True while the space waits for the own mark at a boundary of which
    /// nothing but a comparison hangs.
    #[must_use]
    pub fn is_probing(&self, handle: Handle) -> bool {
        self.slots.get(&handle).is_some_and(|slot| match &slot.phase {
            Phase::Matching(matching) => matches!(matching.question, Question::ProbeOwn(..)),
            _ => false,
        })
    }

    /// The answer to [`Event::Resume`]. Gives the mark from which the space
    /// streams, once it does.
    pub fn handle_resume(&mut self, _now: Now, handle: Handle, found: Found) -> Option<Mark> {
        let slot = self.slots.get_mut(&handle)?;
        let Phase::Matching(matching) = &slot.phase else { return None };
        let (standing, question) = (matching.standing, matching.question.clone());
        let mark = match found {
            Found::Unavailable(code, reason) => {
                self.stop(handle, code, reason);
                return None;
            }
            Found::Gone(reason) => {
                if let Question::ProbeOwn(mut search, probe, _) = question {
                    search.unknown(probe);
                    self.search(handle, standing, search);
                    return None;
                }
                self.stop(handle, ErrorCode::Lost, reason);
                return None;
            }
            Found::Mark(mark) => Some(mark),
            Found::Nothing => None,
        };
        match question {
            Question::Own(at) => {
                assert!(mark.is_none_or(|mark| mark.lsn == at), "asked for another position");
                let end = (standing.flushed, standing.chain);
                match mark {
                    Some(mark) if (mark.lsn, mark.chain) == end => {
                        slot.phase = Phase::Streaming(Stream::new(mark, standing.runs));
                        self.queue(handle);
                        return Some(mark);
                    }
                    Some(mark) if at < standing.flushed => {
                        self.ask(handle, standing, Question::Theirs(mark), &Message::Match(at));
                    }
                    _ => self.search(handle, standing, Search::below(at)),
                }
            }
            Question::ProbeOwn(mut search, probe, boundary) => {
                match mark.filter(|mark| mark.chain == boundary.chain) {
                    Some(mark) => search.same(probe, mark),
                    None => search.differs(&boundary),
                }
                self.search(handle, standing, search);
            }
            Question::Theirs(_) | Question::Probe(..) | Question::Verdict => {}
        }
        None
    }

    /// The other answer to [`Event::Resume`]: what the replica needs is gone,
    /// and everything from `reseed.base` on is held for it. It is told so, and
    /// answers with its new standing. False if the space does not wait for an
    /// answer.
    pub fn handle_reseed(&mut self, _now: Now, handle: Handle, reseed: Reseed) -> bool {
        let Some(slot) = self.slots.get_mut(&handle) else { return false };
        if !matches!(slot.phase, Phase::Matching(_)) {
            return false;
        }
        slot.goes_on_at(reseed.base.lsn);
        self.link.queue(&Message::Reseed(reseed), handle, slot.epoch);
        true
    }

    /// The answer to [`Event::Diverged`], if no new epoch begins: the space
    /// stops, and nothing of the replica is touched.
    pub fn handle_diverged(&mut self, _now: Now, handle: Handle, reason: String) {
        self.stop(handle, ErrorCode::Diverged, reason);
    }

    pub(super) fn opened(&mut self, handle: Handle, epoch: Epoch, standing: Standing) {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return self.unknown(Kind::OpenAck, handle);
        };
        let cut = match slot.phase {
            Phase::Opening { cut } => cut,
            Phase::Closing { .. } => return,
            Phase::Waiting(_) => return self.unknown(Kind::OpenAck, handle),
            Phase::Matching(_) | Phase::Streaming(_) => {
                let reason = "the replica has answered OpenSpace twice".to_owned();
                return self.stop(handle, ErrorCode::Protocol, reason);
            }
        };
        if epoch != slot.epoch {
            return self.foreign_epoch(Kind::OpenAck, handle, epoch);
        }
        if standing.highest_epoch > epoch {
            let highest = standing.highest_epoch;
            self.events.push_back(Event::Fenced { handle, highest });
            let reason = format!(
                "fenced: the replica has seen epoch {highest}, this primary ships epoch {epoch}"
            );
            return self.stop(handle, ErrorCode::Fenced, reason);
        }
        if cut.is_some_and(|cut| (standing.flushed, standing.common) != (cut, cut)) {
            let reason = format!("told to go on at {cut:?}, the replica is {standing:?}");
            return self.stop(handle, ErrorCode::Protocol, reason);
        }
        self.own(handle, standing, Question::Own(standing.common), standing.common);
    }

    /// The replica's answer to a `Match`.
    pub(super) fn matched(&mut self, handle: Handle, epoch: Epoch, theirs: Boundary) {
        let Some(slot) = self.slots.get_mut(&handle) else {
            return self.unknown(Kind::Matched, handle);
        };
        let (standing, question) = match &slot.phase {
            Phase::Closing { .. } => return,
            Phase::Waiting(_) => return self.unknown(Kind::Matched, handle),
            Phase::Matching(matching) => (matching.standing, matching.question.clone()),
            Phase::Opening { .. } | Phase::Streaming(_) => {
                let reason = "an answer to Match that was not asked".to_owned();
                return self.stop(handle, ErrorCode::Protocol, reason);
            }
        };
        if epoch != slot.epoch {
            return self.foreign_epoch(Kind::Matched, handle, epoch);
        }
        match question {
            Question::Theirs(mark) if (theirs.lsn, theirs.chain) == (mark.lsn, mark.chain) => {
                slot.goes_on_at(mark.lsn);
                let truncate = Truncate { lsn: mark.lsn, chain: mark.chain };
                self.link.queue(&Message::Truncate(truncate), handle, epoch);
            }
            Question::Theirs(mark) if theirs.lsn <= mark.lsn => {
                self.search(handle, standing, Search::below(mark.lsn));
            }
            Question::Probe(search, probe) if theirs.lsn <= probe => {
                self.own(handle, standing, Question::ProbeOwn(search, probe, theirs), theirs.lsn);
            }
            Question::Theirs(_) | Question::Probe(..) => {
                let reason = format!("the answer to Match lies behind the question: {theirs:?}");
                self.stop(handle, ErrorCode::Protocol, reason);
            }
            Question::Own(_) | Question::ProbeOwn(..) | Question::Verdict => {
                let reason = "an answer to Match that was not asked".to_owned();
                self.stop(handle, ErrorCode::Protocol, reason);
            }
        }
    }

    /// The next round of the search, or its end.
    fn search(&mut self, handle: Handle, standing: Standing, search: Search) {
        if let Some(probe) = search.probe() {
            self.ask(handle, standing, Question::Probe(search, probe), &Message::Match(probe));
            return;
        }
        let common = search.common();
        self.wait(handle, standing, Question::Verdict);
        let expected = standing.common;
        self.events.push_back(Event::Diverged { handle, common, expected, standing });
    }

    fn wait(&mut self, handle: Handle, standing: Standing, question: Question) {
        if let Some(slot) = self.slots.get_mut(&handle) {
            slot.phase = Phase::Matching(Box::new(Matching { standing, question }));
        }
    }

    /// Ask the replica.
    fn ask(&mut self, handle: Handle, standing: Standing, question: Question, message: &Message) {
        self.wait(handle, standing, question);
        if let Some(slot) = self.slots.get(&handle) {
            self.link.queue(message, handle, slot.epoch);
        }
    }

    /// Ask the engine.
    fn own(&mut self, handle: Handle, standing: Standing, question: Question, at: Lsn) {
        self.wait(handle, standing, question);
        self.events.push_back(Event::Resume { handle, at, standing });
    }

    /// A frame of another epoch than the space is open in is not obeyed.
    pub(super) fn foreign_epoch(&mut self, kind: Kind, handle: Handle, epoch: Epoch) {
        let shipped = self.epoch(handle).unwrap_or(Epoch::FIRST);
        let reason = format!("{kind:?} of epoch {epoch}, the space is in epoch {shipped}");
        self.stop(handle, ErrorCode::Fenced, reason);
    }
}
