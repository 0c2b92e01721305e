//! Ctrl-C and SIGTERM for commands that have something to clean up.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Remembers that the process was asked to stop, and cuts pauses short.
#[derive(Debug, Clone)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Take over SIGINT, SIGTERM and SIGHUP for the rest of the process.
    ///
    /// # Errors
    ///
    /// The system refuses a handler or a thread.
    pub fn install() -> io::Result<Self> {
        let state = Arc::new((Mutex::new(false), Condvar::new()));
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let told = Arc::clone(&state);
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(any(&mut interrupt, &mut terminate, &mut hangup));
            *told.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            told.1.notify_all();
        })?;
        Ok(Self { state })
    }

    /// True once the process was asked to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for `duration`, or until the process is asked to stop. True if it
    /// was.
    #[must_use]
    pub fn pause(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut stop = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.state.1.wait_timeout(stop, left);
            stop = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *stop
    }
}

async fn any(a: &mut Signal, b: &mut Signal, c: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}
