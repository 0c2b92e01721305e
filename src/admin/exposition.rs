//! The text format of Prometheus, version 0.0.4.
//!
//! ```text
//!   # HELP saltus_epoch The reign under which the space is shipped.
//!   # TYPE saltus_epoch gauge
//!   saltus_epoch{space="alpha",role="primary"} 3
//! ```
//!
//! One [`family`](Exposition::family) call writes one metric with all its
//! samples, as the format wants them: together. A family without samples is
//! left out, because what is unknown is absent and never 0.

use std::fmt::Write as _;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until the process starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Quantiles of the last while, told apart by the label `quantile`.
    Summary,
}

/// A value of a sample. Whole numbers are written as such: a position beyond
/// 2^53 bytes must not be rounded on its way out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// One sample: its labels, and its value.
pub(super) type Sample<'a, const LABELS: usize> = ([(&'a str, &'a str); LABELS], Value);

/// Metrics being written.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// A metric with all its samples; nothing if there are none. `help` is one
    /// line.
    pub(super) fn family<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        };
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.text.push_str(name);
            for (index, (label, text)) in labels.iter().enumerate() {
                let opening = if index == 0 { '{' } else { ',' };
                let _ = write!(self.text, "{opening}{label}=\"");
                escape(&mut self.text, text);
                self.text.push('"');
            }
            if LABELS > 0 {
                self.text.push('}');
            }
            let _ = match value {
                Value::Whole(value) => writeln!(self.text, " {value}"),
                Value::Real(value) => writeln!(self.text, " {value}"),
            };
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Append a label's value as the format wants it.
fn escape(to: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => to.push_str("\\\\"),
            '"' => to.push_str("\\\""),
            '\n' => to.push_str("\\n"),
            other => to.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_once_with_all_its_samples() {
        let mut exposition = Exposition::default();
        exposition.family(
            "saltus_things",
            Kind::Gauge,
            "Things.",
            [([("of", "a\\b\"c\nd")], Value::from(7)), ([("of", "x")], Value::from(0.5))],
        );
        exposition.family("saltus_one_total", Kind::Counter, "One.", [([], Value::from(u64::MAX))]);
        exposition.family::<0>("saltus_none", Kind::Gauge, "Nothing known.", []);
        assert_eq!(
            exposition.finish(),
            "# HELP saltus_things Things.\n\
             # TYPE saltus_things gauge\n\
             saltus_things{of=\"a\\\\b\\\"c\\nd\"} 7\n\
             saltus_things{of=\"x\"} 0.5\n\
             # HELP saltus_one_total One.\n\
             # TYPE saltus_one_total counter\n\
             saltus_one_total 18446744073709551615\n"
        );
    }
}
