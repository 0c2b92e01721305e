//! The payloads of all frames but `Data`, byte by byte.
//!
//! Numbers are little-endian, a `name` is one length byte and 3 to 64 bytes, a
//! `text` is two length bytes and at most 512 bytes of UTF-8. The first number
//! of each line is the offset in the body, the second the size.
//!
//! ```text
//! Hello                             HelloAck
//!  0   1  lowest version             0   1  version agreed on
//!  1   1  highest version            1   7  reserved, zero
//!  2   2  shard of the primary       8   8  features accepted
//!  4   4  reserved, zero            16  16  node uuid
//!  8   8  features offered          32  1+n cluster (name)
//! 16  16  node uuid                  .  1+n node (name)
//! 32  1+n cluster (name)
//!  .  1+n node (name)
//!
//! OpenSpace                         OpenAck
//!  0  16  stream id                  0   8  flushed LSN
//! 16   8  head LSN                   8   8  chain there
//! 24   4  epochs that follow, n     16   8  records up to there
//! 28 16*n epoch (8), its start (8)  24   4  runs recorded
//!  .  1+n space (name)              28   4  reserved, zero
//!                                   32   8  highest epoch seen
//!                                   40   8  common LSN, by the epochs
//!
//! SegmentOpen                       Ack
//!  0   4  ordinal                    0   8  received LSN
//!  4   4  reserved, zero             8   8  written LSN
//!  8   8  start LSN                 16   8  flushed LSN
//! 16   8  segment name's number     24   8  applied LSN
//! 24   8  file number               32   8  sequence of the last flushed record
//! 32   8  offset in the file        40   8  chain at the flushed LSN
//!
//! Heartbeat                         Error
//!  0   8  sender's clock, ns         0   2  code
//!         since the Unix epoch       2  2+n sentence (text)
//!
//! Match                             Matched
//!  0   8  LSN                        0   8  LSN of the boundary
//!                                    8   8  chain there
//! Truncate                          16   8  records up to there
//!  0   8  LSN
//!  8   8  chain there
//! Fetch                             Fetched
//!  0   8  LSN                        0   8  LSN
//!  8   4  bytes, at least 1          8   n  the bytes; none: not to be had
//! 12   4  reserved, zero
//! ```
//!
//! `SegmentRetire` and `Reseed` are drawn in `protocol::retention`.
//!
//! Every control frame carries a CRC over its body. Bytes behind the last
//! field, and values that a field cannot have, are refused by name.

#![forbid(unsafe_code)]

use super::field::{Reader, put_name, put_u32, put_u64};
use super::frame::{FrameHeader, Handle, Kind};
use crate::ids::{Epoch, SegmentName, SpaceId, StreamId};
use crate::limits::{FRAME_HEADER_BYTES, MAX_CONTROL_PAYLOAD_BYTES, MAX_EPOCHS_PER_SPACE};
use crate::lsn::{Chain, Lsn};

pub use super::boundary::{Boundary, Truncate};
pub use super::fetch::{Fetch, Fetched};
pub use super::field::MessageError;
pub use super::identity::{FEATURES, Hello, HelloAck, Identity};
pub use super::refusal::{ErrorCode, MAX_SENTENCE_BYTES, Refusal};
pub use super::retention::{Reseed, Retirement, SegmentRetire};

// A longest history with a longest name must fit into one control frame.
const _: () = assert!(28 + 16 * MAX_EPOCHS_PER_SPACE + 65 <= MAX_CONTROL_PAYLOAD_BYTES as usize);

/// The body of `OpenSpace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSpace {
    /// The space.
    pub space: SpaceId,
    /// Which stream.
    pub stream: StreamId,
    /// The epochs of the stream and where each began; the last is the present
    /// one. At least one, at most [`MAX_EPOCHS_PER_SPACE`], epochs ascending.
    pub history: Vec<(Epoch, Lsn)>,
    /// The primary's head.
    pub head: Lsn,
}

impl OpenSpace {
    /// The present epoch; `None` for a history without any, which no decoded
    /// message has.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.history.last().map(|&(epoch, _)| epoch)
    }
}

