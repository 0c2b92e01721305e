//! Noticing what is new: directories are watched, and where that cannot be,
//! scanned. Nothing is inferred from silence.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Instant;

use super::{Shard, Ticket, Watched, shard_of};
use crate::engine::keeper::{Job, News};
use crate::engine::primary::space::Space;
use crate::engine::primary::{run_of_ticket, run_ticket};
use crate::ids::{SegmentName, SpaceId};
use crate::io::{WatchEvent, WatchId};
use crate::limits::{MAX_WATCHED_STRANGERS, SCAN_INTERVAL};
use crate::protocol::Now;
use crate::protocol::frame::Handle;
use crate::wal::discover;

impl Shard {
    /// True if this shard ships anything or may have to tell of it.
    pub(super) fn watch_root(&mut self) {
        let root = self.setup.data_root.clone();
        match self.backend.watch(&root) {
            Ok(id) => {
                self.watches.insert(id, Watched::Root);
            }
            Err(error) => {
                self.root_unwatched = true;
                self.fall_back_to_scan(&root.display().to_string(), &error);
            }
        }
        self.job(Job::ScanRoot { shard: self.setup.shard });
    }

    pub(super) fn fall_back_to_scan(&mut self, what: &str, error: &std::io::Error) {
        tracing::warn!(
            "{what} cannot be watched: {error}; it is scanned every {SCAN_INTERVAL:?} instead. If \
             watches have run out, raise fs.inotify.max_user_watches"
        );
        let due = self.now().instant + SCAN_INTERVAL;
        self.next_scan.get_or_insert(due);
    }

    pub(super) fn scan_unwatched(&mut self, instant: Instant) {
        self.next_scan = None;
        if self.root_unwatched {
            self.job(Job::ScanRoot { shard: self.setup.shard });
        }
        let mut scanned = std::mem::take(&mut self.rescan);
        scanned.extend(self.obstructed.iter().cloned());
        for space in self.unwatched.clone() {
            let wal = self.setup.data_root.join(space.as_str()).join("wal");
            if let Ok(watch) = self.backend.watch(&wal) {
                // Whatever forbade it has ended; this scan finds the rest.
                self.watches.insert(watch, Watched::Wal(space.clone()));
                self.unwatched.remove(&space);
            }
            scanned.insert(space);
        }
        for space in scanned {
            self.touch(&space, None);
            self.job(Job::ScanSpace { shard: self.setup.shard, space });
        }
        if self.root_unwatched || !self.unwatched.is_empty() || !self.obstructed.is_empty() {
            self.next_scan = Some(instant + SCAN_INTERVAL);
        }
    }

