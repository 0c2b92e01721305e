//! What this node has at a replica's position.

use super::earlier::Reach;
use super::retention::Unresumable;
use super::space::Space;
use crate::engine::keeper::Job;
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::ErrorCode;
use crate::protocol::sender::Found;
use crate::wal::cursor::Cursor;

impl Space {
    /// What this node tells a replica that `stands` there, with so many `runs`, of a
    /// position up to it, as [`Space::resume_at`]. Boundaries are remembered for longer than
    /// segments are kept: for a comparison they will do, to go on they will not. And records
    /// that lie in other segments are others, since what follows has no place behind them:
    /// the same may have been written again elsewhere.
    pub fn answer_at(
        &mut self,
        lsn: Lsn,
        stands: Lsn,
        runs: u32,
        jobs: &mut Vec<Job>,
    ) -> Option<Found> {
        let goes_on = lsn >= stands;
        Some(match self.resume_at(lsn, jobs)? {
            Found::Mark(_) if goes_on && let Some(why) = self.gone_from(lsn) => Found::Gone(why),
            Found::Mark(_) if self.lies_in_more(lsn, runs) => Found::Nothing,
            Found::Gone(why) if !goes_on => {
                let known = Some(self.known_before(lsn)).filter(|known| known.lsn == lsn);
                match known {
                    Some(_) if self.lies_in_more(lsn, runs) => Found::Nothing,
                    Some(known) => Found::Mark(known),
                    None => Found::Gone(why),
                }
            }
            found => found,
        })
    }

    /// True if the stream up to a position lies in more than its first `runs`. So it does
    /// up to any position behind, and where that begins can be searched for.
    fn lies_in_more(&self, lsn: Lsn, runs: u32) -> bool {
        self.runs.get(runs).is_some_and(|run| run.start < lsn)
    }

    /// What this node has at a replica's position: `None` while the walk is
    /// still on its way there.
    pub fn resume_at(&mut self, lsn: Lsn, jobs: &mut Vec<Job>) -> Option<Found> {
        if !self.known || self.past.is_turning() || self.past.is_suspect() {
            return None;
        }
        if lsn < self.index.oldest().lsn {
            match self.reach_earlier(lsn) {
                Reach::Walked => return self.mark_at(lsn),
                Reach::OnItsWay => return None,
                Reach::Hindered(why) => {
                    return Some(Found::Unavailable(ErrorCode::Corrupt, why));
                }
                Reach::Unknown => {}
            }
            let start = self.known_before(lsn);
            return match self.ready_from(start.lsn, jobs) {
                Ok(true) => {
                    self.walk_earlier(start);
                    None
                }
                Ok(false) => None,
                Err(Unresumable::Gone(why)) => Some(Found::Gone(why)),
                Err(Unresumable::Unreadable(why)) => {
                    Some(Found::Unavailable(ErrorCode::Storage, why))
                }
            };
        }
        if lsn > self.index.head().lsn {
            // What cannot be read now tells nothing about where the log ends.
            let hindered = self.problem.as_ref().or(self.damage.as_ref());
            return self.is_walked().then(|| match hindered {
                Some(why) => Found::Unavailable(
                    ErrorCode::Corrupt,
                    format!("the replica has {lsn}, and this node cannot look there: {why}"),
                ),
                None => Found::Nothing,
            });
        }
        self.mark_at(lsn)
    }

    /// What there is at a position that was walked.
    pub(super) fn mark_at(&self, lsn: Lsn) -> Option<Found> {
        let from = self.index_at(lsn).nearest_at_or_before(lsn)?;
        if from.lsn == lsn {
            return Some(Found::Mark(from));
        }
        let Some((ordinal, _)) = self.runs.locate(from.lsn) else {
            let why = format!("no run holds {}", from.lsn);
            return Some(Found::Unavailable(ErrorCode::Diverged, why));
        };
        Some(self.seek(ordinal, from, lsn))
    }

    /// The last boundary up to `lsn` that the catalog remembers.
    pub(super) fn known_before(&self, lsn: Lsn) -> Mark {
        let saved = self.saved.iter().rev().find(|mark| mark.lsn <= lsn);
        let begins = self.begins.values().filter(|mark| mark.lsn <= lsn);
        let known = saved.into_iter().chain(begins).max_by_key(|mark| mark.lsn);
        known.copied().unwrap_or(Mark::START)
    }

    /// Walk the headers of one run from a boundary to another.
    fn seek(&self, ordinal: u32, from: Mark, to: Lsn) -> Found {
        let (Some(run), Some(segment)) = (self.runs.get(ordinal), self.segment_of(ordinal)) else {
            let why = format!("the segment that holds {} is not open", from.lsn);
            return Found::Gone(why);
        };
        let name = segment.name;
        let offset = run.offset + from.lsn.bytes_since(run.start);
        let mut cursor = Cursor::new(segment, offset, from, self.checksums);
        let mut last = from;
        let advance = cursor.advance(to.bytes_since(from.lsn), &mut |mark: &Mark| {
            if mark.lsn <= to {
                last = *mark;
            }
        });
        if last.lsn == to {
            Found::Mark(last)
        } else if cursor.mark().lsn > to {
            Found::Nothing
        } else {
            let why = format!(
                "{name} cannot be read from offset {} on: {:?}",
                cursor.offset(),
                advance.stop
            );
            Found::Unavailable(ErrorCode::Corrupt, why)
        }
    }
}
