//! Everything that is left to chance comes from one number.

use std::time::Duration;

/// A stream of pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A stream of its own for a part of the world: what one part draws does
    /// not change what another sees.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From `from` to `to`, both included.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// A duration, mostly near `usual`, now and then far above it.
    pub fn delay(&mut self, usual: Duration) -> Duration {
        let nanos = u64::try_from(usual.as_nanos()).unwrap().max(1);
        let factor = if self.one_in(50) { 20 } else { 1 };
        Duration::from_nanos(self.within(nanos / 4, nanos * 2) * factor)
    }
}
