//! Why a peer refuses: the body of `Error`.

#![forbid(unsafe_code)]

use super::field::{MessageError, Reader, put_text};
use crate::limits::MAX_LSN;
use crate::lsn::Lsn;

/// The longest sentence of an `Error`, bytes.
pub const MAX_SENTENCE_BYTES: u16 = 512;

/// The body of `Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// For the operator; cut to [`MAX_SENTENCE_BYTES`] on the wire.
    pub sentence: String,
    /// Where the record begins that came damaged; 0 unless the code is
    /// [`ErrorCode::Damaged`]. On the wire it stands in the frame's header.
    pub at: Lsn,
}

/// Why a peer refuses, as a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No protocol version in common.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// The node has reached itself, or another node has its name.
    Itself = 3,
    /// The space's epoch is older than one that was seen. The frame carries the
    /// highest epoch that its sender has seen.
    Fenced = 4,
    /// The space is this node's own, it does not receive it.
    Role = 5,
    /// Another stream of the same name.
    Stream = 6,
    /// The space is held by another connection; try again.
    Busy = 7,
    /// What came is not what was sent: damaged on its way.
    Corrupt = 8,
    /// Data that does not continue the stream.
    Gap = 9,
    /// The chains differ: not the same records.
    Diverged = 10,
    /// The replica's log has failed; nothing more is acknowledged.
    Storage = 11,
    /// A frame that makes no sense here.
    Protocol = 12,
    /// Too many connections or spaces.
    Limit = 13,
    /// The peer is going down.
    Shutdown = 14,
    /// The peer was silent for too long.
    Timeout = 15,
    /// What the replica needs is no longer here, and it cannot be filled anew
    /// just now.
    Lost = 16,
    /// A record came intact as a frame, and its own checksum does not hold:
    /// the primary has to look at its file.
    Damaged = 17,
    /// A new epoch begins: the space is opened again under it.
    NewEpoch = 18,
}

impl ErrorCode {
    /// The code with that number on the wire.
    #[must_use]
    pub const fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Itself,
            4 => Self::Fenced,
            5 => Self::Role,
            6 => Self::Stream,
            7 => Self::Busy,
            8 => Self::Corrupt,
            9 => Self::Gap,
            10 => Self::Diverged,
            11 => Self::Storage,
            12 => Self::Protocol,
            13 => Self::Limit,
            14 => Self::Shutdown,
            15 => Self::Timeout,
            16 => Self::Lost,
            17 => Self::Damaged,
            18 => Self::NewEpoch,
            _ => return None,
        })
    }

    /// Whether a later attempt at the same thing can succeed without a person:
    /// the one place that decides what is worth a retry.
    ///
    /// `Corrupt`, `Gap` and `Protocol` are, because an attempt begins with a
    /// new handshake at the flushed position: damage done on the way is then
    /// sent again. `Damaged` is once the primary has looked at its own record:
    /// it ships up to a record that is damaged there, and not beyond.
    #[must_use]
    pub const fn retry_helps(self) -> bool {
        match self {
            Self::Busy
            | Self::Corrupt
            | Self::Gap
            | Self::Storage
            | Self::Protocol
            | Self::Limit
            | Self::Shutdown
            | Self::Timeout
            | Self::Lost
            | Self::Damaged
            | Self::NewEpoch => true,
            Self::Version
            | Self::Cluster
            | Self::Itself
            | Self::Fenced
            | Self::Role
            | Self::Stream
            | Self::Diverged => false,
        }
    }
}

impl Refusal {
    /// A refusal of anything but a record.
    #[must_use]
    pub const fn new(code: ErrorCode, sentence: String) -> Self {
        Self { code, sentence, at: Lsn::ZERO }
    }

    /// The sentence is cut to [`MAX_SENTENCE_BYTES`], at a character.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.code as u16).to_le_bytes());
        put_text(out, &self.sentence, MAX_SENTENCE_BYTES);
    }

    pub(super) fn decode(at: Lsn, reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let number = reader.u16("code")?;
        let code = ErrorCode::from_wire(number).ok_or(MessageError::Value {
            field: "code",
            found: u64::from(number),
            expected: "a code of this version",
        })?;
        let sentence =
            reader.text("sentence", usize::from(MAX_SENTENCE_BYTES), "at most 512 bytes")?;
        if at.0 > MAX_LSN {
            let (field, found) = ("start", at.0);
            return Err(MessageError::Value { field, found, expected: "at most 2^62" });
        }
        if code != ErrorCode::Damaged && at != Lsn::ZERO {
            return Err(MessageError::Value {
                field: "start",
                found: at.0,
                expected: "0 unless a record is damaged",
            });
        }
        Ok(Self { code, sentence, at })
    }
}
