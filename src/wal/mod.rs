//! The log on disk: reading it as a writer leaves it, and writing it.
//!
//! ```text
//!   data root ── discover ──> Segment ── Cursor ──> marks ── Index ──> cut
//!                               │          │ headers only              │
//!                               │         Map                          v
//!                               └───────────────────────────────────> Extent
//!                                                                      │
//!   replica: record::verify      saltus wal: scan               data plane
//!   embedders, tests:    Writer
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`record`] | the one place that parses, builds and checks a record |
//! | [`segment`], [`map`] | an open file and its identity; its bytes as memory |
//! | [`cursor`], [`search`] | new bytes to record boundaries; the way around damage |
//! | [`index`], [`extent`] | remembered boundaries; a range of whole records |
//! | [`discover`] | spaces and segments, and what else lies around |
//! | [`scan`], [`compare`] | a whole segment with every checksum; two directories |
//! | [`digest`] | what two nodes compare of bytes that neither shows the other |
//! | [`writer`] | appending records |
//!
//! What holds here:
//!
//! - A length field is used only after the CRC that covers it held.
//! - No byte is touched beyond a length that was checked, and a file that
//!   shrinks nevertheless costs a reread, not the process.
//! - Nothing is skipped without being returned to the caller as a range.
//! - The files of others are read, never written, cut or removed.
//!
//! What does not belong here: sockets, replicas, positions of slots, and the
//! order of runs, which the catalog keeps. `docs/WAL_FORMAT.md` draws the
//! format and lists the traps (T1 to T15) that tests and comments name.

pub mod compare;
pub mod cursor;
pub mod digest;
pub mod discover;
pub mod extent;
pub mod index;
pub mod map;
pub mod record;
pub mod scan;
pub mod search;
pub mod segment;
pub mod writer;
