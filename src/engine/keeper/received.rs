//! Spaces that this node receives: lent, recovered, given back.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::{Denial, Keeper, Lease, Loan, News, Places, Space, remember};
use crate::engine::quarantine::{Manifest, Quarantine, Reason};
use crate::engine::recovery::{self, Notice, Subject};
use crate::engine::replica::log::{Failure, SegmentFiles, went_here};
use crate::engine::replica::names::Names;
use crate::engine::scrub::ScrubAsk;
use crate::ids::{Epoch, SpaceId};
use crate::limits::MAX_SPACES;
use crate::lsn::Mark;
use crate::planted::{self, Bug};
use crate::protocol::matching::collision;
use crate::protocol::message::{ErrorCode, OpenSpace};
use crate::state::catalog::{Change, Role, SpaceRecord};
use crate::state::host::make_directories;
use crate::state::runs::Run;
use crate::wal::discover;

impl Keeper {
    /// Lend a received space, making it if need be.
    pub(super) fn open_replica(&mut self, shard: usize, open: &OpenSpace) -> Result<Loan, Denial> {
        let space = &open.space;
        self.record_now(space);
        let unusable = self.root.look().or_else(|| self.unrecorded.get(space).cloned());
        if let Some(why) = unusable {
            return Err((ErrorCode::Storage, format!("space {space}: {why}")).into());
        }
        self.revisit(space);
        if !self.spaces.contains_key(space) {
            if self.spaces.len() >= MAX_SPACES {
                let why = format!("this node holds {MAX_SPACES} spaces already");
                return Err((ErrorCode::Limit, why).into());
            }
            let directory = self.places.wal(space);
            match discover::segments(&directory) {
                Ok(names) if !names.is_empty() => {
                    return Err((
                        ErrorCode::Role,
                        format!(
                            "{} holds segments that this node's catalog does not know. If it \
                             received them and the catalog was lost: stop the node, and saltus \
                             rebuild. Else move them away, or do not ship the space here",
                            directory.display()
                        ),
                    )
                        .into());
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let why = format!("{}: {error}", directory.display());
                    return Err((ErrorCode::Storage, why).into());
                }
                _ => {}
            }
            // The directory comes with the first run, when the catalog knows the
            // space: found without an entry, it would be one to ship.
            let entry = self.create(space, Role::Replica, open.stream, open.history.clone());
            self.keep(space.clone(), entry);
        }
        if matches!(self.spaces.get(space).map(|entry| &entry.lease), Some(Lease::Broken(_)))
            && let Some(mut entry) = self.spaces.remove(space)
        {
            // The operator may have mended it meanwhile.
            self.recover(space, &mut entry);
            self.keep(space.clone(), entry);
        }
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err((ErrorCode::Protocol, format!("space {space} has vanished")).into());
        };
        if entry.record.role == Role::Primary {
            return Err((
                ErrorCode::Role,
                format!(
                    "space {space} is written on this node: it ships it, it does not receive it. \
                     If it did receive it, and its catalog was lost: stop it, and saltus rebuild \
                     --space {space}"
                ),
            )
                .into());
        }
        if entry.record.stream != open.stream {
            return Err((
                ErrorCode::Stream,
                format!(
                    "space {space} holds stream {:?} here, not {:?}: another primary filled it, or \
                     the primary's state directory was lost: see there whether that can be rebuilt. \
                     A stale primary that ships here is to be stopped; to receive the new stream, \
                     stop this node, and set its spaces and its state directory aside",
                    entry.record.stream, open.stream,
                ),
            )
                .into());
        }
        let epoch = open.epoch().unwrap_or(Epoch::FIRST);
        let stale = planted::is(Bug::StaleEpochObeyed);
        let highest = if stale { epoch } else { entry.record.highest_epoch };
        if epoch < highest {
            return Err(Denial {
                code: ErrorCode::Fenced,
                why: format!(
                    "space {space} has seen epoch {highest} here: a primary of epoch {epoch} is \
                     fenced"
                ),
                highest: Some(highest),
            });
        }
        if let Some((epoch, here, there)) = collision(&entry.record.history, &open.history) {
            let why = format!(
                "space {space}: epoch {epoch} begins at {here} here and at {there} there: two \
                 primaries with copies of one catalog have each begun it, and neither has ended \
                 the other's; nothing was cut. Decide which one goes on, and set the copy of the \
                 other aside"
            );
            return Err((ErrorCode::Diverged, why).into());
        }
        if epoch > highest {
            // Durable before it is obeyed: the news wait for the commit.
            let change = Change::SawEpoch(epoch);
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
        match &entry.lease {
            Lease::Here(mark) => {
                let mark = *mark;
                self.have_mended(space);
                self.lend(shard, open, mark)
            }
            Lease::Lent(lessee) => {
                if lessee.epoch < epoch {
                    // A reign that is over may not hold up the one that is.
                    let (at, space) = (lessee.shard, space.clone());
                    self.waiting.push((at, News::Recalled { space, highest: epoch }));
                }
                let why = format!("space {space} is being received over another connection");
                Err((ErrorCode::Busy, why).into())
            }
            Lease::Broken(why) => Err((ErrorCode::Storage, why.clone()).into()),
        }
    }

