//! Fields of frame bodies: fixed little-endian numbers, names and texts with a
//! length before them.
//!
//! Every read names its field, so that a refusal tells which one was wrong.

#![forbid(unsafe_code)]

use std::str::FromStr;

use super::frame::FrameError;
use super::refusal::ErrorCode;
use crate::ids::IdError;
use crate::limits::MAX_LSN;
use crate::lsn::Lsn;

/// What is wrong with the body of a control frame.
///
/// Nothing of the frame is used, and the connection is closed: with
/// [`ErrorCode::Corrupt`] if the body was damaged on its way, else with
/// [`ErrorCode::Protocol`], because the peer meant what it sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The body ends inside a field.
    #[error("body ends inside `{field}`: {needed} bytes needed, {left} left")]
    Short {
        /// Which one.
        field: &'static str,
        /// Bytes it takes.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// The body goes on behind its last field.
    #[error("{bytes} unknown bytes behind the last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A number that the field cannot have.
    #[error("`{field}` is {found}, expected {expected}")]
    Value {
        /// Which one.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// A name that is none.
    #[error("`{field}`: {source}")]
    Name {
        /// Which one.
        field: &'static str,
        /// Why it is none.
        source: IdError,
    },
    /// A text that is not UTF-8.
    #[error("`{field}` is not UTF-8 from byte {valid_bytes} on")]
    Text {
        /// Which one.
        field: &'static str,
        /// How many bytes of it are.
        valid_bytes: usize,
    },
    /// A text with control characters, which have no place in a log line or on
    /// an operator's terminal.
    #[error("`{field}` holds a control character at byte {offset}")]
    Control {
        /// Which one.
        field: &'static str,
        /// Where in it.
        offset: usize,
    },
    /// A control frame without a CRC over its body.
    #[error("control frame carries no payload CRC")]
    Unsealed,
    /// A body of another length than the header says.
    #[error("body has {found} bytes, its header announces {announced}")]
    Length {
        /// What the header says.
        announced: u32,
        /// What was handed over.
        found: usize,
    },
    /// The body was damaged on its way.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl MessageError {
    /// With what the connection is closed.
    pub(super) const fn code(&self) -> ErrorCode {
        match self {
            Self::Frame(error) if error.is_damage(true) => ErrorCode::Corrupt,
            _ => ErrorCode::Protocol,
        }
    }
}

/// A body that is being read, front to back.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self, field: &'static str, needed: usize) -> Result<&'a [u8], MessageError> {
        let short = MessageError::Short { field, needed, left: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(needed).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], MessageError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(field, N)?);
        Ok(bytes)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, MessageError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, MessageError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, MessageError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A position that a length can be added to: see [`MAX_LSN`].
    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, MessageError> {
        match self.u64(field)? {
            lsn @ 0..=MAX_LSN => Ok(Lsn(lsn)),
            found => Err(MessageError::Value { field, found, expected: "at most 2^62" }),
        }
    }

    pub(super) fn u128(&mut self, field: &'static str) -> Result<u128, MessageError> {
        self.array(field).map(u128::from_le_bytes)
    }

    /// Bytes that this version does not use and that must be zero.
    pub(super) fn zeros(&mut self, field: &'static str, bytes: usize) -> Result<(), MessageError> {
        match self.take(field, bytes)?.iter().find(|&&byte| byte != 0) {
            None => Ok(()),
            Some(&found) => {
                Err(MessageError::Value { field, found: u64::from(found), expected: "0" })
            }
        }
    }

    /// One length byte and a name. Its own type says how long it may be.
    pub(super) fn name<T>(&mut self, field: &'static str) -> Result<T, MessageError>
    where
        T: FromStr<Err = IdError>,
    {
        let length = usize::from(self.u8(field)?);
        utf8(field, self.take(field, length)?)?
            .parse()
            .map_err(|source| MessageError::Name { field, source })
    }

    /// Two length bytes and a text of at most `limit` bytes.
    pub(super) fn text(
        &mut self,
        field: &'static str,
        limit: usize,
        expected: &'static str,
    ) -> Result<String, MessageError> {
        let length = self.u16(field)?;
        if usize::from(length) > limit {
            return Err(MessageError::Value { field, found: u64::from(length), expected });
        }
        let text = utf8(field, self.take(field, usize::from(length))?)?;
        match text.find(char::is_control) {
            None => Ok(text.to_owned()),
            Some(offset) => Err(MessageError::Control { field, offset }),
        }
    }

    /// All that is left, at most `limit` bytes.
    pub(super) fn rest(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], MessageError> {
        if self.rest.len() > limit {
            let found = self.rest.len() as u64;
            return Err(MessageError::Value { field, found, expected: "no more than its limit" });
        }
        self.take(field, self.rest.len())
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), MessageError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(MessageError::Trailing { bytes: self.rest.len() })
        }
    }
}

fn utf8<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, MessageError> {
    str::from_utf8(bytes)
        .map_err(|error| MessageError::Text { field, valid_bytes: error.valid_up_to() })
}

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Writes a name as [`Reader::name`] reads it.
pub(super) fn put_name(out: &mut Vec<u8>, name: &str) {
    let length = u8::try_from(name.len());
    assert!(length.is_ok(), "names are at most 64 bytes by their type");
    out.push(length.unwrap_or_default());
    out.extend_from_slice(name.as_bytes());
}

/// Writes a text as [`Reader::text`] reads it, cut to `limit` bytes at a
/// character, a space in the place of each control character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, limit: u16) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 2]);
    for character in text.chars() {
        let shown = if character.is_control() { ' ' } else { character };
        let mut buffer = [0; 4];
        let bytes = shown.encode_utf8(&mut buffer).as_bytes();
        if out.len() - length_at - 2 + bytes.len() > usize::from(limit) {
            break;
        }
        out.extend_from_slice(bytes);
    }
    let length = u16::try_from(out.len() - length_at - 2);
    assert!(length.is_ok(), "cut to a 16-bit limit");
    out[length_at..length_at + 2].copy_from_slice(&length.unwrap_or_default().to_le_bytes());
}
