//! How every test here says that it does not run where it finds itself, those of
//! this crate and those beside it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::thread;

/// Say that this test, or a part of it, is not run here. Past what the harness
/// captures: a test that passes says nothing else.
pub(crate) fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    std::io::stderr().write_all(format!("SKIPPED: {test}: {why}\n").as_bytes()).unwrap();
}