    /// With a session there is somebody to ask for what does not hold.
    pub(super) fn have_mended(&self, space: &SpaceId) {
        if let Some(scrub) = &self.scrub
            && self.received.damages().contains_key(space)
            && scrub.ask(ScrubAsk::space(space.clone())).is_none()
        {
            tracing::warn!(%space, "too many passes wait: it is mended by the next one");
        }
    }

    pub(super) fn close_replica(
        &mut self,
        space: &SpaceId,
        state: Result<Box<(SpaceRecord, Mark)>, Failure>,
    ) {
        self.record_now(space);
        let Some(mut entry) = self.spaces.remove(space) else { return };
        entry.last_known = Some(match &state {
            Ok(state) => state.1,
            Err(failure) => failure.flushed,
        });
        entry.trouble = state.as_ref().err().map(|Failure { why, .. }| {
            format!("{why}; what is here was verified again, and waits for its primary")
        });
        if let Some(why) = self.unrecorded.get(space) {
            entry.lease = Lease::Broken(why.clone());
        } else if let Ok(state) = state {
            // Its runs are known here: one that could not be opened is in the
            // session's record, and in no catalog.
            let (record, mark) = *state;
            if record.checkpoint.lsn > entry.record.checkpoint.lsn {
                // As a boundary, too: positions are compared from there.
                let changes =
                    [Change::Checkpoint(record.checkpoint), Change::AddMark(record.checkpoint)];
                for change in changes {
                    remember(&mut entry.record, &change);
                    self.changes.push((space.clone(), change));
                }
            }
            entry.lease = Lease::Here(mark);
        } else {
            self.recover(space, &mut entry);
        }
        let adoptions = std::mem::take(&mut entry.adoptions);
        self.keep(space.clone(), entry);
        for adoption in adoptions {
            self.carry_out(space, &adoption);
        }
    }

    /// Verify what a received space has on disk and cut what is not whole.
    pub(super) fn recover(&mut self, space: &SpaceId, entry: &mut Space) {
        entry.recoveries += 1;
        if let Lease::Here(mark) = entry.lease {
            entry.last_known = Some(mark);
        }
        // What was durable when it was told of them need not be now: it is told again.
        entry.going.clear();
        entry.lease = self.recovered(space, &mut entry.record);
    }

    fn recovered(&mut self, space: &SpaceId, record: &mut SpaceRecord) -> Lease {
        // Nothing below another root is this node's.
        if let Some(why) = self.root.look() {
            return self.unusable(space, why);
        }
        if let Err(error) = self.finish_move(space, record) {
            return self.unusable(space, format!("the old copy cannot be moved aside: {error}"));
        }
        // And nothing beside a stranger's file may be cut.
        if let Some(why) = self.stranger_in(space, record) {
            return self.unusable(space, why);
        }
        let quarantine = self.places.quarantine();
        let subject = self.subject(space, record, &quarantine);
        let recovered = match subject.recover() {
            Err(damage) if damage.is_below_checkpoint() => {
                tracing::error!(%space, "{damage}");
                self.received.damaged(space, damage.to_string());
                subject.recover_behind_damage()
            }
            other => other,
        };
        match recovered {
            Ok(recovered) => {
                for notice in &recovered.notices {
                    tracing::warn!(%space, "{notice}");
                }
                for change in recovered.changes {
                    remember(record, &change);
                    self.changes.push((space.clone(), change));
                }
                Lease::Here(recovered.mark)
            }
            Err(error) => self.unusable(space, error.to_string()),
        }
    }

