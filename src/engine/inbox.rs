//! Cutting a byte stream into frames, without copying large payloads.
//!
//! Small frames are taken as they come: one `Receive` brings many, and a
//! partial one at a slab's end moves to the next slab. A large `Data` frame is
//! *placed*: its header is known first, so its payload can be received straight
//! to where a direct write wants it, at the same offset within a block as in
//! the file. Its `Receive` ends 64 bytes behind the payload, with the header of
//! the next frame, so that the next one can be placed as well:
//!
//! ```text
//!   slab n                                          slab n + 1
//!   [carry][payload ........................][hdr]  [carry][payload ...
//!   ^ multiple of a block                      `--- decoded, then placed --^
//! ```
//!
//! `SO_RCVLOWAT` batches the wake-ups: each `Receive` says how many bytes are
//! still missing.

use std::ops::Range;
use std::time::Duration;

use crate::io::{Slab, SlabPool, Slice};
use crate::limits::{
    DIRECT_BLOCK_BYTES, FRAME_HEADER_BYTES, MIN_DIRECT_BYTES, MIN_LOW_WATER_BYTES, QUICK_FRAME,
    SLAB_BYTES,
};
use crate::protocol::frame::{FrameError, FrameHeader};

/// A payload of this size is waited for as a whole.
const LARGE_BYTES: usize = MIN_DIRECT_BYTES as usize;

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// A header has been decoded; its payload may not be here yet. Refuse it,
    /// or [`Inbox::place`] it, or go on.
    Header(FrameHeader),
    /// A frame is complete; get its payload with [`Inbox::payload`] before the
    /// next step. The last field tells whether it lies where [`Inbox::place`]
    /// asked for it, behind its carry.
    Frame(FrameHeader, Range<usize>, bool),
    /// Receive into this slab and hand it back with [`Inbox::received`].
    Receive {
        /// Where to.
        slab: Slab,
        /// Wake when this many bytes have come.
        low_water: usize,
        /// Take no more.
        most: usize,
    },
    /// All slabs are with the disk: step again when a write has completed.
    Starved,
}

/// The receiving end of one connection.
#[derive(Debug)]
pub struct Inbox {
    pool: SlabPool,
    /// Absent while a `Receive` holds it.
    slab: Option<Slab>,
    /// Bytes of the slab that are used up.
    parsed: usize,
    /// The frame whose payload is awaited.
    header: Option<FrameHeader>,
    /// The frame must begin here, in a fresh slab, behind these bytes.
    place: Option<Place>,
    /// The awaited frame has been placed.
    placed: bool,
    /// The last frame was a large one.
    after_large: bool,
    /// The most bytes to wait for at a time.
    patience_bytes: usize,
}

/// Where a large frame wants to be.
#[derive(Debug)]
struct Place {
    offset: usize,
    carry: Vec<u8>,
}

impl Inbox {
    /// An inbox that receives into slabs of this pool.
    #[must_use]
    pub fn new(pool: SlabPool) -> Self {
        Self {
            pool,
            slab: None,
            parsed: 0,
            header: None,
            place: None,
            placed: false,
            after_large: false,
            patience_bytes: MIN_LOW_WATER_BYTES,
        }
    }

    /// Receive into slabs of another pool from now on. What the present slab
    /// holds stays.
    pub fn widen(&mut self, pool: SlabPool) {
        self.pool = pool;
    }

    /// How long the last large frame took. A peer on a slow link must be heard
    /// of long before a time-out, so only a quick one is listened to in large
    /// pieces; a new one has to show first.
    pub fn pace(&mut self, took: Duration) {
        let quick = took < QUICK_FRAME;
        self.patience_bytes = if quick { usize::MAX } else { MIN_LOW_WATER_BYTES };
    }

    /// The header whose payload is still incomplete.
    #[must_use]
    pub fn awaiting(&self) -> Option<&FrameHeader> {
        self.header.as_ref()
    }

    /// Receive the payload of the frame whose header was just decoded into a
    /// fresh slab, `offset` bytes behind a block boundary. `carry` is what
    /// goes right before it: either `offset` bytes, or nothing.
    pub fn place(&mut self, offset: usize, carry: Vec<u8>) {
        debug_assert!(self.header.is_some(), "only a decoded frame is placed");
        debug_assert!(carry.is_empty() || carry.len() == offset, "a carry fills the block");
        self.place = Some(Place { offset, carry });
    }

    /// The slab comes back from a `Receive`.
    pub fn received(&mut self, slab: Slab) {
        debug_assert!(self.slab.is_none(), "one slab at a time");
        self.slab = Some(slab);
    }

