//! Reading a received space along its stream, and asking for what does not hold.
//!
//! ```text
//!   runs     | 0 ................. | 1 ...........|  up to what is durable
//!   verify   ==== mark ##### ======================> chain at the end
//!                      |   ^ the next record that holds
//!                      `-- fetched from the primary, verified behind the mark
//! ```
//!
//! A file that is short, or gone, is damage here like a record that does not
//! hold: everything up to the durable position was acknowledged. What was
//! fetched goes to a scratch file; nothing is put in place before the chain at
//! the end of the stream is the one that was acknowledged, so that what is
//! mended is proven to be what was there. Files that were let go in order leave a
//! gap: what lies before it is held against the boundary that is known where it
//! begins, and behind it the chain goes on from the one that is known there.
//!
//! ```text
//!   runs     | 0 ...... | let go | 2 ........... |
//!            `--- chain ^        `---- chain ----^ what was acknowledged
//!                    known      known
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::peers::Stand;
use super::{HoleRange, Pace, Pass, ScrubAsk, Stopped, Trouble, begins_record};
use crate::engine::keeper::AtRest;
use crate::engine::verifier::Verifier;
use crate::ids::{NodeId, SpaceId};
use crate::io::bulk::BulkFile;
use crate::limits::{MAX_FETCH_BYTES, MAX_SEARCH_BYTES_PER_TURN};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Fetch;
use crate::state::catalog::{Hole, Role};
use crate::state::host::make_directories;
use crate::state::runs::Run;
use crate::wal::record::RecordError;
use crate::wal::search::{self, Found};

/// A damaged range of a stream.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    pub(super) run: Run,
    pub(super) path: PathBuf,
    /// Where in the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Where in the stream.
    pub(super) lsn: Lsn,
    pub(super) reason: String,
    /// Where the good bytes are in the scratch file, or why there are none.
    pub(super) fetched: Result<u64, String>,
}

/// What a look along a stream has come to.
pub(super) struct Survey {
    pub(super) space: SpaceId,
    /// Whom to ask; nobody: whoever has it.
    from: Option<NodeId>,
    pub(super) damages: Vec<Damage>,
    /// What was looked at, each run with its length and the marks at its
    /// beginning and its end.
    pub(super) seen: Vec<(Run, Mark, Mark)>,
    /// Where the bytes go that are fetched.
    scratch: Option<File>,
    scratch_bytes: u64,
    /// The end of the stream so far; without its chain once something could
    /// not be fetched.
    mark: Mark,
    whole: bool,
    /// Boundaries that the catalog knows.
    known: BTreeMap<Lsn, Mark>,
    /// Something before has been let go in order, and no boundary behind it is
    /// known: each record has to speak for itself.
    retired: bool,
    /// A boundary as it was found, and as it was known.
    foreign: Option<(Mark, Mark)>,
}

impl Pass {
    /// Where scratch files of a space go.
    pub(super) fn scratch_directory(&self, space: &SpaceId) -> PathBuf {
        let state_dir = self.mender.as_ref().map(|mender| mender.state_dir.clone());
        state_dir.unwrap_or_default().join("mending").join(space.as_str())
    }

