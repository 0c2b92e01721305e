//! The queue between a node and its simulated kernel. It does nothing by
//! itself: the world takes what was submitted and puts back what has ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use saltus::io::{Backend, Completion, Op, Token, Waker, WatchEvent, WatchId};

/// Watch events that wait for a node; past it they are lost.
const MAX_EVENTS: usize = 64;

/// One node's operations and watches.
#[derive(Debug, Default)]
pub struct Kernel {
    pub submitted: Vec<(Token, Op)>,
    pub ended: Vec<Completion>,
    watches: BTreeMap<WatchId, PathBuf>,
    next_watch: u64,
    events: Vec<WatchEvent>,
    /// No more directories can be watched.
    pub watches_used_up: bool,
    pub woken: Arc<AtomicBool>,
}

/// What happened to a name in a directory.
#[derive(Clone, Copy, Debug)]
pub enum Happened {
    Appeared,
    Modified,
    Vanished,
}

impl Kernel {
    /// Something happened in a directory. True if the node is to hear of it.
    pub fn happened(&mut self, directory: &Path, name: &OsStr, what: Happened) -> bool {
        let watching = self.watches.iter().filter(|(_, path)| *path == directory);
        let ids: Vec<_> = watching.map(|(id, _)| *id).collect();
        for id in &ids {
            let name = name.to_owned();
            let event = match what {
                Happened::Appeared => WatchEvent::Appeared(*id, name),
                Happened::Modified => WatchEvent::Modified(*id, name),
                Happened::Vanished => WatchEvent::Vanished(*id, name),
            };
            if self.events.last() != Some(&event) {
                self.events.push(event);
            }
        }
        if self.events.len() > MAX_EVENTS {
            self.lose_events();
        }
        !ids.is_empty()
    }

    /// The queue of events has run over.
    pub fn lose_events(&mut self) {
        self.events.clear();
        self.events.push(WatchEvent::Overflow);
    }

    pub fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.ended.is_empty() || self.woken.load(Ordering::Relaxed)
    }
}

/// A node's end of the queue.
#[derive(Clone, Debug, Default)]
pub struct SimulatedBackend(pub Rc<RefCell<Kernel>>);

impl Backend for SimulatedBackend {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.0.borrow_mut().submitted.push((token, op));
    }

    fn cancel(&mut self, _token: Token) {
        // An attempt to connect that nobody waits for ends by itself.
    }

    fn wait(
        &mut self,
        _deadline: Option<Instant>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.woken.store(false, Ordering::Relaxed);
        completions.append(&mut kernel.ended);
        Ok(())
    }

    fn waker(&self) -> Waker {
        let woken = self.0.borrow().woken.clone();
        Waker::new(move || woken.store(true, Ordering::Relaxed))
    }

    fn watch(&mut self, directory: &Path) -> io::Result<WatchId> {
        let mut kernel = self.0.borrow_mut();
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if kernel.watches_used_up {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        // One directory has one watch, as with inotify.
        let known = kernel.watches.iter().find(|(_, path)| *path == directory);
        if let Some((id, _)) = known {
            return Ok(*id);
        }
        kernel.next_watch += 1;
        let id = WatchId(kernel.next_watch);
        kernel.watches.insert(id, directory.to_path_buf());
        Ok(id)
    }

    fn unwatch(&mut self, id: WatchId) {
        self.0.borrow_mut().watches.remove(&id);
    }

    fn take_watch_events(&mut self, events: &mut Vec<WatchEvent>) {
        events.append(&mut self.0.borrow_mut().events);
    }
}
