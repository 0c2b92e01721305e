//! `saltus quarantine`: bytes that were taken out of a stream and kept.
//!
//! Reads the state directory; a node may run on it or not.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | there is no piece of that id |

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::table::Table;
use super::{EXIT_NO, output};
use crate::config::Config;
use crate::engine::quarantine::{Piece, find, list};
use crate::ids::SpaceId;
use crate::wal::record::Checksums;
use crate::wal::scan::{self, Item};

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// List the pieces: what they are, and where they lay
    List(ListArgs),
    /// Show one piece, and what records it holds
    Show(ShowArgs),
    /// Copy the bytes of one piece to a new file
    Export(ExportArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The configuration file of the node
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's data root, if its state directory is .saltus within
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// The node's state directory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Only this space
    #[arg(long)]
    space: Option<SpaceId>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The piece, as `list` names it
    id: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The piece, as `list` names it
    id: String,
    /// The file to write, which must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// What a piece holds.
#[derive(Debug, Serialize)]
struct Content {
    #[serde(flatten)]
    piece: Piece,
    /// Whole records.
    records: u64,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    /// Bytes of no whole record.
    other_bytes: u64,
}

pub(super) fn run(command: QuarantineCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        QuarantineCommand::List(args) => {
            let root = args.place.quarantine()?;
            let mut pieces = list(&root).with_context(|| read_failed(&root))?;
            pieces.retain(|piece| args.space.as_ref().is_none_or(|space| piece.space == *space));
            if json {
                output::json(&pieces)?;
            } else {
                output::print(&table(&pieces, &root))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Show(args) => {
            let Some(piece) = args.place.piece(&args.id)? else {
                return Ok(ExitCode::from(EXIT_NO));
            };
            let content = content(piece)?;
            if json {
                output::json(&content)?;
            } else {
                output::print(&describe(&content))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Export(args) => {
            let Some(piece) = args.place.piece(&args.id)? else {
                return Ok(ExitCode::from(EXIT_NO));
            };
            let bytes = export(&piece, &args.to)?;
            let done =
                format!("{}: {} written, and kept\n", args.to.display(), output::bytes(bytes));
            if json {
                output::json(&piece)?;
            } else {
                output::print(&done)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Place {
    fn quarantine(&self) -> anyhow::Result<PathBuf> {
        let state = match (&self.config, &self.data_root, &self.state_dir) {
            (Some(config), _, _) => Config::load(config)?.node.state_dir,
            (_, Some(root), _) => root.join(".saltus"),
            (_, _, Some(state)) => state.clone(),
            _ => PathBuf::from(".saltus"),
        };
        // A wrong path must not look like an empty quarantine.
        std::fs::read_dir(&state).with_context(|| {
            format!("{} is no state directory that can be read", state.display())
        })?;
        Ok(state.join("quarantine"))
    }

    /// The piece of that id; says so if there is none.
    fn piece(&self, id: &str) -> anyhow::Result<Option<Piece>> {
        let root = self.quarantine()?;
        let piece = find(&root, id).with_context(|| read_failed(&root))?;
        if piece.is_none() {
            let id = output::printable(id);
            output::error(&format!(
                "saltus: no piece {id} in {}; saltus quarantine list names them",
                root.display()
            ));
        }
        Ok(piece)
    }
}

fn read_failed(root: &Path) -> String {
    format!("cannot read {}", root.display())
}

fn table(pieces: &[Piece], root: &Path) -> String {
    if pieces.is_empty() {
        return format!("nothing in {}\n", root.display());
    }
    let mut table = Table::new(0, 2, &["PIECE", "WHY", "LSN", "BYTES", "EPOCHS"]);
    for piece in pieces {
        let lsn = piece.manifest.as_ref().and_then(|manifest| manifest.extents.first());
        table.row(vec![
            piece.id.clone(),
            piece.manifest.as_ref().map_or("incomplete", |m| m.reason.as_str()).to_owned(),
            lsn.map_or_else(|| "-".to_owned(), |extent| extent.lsn.to_string()),
            piece.bytes.to_string(),
            epochs(piece),
        ]);
    }
    table.render()
}

fn epochs(piece: &Piece) -> String {
    let Some(manifest) = &piece.manifest else { return "-".to_owned() };
    let list: Vec<_> = manifest.epochs.iter().map(ToString::to_string).collect();
    if list.is_empty() { "-".to_owned() } else { list.join(",") }
}

fn content(piece: Piece) -> anyhow::Result<Content> {
    let file = open(&piece)?;
    let (mut first, mut last, mut bad) = (None, None, 0);
    let summary = scan::scan(&file, Checksums::Optional, &mut |item| {
        match item {
            Item::Record { header, .. } => {
                first.get_or_insert(header.sequence);
                last = Some(header.sequence);
            }
            Item::Bad(range) => bad += range.bytes,
        }
        true
    })
    .with_context(|| read_failed(&piece.path))?;
    Ok(Content {
        records: summary.mark.records,
        first_sequence: first,
        last_sequence: last,
        other_bytes: bad,
        piece,
    })
}

/// For a person. Writing to a `String` cannot fail.
fn describe(content: &Content) -> String {
    let piece = &content.piece;
    let mut text = format!("{}\n", piece.id);
    let _ = writeln!(text, "  bytes       {} in {}", piece.bytes, piece.path.display());
    let _ = write!(text, "  records     {}", content.records);
    if let (Some(first), Some(last)) = (content.first_sequence, content.last_sequence) {
        let _ = write!(text, ", sequences {first} to {last}");
    }
    if content.other_bytes > 0 {
        let _ = write!(text, "; {} bytes are no whole record", content.other_bytes);
    }
    text.push('\n');
    let Some(manifest) = &piece.manifest else {
        text.push_str(
            "  incomplete  the process was stopped before it had described them: they are\n              \
             still where they were, or in another piece\n",
        );
        return text;
    };
    let why = match manifest.superseded_by {
        Some(epoch) => format!("{}, by epoch {epoch}", manifest.reason.as_str()),
        None => manifest.reason.as_str().to_owned(),
    };
    let _ = writeln!(text, "  why         {why}");
    let _ = writeln!(text, "  epochs      {}", epochs(piece));
    let _ = writeln!(text, "  segment     {} from offset {}", manifest.segment, manifest.offset);
    for extent in &manifest.extents {
        let end = extent.lsn + extent.bytes;
        let _ = writeln!(text, "  lsn         {} to {end}, offset {}", extent.lsn, extent.offset);
    }
    text
}

fn open(piece: &Piece) -> anyhow::Result<File> {
    File::open(&piece.path).with_context(|| read_failed(&piece.path))
}

fn export(piece: &Piece, to: &Path) -> anyhow::Result<u64> {
    let mut from = open(piece)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("cannot create {}", to.display()))?;
    let bytes = io::copy(&mut from, &mut file)
        .and_then(|bytes| file.sync_all().map(|()| bytes))
        .with_context(|| format!("cannot write {}", to.display()))?;
    Ok(bytes)
}
