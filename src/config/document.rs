//! A parsed configuration file that can say where each of its values stands.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place};
use super::quantity;

/// The text of a file and the name that errors call it by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'t> {
    name: &'t str,
    text: &'t str,
}

impl<'t> Document<'t> {
    pub(super) fn new(name: &'t str, text: &'t str) -> Self {
        Self { name, text }
    }

    /// The tree of the document.
    pub(super) fn parse(self) -> Result<DeTable<'t>, ConfigError> {
        DeTable::parse(self.text).map(Spanned::into_inner).map_err(|error| ConfigError::Syntax {
            place: self.place(error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', "; "),
        })
    }

    /// Line and column of a byte position.
    pub(super) fn place(self, position: usize) -> Place {
        let before = self.text.get(..position).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Place {
            file: self.name.into(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }

    /// The value as the file has it, on one line and not too long.
    fn excerpt(self, span: Range<usize>) -> String {
        const MOST: usize = 60;
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let mut excerpt: String = line.chars().take(MOST).collect();
        if excerpt.len() < text.len() {
            excerpt.push_str(" ...");
        }
        excerpt
    }
}

/// One table of the document: `[io]`, or one of the `[[replica]]`.
#[derive(Debug)]
pub(super) struct Section<'d, 't> {
    document: Document<'t>,
    name: &'static str,
    /// `None` when the section is absent: every setting keeps its default.
    table: Option<&'d DeTable<'t>>,
    /// Where the section starts, for what is missing in it.
    start: usize,
}

impl<'d, 't> Section<'d, 't> {
    /// The section `name` of the root table, with no other keys than `keys`.
    pub(super) fn of(
        document: Document<'t>,
        root: &'d DeTable<'t>,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> Result<Self, ConfigError> {
        match root.get(name) {
            None => Ok(Self { document, name, table: None, start: 0 }),
            Some(value) => Self::new(document, value, name, keys),
        }
    }

    /// Each table of the array of tables `name`.
    pub(super) fn each(
        document: Document<'t>,
        root: &'d DeTable<'t>,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> Result<Vec<Self>, ConfigError> {
        let Some(value) = root.get(name) else { return Ok(Vec::new()) };
        let Some(array) = value.get_ref().as_array() else {
            return Err(ConfigError::Value {
                place: document.place(value.span().start),
                key: name.into(),
                found: value.get_ref().type_str().into(),
                expected: format!("[[{name}]], once for each"),
            });
        };
        array.iter().map(|value| Self::new(document, value, name, keys)).collect()
    }

    fn new(
        document: Document<'t>,
        value: &'d Spanned<DeValue<'t>>,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> Result<Self, ConfigError> {
        let start = value.span().start;
        let Some(table) = value.get_ref().as_table() else {
            return Err(ConfigError::Value {
                place: document.place(start),
                key: name.into(),
                found: document.excerpt(value.span()),
                expected: format!("a section, [{name}]"),
            });
        };
        refuse_unknown(document, table, "key", keys)?;
        Ok(Self { document, name, table: Some(table), start })
    }

    /// Where this section starts.
    pub(super) fn place(&self) -> Place {
        self.document.place(self.start)
    }

    /// Where the value of `key` stands, or the section if it has none.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.get(key).map_or_else(|| self.place(), |v| self.document.place(v.span().start))
    }

    fn get(&self, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.table.and_then(|table| table.get(key))
    }

    fn wrong(
        &self,
        key: &str,
        value: &Spanned<DeValue<'t>>,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            place: self.document.place(value.span().start),
            key: format!("{}.{key}", self.name),
            found: self.document.excerpt(value.span()),
            expected: expected.into(),
        }
    }

    /// A value that has no default.
    pub(super) fn required<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Self) -> Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        read(self)?.ok_or_else(|| ConfigError::Missing {
            place: self.place(),
            key: format!("{}.{key}", self.name),
            expected: expected.into(),
        })
    }

    /// A text that parses into `T`.
    pub(super) fn text<T: FromStr>(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = value.get_ref().as_str().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| self.wrong(key, value, expected))
    }

