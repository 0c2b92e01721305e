//! A histogram of durations that costs one array increment per sample.

/// Buckets per power of two. 64 keep each bucket within 1.6 % of its values.
const STEPS: usize = 64;
/// Powers of two covered: 1 µs up to 2^26 µs, about 67 s.
const OCTAVES: usize = 27;

/// How many samples fell where, in microseconds. Samples beyond the range
/// count in its last bucket.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: Box<[u32]>,
    count: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; STEPS * OCTAVES].into_boxed_slice(), count: 0 }
    }
}

/// The bucket of a value: exact below `STEPS`, logarithmic above.
fn bucket(us: u64) -> usize {
    let value = us.max(1);
    let octave = 63 - value.leading_zeros() as usize;
    // The six bits below the leading one pick the step.
    let step = if octave >= 6 { value >> (octave - 6) } else { value << (6 - octave) };
    let index = octave * STEPS + usize::try_from(step & 63).unwrap_or(0);
    index.min(STEPS * OCTAVES - 1)
}

/// The smallest value of a bucket, in microseconds.
fn value(index: usize) -> f64 {
    let octave = u32::try_from(index / STEPS).unwrap_or(u32::MAX);
    let step = index % STEPS;
    #[expect(clippy::cast_precision_loss, reason = "both are below 128")]
    let mantissa = (STEPS + step) as f64 / STEPS as f64;
    mantissa * f64::from(2_u32.saturating_pow(octave))
}

impl Latency {
    /// Count one sample.
    pub fn record(&mut self, us: u64) {
        let slot = &mut self.buckets[bucket(us)];
        *slot = slot.saturating_add(1);
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
        if self.count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 1 and the count"
        )]
        let rank = ((self.count as f64 * fraction).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, samples) in self.buckets.iter().enumerate() {
            seen += u64::from(*samples);
            if seen >= rank {
                return Some(value(index));
            }
        }
        None
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
}
