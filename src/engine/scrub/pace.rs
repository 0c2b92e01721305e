//! How fast scrubbing may read.

use std::time::{Duration, Instant};

/// Holds the reading to its rate: reading is never ahead of the clock.
pub(super) struct Pace {
    pub(super) begun: Instant,
    pub(super) bytes: u64,
    pub(super) bytes_per_second: u64,
}

impl Pace {
    /// How long to wait after `bytes` more. A pause (the disk was slow, the
    /// machine slept) is not made up for.
    pub(super) fn delay(&mut self, bytes: u64) -> Duration {
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
