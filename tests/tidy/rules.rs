//! Every rule finds its violation, and leaves alone what looks like one.

use super::{Source, blank, violations};

/// What is found in one file that is otherwise in order.
fn found(path: &str, code: &str) -> Vec<String> {
    let text = format!("//! A module.\n#![forbid(unsafe_code)]\n{code}\n");
    violations(&[Source { path: path.into(), text }])
}

#[track_caller]
fn refused(path: &str, code: &str, because: &str) {
    let found = found(path, code);
    assert!(found.len() == 1 && found[0].contains(because), "{found:?}");
}

#[track_caller]
fn allowed(path: &str, code: &str) {
    let found = found(path, code);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn arrow_against_the_order_is_found() {
    refused("src/wal/cursor.rs", "use crate::protocol::Frame;", "wal must not depend on protocol");
    refused("src/protocol/frame.rs", "use crate::io::Slab;", "protocol must not depend on io");
    refused("src/io/mod.rs", "use crate::wal::Extent;", "io must not depend on wal");
    refused("src/state/runs.rs", "use crate::wal::Extent;", "state must not depend on wal");
    refused("src/engine/mod.rs", "use crate::admin::Server;", "engine must not depend on admin");
    refused("src/admin/mod.rs", "use crate::cli::node;", "admin must not depend on cli");
    refused("src/admin/mod.rs", "use crate::wal::Extent;", "admin must not depend on wal");
    refused("src/config.rs", "use crate::engine::Engine;", "config must not depend on engine");
    refused("src/lsn.rs", "use crate::wal::Extent;", "lsn must not depend on wal");
    refused("src/main.rs", "use saltus::engine::Engine;", "main must not depend on engine");
}

#[test]
fn arrow_along_the_order_is_fine() {
    allowed("src/engine/mod.rs", "use crate::{io::Slab, lsn::{Lsn, Mark}, wal, protocol};");
    allowed("src/cli/demo.rs", "use crate::wal::writer::Writer;");
    allowed("src/wal/cursor.rs", "use crate::wal::record; use crate::lsn::Lsn;");
    allowed("src/config.rs", "use crate::io::Strategy;");
    allowed("src/main.rs", "fn main() { saltus::cli::main() }");
}

#[test]
fn arrow_is_found_however_it_is_written() {
    refused("src/wal/cursor.rs", "fn f() { crate::io::open() }", "wal must not depend on io");
    refused(
        "src/wal/cursor.rs",
        "use crate::{lsn::{Lsn, Mark},\n    io::Slab};",
        "src/wal/cursor.rs:3: wal must not depend on io",
    );
    refused("src/wal/cursor.rs", "use super::super::io::Slab;", "wal must not depend on io");
    refused("src/wal/mod.rs", "use super::io::Slab;", "wal must not depend on io");
    refused("src/wal/cursor.rs", "pub(crate) use crate::io::Slab;", "wal must not depend on io");
}

#[test]
fn what_only_looks_like_an_arrow_is_fine() {
    allowed("src/wal/cursor.rs", "use std::io; use std::io::Read;");
    allowed("src/wal/cursor.rs", "/// See crate::io::open.\n// crate::io\n/* crate::io::x */");
    allowed("src/wal/cursor.rs", "const A: &str = \"crate::io::open\"; const B: char = '\"';");
    allowed("src/wal/cursor.rs", "const A: &str = r#\"a \" crate::io::open\"#;");
    allowed("src/wal/cursor.rs", "use super::io;");
    allowed("src/wal/cursor.rs", "pub(crate) fn f(io: u8) {}");
}

#[test]
fn unknown_layer_is_found() {
    refused("src/gossip/mod.rs", "", "the layer gossip is not in the table");
}

#[test]
fn crate_outside_its_home_is_found() {
    refused("src/engine/mod.rs", "use anyhow::Context;", "not the home of the crate anyhow");
    refused("src/wal/cursor.rs", "fn f() { tokio::spawn(x) }", "not the home of the crate tokio");
    refused("src/engine/mod.rs", "use redb::Database;", "not the home of the crate redb");
    allowed("src/state/catalog.rs", "use redb::Database;");
    allowed("src/engine/mod.rs", "use crate::state::redb::Table;");
}

#[test]
fn unsafe_outside_its_place_is_found() {
    let block = "fn f() { unsafe { g() } }";
    refused("src/engine/mod.rs", block, "src/engine/mod.rs:3: unsafe has no place");
    allowed("src/wal/map.rs", block);
    allowed("src/io/uring.rs", block);
    allowed("fallback/src/lib.rs", block);
    allowed("src/engine/mod.rs", "// unsafe\nconst A: &str = \"unsafe\"; fn unsafe_not() {}");
}

#[test]
fn missing_forbid_is_found() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let bare = "//! A module.\n";
    let forbids = "//! A module.\n#![forbid(unsafe_code)]\n";
    let found = violations(&[source("src/engine/mod.rs", bare)]);
    assert!(found.len() == 1 && found[0].contains("forbid(unsafe_code)"), "{found:?}");
    let found = violations(&[source("src/wal/mod.rs", bare), source("src/wal/cursor.rs", bare)]);
    assert!(found.len() == 1 && found[0].starts_with("src/wal/cursor.rs"), "{found:?}");
    let above = [
        source("src/engine/mod.rs", forbids),
        source("src/engine/shard/mod.rs", bare),
        source("src/engine/shard/loop.rs", bare),
        source("src/wal/cursor.rs", forbids),
        source("src/wal/cursor_tests.rs", bare),
        source("src/config.rs", forbids),
        source("src/config/tests.rs", bare),
    ];
    assert_eq!(violations(&above), [""; 0]);
}

#[test]
fn platform_switch_outside_its_place_is_found() {
    let switch = "#[cfg(target_os = \"linux\")]\nfn f() {}";
    refused("src/engine/mod.rs", switch, "src/engine/mod.rs:3: target_os outside");
    refused("src/io/uring.rs", switch, "target_os outside");
    refused("src/cli/mod.rs", "fn f() { if cfg!(target_os = \"linux\") {} }", "target_os");
    refused("src/cli/mod.rs", "#[cfg(unix)] fn f() {}", "cfg(unix outside");
    allowed("src/io/mod.rs", switch);
    allowed("fallback/src/lib.rs", switch);
}

#[test]
fn vague_name_is_found() {
    refused("src/wal/utils.rs", "", "a vague name");
    refused("src/cli/helpers/table.rs", "", "a vague name");
    allowed("src/cli/commons.rs", "");
}

#[test]
fn long_file_is_found() {
    refused("src/engine/mod.rs", &"fn f() {}\n".repeat(598), "more than 600");
    allowed("src/engine/mod.rs", &"fn f() {}\n".repeat(590));
}

#[test]
fn module_without_a_sentence_is_found() {
    let text = "#![forbid(unsafe_code)]\n".to_owned();
    let found = violations(&[Source { path: "src/engine/mod.rs".into(), text }]);
    assert!(found.len() == 1 && found[0].contains("does not open with"), "{found:?}");
}

#[test]
fn literals_and_comments_are_blanked_line_for_line() {
    assert_eq!(blank("a /* b /* c */\n d */ e"), "a             \n      e");
    assert_eq!(blank("let x = \"a\\\"b\"; y"), "let x =       ; y");
    assert_eq!(blank("f('\\'', '\"', 'a, \"b\")"), "f(    ,    , 'a,    )");
    assert_eq!(blank("br##\"x\"# y\"## z"), "              z");
    assert_eq!(blank("r#type + var"), "r#type + var");
}