    /// A shared view of a range that [`Step::Frame`] named, or of what was
    /// placed before it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Slice> {
        self.slab.as_ref().map(|slab| slab.slice(range))
    }

    /// The bytes of a range that [`Step::Frame`] named.
    #[must_use]
    pub fn payload(&self, range: Range<usize>) -> &[u8] {
        self.slab.as_ref().map_or(&[], |slab| &slab.filled()[range])
    }

    /// What to do next.
    ///
    /// # Errors
    ///
    /// The stream is not one of frames: the connection cannot go on.
    pub fn step(&mut self) -> Result<Step, FrameError> {
        let Some(slab) = self.slab.take().or_else(|| {
            self.parsed = 0;
            self.pool.take()
        }) else {
            return Ok(Step::Starved);
        };
        let available = slab.filled().len() - self.parsed;
        let Some(header) = self.header else {
            if let Some(bytes) = slab.filled()[self.parsed..].first_chunk::<FRAME_HEADER_BYTES>() {
                let header = FrameHeader::decode(bytes);
                self.slab = Some(slab);
                let header = header?;
                self.parsed += FRAME_HEADER_BYTES;
                self.header = Some(header);
                return Ok(Step::Header(header));
            }
            let missing = FRAME_HEADER_BYTES - available;
            if self.after_large && slab.spare() >= missing {
                // Most likely another large one follows: take its header alone,
                // so that its payload can be placed.
                return Ok(Step::Receive { slab, low_water: missing, most: missing });
            }
            return Ok(self.receive(slab, missing, None));
        };
        let payload = header.payload_bytes as usize;
        let misplaced = self.place.is_some() && available <= payload + FRAME_HEADER_BYTES;
        if !misplaced && available >= payload {
            self.place = None;
            self.after_large = payload >= LARGE_BYTES;
            let range = self.parsed..self.parsed + payload;
            self.parsed = range.end;
            self.header = None;
            self.slab = Some(slab);
            return Ok(Step::Frame(header, range, std::mem::take(&mut self.placed)));
        }
        // More than this frame and a header is here already: then it is not
        // worth placing, and everything stays where it is.
        let place = self.place.take().filter(|_| available <= payload + FRAME_HEADER_BYTES);
        if let Some(place) = place {
            let total = place.offset + payload + FRAME_HEADER_BYTES;
            let fresh =
                if total > SLAB_BYTES { self.pool.take_oversized(total) } else { self.pool.take() };
            let Some(mut fresh) = fresh else {
                self.slab = Some(slab);
                self.place = Some(place);
                return Ok(Step::Starved);
            };
            if place.carry.is_empty() {
                fresh.push(&[0; DIRECT_BLOCK_BYTES][..place.offset]);
            } else {
                fresh.push(&place.carry);
            }
            fresh.push(&slab.filled()[self.parsed..]);
            self.parsed = place.offset;
            self.placed = true;
            if available >= payload {
                self.slab = Some(fresh);
                return self.step();
            }
            let missing = payload - available;
            return Ok(Step::Receive {
                slab: fresh,
                low_water: missing.min(self.patience_bytes),
                most: missing + FRAME_HEADER_BYTES,
            });
        }
        let missing = payload - available;
        Ok(self.receive(slab, missing, Some(payload)))
    }

    /// Go on receiving `missing` bytes, in a fresh slab if they do not fit.
    /// With a payload, the frame begins at `parsed` and has that length.
    fn receive(&mut self, slab: Slab, missing: usize, payload: Option<usize>) -> Step {
        let large = payload.is_some_and(|bytes| bytes >= LARGE_BYTES);
        let (slab, most) = if slab.spare() >= missing + FRAME_HEADER_BYTES {
            let most = if large { missing + FRAME_HEADER_BYTES } else { slab.spare() };
            (slab, most)
        } else {
            let total = payload.unwrap_or(0) + 2 * FRAME_HEADER_BYTES;
            let fresh =
                if total > SLAB_BYTES { self.pool.take_oversized(total) } else { self.pool.take() };
            let Some(mut fresh) = fresh else {
                self.slab = Some(slab);
                return Step::Starved;
            };
            fresh.push(&slab.filled()[self.parsed..]);
            self.parsed = 0;
            let most = if large { missing + FRAME_HEADER_BYTES } else { fresh.spare() };
            (fresh, most)
        };
        // Only a partial frame is worth waiting for as a whole: between
        // frames, and in small ones, whatever comes is welcome.
        let low_water = if large { missing.min(self.patience_bytes) } else { 1 };
        Step::Receive { slab, low_water, most }
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
