//! Copies on a disk of which a sector cannot be read.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::retired::tests::{Received, close, receive};
use super::tests::{Rig, alive, open, space};
use crate::ids::SegmentName;
use crate::lsn::Mark;
use crate::state::host::Host;
use crate::state::meddler::{Call, Meddler};

const EARLY: [(u64, u64); 5] = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)];

/// 20 records in the files 5, 7, and 7 again, given back with the checkpoint behind
/// so many.
fn copy(root: &Path, checkpoint: usize) -> Received {
    let mut rig = Rig::open(root, &alive());
    rig.loan(open(&[(1, 0)])).unwrap();
    let received = receive(&mut rig, &[(5, &EARLY), (7, &EARLY), (7, &EARLY), (9, &EARLY)]);
    rig.batch(vec![close(&rig, received.marks[checkpoint], received.end())]);
    received
}

fn segment(root: &Path, file: u64) -> PathBuf {
    root.join("alpha/wal").join(SegmentName(file).to_string())
}

/// A host whose disk does not give back the byte of a file.
fn with_bad_sector(path: PathBuf, at: u64) -> Arc<dyn Host> {
    Arc::new(Meddler(move |call: Call<'_>| match call {
        Call::Read(of, offset, bytes) if of == path && (offset..offset + bytes).contains(&at) => {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
        _ => Ok(()),
    }))
}

/// Where a record begins in file 7.
fn offset_in_7(received: &Received, record: usize) -> u64 {
    received.marks[record].lsn.bytes_since(received.marks[5].lsn)
}

/// A sector before the checkpoint could not be read: the space was refused at every
/// attempt, where rot at the same place is mended.
#[test]
fn a_sector_below_the_checkpoint_is_asked_for_like_rot() {
    let root = tempfile::tempdir().unwrap();
    let received = copy(root.path(), 10);
    let at = offset_in_7(&received, 10) - 1;
    let path = segment(root.path(), 7);
    let mut rig = Rig::open(root.path(), &with_bad_sector(path.clone(), at));
    assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.end(), "and all behind it");
    let damages = rig.keeper.received.damages();
    let said = &damages[&space()];
    let expected = format!("{} cannot be read at offset", path.display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("mended from the primary"), "{said}");
    assert_eq!(said.matches("Input/output error").count(), 1, "{said}");
}

#[test]
fn a_sector_behind_the_checkpoint_is_named_with_what_helps() {
    let root = tempfile::tempdir().unwrap();
    let received = copy(root.path(), 3);
    let at = offset_in_7(&received, 12);
    let path = segment(root.path(), 7);
    let mut rig = Rig::open(root.path(), &with_bad_sector(path.clone(), at));
    let refused = rig.loan(open(&[(1, 0)])).unwrap_err();
    let expected = format!("{} cannot be read at offset", path.display());
    assert!(refused.why.contains(&expected), "{}", refused.why);
    assert!(refused.why.contains("move the file away"), "{}", refused.why);
    // That helps: it is received again from there on.
    std::fs::rename(&path, root.path().join("kept")).unwrap();
    assert_eq!(rig.loan(open(&[(1, 0)])).unwrap().mark, received.marks[5]);
    assert_ne!(received.marks[5], Mark::START);
}
