//! Whether a space can be read to its end, and what is wrong if not.
//!
//! ```text
//!   fenced      another primary reigns: the epochs say so
//!   problem     the stream cannot go on: somebody has to act
//!   damage      bytes that are no record, with nothing behind them shipped
//!   blocks      records that do not hold at rest; nothing behind is shipped
//!   obstacle    the directory or a segment cannot be read; looked at again
//!               every second, and over when it can
//!   notices     worth knowing; nothing is kept from being shipped
//! ```
//!
//! All but the last keep records from being shipped. While one of them lasts,
//! nobody knows where the log ends, so nobody may say that a replica has all
//! of it.

use super::fenced;
use super::space::Space;
use crate::limits::LAGGING_AFTER;
use crate::lsn::Lsn;
use crate::protocol::Now;

/// A segment that a crash took, and with it the end of the stream.
#[derive(Debug)]
pub(super) struct Taken {
    why: String,
    /// The stream was cut before it, durably.
    pub(super) cut: bool,
}

impl Space {
    /// What keeps the directory or a segment from being read, as the last look
    /// at them has found it; nothing if they can be read.
    pub fn obstruct(&mut self, obstacle: Option<String>) {
        self.looked_for = true;
        if self.obstacle == obstacle {
            return;
        }
        match (&obstacle, &self.obstacle) {
            (Some(why), _) => tracing::error!(space = %self.id, "{why}"),
            (None, Some(old)) => tracing::warn!(space = %self.id, "no longer so: {old}"),
            (None, None) => {}
        }
        self.obstacle = obstacle;
    }

    /// Something that does not stop the space but must be seen.
    pub fn notice(&mut self, text: String) {
        if self.notices.contains(&text) {
            return;
        }
        tracing::warn!(space = %self.id, "{text}");
        if self.notices.len() < 16 {
            self.notices.push(text);
        }
    }

    /// The segment in which the stream ends is gone. If a crash took it, a new
    /// epoch begins before it.
    pub(super) fn notice_gone(&mut self, why: String, lost: bool) {
        if !lost {
            return self.notice(why);
        }
        tracing::warn!(space = %self.id, "{why}");
        if self.taken.iter().all(|taken| taken.why != why) {
            self.taken.push(Taken { why, cut: false });
        }
    }

    /// A segment is gone that was not let go of. What of it is not in the stream is
    /// nowhere else: each start says so again.
    pub(super) fn notice_unshipped(&mut self, file: u64, in_stream: bool, why: &str) {
        let walked = self.files.get(&file).map_or(0, |tracked| tracked.walked);
        self.notice(if in_stream {
            format!(
                "{why}: what was written to it behind offset {walked}, if anything, was not \
                 shipped and is lost here"
            )
        } else {
            format!(
                "{why}: nothing of it is in the stream, and what it held that was not shipped is \
                 lost here"
            )
        });
    }

    /// True while replicas are to be cut to where a crash has left the stream.
    #[must_use]
    pub fn is_to_be_followed(&self) -> bool {
        self.taken.iter().any(|taken| taken.cut)
    }

    /// Every replica goes on in the present epoch, cut to its beginning: what a
    /// crash took before that is no part of any stream now, and what replicas had
    /// of it is in their quarantine.
    pub fn followed(&mut self) {
        for taken in self.taken.extract_if(.., |taken| taken.cut) {
            tracing::info!(space = %self.id, "all replicas follow the new epoch: {}", taken.why);
        }
    }

    /// The directory was listed. What could not be opened is tried again
    /// until it can be: true if anything is left.
    pub fn scanned(&mut self, problems: Vec<String>) -> bool {
        for problem in problems.iter().filter(|problem| !self.unopened.contains(problem)) {
            tracing::warn!(space = %self.id, "{problem}");
        }
        self.unopened = problems;
        !self.unopened.is_empty()
    }

    /// The catalog could not record what the stream needs.
    pub fn halt(&mut self, why: String) {
        self.stop(why);
    }

    /// Stop the walk; what was walked is still shipped.
    pub(super) fn stop(&mut self, why: String) {
        if self.problem.is_none() {
            tracing::error!(space = %self.id, head = %self.head.lsn, "stopped: {why}");
            self.problem = Some(why);
        }
    }

    /// What keeps records from being shipped, in a sentence.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let fenced = self.is_fenced().then(|| fenced(self.epoch(), self.highest_epoch()));
        let reasons = [&self.problem, &self.obstacle];
        let block = || self.blocks.values().next().map(|block| block.text.clone());
        let reason = fenced.or_else(|| reasons.into_iter().find_map(Clone::clone));
        reason.or_else(|| self.damaged()).or_else(block)
    }

    /// What is wrong, in a sentence: what blocks it, or else the first thing
    /// that must be seen.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let notice = || {
            let taken = self.taken.first().map(|taken| &taken.why);
            // What a crash has taken ends; a notice does not, and would hide it.
            let first = self.unopened.first().or(taken).or(self.notices.first());
            first.or_else(|| self.unfinished_end()).cloned()
        };
        self.blocked().or_else(notice)
    }

    /// False of a directory that was found to hold no log: it is no space yet.
    #[must_use]
    pub fn is_space(&self) -> bool {
        self.known || !self.looked_for || self.problem().is_some()
    }

    /// True if the end of the log is known: it can be read, and was walked to
    /// its end at least once.
    #[must_use]
    pub fn is_head_known(&self) -> bool {
        let in_doubt = self.past.is_turning() || self.past.is_suspect();
        self.first_end.is_some() && !in_doubt && self.blocked().is_none()
    }

    /// True if a replica that has flushed this much has everything, but for
    /// what was noticed within [`LAGGING_AFTER`].
    #[must_use]
    pub fn is_close(&self, flushed: Lsn, now: Now) -> bool {
        // Of what was there at the start, nobody knows how old it is.
        let past_start = self.first_end.is_some_and(|end| flushed >= end);
        let age = self.age_behind(flushed, now.instant);
        past_start && self.is_head_known() && age.is_some_and(|age| age <= LAGGING_AFTER)
    }

    /// The walk has done what it could.
    pub(super) fn note_end(&mut self) {
        if self.first_end.is_none() && self.is_walked() {
            self.first_end = Some(self.head.lsn);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::frame::Handle;
    use crate::wal::record::Checksums;

    use super::*;

    fn space() -> Space {
        let id = "alpha".parse().expect("an id");
        Space::new(id, Handle(0), 0, Checksums::Required)
    }

    #[test]
    fn an_obstacle_ends_and_what_was_only_worth_knowing_comes_to_light_again() {
        let mut space = space();
        space.notice("a file cannot be pinned".into());
        assert_eq!(space.blocked(), None);
        space.obstruct(Some("the directory is gone".into()));
        assert_eq!(space.problem().as_deref(), Some("the directory is gone"));
        assert_eq!(space.blocked().as_deref(), Some("the directory is gone"));
        space.obstruct(None);
        assert_eq!(space.blocked(), None);
        assert_eq!(space.problem().as_deref(), Some("a file cannot be pinned"));
    }

    #[test]
    fn a_space_that_was_not_looked_at_has_no_known_head() {
        let mut space = space();
        assert_eq!(space.farthest_head(), Lsn::ZERO);
        assert!(!space.is_head_known() && space.is_space());
        space.obstruct(None);
        assert!(!space.is_space(), "a directory without a log");
        space.obstruct(Some("it may not be read".into()));
        assert!(!space.is_head_known() && space.is_space());
    }
}
