//! Amounts with a unit, as a person writes them: `10ms`, `256KiB`.
//!
//! The configuration file and the command line read them with the same two
//! functions.

use std::time::Duration;

/// A duration: a whole number and `ns`, `us`, `ms`, `s`, `min`, `h` or `d`.
/// `None` for anything else; a number without a unit is refused, except a plain `0`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        "ns" => Some(Duration::from_nanos(number)),
        "us" | "\u{b5}s" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(24 * 3600).map(Duration::from_secs),
        _ => None,
    }
}

/// A size in bytes: a whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB`, or no
/// unit for bytes. `None` for anything else; `kB` and `MB` are refused because
/// half the world means 1000 by them.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1_u64 << shift)
}

/// The digits in front and the unit behind, with or without a space between.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(duration("500 us"), Some(Duration::from_micros(500)));
        assert_eq!(duration("2min"), Some(Duration::from_secs(120)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("36h"), Some(Duration::from_secs(36 * 3600)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(7 * 24 * 3600)));
        for wrong in ["10", "ms", "-1ms", "1.5s", "10 sec", "", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(bytes("65536"), Some(65_536));
        assert_eq!(bytes("64KiB"), Some(65_536));
        assert_eq!(bytes("1 MiB"), Some(1 << 20));
        assert_eq!(bytes("4GiB"), Some(4 << 30));
        assert_eq!(bytes("2TiB"), Some(2 << 40));
        for wrong in ["1MB", "1kB", "KiB", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }
}
