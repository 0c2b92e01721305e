//! The scrubber: reads every segment at rest again, slowly, and says what has
//! rotted.
//!
//! ```text
//!   sleep ---> list spaces ---> list segments ---> read 1 MiB ---> verify --+
//!     ^                                                ^                    |
//!     +--- pass done                                   +---- pace, stop? ---+
//! ```
//!
//! It has a thread of its own, shares nothing with the data plane, and costs
//! nothing between two passes. It verifies header and payload of every record
//! up to the size that a file had when it was opened; an unfinished record at
//! the end is a writer at work, not damage. It reports and does not repair.
//!
//! A damaged range reaches from the first record that does not hold to the
//! next one that does, so one flipped byte is reported as one record.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::status::{self, ScrubStatus};
use super::verifier::Verifier;
use crate::ids::{SegmentName, SpaceId};
use crate::io::bulk::{self, BulkFile, Reads};
use crate::limits::{
    MAX_LISTED_BAD_RANGES, MAX_SEARCH_BYTES_PER_TURN, RECORD_HEADER_BYTES, SCRUB_BYTES_PER_S,
    SCRUB_CONFIRM_DELAY, SCRUB_FIRST_DELAY, SCRUB_INTERVAL, VERIFY_PIECE_BYTES,
};
use crate::lsn::Mark;
use crate::wal::record::{Checksums, Header, RecordError};
use crate::wal::search::{self, Found};

/// Lists the spaces of this node and the directories that hold their
/// segments. Called at the beginning of each pass, on the scrubber's thread.
pub type Spaces = Arc<dyn Fn() -> Vec<(SpaceId, PathBuf)> + Send + Sync>;

/// How the scrubber goes about it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ScrubOptions {
    /// Bytes read per second, at least 1.
    pub bytes_per_second: u64,
    /// From the start to the first pass.
    pub first_delay: Duration,
    /// From the beginning of one pass to that of the next; a pass that takes
    /// longer is followed at once.
    pub interval: Duration,
    /// How long damage must last before it is reported.
    pub confirm_delay: Duration,
    /// Whether records without checksums are damage.
    pub checksums: Checksums,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self {
            bytes_per_second: SCRUB_BYTES_PER_S,
            first_delay: SCRUB_FIRST_DELAY,
            interval: SCRUB_INTERVAL,
            confirm_delay: SCRUB_CONFIRM_DELAY,
            checksums: Checksums::Required,
        }
    }
}

/// A range of a segment that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// The space.
    pub space: SpaceId,
    /// The segment.
    pub path: PathBuf,
    /// Where the range begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong at its beginning.
    pub reason: String,
    /// The pass that saw it last, from 1.
    pub pass: u64,
}

/// What scrubbing has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Passes that were finished.
    pub passes: u64,
    /// True while a pass is under way.
    pub running: bool,
    /// When the last pass ended.
    pub ended_at: Option<Instant>,
    /// When the next one is due.
    pub next_at: Option<Instant>,
    /// Segments read, over all passes.
    pub segments: u64,
    /// Bytes read, over all passes.
    pub bytes: u64,
    /// Records that held, over all passes.
    pub records: u64,
    /// Segments of the present or last pass that end in an unfinished record.
    pub unfinished_tails: u64,
    /// Segments and directories of the present or last pass that could not be
    /// read. The log says why.
    pub unreadable: u64,
    /// Damaged ranges of the present or last pass, listed or not.
    pub bad_ranges: u64,
    /// Bytes in damaged ranges of the present or last pass.
    pub bad_bytes: u64,
    /// The damaged ranges, at most [`MAX_LISTED_BAD_RANGES`]. One that a later
    /// pass no longer finds is dropped at that pass's end.
    pub bad: Vec<BadRange>,
}

impl From<ScrubReport> for ScrubStatus {
    fn from(report: ScrubReport) -> Self {
        let status = |range: BadRange| status::BadRange {
            space: range.space,
            segment: range
                .path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            offset: range.offset,
            bytes: range.bytes,
            problem: range.reason,
        };
        Self {
            segments: report.segments,
            bytes: report.bytes,
            passes: report.passes,
            running: report.running,
            last_pass_seconds: report.ended_at.map(|at| at.elapsed().as_secs_f64()),
            next_pass_seconds: (report.next_at.filter(|_| !report.running))
                .map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
            bad_ranges: report.bad.into_iter().map(status).collect(),
        }
    }
}

