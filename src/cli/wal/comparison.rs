//! `saltus wal compare`: are two logs, or two data roots, the same?

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::place::Place;
use super::print_json;
use crate::cli::UsageError;
use crate::cli::output::count;
use crate::wal::compare::{Comparison, Difference, Side, compare};

/// Compare what two paths lead to, and show the outcome; true if they are
/// identical.
pub(super) fn show(
    first: &Path,
    second: &Path,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    match (Place::at(first)?, Place::at(second)?) {
        (Place::Log(one), Place::Log(other)) => {
            let found = compare(&one, &other)?;
            if json {
                print_json(out, &document(&found, first, second))?;
            } else {
                lines(out, &found, first, second)?;
                verdict(out, &found, None)?;
            }
            Ok(found.is_identical())
        }
        (Place::Root(ones), Place::Root(others)) => {
            roots((first, ones), (second, others), json, out)
        }
        (one, other) => {
            let (one, other) = (kind(&one), kind(&other));
            Err(UsageError(format!(
                "{} is {one}, and {} is {other}: compare two logs, or two data roots",
                first.display(),
                second.display()
            ))
            .into())
        }
    }
}

fn kind(place: &Place) -> &'static str {
    match place {
        Place::File => "a file",
        Place::Log(_) => "one log",
        Place::Root(_) => "a data root",
    }
}

/// A data root, and the logs in it.
type Root<'a> = (&'a Path, Vec<(String, PathBuf)>);

/// Compare space by space. A space that only one side has is a difference.
fn roots(
    (first, ones): Root<'_>,
    (second, others): Root<'_>,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let mut spaces: BTreeMap<String, [Option<PathBuf>; 2]> = BTreeMap::new();
    for (side, logs) in [ones, others].into_iter().enumerate() {
        for (space, log) in logs {
            spaces.entry(space).or_default()[side] = Some(log);
        }
    }
    let mut all = Comparison::default();
    let mut alone = 0;
    let mut documents = Vec::new();
    for (space, logs) in &spaces {
        if !json {
            writeln!(out, "{space}")?;
        }
        match logs {
            [Some(one), Some(other)] => {
                let found = compare(one, other)?;
                if json {
                    let mut document = document(&found, one, other);
                    document["space"] = json!(space);
                    documents.push(document);
                } else {
                    lines(out, &found, one, other)?;
                    verdict(out, &found, None)?;
                }
                all.segments += found.segments;
                all.records += found.records;
                all.bytes += found.bytes;
                all.differences.extend(found.differences);
            }
            [one, _] => {
                alone += 1;
                let holder = if one.is_some() { first } else { second }.display();
                if json {
                    let holder = holder.to_string();
                    documents
                        .push(json!({ "space": space, "identical": false, "only_in": holder }));
                } else {
                    writeln!(out, "DIFFERENT: the space is only in {holder}")?;
                }
            }
        }
    }
    let identical = all.is_identical() && alone == 0;
    if json {
        let document = json!({
            "identical": identical,
            "segments": all.segments,
            "records": all.records,
            "bytes": all.bytes,
            "spaces": documents,
        });
        print_json(out, &document)?;
    } else {
        writeln!(out)?;
        verdict(out, &all, Some((spaces.len(), alone)))?;
    }
    Ok(identical)
}

fn document(found: &Comparison, first: &Path, second: &Path) -> Value {
    let side = |side| match side {
        Side::First => first.display().to_string(),
        Side::Second => second.display().to_string(),
    };
    let differences: Vec<_> = found
        .differences
        .iter()
        .map(|difference| match *difference {
            Difference::OnlyIn { side: which, segment, bytes } => json!({
                "segment": segment.to_string(),
                "only_in": side(which),
                "bytes": bytes,
            }),
            Difference::Content { segment, offset, record, bytes, zeroes } => json!({
                "segment": segment.to_string(),
                "offset": offset,
                "record": record,
                "bytes": [bytes.0, bytes.1],
                "zeroes_in": zeroes.map(|(which, _)| side(which)),
            }),
        })
        .collect();
    json!({
        "identical": found.is_identical(),
        "empty": is_empty(found),
        "segments": found.segments,
        "records": found.records,
        "bytes": found.bytes,
        "differences": differences,
    })
}

/// Neither side holds anything.
fn is_empty(found: &Comparison) -> bool {
    found.segments == 0 && found.is_identical()
}

fn lines(
    out: &mut impl Write,
    found: &Comparison,
    first: &Path,
    second: &Path,
) -> std::io::Result<()> {
    for difference in &found.differences {
        writeln!(out, "{}", difference.describe(&first.display(), &second.display()))?;
    }
    Ok(())
}

/// The last line; of data roots with the number of spaces, and of those that
/// only one side has.
fn verdict(
    out: &mut impl Write,
    found: &Comparison,
    spaces: Option<(usize, usize)>,
) -> std::io::Result<()> {
    let alone = spaces.map_or(0, |(_, alone)| alone);
    if is_empty(found) && alone == 0 {
        return writeln!(out, "empty: no segments on either side");
    }
    let identical = found.is_identical() && alone == 0;
    let spaces = spaces.map_or_else(String::new, |(all, _)| format!("{}, ", count(all, "space")));
    writeln!(
        out,
        "{}: {spaces}{} in both, {}, {}, {}",
        if identical { "identical" } else { "DIFFERENT" },
        count(found.segments, "segment"),
        count(found.records, "record"),
        count(found.bytes, "byte"),
        count(found.differences.len() + alone, "difference"),
    )
}
