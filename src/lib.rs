//! Saltus: a zero-copy replication engine for write-ahead logs.
pub mod admin;
pub mod cli;
pub mod config;
pub mod engine;
pub mod ids;
pub mod io;
pub mod limits;
pub mod lsn;
pub mod protocol;
pub mod state;
pub mod wal;
