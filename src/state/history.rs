//! The epochs of one space, and where each began: what may follow, and what a
//! cut takes away.

use crate::ids::Epoch;
use crate::limits::MAX_EPOCHS_PER_SPACE;
use crate::lsn::Lsn;

/// Whether an epoch may follow the history, as its next entry.
pub(super) fn continues(history: &[(Epoch, Lsn)], epoch: Epoch, start: Lsn) -> bool {
    let last = history.last().copied().unwrap_or((Epoch(0), Lsn::ZERO));
    epoch > last.0 && start >= last.1 && history.len() < MAX_EPOCHS_PER_SPACE
}

/// Whether these can be the epochs of one stream: at least one, ascending, and
/// no more than the limit.
pub(crate) fn is_history(history: &[(Epoch, Lsn)]) -> bool {
    let ascends = history.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    !history.is_empty() && ascends && history.len() <= MAX_EPOCHS_PER_SPACE
}

/// Forget the epochs that begin behind `end`. The first begins at or before
/// every position.
pub(super) fn cut_history(history: &mut Vec<(Epoch, Lsn)>, end: Lsn) {
    let first = history.first().copied();
    history.retain(|entry| entry.1 <= end || Some(*entry) == first);
}
