//! A bounded stock of pipes, the detours that `splice` needs.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// What a pipe should hold: a whole extent. The system grants less to a user
/// who has many; then it takes more rounds.
const PIPE_BYTES: i32 = 1 << 20;

/// Idle pipes that are kept. More in use at a time are made and dropped.
const MOST_IDLE: usize = 8;

/// A pipe and how much is in it.
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    /// Bytes spliced in and not yet out.
    pub(super) held: u32,
}

#[derive(Default)]
pub(super) struct Pipes {
    idle: Vec<Pipe>,
}

impl Pipes {
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // Refused past the user's limit; the default size works too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Pipe { read, write, held: 0 })
    }

    /// Keep an empty pipe. One that still holds bytes of a broken stream would
    /// leak them into another: it is closed.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.idle.len() < MOST_IDLE {
            self.idle.push(pipe);
        }
    }
}
