//! Whether a received space lies where it was left, and nobody else's files lie
//! among its own.
//!
//! ```text
//!   lent, run opened  ----+
//!   names that change ----+--> look --> as left    | go on
//!   the root, each second-+             changed    | give back, verify again
//!                                       not alone  | refuse, touch nothing
//! ```
//!
//! A database that is started on a replica's copy writes a segment of its own
//! there, or goes on in the last one. From then on the directory is no copy any
//! more: nothing is received into it, nothing of it is acknowledged, and nothing
//! there is cut or moved, because somebody else owns it.

use std::io;

use super::{Keeper, Lease, News};
use crate::engine::recovery;
use crate::engine::shard::shard_of;
use crate::ids::SpaceId;
use crate::lsn::Lsn;
use crate::state::catalog::{Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::discover::{self, Kind};

impl Keeper {
    /// A segment in a received space that this node did not receive, in a
    /// sentence. One without a byte in it says nothing: a stop between a file's
    /// making and its entry in the catalog leaves one.
    pub(super) fn stranger_in(&self, space: &SpaceId, record: &SpaceRecord) -> Option<String> {
        let directory = self.places.wal(space);
        // What cannot be listed is told by whoever needs it.
        let entries = discover::entries(&directory).unwrap_or_default();
        let stranger = entries.iter().find(|entry| match entry.kind {
            Kind::Segment(name) => entry.bytes > 0 && recovery::bearer(record, name).is_none(),
            _ => false,
        })?;
        Some(format!(
            "{} was not received by this node: another process writes to a received space, as a \
             database does that was started on this copy; stop the database and move the file \
             away to receive on, or stop this node and promote the copy",
            directory.join(&stranger.name).display()
        ))
    }

    fn has_empty_stranger(&self, space: &SpaceId, record: &SpaceRecord) -> bool {
        let entries = discover::entries(&self.places.wal(space)).unwrap_or_default();
        entries.iter().any(|entry| match entry.kind {
            Kind::Segment(name) => entry.bytes == 0 && recovery::bearer(record, name).is_none(),
            _ => false,
        })
    }

    /// Look again where somebody has made a file and not written to it.
    pub(super) fn look_at_unsettled(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        for space in std::mem::take(&mut self.unsettled) {
            self.look_at(&space);
        }
        self.publish();
    }

    /// What is not as it was left in a space that is durable up to `end`, in a
    /// sentence. `whole`: nobody has written to it since.
    fn changed(
        &self,
        space: &SpaceId,
        record: &SpaceRecord,
        end: Lsn,
        whole: bool,
    ) -> Option<String> {
        let (data_root, state_dir) = (&self.places.data_root, &self.places.state_dir);
        let is_kept = |run: &Run| !record.is_gone(run.file);
        let here = record.runs.iter().filter(|(_, run)| run.start < end && is_kept(run));
        for (ordinal, run) in here {
            let least = run.reach(end);
            let path = recovery::path_of(data_root, state_dir, space, record, run);
            let last = ordinal + 1 == record.runs.len();
            // It is put aside before that is recorded.
            let aside = recovery::retired_path(state_dir, space, run.file);
            match path.metadata().or_else(|error| aside.metadata().map_err(|_| error)) {
                Ok(found) if found.len() < least => {
                    let found = found.len();
                    return Some(format!("{} has {found} bytes of {least}", path.display()));
                }
                Ok(found) if whole && last && found.len() > least => {
                    return Some(format!(
                        "{} is {} bytes long, and {least} of them were received: another process \
                         writes to it",
                        path.display(),
                        found.len()
                    ));
                }
                Err(error) if is_gone(&error) => {
                    return Some(format!("{} is gone", path.display()));
                }
                // Whoever needs it says what is wrong with it.
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    /// Before a space is lent that nobody had for a while: look whether it is as
    /// it was left, and bring it to what is there if not.
    pub(super) fn revisit(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get(space) else { return };
        let Lease::Here(mark) = &entry.lease else { return };
        // What a start would find is not what this process goes by: nothing is moved.
        if entry.record.role != Role::Replica || self.unrecorded.contains_key(space) {
            return;
        }
        let mended = !self.received.damages().contains_key(space);
        let why = (self.stranger_in(space, &entry.record))
            .or_else(|| self.changed(space, &entry.record, mark.lsn, true).filter(|_| mended));
        let Some(why) = why else { return };
        self.record_now(space);
        if self.unrecorded.contains_key(space) {
            return;
        }
        tracing::error!(%space, "it is not as it was left: {why}");
        if let Some(mut entry) = self.spaces.remove(space) {
            self.recover(space, &mut entry);
            entry.trouble = Some(format!("{why}; what is here was verified again"));
            self.keep(space.clone(), entry);
        }
    }

    /// Names have changed in a received space.
    pub(super) fn look_at(&mut self, space: &SpaceId) {
        let Some(entry) = self.spaces.get(space) else { return };
        // A database makes its file first; what it writes there changes no name.
        match self.has_empty_stranger(space, &entry.record) {
            true => self.unsettled.insert(space.clone()),
            false => self.unsettled.remove(space),
        };
        match &entry.lease {
            Lease::Here(_) => self.revisit(space),
            Lease::Lent(lessee) => {
                let (shard, end) = (lessee.shard, lessee.mark.lsn);
                let mended = !self.received.damages().contains_key(space);
                let why = (self.stranger_in(space, &entry.record))
                    .or_else(|| self.changed(space, &entry.record, end, false).filter(|_| mended));
                let space = space.clone();
                let news = match why {
                    Some(why) => News::Evicted { space, why },
                    // What was written since, its session knows.
                    None => News::Disturbed(space),
                };
                self.waiting.push((shard, news));
            }
            // It is looked at whenever its primary asks.
            Lease::Broken(_) => {}
        }
    }

    /// Nothing that is received counts any more: `why`.
    pub(super) fn evict_all(&mut self, why: &str) {
        for (space, entry) in &self.spaces {
            if let Lease::Lent(lessee) = &entry.lease {
                let news = News::Evicted { space: space.clone(), why: why.to_owned() };
                self.waiting.push((lessee.shard, news));
            }
        }
    }

    /// Have the names in a received space's directory looked after.
    pub(super) fn have_watched(&mut self, space: &SpaceId) {
        let shard = shard_of(space, self.mailboxes.len());
        self.waiting.push((shard, News::Received(space.clone())));
    }
}

/// The name, or a directory on the way to it, is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
