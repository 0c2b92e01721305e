//! Everything that the fuzzers keep, run once more.
//!
//! `fuzz/` finds inputs; those worth keeping lie in `fuzz/corpus/<target>/`:
//! seeds made of what real nodes say and write, and each input that has ever
//! found something, under the name of what it found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unreachable_pub)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Once;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "fuzz_corpus/seeds.rs"]
mod seeds;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Panics of one thread: of the database, which the catalog answers for, and
/// all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Panics {
    answered_for: u32,
    ours: u32,
}

thread_local! {
    static PANICS: Cell<Panics> = const { Cell::new(Panics { answered_for: 0, ours: 0 }) };
}

/// Count the panics of `work`, also those that are caught: the guard around the
/// database would hide one of our own.
fn panics_of(work: impl FnOnce()) -> Panics {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let mut panics = PANICS.get();
            if targets::catalog::is_answered_for(panic.location()) {
                panics.answered_for += 1;
            } else {
                panics.ours += 1;
                tell(panic);
            }
            PANICS.set(panics);
        }));
    });
    PANICS.set(Panics::default());
    work();
    PANICS.get()
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
        let panics = panics_of(|| run(&fs::read(&input).unwrap()));
        assert_eq!(panics.ours, 0, "caught, and ours all the same: {}", input.display());
    }
}

#[test]
fn catalogs_of_any_content_are_refused_or_good() {
    replay("catalog");
}

#[test]
fn what_the_database_asserts_is_told_from_what_we_do() {
    // The first byte of a page says what it is; where they lie is the
    // database's own business.
    let rots = |page: u8| {
        let at = u32::from(page) * 4096;
        let change = [&[1][..], &at.to_le_bytes(), &[0]].concat();
        panics_of(|| targets::catalog::run(&change))
    };
    let asserts: Vec<_> = (1..8).map(rots).filter(|panics| panics.answered_for > 0).collect();
    assert!(!asserts.is_empty(), "it never asserts: the guard around it can go");
    assert!(asserts.iter().all(|panics| panics.ours == 0), "{asserts:?}");
    let fails = panics_of(|| drop(catch_unwind(|| panic!("for the test"))));
    assert_eq!(fails, Panics { answered_for: 0, ours: 1 });
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
                let panics = panics_of(|| drop(catch_unwind(|| run(&mutated))));
                if panics.ours > 0 {
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
