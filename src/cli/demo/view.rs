//! What the demo shows while it runs: a table that redraws itself on a
//! terminal, a line a second elsewhere, nothing beside JSON.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::load::Totals;
use crate::cli::output;
use crate::cli::status::{known, seconds};
use crate::cli::table::Table;
use crate::engine::status::{NodeStatus, ReplicaStatus, SpaceStatus};
use crate::io::terminal;

/// The most rows of the live table: with its head it must fit a terminal of
/// 24 lines, or moving the cursor up would not find its start.
const MOST_ROWS: usize = 16;

/// The pause between two lines where nothing can be redrawn.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Silent,
    Lines,
    Redraw,
}

/// The running display.
#[derive(Debug)]
pub(super) struct View {
    mode: Mode,
    start: Instant,
    /// The table on the screen, to be drawn over; empty if there is none.
    drawn: String,
    last_line: Option<Instant>,
}

impl View {
    pub(super) fn new(json: bool) -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let mode = match (json, io::stdout().is_terminal() && !dumb) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Redraw,
            (false, false) => Mode::Lines,
        };
        Self { mode, start: Instant::now(), drawn: String::new(), last_line: None }
    }

    /// Print a text that stays, above the table if there is one.
    pub(super) fn say(&mut self, text: &str) -> anyhow::Result<()> {
        match self.mode {
            Mode::Silent => Ok(()),
            Mode::Lines | Mode::Redraw => {
                output::print(&format!("{}{text}{}", erase(&self.drawn), self.drawn))
            }
        }
    }

    /// Print the last text, beneath everything.
    pub(super) fn finish(&mut self, text: &str) -> anyhow::Result<()> {
        self.drawn.clear();
        self.say(text)
    }

    /// Show how things are.
    pub(super) fn show(&mut self, written: Totals, status: &NodeStatus) -> anyhow::Result<()> {
        let elapsed = self.start.elapsed();
        if self.mode == Mode::Redraw {
            let frame = frame(elapsed, written, status);
            if fits(&frame, terminal::size(&io::stdout())) {
                let text = format!("{}{frame}", erase(&self.drawn));
                self.drawn = frame;
                return output::print(&text);
            }
            // Lines that are wrapped cannot be drawn over.
            self.drawn.clear();
        }
        match self.mode {
            Mode::Silent => Ok(()),
            Mode::Redraw | Mode::Lines => {
                if self.last_line.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
                    return Ok(());
                }
                self.last_line = Some(Instant::now());
                output::print(&line(elapsed, written, status))
            }
        }
    }
}

