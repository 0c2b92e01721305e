//! Spans of time for a person.

/// A span, rounded down to its unit: `119 s`, `35 min`, `47 h`, `12 days`.
#[must_use]
pub fn in_words(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => format!("{} h", whole / 3600),
        _ => format!("{} days", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_the_largest_unit_of_which_there_are_two() {
        let spans = [0.4, 119.9, 120.0, 7199.0, 7200.0, 172_799.0, 172_800.0, -1.0];
        let words = ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days", "0 s"];
        assert_eq!(spans.map(in_words), words);
    }
}
