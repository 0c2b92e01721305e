//! What happened, in lines. The digest of the lines tells whether a seed took
//! the same course again.

use std::collections::VecDeque;

/// Lines that are kept when none is printed.
const KEPT: usize = 400;

/// The lines of one seed.
#[derive(Debug, Default)]
pub struct Trace {
    mode: Mode,
    last: VecDeque<String>,
    pub digest: u32,
}

/// What becomes of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: they are not made.
    #[default]
    Off,
    /// The last ones are kept, all are digested.
    Keep,
    /// All are printed.
    Print,
}

impl Trace {
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    pub fn is_on(&self) -> bool {
        self.mode != Mode::Off
    }

    pub fn say(&mut self, now_ns: u64, text: impl FnOnce() -> String) {
        if self.mode == Mode::Off {
            return;
        }
        let line = format!("{:>12.6}  {}", now_ns as f64 / 1e9, steady(&text()));
        self.digest = crc32c::crc32c_append(self.digest, line.as_bytes());
        if self.mode == Mode::Print {
            eprintln!("{line}");
        } else {
            self.last.push_back(line);
            if self.last.len() > KEPT {
                self.last.pop_front();
            }
        }
    }

    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}

/// What the world's directory is called before the part that is another each time.
pub const DIRECTORY: &str = "saltus-simulation-";

/// The same text in every run of a seed.
pub fn steady(text: &str) -> String {
    // Of the name that the system has chosen six letters are its own.
    let parts: Vec<_> = text.split(DIRECTORY).collect();
    let (first, rest) = parts.split_first().unwrap();
    let rest = rest.iter().map(|part| part.get(6..).unwrap_or_default());
    std::iter::once(*first).chain(rest).collect::<Vec<_>>().join(DIRECTORY)
}
