//! What time it is. A shard asks a [`Clock`], never the system: the simulator
//! has one of its own, which it sets.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::protocol::Now;

/// A source of time.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// What the clocks say. The instants of one clock never go back; the time
    /// since the Unix epoch may.
    fn now(&self) -> Now;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { instant: Instant::now(), unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) }
    }
}