/// Where a replica stands in a space; the body of `OpenAck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Durable and verified up to here.
    pub flushed: Lsn,
    /// The chain there.
    pub chain: Chain,
    /// Records up to there.
    pub records: u64,
    /// The highest epoch this replica has ever seen for the space.
    pub highest_epoch: Epoch,
    /// How many runs it has recorded: the next `SegmentOpen` has this ordinal.
    pub runs: u32,
    /// Up to here the replica's epochs and the primary's are one history; see
    /// [`common_point`](super::matching::common_point). At most `flushed`. What
    /// lies behind is of a reign that the primary's epochs have ended.
    pub common: Lsn,
}

/// The body of `SegmentOpen`: one run of the stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOpen {
    /// Position in the list of runs, from 0.
    pub ordinal: u32,
    /// Where in the stream it begins.
    pub start: Lsn,
    /// The segment's file name.
    pub segment: SegmentName,
    /// Which file of that name: primaries number the files they see, so that
    /// two files that bore one name in turn stay two.
    pub file: u64,
    /// Where in the file the run begins.
    pub offset: u64,
}

/// The body of `Ack`. `sent >= received >= written >= flushed >= applied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ack {
    /// Verified in memory.
    pub received: Lsn,
    /// With the file system.
    pub written: Lsn,
    /// Durable.
    pub flushed: Lsn,
    /// Taken by the replica's database (0 while nothing applies).
    pub applied: Lsn,
    /// Sequence of the last flushed record.
    pub sequence: u64,
    /// The chain at `flushed`.
    pub chain: Chain,
}

/// The body of `Heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's clock, nanoseconds since the Unix epoch. For people; no
    /// decision compares it with another clock.
    pub unix_ns: u64,
}

