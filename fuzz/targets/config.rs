//! A configuration file: read or refused with a place, whatever it says.

use saltus::config::Config;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Config::parse(text, "node.toml") {
        assert!(error.to_string().contains("node.toml"), "{error}");
    }
}
