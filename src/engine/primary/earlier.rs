//! The walk over an earlier part of the stream, for replicas that need what
//! the index has forgotten, or never knew.
//!
//! ```text
//!   stream   |=====|==============|==========|=======> head
//!            saved  ~~~ earlier ~~>           ~ walk ~>
//!                                 ^ oldest boundary of the index
//! ```
//!
//! The walk at the head goes on meanwhile: a replica that is far behind holds
//! up none that is not. What was walked is cut into extents at once; where the
//! part meets the index, it becomes part of that.

use super::ahead::Ahead;
use super::space::{Space, Turn};
use crate::limits::MAX_WALK_BYTES_PER_TURN;
use crate::lsn::{Lsn, Mark};
use crate::wal::cursor::{Cursor, Stop};
use crate::wal::index::Index;

/// An earlier part of the stream on its way into the index.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) index: Index,
    /// The run that is being walked, and where.
    ordinal: u32,
    cursor: Option<Cursor>,
    pub(super) ahead: Ahead,
    /// Why it goes no further.
    obstacle: Option<String>,
}

/// Where a position is, seen from the walk over an earlier part.
pub(super) enum Reach {
    /// Behind it: boundaries around it are known.
    Walked,
    /// In front of it.
    OnItsWay,
    /// In front of something that it cannot pass.
    Hindered(String),
    /// There is no such walk.
    Unknown,
}

/// What a step of it came to.
pub(super) enum Step {
    /// Bytes passed.
    Walked(u64),
    /// Pages are on their way, or it has met the index.
    Rests,
    /// From here on the source is not what it was.
    Changed(Lsn),
    /// A record does not hold, or cannot be read.
    Hindered(String),
}

impl Earlier {
    /// The run that it is in.
    pub(super) fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// True if a position lies in what was walked, or is going to be.
    fn reaches(&self, lsn: Lsn) -> bool {
        self.index.oldest().lsn <= lsn
    }
}

impl Space {
    /// What knows the boundaries around a position.
    pub(super) fn index_at(&self, lsn: Lsn) -> &Index {
        match &self.earlier {
            Some(earlier) if lsn < self.index.oldest().lsn && earlier.reaches(lsn) => {
                &earlier.index
            }
            _ => &self.index,
        }
    }

    /// The same, to remember one more.
    pub(super) fn index_at_mut(&mut self, lsn: Lsn) -> &mut Index {
        match &mut self.earlier {
            Some(earlier) if lsn < self.index.oldest().lsn && earlier.reaches(lsn) => {
                &mut earlier.index
            }
            _ => &mut self.index,
        }
    }

    /// Begin to walk from a boundary that is known before the oldest of the
    /// index. The files from there on are open.
    pub(super) fn walk_earlier(&mut self, start: Mark) {
        let ordinal = self.runs.locate(start.lsn).map_or(self.runs.first(), |(o, _)| o);
        self.earlier = Some(Earlier {
            index: Index::new(start),
            ordinal,
            cursor: None,
            ahead: Ahead::default(),
            obstacle: None,
        });
    }

    /// Whether a position before the oldest boundary of the index was walked; it
    /// is on its way, or why it cannot be.
    pub(super) fn reach_earlier(&mut self, lsn: Lsn) -> Reach {
        match &mut self.earlier {
            Some(earlier) if earlier.reaches(lsn) => {
                if lsn <= earlier.index.head().lsn {
                    return Reach::Walked;
                }
                match earlier.obstacle.take() {
                    Some(why) => {
                        // Who asks again has it looked at again.
                        self.earlier = None;
                        Reach::Hindered(why)
                    }
                    None => Reach::OnItsWay,
                }
            }
            _ => Reach::Unknown,
        }
    }

    /// True if an earlier part can be walked on now.
    pub(super) fn wants_earlier(&self) -> bool {
        let rests = |earlier: &Earlier| earlier.obstacle.is_some() || earlier.ahead.is_awaited();
        self.earlier.as_ref().is_some_and(|earlier| !rests(earlier))
            && self.is_settled()
            && self.problem.is_none()
    }

