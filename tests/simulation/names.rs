//! Names in directories, and how they change.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use super::disk::FileId;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    File(FileId),
    Directory,
}

/// Every directory of a disk, by its path from the disk's root.
pub type Names = BTreeMap<PathBuf, BTreeMap<OsString, Entry>>;

/// A name in a directory.
pub type Place = (PathBuf, OsString);

/// One change. Each is atomic, as a file system with a journal makes it; the
/// changes of one directory survive in their order.
#[derive(Clone, Debug)]
pub enum NameChange {
    Set(PathBuf, OsString, Entry),
    Remove(PathBuf, OsString),
    Move(Place, Place),
}

impl NameChange {
    pub fn directories(&self) -> Vec<&Path> {
        match self {
            Self::Set(directory, ..) | Self::Remove(directory, _) => vec![directory],
            Self::Move((from, _), (to, _)) => vec![from, to],
        }
    }
}

/// The changes of a directory, in their order, and with each that moves a name
/// from or to another one what had changed there before.
pub fn take_with(pending: &mut Vec<NameChange>, directory: &Path) -> Vec<NameChange> {
    let mut reached = HashSet::from([directory.to_path_buf()]);
    let (mut goes, mut stays) = (Vec::new(), Vec::new());
    for change in std::mem::take(pending).into_iter().rev() {
        let directories = change.directories();
        if directories.iter().any(|directory| reached.contains(*directory)) {
            reached.extend(directories.into_iter().map(Path::to_path_buf));
            goes.push(change);
        } else {
            stays.push(change);
        }
    }
    stays.reverse();
    goes.reverse();
    *pending = stays;
    goes
}

impl fmt::Display for NameChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(directory, name, _) => {
                write!(f, "new name {}", directory.join(name).display())
            }
            Self::Remove(directory, name) => {
                write!(f, "name {} removed", directory.join(name).display())
            }
            Self::Move((from, old), (to, new)) => {
                write!(f, "{} renamed {}", from.join(old).display(), to.join(new).display())
            }
        }
    }
}

/// Do to `names` what a change says, as far as it still can be done.
pub fn apply(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Set(directory, name, entry) => set(names, directory, name, *entry),
        NameChange::Remove(directory, name) => {
            let entry = names.get_mut(directory).and_then(|within| within.remove(name));
            if entry == Some(Entry::Directory) {
                names.remove(&directory.join(name));
            }
        }
        NameChange::Move((from, old), (to, new)) => {
            let entry = names.get_mut(from).and_then(|within| within.remove(old));
            if let Some(entry) = entry {
                set(names, to, new, entry);
            }
        }
    }
}

fn set(names: &mut Names, directory: &Path, name: &OsString, entry: Entry) {
    names.entry(directory.to_path_buf()).or_default().insert(name.clone(), entry);
    if entry == Entry::Directory {
        names.entry(directory.join(name)).or_default();
    }
}

/// Forget directories whose own name is not there.
pub fn prune(names: &mut Names) {
    let mut reachable = vec![PathBuf::new()];
    let mut at = 0;
    while let Some(directory) = reachable.get(at).cloned() {
        for (name, entry) in names.get(&directory).into_iter().flatten() {
            if *entry == Entry::Directory {
                reachable.push(directory.join(name));
            }
        }
        at += 1;
    }
    names.retain(|directory, _| reachable.contains(directory));
}

/// A file that was moved twice, the second time to the directory that is synced,
/// is there. It was nowhere: the first move was not durable yet.
#[test]
fn a_second_move_is_durable_with_the_first() {
    let place = |directory: &str| (PathBuf::from(directory), OsString::from("it"));
    let entry = Entry::File(7);
    let mut names = Names::new();
    let (directory, name) = place("retired");
    apply(&mut names, &NameChange::Set(directory, name, entry));
    let mut pending = vec![
        NameChange::Move(place("retired"), place("wal")),
        NameChange::Remove("elsewhere".into(), "another".into()),
        NameChange::Move(place("wal"), place("quarantine")),
    ];
    for change in take_with(&mut pending, Path::new("quarantine")) {
        apply(&mut names, &change);
    }
    assert_eq!(names[Path::new("quarantine")].get(OsStr::new("it")), Some(&entry));
    assert!(matches!(pending[..], [NameChange::Remove(..)]), "{pending:?}");
}
