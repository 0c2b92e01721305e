//! Numbers that keep nodes from doing the same at the same time.

/// A sequence of fractions, another for each seed and well spread from the first one on,
/// however alike the seeds are (SplitMix64). Nothing but time depends on it.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next fraction, from 0 to below 1.
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[expect(clippy::cast_precision_loss, reason = "53 bits, as many as it holds")]
        let fraction = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fractions_of_neighbouring_seeds_are_spread() {
        let mut tenths = [0; 10];
        for seed in 0..1000 {
            let fraction = Jitter::new(seed).draw();
            assert!((0.0..1.0).contains(&fraction), "{fraction}");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 1")]
            let tenth = (fraction * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (70..130).contains(count)), "{tenths:?}");
    }
}
