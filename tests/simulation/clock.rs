//! Virtual time: it passes when the world says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use saltus::engine::clock::Clock;
use saltus::protocol::Now;

/// When the simulated world begins, by the clocks on the wall.
const BEGIN_UNIX_NS: u64 = 1_790_000_000_000_000_000;

/// The time of the world, in nanoseconds since it began.
#[derive(Clone, Debug)]
pub struct Time {
    /// What the monotonic clocks count from.
    begin: Instant,
    passed_ns: Arc<AtomicU64>,
}

impl Time {
    pub fn new() -> Self {
        Self { begin: Instant::now(), passed_ns: Arc::default() }
    }

    pub fn passed_ns(&self) -> u64 {
        self.passed_ns.load(Ordering::Relaxed)
    }

    pub fn set(&self, passed_ns: u64) {
        self.passed_ns.store(passed_ns, Ordering::Relaxed);
    }

    /// The same moment, as the world counts.
    pub fn of(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.begin).as_nanos()).unwrap()
    }
}

/// The clocks of one machine. Its clock on the wall can be set.
#[derive(Clone, Debug)]
pub struct MachineClock {
    time: Time,
    step_ns: Arc<AtomicI64>,
}

impl MachineClock {
    pub fn new(time: Time) -> Self {
        Self { time, step_ns: Arc::default() }
    }

    pub fn step(&self, by_ns: i64) {
        self.step_ns.fetch_add(by_ns, Ordering::Relaxed);
    }

    pub fn unix_ns(&self) -> u64 {
        let step = self.step_ns.load(Ordering::Relaxed);
        (BEGIN_UNIX_NS + self.time.passed_ns()).saturating_add_signed(step)
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Now {
        let passed = Duration::from_nanos(self.time.passed_ns());
        Now { instant: self.time.begin + passed, unix_ns: self.unix_ns() }
    }
}
