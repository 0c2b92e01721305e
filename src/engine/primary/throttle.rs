//! How fast a replica may be filled anew.
//!
//! A bucket that may be overdrawn by one frame: whoever has sent more than its
//! share waits until the debt is paid.

use std::time::{Duration, Instant};

/// One seed's bucket.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When everything that was sent is paid for.
    paid_at: Instant,
}

impl Throttle {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_at: now }
    }

    /// That much was sent. When the next frame may go.
    pub fn sent(&mut self, now: Instant, bytes: u32) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // A pause earns no burst.
        self.paid_at = self.paid_at.max(now) + price;
        self.paid_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_paid_for_and_pauses_earn_nothing() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1000, start);
        assert_eq!(throttle.sent(start, 500), start + Duration::from_millis(500));
        assert_eq!(throttle.sent(start, 500), start + Duration::from_secs(1));
        let later = start + Duration::from_secs(100);
        assert_eq!(throttle.sent(later, 1000), later + Duration::from_secs(1));
    }
}
