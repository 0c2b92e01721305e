//! How fast a position moves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{RATE_LEAST, RATE_WINDOW, RETENTION_INTERVAL};

/// A position, looked at now and then.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// The position is there now. One that went back begins anew.
    pub fn observe(&mut self, now: Instant, at: u64) {
        if self.samples.back().is_some_and(|(_, last)| *last > at) {
            self.samples.clear();
        }
        let spaced = |(last, _): &(Instant, u64)| {
            now.saturating_duration_since(*last) >= RETENTION_INTERVAL / 2
        };
        if self.samples.back().is_none_or(spaced) {
            self.samples.push_back((now, at));
        }
        while self
            .samples
            .get(1)
            .is_some_and(|(first, _)| now.saturating_duration_since(*first) >= RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// How far it moved over the window, and in how long; nothing while that
    /// is not known for long enough.
    fn moved(&self) -> Option<(u64, Duration)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let span = last.0.saturating_duration_since(first.0);
        (span >= RATE_LEAST).then(|| (last.1 - first.1, span))
    }

    /// Bytes a second over the last half minute; nothing while that is not
    /// known for long enough.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        self.moved().map(|(bytes, span)| bytes as f64 / span.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rate_is_told_once_it_is_known_and_follows_what_happens() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for second in 0..4 {
            rate.observe(start + Duration::from_secs(second), 100 * second);
            assert_eq!(rate.per_second().is_some(), second >= RATE_LEAST.as_secs());
        }
        assert!((rate.per_second().unwrap() - 100.0).abs() < 1.0);
        for second in 4..100 {
            rate.observe(start + Duration::from_secs(second), 400);
        }
        assert!(rate.per_second().unwrap() < 1.0, "it has stopped");
        assert!(rate.samples.len() < 100, "what is old is forgotten");
        rate.observe(start + Duration::from_secs(100), 10);
        assert_eq!(rate.per_second(), None, "it went back");
    }
}