    /// Walk some of it.
    pub(super) fn advance_earlier(&mut self, turn: &mut Turn) {
        let mut budget = MAX_WALK_BYTES_PER_TURN;
        while budget > 0 {
            // Out of its place meanwhile, to read the runs and files beside it.
            let Some(mut earlier) = self.earlier.take() else { return };
            match self.step(&mut earlier, budget, turn) {
                Step::Walked(bytes) => {
                    budget = budget.saturating_sub(bytes.max(1));
                    self.earlier = Some(earlier);
                }
                Step::Rests if earlier.index.head().lsn < self.index.oldest().lsn => {
                    self.earlier = Some(earlier);
                    return;
                }
                Step::Rests => return self.index.prepend(earlier.index),
                Step::Changed(lsn) => {
                    tracing::error!(space = %self.id, lsn = lsn.0, "the source was changed behind the stream: an earlier part of it is another one now");
                    return self.suspect(lsn);
                }
                Step::Hindered(why) => {
                    self.notice(why.clone());
                    earlier.obstacle = Some(why);
                    self.earlier = Some(earlier);
                    return;
                }
            }
        }
    }

    /// One step of its cursor.
    pub(super) fn step(&self, earlier: &mut Earlier, budget: u64, turn: &mut Turn) -> Step {
        let (at, to) = (earlier.index.head(), self.index.oldest());
        if earlier.obstacle.is_some() {
            return Step::Rests;
        }
        if at.lsn >= to.lsn {
            let same = (at.lsn, at.chain) == (to.lsn, to.chain);
            return if same { Step::Rests } else { Step::Changed(earlier.index.oldest().lsn) };
        }
        let Some(run) = self.runs.get(earlier.ordinal).copied() else {
            return Step::Hindered(format!("no run holds {}", at.lsn));
        };
        let end = run.bytes.map_or(to.lsn, |bytes| run.start.advance(bytes).min(to.lsn));
        if at.lsn == end {
            earlier.index.push_boundary();
            earlier.ordinal += 1;
            earlier.cursor = None;
            return Step::Walked(0);
        }
        let offset = run.offset + at.lsn.bytes_since(run.start);
        let cursor = match &mut earlier.cursor {
            Some(cursor) => cursor,
            none => {
                let Some(segment) = self.segment_of(earlier.ordinal) else {
                    return Step::Hindered(format!("{} is no longer open", run.segment));
                };
                earlier.ahead = Ahead::from(offset);
                none.insert(Cursor::new(segment, offset, at, self.checksums))
            }
        };
        if earlier.ahead.of(cursor, &mut turn.prefetch) {
            return Step::Rests;
        }
        let index = &mut earlier.index;
        let room = budget.min(end.bytes_since(at.lsn));
        let advance = cursor.advance(room, &mut |mark| index.push(*mark));
        match advance.stop {
            _ if index.head().lsn > end => Step::Changed(at.lsn),
            _ if index.head().lsn == end => Step::Walked(advance.bytes),
            Stop::Budget => Step::Walked(advance.bytes),
            Stop::End | Stop::Incomplete { .. } | Stop::Shrunk { .. } => {
                Step::Changed(index.head().lsn)
            }
            Stop::Corrupt { more: true, .. } if advance.bytes > 0 => Step::Walked(advance.bytes),
            Stop::Corrupt { offset, error, .. } => Step::Hindered(format!(
                "{} is damaged at offset {offset}, lsn {}: {error}; a replica that is not behind \
                 it needs it, and nothing from there on is shipped to it",
                run.segment,
                index.head().lsn
            )),
            Stop::Failed { offset, error } => Step::Hindered(format!(
                "{} cannot be read at offset {offset}: {error}",
                run.segment
            )),
        }
    }
}
