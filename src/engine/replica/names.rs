//! Whether what is being written is still where it was, and nobody else's.
//!
//! A file that lost its name goes with the process, however often it is synced;
//! one that was moved is not where a restart looks for it; and where somebody
//! else writes, the bytes are not the primary's. So before a flush counts, each
//! file that it covers is looked up by its name: one look for one flush, at a
//! name that the kernel keeps in memory for as long as the file is open. Nothing
//! waits for a disk, unless the name does lead elsewhere; and then it ends.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log::Log;

/// What a file is on its file system.
type Identity = (u64, u64);

/// Where a segment may be found while it is being written.
#[derive(Clone, Debug, Default)]
pub struct Names {
    identity: Identity,
    /// Its own name, and the one that it gets when another file takes that.
    /// None: it is not looked for.
    paths: Vec<PathBuf>,
}

impl Names {
    /// Of an open file that bears one of two names.
    ///
    /// # Errors
    ///
    /// The file cannot be looked at.
    pub fn of(file: &File, paths: [PathBuf; 2]) -> io::Result<Self> {
        Ok(Self { identity: identity(&file.metadata()?), paths: paths.into() })
    }

    /// Look whether the file bears one of its names, and is no longer than what
    /// was written to it: `reach` bytes.
    ///
    /// # Errors
    ///
    /// It does not, or is; in a sentence.
    fn check(&self, file: &File, reach: u64) -> Result<(), String> {
        let mut taken = false;
        for path in &self.paths {
            match path.metadata() {
                Ok(found) if identity(&found) == self.identity => {
                    return is_ours(path, &found, reach);
                }
                Ok(_) => taken = true,
                Err(error) if is_gone(&error) => {}
                // It may be there: who may not look cannot say that it is not.
                Err(_) => return Ok(()),
            }
        }
        let Some(path) = self.paths.first().map(|path| path.display()) else { return Ok(()) };
        let has_a_name = file.metadata().is_ok_and(|found| found.nlink() > 0);
        Err(match (has_a_name, taken) {
            (_, true) => format!("{path} was replaced by another file while it was being received"),
            (true, false) => format!("{path} was moved away while it was being received"),
            (false, false) => format!("{path} was removed while it was being received"),
        })
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// The name, or a directory on the way to it, is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_ours(path: &Path, found: &Metadata, reach: u64) -> Result<(), String> {
    if found.len() <= reach {
        return Ok(());
    }
    Err(format!(
        "{} is {} bytes long, and {reach} of them were received: another process writes to it, as \
         a database does that was started on this copy",
        path.display(),
        found.len()
    ))
}

/// A file that bytes are written to, and how far.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) file: Arc<File>,
    pub(super) names: Names,
    /// Where the last write that was submitted ends in the file.
    pub(super) reach: u64,
}

impl Log {
    /// Look whether every file that bytes were written to since they were last
    /// flushed is where it was. Fails the log otherwise.
    pub fn look(&mut self) -> bool {
        let check = |held: &Held| held.names.check(&held.file, held.reach);
        if let Err(why) = self.held.iter().try_for_each(check) {
            self.fail(format!("{why} (space {})", self.space));
        }
        self.failed.is_none()
    }

    /// What helps against an error of a disk, to be said behind it, where
    /// something does that is in nobody's hands but the operator's.
    pub(super) fn remedy(&self, error: &io::Error) -> String {
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let path = self.held.last().and_then(|held| held.names.paths.first());
        match path.and_then(|path| path.parent()).filter(|_| full) {
            Some(directory) => format!(
                ": make room on the file system of {}, then it goes on by itself",
                directory.display()
            ),
            None => String::new(),
        }
    }

    /// A file is written to from here on.
    pub(super) fn hold(&mut self, file: Arc<File>, names: Names, reach: u64) {
        // Two segments that grow in turn: what was left there is here again.
        self.held.retain(|held| held.names.identity != names.identity);
        self.held.push(Held { file, names, reach });
    }

    /// A flush has ended: what was left for another file before it began has
    /// nothing to be looked after any more.
    pub(super) fn let_go(&mut self) {
        let last = self.held.pop();
        let dirty = &self.dirty;
        self.held.retain(|held| dirty.iter().any(|file| Arc::ptr_eq(file, &held.file)));
        self.held.extend(last);
    }

    /// A write to the present file has been submitted that ends there.
    pub(super) fn reached(&mut self, offset: u64) {
        if let Some(held) = self.held.last_mut() {
            held.reach = held.reach.max(offset);
        }
    }

    /// The present file is no longer than what was written to it: what somebody
    /// else has written is not written over.
    pub(super) fn is_undisturbed(&mut self) -> bool {
        let longer = |held: &Held| {
            !held.names.paths.is_empty()
                && held.file.metadata().is_ok_and(|found| found.len() > held.reach)
        };
        if self.held.last().is_some_and(longer) { self.look() } else { self.failed.is_none() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    /// A file of 100 bytes with its two names, of which it bears the first.
    fn segment(root: &Path) -> (File, Names, [PathBuf; 2]) {
        let paths = [root.join("wal/one"), root.join("retired-one")];
        fs::create_dir(root.join("wal")).unwrap();
        fs::write(&paths[0], [1; 100]).unwrap();
        let file = File::options().read(true).write(true).open(&paths[0]).unwrap();
        let names = Names::of(&file, paths.clone()).unwrap();
        names.check(&file, 100).unwrap();
        (file, names, paths)
    }

    #[test]
    fn file_is_at_home_under_either_of_its_names() {
        let root = tempfile::tempdir().unwrap();
        let (file, names, [own, retired]) = segment(root.path());
        fs::rename(&own, &retired).unwrap();
        names.check(&file, 100).unwrap();
        fs::write(&own, b"its successor").unwrap();
        names.check(&file, 100).unwrap();
    }

    #[test]
    fn what_became_of_a_file_that_is_not_at_home_is_told() {
        type Act = fn(&Path, &Path);
        let acts: [(Act, &str); 6] = [
            (|_, own| fs::remove_file(own).unwrap(), "was removed while"),
            (|root, _| fs::remove_dir_all(root.join("wal")).unwrap(), "was removed while"),
            (|root, own| fs::rename(own, root.join("aside")).unwrap(), "was moved away"),
            (|root, _| fs::rename(root.join("wal"), root.join("aside")).unwrap(), "was moved away"),
            (
                |root, own| {
                    fs::copy(own, root.join("copy")).unwrap();
                    fs::rename(root.join("copy"), own).unwrap();
                },
                "was replaced by another",
            ),
            (
                |_, own| fs::write(own, [2; 101]).unwrap(),
                "is 101 bytes long, and 100 of them were received",
            ),
        ];
        for (act, told) in acts {
            let root = tempfile::tempdir().unwrap();
            let (file, names, [own, _]) = segment(root.path());
            act(root.path(), &own);
            let why = names.check(&file, 100).unwrap_err();
            assert!(why.contains(told) && why.contains("wal/one"), "{why}");
        }
    }

    #[test]
    fn who_may_not_look_does_not_say_that_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let (file, mut names, _) = segment(root.path());
        // A name too long for any file system, as an error that is none of these.
        names.paths = vec![root.path().join("x".repeat(5000))];
        names.check(&file, 100).unwrap();
    }
}
