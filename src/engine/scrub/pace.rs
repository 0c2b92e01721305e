//! How fast scrubbing may read.

use std::time::{Duration, Instant};

/// Holds the reading to its rate: reading is never ahead of the clock.
pub(super) struct Pace {
    pub(super) begun: Instant,
    pub(super) bytes: u64,
    pub(super) bytes_per_second: u64,
}

impl Pace {
    /// How long to wait after `bytes` more, being `now`. A pause (the disk was slow, the
    /// machine slept) is not made up for.
    pub(super) fn delay(&mut self, bytes: u64, now: Instant) -> Duration {
        self.bytes += bytes;
        let due =
            Duration::from_millis(self.bytes.saturating_mul(1000) / self.bytes_per_second.max(1));
        let elapsed = now.saturating_duration_since(self.begun);
        if elapsed > due + Duration::from_secs(1) {
            (self.begun, self.bytes) = (now, 0);
        }
        due.saturating_sub(elapsed)
    }
}
