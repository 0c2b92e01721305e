//! Durations in histograms that cost one array increment per sample: since the
//! start, and of the last minute.

use std::time::{Duration, Instant};

/// Buckets per power of two. 64 keep each bucket within 1.6 % of its values.
const STEPS: usize = 64;
/// Powers of two covered: 1 µs up to 2^26 µs, about 67 s.
const OCTAVES: usize = 27;

/// How long a half of the recent samples is gathered: what is shown covers
/// the last half minute at least, and the last minute at most.
const HALF: Duration = Duration::from_secs(30);

/// How many samples fell where, in microseconds. Samples beyond the range
/// count in its last bucket. An octave takes room with its first sample: most
/// replicas need a few.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    octaves: [Option<Box<[u32; STEPS]>>; OCTAVES],
    count: u64,
}

/// The bucket of a value, as octave and step: exact below `STEPS`, logarithmic
/// above.
fn bucket(us: u64) -> (usize, usize) {
    let value = us.max(1);
    let octave = 63 - value.leading_zeros() as usize;
    // The six bits below the leading one pick the step.
    let step = if octave >= 6 { value >> (octave - 6) } else { value << (6 - octave) };
    if octave >= OCTAVES {
        return (OCTAVES - 1, STEPS - 1);
    }
    (octave, usize::try_from(step & 63).unwrap_or(0))
}

/// The smallest value of a bucket, in microseconds.
fn value(octave: usize, step: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "both are below 128")]
    let mantissa = (STEPS + step) as f64 / STEPS as f64;
    mantissa * f64::from(2_u32.saturating_pow(u32::try_from(octave).unwrap_or(u32::MAX)))
}

impl Latency {
    /// Count one sample.
    pub fn record(&mut self, us: u64) {
        let (octave, step) = bucket(us);
        let steps = self.octaves[octave].get_or_insert_with(|| Box::new([0; STEPS]));
        steps[step] = steps[step].saturating_add(1);
        self.count += 1;
    }

    /// How many samples were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value in microseconds that `fraction` (0 to 1) of the samples do
    /// not exceed, within 1.6 %; nothing before the first sample.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> Option<f64> {
        quantile(&[self], fraction)
    }
}

/// The same of several together.
fn quantile(of: &[&Latency], fraction: f64) -> Option<f64> {
    let count: u64 = of.iter().map(|latency| latency.count).sum();
    if count == 0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 1 and the count"
    )]
    let rank = ((count as f64 * fraction).ceil() as u64).clamp(1, count);
    let mut seen = 0;
    for octave in 0..OCTAVES {
        for step in 0..STEPS {
            let of_one =
                |latency: &&Latency| latency.octaves[octave].as_ref().map_or(0, |s| s[step]);
            seen += of.iter().map(of_one).map(u64::from).sum::<u64>();
            if seen >= rank {
                return Some(value(octave, step));
            }
        }
    }
    None
}

/// Durations since the process started, and those of the last minute.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// All of them.
    pub all: Latency,
    /// The half that is being gathered, and the one before.
    halves: [Latency; 2],
    /// When the present half began.
    since: Instant,
}

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let halves = [Latency::default(), Latency::default()];
        Self { all: Latency::default(), halves, since: now }
    }

    /// Count one sample.
    pub fn record(&mut self, now: Instant, us: u64) {
        let halves = now.duration_since(self.since).as_secs() / HALF.as_secs();
        if halves > 0 {
            let last = std::mem::take(&mut self.halves[0]);
            self.halves[1] = if halves == 1 { last } else { Latency::default() };
            self.since = now;
        }
        self.halves[0].record(us);
        self.all.record(us);
    }

    /// Those of the last half minute at least and the last minute at most.
    fn recent(&self, now: Instant) -> Vec<&Latency> {
        let [present, before] = &self.halves;
        let age = now.duration_since(self.since);
        if age < HALF {
            vec![present, before]
        } else if age < 2 * HALF {
            vec![present]
        } else {
            Vec::new()
        }
    }

    /// How many of them are recent.
    #[must_use]
    pub fn recent_count(&self, now: Instant) -> u64 {
        self.recent(now).iter().map(|latency| latency.count).sum()
    }

    /// As [`Latency::quantile`], of the recent ones.
    #[must_use]
    pub fn recent_quantile(&self, now: Instant, fraction: f64) -> Option<f64> {
        quantile(&self.recent(now), fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_stay_within_two_percent() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for us in 1..=10_000 {
            latency.record(us);
        }
        for (fraction, expected) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = latency.quantile(fraction).unwrap();
            assert!((found - expected).abs() / expected < 0.02, "{fraction}: {found}");
        }
    }

    #[test]
    fn a_sample_beyond_the_range_counts_in_the_last_bucket() {
        let mut latency = Latency::default();
        latency.record(u64::MAX);
        latency.record(0);
        assert_eq!(latency.count(), 2);
        assert!(latency.quantile(1.0).unwrap() > 60_000_000.0);
    }

    #[test]
    fn what_is_older_than_a_minute_is_not_recent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut latencies = Latencies::new(start);
        latencies.record(at(1), 5_000_000);
        for second in 1..29 {
            latencies.record(at(second), 300);
        }
        assert!(latencies.recent_quantile(at(29), 1.0).unwrap() > 4_900_000.0);
        assert_eq!(latencies.recent_count(at(29)), 29);
        // It is forgotten whether or not something comes after it.
        assert_eq!(latencies.recent_quantile(at(61), 1.0), None);
        latencies.record(at(40), 300);
        assert_eq!(latencies.recent_count(at(41)), 30);
        latencies.record(at(71), 300);
        assert_eq!(latencies.recent_count(at(71)), 2);
        assert!(latencies.recent_quantile(at(71), 1.0).unwrap() < 400.0);
        assert!(latencies.all.quantile(1.0).unwrap() > 4_900_000.0);
    }
}
