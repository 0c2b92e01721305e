//! When the head was where: from that, how old the oldest byte is that a
//! replica lacks, by this node's own clock.

use std::time::{Duration, Instant};

use super::space::Space;
use crate::limits::MAX_LAG_SAMPLES;
use crate::lsn::Lsn;

/// Samples of the head are at least this far apart.
const SAMPLE_SPACING: Duration = Duration::from_millis(5);

impl Space {
    /// Remember when the head was where, for lag in seconds.
    pub(super) fn sample(&mut self, now: Instant) {
        if self.samples.back().is_some_and(|(_, at)| now.duration_since(*at) < SAMPLE_SPACING) {
            // Within one spacing the older time stands for the newer bytes:
            // lag is overstated by at most that.
            if let Some(last) = self.samples.back_mut() {
                last.0 = self.head.lsn;
                return;
            }
        }
        if self.samples.len() >= MAX_LAG_SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.samples.push_back((self.head.lsn, now));
    }

    /// How long ago the oldest byte behind `flushed` became part of the
    /// stream: zero if there is none, nothing if that was before this process.
    #[must_use]
    pub fn age_behind(&self, flushed: Lsn, now: Instant) -> Option<Duration> {
        if flushed >= self.head.lsn {
            return Some(Duration::ZERO);
        }
        let first = self.samples.partition_point(|(lsn, _)| *lsn <= flushed);
        self.samples.get(first).map(|(_, at)| now.duration_since(*at))
    }
}
