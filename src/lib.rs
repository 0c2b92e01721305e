//! Saltus.
pub mod ids;
pub mod io;
pub mod limits;
pub mod lsn;
pub mod wal;
pub mod protocol;
pub mod state;
pub mod config;
pub mod engine;
pub mod admin;
pub mod cli;
