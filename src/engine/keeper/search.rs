//! Boundaries that are searched for, in turns.
//!
//! ```text
//!   Match ----+                          +--> boundary, kept as a mark --> Matched
//!   Truncate -+--> walk a piece of it --+
//!                    ^                   +--> the cut
//!                    +-- next batch --+
//! ```
//!
//! A boundary is found by walking headers from the nearest one that is known,
//! and that may be far away: many gigabytes, on a cold disk minutes. So a batch
//! walks a piece and no more, however many search, and between two pieces
//! whatever else waits is done. What was found becomes a mark of the catalog,
//! unless the nearest is near: who asks again, around it, need not walk again.
//!
//! A session that has asked for a cut has given its space back with the
//! question. Until it is answered all else about that space waits.

use super::{Job, Keeper, Lease, News, Unmatched};
use crate::engine::recovery::{self, Found, RecoveryError};
use crate::ids::SpaceId;
use crate::limits::MAX_WALK_BYTES_PER_TURN;
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::{Boundary, ErrorCode, OpenSpace, Truncate};
use crate::state::catalog::Change;

/// One of them.
#[derive(Debug)]
pub(super) struct Search {
    space: SpaceId,
    /// At or before this.
    at: Lsn,
    /// What it began at, and where it is.
    walked: Option<(Lsn, Mark)>,
    /// The durable end of the space.
    flushed: Mark,
    shard: usize,
    ticket: u64,
    sought: Sought,
}

/// What it is for.
#[derive(Debug)]
enum Sought {
    /// To be told.
    Match,
    /// To be cut there.
    Cut(Box<OpenSpace>, Truncate),
}

impl Keeper {
    /// Find a boundary of a borrowed space, and tell it.
    pub(super) fn begin_match(&mut self, shard: usize, ticket: u64, space: SpaceId, at: Lsn) {
        self.begin_search(shard, ticket, space, at, Sought::Match);
    }

    /// Find the boundary at which a borrowed space is to be cut, and cut it.
    pub(super) fn begin_cut(
        &mut self,
        shard: usize,
        ticket: u64,
        open: Box<OpenSpace>,
        to: Truncate,
    ) {
        let (space, at) = (open.space.clone(), to.lsn);
        self.begin_search(shard, ticket, space, at, Sought::Cut(open, to));
    }

    fn begin_search(&mut self, shard: usize, ticket: u64, space: SpaceId, at: Lsn, sought: Sought) {
        let flushed = match self.spaces.get(&space).map(|entry| &entry.lease) {
            Some(Lease::Lent(lessee)) => lessee.mark,
            // Refused when its turn comes.
            Some(Lease::Here(_) | Lease::Broken(_)) | None => Mark::START,
        };
        self.end_search(&space);
        let search = Search { space, at, walked: None, flushed, shard, ticket, sought };
        self.searches.push_back(search);
    }

    /// The session that has asked is over. How far the search has come is kept:
    /// the next one goes on there.
    pub(super) fn end_search(&mut self, space: &SpaceId) {
        let is_of = |search: &Search| search.space == *space;
        while let Some(at) = self.searches.iter().position(is_of) {
            let Some(search) = self.searches.remove(at) else { return };
            self.keep_found(&search);
            let why = "the session that has asked is over".to_owned();
            let code = ErrorCode::Protocol;
            let (shard, ticket) = (search.shard, search.ticket);
            let news = match search.sought {
                Sought::Match => {
                    News::Matched { ticket, result: Err(Unmatched::Refused(code, why)) }
                }
                Sought::Cut(..) => News::ReplicaOpened { ticket, result: Err((code, why).into()) },
            };
            self.waiting.push((shard, news));
        }
    }

    /// A boundary that is far from the one at which its search began is worth a
    /// mark.
    fn keep_found(&mut self, search: &Search) {
        if let Some((begun, mark)) = search.walked
            && mark.lsn.bytes_since(begun) > MAX_WALK_BYTES_PER_TURN
            && mark != search.flushed
        {
            self.enter(&search.space, Change::AddMark(mark));
        }
    }

