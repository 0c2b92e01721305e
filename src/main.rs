//! The `saltus` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    saltus::cli::main()
}
