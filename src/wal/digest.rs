//! A digest of a range of bytes, for two nodes to compare.
//!
//! Where the [chain](crate::lsn::Chain) takes headers and trusts the checksums
//! in them, this takes every byte as it was read: a payload that has rotted
//! beneath a good header changes it. It guards against faults, not against an
//! adversary.
//!
//! The bytes are taken in blocks of 64, the last one filled up with zeroes, as
//! eight little-endian words `w0..w7`; `fold` and `K` are those of the chain:
//!
//! ```text
//!   a = fold(w0 ^ K0, w1 ^ K1)        c = fold(w4 ^ K4, w5 ^ K5)
//!   b = fold(w2 ^ K2, w3 ^ K3)        d = fold(w6 ^ K1, w7 ^ K2)
//!   s' = fold(s ^ a ^ rotl(c, 23) ^ K0, b ^ rotl(d, 41) ^ K3)
//!   digest = fold(s ^ K4, length ^ K5)
//! ```
//!
//! Nodes of different versions compare digests, so the function is frozen by a
//! golden value.

#![forbid(unsafe_code)]

use std::fmt;

use crate::lsn::{K, fold};

const BLOCK_BYTES: usize = 64;

/// A digest; prints as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Takes bytes in pieces of any size.
#[derive(Clone, Debug)]
pub struct Digester {
    state: u64,
    bytes: u64,
    /// The beginning of a block that is not whole yet.
    block: [u8; BLOCK_BYTES],
    filled: usize,
}

impl Default for Digester {
    fn default() -> Self {
        Self { state: 0, bytes: 0, block: [0; BLOCK_BYTES], filled: 0 }
    }
}

impl Digester {
    /// Take the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.filled > 0 {
            let taken = bytes.len().min(BLOCK_BYTES - self.filled);
            self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < BLOCK_BYTES {
                return;
            }
            self.state = step(self.state, &self.block);
            self.filled = 0;
        }
        let mut state = self.state;
        while let Some((block, rest)) = bytes.split_first_chunk() {
            state = step(state, block);
            bytes = rest;
        }
        self.state = state;
        self.block[..bytes.len()].copy_from_slice(bytes);
        self.filled = bytes.len();
    }

    /// The digest of everything that was fed.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        if self.filled > 0 {
            self.block[self.filled..].fill(0);
            self.state = step(self.state, &self.block);
        }
        Digest(fold(self.state ^ K[4], self.bytes ^ K[5]))
    }
}

#[inline]
fn step(state: u64, block: &[u8; BLOCK_BYTES]) -> u64 {
    let word = |index: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[index * 8..index * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let a = fold(word(0) ^ K[0], word(1) ^ K[1]);
    let b = fold(word(2) ^ K[2], word(3) ^ K[3]);
    let c = fold(word(4) ^ K[4], word(5) ^ K[5]);
    let d = fold(word(6) ^ K[1], word(7) ^ K[2]);
    fold(state ^ a ^ c.rotate_left(23) ^ K[0], b ^ d.rotate_left(41) ^ K[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        let mut digester = Digester::default();
        digester.feed(bytes);
        digester.finish()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        };
        (0..bytes).map(|_| step()).collect()
    }

    #[test]
    fn function_is_frozen() {
        assert_eq!(digest(b"").to_string(), "0accae4168f5987c");
        assert_eq!(digest(&noise(1000)).to_string(), "3926e7798b24fd6c");
    }

    #[test]
    fn pieces_of_any_size_give_what_the_whole_gives() {
        let bytes = noise(1000);
        for size in [1, 3, 63, 64, 65, 200, 999] {
            let mut digester = Digester::default();
            for piece in bytes.chunks(size) {
                digester.feed(piece);
            }
            assert_eq!(digester.finish(), digest(&bytes), "pieces of {size}");
        }
    }

    #[test]
    fn every_single_bit_counts() {
        for bytes in [noise(200), vec![0; 200]] {
            let mut seen = std::collections::BTreeSet::from([digest(&bytes).0]);
            for bit in 0..bytes.len() * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(digest(&other).0), "bit {bit}");
            }
        }
    }

    #[test]
    fn words_that_change_places_and_zeroes_that_are_added_count() {
        let bytes = noise(128);
        for one in 0..16 {
            for other in one + 1..16 {
                let mut swapped = bytes.clone();
                for byte in 0..8 {
                    swapped.swap(one * 8 + byte, other * 8 + byte);
                }
                assert_ne!(digest(&swapped), digest(&bytes), "words {one} and {other}");
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_ne!(digest(&longer), digest(&bytes));
    }
}
