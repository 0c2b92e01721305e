//! The replica's half of mending: a record that is refused, ranges that are
//! asked for, or given, again.

#![forbid(unsafe_code)]

use super::Now;
use super::frame::Handle;
use super::intake::Phase;
use super::message::{Fetch, Fetched, Message};
use super::receiver::{Intent, Receiver};
use crate::lsn::Lsn;

impl Receiver {
    /// The record at `at` came damaged in a frame that is otherwise whole: stop
    /// the space, so that the primary looks at its own. Gives no intent.
    pub fn refuse_record(&mut self, _now: Now, handle: Handle, at: Lsn, reason: String) {
        if let Some(space) = self.spaces.get_mut(&handle)
            && space.phase != Phase::Closing
        {
            space.phase = Phase::Closing;
            self.link.refuse_record(handle, space.epoch, at, reason);
        }
    }

    /// Ask the primary for a range of the stream; the answer comes as
    /// [`Intent::Fetched`], unless the space or the connection ends before.
    /// False if that cannot be now: the space is not here, or a question is open.
    pub fn fetch(&mut self, _now: Now, handle: Handle, fetch: Fetch) -> bool {
        let Some(space) = self.spaces.get_mut(&handle) else {
            return false;
        };
        if !space.serves() || !space.questions.ask(fetch) {
            return false;
        }
        self.link.queue(&Message::Fetch(fetch), handle, space.epoch);
        true
    }

    /// The answer to [`Intent::Fetch`]; no bytes: they cannot be had here. One
    /// that comes after the space was stopped is ignored.
    pub fn serve(&mut self, _now: Now, handle: Handle, lsn: Lsn, bytes: Vec<u8>) {
        if let Some(space) = self.spaces.get_mut(&handle)
            && space.serves()
            && let Some(fetched) = space.questions.serve_with(lsn, bytes)
        {
            self.link.queue(&Message::Fetched(fetched), handle, space.epoch);
        }
    }

    pub(super) fn asked(&mut self, handle: Handle, fetch: Fetch) -> Option<Intent> {
        let space = self.spaces.get_mut(&handle).filter(|space| space.serves())?;
        match space.questions.serve(fetch) {
            Ok(()) => Some(Intent::Fetch { handle, fetch }),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }

    pub(super) fn answered(&mut self, handle: Handle, fetched: Fetched) -> Option<Intent> {
        let space = self.spaces.get_mut(&handle).filter(|space| space.serves())?;
        match space.questions.answered(&fetched) {
            Ok(()) => Some(Intent::Fetched { handle, fetched }),
            Err((code, reason)) => self.stop(handle, code, reason),
        }
    }
}
