//! Keeping a list of boundaries within its limit.

use crate::limits::{MAX_SAVED_MARKS_PER_SPACE, NEWEST_MARKS_PER_SPACE};
use crate::lsn::Lsn;

/// Leave at most [`MAX_SAVED_MARKS_PER_SPACE`] of an ascending list; `lsn` says
/// where each is. The newest [`NEWEST_MARKS_PER_SPACE`] stay, because that is
/// where a replica resumes, and so does the one at `added`, because somebody
/// has gone far to find it. Of the others, those go that leave the smallest
/// gap, so that no gap is much wider than the others: what has to be walked
/// from one to the next is a small part of the stream, however long that gets.
/// Returns what went.
pub fn thin<T>(kept: &mut Vec<T>, lsn: impl Fn(&T) -> Lsn, added: Lsn) -> Vec<T> {
    let mut dropped = Vec::new();
    while kept.len() > MAX_SAVED_MARKS_PER_SPACE {
        let others = (1..kept.len() - NEWEST_MARKS_PER_SPACE).filter(|at| lsn(&kept[*at]) != added);
        let gap = |at: &usize| lsn(&kept[at + 1]).bytes_since(lsn(&kept[at - 1]));
        let Some(least) = others.min_by_key(gap) else { break };
        dropped.push(kept.remove(least));
    }
    dropped
}
