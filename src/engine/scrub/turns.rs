//! Where a pass waits: on the scrubber's own thread, or for whoever takes turns
//! with it.
//!
//! ```text
//!   pass --- sleep ---> the runtime of the thread           in a node
//!                `----> its next turn, and when it is due   in the simulator
//! ```
//!
//! A pass is one task that reads, asks and waits. All it needs of its thread is
//! to be woken when it has waited, so that it can as well be taken a step
//! further at a time, on any thread and by any clock: it then stops wherever it
//! could have to wait, for however short a time.

use std::cell::Cell;
use std::fmt;
use std::future::{self, Future};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::{Mender, Pass, ScrubOptions, ScrubReport, ScrubRequests, Scrubber, Shared, Spaces};
use crate::engine::clock::Clock;
use crate::io::bulk::Reads;

/// What time it is for a pass, and how it waits.
#[derive(Clone, Debug)]
pub(super) enum Timer {
    /// The system's clock, and the runtime of the thread.
    Thread,
    /// Somebody takes turns with it.
    Turns(Arc<dyn Clock>, Rc<Cell<Option<Instant>>>),
}

impl Timer {
    pub(super) fn now(&self) -> Instant {
        match self {
            Self::Thread => Instant::now(),
            Self::Turns(clock, _) => clock.now().instant,
        }
    }

    /// A pause that takes no time is one all the same: somebody else may have a
    /// turn.
    pub(super) fn shares_its_thread(&self) -> bool {
        matches!(self, Self::Turns(..))
    }

    /// Wait that long.
    pub(super) async fn sleep(&self, time: Duration) {
        match self {
            Self::Thread => tokio::time::sleep(time).await,
            Self::Turns(clock, due) => {
                let until = clock.now().instant + time;
                let mut paused = false;
                future::poll_fn(|_| {
                    if std::mem::replace(&mut paused, true) && clock.now().instant >= until {
                        return Poll::Ready(());
                    }
                    due.set(Some(due.get().map_or(until, |other| other.min(until))));
                    Poll::Pending
                })
                .await;
            }
        }
    }
}

/// Somebody has asked for a pass, or for its end.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl Wake for Asked {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A scrubber without a thread: it does nothing but in its turns. Dropping it is
/// as if its process was killed.
pub struct ScrubTurns {
    task: Pin<Box<dyn Future<Output = ()>>>,
    due: Rc<Cell<Option<Instant>>>,
    asked: Arc<Asked>,
    shared: Arc<Shared>,
}

impl ScrubTurns {
    /// Go on up to where it waits. When its next turn is due; nothing once it
    /// has come to its end.
    pub fn turn(&mut self) -> Option<Instant> {
        self.due.set(None);
        self.asked.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.asked));
        match self.task.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => None,
            Poll::Pending => self.due.get(),
        }
    }

    /// Whether its next turn is due at once: somebody has asked for something.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.0.load(Ordering::Relaxed)
    }

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
}

impl fmt::Debug for ScrubTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScrubTurns").field("report", &self.report()).finish_non_exhaustive()
    }
}

impl Scrubber {
    /// As [`Scrubber::start_mending`], and without a thread: whoever has it
    /// takes turns with it. It reads as a thread does that has no ring.
    #[must_use]
    pub fn in_turns(
        data_root: &Path,
        spaces: Spaces,
        options: ScrubOptions,
        mender: Mender,
        clock: Arc<dyn Clock>,
    ) -> ScrubTurns {
        let (shared, signals) = Shared::new();
        let due = Rc::new(Cell::new(None));
        let timer = Timer::Turns(clock, Rc::clone(&due));
        let (to, root) = (Arc::clone(&shared), data_root.to_path_buf());
        let pass = Pass::new(to, root, options, Reads::Blocking, timer, signals, Some(mender));
        let task = Box::pin(pass.repeat(spaces));
        ScrubTurns { task, due, asked: Arc::default(), shared }
    }
}
