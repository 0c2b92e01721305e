//! Writing to standard output, whose reader may go away at any time.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use serde::Serialize;

/// Print a text. A reader that has gone (`saltus status | head -1`) is no
/// error: the rest is dropped.
///
/// # Errors
///
/// Any other: a full disk behind a redirection must not look like success.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_while_read(text).map(drop)
}

/// As [`print()`], and false if the reader has gone: for whoever would go on
/// for ever.
///
/// # Errors
///
/// As [`print()`].
pub fn print_while_read(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
        Ok(()) => Ok(true),
    }
}

/// Print one JSON document and a line end.
///
/// # Errors
///
/// As [`print()`].
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document).context("cannot write JSON")?;
    text.push('\n');
    print(&text)
}

/// Print a line on standard error. If that is gone there is nobody to tell.
pub fn error(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(line));
}

/// The text without control characters other than line ends: sentences come
/// from peers and from file names, and must not steer the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A number of bytes for a person: at most 9 characters below a pebibyte.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10).min(5);
    let unit = UNITS[exponent as usize - 1];
    // Three digits are for reading; the exact number is in the JSON.
    #[expect(clippy::cast_precision_loss, reason = "rounded for display")]
    let value = bytes as f64 / f64::from(exponent * 10).exp2();
    if value < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.1} {unit}") }
}

/// Microseconds for a person: at most 7 characters below 1000 s.
#[must_use]
pub fn microseconds(us: Option<u64>) -> String {
    match us {
        None => "-".into(),
        Some(us @ 0..10_000) => format!("{us} us"),
        Some(us @ 10_000..10_000_000) => format!("{} ms", us / 1000),
        Some(us) => format!("{} s", us / 1_000_000),
    }
}

/// A number of things, with the word in the right form: `1 space`,
/// `2 spaces`.
#[must_use]
pub fn count(number: impl TryInto<u64>, word: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = match (number, word.ends_with("s")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {word}{ending}")
}

/// An error and its causes, each said once: many a sentence says its cause
/// already.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// A whole number in groups of three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_at_every_size() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(79_538), "77.7 KiB");
        assert_eq!(bytes(4 << 30), "4.00 GiB");
        for exponent in 0..50 {
            assert!(bytes((1 << exponent) - 1).len() <= 10, "{}", bytes((1 << exponent) - 1));
        }
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn unknown_latency_is_not_zero() {
        assert_eq!(microseconds(None), "-");
        assert_eq!(microseconds(Some(0)), "0 us");
        assert_eq!(microseconds(Some(9_999)), "9999 us");
        assert_eq!(microseconds(Some(10_000)), "10 ms");
        assert_eq!(microseconds(Some(12_000_000)), "12 s");
    }

    #[test]
    fn one_thing_is_not_a_plural() {
        assert_eq!(count(0_u64, "segment"), "0 segments");
        assert_eq!(count(1_u64, "segment"), "1 segment");
        assert_eq!(count(1_000_usize, "segment"), "1000 segments");
        assert_eq!(count(2_u64, "pass"), "2 passes");
    }

    #[test]
    fn each_cause_is_said_once_and_none_is_lost() {
        let refused = || io::Error::from_raw_os_error(111);
        let said = anyhow::Error::new(refused()).context(format!("no answer: {}", refused()));
        assert_eq!(chain(&said), format!("no answer: {}", refused()));
        let unsaid = anyhow::Error::new(refused()).context("no answer").context("it failed");
        assert_eq!(chain(&unsaid), format!("it failed: no answer: {}", refused()));
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn peers_do_not_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
    }
}
