//! What a primary says of segments that are going, or are gone.
//!
//! ```text
//! SegmentRetire                     Reseed
//!  0   8  file number                0   8  base: LSN
//!  8   8  LSN that the replica       8   8        chain there
//!         must have flushed         16   8        records before it
//! 16   1  1 aside, 2 gone           24   8        sequence of the last of them
//! 17   7  reserved, zero            32   8        its timestamp, ns
//!                                   40   8  head LSN of the primary
//!                                   48   4  ordinal of the first run
//!                                   52   1  1: the replica's position is
//!                                           vouched for
//!                                   53   3  reserved, zero
//! ```

#![forbid(unsafe_code)]

use super::field::{MessageError, Reader, put_u32, put_u64};
use crate::lsn::{Chain, Lsn, Mark};

/// What becomes of a file at the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Retirement {
    /// It has no name on the primary any more: it leaves the directory. It may
    /// still grow.
    Aside = 1,
    /// It is gone from the primary.
    Gone = 2,
}

/// The body of `SegmentRetire`: a file has no name on the primary any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRetire {
    /// The file, as its runs number it.
    pub file: u64,
    /// Everything that stands in the directory instead of it lies before this
    /// position: who has not flushed that much keeps the file where it is.
    pub after: Lsn,
    /// What becomes of it.
    pub what: Retirement,
}

/// The body of `Reseed`: what the replica needs is gone; it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reseed {
    /// Where the stream begins that the replica will get.
    pub base: Mark,
    /// The primary's head now. What the replica had is needed no more once it
    /// has flushed that much.
    pub head: Lsn,
    /// The ordinal of the run that begins at the base.
    pub first_run: u32,
    /// What the replica has, up to where it said to stand, is this stream. If
    /// not, that cannot be told any more, and the replica keeps all of it.
    pub vouched: bool,
}

impl SegmentRetire {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.file);
        put_u64(out, self.after.0);
        out.push(self.what as u8);
        out.extend_from_slice(&[0; 7]);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let file = reader.u64("file")?;
        let after = reader.lsn("after")?;
        let what = match reader.u8("what")? {
            1 => Retirement::Aside,
            2 => Retirement::Gone,
            found => {
                let (field, found) = ("what", u64::from(found));
                return Err(MessageError::Value { field, found, expected: "1 or 2" });
            }
        };
        reader.zeros("reserved", 7)?;
        Ok(Self { file, after, what })
    }
}

impl Reseed {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Mark { lsn, chain, records, sequence, timestamp_ns } = self.base;
        for word in [lsn.0, chain.0, records, sequence, timestamp_ns, self.head.0] {
            put_u64(out, word);
        }
        put_u32(out, self.first_run);
        out.push(self.vouched.into());
        out.extend_from_slice(&[0; 3]);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let base = Mark {
            lsn: reader.lsn("base")?,
            chain: Chain(reader.u64("chain")?),
            records: reader.u64("records")?,
            sequence: reader.u64("sequence")?,
            timestamp_ns: reader.u64("timestamp")?,
        };
        let head = reader.lsn("head")?;
        if head < base.lsn {
            let (field, found) = ("head", head.0);
            return Err(MessageError::Value { field, found, expected: "no less than the base" });
        }
        let first_run = reader.u32("first_run")?;
        if first_run == 0 && base.lsn > Lsn::ZERO {
            let expected = "at least 1 behind the start of the stream";
            return Err(MessageError::Value { field: "first_run", found: 0, expected });
        }
        let vouched = match reader.u8("vouched")? {
            0 => false,
            1 => true,
            found => {
                let (field, found) = ("vouched", u64::from(found));
                return Err(MessageError::Value { field, found, expected: "0 or 1" });
            }
        };
        reader.zeros("reserved", 3)?;
        Ok(Self { base, head, first_run, vouched })
    }
}
