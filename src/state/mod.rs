//! What a node remembers: its identity, its catalog of runs, its epochs.
pub mod catalog;
pub mod pins;
pub mod runs;
