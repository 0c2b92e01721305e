//! Whether the data root is still there, and the catalog.
//!
//! A directory that is removed while files in it are open tells nobody: the
//! kernel keeps it, without a name, and no watch on it ends. So the keeper
//! looks, once a second, and before it lends a space: what is received below
//! another directory of the same name, or recorded in a catalog without a name,
//! is gone with the process.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Keeper, News};
use crate::engine::shard::shard_of;
use crate::ids::SpaceId;
use crate::limits::SCAN_INTERVAL;
use crate::state::catalog::Role;

/// The data root as it was at the start, and what has become of it.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Device and inode; `None` if it could not be looked at then.
    identity: Option<(u64, u64)>,
    problem: Option<String>,
    /// The catalog was not where it belongs.
    catalog_lost: bool,
    looked_at: Option<Instant>,
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        let identity = path.metadata().ok().as_ref().map(identity);
        Self { path, identity, problem: None, catalog_lost: false, looked_at: None }
    }

    /// How long nobody need look.
    pub(super) fn next_look(&self) -> Duration {
        self.looked_at.map_or(Duration::ZERO, |at| SCAN_INTERVAL.saturating_sub(at.elapsed()))
    }

    /// Look, and say what is wrong, in a sentence.
    pub(super) fn look(&self) -> Option<String> {
        let path = self.path.display();
        let listed = || std::fs::read_dir(&self.path).map(drop);
        match self.path.metadata().and_then(|found| listed().map(|()| found)) {
            Ok(found) if self.identity.is_none_or(|known| known == identity(&found)) => None,
            Ok(_) => Some(format!(
                "the data root {path} is another directory than the one this node was started on: \
                 put that one back, or restart the node"
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(format!("the data root {path} is gone"))
            }
            Err(error) => Some(format!("the data root {path} cannot be listed: {error}")),
        }
    }
}

impl Keeper {
    /// Look after the data root and the catalog, and tell the shards when the
    /// root went or came.
    pub(super) fn mind_root(&mut self) {
        if !self.root.next_look().is_zero() {
            return;
        }
        self.root.looked_at = Some(Instant::now());
        self.mind_catalog();
        self.look_at_unsettled();
        let found = self.root.look();
        if found == self.root.problem {
            return;
        }
        match &found {
            Some(why) => tracing::error!("{why}"),
            None => tracing::warn!(path = %self.root.path.display(), "the data root is back"),
        }
        self.received.set_root_problem(found.clone());
        let shards = self.mailboxes.len();
        if let Some(why) = &found {
            self.evict_all(why);
            let shipped = (self.spaces.iter())
                .filter(|(_, entry)| entry.record.role == Role::Primary)
                .map(|(space, _)| space.clone());
            let told = |space: SpaceId| {
                let shard = shard_of(&space, shards);
                (shard, News::Access { space, obstacle: found.clone() })
            };
            self.waiting.extend(shipped.map(told).collect::<Vec<_>>());
        } else {
            self.waiting.extend((0..shards).map(|shard| (shard, News::RootBack)));
            let received = (self.spaces.iter())
                .filter(|(_, entry)| entry.record.role == Role::Replica)
                .map(|(space, _)| space.clone());
            received.collect::<Vec<_>>().iter().for_each(|space| self.have_watched(space));
        }
        self.root.problem = found;
        self.publish();
    }

    /// Whether what lies here is what this node was started on. Where it is not, a
    /// file that cannot be found is no file that is gone.
    pub(super) fn in_place(&self) -> io::Result<()> {
        if let Some(why) = self.root.look() {
            return Err(io::Error::other(why));
        }
        self.catalog.is_in_place().map_err(io::Error::other)
    }

    /// Say when the catalog has lost its name, also while nothing is recorded.
    fn mind_catalog(&mut self) {
        match self.catalog.is_in_place() {
            Err(error) => {
                self.root.catalog_lost = true;
                self.say_unwritten(&error);
            }
            // What waits is written first, and then all is well.
            Ok(()) if self.root.catalog_lost && !self.catalog_waits() => {
                self.root.catalog_lost = false;
                self.received.set_problem(None);
                tracing::warn!("the catalog is back");
            }
            Ok(()) => {}
        }
    }
}