/// The report, and who waits for it.
#[derive(Default)]
struct Shared {
    report: Mutex<ScrubReport>,
    pass_done: Condvar,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, ScrubReport> {
        // A report is whole between any two statements.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts scrubbing; see [`Scrubber::start`].
#[derive(Debug)]
pub struct Scrubber;

impl Scrubber {
    /// Scrub on a thread of its own, until the handle is stopped or dropped.
    /// Paths that `spaces` gives are taken below `data_root` unless absolute.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(
        data_root: &Path,
        spaces: Spaces,
        options: ScrubOptions,
    ) -> io::Result<ScrubHandle> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(false);
        let data_root = data_root.to_path_buf();
        let pass_shared = Arc::clone(&shared);
        let thread = Builder::new().name("scrub".to_owned()).spawn(move || {
            let ended = bulk::run(|reads| {
                let pass = Pass { shared: pass_shared, data_root, options, reads, stopped };
                pass.repeat(spaces)
            });
            if let Err(error) = ended {
                tracing::error!(%error, "segments at rest are not verified: no runtime");
            }
        })?;
        Ok(ScrubHandle { shared, stop, thread: Some(thread) })
    }
}

/// A running scrubber. Dropping it stops it.
pub struct ScrubHandle {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl ScrubHandle {
    /// What has been found so far.
    #[must_use]
    pub fn report(&self) -> ScrubReport {
        self.shared.report().clone()
    }

    /// Wait until that many passes are finished; false if it took longer than
    /// `timeout`.
    #[must_use]
    pub fn wait_for_passes(&self, passes: u64, timeout: Duration) -> bool {
        let (report, _) = self
            .shared
            .pass_done
            .wait_timeout_while(self.shared.report(), timeout, |report| report.passes < passes)
            .unwrap_or_else(PoisonError::into_inner);
        report.passes >= passes
    }

    /// Stop, and wait until the thread is gone: at most as long as one read.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Without a receiver the thread is gone already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scrubber's thread has panicked");
        }
    }
}

impl Drop for ScrubHandle {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for ScrubHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScrubHandle").field("report", &self.report()).finish_non_exhaustive()
    }
}

/// The stop was asked for: unwind to the end of the thread.
struct Stopped;

/// The work of the thread.
struct Pass {
    shared: Arc<Shared>,
    data_root: PathBuf,
    options: ScrubOptions,
    reads: Reads,
    stopped: watch::Receiver<bool>,
}

/// Holds the reading to its rate: reading is never ahead of the clock.
struct Pace {
    begun: Instant,
    bytes: u64,
    bytes_per_second: u64,
}

impl Pace {
    /// How long to wait after `bytes` more. A pause (the disk was slow, the
    /// machine slept) is not made up for.
    fn delay(&mut self, bytes: u64) -> Duration {
        self.bytes += bytes;
        let due =
            Duration::from_millis(self.bytes.saturating_mul(1000) / self.bytes_per_second.max(1));
        let elapsed = self.begun.elapsed();
        if elapsed > due + Duration::from_secs(1) {
            (self.begun, self.bytes) = (Instant::now(), 0);
        }
        due.saturating_sub(elapsed)
    }
}

impl Pass {
    async fn repeat(mut self, spaces: Spaces) {
        let mut next = Instant::now() + self.options.first_delay;
        loop {
            self.shared.report().next_at = Some(next);
            let wait = next.saturating_duration_since(Instant::now());
            if self.sleep(wait).await.is_err() {
                return;
            }
            next = Instant::now() + self.options.interval;
            if self.run(spaces()).await.is_err() {
                return;
            }
        }
    }

