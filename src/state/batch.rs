//! One transaction of the catalog in the making: what each change does to the
//! tables, and which changes contradict what is there.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::catalog::{Catalog, CatalogError, Change, Hole, Role, SeedRecord};
use super::history::{continues, cut_history, is_history};
use super::layout::{self, Space};
use super::runs::{Run, RunError, Runs};
use super::slots;
use super::thinning::thin;
use crate::ids::{Epoch, SpaceId, StreamId};
use crate::limits::MAX_EPOCHS_PER_SPACE;
use crate::lsn::{Lsn, Mark};

pub(super) const SPACES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spaces");
pub(super) const RUNS: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("runs");
pub(super) const FILES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("files");
pub(super) const MARKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("marks");
pub(super) const HOLES: TableDefinition<'_, (&str, u64, u64), &[u8]> =
    TableDefinition::new("holes");

/// All keys of a space in the table of holes.
pub(super) fn places(space: &str) -> std::ops::RangeInclusive<(&str, u64, u64)> {
    (space, 0, 0)..=(space, u64::MAX, u64::MAX)
}

pub(super) const BEGINS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("begins");
pub(super) const RETIRED: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("retired");
pub(super) const SLOTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("slots");

/// All keys of a space in a table with node ids, which are ASCII.
pub(super) fn nodes(space: &str) -> std::ops::RangeInclusive<(&str, &str)> {
    (space, "")..=(space, "\u{7f}")
}

/// All keys of a space in a table with 64-bit numbers.
pub(super) fn numbers(space: &str) -> std::ops::RangeInclusive<(&str, u64)> {
    (space, 0)..=(space, u64::MAX)
}

/// The keys of a space's runs from an ordinal on.
pub(super) fn ordinals(space: &str, first: u32) -> std::ops::RangeInclusive<(&str, u32)> {
    (space, first)..=(space, u32::MAX)
}

type StrKeyed<'t> = Table<'t, &'static str, &'static [u8]>;
type Numbered<'t, N> = Table<'t, (&'static str, N), &'static [u8]>;

/// One transaction in the making. Spaces are held decoded until the end, so a
/// batch of many changes writes each once.
pub(super) struct Batch<'t> {
    catalog: &'t Catalog,
    held: BTreeMap<SpaceId, Space>,
    spaces: StrKeyed<'t>,
    runs: Numbered<'t, u32>,
    files: Numbered<'t, u64>,
    marks: Numbered<'t, u64>,
    begins: Numbered<'t, u64>,
    retired: Numbered<'t, u64>,
    slots: Numbered<'t, &'static str>,
    holes: Table<'t, (&'static str, u64, u64), &'static [u8]>,
}

impl<'t> Batch<'t> {
    pub(super) fn begin(
        catalog: &'t Catalog,
        write: &'t WriteTransaction,
    ) -> Result<Self, CatalogError> {
        Ok(Self {
            catalog,
            held: BTreeMap::new(),
            spaces: write.open_table(SPACES).map_err(|e| catalog.storage(e))?,
            runs: write.open_table(RUNS).map_err(|e| catalog.storage(e))?,
            files: write.open_table(FILES).map_err(|e| catalog.storage(e))?,
            marks: write.open_table(MARKS).map_err(|e| catalog.storage(e))?,
            begins: write.open_table(BEGINS).map_err(|e| catalog.storage(e))?,
            retired: write.open_table(RETIRED).map_err(|e| catalog.storage(e))?,
            slots: write.open_table(SLOTS).map_err(|e| catalog.storage(e))?,
            holes: write.open_table(HOLES).map_err(|e| catalog.storage(e))?,
        })
    }

