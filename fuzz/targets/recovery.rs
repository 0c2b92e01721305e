//! Recovery of a received space from any catalog and any files.
//!
//! An input is a few runs, a checkpoint and the bytes of each file. Whatever
//! they are, recovery comes to an end or says why not; and when it has come to
//! one, doing it again finds nothing to do.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use saltus::engine::recovery::{Recovered, RecoveryError, Subject};
use saltus::ids::{Epoch, SegmentName, SpaceId, StreamId};
use saltus::lsn::{Lsn, Mark};
use saltus::state::catalog::{Catalog, Change, Role, SpaceRecord};
use saltus::state::host::{Host, ThisHost};
use saltus::state::runs::Run;
use saltus::wal::record::{self, Checksums};

use super::input::Input;
use super::segment::{compose, directory};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let root = directory();
    let root = root.path();
    let state = root.join(".saltus");
    let space: SpaceId = "alpha".parse().unwrap();
    let wal = root.join("alpha/wal");
    fs::create_dir_all(&wal).unwrap();

    // Files first: their number, their bytes.
    let files = usize::from(input.byte() % 4);
    let mut contents = BTreeMap::new();
    for file in 0..files {
        let bytes = usize::from(input.u16());
        let content = compose(&mut Input::new(input.take(bytes)));
        let name = SegmentName(100 + file as u64 % 3).to_string();
        fs::write(wal.join(name), &content).unwrap();
        contents.insert(file as u64, content);
    }

    // A catalog accepts only what could be; the rest is left out.
    let Ok(catalog) = Catalog::open(&state) else { return };
    let commit = |change: Change| catalog.commit(&[(space.clone(), change)]);
    let history = vec![(Epoch::FIRST, Lsn::ZERO)];
    commit(Change::Create { role: Role::Replica, stream: StreamId(1), history }).unwrap();
    let mut start = 0;
    for _ in 0..input.byte() % 6 {
        let file = u64::from(input.byte() % 4);
        let held = contents.get(&file).map_or(0, |content| content.len() as u64);
        let offset = choice(&mut input, held);
        let segment = SegmentName(100 + file % 3);
        let _ =
            commit(Change::OpenRun(Run { start: Lsn(start), segment, file, offset, bytes: None }));
        start = choice(&mut input, held).saturating_add(start);
    }
    let checkpoint = choice(&mut input, start);
    let mut mark = Mark { lsn: Lsn(checkpoint), ..Mark::START };
    // As a checkpoint is, if the first file is what was verified.
    if let Some(bytes) =
        contents.get(&0).and_then(|content| content.get(..usize::try_from(checkpoint).ok()?))
        && let Ok(verified) = record::verify(&Mark::START, bytes, Checksums::Required)
    {
        mark = verified;
    }
    let _ = commit(Change::Checkpoint(mark));
    let Ok(spaces) = catalog.load() else { panic!("a catalog that cannot be read again") };
    let record = &spaces[&space];

    let again = |record: &SpaceRecord| -> Result<Recovered, RecoveryError> {
        let host: Arc<dyn Host> = Arc::new(ThisHost);
        let subject = Subject {
            host: &host,
            data_root: root,
            space: &space,
            record,
            quarantine: &state.join("quarantine"),
            checksums: Checksums::Required,
        };
        subject.recover()
    };
    let Ok(recovered) = again(record) else { return };
    assert!(recovered.mark.lsn >= record.checkpoint.lsn, "below the checkpoint nothing is cut");
    for change in recovered.changes {
        commit(change).unwrap();
    }
    let record = catalog.space(&space).unwrap().unwrap();
    let second = again(&record).unwrap();
    assert_eq!(second.mark, recovered.mark);
    assert!(second.changes.is_empty(), "{:?}", second.changes);
}

/// Any number, or one that is near what there is.
fn choice(input: &mut Input<'_>, near: u64) -> u64 {
    match input.byte() % 4 {
        0 => near,
        1 => near.saturating_sub(u64::from(input.byte())),
        2 => u64::from(input.u16()),
        _ => u64::from(input.u32()) << (input.byte() % 32),
    }
}