/// Up to the first line of what was drawn, and clear from there.
fn erase(drawn: &str) -> String {
    match drawn.lines().count() {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\x1b[J"),
    }
}

/// True if a terminal of this size can show the text without wrapping or
/// scrolling it.
fn fits(text: &str, size: Option<(usize, usize)>) -> bool {
    size.is_none_or(|(columns, lines)| {
        let width = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        width <= columns && text.lines().count() < lines
    })
}

fn head(elapsed: Duration, written: Totals) -> String {
    format!(
        "{:6.1} s  {} records  {}",
        elapsed.as_secs_f64(),
        output::grouped(written.records),
        output::bytes(written.bytes)
    )
}

/// Every pair of a space and a replica.
fn pairs(status: &NodeStatus) -> Vec<(&SpaceStatus, &ReplicaStatus)> {
    let pairs = |space: &'_ SpaceStatus| -> Vec<_> { (0..space.replicas.len()).collect() };
    status
        .spaces
        .iter()
        .flat_map(|space| {
            pairs(space).into_iter().map(move |index| (space, &space.replicas[index]))
        })
        .collect()
}

/// For the order: who is not known to be close is the furthest behind.
fn behind(replica: &ReplicaStatus) -> u64 {
    replica.lag.bytes.unwrap_or(u64::MAX)
}

/// The live table: the pairs that are furthest behind when there are many.
fn frame(elapsed: Duration, written: Totals, status: &NodeStatus) -> String {
    let mut pairs = pairs(status);
    let all = pairs.len();
    if all > MOST_ROWS {
        pairs.sort_by_key(|(_, replica)| std::cmp::Reverse(behind(replica)));
        pairs.truncate(MOST_ROWS);
    }
    let headings = ["SPACE", "REPLICA", "STATE", "BEHIND", "RECORDS", "SECONDS", "P50", "P99"];
    let mut table = Table::new(0, 3, &headings);
    for (space, replica) in &pairs {
        table.row(vec![
            space.space.to_string(),
            replica.id.to_string(),
            replica.state.as_str().into(),
            known(replica.lag.bytes.map(output::bytes)),
            known(replica.lag.records.map(|records| records.to_string())),
            seconds(replica.lag.seconds),
            output::microseconds(replica.recent_append_to_flushed_us.p50),
            output::microseconds(replica.recent_append_to_flushed_us.p99),
        ]);
    }
    let mut text = format!("{}\n{}", head(elapsed, written), table.render());
    if all > pairs.len() {
        let _ = writeln!(text, "and {} pairs that are no further behind", all - pairs.len());
    }
    text
}

/// The same in one line: the pair that is furthest behind.
fn line(elapsed: Duration, written: Totals, status: &NodeStatus) -> String {
    let mut text = head(elapsed, written);
    let worst = pairs(status).into_iter().max_by_key(|(_, replica)| behind(replica));
    if let Some((space, replica)) = worst {
        let _ = write!(
            text,
            "  at most {} behind ({} on {})",
            known(replica.lag.bytes.map(output::bytes)),
            space.space,
            replica.id
        );
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn status(spaces: u32, replicas: u32) -> NodeStatus {
        let replica = |index: u32| {
            serde_json::json!({
                "id": format!("replica-{index}"), "state": "connecting", "sent_lsn": 0,
                "received_lsn": 0, "written_lsn": 0, "flushed_lsn": 0,
                "lag": {"bytes": 1_099_511_627_775_u64, "records": 99_999_999, "seconds": null},
                "append_to_flushed_us": {"p50": null, "p99": null, "count": 0},
                "recent_append_to_flushed_us": {"p50": 9999, "p99": 9_999_000, "count": 1},
            })
        };
        let space = |index: u32| {
            serde_json::json!({
                "space": format!("space-{index}"), "role": "primary", "epoch": 1,
                "head_lsn": 1, "head_sequence": 1,
                "replicas": (1..=replicas).map(replica).collect::<Vec<_>>(),
            })
        };
        serde_json::from_value(serde_json::json!({
            "node": "primary", "cluster": "local", "version": "0", "pid": 1,
            "backend": "portable", "replication_address": null,
            "spaces": (1..=spaces).map(space).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn frame_holds_in_a_terminal_of_80_by_24() {
        let written = Totals { records: 999_999_999, bytes: u64::MAX };
        let frame = frame(Duration::from_secs(3600), written, &status(64, 16));
        assert!(frame.lines().count() < 24, "{frame}");
        for line in frame.lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
        }
        assert!(frame.contains("and 1008 pairs"), "{frame}");
    }

    #[test]
    fn a_table_is_redrawn_only_where_it_fits() {
        let text = "12345\n123\n";
        assert!(fits(text, Some((5, 3))) && fits(text, None));
        assert!(!fits(text, Some((4, 3))), "it would be wrapped");
        assert!(!fits(text, Some((5, 2))), "its first line would be gone");
        assert_eq!((erase(""), erase(text)), (String::new(), "\x1b[2A\x1b[J".into()));
    }

    #[test]
    fn line_names_the_pair_that_is_furthest_behind() {
        let mut status = status(2, 2);
        *status.spaces[1].replicas[0].lag.bytes.as_mut().unwrap() += 1;
        let line = line(Duration::from_secs(1), Totals::default(), &status);
        assert!(line.ends_with("(space-2 on replica-1)\n"), "{line}");
    }
}
