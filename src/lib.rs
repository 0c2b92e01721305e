//! Saltus.
pub mod engine;
pub mod ids;
pub mod io;
pub mod limits;
pub mod lsn;
pub mod protocol;
pub mod state;
pub mod wal;
