//! Recovery and scrubbing.
mod quarantine;
pub mod recovery;
pub mod scrub;
mod verifier;