    pub(super) fn apply(&mut self, space: &SpaceId, change: &Change) -> Result<(), CatalogError> {
        if let Change::Create { role, stream, history } = change {
            return self.create(space, *role, *stream, history);
        }
        if let Change::Forget = change {
            return self.forget(space);
        }
        if !self.hold(space)? {
            return Err(CatalogError::UnknownSpace { space: space.clone() });
        }
        match change {
            Change::Create { .. } | Change::Forget => Ok(()),
            Change::OpenRun(run) => self.open_run(space, run),
            Change::AddFile(file) => {
                let value = layout::encode_file(file);
                let key = (space.as_str(), file.file);
                self.files.insert(key, value.as_slice()).map_err(|e| self.catalog.storage(e))?;
                Ok(())
            }
            Change::Checkpoint(mark) => {
                self.held_mut(space)?.checkpoint = *mark;
                Ok(())
            }
            Change::AddMark(mark) => {
                let value = layout::encode_mark(mark);
                self.marks
                    .insert((space.as_str(), mark.lsn.0), value.as_slice())
                    .map_err(|e| self.catalog.storage(e))?;
                // With each one, as in memory: the two stay the same.
                self.thin_marks(space, mark.lsn)
            }
            Change::AddHole { hole, run } => {
                let value = layout::encode_hole(hole);
                let key = (space.as_str(), hole.file, hole.offset);
                self.holes.insert(key, value.as_slice()).map_err(|e| self.catalog.storage(e))?;
                self.open_run(space, run)
            }
            Change::Truncate { end, runs } => self.truncate(space, *end, *runs),
            Change::Epoch { epoch, start } => self.epoch(space, *epoch, *start),
            Change::Begin { file, mark } => {
                let value = layout::encode_mark(mark);
                self.begins
                    .insert((space.as_str(), *file), value.as_slice())
                    .map_err(|e| self.catalog.storage(e))?;
                Ok(())
            }
            Change::Retire { file, what } => {
                let key = (space.as_str(), *file);
                let known = self.retired.get(key).map_err(|e| self.catalog.storage(e))?;
                let known = known.and_then(|value| layout::decode_retired(value.value()));
                let value = layout::encode_retired(known.map_or(*what, |known| known.max(*what)));
                self.retired.insert(key, value.as_slice()).map_err(|e| self.catalog.storage(e))?;
                Ok(())
            }
            Change::Slot { replica, slot } => {
                let value = slots::encode(slot);
                self.slots
                    .insert((space.as_str(), replica.as_str()), value.as_slice())
                    .map_err(|e| self.catalog.storage(e))?;
                Ok(())
            }
            Change::DropSlot { replica } => {
                let key = (space.as_str(), replica.as_str());
                self.slots.remove(key).map_err(|e| self.catalog.storage(e))?;
                Ok(())
            }
            Change::Seed { base, first_run, target } => self.seed(space, base, *first_run, *target),
            Change::SeedMoved => {
                if let Some(seed) = &mut self.held_mut(space)?.seed {
                    seed.moved = true;
                }
                Ok(())
            }
            Change::SeedDone => {
                self.held_mut(space)?.seed = None;
                Ok(())
            }
            Change::SawEpoch(epoch) => {
                let held = self.held_mut(space)?;
                held.highest_epoch = held.highest_epoch.max(*epoch);
                Ok(())
            }
            Change::Adopt(history) => self.adopt(space, history),
        }
    }

    /// Forget what was received, and begin again at `base`.
    fn seed(
        &mut self,
        space: &SpaceId,
        base: &Mark,
        first_run: u32,
        target: Lsn,
    ) -> Result<(), CatalogError> {
        let name = space.as_str();
        let storage = |e| self.catalog.storage(e);
        for entry in self.runs.extract_from_if(ordinals(name, 0), |_, _| true).map_err(storage)? {
            entry.map_err(storage)?;
        }
        for table in [&mut self.marks, &mut self.begins, &mut self.retired] {
            for entry in table.extract_from_if(numbers(name), |_, _| true).map_err(storage)? {
                entry.map_err(storage)?;
            }
        }
        let held = self.held_mut(space)?;
        (held.base, held.checkpoint, held.first_run) = (*base, *base, first_run);
        held.seed = Some(SeedRecord { target, moved: false });
        Ok(())
    }

