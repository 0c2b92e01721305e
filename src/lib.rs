//! Saltus: a zero-copy replication engine for write-ahead logs.
//!
//! A database appends records to the segments of its log; Saltus pushes the
//! new bytes from the page cache straight onto the sockets of replicas, which
//! verify every record, make it durable in a byte-identical log, and
//! acknowledge. The way of the data, and the modules in that order:
//!
//! ```text
//!   PRIMARY                                             REPLICA
//!
//!   segment files                                       segment files
//!      | inotify                                             ^ write, fdatasync
//!      v                                                     |
//!   [wal]      cursor: whole records, by headers        [engine] log: lanes, group flush
//!      |       index: boundaries, chain                      ^
//!      v                                                     |
//!   [engine]   space, link                              [wal] verify every CRC
//!      |                                                     ^
//!      v                                                     |
//!   [protocol] Sender: what to send next                [protocol] Receiver: may it come?
//!      |                                                     ^
//!      v                                                     |
//!   [io]       sendfile, splice ====== TCP ======>      [io] batched receive
//!      ^                                                     |
//!      +------------- acknowledgements, with the chain ------+
//!
//!   [state]  the catalog beside either: where each stream lies, which epoch, whose node
//! ```
//!
//! | module | what it is for | touches the system |
//! |---|---|---|
//! | [`wal`] | the log on disk: format, maps, walking, writing | files |
//! | [`protocol`] | the wire: frames and two machines, without I/O | nothing |
//! | [`io`] | moving bytes: two backends behind one queue | everything |
//! | [`state`] | what a node remembers: catalog, pins | files |
//! | [`engine`] | joins the four into a node | through them |
//! | [`config`] | the settings, parsed once | the configuration file |
//! | [`admin`] | status over HTTP | a socket |
//! | [`cli`] | the command line, demo and benches | the terminal |
//! | [`lsn`], [`ids`], [`limits`] | the words that all share | nothing |
//!
//! A program that writes a log of its own uses [`wal::writer`]; one that
//! replicates uses [`engine::Engine`]. Formats are drawn byte by byte in the
//! modules that parse them: [`wal::record`], [`protocol::frame`].

pub mod admin;
pub mod cli;
pub mod config;
pub mod engine;
pub mod ids;
pub mod io;
pub mod limits;
pub mod lsn;
#[doc(hidden)]
pub mod planted;
pub mod protocol;
#[cfg(test)]
mod skipped;
pub mod state;
pub mod wal;
