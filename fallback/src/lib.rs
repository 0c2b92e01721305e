//! The portable half of Saltus' I/O: what differs from one Unix to the next,
//! each piece behind one signature.
//!
//! | piece            | Linux                                   | macOS              | FreeBSD        | others      |
//! |------------------|-----------------------------------------|--------------------|----------------|-------------|
//! | [`Readiness`]    | epoll                                   | kqueue             | kqueue         | poll        |
//! | [`send_file`]    | `sendfile`                              | `sendfile`         | `sendfile`     | unsupported |
//! | [`send`]         | `MSG_MORE` joins header and payload     | one packet more    | one packet more | one packet more |
//! | [`bound_unsent`] | `TCP_NOTSENT_LOWAT`, `TCP_USER_TIMEOUT` | nothing            | nothing        | nothing     |
//! | [`DiskThreads`]  | `fdatasync`                             | `F_FULLFSYNC`      | `fdatasync`    | `fsync`     |
//! | [`DirectoryWatch`] | inotify                               | FSEvents           | kqueue         | scan        |
//! | [`free_bytes`]   | `statvfs`                               | the same           | the same       | the same    |
//! | [`cache`]        | `cachestat`, `posix_fadvise`            | nothing known      | nothing known  | nothing known |
//!
//! What it cannot do: `sendfile` of a page that is not in the cache blocks the
//! caller, and outside Linux a file that was unlinked grows unnoticed.

pub mod cache;
mod disk;
mod readiness;
mod room;
mod sending;
mod sockets;
mod watching;

pub use disk::{DiskThreads, Job};
pub use readiness::{Direction, Readiness};
pub use room::free_bytes;
pub use sending::{HAS_SEND_FILE, send, send_file};
pub use sockets::{bound_unsent, spare_loopback};
pub use watching::{Change, DirectoryWatch, Interest};
