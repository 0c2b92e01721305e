//! The shape of the source, enforced: direction of dependency, homes of
//! crates, where `unsafe` and platform switches may stand, names and sizes.
//!
//! ```text
//!   main -> cli -> admin -> engine -> { protocol, wal, io, state }
//!                   all  -> { lsn, ids, limits }
//!   config, a leaf beside them: reads files, lends the io layer's choices
//! ```
//!
//! The checker reads text, not types: comments and literals are blanked, then
//! paths (`crate::x`, `super::..`, external crates) are looked up in a table.
//! Its own tests below show for every rule that a violation is found.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// What each layer may name besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &["admin", "engine", "config", "protocol", "wal", "io", "state", "lsn", "ids", "limits"],
    ),
    ("admin", &["engine", "config", "lsn", "ids", "limits", "skipped"]),
    ("engine", &["protocol", "wal", "io", "state", "config", "lsn", "ids", "limits", "planted"]),
    ("protocol", &["lsn", "ids", "limits"]),
    ("wal", &["lsn", "ids", "limits", "planted"]),
    ("io", &["lsn", "ids", "limits", "skipped"]),
    ("state", &["lsn", "ids", "limits"]),
    // A leaf but for the choices that the io layer offers.
    ("config", &["io", "lsn", "ids", "limits", "skipped"]),
    ("lsn", &["ids", "limits"]),
    ("ids", &["limits"]),
    ("limits", &[]),
    // A leaf: bugs to be put back in for a test of the simulator.
    ("planted", &[]),
    // A leaf that only tests have.
    ("skipped", &[]),
];

/// External crates that have a home, and which layers that is.
const HOMES: &[(&str, &[&str])] = &[
    ("anyhow", &["main", "cli"]),
    ("clap", &["cli"]),
    ("hyper", &["admin"]),
    ("hyper_util", &["admin"]),
    ("http_body_util", &["admin"]),
    ("io_uring", &["io"]),
    ("polling", &[]),
    ("notify", &[]),
    ("redb", &["state"]),
    ("saltus_fallback", &["io"]),
    ("tokio", &["admin", "cli", "engine", "io"]),
    ("tokio_uring", &["io"]),
    ("toml", &["config", "cli"]),
    ("tracing_subscriber", &["cli"]),
];

/// Words that switch on the platform.
const PLATFORM: &[&str] =
    &["target_os", "target_family", "target_vendor", "cfg(unix", "cfg(windows", "cfg(not(unix"];

/// Names that say nothing about what a file holds.
const VAGUE: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "types", "impls"];

/// The most lines of a file.
const MOST_LINES: usize = 600;

/// One file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The module path within the crate: `src/wal/cursor.rs` is
    /// `["wal", "cursor"]`. Empty for `lib.rs` and for other crates.
    fn modules(&self) -> Vec<&str> {
        let Some(path) = self.path.strip_prefix("src/") else { return Vec::new() };
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" { Vec::new() } else { path.split('/').collect() }
    }

    fn may_be_unsafe(&self) -> bool {
        self.path == "src/wal/map.rs"
            || self.path == "src/wal/map_tests.rs"
            || self.path.starts_with("src/io/")
            || self.path.starts_with("fallback/")
            || self.path.starts_with("tests/")
            || self.path.starts_with("benches/")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }
}

/// Everything that is wrong with the sources, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let code = blank(&source.text);
        check_shape(source, &mut found);
        check_platform(source, &code, &mut found);
        check_unsafe(source, &code, sources, &mut found);
        if let Some(layer) = source.modules().first() {
            check_arrows(source, layer, &code, &mut found);
            check_homes(source, layer, &code, &mut found);
        }
    }
    found
}

fn check_shape(source: &Source, found: &mut Vec<String>) {
    let Source { path, text } = source;
    let lines = text.lines().count();
    if lines > MOST_LINES {
        found.push(format!("{path}: {lines} lines, more than {MOST_LINES}: split it by concept"));
    }
    let vague = |part: &str| VAGUE.contains(&part.strip_suffix(".rs").unwrap_or(part));
    if path.split('/').any(vague) {
        found.push(format!("{path}: a vague name; call it by what it holds"));
    }
    if path.starts_with("src/") && !source.is_test() && !text.starts_with("//!") {
        found.push(format!("{path}: does not open with what the module is for (//!)"));
    }
}

fn check_platform(source: &Source, code: &str, found: &mut Vec<String>) {
    let path = &source.path;
    if path == "src/io/mod.rs" || !path.starts_with("src/") {
        return;
    }
    for (number, line) in code.lines().enumerate() {
        if let Some(word) = PLATFORM.iter().find(|word| line.contains(**word)) {
            let line = number + 1;
            found.push(format!("{path}:{line}: {word} outside src/io/mod.rs and fallback/"));
        }
    }
}

fn check_unsafe(source: &Source, code: &str, sources: &[Source], found: &mut Vec<String>) {
    let path = &source.path;
    if source.may_be_unsafe() {
        return;
    }
    for (number, line) in code.lines().enumerate() {
        if words(line).any(|(_, word)| word == "unsafe") {
            found.push(format!("{path}:{}: unsafe has no place in this file", number + 1));
        }
    }
    let roots = ["src/lib.rs", "src/wal/mod.rs"];
    if path.starts_with("src/") && !roots.contains(&path.as_str()) && !forbids(source, sources) {
        found.push(format!("{path}: neither it nor a module above has #![forbid(unsafe_code)]"));
    }
}

