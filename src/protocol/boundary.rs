//! Record boundaries that two nodes compare: the bodies of `Matched` and
//! `Truncate`.

#![forbid(unsafe_code)]

use super::field::{MessageError, Reader, put_u64};
use crate::lsn::{Chain, Lsn};

/// The body of `Matched`: the replica's last boundary at or before the position
/// that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Where it lies.
    pub lsn: Lsn,
    /// The chain there.
    pub chain: Chain,
    /// Records up to there.
    pub records: u64,
}

/// The body of `Truncate`: the replica's stream ends here from now on. What
/// lies behind goes to its quarantine; then it takes over the epochs that
/// `OpenSpace` told, and answers with a fresh `OpenAck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// A record boundary of both; not before the common LSN of the `OpenAck`.
    pub lsn: Lsn,
    /// The primary's chain there, which must be the replica's.
    pub chain: Chain,
}

impl Boundary {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.lsn.0);
        put_u64(out, self.chain.0);
        put_u64(out, self.records);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let lsn = reader.lsn("lsn")?;
        let chain = Chain(reader.u64("chain")?);
        Ok(Self { lsn, chain, records: reader.u64("records")? })
    }
}

impl Truncate {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.lsn.0);
        put_u64(out, self.chain.0);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self { lsn: reader.lsn("lsn")?, chain: Chain(reader.u64("chain")?) })
    }
}