    /// What recovery needs to know of a space.
    fn subject<'a>(
        &'a self,
        space: &'a SpaceId,
        record: &'a SpaceRecord,
        quarantine: &'a Path,
    ) -> Subject<'a> {
        let Places { host, data_root, .. } = &self.places;
        Subject { host, data_root, space, record, quarantine, checksums: self.checksums }
    }

    /// These changes are durable: of what the catalog has forgotten by them, because it
    /// was cut off, the names that it had taken are free.
    pub(super) fn restore_names(&self, changes: &[(SpaceId, Change)]) {
        let is_cut = |change: &Change| matches!(change, Change::Truncate { .. });
        let cut = changes.iter().filter(|(_, change)| is_cut(change)).map(|(space, _)| space);
        let quarantine = self.places.quarantine();
        for space in cut.collect::<BTreeSet<_>>() {
            let Some(entry) = self.spaces.get(space) else { continue };
            if entry.record.role != Role::Replica {
                continue;
            }
            match self.subject(space, &entry.record, &quarantine).restore_names() {
                Ok(notices) => {
                    for notice in notices {
                        tracing::warn!(%space, "{notice}");
                    }
                }
                Err(error) => {
                    tracing::warn!(%space, "a segment has not got its name back: {error}");
                }
            }
        }
    }

    fn unusable(&self, space: &SpaceId, why: String) -> Lease {
        // It is tried at every attempt of the primary; the same again is no news.
        if self.received.problem_of(space).as_ref() != Some(&why) {
            tracing::error!(%space, "the space cannot be received: {why}");
        }
        Lease::Broken(why)
    }

    /// The file of a run, its name durable, its catalog entry in this batch.
    pub(super) fn open_run(
        &mut self,
        space: &SpaceId,
        ordinal: u32,
        run: Run,
        known: bool,
    ) -> io::Result<SegmentFiles> {
        let directory = self.places.wal(space);
        let path = directory.join(run.segment.to_string());
        let aside = recovery::retired_path(&self.places.state_dir, space, run.file);
        let lies_aside = aside.try_exists()?;
        if lies_aside {
            // One that has no name any more may give it to this one.
            self.record_now(space);
        }
        if let Some(why) = self.unrecorded.get(space) {
            return Err(io::Error::other(why.clone()));
        }
        let Some(entry) = self.spaces.get(space) else {
            return Err(io::Error::other("the space is not in the catalog"));
        };
        let fresh = entry.record.runs.latest_in(run.file).is_none();
        if fresh && lies_aside {
            self.clear_away(space, &run, &aside)?;
        }
        make_directories(&*self.places.host, &self.places.data_root, &directory)?;
        let Some(entry) = self.spaces.get_mut(space) else {
            return Err(io::Error::other("the space is not in the catalog"));
        };
        if !known {
            if entry.record.is_gone(run.file) {
                return Err(io::Error::other(went_here(run.segment)));
            }
            // Recorded, it would be obeyed after every restart.
            let next = entry.record.runs.len();
            if ordinal != next {
                return Err(io::Error::other(format!(
                    "it is announced as run {ordinal}, and run {next} comes next"
                )));
            }
            entry.record.runs.accepts(&run).map_err(io::Error::other)?;
            // Another file bore this name before: the name now means this one.
            let earlier = recovery::bearer(&entry.record, run.segment);
            if let (Some(file), true) = (earlier, fresh) {
                let retired = recovery::retired_path(&self.places.state_dir, space, file);
                if let Some(parent) = retired.parent() {
                    make_directories(&*self.places.host, &self.places.state_dir, parent)?;
                    if path.try_exists()? {
                        self.places.host.rename(&path, &retired)?;
                        self.places.host.sync_directory(parent)?;
                    }
                }
            }
            let (data_root, state_dir) = (&self.places.data_root, &self.places.state_dir);
            let path = match fresh {
                true => path.clone(),
                false => recovery::path_of(data_root, state_dir, space, &entry.record, &run),
            };
            let end = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            // The session may still be writing the end of an earlier run.
            if end > run.offset || (fresh && end != 0 && end != run.offset) {
                return Err(io::Error::other(format!(
                    "{} is {end} bytes long, and the run begins at {}",
                    path.display(),
                    run.offset
                )));
            }
            let change = Change::OpenRun(run);
            remember(&mut entry.record, &change);
            self.changes.push((space.clone(), change));
        }
        let Some(entry) = self.spaces.get(space) else {
            return Err(io::Error::other("the space is not in the catalog"));
        };
        let state_dir = &self.places.state_dir;
        let named =
            recovery::path_of(&self.places.data_root, state_dir, space, &entry.record, &run);
        let retired = recovery::retired_path(state_dir, space, run.file);
        if named != retired && retired.try_exists()? {
            // Recovery took away the run that had taken over the name.
            if named.try_exists()? {
                return Err(io::Error::other(format!(
                    "{} is in the way of {}: move it away",
                    named.display(),
                    retired.display()
                )));
            }
            self.places.host.rename(&retired, &named)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let buffered = self.places.host.open(&options, &named)?;
        if !planted::is(Bug::NameNotSynced) {
            // A file without a name lies elsewhere.
            self.places.host.sync_directory(named.parent().unwrap_or(&directory))?;
        }
        let direct = crate::io::open_direct(&named).map(Arc::new);
        let names = Names::of(&buffered, [named, retired])?;
        Ok(SegmentFiles { buffered: Arc::new(buffered), direct, names })
    }

    /// What lies aside under the number of a file in which no run lies is of no stream
    /// that the catalog knows: a stop came before it had heard of it, and so before a byte
    /// of it, or it is left of what was cut.
    fn clear_away(&self, space: &SpaceId, run: &Run, aside: &Path) -> io::Result<()> {
        let host = &self.places.host;
        let bytes = fs::metadata(aside)?.len();
        if bytes == 0 {
            host.remove(aside)?;
            // Back after a crash, it would be taken for what has the name then.
            return aside.parent().map_or(Ok(()), |directory| host.sync_directory(directory));
        }
        let manifest = Manifest {
            space: space.clone(),
            segment: run.segment,
            file: run.file,
            offset: 0,
            bytes,
            reason: Reason::Displaced,
            extents: Vec::new(),
            epochs: Vec::new(),
            superseded_by: None,
        };
        let quarantine = Quarantine::new(host.clone(), &self.places.quarantine(), space);
        let to = quarantine.take(aside, &manifest)?;
        tracing::warn!(%space, "{}", Notice::Moved { path: aside.to_owned(), to });
        Ok(())
    }
}

#[cfg(test)]
#[path = "received_tests.rs"]
mod tests;
