//! Recovery and scrubbing.
mod quarantine;
pub mod recovery;
mod verifier;
