//! What can be done with the files of a received space.

use std::path::Path;
use std::sync::Arc;

use super::{Notice, Recovered, Recovery, RecoveryError, To, settle};
use crate::ids::{Epoch, SpaceId};
use crate::state::catalog::SpaceRecord;
use crate::state::host::Host;
use crate::wal::record::Checksums;

/// A received space, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The host that it is on.
    pub host: &'a Arc<dyn Host>,
    /// `<data_root>`.
    pub data_root: &'a Path,
    /// Which.
    pub space: &'a SpaceId,
    /// What the catalog has of it.
    pub record: &'a SpaceRecord,
    /// `<state directory>/quarantine`; its parent holds the retired segments.
    pub quarantine: &'a Path,
    /// Which records are taken.
    pub checksums: Checksums,
}

impl Subject<'_> {
    /// Verify what is on disk behind the checkpoint, cut what is not whole, and
    /// make the rest durable.
    ///
    /// Reads what lies behind the checkpoint once, in constant memory. The
    /// caller commits [`Recovered::changes`] before anything is received.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn recover(self) -> Result<Recovered, RecoveryError> {
        settle(self, To::Whole, &mut || ())
    }

    /// As [`Subject::recover`], for a space that
    /// [`RecoveryError::is_below_checkpoint`] was said of: the stream goes on
    /// behind the checkpoint, whose mark the catalog has, and what is below is
    /// left as it is, to be mended from the primary.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn recover_behind_damage(self) -> Result<Recovered, RecoveryError> {
        settle(self, To::Damaged, &mut || ())
    }

    /// Cut the space at its checkpoint: what lies behind is of a reign that `by`
    /// has ended. It is saved first, as in [`Subject::recover`]; `between` is
    /// called after each slice of a long copy.
    ///
    /// The caller has lowered the checkpoint to a boundary that was found by
    /// `boundary`, durably: after a stop at any moment
    /// [`Subject::recover`] then comes to some boundary between there and the
    /// old end, and nothing that was cut comes back. The caller commits
    /// [`Recovered::changes`] before anything is received.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn truncate(
        self,
        by: Epoch,
        between: &mut dyn FnMut(),
    ) -> Result<Recovered, RecoveryError> {
        settle(self, To::Checkpoint(by), between)
    }

    /// As [`Subject::truncate`], for a space that
    /// [`RecoveryError::is_below_checkpoint`] was said of: where it is cut is
    /// known all the same, and what is below is left as it is, to be mended from
    /// the primary.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn truncate_behind_damage(
        self,
        by: Epoch,
        between: &mut dyn FnMut(),
    ) -> Result<Recovered, RecoveryError> {
        settle(self, To::DamagedCheckpoint(by), between)
    }

    /// Bring a space whose catalog was lost to what the record says: its
    /// checkpoint is the last boundary that was found to be its primary's, in its
    /// last run. What lies behind is saved and cut, as in [`Subject::recover`].
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`].
    pub fn keep_matched(self) -> Result<Recovered, RecoveryError> {
        settle(self, To::Matched, &mut || ())
    }

    /// Give segments back the names that others had taken which were cut off
    /// since. Only once the catalog has forgotten those: until then it tells by
    /// them where a file lies.
    ///
    /// # Errors
    ///
    /// See [`RecoveryError`]. Recovery does the same, at the latest.
    pub fn restore_names(self) -> Result<Vec<Notice>, RecoveryError> {
        let state_dir = self.quarantine.parent().unwrap_or(self.data_root);
        let mut recovery = Recovery::of(self, To::Whole);
        recovery.restore_names(state_dir)?;
        Ok(recovery.notices)
    }
}