/// A decoded control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`HelloAck`].
    HelloAck(HelloAck),
    /// See [`OpenSpace`].
    OpenSpace(OpenSpace),
    /// See [`Standing`].
    OpenAck(Standing),
    /// See [`SegmentOpen`].
    SegmentOpen(SegmentOpen),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Refusal`].
    Error(Refusal),
    /// The replica's boundary at or before this position is asked for.
    Match(Lsn),
    /// The answer.
    Matched(Boundary),
    /// See [`Truncate`].
    Truncate(Truncate),
    /// See [`Fetch`].
    Fetch(Fetch),
    /// See [`Fetched`].
    Fetched(Fetched),
    /// See [`SegmentRetire`].
    SegmentRetire(SegmentRetire),
    /// See [`Reseed`].
    Reseed(Reseed),
}

impl Message {
    /// The kind of its frame.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::HelloAck(_) => Kind::HelloAck,
            Self::OpenSpace(_) => Kind::OpenSpace,
            Self::OpenAck(_) => Kind::OpenAck,
            Self::SegmentOpen(_) => Kind::SegmentOpen,
            Self::Ack(_) => Kind::Ack,
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::Error(_) => Kind::Error,
            Self::Match(_) => Kind::Match,
            Self::Matched(_) => Kind::Matched,
            Self::Truncate(_) => Kind::Truncate,
            Self::Fetch(_) => Kind::Fetch,
            Self::Fetched(_) => Kind::Fetched,
            Self::SegmentRetire(_) => Kind::SegmentRetire,
            Self::Reseed(_) => Kind::Reseed,
        }
    }

    /// Appends the whole frame, header and body, to `out`.
    pub fn encode(&self, handle: Handle, epoch: Epoch, out: &mut Vec<u8>) {
        let frame = out.len();
        let body = frame + FRAME_HEADER_BYTES;
        out.resize(body, 0);
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::HelloAck(ack) => ack.encode(out),
            Self::OpenSpace(open) => open.encode(out),
            Self::OpenAck(standing) => standing.encode(out),
            Self::SegmentOpen(run) => run.encode(out),
            Self::Ack(ack) => ack.encode(out),
            Self::Heartbeat(heartbeat) => put_u64(out, heartbeat.unix_ns),
            Self::Error(refusal) => refusal.encode(out),
            Self::Match(lsn) => put_u64(out, lsn.0),
            Self::Matched(boundary) => boundary.encode(out),
            Self::Truncate(truncate) => truncate.encode(out),
            Self::Fetch(fetch) => fetch.encode(out),
            Self::Fetched(fetched) => fetched.encode(out),
            Self::SegmentRetire(retire) => retire.encode(out),
            Self::Reseed(reseed) => reseed.encode(out),
        }
        let bytes = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
        assert!(bytes <= MAX_CONTROL_PAYLOAD_BYTES, "a {:?} body outgrew its limit", self.kind());
        let mut header = FrameHeader::bare(self.kind(), handle, epoch)
            .with_payload_crc(crc32c::crc32c(&out[body..]));
        header.payload_bytes = bytes;
        header.raw_bytes = bytes;
        if let Self::Error(refusal) = self {
            header.start = refusal.at;
        }
        out[frame..body].copy_from_slice(&header.encode());
    }

    /// A control frame from its header and complete body; `None` for `Data`.
    ///
    /// # Errors
    /// See [`MessageError`]; the connection cannot go on.
    pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Option<Self>, MessageError> {
        if header.kind == Kind::Data {
            return Ok(None);
        }
        check_control_header(header, body)?;
        let mut reader = Reader::new(body);
        let message = match header.kind {
            Kind::Hello => Self::Hello(Hello::decode(&mut reader)?),
            Kind::HelloAck => Self::HelloAck(HelloAck::decode(&mut reader)?),
            Kind::OpenSpace => Self::OpenSpace(OpenSpace::decode(&mut reader)?),
            Kind::OpenAck => Self::OpenAck(Standing::decode(&mut reader)?),
            Kind::SegmentOpen => Self::SegmentOpen(SegmentOpen::decode(&mut reader)?),
            Kind::Ack => Self::Ack(Ack::decode(&mut reader)?),
            Kind::Heartbeat => Self::Heartbeat(Heartbeat { unix_ns: reader.u64("unix_ns")? }),
            Kind::Error => Self::Error(Refusal::decode(header.start, &mut reader)?),
            Kind::Match => Self::Match(reader.lsn("lsn")?),
            Kind::Matched => Self::Matched(Boundary::decode(&mut reader)?),
            Kind::Truncate => Self::Truncate(Truncate::decode(&mut reader)?),
            Kind::Fetch => Self::Fetch(Fetch::decode(&mut reader)?),
            Kind::Fetched => Self::Fetched(Fetched::decode(&mut reader)?),
            Kind::SegmentRetire => Self::SegmentRetire(SegmentRetire::decode(&mut reader)?),
            Kind::Reseed => Self::Reseed(Reseed::decode(&mut reader)?),
            Kind::Data => return Ok(None),
        };
        reader.end()?;
        Ok(Some(message))
    }
}

/// What the header of every control frame must look like.
fn check_control_header(header: &FrameHeader, body: &[u8]) -> Result<(), MessageError> {
    if !header.has_payload_crc() {
        return Err(MessageError::Unsealed);
    }
    if u32::try_from(body.len()) != Ok(header.payload_bytes) {
        return Err(MessageError::Length { announced: header.payload_bytes, found: body.len() });
    }
    header.check_payload(body)?;
    let zero = |field, found| match found {
        0 => Ok(()),
        _ => Err(MessageError::Value { field, found, expected: "0 on a control frame" }),
    };
    zero("records", u64::from(header.records))?;
    if header.kind != Kind::Error {
        zero("start", header.start.0)?;
    }
    zero("first_sequence", header.first_sequence)?;
    if header.raw_bytes != header.payload_bytes {
        return Err(MessageError::Value {
            field: "raw_bytes",
            found: u64::from(header.raw_bytes),
            expected: "the payload length",
        });
    }
    let of_space =
        !matches!(header.kind, Kind::Hello | Kind::HelloAck | Kind::Heartbeat | Kind::Error);
    let on_space = header.handle != Handle::CONNECTION;
    if header.kind != Kind::Error && of_space != on_space {
        return Err(MessageError::Value {
            field: "handle",
            found: u64::from(header.handle.0),
            expected: if of_space { "a space" } else { "the connection's, 4294967295" },
        });
    }
    if !on_space {
        zero("epoch", header.epoch.0)?;
    }
    Ok(())
}

impl OpenSpace {
    fn encode(&self, out: &mut Vec<u8>) {
        let count = self.history.len();
        assert!((1..=MAX_EPOCHS_PER_SPACE).contains(&count), "a history of {count} epochs");
        out.extend_from_slice(&self.stream.0.to_le_bytes());
        put_u64(out, self.head.0);
        put_u32(out, u32::try_from(count).unwrap_or(u32::MAX));
        for (epoch, start) in &self.history {
            put_u64(out, epoch.0);
            put_u64(out, start.0);
        }
        put_name(out, self.space.as_str());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let stream = StreamId(reader.u128("stream")?);
        let head = reader.lsn("head")?;
        let count = reader.u32("epochs")?;
        if !(1..=MAX_EPOCHS_PER_SPACE).contains(&(count as usize)) {
            return Err(MessageError::Value {
                field: "epochs",
                found: u64::from(count),
                expected: "1 to 1024",
            });
        }
        let mut history = Vec::with_capacity(count as usize);
        let mut last = (Epoch(0), Lsn::ZERO);
        for _ in 0..count {
            let next = (Epoch(reader.u64("epoch")?), reader.lsn("epoch start")?);
            if next.0 <= last.0 {
                return Err(MessageError::Value {
                    field: "epoch",
                    found: next.0.0,
                    expected: "more than the epoch before it",
                });
            }
            if next.1 < last.1 {
                return Err(MessageError::Value {
                    field: "epoch start",
                    found: next.1.0,
                    expected: "no less than the start of the epoch before it",
                });
            }
            history.push(next);
            last = next;
        }
        if last.1 > head {
            return Err(MessageError::Value {
                field: "epoch start",
                found: last.1.0,
                expected: "at most the head, in the present epoch",
            });
        }
        Ok(Self { space: reader.name("space")?, stream, history, head })
    }
}

impl Standing {
    /// Of a space that has received nothing yet.
    pub const EMPTY: Self = Self {
        flushed: Lsn::ZERO,
        chain: Chain::START,
        records: 0,
        highest_epoch: Epoch::FIRST,
        runs: 0,
        common: Lsn::ZERO,
    };

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.flushed.0);
        put_u64(out, self.chain.0);
        put_u64(out, self.records);
        put_u32(out, self.runs);
        put_u32(out, 0);
        put_u64(out, self.highest_epoch.0);
        put_u64(out, self.common.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let flushed = reader.lsn("flushed")?;
        let chain = Chain(reader.u64("chain")?);
        let records = reader.u64("records")?;
        let runs = reader.u32("runs")?;
        reader.zeros("reserved", 4)?;
        let highest_epoch = Epoch(reader.u64("highest_epoch")?);
        let common = reader.lsn("common")?;
        if common > flushed {
            return Err(MessageError::Value {
                field: "common",
                found: common.0,
                expected: "at most the flushed LSN",
            });
        }
        Ok(Self { flushed, chain, records, highest_epoch, runs, common })
    }
}

impl SegmentOpen {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.ordinal);
        put_u32(out, 0);
        put_u64(out, self.start.0);
        put_u64(out, self.segment.0);
        put_u64(out, self.file);
        put_u64(out, self.offset);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let ordinal = reader.u32("ordinal")?;
        reader.zeros("reserved", 4)?;
        Ok(Self {
            ordinal,
            start: reader.lsn("start")?,
            segment: SegmentName(reader.u64("segment")?),
            file: reader.u64("file")?,
            offset: reader.u64("offset")?,
        })
    }
}

impl Ack {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.received.0);
        put_u64(out, self.written.0);
        put_u64(out, self.flushed.0);
        put_u64(out, self.applied.0);
        put_u64(out, self.sequence);
        put_u64(out, self.chain.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            received: reader.lsn("received")?,
            written: reader.lsn("written")?,
            flushed: reader.lsn("flushed")?,
            applied: reader.lsn("applied")?,
            sequence: reader.u64("sequence")?,
            chain: Chain(reader.u64("chain")?),
        })
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
