//! Recovery and scrubbing.
pub mod recovery;