    /// Read a received space along its stream, and mend it; or one that is to be
    /// repaired. The files of any that this node ships must be read each for
    /// itself as well, as they may hold what is in no stream: then this gives the
    /// ranges of them of which everything is known already.
    pub(super) async fn stream(
        &mut self,
        space: &SpaceId,
        ask: &ScrubAsk,
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<Option<Vec<HoleRange>>, Stopped> {
        let directory = self.data_root.join(space.as_str()).join("wal");
        let (standing, ground, known) = match self.standing(space).await? {
            Stand::Known(standing, ground, known) => (standing, ground, known),
            Stand::Unknown => return Ok(Some(Vec::new())),
            Stand::Silent => {
                // A file that is whole by itself may yet be too short.
                self.unreadable(&directory, &silent());
                return Ok(None);
            }
        };
        let ours = standing.role == Role::Primary;
        let hole = |hole: &Hole| (hole.segment, hole.offset, hole.offset + hole.bytes);
        let mut settled: Vec<_> = standing.holes.iter().map(hole).collect();
        if ours != ask.repair {
            return Ok(Some(settled));
        }
        let mut survey = Survey {
            space: space.clone(),
            from: ask.from.clone(),
            damages: Vec::new(),
            seen: Vec::new(),
            scratch: None,
            scratch_bytes: 0,
            mark: standing.base,
            whole: true,
            known,
            retired: false,
            foreign: None,
        };
        let mut files = BTreeSet::new();
        for (_, run) in standing.runs.iter().filter(|(_, run)| run.start < standing.mark.lsn) {
            let reach = standing.mark.lsn.bytes_since(run.start);
            let bytes = run.bytes.map_or(reach, |bytes| bytes.min(reach));
            if bytes == 0 {
                continue;
            }
            if files.insert(run.file) {
                self.shared.report().segments += 1;
                self.tally.segments += 1;
            }
            let run = Run { bytes: Some(bytes), ..*run };
            survey.take_up(run.start);
            let begin = survey.mark;
            self.survey(&mut survey, run, piece, pace).await?;
            survey.seen.push((run, begin, survey.mark));
        }
        survey.compare(&standing.mark);
        let holds = survey.damages.is_empty() && survey.foreign.is_none();
        if !holds && !ours {
            let moved = match self.kept(space).await? {
                Some(Some(kept)) if ground.is_of(&kept.history) => None,
                Some(_) => Some(std::io::Error::other("the space was cut while it was read")),
                None => Some(silent()),
            };
            if let Some(error) = moved {
                // What does not hold of it may be no damage.
                self.unreadable(&directory, &error);
                return Ok(None);
            }
        }
        if let Some((found, known)) = survey.foreign {
            // Every record holds, and yet they are not those that were
            // acknowledged. No range can be told; nothing is put in place.
            for damage in &mut survey.damages {
                damage.fetched = Err("what the primary has there is not what was there".into());
            }
            if survey.damages.is_empty() {
                let reason = format!(
                    "every record holds, but the chain at lsn {} is {:?} and was acknowledged as \
                     {:?}: the log holds other records than it did. Compare it with the primary's",
                    known.lsn, found.chain, known.chain
                );
                self.bad(space, &directory, (0, 0), Some(known.lsn), &reason);
            }
        } else if !survey.whole {
            for damage in survey.damages.iter_mut().filter(|damage| damage.fetched.is_ok()) {
                damage.fetched = Err("it was fetched, and cannot be proven to be what was \
                                      there while another range of the stream is missing"
                    .into());
            }
        }
        if ours {
            self.repair(&survey, piece, pace).await?;
            let range =
                |damage: &Damage| (damage.run.segment, damage.offset, damage.offset + damage.bytes);
            settled.extend(survey.damages.iter().map(range));
            return Ok(Some(settled));
        }
        self.mend(survey, ground, piece, pace).await?;
        Ok(None)
    }

    /// Verify one run; fetch what does not hold.
    async fn survey(
        &mut self,
        survey: &mut Survey,
        run: Run,
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        let Some(AtRest { path, file, retired }) = self.at_rest(&survey.space.clone(), run).await?
        else {
            self.unreadable(&PathBuf::from(run.segment.to_string()), &silent());
            survey.whole = false;
            survey.mark.lsn = run.start.advance(run.bytes.unwrap_or(0));
            return Ok(());
        };
        let mut at = run.offset;
        let end = run.offset + run.bytes.unwrap_or(0);
        if retired {
            survey.leave(run.start);
            survey.mark.lsn = run.start.advance(end - run.offset);
            return Ok(());
        }
        let opened = match file {
            Ok(file) => file
                .metadata()
                .and_then(|metadata| Ok((metadata.len(), BulkFile::new(file, self.reads)?))),
            Err(error) => Err(error),
        };
        let (size, file) = match opened {
            Ok((size, file)) => (size.min(end), Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (0, None),
            Err(error) => {
                self.unreadable(&path, &error);
                survey.whole = false;
                survey.mark.lsn = run.start.advance(end - run.offset);
                return Ok(());
            }
        };
        while at < end {
            let begun = survey.mark;
            let (verifier, trouble) = match &file {
                Some(file) => self.verify_from(begun, file, at, size, piece, pace).await?,
                None => (Verifier::new(begun, self.options.checksums), None),
            };
            self.shared.report().records += verifier.mark().records - begun.records;
            survey.mark = verifier.mark();
            at += survey.mark.lsn.bytes_since(begun.lsn);
            if trouble.is_none() && at == end {
                return Ok(());
            }
            let reason = match (&trouble, &file) {
                (Some(trouble), _) => trouble.to_string(),
                (None, Some(_)) if size < end => {
                    format!("the file ends at {size}, and was durable up to {end}")
                }
                (None, Some(_)) => "the run ends within a record".to_owned(),
                (None, None) => "the file is gone".to_owned(),
            };
            let behind = match &file {
                Some(file) => self.next_good(file, at, size, end, trouble.as_ref(), &verifier)?,
                None => end,
            };
            let mark = survey.mark;
            let fetched = self.fetch_range(survey, (at, behind, end)).await?;
            let bytes = match &fetched {
                Ok(_) => survey.mark.lsn.bytes_since(mark.lsn),
                Err(_) => {
                    survey.whole = false;
                    survey.mark.lsn = mark.lsn.advance(behind - at);
                    behind - at
                }
            };
            tracing::warn!(
                space = %survey.space, path = %path.display(), offset = at, bytes,
                lsn = %mark.lsn, reason, "damaged at rest"
            );
            survey.damages.push(Damage {
                run,
                path: path.clone(),
                offset: at,
                bytes,
                lsn: mark.lsn,
                reason,
                fetched,
            });
            at += bytes;
        }
        Ok(())
    }

    /// Where the next good record behind `bad` begins, at most `end`: what lies
    /// behind that is of no stream, or of another run.
    fn next_good(
        &self,
        file: &BulkFile,
        bad: u64,
        size: u64,
        end: u64,
        trouble: Option<&Trouble>,
        verifier: &Verifier,
    ) -> Result<u64, Stopped> {
        let checksums = self.options.checksums;
        let mut from = match trouble {
            // Nothing lies behind what ends too early.
            None => return Ok(end),
            Some(Trouble::Read { end: next, .. }) => *next,
            Some(Trouble::Record(error)) => {
                // A payload may hold what looks like a record. If the damaged
                // record ends where another begins, it is the only one.
                let next = bad + verifier.needed();
                let sound = matches!(error, RecordError::PayloadCrc { .. });
                if sound && (next == end || begins_record(file.file(), next, checksums)) {
                    return Ok(next.min(end));
                }
                bad + 1
            }
        };
        while from < size {
            if self.signals.borrow().stop {
                return Err(Stopped);
            }
            let turn = MAX_SEARCH_BYTES_PER_TURN;
            from = match search::find_record(file.file(), from, turn, size, checksums) {
                Ok(Found::Record(at)) => return Ok(at.min(end)),
                Ok(Found::NoneBefore(at)) if at > from => at,
                // Too few bytes are left for a header.
                Ok(Found::NoneBefore(_)) => size,
                // The disk again: look behind it.
                Err(_) => from.saturating_add(turn),
            };
        }
        Ok(end)
    }

    /// Fetch whole records from the mark on, at least up to `behind` of the
    /// file and never beyond `end`. The mark stands behind them then.
    async fn fetch_range(
        &mut self,
        survey: &mut Survey,
        (at, behind, end): (u64, u64, u64),
    ) -> Result<Result<u64, String>, Stopped> {
        let begun = survey.mark;
        let mut verifier = Verifier::new(begun, self.options.checksums);
        let place = survey.scratch_bytes;
        let mut got = 0;
        loop {
            let whole = verifier.pending() == 0;
            if whole && at + got >= behind {
                break;
            }
            let want = if at + got < behind {
                behind - at - got
            } else {
                // What looked like a record lies within one.
                verifier.needed() - verifier.pending()
            };
            if at + got + want > end {
                return Ok(Err("what the primary has there does not end with the run".into()));
            }
            let lsn = begun.lsn.advance(got);
            let bytes = u32::try_from(want).unwrap_or(u32::MAX).min(MAX_FETCH_BYTES);
            let Some(bytes) =
                self.fetch(&survey.space, survey.from.as_ref(), Fetch { lsn, bytes }).await?
            else {
                return Ok(Err(format!(
                    "nobody is connected who has lsn {lsn} and could be asked"
                )));
            };
            if let Err(error) = verifier.feed(&bytes) {
                return Ok(Err(format!(
                    "the other end's own record at lsn {} does not hold: {error}",
                    verifier.mark().lsn
                )));
            }
            if let Err(error) = self.keep(survey, place + got, &bytes) {
                return Ok(Err(format!("what was fetched cannot be written: {error}")));
            }
            got += bytes.len() as u64;
        }
        survey.mark = verifier.mark();
        survey.scratch_bytes += got;
        Ok(Ok(place))
    }

    /// Write fetched bytes to the scratch file.
    fn keep(&self, survey: &mut Survey, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let Some(mender) = &self.mender else { return Ok(()) };
        if survey.scratch.is_none() {
            let directory = self.scratch_directory(&survey.space);
            make_directories(&*mender.host, &mender.state_dir, &directory)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            let path = directory.join("fetched");
            survey.scratch = Some(mender.host.open(&options, &path)?);
            // Its bytes are needed by this look only, whatever becomes of it.
            mender.host.remove(&path)?;
        }
        match &survey.scratch {
            Some(file) => mender.host.write_at(file, bytes, at),
            None => Ok(()),
        }
    }
}

/// Nobody says where a space stands.
fn silent() -> std::io::Error {
    std::io::Error::other(
        "the node does not say where the space stands: it is busy with it, or is ending",
    )
}

impl Survey {
    /// A run begins at `at`: the chain is known again, if it is known there.
    fn take_up(&mut self, at: Lsn) {
        if self.retired
            && let Some(known) = self.known.get(&at)
        {
            self.mark = *known;
            self.retired = false;
        }
    }

    /// What lies from `at` on was let go: what lies before it must be what it is
    /// known to be.
    fn leave(&mut self, at: Lsn) {
        if let Some(known) = self.known.get(&at).copied() {
            self.compare(&known);
        }
        self.retired = true;
    }

    /// Hold the end of what was read against what is known there. Nothing is
    /// told where a part is missing, or the chain was not known at its beginning.
    fn compare(&mut self, known: &Mark) {
        if self.whole && !self.retired && self.mark.chain != known.chain {
            self.foreign.get_or_insert((self.mark, *known));
        }
    }

    /// Up to where a file was looked at: nothing behind is known to be written
    /// yet, wherever the file ends.
    pub(super) fn reach(&self, file: u64) -> u64 {
        let ends = self.seen.iter().filter(|(run, ..)| run.file == file);
        ends.map(|(run, ..)| run.reach(Lsn(u64::MAX))).max().unwrap_or(0)
    }

    /// The scratch file, once something was fetched.
    pub(super) fn scratch(&self) -> Option<&File> {
        self.scratch.as_ref()
    }
}
