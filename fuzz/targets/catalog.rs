//! A catalog of any content: opened, read, written to.
//!
//! The first byte chooses: a file of any bytes, a good file with some bytes
//! changed, or a sound database with any keys and values in its tables.

use std::fs;
use std::panic::Location;
use std::path::Path;

use redb::{Database, TableDefinition};
use saltus::ids::{Epoch, SegmentName, SpaceId, StreamId};
use saltus::lsn::{Lsn, Mark};
use saltus::state::catalog::{CATALOG_FILE, Catalog, Change, FileRecord, Role};
use saltus::state::runs::Run;

use super::input::Input;
use super::segment::directory;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let root = directory();
    let state = root.path();
    let path = state.join(CATALOG_FILE);
    match input.byte() % 3 {
        0 => fs::write(&path, input.take(usize::MAX)).unwrap(),
        1 => {
            good(state);
            let mut bytes = fs::read(&path).unwrap();
            while !input.is_empty() {
                let at = input.u32() as usize % bytes.len();
                bytes[at] = input.byte();
            }
            fs::write(&path, bytes).unwrap();
        }
        _ => fill(&path, &mut input),
    }
    // Refused, or good for everything.
    let Ok(catalog) = Catalog::open(state) else { return };
    let Ok(spaces) = catalog.load() else { return };
    for (space, record) in &spaces {
        assert_eq!(catalog.space(space).unwrap().as_ref(), Some(record));
        let mark = Mark { lsn: record.runs.end(), ..record.checkpoint };
        let _ = catalog.commit(&[(space.clone(), Change::Checkpoint(mark))]);
        let _ = record.runs.locate(Lsn(u64::MAX));
    }
    assert_eq!(catalog.load().unwrap().len(), spaces.len());
}

/// Whether a panic at that place is the catalog's to catch: the database
/// asserts where it should answer, on bytes that have rotted. What our own code
/// panics at is a defect, although the same guard would catch it.
pub fn is_answered_for(place: Option<&Location<'_>>) -> bool {
    // The path of a dependency ends in its name and version.
    place.is_some_and(|place| place.file().split(['/', '\\']).any(|part| part.starts_with("redb-")))
}

fn space() -> SpaceId {
    "alpha".parse().unwrap()
}

/// A catalog as a node leaves it.
fn good(state: &Path) {
    let catalog = Catalog::open(state).unwrap();
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    let mut changes = vec![Change::Create { role: Role::Replica, stream: StreamId(7), history }];
    for file in 0..8 {
        let segment = SegmentName(100 + file);
        changes.push(Change::AddFile(FileRecord {
            file,
            segment,
            device: 1,
            inode: file,
            birth_ns: 2,
        }));
        let start = Lsn(file * 1000);
        changes.push(Change::OpenRun(Run { start, segment, file, offset: 0, bytes: None }));
        changes.push(Change::AddMark(Mark { lsn: start, ..Mark::START }));
    }
    let changes: Vec<_> = changes.into_iter().map(|change| (space(), change)).collect();
    catalog.commit(&changes).unwrap();
}

/// Any keys and values, in tables of the right kinds.
fn fill(path: &Path, input: &mut Input<'_>) {
    const SPACES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spaces");
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    const RUNS: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("runs");
    const FILES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("files");
    const MARKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("marks");
    if !input.byte().is_multiple_of(8) {
        // With the schema and the identity that a node gave it.
        drop(Catalog::open(path.parent().unwrap()).unwrap());
    }
    let database = Database::create(path).unwrap();
    let write = database.begin_write().unwrap();
    while let Some(piece) = input.next() {
        let name = match input.byte() % 4 {
            0 => "alpha",
            1 => "beta-1",
            2 => "..",
            _ => "schema",
        };
        let number = if piece & 0x80 == 0 { u64::from(piece >> 4) } else { input.u64() };
        let bytes = usize::from(input.byte());
        let value = input.take(bytes);
        match piece % 5 {
            0 => drop(write.open_table(SPACES).unwrap().insert(name, value).unwrap()),
            1 => drop(write.open_table(META).unwrap().insert(name, value).unwrap()),
            2 => {
                let ordinal = u32::try_from(number).unwrap_or(u32::MAX);
                drop(write.open_table(RUNS).unwrap().insert((name, ordinal), value).unwrap());
            }
            3 => drop(write.open_table(FILES).unwrap().insert((name, number), value).unwrap()),
            _ => drop(write.open_table(MARKS).unwrap().insert((name, number), value).unwrap()),
        }
    }
    write.commit().unwrap();
}