    /// Write what was held back. The tables are closed after it.
    pub(super) fn finish(mut self) -> Result<(), CatalogError> {
        let held = std::mem::take(&mut self.held);
        for (space, value) in &held {
            self.spaces
                .insert(space.as_str(), layout::encode_space(value).as_slice())
                .map_err(|e| self.catalog.storage(e))?;
        }
        Ok(())
    }

    /// Have the space decoded; false if there is none.
    fn hold(&mut self, space: &SpaceId) -> Result<bool, CatalogError> {
        if self.held.contains_key(space) {
            return Ok(true);
        }
        let found = self.spaces.get(space.as_str()).map_err(|e| self.catalog.storage(e))?;
        let Some(found) = found else { return Ok(false) };
        let value = layout::decode_space(found.value())
            .ok_or_else(|| self.catalog.damaged(format!("space {space:?}")))?;
        self.held.insert(space.clone(), value);
        Ok(true)
    }

    fn held_mut(&mut self, space: &SpaceId) -> Result<&mut Space, CatalogError> {
        self.held.get_mut(space).ok_or_else(|| CatalogError::UnknownSpace { space: space.clone() })
    }

    fn create(
        &mut self,
        space: &SpaceId,
        role: Role,
        stream: StreamId,
        history: &[(Epoch, Lsn)],
    ) -> Result<(), CatalogError> {
        if self.hold(space)? {
            let found = self.held_mut(space)?;
            if (found.role, found.stream) == (role, stream) {
                return Ok(());
            }
            return Err(CatalogError::OtherStream {
                space: space.clone(),
                found: found.role,
                found_stream: found.stream,
                wanted: role,
                wanted_stream: stream,
            });
        }
        let mut last = (Epoch(0), Lsn::ZERO);
        for &(epoch, start) in history {
            let grows = epoch > last.0 && start >= last.1;
            if !grows || history.len() > MAX_EPOCHS_PER_SPACE {
                return Err(history_error(space, (epoch, start), last));
            }
            last = (epoch, start);
        }
        if history.is_empty() {
            return Err(history_error(space, last, last));
        }
        let value = Space {
            role,
            stream,
            history: history.to_vec(),
            highest_epoch: last.0,
            checkpoint: Mark::START,
            first_run: 0,
            base: Mark::START,
            seed: None,
        };
        self.held.insert(space.clone(), value);
        Ok(())
    }

    fn forget(&mut self, space: &SpaceId) -> Result<(), CatalogError> {
        let storage = |e| self.catalog.storage(e);
        let name = space.as_str();
        self.held.remove(space);
        self.spaces.remove(name).map_err(storage)?;
        self.runs.retain_in(ordinals(name, 0), |_, _| false).map_err(storage)?;
        self.files.retain_in(numbers(name), |_, _| false).map_err(storage)?;
        self.marks.retain_in(numbers(name), |_, _| false).map_err(storage)?;
        self.holes.retain_in(places(name), |_, _| false).map_err(storage)?;
        self.begins.retain_in(numbers(name), |_, _| false).map_err(storage)?;
        self.retired.retain_in(numbers(name), |_, _| false).map_err(storage)?;
        self.slots.retain(|(of, _), _| of != name).map_err(storage)
    }

    fn open_run(&mut self, space: &SpaceId, run: &Run) -> Result<(), CatalogError> {
        let refused = |source| CatalogError::Run { space: space.clone(), source };
        run.fits().map_err(refused)?;
        let name = space.as_str();
        let mut ordinal = self.held_mut(space)?.first_run;
        if let Some((at, mut last)) = self.last_run(name)? {
            if last.begins_like(run) {
                return Ok(());
            }
            if run.start < last.start {
                // A batch that is repeated opens runs that are long there.
                return if self.has_run(name, run)? {
                    Ok(())
                } else {
                    Err(refused(RunError::Backwards { start: run.start, last: last.start }))
                };
            }
            ordinal = at + 1;
            if ordinal >= Runs::MOST {
                return Err(refused(RunError::Full { most: Runs::MOST }));
            }
            last.bytes = Some(run.start.bytes_since(last.start));
            self.put_run(name, at, &last)?;
        }
        self.put_run(name, ordinal, &Run { bytes: None, ..*run })
    }

