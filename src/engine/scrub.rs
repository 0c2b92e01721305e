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
//! the end is a writer at work, not damage.
//!
//! A damaged range reaches from the first record that does not hold to the
//! next one that does, so one flipped byte is reported as one record.
//!
//! A space that is received is read along its stream instead, run by run, up to
//! what is durable: there, nothing may be missing. What is, is asked for again
//! from the primary and put in its place (`stream`, `rebuild`).

#![forbid(unsafe_code)]

mod asking;
mod pace;
mod peers;
mod rebuild;
mod report;
mod segments;
mod stream;
mod turns;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

pub use self::asking::ScrubAsk;
pub use self::peers::{FreeBytes, Mender};
pub use self::report::{BadRange, ScrubReport};
pub use self::turns::ScrubTurns;

use self::pace::Pace;
use self::turns::Timer;
use super::status::PassOutcome;
use super::verifier::Verifier;
use crate::ids::{SegmentName, SpaceId};
use crate::io::bulk::{self, BulkFile, Reads};
use crate::limits::{
    MAX_LISTED_BAD_RANGES, MAX_SCRUB_REQUESTS, RECORD_HEADER_BYTES, SCRUB_BYTES_PER_S,
    SCRUB_CONFIRM_DELAY, SCRUB_FIRST_DELAY, SCRUB_INTERVAL, VERIFY_PIECE_BYTES,
};
use crate::lsn::{Lsn, Mark};
use crate::wal::record::{Checksums, Header, RecordError};
use crate::wal::search;

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
            bytes_per_second: u64::from(SCRUB_BYTES_PER_S),
            first_delay: SCRUB_FIRST_DELAY,
            interval: SCRUB_INTERVAL,
            confirm_delay: SCRUB_CONFIRM_DELAY,
            checksums: Checksums::Required,
        }
    }
}

/// The report, and who waits for it.
struct Shared {
    report: Mutex<ScrubReport>,
    pass_done: Condvar,
    /// Passes that somebody has asked for.
    requests: Mutex<VecDeque<Request>>,
    signal: watch::Sender<Signal>,
}

/// What the thread is told.
#[derive(Clone, Copy, Debug, Default)]
struct Signal {
    stop: bool,
    /// The number of the last request.
    asked: u64,
}

/// A pass that somebody has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    number: u64,
    ask: ScrubAsk,
}

impl Shared {
    /// With what the thread is told.
    fn new() -> (Arc<Self>, watch::Receiver<Signal>) {
        let (signal, signals) = watch::channel(Signal::default());
        let shared = Self {
            report: Mutex::default(),
            pass_done: Condvar::new(),
            requests: Mutex::default(),
            signal,
        };
        (Arc::new(shared), signals)
    }

    fn report(&self) -> MutexGuard<'_, ScrubReport> {
        // A report is whole between any two statements.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where passes are asked for.
#[derive(Clone)]
pub struct ScrubRequests(Arc<Shared>);

impl ScrubRequests {
    /// Ask for a pass as soon as the present one has ended. Returns the number
    /// under which its outcome will be found, or nothing if too many wait
    /// already.
    #[must_use]
    pub fn ask(&self, ask: ScrubAsk) -> Option<u64> {
        let mut requests = self.0.requests();
        if let Some(known) = requests.iter().find(|known| known.ask == ask) {
            return Some(known.number);
        }
        if requests.len() >= MAX_SCRUB_REQUESTS {
            return None;
        }
        let mut number = 0;
        self.0.signal.send_modify(|signal| {
            signal.asked += 1;
            number = signal.asked;
        });
        requests.push_back(Request { number, ask });
        Some(number)
    }
}

impl fmt::Debug for ScrubRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScrubRequests")
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
        Self::start_mending(data_root, spaces, options, None)
    }

    /// As [`Scrubber::start`]; with a mender, what is damaged in a received
    /// space is put right.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start_mending(
        data_root: &Path,
        spaces: Spaces,
        options: ScrubOptions,
        mender: Option<Mender>,
    ) -> io::Result<ScrubHandle> {
        let (shared, signals) = Shared::new();
        let data_root = data_root.to_path_buf();
        let pass_shared = Arc::clone(&shared);
        let thread = Builder::new().name("scrub".to_owned()).spawn(move || {
            let ended = bulk::run(|reads| {
                let timer = Timer::Thread;
                Pass::new(pass_shared, data_root, options, reads, timer, signals, mender)
                    .repeat(spaces)
            });
            if let Err(error) = ended {
                tracing::error!(%error, "segments at rest are not verified: no runtime");
            }
        })?;
        Ok(ScrubHandle { shared, thread: Some(thread) })
    }
}

/// A running scrubber. Dropping it stops it.
pub struct ScrubHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ScrubHandle {
    /// What has been found so far.
    #[must_use]
    pub fn report(&self) -> ScrubReport {
        self.shared.report().clone()
    }

    /// Where passes are asked for.
    #[must_use]
    pub fn requests(&self) -> ScrubRequests {
        ScrubRequests(Arc::clone(&self.shared))
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

    /// Have it stop, and do not wait.
    pub fn tell_to_stop(&self) {
        self.shared.signal.send_modify(|signal| signal.stop = true);
    }

    /// Stop, and wait until the thread is gone: at most as long as one read, or
    /// one sync of a file that is being built.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tell_to_stop();
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
    timer: Timer,
    signals: watch::Receiver<Signal>,
    mender: Option<Mender>,
    /// What the present pass has come to so far.
    tally: PassOutcome,
}

impl Pass {
    fn new(
        shared: Arc<Shared>,
        data_root: PathBuf,
        options: ScrubOptions,
        reads: Reads,
        timer: Timer,
        signals: watch::Receiver<Signal>,
        mender: Option<Mender>,
    ) -> Self {
        let tally = PassOutcome::default();
        Self { shared, data_root, options, reads, timer, signals, mender, tally }
    }

