//! What the fuzzers run, as plain functions: `fuzz_targets/` hands them bytes
//! that libFuzzer made up, `tests/fuzz_corpus.rs` those that are kept.
//!
//! A checksum keeps a fuzzer out: it would spend its life on guessing one. So
//! an input is not the bytes themselves but a list of pieces, and the harness
//! computes the checksums of those that ask for it. Other pieces are taken as
//! they are.
#![allow(dead_code)]

pub mod catalog;
pub mod config;
pub mod frames;
pub mod handshake;
pub mod input;
pub mod log;
pub mod recovery;
pub mod segment;

/// Takes an input, and panics if what was found is not as it should be.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("catalog", catalog::run),
    ("config", config::run),
    ("frames", frames::run),
    ("handshake", handshake::run),
    ("log", log::run),
    ("recovery", recovery::run),
];