    fn truncate(&mut self, space: &SpaceId, end: Lsn, runs: u32) -> Result<(), CatalogError> {
        let name = space.as_str();
        let held = self.held_mut(space)?;
        let (first, base, role) = (held.first_run, held.base, held.role);
        let present = self.last_run(name)?.map_or(first, |(at, _)| at + 1);
        let kept = match runs.checked_sub(1) {
            Some(at) => self.run(name, at)?,
            None => None,
        };
        let lies_in_last = kept.map_or(end == base.lsn && runs == first, |last| {
            end >= last.start && last.bytes.is_none_or(|bytes| end.bytes_since(last.start) <= bytes)
        });
        if !lies_in_last {
            let space = space.clone();
            return Err(CatalogError::Truncation { space, end, runs, present });
        }
        if let Some(last) = kept {
            self.put_run(name, runs - 1, &Run { bytes: None, ..last })?;
        }
        let storage = |e| self.catalog.storage(e);
        let mut left = BTreeSet::new();
        for entry in
            self.runs.extract_from_if(ordinals(name, runs), |_, _| true).map_err(storage)?
        {
            let (_, value) = entry.map_err(storage)?;
            left.extend(layout::decode_run(value.value()).map(|run| run.file));
        }
        for entry in self.runs.range(ordinals(name, 0)).map_err(storage)? {
            let (_, value) = entry.map_err(storage)?;
            layout::decode_run(value.value()).inspect(|run| _ = left.remove(&run.file));
        }
        // It may come again under its number. A primary's own tells what was let go of.
        for file in left.iter().filter(|_| role == Role::Replica) {
            self.retired.remove((name, *file)).map_err(storage)?;
        }
        if let Some(behind) = end.0.checked_add(1) {
            let behind = (name, behind)..=(name, u64::MAX);
            for entry in self.marks.extract_from_if(behind, |_, _| true).map_err(storage)? {
                entry.map_err(storage)?;
            }
        }
        let begins = self.begins.extract_from_if(numbers(name), |_, value| {
            layout::decode_mark(value).is_some_and(|mark| mark.lsn > end)
        });
        for entry in begins.map_err(storage)? {
            entry.map_err(storage)?;
        }
        self.close_holes(space, end)?;
        let last_mark = self
            .marks
            .range(numbers(name))
            .map_err(storage)?
            .next_back()
            .transpose()
            .map_err(storage)?
            .and_then(|(_, value)| layout::decode_mark(value.value()));

        let held = self.held_mut(space)?;
        if held.checkpoint.lsn > end {
            held.checkpoint = last_mark.unwrap_or(base);
        }
        cut_history(&mut held.history, end);
        Ok(())
    }

    /// Forget the holes whose run behind was cut away.
    fn close_holes(&mut self, space: &SpaceId, end: Lsn) -> Result<(), CatalogError> {
        let storage = |e| self.catalog.storage(e);
        let name = space.as_str();
        let mut closed = Vec::new();
        for entry in self.holes.range(places(name)).map_err(storage)? {
            let (key, value) = entry.map_err(storage)?;
            let (_, file, offset) = key.value();
            let hole = layout::decode_hole(file, offset, value.value())
                .ok_or_else(|| self.catalog.damaged(format!("hole {:?}", key.value())))?;
            if hole.lsn >= end && !self.has_run_behind(name, &hole)? {
                closed.push((file, offset));
            }
        }
        for (file, offset) in closed {
            let storage = |e| self.catalog.storage(e);
            self.holes.remove((name, file, offset)).map_err(storage)?;
        }
        Ok(())
    }

