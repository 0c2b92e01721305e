//! Positions in a stream, and what is known at a position.
#![forbid(unsafe_code)]

use std::fmt;

/// A byte position in the stream of one space, counted from 0.
///
/// Between two positions of one stream, lag in bytes is a subtraction. An LSN
/// says nothing about files; the catalog of runs maps it to a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The first position of every stream.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` further on.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// The bytes from `earlier` to here, or 0 if `earlier` is later.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn {}", self.0)
    }
}

/// The running digest of every record header up to a position.
///
/// A header carries the CRC of its payload, so two streams with equal chains
/// at an LSN hold the same records up to it, without a payload being read.
/// It guards against faults, not against an adversary: it is no cryptographic
/// hash.
///
/// One step takes the 64 header bytes as eight little-endian words `w0..w7`
/// and the chain so far, `c`. `fold(a, b)` is the 128-bit product of `a` and
/// `b`, its two halves combined with exclusive or:
///
/// ```text
///   x  = fold(w0 ^ K0, w1 ^ K1)        x' = fold(w2 ^ K2, w3 ^ K3)
///   x" = fold(w4 ^ K4, w5 ^ w6 ^ w7 ^ K5)
///   c' = fold(c ^ x ^ K0, rotl(x', 23) ^ x" ^ K3)
/// ```
///
/// The three first products do not depend on `c`, so only one multiplication
/// stands in the way of the next record. The wire carries chains, hence the
/// function is frozen: golden values stand in `tests/`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub u64);

/// The constants of [`Chain`]: the first 64-bit words of the fraction of pi.
pub(crate) const K: [u64; 6] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
];

/// The 128-bit product of two words, its halves folded into one.
#[inline]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    {
        (product as u64) ^ ((product >> 64) as u64)
    }
}

impl Chain {
    /// The chain before the first record.
    pub const START: Self = Self(0);

    /// The chain after one more record with this header.
    #[inline]
    #[must_use]
    pub fn extend(self, header: &[u8; 64]) -> Self {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[index * 8..index * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let first = fold(word(0) ^ K[0], word(1) ^ K[1]);
        let second = fold(word(2) ^ K[2], word(3) ^ K[3]);
        let third = fold(word(4) ^ K[4], word(5) ^ word(6) ^ word(7) ^ K[5]);
        Self(fold(self.0 ^ first ^ K[0], second.rotate_left(23) ^ third ^ K[3]))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A boundary between two records, with everything a node needs to continue
/// from there without reading what lies before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mark {
    /// The position: every record before it is complete.
    pub lsn: Lsn,
    /// The digest of all headers before it.
    pub chain: Chain,
    /// How many records lie before it.
    pub records: u64,
    /// Sequence of the last record before it; 0 at the start. A sequence is
    /// not an identity: it may repeat, skip and regress.
    pub sequence: u64,
    /// Timestamp of the last record before it, nanoseconds since the Unix
    /// epoch, as the writer's clock had it; 0 at the start.
    pub timestamp_ns: u64,
}

impl Mark {
    /// The start of every stream.
    pub const START: Self =
        Self { lsn: Lsn::ZERO, chain: Chain::START, records: 0, sequence: 0, timestamp_ns: 0 };
}