    /// One of the named choices, or the default.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let text = value.get_ref().as_str();
        let chosen = choices.iter().find(|(name, _)| Some(*name) == text);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.wrong(key, value, format!("one of {}", names.join(", ")))
        })
    }

    /// A whole number in a range, or the default.
    pub(super) fn number(
        &self,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        Ok(self.optional_number(key, range)?.unwrap_or(default))
    }

    /// A whole number in a range, if the key is there.
    pub(super) fn optional_number(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = integer(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(self.wrong(key, value, expected))
            }
        }
    }

    /// A duration in a range, or the default.
    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        // Nothing is nothing in any unit.
        let none = integer(value.get_ref()).filter(|number| *number == 0);
        let text = value.get_ref().as_str().and_then(quantity::duration);
        text.or(none.map(|_| Duration::ZERO))
            .filter(|duration| range.contains(duration))
            .ok_or_else(|| {
                let expected = format!(
                    "a duration from {:?} to {:?}, as \"500us\", \"10ms\" or \"1s\"",
                    range.start(),
                    range.end()
                );
                self.wrong(key, value, expected)
            })
    }

    /// A size in a range, or the default: a text with a unit, or bytes.
    pub(super) fn bytes(
        &self,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let parsed = match value.get_ref() {
            DeValue::String(text) => quantity::bytes(text),
            other => integer(other),
        };
        parsed
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| {
                let (low, high) = (range.start() >> 10, range.end() >> 10);
                let expected = format!("a size from {low}KiB to {high}KiB, as \"256KiB\"");
                self.wrong(key, value, expected)
            })
    }

    /// A duration in a range, if the key is there.
    pub(super) fn optional_duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        match self.get(key) {
            Some(_) => self.duration(key, Duration::ZERO, range).map(Some),
            None => Ok(None),
        }
    }

    /// A size in a range of bytes, if the key is there: a text with a unit, or
    /// bytes.
    pub(super) fn optional_bytes(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = match value.get_ref() {
            DeValue::String(text) => quantity::bytes(text),
            other => integer(other),
        };
        parsed.filter(|bytes| range.contains(bytes)).map(Some).ok_or_else(|| {
            let (low, high) = (range.start() >> 10, range.end() >> 40);
            let expected = format!("a size from {low}KiB to {high}TiB, as \"64GiB\"");
            self.wrong(key, value, expected)
        })
    }

    /// An absolute path. A relative one would mean something else each time
    /// the daemon is started from somewhere else.
    pub(super) fn absolute_path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let path = value.get_ref().as_str().map(PathBuf::from).filter(|path| path.is_absolute());
        path.map(Some)
            .ok_or_else(|| self.wrong(key, value, "an absolute path, one that starts with '/'"))
    }

    /// An address and port. Names are not resolved.
    pub(super) fn address(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        self.text(key, "an IP address and a port, as \"127.0.0.1:7420\" or \"[::1]:7420\"")
    }

    /// The error for two settings that contradict each other.
    pub(super) fn conflict(&self, key: &str, conflict: String) -> ConfigError {
        ConfigError::Conflict {
            place: self.place_of(key),
            key: format!("{}.{key}", self.name),
            conflict,
        }
    }
}

/// Refuse every key of `table` that is not in `allowed`.
pub(super) fn refuse_unknown(
    document: Document<'_>,
    table: &DeTable<'_>,
    what: &'static str,
    allowed: &'static [&'static str],
) -> Result<(), ConfigError> {
    let unknown = table
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !allowed.contains(&key.get_ref().as_ref()))
        .min_by_key(|key| key.span().start);
    match unknown {
        None => Ok(()),
        Some(key) => Err(ConfigError::Unknown {
            place: document.place(key.span().start),
            what,
            key: key.get_ref().to_string(),
            allowed,
            nearest: nearest(key.get_ref(), allowed),
        }),
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The candidate at the smallest edit distance, if it is a likely slip: at
/// most a third of the word, and at least one edit for short words.
fn nearest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let most = (word.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (edit_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that make `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
