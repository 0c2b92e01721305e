//! Reading the segments of a directory, each for itself: those of spaces that
//! this node ships, and of such that are in no catalog.
//!
//! What a file holds is all that is known of it. So an unfinished record at its
//! end is no damage, and damage must last a moment to be reported.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{HoleRange, Pace, Pass, Stopped, Trouble, Verifier, begins_record};
use crate::ids::{SegmentName, SpaceId};
use crate::io::bulk::BulkFile;
use crate::limits::MAX_SEARCH_BYTES_PER_TURN;
use crate::wal::record::RecordError;
use crate::wal::search::{self, Found};

impl Pass {
    /// The segments of a directory, by name.
    pub(super) fn segments(&self, directory: &Path) -> Vec<PathBuf> {
        let listed = fs::read_dir(directory).and_then(|entries| {
            let mut segments = Vec::new();
            for entry in entries {
                let name = entry?.file_name();
                if let Some(segment) = name.to_str().and_then(|name| name.parse().ok()) {
                    segments.push(SegmentName::clone(&segment));
                }
            }
            Ok(segments)
        });
        match listed {
            Ok(mut segments) => {
                segments.sort();
                segments.into_iter().map(|name| directory.join(name.to_string())).collect()
            }
            Err(error) => {
                self.unreadable(directory, &error);
                Vec::new()
            }
        }
    }

    pub(super) fn unreadable(&self, path: &Path, error: &io::Error) {
        // What was retired since it was listed is no loss.
        if error.kind() != io::ErrorKind::NotFound {
            tracing::error!(path = %path.display(), %error, "cannot be verified");
            self.shared.report().unreadable += 1;
        }
    }

    /// Verify one segment up to its present size.
    pub(super) async fn segment(
        &mut self,
        space: &SpaceId,
        path: &Path,
        holes: &[HoleRange],
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        let opened = File::open(path)
            .and_then(|file| Ok((file.metadata()?.len(), BulkFile::new(file, self.reads)?)));
        let (size, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.unreadable(path, &error);
                return Ok(());
            }
        };
        self.shared.report().segments += 1;
        self.tally.segments += 1;
        let mut from = 0;
        while from < size {
            let (verifier, trouble) = self.verify(&file, from, size, piece, pace).await?;
            let good = from + verifier.mark().lsn.0;
            self.shared.report().records += verifier.mark().records;
            match trouble {
                None => {
                    self.shared.report().unfinished_tails += u64::from(verifier.pending() > 0);
                    return Ok(());
                }
                Some(_) if let Some(end) = behind_hole(holes, path, good) => from = end,
                Some(trouble) => {
                    if !self.confirm(&file, good, size, &trouble, &verifier, piece, pace).await? {
                        from = good;
                        continue;
                    }
                    let Some(end) =
                        self.behind(&file, good, size, &trouble, &verifier, pace).await?
                    else {
                        self.shared.report().unfinished_tails += 1;
                        return Ok(());
                    };
                    self.bad(space, path, (good, end), None, &trouble.to_string());
                    from = end;
                }
            }
        }
        Ok(())
    }

    /// Say which of the bytes that were left out of the stream hold again:
    /// somebody has put them back. That is seen by the database alone.
    pub(super) async fn look_into_holes(
        &mut self,
        space: &SpaceId,
        directory: &Path,
        holes: &[HoleRange],
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        for (segment, from, to) in holes {
            let path = directory.join(segment.to_string());
            let opened = File::open(&path).and_then(|file| BulkFile::new(file, self.reads));
            // One that the database has removed has nothing in it any more.
            let Ok(file) = opened else { continue };
            let (verifier, trouble) = self.verify(&file, *from, *to, piece, pace).await?;
            let end = verifier.mark().lsn.0;
            if trouble.is_none() && end == to - from {
                tracing::warn!(
                    %space, path = %path.display(), offset = from, bytes = end,
                    records = verifier.mark().records,
                    "bytes that were left out of the stream hold again: the database has these \
                     records, and no replica gets them; write them anew, through the database"
                );
            }
        }
        Ok(())
    }

    /// Look a second time, a moment later. Writes to a log that is being
    /// received may end in another order than they lie in: for that long, a
    /// range may be empty while a later one is there.
    #[expect(clippy::too_many_arguments, reason = "the place, the trouble, and the two tools")]
    async fn confirm(
        &mut self,
        file: &BulkFile,
        bad: u64,
        size: u64,
        trouble: &Trouble,
        verifier: &Verifier,
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<bool, Stopped> {
        self.sleep(self.options.confirm_delay).await?;
        let end = match trouble {
            Trouble::Read { end, .. } => *end,
            Trouble::Record(_) => bad + verifier.needed(),
        };
        let (_, again) = self.verify(file, bad, end.min(size), piece, pace).await?;
        Ok(again.is_some())
    }

    /// Where the next good record behind trouble at `bad` begins, or `size`.
    /// Nothing if only zeroes follow: bytes that a writer, or a crash of the
    /// host, has not filled.
    async fn behind(
        &mut self,
        file: &BulkFile,
        bad: u64,
        size: u64,
        trouble: &Trouble,
        verifier: &Verifier,
        pace: &mut Pace,
    ) -> Result<Option<u64>, Stopped> {
        let checksums = self.options.checksums;
        let file = file.file();
        let mut from = match trouble {
            Trouble::Read { end, .. } => *end,
            Trouble::Record(error) => {
                if matches!(search::first_nonzero(file, bad, size), Ok(None)) {
                    return Ok(None);
                }
                // A payload may hold what looks like a record. If the damaged
                // record ends where another begins, it is the only one.
                let end = bad + verifier.needed();
                let sound = matches!(error, RecordError::PayloadCrc { .. });
                if sound && (end == size || begins_record(file, end, checksums)) {
                    return Ok(Some(end));
                }
                bad + 1
            }
        };
        while from < size {
            let turn = MAX_SEARCH_BYTES_PER_TURN;
            let next = match search::find_record(file, from, turn, size, checksums) {
                Ok(Found::Record(at)) => return Ok(Some(at)),
                Ok(Found::NoneBefore(at)) if at > from => at,
                // Too few bytes are left for a header.
                Ok(Found::NoneBefore(_)) => size,
                // The disk again: look behind it.
                Err(_) => from.saturating_add(turn),
            };
            self.sleep(pace.delay(next.min(size) - from, self.timer.now())).await?;
            from = next;
        }
        Ok(Some(size))
    }
}

/// Where the known hole ends that `offset` lies in: of several records that were
/// left out together, some may hold again.
fn behind_hole(holes: &[HoleRange], path: &Path, offset: u64) -> Option<u64> {
    let name: SegmentName = path.file_name()?.to_str()?.parse().ok()?;
    let of = |hole: &&HoleRange| hole.0 == name && (hole.1..hole.2).contains(&offset);
    holes.iter().find(of).map(|hole| hole.2)
}
