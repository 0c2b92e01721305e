//! Everything that the fuzzers keep, run once more.
//!
//! `fuzz/` finds inputs; those worth keeping lie in `fuzz/corpus/<target>/`:
//! seeds made of what real nodes say and write, and each input that has ever
//! found something, under the name of what it found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unreachable_pub)]

use std::fs;
use std::path::PathBuf;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "fuzz_corpus/seeds.rs"]
mod seeds;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Run every kept input of a target.
fn replay(target: &str) {
    let (_, run) = targets::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let mut inputs: Vec<_> =
        fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "nothing is kept for {target}");
    for input in inputs {
        // The last line before a panic says which it was.
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

#[test]
fn catalogs_of_any_content_are_refused_or_good() {
    replay("catalog");
}

#[test]
fn configurations_of_any_content_are_refused_with_a_place_or_read() {
    replay("config");
}

#[test]
fn bytes_of_any_content_are_cut_into_frames_or_end_the_connection() {
    replay("frames");
}

#[test]
fn frames_in_any_order_never_panic_either_machine() {
    replay("handshake");
}

#[test]
fn segments_of_any_content_are_walked_to_their_end() {
    replay("log");
}

#[test]
fn any_catalog_over_any_files_is_recovered_or_refused() {
    replay("recovery");
}

#[test]
fn what_is_kept_is_small() {
    let mut bytes = 0;
    for (target, _) in targets::TARGETS {
        for entry in fs::read_dir(corpus(target)).unwrap() {
            bytes += entry.unwrap().metadata().unwrap().len();
        }
    }
    assert!(bytes < 1 << 20, "{bytes} bytes are kept");
}

/// Writes the seeds anew. Run it when a format has changed:
/// `cargo test --test fuzz_corpus -- --ignored`.
#[test]
#[ignore = "writes to the source tree"]
fn write_the_seeds() {
    for (target, _) in targets::TARGETS {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, bytes) in seeds::of(target) {
            fs::write(corpus(target).join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}