    async fn repeat(mut self, spaces: Spaces) {
        let mut next = self.timer.now() + self.options.first_delay;
        loop {
            self.shared.report().next_at = Some(next);
            let request = self.shared.requests().pop_front();
            let wait = next.saturating_duration_since(self.timer.now());
            if request.is_none() && !wait.is_zero() {
                if self.idle(wait).await.is_err() {
                    return;
                }
                continue;
            }
            if request.is_none() {
                next = self.timer.now() + self.options.interval;
            }
            if self.run(spaces(), request).await.is_err() {
                return;
            }
        }
    }

    /// Wait for the time, for a request, or stop.
    async fn idle(&mut self, time: Duration) -> Result<(), Stopped> {
        if self.signals.borrow_and_update().stop {
            return Err(Stopped);
        }
        if !self.shared.requests().is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.timer.sleep(time) => Ok(()),
            changed = self.signals.changed() => {
                if changed.is_err() || self.signals.borrow().stop { Err(Stopped) } else { Ok(()) }
            }
        }
    }

    /// Sleep, or stop.
    async fn sleep(&mut self, time: Duration) -> Result<(), Stopped> {
        if self.signals.borrow().stop {
            return Err(Stopped);
        }
        if time.is_zero() && !self.timer.shares_its_thread() {
            return Ok(());
        }
        let end = self.timer.sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return Ok(()),
                changed = self.signals.changed() => {
                    if changed.is_err() || self.signals.borrow().stop {
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// One pass over all spaces, or over those that were asked for.
    async fn run(
        &mut self,
        mut spaces: Vec<(SpaceId, PathBuf)>,
        request: Option<Request>,
    ) -> Result<(), Stopped> {
        let ask = request.as_ref().map(|request| request.ask.clone()).unwrap_or_default();
        let only = ask.space.clone();
        spaces.retain(|(space, _)| only.as_ref().is_none_or(|only| only == space));
        {
            let mut report = self.shared.report();
            report.running = true;
            (report.unfinished_tails, report.unreadable) = (0, 0);
            (report.bad_ranges, report.bad_bytes) = (0, 0);
        }
        self.tally = PassOutcome { space: only.clone(), ..PassOutcome::default() };
        let mut piece = vec![0; VERIFY_PIECE_BYTES];
        let bytes_per_second =
            if ask.full_speed { u64::MAX } else { self.options.bytes_per_second };
        let mut pace = Pace { begun: self.timer.now(), bytes: 0, bytes_per_second };
        for (space, directory) in spaces {
            let Some(settled) = self.stream(&space, &ask, &mut piece, &mut pace).await? else {
                continue;
            };
            let directory = self.data_root.join(directory);
            for path in self.segments(&directory) {
                self.segment(&space, &path, &settled, &mut piece, &mut pace).await?;
            }
            // Of a repair, what it has seen to is among them.
            if !ask.repair {
                self.look_into_holes(&space, &directory, &settled, &mut piece, &mut pace).await?;
            }
        }
        let mut report = self.shared.report();
        report.running = false;
        report.ended_at = Some(self.timer.now());
        report.passes += 1;
        let pass = report.passes;
        let covered = |range: &BadRange| only.as_ref().is_none_or(|only| *only == range.space);
        report.bad.retain(|range| range.pass == pass || !covered(range));
        if let Some(request) = request {
            if report.outcomes.len() >= MAX_SCRUB_REQUESTS {
                report.outcomes.pop_front();
            }
            let unreadable = report.unreadable;
            report.outcomes.push_back(PassOutcome {
                request: request.number,
                unreadable,
                ..self.tally.clone()
            });
        }
        self.shared.pass_done.notify_all();
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
        self.verify_from(Mark::START, file, from, size, piece, pace).await
    }

    /// The same, behind a mark.
    async fn verify_from(
        &mut self,
        mark: Mark,
        file: &BulkFile,
        from: u64,
        size: u64,
        piece: &mut Vec<u8>,
        pace: &mut Pace,
    ) -> Result<(Verifier, Option<Trouble>), Stopped> {
        let mut verifier = Verifier::new(mark, self.options.checksums);
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
            self.tally.bytes += count as u64;
            if let Err(error) = verifier.feed(&piece[..count]) {
                return Ok((verifier, Some(Trouble::Record(error))));
            }
            self.sleep(pace.delay(count as u64, self.timer.now())).await?;
        }
        Ok((verifier, None))
    }

    /// Say that `offset..end` does not hold, and stays so.
    fn bad(
        &mut self,
        space: &SpaceId,
        path: &Path,
        (offset, end): (u64, u64),
        lsn: Option<Lsn>,
        reason: &str,
    ) {
        let bytes = end - offset;
        tracing::error!(
            %space, path = %path.display(), offset, bytes, reason,
            "damaged at rest; it was not mended"
        );
        self.tally.found += 1;
        let mut report = self.shared.report();
        report.bad_ranges += 1;
        report.bad_bytes += bytes;
        let pass = report.passes + 1;
        let known =
            report.bad.iter_mut().find(|known| known.path == path && known.offset == offset);
        if let Some(known) = known {
            (known.bytes, known.pass, known.reason) = (bytes, pass, reason.to_owned());
        } else if report.bad.len() < MAX_LISTED_BAD_RANGES {
            report.bad.push(BadRange {
                space: space.clone(),
                path: path.to_path_buf(),
                offset,
                bytes,
                reason: reason.to_owned(),
                lsn,
                pass,
            });
        }
    }
}

/// A range of a file that belongs to no stream, or that a repair has seen to:
/// which file, from where, to where.
type HoleRange = (SegmentName, u64, u64);

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
