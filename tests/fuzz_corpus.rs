//! Everything that the fuzzers keep, run once more.
//!
//! `fuzz/` finds inputs; those worth keeping lie in `fuzz/corpus/<target>/`:
//! seeds made of what real nodes say and write, and each input that has ever
//! found something, under the name of what it found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unreachable_pub)]

use std::collections::BTreeMap;
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

/// The input with a few bytes changed, put in, taken out, or repeated.
fn mutate(input: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut random = |below: usize| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % below.max(1)
    };
    let mut bytes = input.to_vec();
    for _ in 0..=random(4) {
        let at = random(bytes.len());
        match random(6) {
            _ if bytes.is_empty() => bytes.push(random(256) as u8),
            0 => bytes[at] = random(256) as u8,
            1 => bytes[at] ^= 1 << random(8),
            2 => bytes.insert(at, [0, 1, 127, 128, 255][random(5)]),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + random(16)).min(bytes.len()))),
            _ => {
                let piece = bytes[at..(at + random(64)).min(bytes.len())].to_vec();
                let to = random(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// A fuzzer without eyes, for where there is no other: so many changes of each
/// kept input, the same ones each time.
#[test]
fn kept_inputs_with_a_few_changes_do_no_harm_either() {
    let changes = std::env::var("SALTUS_MUTATIONS").map_or(3, |text| text.parse().unwrap());
    for (target, run) in targets::TARGETS {
        for entry in fs::read_dir(corpus(target)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            for seed in 0..changes {
                let mutated = mutate(&input, seed);
                let outcome = std::panic::catch_unwind(|| run(&mutated));
                if outcome.is_err() {
                    let kept = std::env::temp_dir().join(format!("saltus-{target}-{seed}"));
                    fs::write(&kept, &mutated).unwrap();
                    panic!("{} with seed {seed}: see {}", path.display(), kept.display());
                }
            }
        }
    }
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

/// The kept seeds are what the code makes of real nodes today: a format that has
/// changed would leave inputs that end at the first byte.
///
/// `SALTUS_WRITE_SEEDS=1 cargo test --test fuzz_corpus seeds` writes them anew,
/// and takes away those that nothing makes any more.
#[test]
fn the_kept_seeds_are_what_the_code_writes_today() {
    let writes = std::env::var_os("SALTUS_WRITE_SEEDS").is_some_and(|value| value == "1");
    for (target, _) in targets::TARGETS {
        let seeds: BTreeMap<_, _> = seeds::of(target)
            .into_iter()
            .map(|(name, bytes)| (format!("seed-{name}"), bytes))
            .collect();
        assert!(!seeds.is_empty(), "there are no seeds for {target}");
        let directory = corpus(target);
        fs::create_dir_all(&directory).unwrap();
        let kept = fs::read_dir(&directory).unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with("seed-").then_some(name)
        });
        for name in kept.filter(|name| !seeds.contains_key(name)) {
            assert!(writes, "{target}/{name} is written by nothing: {ANEW}");
            fs::remove_file(directory.join(name)).unwrap();
        }
        for (name, bytes) in seeds {
            let path = directory.join(&name);
            if fs::read(&path).is_ok_and(|kept| kept == bytes) {
                continue;
            }
            assert!(writes, "{target}/{name} is not what the code writes today: {ANEW}");
            fs::write(path, bytes).unwrap();
        }
    }
}

/// What to do about a seed that is not what it should be.
const ANEW: &str = "SALTUS_WRITE_SEEDS=1 cargo test --test fuzz_corpus seeds writes them anew";