    /// Sleep, or stop.
    async fn sleep(&mut self, time: Duration) -> Result<(), Stopped> {
        if *self.stopped.borrow() {
            return Err(Stopped);
        }
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            _ = self.stopped.changed() => Err(Stopped),
        }
    }

    /// One pass over all spaces.
    async fn run(&mut self, spaces: Vec<(SpaceId, PathBuf)>) -> Result<(), Stopped> {
        {
            let mut report = self.shared.report();
            report.running = true;
            (report.unfinished_tails, report.unreadable) = (0, 0);
            (report.bad_ranges, report.bad_bytes) = (0, 0);
        }
        let mut piece = vec![0; VERIFY_PIECE_BYTES];
        let bytes_per_second = self.options.bytes_per_second;
        let mut pace = Pace { begun: Instant::now(), bytes: 0, bytes_per_second };
        for (space, directory) in spaces {
            for path in self.segments(&self.data_root.join(directory)) {
                self.segment(&space, &path, &mut piece, &mut pace).await?;
            }
        }
        let mut report = self.shared.report();
        report.running = false;
        report.ended_at = Some(Instant::now());
        report.passes += 1;
        let pass = report.passes;
        report.bad.retain(|range| range.pass == pass);
        self.shared.pass_done.notify_all();
        Ok(())
    }

    /// The segments of a directory, by name.
    fn segments(&self, directory: &Path) -> Vec<PathBuf> {
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

    fn unreadable(&self, path: &Path, error: &io::Error) {
        // What was retired since it was listed is no loss.
        if error.kind() != io::ErrorKind::NotFound {
            tracing::error!(path = %path.display(), %error, "cannot be verified");
            self.shared.report().unreadable += 1;
        }
    }

    /// Verify one segment up to its present size.
    async fn segment(
        &mut self,
        space: &SpaceId,
        path: &Path,
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
                    self.bad(space, path, good, end, &trouble);
                    from = end;
                }
            }
        }
        Ok(())
    }

    /// Verify from `from` on, up to `size` or to the first trouble.
    async fn verify(
        &mut self,
        file: &BulkFile,
        from: u64,
        size: u64,
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<(Verifier, Option<Trouble>), Stopped> {
        let mut verifier = Verifier::new(Mark::START, self.options.checksums);
        let mut at = from;
        while at < size {
            let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(piece.len());
            let (result, lent) = file.read(std::mem::take(piece), most, at).await;
            *piece = lent;
            let count = match result {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    let end = at + most as u64;
                    return Ok((verifier, Some(Trouble::Read { error, end })));
                }
            };
            at += count as u64;
            self.shared.report().bytes += count as u64;
            if let Err(error) = verifier.feed(&piece[..count]) {
                return Ok((verifier, Some(Trouble::Record(error))));
            }
            self.sleep(pace.delay(count as u64)).await?;
        }
        Ok((verifier, None))
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
            self.sleep(pace.delay(next.min(size) - from)).await?;
            from = next;
        }
        Ok(Some(size))
    }

    /// Say that `offset..end` does not hold.
    fn bad(&self, space: &SpaceId, path: &Path, offset: u64, end: u64, trouble: &Trouble) {
        let bytes = end - offset;
        tracing::error!(
            %space, path = %path.display(), offset, bytes, reason = %trouble,
            "damaged at rest; it was not repaired"
        );
        let mut report = self.shared.report();
        report.bad_ranges += 1;
        report.bad_bytes += bytes;
        let pass = report.passes + 1;
        let known =
            report.bad.iter_mut().find(|known| known.path == path && known.offset == offset);
        if let Some(known) = known {
            (known.bytes, known.pass, known.reason) = (bytes, pass, trouble.to_string());
        } else if report.bad.len() < MAX_LISTED_BAD_RANGES {
            report.bad.push(BadRange {
                space: space.clone(),
                path: path.to_path_buf(),
                offset,
                bytes,
                reason: trouble.to_string(),
                pass,
            });
        }
    }
}

/// Why verification stopped.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// A record does not hold.
    #[error("{0}")]
    Record(RecordError),
    /// The disk does not give the bytes up to `end`.
    #[error("cannot be read: {error}")]
    Read {
        error: io::Error,
        /// Where to go on.
        end: u64,
    },
}

/// Whether a good header begins at `offset`.
fn begins_record(file: &File, offset: u64, checksums: Checksums) -> bool {
    let mut raw = [0; RECORD_HEADER_BYTES];
    matches!(search::read_up_to(file, &mut raw, offset), Ok(RECORD_HEADER_BYTES))
        && Header::parse(&raw, checksums).is_ok()
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
