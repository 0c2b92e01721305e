//! A walk over what was walked before, where a part of it was let go of.
//!
//! ```text
//!   stream      |======|=======|~~~~~~~|=======|====> head
//!   suspected          ^                              a crash took it, perhaps
//!   let go of                  |~~~~~~~|
//!   remembered    ^   ^        ^       ^     ^      ^
//!   walked again  |------------>       |------------>
//! ```
//!
//! What was let go of is what it was: nobody can change it any more. So what lies
//! before is walked to where it begins, and what lies behind from where it ends. A
//! boundary must be remembered at either place, and the first one be met; else
//! nobody can tell whether the source holds what was in the stream beside it, and
//! the space stops.

use super::past::undecided;
use super::space::{Space, Turn};

impl Space {
    /// The walk has come to a run whose file was let go of. True if it goes on
    /// behind it, and behind any that follow it.
    pub(super) fn pass_gap(&mut self, turn: &mut Turn) -> bool {
        let at = self.index.head().lsn;
        let mut end = at;
        let mut name = None;
        for (_, run) in self.runs.iter().filter(|(ordinal, _)| *ordinal >= self.ordinal) {
            if run.bytes != Some(0) && !self.is_let_go(run.file) {
                break;
            }
            end = run.bytes.map_or(self.head.lsn, |bytes| run.start.advance(bytes));
            name = name.or(Some(run.segment));
        }
        let Some(name) = name else { return false };
        let Some((behind, checks)) = self.past.passed(at, end) else {
            let why =
                format!("{name} was let go of, and no boundary is remembered at {at} or at {end}");
            if !self.looks_no_further(&why, turn) {
                self.stop(undecided(at, &why));
            }
            return false;
        };
        self.rewind(behind);
        self.past.check(behind, checks);
        true
    }
}
