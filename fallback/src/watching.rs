//! What happens in directories, told by whatever the system has for it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::{Receiver, Sender, bounded};
use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Changes kept until they are taken; past it they are counted as lost.
const MOST_CHANGES: usize = 16 << 10;

/// A change in, or of, a watched directory, which is named as it was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry was created or moved in.
    Appeared(PathBuf, OsString),
    /// The entry was written.
    Modified(PathBuf, OsString),
    /// The entry was removed or moved out.
    Vanished(PathBuf, OsString),
    /// The path itself was removed or moved: the end of a watch, if it was of
    /// that directory.
    Gone(PathBuf),
    /// Changes were lost.
    Lost,
}

/// What is to be told of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every change.
    All,
    /// What changes names; not what is written to an entry.
    Names,
}

/// A watcher of directories.
#[derive(Debug)]
pub struct DirectoryWatch {
    watcher: RecommendedWatcher,
    changes: Receiver<Change>,
    lost: Arc<AtomicBool>,
    /// Directories of which only names are told.
    quiet: Quiet,
}

type Quiet = Arc<Mutex<HashSet<PathBuf>>>;

impl DirectoryWatch {
    /// A watcher that calls `notify` from a thread of its own when there is
    /// something to take.
    ///
    /// # Errors
    ///
    /// Descriptors, or the user's watchers, ran out.
    pub fn new(notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (sender, changes) = bounded(MOST_CHANGES);
        let lost = Arc::new(AtomicBool::new(false));
        let quiet = Quiet::default();
        let sink = Sink { sender, lost: Arc::clone(&lost), quiet: Arc::clone(&quiet) };
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if sink.take_in(event) {
                notify();
            }
        })
        .map_err(into_io)?;
        Ok(Self { watcher, changes, lost, quiet })
    }

    /// Watch a directory, by its real path.
    ///
    /// # Errors
    ///
    /// It is not there, is no directory, or the watches are used up.
    pub fn add(&mut self, directory: &Path, interest: Interest) -> io::Result<()> {
        if !directory.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        match interest {
            Interest::All => drop(quiet.remove(directory)),
            Interest::Names => drop(quiet.insert(directory.to_owned())),
        }
        drop(quiet);
        self.watcher.watch(directory, RecursiveMode::NonRecursive).map_err(into_io)
    }

    /// End a watch.
    pub fn remove(&mut self, directory: &Path) {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
        // Fails only when the directory, and with it the watch, is gone.
        let _ = self.watcher.unwatch(directory);
    }

    /// True when there is something to take.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty() || self.lost.load(Ordering::Acquire)
    }

    /// The next change.
    #[must_use]
    pub fn take(&self) -> Option<Change> {
        if self.lost.swap(false, Ordering::AcqRel) {
            return Some(Change::Lost);
        }
        self.changes.try_recv().ok()
    }
}

struct Sink {
    sender: Sender<Change>,
    lost: Arc<AtomicBool>,
    quiet: Quiet,
}

impl Sink {
    fn is_told(&self, change: &Change) -> bool {
        let Change::Modified(directory, _) = change else { return true };
        !self.quiet.lock().unwrap_or_else(PoisonError::into_inner).contains(directory)
    }

    /// True when there is news.
    fn take_in(&self, event: notify::Result<Event>) -> bool {
        let Ok(event) = event else {
            self.lost.store(true, Ordering::Release);
            return true;
        };
        if event.need_rescan() {
            self.lost.store(true, Ordering::Release);
            return true;
        }
        let mut news = false;
        for path in event.paths {
            for change in changes(event.kind, &path).into_iter().filter(|c| self.is_told(c)) {
                news = true;
                if self.sender.try_send(change).is_err() {
                    self.lost.store(true, Ordering::Release);
                }
            }
        }
        news
    }
}

fn changes(kind: EventKind, path: &Path) -> Vec<Change> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let (parent, name) = (parent.to_owned(), name.to_owned());
    let gone = |parent, name| vec![Change::Vanished(parent, name), Change::Gone(path.to_owned())];
    match kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            vec![Change::Appeared(parent, name)]
        }
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            gone(parent, name)
        }
        // Some systems say only that a name has changed.
        EventKind::Modify(ModifyKind::Name(RenameMode::Any | RenameMode::Other)) => {
            if path.symlink_metadata().is_ok() {
                vec![Change::Appeared(parent, name)]
            } else {
                gone(parent, name)
            }
        }
        // Both halves of a move have been told one by one.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both) | ModifyKind::Metadata(_))
        | EventKind::Access(_) => Vec::new(),
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
            vec![Change::Modified(parent, name)]
        }
    }
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::MaxFilesWatch => io::Error::from_raw_os_error(libc::ENOSPC),
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        _ => io::Error::other(error),
    }
}