/// Whether the file or a module that contains it forbids unsafe code.
fn forbids(source: &Source, sources: &[Source]) -> bool {
    const LINE: &str = "#![forbid(unsafe_code)]";
    let has_line = |source: &Source| source.text.lines().any(|line| line == LINE);
    let modules = source.modules();
    // `cursor_tests.rs` is mounted by `cursor.rs`.
    let tested = modules.last().and_then(|name| name.strip_suffix("_tests"));
    let tested = tested.map(|name| {
        let mut path = modules.clone();
        path.pop();
        path.push(name);
        path
    });
    let above = |path: &[&str]| {
        (1..=path.len()).any(|depth| {
            sources.iter().any(|other| other.modules() == path[..depth] && has_line(other))
        })
    };
    above(&modules) || tested.is_some_and(|path| above(&path))
}

fn check_arrows(source: &Source, layer: &str, code: &str, found: &mut Vec<String>) {
    let path = &source.path;
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        found.push(format!("{path}: the layer {layer} is not in the table of tests/tidy.rs"));
        return;
    };
    for (line, target) in targets(source, code) {
        let known = LAYERS.iter().any(|(name, _)| *name == target);
        if known && target != layer && !allowed.contains(&target.as_str()) {
            found.push(format!("{path}:{line}: {layer} must not depend on {target}"));
        }
    }
}

fn check_homes(source: &Source, layer: &str, code: &str, found: &mut Vec<String>) {
    let path = &source.path;
    for (number, line) in code.lines().enumerate() {
        for (at, word) in words(line) {
            let is_path = line[at + word.len()..].starts_with("::");
            let continues = line[..at].ends_with("::");
            let home = HOMES.iter().find(|(name, _)| *name == word);
            if let Some((name, layers)) = home
                && is_path
                && !continues
                && !layers.contains(&layer)
            {
                let line = number + 1;
                found.push(format!("{path}:{line}: {layer} is not the home of the crate {name}"));
            }
        }
    }
}

/// The top-level modules that the code names, with the lines: after `crate::`,
/// `saltus::`, and chains of `super::` that are long enough to get there.
fn targets(source: &Source, code: &str) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    let depth = source.modules().len();
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    for (at, word) in words(code) {
        let mut rest = &code[at + word.len()..];
        let starts = !code[..at].ends_with("::") && !code[..at].ends_with('$');
        match word {
            "crate" | "saltus" if starts || word == "crate" => {}
            "super" if starts => {
                let mut supers = 1;
                while let Some(next) = rest.strip_prefix("::super") {
                    supers += 1;
                    rest = next;
                }
                if supers < depth {
                    continue;
                }
            }
            _ => continue,
        }
        let Some(rest) = rest.strip_prefix("::") else { continue };
        for target in heads(rest) {
            targets.push((line_of(at), target.to_owned()));
        }
    }
    targets
}

/// The first word of a path, or of each branch of a group `{a::b, c}`.
fn heads(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else {
        return words(path)
            .next()
            .filter(|(at, _)| *at == 0)
            .map(|(_, word)| word)
            .into_iter()
            .collect();
    };
    let (mut depth, mut fresh, mut heads) = (0, true, Vec::new());
    let mut skip = 0;
    for (at, c) in group.char_indices() {
        if at < skip {
            continue;
        }
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && (c.is_alphanumeric() || c == '_') => {
                let word = words(&group[at..]).next().map_or("", |(_, word)| word);
                heads.push(word);
                skip = at + word.len();
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

/// The identifiers and keywords of a text, with their positions.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].find(is_word)?;
        let start = at;
        at += text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at);
        Some((start, &text[start..at]))
    })
}

/// The text with comments and literals made blank, line for line.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = comment(rest).or_else(|| string(rest, &out)).or_else(|| character(rest));
        match skipped {
            Some(length) => {
                let hidden = &rest[..length];
                out.extend(hidden.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                at += length;
            }
            None => {
                let c = rest.chars().next().unwrap();
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    out
}

fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(text.len())
}

fn string(text: &str, before: &str) -> Option<usize> {
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let raw = text.trim_start_matches(['b', 'c']).strip_prefix('r').filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') && text.len() - raw.len() <= 2 {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = text.len() - raw.len() + hashes + 1;
            let length = text[body..].find(&end).map_or(text.len() - body, |at| at + end.len());
            return Some(body + length);
        }
    }
    let mut escaped = false;
    let mut bytes = text.bytes().enumerate();
    bytes.next().filter(|(_, byte)| *byte == b'"')?;
    for (at, byte) in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let c = body.chars().next()?;
    if c == '\\' {
        return body[2..].find('\'').map(|at| at + 4);
    }
    body[c.len_utf8()..].starts_with('\'').then(|| c.len_utf8() + 2)
}

fn collect(root: &Path, directory: &str, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(root.join(directory)) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, sources);
        } else if path.ends_with(".rs") {
            sources.push(Source { text: fs::read_to_string(root.join(&path)).unwrap(), path });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for directory in ["src", "fallback/src", "tests", "benches"] {
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), directory, &mut sources);
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

#[test]
fn source_is_in_shape() {
    let found = violations(&sources());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The words of a document that can only be names of tests: in backticks, and long.
fn named_tests(document: &str) -> Vec<&str> {
    let quoted = document.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        let of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        word.chars().all(of_a_name) && word.matches('_').count() >= 4
    };
    quoted.filter(is_name).collect()
}

#[test]
fn tests_that_a_document_names_exist() {
    assert_eq!(named_tests("`a_b_c_d_e`, `a_b` and `A b_c_d_e_f`"), ["a_b_c_d_e"]);
    let (document, sources) = (include_str!("../docs/TESTING.md"), sources());
    let named = named_tests(document);
    assert!(named.len() >= 10, "the names were not found");
    let exists = |name: &&str| {
        let function = format!("fn {name}(");
        sources.iter().any(|source| source.text.contains(&function))
    };
    let missing: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[path = "tidy/rules.rs"]
mod rules;
