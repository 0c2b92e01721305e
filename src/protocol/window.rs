//! What is shipped of one space and not yet durable at the replica.
//!
//! The window remembers the mark at the end of each frame in flight. An ack may
//! name such an end and nothing in between, so the primary can compare the
//! chain of every flushed position without reading its log again.
//!
//! ```text
//!      flushed          received            sent
//!  ------|-----------------|------------------|------> LSN
//!        [ frame ][ frame ][ frame ][  frame  ]
//! ```

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::message::{Ack, ErrorCode};
use crate::limits::{MAX_WINDOW_BYTES, MAX_WINDOW_FRAMES};
use crate::lsn::{Lsn, Mark};

#[derive(Debug)]
pub(super) struct Window {
    /// The ends of the frames in flight, oldest first.
    frames: VecDeque<Mark>,
    /// Durable at the replica, chain compared.
    flushed: Mark,
    /// The last ack.
    last: Ack,
}

impl Window {
    /// Nothing in flight; the replica has everything up to `flushed`.
    pub(super) fn new(flushed: Mark) -> Self {
        let at = flushed.lsn;
        let last = Ack {
            received: at,
            written: at,
            flushed: at,
            applied: Lsn::ZERO,
            sequence: flushed.sequence,
            chain: flushed.chain,
        };
        Self { frames: VecDeque::new(), flushed, last }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Where the last frame ended.
    pub(super) fn sent(&self) -> Mark {
        self.frames.back().copied().unwrap_or(self.flushed)
    }

    /// Whether a frame with that end may be shipped.
    pub(super) fn has_room(&self, end: Lsn) -> bool {
        self.frames.len() < MAX_WINDOW_FRAMES
            && end.bytes_since(self.flushed.lsn) <= MAX_WINDOW_BYTES
    }

    /// A frame with that end is shipped.
    pub(super) fn ship(&mut self, end: Mark) {
        assert!(end.lsn > self.sent().lsn, "a frame must move the sent position");
        assert!(self.has_room(end.lsn), "shipped beyond the window");
        self.frames.push_back(end);
    }

    /// Takes an ack. The mark of the flushed position, if that moved.
    ///
    /// On an error the window is left as it was; the space cannot go on.
    pub(super) fn acknowledge(&mut self, ack: &Ack) -> Result<Option<Mark>, (ErrorCode, String)> {
        let ordered = self.sent().lsn >= ack.received
            && ack.received >= ack.written
            && ack.written >= ack.flushed
            && ack.flushed >= ack.applied;
        if !ordered {
            return Err((
                ErrorCode::Protocol,
                format!("ack out of order: sent {}, then {ack:?}", self.sent().lsn),
            ));
        }
        let monotonic = ack.received >= self.last.received
            && ack.written >= self.last.written
            && ack.flushed >= self.last.flushed
            && ack.applied >= self.last.applied;
        if !monotonic {
            return Err((
                ErrorCode::Protocol,
                format!("ack went back: {:?}, then {ack:?}", self.last),
            ));
        }
        // Frame ends ascend, so the one that was flushed is found by halving.
        let (frames, mark) = if ack.flushed == self.flushed.lsn {
            (0, self.flushed)
        } else {
            match self.frames.binary_search_by_key(&ack.flushed, |end| end.lsn) {
                Ok(index) => (index + 1, self.frames[index]),
                Err(_) => {
                    return Err((
                        ErrorCode::Protocol,
                        format!("flushed {} is not the end of a frame", ack.flushed),
                    ));
                }
            }
        };
        if ack.chain != mark.chain {
            return Err((
                ErrorCode::Diverged,
                format!(
                    "at {} the replica has chain {:?}, the primary {:?}: \
                     they do not hold the same records",
                    ack.flushed, ack.chain, mark.chain
                ),
            ));
        }
        self.frames.drain(..frames);
        self.flushed = mark;
        self.last = *ack;
        Ok((frames > 0).then_some(mark))
    }
}