    /// Whether the run that begins behind a hole is there.
    fn has_run_behind(&self, space: &str, hole: &Hole) -> Result<bool, CatalogError> {
        let storage = |e| self.catalog.storage(e);
        for entry in self.runs.range(ordinals(space, 0)).map_err(storage)?.rev() {
            let (_, value) = entry.map_err(storage)?;
            match layout::decode_run(value.value()) {
                Some(run) if hole.ends_before(&run) => return Ok(true),
                Some(run) if run.start < hole.lsn => break,
                _ => {}
            }
        }
        Ok(false)
    }

    fn epoch(&mut self, space: &SpaceId, epoch: Epoch, start: Lsn) -> Result<(), CatalogError> {
        let held = self.held_mut(space)?;
        let last = held.history.last().copied().unwrap_or((Epoch(0), Lsn::ZERO));
        if held.history.contains(&(epoch, start)) {
            return Ok(());
        }
        if !continues(&held.history, epoch, start) {
            return Err(history_error(space, (epoch, start), last));
        }
        held.history.push((epoch, start));
        held.highest_epoch = held.highest_epoch.max(epoch);
        Ok(())
    }

    fn adopt(&mut self, space: &SpaceId, history: &[(Epoch, Lsn)]) -> Result<(), CatalogError> {
        let held = self.held_mut(space)?;
        let last = history.last().copied().unwrap_or((Epoch(0), Lsn::ZERO));
        if !is_history(history) {
            return Err(history_error(space, last, held.history.last().copied().unwrap_or(last)));
        }
        held.history = history.to_vec();
        held.highest_epoch = held.highest_epoch.max(last.0);
        Ok(())
    }

    /// Keep no more marks than the limit says.
    fn thin_marks(&mut self, space: &SpaceId, added: Lsn) -> Result<(), CatalogError> {
        let storage = |e| self.catalog.storage(e);
        let name = space.as_str();
        let mut kept = Vec::new();
        for entry in self.marks.range(numbers(name)).map_err(storage)? {
            kept.push(entry.map_err(storage)?.0.value().1);
        }
        for lsn in thin(&mut kept, |lsn| Lsn(*lsn), added) {
            self.marks.remove((name, lsn)).map_err(|e| self.catalog.storage(e))?;
        }
        Ok(())
    }

    fn put_run(&mut self, space: &str, ordinal: u32, run: &Run) -> Result<(), CatalogError> {
        self.runs
            .insert((space, ordinal), layout::encode_run(run).as_slice())
            .map_err(|e| self.catalog.storage(e))?;
        Ok(())
    }

    fn run(&self, space: &str, ordinal: u32) -> Result<Option<Run>, CatalogError> {
        let found = self.runs.get((space, ordinal)).map_err(|e| self.catalog.storage(e))?;
        Ok(found.and_then(|value| layout::decode_run(value.value())))
    }

    fn last_run(&self, space: &str) -> Result<Option<(u32, Run)>, CatalogError> {
        let storage = |e| self.catalog.storage(e);
        let last = self.runs.range(ordinals(space, 0)).map_err(storage)?.next_back();
        let Some((key, value)) = last.transpose().map_err(storage)? else {
            return Ok(None);
        };
        let run = layout::decode_run(value.value())
            .ok_or_else(|| self.catalog.damaged(format!("run {:?}", key.value())))?;
        Ok(Some((key.value().1, run)))
    }

    fn has_run(&self, space: &str, wanted: &Run) -> Result<bool, CatalogError> {
        let storage = |e| self.catalog.storage(e);
        for entry in self.runs.range(ordinals(space, 0)).map_err(storage)?.rev() {
            let (_, value) = entry.map_err(storage)?;
            match layout::decode_run(value.value()) {
                Some(run) if run.begins_like(wanted) => return Ok(true),
                Some(run) if run.start < wanted.start => break,
                _ => {}
            }
        }
        Ok(false)
    }
}

fn history_error(space: &SpaceId, wrong: (Epoch, Lsn), last: (Epoch, Lsn)) -> CatalogError {
    CatalogError::History {
        space: space.clone(),
        epoch: wrong.0,
        start: wrong.1,
        last: last.0,
        last_start: last.1,
    }
}
