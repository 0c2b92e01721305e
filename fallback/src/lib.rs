//! The portable half: what differs from one Unix to the next, each piece
//! behind one signature.
//!
//! | piece            | Linux                                   | macOS, FreeBSD | others      |
//! |------------------|-----------------------------------------|----------------|-------------|
//! | [`bound_unsent`] | `TCP_NOTSENT_LOWAT`, `TCP_USER_TIMEOUT` | nothing        | nothing     |

mod sockets;

pub use sockets::bound_unsent;
