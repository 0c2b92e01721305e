//! Keeping a list of boundaries within its limit.

use crate::limits::MAX_SAVED_MARKS_PER_SPACE;

/// Leave at most [`MAX_SAVED_MARKS_PER_SPACE`] of an ascending list: of the
/// older half, every second one goes, as often as it takes. The newest stay
/// dense, because that is where a replica resumes. Returns what went.
pub(super) fn thin<T>(kept: &mut Vec<T>) -> Vec<T> {
    let mut dropped = Vec::new();
    while kept.len() > MAX_SAVED_MARKS_PER_SPACE {
        let half = kept.len() / 2;
        let (goes, stays): (Vec<_>, Vec<_>) = std::mem::take(kept)
            .into_iter()
            .enumerate()
            .partition(|(index, _)| *index < half && index % 2 == 1);
        dropped.extend(goes.into_iter().map(|(_, mark)| mark));
        kept.extend(stays.into_iter().map(|(_, mark)| mark));
    }
    dropped
}
