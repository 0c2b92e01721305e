//! How long a peer may take over one frame, given or taken.
//!
//! That bytes move at all is no sign of health: a peer that takes one byte a
//! second would hold a frame for days, and the space with it. So each frame
//! has a time of its own, ten seconds and a little for each byte, and it is
//! short only for a peer that is slower than any link that carries a log.

use std::time::{Duration, Instant};

use crate::limits::{MIN_PEER_BYTES_PER_S, PEER_TIMEOUT};

/// One direction of a connection. Time runs from [`begin`](Self::begin) to
/// [`end`](Self::end), and only while it is the peer's turn.
#[derive(Debug, Default)]
pub struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// The peer has `bytes` to give or to take from now on.
    pub fn begin(&mut self, now: Instant, bytes: u64) {
        let extra = bytes.saturating_mul(1000) / MIN_PEER_BYTES_PER_S;
        self.until = Some(now + PEER_TIMEOUT + Duration::from_millis(extra));
    }

    /// As [`begin`](Self::begin), unless the time runs already.
    pub fn go_on(&mut self, now: Instant, bytes: u64) {
        if self.until.is_none() {
            self.begin(now, bytes);
        }
    }

    /// It is not the peer's turn any more.
    pub fn end(&mut self) {
        self.until = None;
    }

    /// When it is over.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// It is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_EXTENT_BYTES, MAX_FRAME_PAYLOAD_BYTES};

    #[test]
    fn a_larger_frame_may_take_longer() {
        let now = Instant::now();
        let mut patience = Patience::default();
        assert!(!patience.is_over(now + Duration::from_secs(3600)), "it is nobody's turn");
        patience.begin(now, 0);
        assert_eq!(patience.until(), Some(now + PEER_TIMEOUT));
        patience.begin(now, u64::from(MAX_EXTENT_BYTES));
        assert_eq!(patience.until(), Some(now + PEER_TIMEOUT + Duration::from_secs(128)));
        patience.begin(now, u64::from(MAX_FRAME_PAYLOAD_BYTES));
        assert!(patience.until() < Some(now + Duration::from_secs(3600)));
    }

    #[test]
    fn going_on_gives_no_new_time() {
        let now = Instant::now();
        let mut patience = Patience::default();
        patience.go_on(now, 0);
        patience.go_on(now + PEER_TIMEOUT / 2, 0);
        assert!(patience.is_over(now + PEER_TIMEOUT));
        patience.end();
        assert!(!patience.is_over(now + PEER_TIMEOUT));
    }
}
