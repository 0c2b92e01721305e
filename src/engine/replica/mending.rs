//! What a connection does about damage: refuses a record, asks the primary for
//! a range again, reads one for it, lets go of a space.

use std::time::Instant;

use super::log::Log;
use super::peer::Peer;
use crate::engine::primary::slot::Answer;
use crate::ids::SpaceId;
use crate::limits::COMPARE_PATIENCE;
use crate::lsn::Lsn;
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::protocol::message::{ErrorCode, Fetch};

impl Peer {
    /// It ends because a frame came damaged, here or there.
    #[must_use]
    pub fn is_corrupted(&self) -> bool {
        self.corrupted
    }

    /// What it is called here, while it is being received over this connection.
    #[must_use]
    pub fn handle_of(&self, space: &SpaceId) -> Option<Handle> {
        if self.closing.is_some() {
            return None;
        }
        let open = |log: &Log| log.failed().is_none() && log.stopped().is_none();
        self.logs.iter().find(|(_, log)| log.space == *space && open(log)).map(|(at, _)| *at)
    }

    /// Ask the primary for a range. The answer is dropped if that cannot be.
    pub fn fetch(&mut self, now: Now, handle: Handle, fetch: Fetch, answer: Answer) {
        if self.machine.fetch(now, handle, fetch) {
            self.fetching.insert(handle, answer);
        }
    }

    /// What was read of a range that the primary has asked for.
    pub fn serve(&mut self, now: Now, handle: Handle, lsn: Lsn, bytes: Vec<u8>) {
        self.machine.serve(now, handle, lsn, bytes);
    }

    /// What is here is damaged where a history was to be compared. The scrubber asks
    /// the primary for what was there while the space is open: it stays so for a while.
    pub(super) fn compare_later(&mut self, now: Now, handle: Handle, why: String) {
        self.comparing.insert(handle, (now.instant + COMPARE_PATIENCE, why));
    }

    /// When a question is given up that cannot be answered.
    pub(super) fn compared_by(&self) -> Option<Instant> {
        self.comparing.values().map(|(until, _)| *until).min()
    }

    /// Nobody has mended what was damaged: its primary is told.
    pub(super) fn give_up_comparing(&mut self, now: Now) {
        let is_over = |_: &Handle, (until, _): &mut (Instant, String)| *until <= now.instant;
        let over: Vec<_> = self.comparing.extract_if(.., is_over).collect();
        for (handle, (_, why)) in over {
            self.cannot_match(now, handle, ErrorCode::Storage, why);
        }
    }

    /// Bring what is here of a space to the disk and give it back: something
    /// else must be done with it. The primary will open it again.
    pub fn yield_space(&mut self, now: Now, handle: Handle, why: &str) {
        if let Some(log) = self.logs.get_mut(&handle) {
            log.stop(why.to_owned());
            log.flush_at_once();
            self.ended.insert(handle);
            self.active.insert(handle);
            self.machine.stop_space(now, handle, ErrorCode::Busy, why.to_owned());
        }
    }

    /// A record of a frame does not hold, `offset` bytes behind what was taken.
    /// Nothing of the frame is written: the primary looks at its own record,
    /// and then ships the good ones before it again.
    pub(super) fn damaged(&mut self, now: Now, handle: Handle, offset: u64, error: &str) {
        let Some(log) = self.logs.get_mut(&handle) else { return };
        let at = log.received().lsn.advance(offset);
        let place = log.record.runs.locate(at).and_then(|(ordinal, offset)| {
            let segment = log.record.runs.get(ordinal)?.segment;
            Some(format!(" ({segment}, offset {offset})"))
        });
        let why = format!(
            "space {}: the record at lsn {at}{} came damaged: {error}; nothing of its frame was \
             written. The primary looks at its own",
            log.space,
            place.unwrap_or_default()
        );
        tracing::warn!("{why}");
        log.stop(why.clone());
        log.flush_at_once();
        self.ended.insert(handle);
        self.active.insert(handle);
        self.machine.refuse_record(now, handle, at, why);
    }
}
