//! What `saltus rebuild` has found and done, for a program and for a person.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::output;
use crate::engine::rebuild::{Finding, Shipped};
use crate::engine::recovery::Survey;
use crate::engine::status::Role;
use crate::ids::{Epoch, NodeId, SpaceId};
use crate::lsn::Mark;

/// What became of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It is in the catalog now.
    Rebuilt,
    /// It could be.
    Possible,
    /// It was in the catalog.
    Known,
    /// Nothing of it is here.
    Empty,
    /// It is not in the catalog.
    Refused,
}

/// A record that does not hold.
#[derive(Debug, Serialize)]
pub(super) struct Rotten {
    pub(super) segment: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) lsn: u64,
    pub(super) problem: String,
}

/// One space, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct SpaceReport {
    pub(super) space: SpaceId,
    pub(super) verdict: Verdict,
    /// What this node is to it.
    pub(super) role: Role,
    /// Up to here this node has the stream.
    pub(super) lsn: u64,
    pub(super) records: u64,
    /// Up to here the other node has it; the rest is shipped.
    pub(super) head_lsn: u64,
    /// Bytes that were read and verified.
    pub(super) read_bytes: u64,
    /// Bytes that are not the other node's, an unfinished record excepted.
    pub(super) unmatched_bytes: u64,
    /// Whole segments of which nothing is.
    pub(super) unmatched_segments: Vec<String>,
    pub(super) rotten: Vec<Rotten>,
    /// Of a space that is shipped from here: the epoch that begins at `lsn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new_epoch: Option<Epoch>,
    /// Segments of the stream that the database has removed.
    pub(super) removed_segments: Vec<String>,
    /// What was found, and what was moved where.
    pub(super) notices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) node: NodeId,
    pub(super) from: NodeId,
    /// The catalog was damaged, and is kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) set_aside: Option<PathBuf>,
    pub(super) spaces: Vec<SpaceReport>,
}

impl SpaceReport {
    pub(super) fn new(space: &SpaceId, head_lsn: u64) -> Self {
        Self {
            space: space.clone(),
            verdict: Verdict::Refused,
            role: Role::Replica,
            lsn: 0,
            records: 0,
            head_lsn,
            read_bytes: 0,
            unmatched_bytes: 0,
            unmatched_segments: Vec::new(),
            rotten: Vec::new(),
            new_epoch: None,
            removed_segments: Vec::new(),
            notices: Vec::new(),
            problem: None,
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.verdict = Verdict::Refused;
        self.problem = Some(why);
    }

    pub(super) fn note(&mut self, finding: &Finding) {
        self.note_survey(&finding.survey, &finding.common);
        self.unmatched_bytes = finding.unmatched_bytes;
        self.unmatched_segments = finding.strangers.iter().map(ToString::to_string).collect();
    }

    pub(super) fn note_shipped(&mut self, finding: &Shipped) {
        self.note_survey(&finding.survey, &finding.common);
        self.new_epoch = Some(finding.epoch());
        self.removed_segments = finding.removed.iter().map(ToString::to_string).collect();
    }

    fn note_survey(&mut self, survey: &Survey, common: &Mark) {
        self.lsn = common.lsn.0;
        self.records = common.records;
        self.read_bytes = survey.bytes;
        self.notices.extend(survey.trouble.iter().map(ToString::to_string));
        let here = survey.rotten.iter().filter(|rotten| rotten.before.lsn < common.lsn);
        self.rotten = here
            .map(|rotten| Rotten {
                segment: rotten.segment.to_string(),
                offset: rotten.offset,
                bytes: rotten.bytes,
                lsn: rotten.before.lsn.0,
                problem: rotten.error.to_string(),
            })
            .collect();
    }
}

/// The result for a person. Writing to a `String` cannot fail.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    if let Some(path) = &report.set_aside {
        let path = shown(path);
        let _ = writeln!(text, "the damaged catalog is kept as {path}; a new one was begun");
    }
    for space in &report.spaces {
        render_space(&mut text, space, &report.from);
    }
    text
}

fn shown(path: &Path) -> String {
    output::printable(&path.display().to_string())
}

fn render_space(text: &mut String, space: &SpaceReport, from: &NodeId) {
    let SpaceReport { space: name, lsn, head_lsn, .. } = space;
    let left = output::bytes(head_lsn.saturating_sub(*lsn));
    let records = output::grouped(space.records);
    let _ = match space.verdict {
        Verdict::Rebuilt | Verdict::Possible if let Some(epoch) = space.new_epoch => {
            let done = if space.verdict == Verdict::Rebuilt { "REBUILT" } else { "can be rebuilt" };
            writeln!(
                text,
                "{name}: {done} up to lsn {lsn}: {records} records are what {from} has, proven by \
                 the chain; epoch {epoch} begins there, and what is behind is shipped in it"
            )
        }
        Verdict::Rebuilt => writeln!(
            text,
            "{name}: REBUILT up to lsn {lsn}: {records} records are the stream of {from}, proven \
             by the chain; {left} are still to be shipped"
        ),
        Verdict::Possible => writeln!(
            text,
            "{name}: can be rebuilt up to lsn {lsn}: {records} records are the stream of {from}, \
             proven by the chain; {left} would be shipped"
        ),
        Verdict::Known => {
            writeln!(text, "{name}: in the catalog already, up to lsn {lsn}; nothing was done")
        }
        Verdict::Empty => writeln!(text, "{name}: no segment of it is here; it is shipped anew"),
        Verdict::Refused => writeln!(text, "{name}: NOT REBUILT"),
    };
    if let Some(problem) = &space.problem {
        let _ = writeln!(text, "  {}", output::printable(problem));
    }
    if space.unmatched_bytes > 0 {
        let what = match space.verdict {
            Verdict::Rebuilt => "in the quarantine now",
            Verdict::Possible => "it would go to the quarantine",
            _ => "untouched",
        };
        let bytes = output::bytes(space.unmatched_bytes);
        let _ = writeln!(text, "  {bytes} behind that are not the stream of {from}: {what}");
        for segment in &space.unmatched_segments {
            let _ = writeln!(text, "    {segment}, all of it");
        }
    }
    let mend = if space.role == Role::Primary { "repair" } else { "scrub" };
    for Rotten { segment, offset, bytes, lsn, problem } in &space.rotten {
        let _ = writeln!(
            text,
            "  ROTTEN: {segment} at {offset}, lsn {lsn}, {bytes} bytes: {problem}; start the node, \
             and mend it with saltus {mend} --space {name}"
        );
    }
    if !space.removed_segments.is_empty() {
        let count = output::count(space.removed_segments.len(), "segment");
        let _ = writeln!(
            text,
            "  {count} of the stream removed by the database: a replica that needs more than there \
             is must be filled by hand"
        );
    }
    for notice in &space.notices {
        let _ = writeln!(text, "  {}", output::printable(notice));
    }
}