    /// Whether a space can be read, as the keeper has found it. One that
    /// cannot is looked at again until it can.
    fn access(&mut self, id: &SpaceId, obstacle: Option<String>) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let Some(space) = self.spaces.get(handle) else { return };
        let obstructed = obstacle.is_some();
        space.borrow_mut().obstruct(obstacle);
        if obstructed {
            self.obstructed.insert(id.clone());
            let due = self.now().instant + SCAN_INTERVAL;
            self.next_scan.get_or_insert(due);
        } else if self.obstructed.remove(id) {
            self.watch_space(id);
        }
        self.growing.insert(handle);
    }

    /// The data root is where it was: nothing that was watched in it may be
    /// watched still.
    fn root_back(&mut self) {
        self.watch_root();
        let all: Vec<_> = self.spaces.handles.keys().cloned().collect();
        for space in all {
            self.touch(&space, None);
            self.watch_space(&space);
        }
    }

    /// A name that is gone, or whose directory is: the keeper says what is
    /// left of the space.
    fn look_for(&mut self, space: SpaceId) {
        let received = |what: &Watched| matches!(what, Watched::Received(other) if *other == space);
        if self.watches.values().any(received) {
            return self.job(Job::LookAt { space });
        }
        if self.spaces.handles.contains_key(&space) {
            self.job(Job::ScanSpace { shard: self.setup.shard, space });
        }
    }

    /// A directory of the data root that may be a space of this shard.
    pub(super) fn take_up(&mut self, id: &SpaceId) {
        if shard_of(id, self.setup.shards) != self.setup.shard
            || self.spaces.handles.contains_key(id)
        {
            return;
        }
        let handle = Handle(u32::try_from(self.spaces.list.len()).unwrap_or(u32::MAX - 1));
        self.spaces.handles.insert(id.clone(), handle);
        let mut space = Space::new(id.clone(), handle, self.setup.shard, self.setup.checksums);
        space.writers = self.setup.writers.clone();
        space.skips_damage = self.setup.skips_damage;
        space.directory = self.setup.data_root.join(id.as_str()).join("wal");
        self.spaces.list.push(RefCell::new(space));
        self.watch_space(id);
    }

    pub(super) fn watch_space(&mut self, id: &SpaceId) {
        let directory = self.setup.data_root.join(id.as_str());
        // The inner directory first; whatever appears between two looks is
        // found by the scan that follows the watch.
        let wal = directory.join("wal");
        let watched = match self.backend.watch(&wal) {
            Ok(watch) => Ok((watch, Watched::Wal(id.clone()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.backend.watch(&directory).map(|watch| (watch, Watched::Space(id.clone())))
            }
            Err(error) => Err(error),
        };
        match watched {
            Ok((watch, Watched::Wal(_))) if self.is_watched_as_another(watch, id) => {
                // A link to its log. The keeper says so.
            }
            Ok((watch, what)) => {
                let wait = matches!(what, Watched::Space(_));
                self.watches.insert(watch, what);
                // It may have appeared just before the watch.
                if wait && wal.is_dir() {
                    self.backend.unwatch(watch);
                    self.watches.remove(&watch);
                    return self.watch_space(id);
                }
            }
            // The watch above tells when it appears; the scan tells whether
            // it was ever there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.unwatched.insert(id.clone());
                self.fall_back_to_scan(&directory.display().to_string(), &error);
            }
        }
        self.job(Job::ScanSpace { shard: self.setup.shard, space: id.clone() });
    }

    /// Learn when names change where a space is received. Without a watch that
    /// is found when something is received, or the node is started again.
    fn watch_received(&mut self, id: SpaceId) {
        let wal = discover::wal_directory(&self.setup.data_root, &id);
        match self.backend.watch_names(&wal) {
            Ok(watch) => {
                let known = self.watches.insert(watch, Watched::Received(id.clone()));
                if known.is_none() {
                    // What appeared just before the watch.
                    self.job(Job::LookAt { space: id });
                }
            }
            // The first run makes it, and then it is asked for again.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                space = %id,
                "{} cannot be watched: {error}; what others do there is noticed when something is \
                 received. If watches have run out, raise fs.inotify.max_user_watches",
                wal.display()
            ),
        }
    }

    /// Whoever receives a space lets go of it for that reason, or if it finds one
    /// itself.
    fn evict(&mut self, now: Now, space: &SpaceId, why: Option<&str>) {
        for (id, peer) in &mut self.peers {
            if peer.evict(now, space, why) {
                self.busy_peers.insert(*id);
            }
        }
    }

    /// The directory of this watch is the log of another space as well, which
    /// must not lose it. (One that was renamed is not at its old name.)
    fn is_watched_as_another(&self, watch: WatchId, id: &SpaceId) -> bool {
        let Some(Watched::Wal(other)) = self.watches.get(&watch) else { return false };
        let identity = |space| discover::identity(&self.setup.data_root, space);
        other != id && identity(other).is_some() && identity(other) == identity(id)
    }

    /// The spaces that there is something to say of: those that hold a log,
    /// which is not another one's.
    pub(super) fn shown(&self) -> Vec<&RefCell<Space>> {
        let logs: BTreeSet<&SpaceId> = (self.watches.values())
            .filter_map(|what| match what {
                Watched::Wal(id) => Some(id),
                _ => None,
            })
            .chain(&self.unwatched)
            .collect();
        let has_log = |id: &SpaceId| logs.contains(id) && !self.refused.contains(id);
        let shown = |space: &&RefCell<Space>| {
            let space = space.borrow();
            space.known || has_log(&space.id)
        };
        self.spaces.list.iter().filter(shown).collect()
    }

    /// Something has come or gone that may be no space. Hidden ones are
    /// nobody's business, and one shard is enough to look at the others.
    fn look_again(&self, name: &OsStr) {
        if self.setup.shard == 0 && !name.as_encoded_bytes().starts_with(b".") {
            self.job(Job::ScanRoot { shard: self.setup.shard });
        }
    }

    /// Directories that are worth a word once they hold a log.
    fn watch_strangers(&mut self, names: Vec<OsString>) {
        let watched: BTreeSet<OsString> = (self.watches.values())
            .filter_map(|what| match what {
                Watched::Stranger(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let room = MAX_WATCHED_STRANGERS.saturating_sub(watched.len());
        let mut again = false;
        for name in names.into_iter().filter(|name| !watched.contains(name)).take(room) {
            let directory = self.setup.data_root.join(&name);
            // Without a watch it is found by the next look at the root.
            if let Ok(watch) = self.backend.watch(&directory) {
                self.watches.insert(watch, Watched::Stranger(name));
                // It may have appeared just before the watch.
                again |= directory.join("wal").is_dir();
            }
        }
        if again {
            self.job(Job::ScanRoot { shard: self.setup.shard });
        }
    }

    pub(super) fn watched(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Overflow => {
                tracing::warn!("file events were lost: every space is scanned once");
                self.job(Job::ScanRoot { shard: self.setup.shard });
                let all: Vec<_> = self.spaces.handles.keys().cloned().collect();
                for space in all {
                    self.touch(&space, None);
                    self.job(Job::ScanSpace { shard: self.setup.shard, space });
                }
                for what in self.watches.values() {
                    if let Watched::Received(space) = what {
                        self.job(Job::LookAt { space: space.clone() });
                    }
                }
            }
            WatchEvent::Appeared(watch, name) => match self.watches.get(watch).cloned() {
                Some(Watched::Root) => {
                    let id: Option<SpaceId> = name.to_str().and_then(|name| name.parse().ok());
                    if id.is_none() {
                        self.look_again(name);
                    } else if let Some(id) = id
                        && shard_of(&id, self.setup.shards) == self.setup.shard
                    {
                        if self.spaces.handles.contains_key(&id) {
                            self.watch_space(&id);
                        } else {
                            // The keeper knows whether it is received here.
                            self.job(Job::ScanRoot { shard: self.setup.shard });
                        }
                    }
                }
                Some(Watched::Space(id)) if name == "wal" => {
                    self.backend.unwatch(*watch);
                    self.watches.remove(watch);
                    self.watch_space(&id);
                }
                Some(Watched::Stranger(_)) if name == "wal" => {
                    self.backend.unwatch(*watch);
                    self.watches.remove(watch);
                    self.job(Job::ScanRoot { shard: self.setup.shard });
                }
                Some(Watched::Wal(space))
                    if name.to_str().is_some_and(|name| name.parse::<SegmentName>().is_ok()) =>
                {
                    self.job(Job::ScanSpace { shard: self.setup.shard, space });
                }
                Some(Watched::Received(space)) => self.job(Job::LookAt { space }),
                _ => {}
            },
            WatchEvent::Modified(watch, name) => {
                if let Some(Watched::Wal(space)) = self.watches.get(watch).cloned() {
                    match name.to_str().and_then(|name| name.parse().ok()) {
                        Some(name) => self.touch(&space, Some(name)),
                        None => self.touch_renamed(&space),
                    }
                }
            }
            WatchEvent::Vanished(watch, name) => match self.watches.get(watch).cloned() {
                Some(Watched::Wal(space)) => {
                    if let Some(name) = name.to_str().and_then(|name| name.parse().ok()) {
                        self.vanished(&space, name);
                    }
                }
                Some(Watched::Space(space)) if name == "wal" => self.look_for(space),
                Some(Watched::Received(space)) => self.job(Job::LookAt { space }),
                Some(Watched::Root) => {
                    // It may have been listed as one that is left alone.
                    self.look_again(name);
                    if let Some(space) = name.to_str().and_then(|name| name.parse().ok()) {
                        self.look_for(space);
                    }
                }
                _ => {}
            },
            WatchEvent::Ended(watch) => match self.watches.remove(watch) {
                Some(Watched::Wal(id) | Watched::Space(id)) => self.watch_space(&id),
                Some(Watched::Received(space)) => self.job(Job::LookAt { space }),
                // The keeper looks after it, and says when it is back.
                Some(Watched::Root | Watched::Stranger(_)) | None => {}
            },
        }
    }

    /// A segment's name is gone, and the directory may be about to follow it.
    /// That is told only to who watches the directory above: as long as the
    /// segment is open here, the removed directory lives on without a name.
    fn vanished(&mut self, id: &SpaceId, name: SegmentName) {
        let space = self.spaces.handles.get(id).and_then(|handle| self.spaces.get(*handle));
        if let Some(space) = space {
            space.borrow_mut().vanished(name);
        }
        if self.watches.values().any(|what| matches!(what, Watched::Space(other) if other == id)) {
            // What has a name now is listed once for all that go together.
            return self.scan_again(id);
        }
        if let Ok(watch) = self.backend.watch(&self.setup.data_root.join(id.as_str())) {
            self.watches.insert(watch, Watched::Space(id.clone()));
        }
        // It may have been made anew before this.
        self.watch_space(id);
    }

    /// List a space's directory once more, soon.
    fn scan_again(&mut self, id: &SpaceId) {
        self.rescan.insert(id.clone());
        let due = self.now().instant + SCAN_INTERVAL;
        self.next_scan.get_or_insert(due);
    }

    fn touch_renamed(&mut self, space: &SpaceId) {
        if let Some(handle) = self.spaces.handles.get(space)
            && let Some(space) = self.spaces.get(*handle)
        {
            space.borrow_mut().touch_renamed();
            self.growing.insert(*handle);
        }
    }

    pub(super) fn touch(&mut self, space: &SpaceId, name: Option<SegmentName>) {
        if let Some(handle) = self.spaces.handles.get(space)
            && let Some(space) = self.spaces.get(*handle)
        {
            space.borrow_mut().touch(name);
            self.growing.insert(*handle);
        }
    }

    pub(super) fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            let now = self.now();
            match news {
                News::Spaces(spaces) => {
                    self.listed = true;
                    for space in spaces {
                        self.take_up(&space);
                    }
                }
                News::Strangers(names) => self.watch_strangers(names),
                News::Refused(space) => {
                    self.refused.insert(space);
                }
                News::Released { space, file } => self.released(&space, file),
                News::Slots { space, slots } => self.slots(now, &space, slots),
                News::Reserved { space, replica, base, result } => {
                    self.reserved(now, &space, &replica, base, result);
                }
                News::Space { space, record, found, otherwise, named, problems } => {
                    self.learned(now, &space, record, found, named, problems);
                    if let Some(handle) = self.spaces.handles.get(&space)
                        && let Some(space) = self.spaces.get(*handle)
                    {
                        space.borrow_mut().end_otherwise(&otherwise);
                    }
                }
                News::Access { space, obstacle } => self.access(&space, obstacle),
                News::RootBack => self.root_back(),
                News::Segment { space, file, result } => {
                    if let Some(handle) = self.spaces.handles.get(&space).copied() {
                        if let Some(space) = self.spaces.get(handle) {
                            space.borrow_mut().reopened(file, result);
                        }
                        self.growing.insert(handle);
                    }
                }
                News::Committed { ticket, result } => {
                    let (handle, ordinal) = run_of_ticket(ticket);
                    debug_assert_eq!(run_ticket(handle, ordinal), ticket, "tickets are runs");
                    if let Some(space) = self.spaces.get(handle) {
                        match result {
                            Ok(()) => space.borrow_mut().runs_durable(ordinal + 1),
                            Err(why) => space.borrow_mut().halt(why),
                        }
                        self.head_moved(now, handle);
                    }
                }
                News::ReplicaOpened { ticket, result } => {
                    if let Some(Ticket::Open(id, handle)) = self.tickets.remove(&ticket) {
                        self.peer(now, id, |peer, actions| {
                            peer.opened(now, handle, result.map(|loan| *loan), actions);
                        });
                    }
                }
                News::RangeRead { ticket, bytes } => self.range_read(now, ticket, bytes),
                News::RecordChecked { ticket, verdict } => {
                    self.record_checked(now, ticket, verdict);
                }
                News::Matched { ticket, result } => {
                    if let Some(Ticket::Match(id, handle, question)) = self.tickets.remove(&ticket)
                    {
                        self.peer(now, id, |peer, _| peer.matched(now, handle, question, result));
                    }
                }
                News::Received(space) => self.watch_received(space),
                News::Evicted { space, why } => self.evict(now, &space, Some(&why)),
                News::Disturbed(space) => self.evict(now, &space, None),
                News::Recalled { space, highest } => {
                    for (id, peer) in &mut self.peers {
                        if peer.recall(now, &space, highest) {
                            self.busy_peers.insert(*id);
                        }
                    }
                }
                News::EpochBegun { space, result } => self.reigns(now, &space, result),
                News::LeftOut { space, at, result } => self.left_out(now, &space, at, result),
                News::RunOpened { ticket, result } => {
                    if let Some(Ticket::Run(id, handle, ordinal)) = self.tickets.remove(&ticket) {
                        self.peer(now, id, |peer, _| peer.run_opened(now, handle, ordinal, result));
                    }
                }
            }
        }
    }

    pub(super) fn learned(
        &mut self,
        now: Now,
        id: &SpaceId,
        record: Option<Box<crate::state::catalog::SpaceRecord>>,
        found: Vec<(u64, Arc<crate::wal::segment::Segment>)>,
        named: Option<BTreeSet<u64>>,
        problems: Vec<String>,
    ) {
        let Some(handle) = self.spaces.handles.get(id).copied() else { return };
        let Some(space) = self.spaces.get(handle) else { return };
        let mut space = space.borrow_mut();
        let first = record.is_some();
        if let Some(record) = record {
            for link in &mut self.links {
                if let Some(slot) = record.slots.get(&link.replica) {
                    link.slot(handle.0 as usize).recall(slot);
                }
            }
            space.learn(*record);
            self.refused.remove(id);
        }
        space.found(found);
        if let Some(named) = named {
            space.names(&named);
        }
        let again = space.scanned(problems);
        let open = space.open();
        drop(space);
        if again {
            self.scan_again(id);
        }
        self.growing.insert(handle);
        self.retain_soon(handle);
        if first && let Some(open) = open {
            for index in 0..self.links.len() {
                if let Some(up) = self.links[index].up()
                    && up.established
                    && up.probe.is_none()
                {
                    up.sender.open_space(now, handle, open.clone());
                    self.busy_links.insert(index);
                }
            }
        }
    }
}
