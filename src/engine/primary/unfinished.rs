//! Files that were left for another one while they end in a record that is not
//! whole.
//!
//! Of the file that grows, an unfinished record is waited for. Once the walk
//! has gone on in another file, nobody would ever hear of it again: a writer
//! that died in mid-write has left bytes that are in no stream. So they are
//! named, if the file has stayed as it is for a while. Nothing is kept from
//! being shipped, and a file that goes on after all takes its notice back. One whose
//! name is gone goes with such an end when nobody can write to it any more, as it
//! would without.

use std::sync::Arc;
use std::time::Instant;

use super::space::Space;
use crate::limits::UNFINISHED_AFTER;
use crate::wal::segment::Segment;

/// The end of a file that was left.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// The length of the file when it was looked at last.
    length: u64,
    /// For how long it has had that length.
    since: Instant,
    /// What was said of it.
    told: Option<String>,
}

impl Space {
    /// The walk goes on elsewhere, or has found no whole record here.
    pub(super) fn left(&mut self, file: u64, now: Instant) {
        let Some((walked, length)) = self.end_of(file) else { return };
        if length <= walked {
            self.unfinished.remove(&file);
        } else if self.unfinished.get(&file).is_none_or(|known| known.length != length) {
            self.unfinished.insert(file, Unfinished { length, since: now, told: None });
        }
    }

    /// Up to where a file is in the stream, and how long it is; nothing if it
    /// is not there to grow.
    fn end_of(&self, file: u64) -> Option<(u64, u64)> {
        let tracked = self.files.get(&file)?;
        let segment = tracked.segment.as_ref().filter(|_| !tracked.released && !tracked.gone)?;
        Some((tracked.walked, segment.len().ok()?))
    }

    /// Since when a file has had an end that is no whole record.
    pub(super) fn unfinished_since(&self, file: u64) -> Option<Instant> {
        self.unfinished.get(&file).map(|end| end.since)
    }

    /// True if a file of that length ends in no whole record, and that was said.
    pub(super) fn ends_unfinished(&self, file: u64, length: u64) -> bool {
        let end = self.unfinished.get(&file).filter(|end| end.told.is_some());
        let segment = self.files.get(&file).and_then(|it| Some((it.segment.as_ref()?, it.walked)));
        let Some(((segment, walked), end)) = segment.zip(end) else { return false };
        end.length == length && !self.has_whole(segment, walked)
    }

    /// True while a file that was left may still be at work.
    pub(super) fn has_unfinished(&self) -> bool {
        self.problem.is_none() && self.unfinished.values().any(|end| end.told.is_none())
    }

    /// Name what has not grown for a while.
    pub fn look_at_unfinished(&mut self, now: Instant) {
        let files: Vec<_> = self.unfinished.keys().copied().collect();
        for file in files {
            match self.end_of(file) {
                None => drop(self.unfinished.remove(&file)),
                Some(_) => self.left(file, now),
            }
            let Some(told) = self.to_tell(file, now) else { continue };
            tracing::warn!(space = %self.id, "{told}");
            if let Some(end) = self.unfinished.get_mut(&file) {
                end.told = Some(told);
            }
        }
    }

    /// What is to be said of a file, if it has not been said.
    fn to_tell(&self, file: u64, now: Instant) -> Option<String> {
        let end = self.unfinished.get(&file).filter(|end| end.told.is_none())?;
        let tracked = self.files.get(&file).filter(|tracked| !tracked.touched)?;
        let ripe = now.duration_since(end.since) >= UNFINISHED_AFTER;
        if !ripe || self.has_whole(tracked.segment.as_ref()?, tracked.walked) {
            return None;
        }
        let fate = if tracked.vanished {
            "Its name is gone: they go with the file".to_owned()
        } else {
            let path = self.directory.join(tracked.name.to_string());
            format!("Look at it with: saltus wal verify {}", path.display())
        };
        Some(format!(
            "{} ends in {} bytes at offset {} that are no whole record, and has not grown for {} s, \
             while a later segment is written: they are in no stream, and nothing else is missing. \
             Should the file go on, it is shipped. {fate}",
            tracked.name,
            end.length - tracked.walked,
            tracked.walked,
            UNFINISHED_AFTER.as_secs(),
        ))
    }

    /// True if the walk would find something there: then it is about to.
    fn has_whole(&self, segment: &Arc<Segment>, offset: u64) -> bool {
        self.has_record(segment, offset, self.index.head())
    }

    /// The first of the ends that were named.
    pub(super) fn unfinished_end(&self) -> Option<&String> {
        let there = |file: &u64| self.files.get(file).is_some_and(|tracked| !tracked.vanished);
        let named = self.unfinished.iter().filter(|(file, _)| there(file));
        named.filter_map(|(_, end)| end.told.as_ref()).next()
    }
}
