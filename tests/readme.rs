//! What the README tells people to type does what it says.
#![allow(clippy::unwrap_used)]

#[path = "replication/reserved.rs"]
mod reserved;

use std::path::Path;
use std::process::{Command, Stdio};

use saltus::config::Config;

use crate::reserved::Reserved;

const README: &str = include_str!("../README.md");

/// The code blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    let blocks = README.split(&opening).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_first_two_commands_stay_first() {
    let first = blocks("sh")[0];
    let lines: Vec<_> = first.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(lines, ["cargo run --release -- demo", "cargo test"]);
}

#[test]
fn configurations_are_valid() {
    let blocks = blocks("toml");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        Config::parse(block, "README.md").unwrap();
    }
}

#[test]
fn two_nodes_on_one_machine_run_as_written() {
    let tutorial = blocks("sh").into_iter().find(|block| block.contains("saltus-try")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("try");
    // Where other tests and other people's nodes are not.
    let free: [_; 3] = std::array::from_fn(|_| Reserved::new());
    let port = |index: usize| free[index].address().port().to_string();
    let (replication, one, two) = (port(0), port(1), port(2));
    let mut script = tutorial.replace("/tmp/saltus-try", place.to_str().unwrap());
    script = script.replace("7420", &replication).replace("7431", &two);
    let admin = format!("admin = \"127.0.0.1:{one}\"");
    script = script.replacen("[[replica]]", &format!("[listen]\n{admin}\n\n[[replica]]"), 1);
    for command in ["saltus wait", "saltus status"] {
        // Without an address it asks the default one, which may be taken here.
        let asks = format!("{command} --admin 127.0.0.1:{one}");
        script = script.replace(&format!("{command} --timeout"), &format!("{asks} --timeout"));
        script = script.replace(&format!("{command}   "), &format!("{asks}   "));
    }
    // Less to write for a build that is not optimised; so little that it may
    // be there before the nodes are.
    script = script.replace("saltus wal write", "saltus wal write --records 5000");
    let noticed = format!(
        "until saltus status --admin 127.0.0.1:{one} 2>/dev/null | grep -q space-1; do\n  \
         kill -0 $one; sleep 0.05\ndone\nsaltus wait"
    );
    script = script.replacen("saltus wait", &noticed, 1);
    let program = Path::new(env!("CARGO_BIN_EXE_saltus")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // Whatever fails, the nodes end with the script.
    let script = format!("set -e\ntrap 'kill $one $two 2>/dev/null || true' EXIT\n{script}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("PATH", path)
        .env_remove("SALTUS_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{script}\n{out}\n{error}");
    for part in ["two.toml: valid", "wrote 5000 records", "caught up", "healthy", "identical: "] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}\n{error}");
    }
    assert!(out.contains("space-1  replica"), "node-two receives it:\n{out}");
    assert!(!place.exists());
}