    /// True while boundaries are searched for: the next batch is due at once,
    /// also without a job.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        !self.searches.is_empty()
    }

    /// Whether a job has to wait for a cut that is not made yet.
    pub(super) fn waits_for_cut(&self, job: &Job) -> bool {
        let is_cut = |search: &Search| {
            matches!(search.sought, Sought::Cut(..)) && job.space() == Some(&search.space)
        };
        !self.searches.is_empty() && self.searches.iter().any(is_cut)
    }

    /// Go on with what is searched for: a piece of one, or more that are short.
    /// While a space is being cut no other is.
    pub(super) fn go_on_searching(&mut self, is_cutting: bool) {
        let mut budget = MAX_WALK_BYTES_PER_TURN;
        while budget > 0 {
            let may = |search: &Search| !is_cutting || matches!(search.sought, Sought::Match);
            let Some(next) = self.searches.iter().position(may) else { return };
            let Some(mut search) = self.searches.remove(next) else { return };
            match self.step(&mut search, &mut budget) {
                // Another one first.
                Ok(Found::Behind(_)) => self.searches.push_back(search),
                Ok(Found::At(mark)) => self.found(search, Ok(mark)),
                Err(error) => self.found(search, Err(error)),
            }
        }
    }

    /// Walk a piece of the way.
    fn step(&self, search: &mut Search, budget: &mut u64) -> Result<Found, RecoveryError> {
        let lent = |lease: &Lease| matches!(lease, Lease::Lent(l) if l.mark == search.flushed);
        let Some(entry) = self.spaces.get(&search.space).filter(|entry| lent(&entry.lease)) else {
            // It is refused, whatever was found.
            return Ok(Found::At(Mark::START));
        };
        let record = &entry.record;
        let begun = search.walked.map(|(begun, _)| begun);
        let begun = begun.or_else(|| Some(recovery::nearest(record, search.at)?.lsn));
        let from = search.walked.map(|(_, mark)| mark);
        let locate = |run: &_| self.place_of(&search.space, record, run);
        let found = recovery::search(
            record,
            &search.flushed,
            from,
            search.at,
            self.checksums,
            &locate,
            budget,
        )?;
        let (Found::At(mark) | Found::Behind(mark)) = found;
        search.walked = begun.map(|begun| (begun, mark));
        Ok(found)
    }

    /// The search is over.
    fn found(&mut self, search: Search, result: Result<Mark, RecoveryError>) {
        self.keep_found(&search);
        let Search { space, shard, ticket, flushed, .. } = search;
        match search.sought {
            Sought::Match => {
                let result = self.matched(&space, &flushed, result);
                self.waiting.push((shard, News::Matched { ticket, result }));
            }
            Sought::Cut(open, to) => {
                // What waits for this batch has nothing to do with the cut.
                self.publish();
                let result = self.truncate_replica(shard, &open, &to, result).map(Box::new);
                self.waiting.push((shard, News::ReplicaOpened { ticket, result }));
            }
        }
    }

    fn matched(
        &self,
        space: &SpaceId,
        flushed: &Mark,
        found: Result<Mark, RecoveryError>,
    ) -> Result<Boundary, Unmatched> {
        // Its session may have ended meanwhile, and even another have begun.
        let lease = self.spaces.get(space).map(|entry| &entry.lease);
        if !matches!(lease, Some(Lease::Lent(lessee)) if lessee.mark == *flushed) {
            let why = format!("space {space} is not lent");
            return Err(Unmatched::Refused(ErrorCode::Protocol, why));
        }
        match found {
            Ok(Mark { lsn, chain, records, .. }) => Ok(Boundary { lsn, chain, records }),
            Err(error) => {
                tracing::error!(%space, %error, "the space cannot be compared");
                let why = format!("space {space}: {error}");
                if !error.is_damage() {
                    return Err(Unmatched::Refused(ErrorCode::Storage, why));
                }
                self.received.damaged(space, error.to_string());
                self.have_mended(space);
                Err(Unmatched::Damaged(why))
            }
        }
    }

    /// This process ends: nobody waits for an answer any more, and nothing was
    /// cut.
    pub(super) fn give_up_searching(&mut self) {
        self.searches.clear();
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
