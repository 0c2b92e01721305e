//! Where bytes go that do not belong to a stream any more. Nothing is ever
//! removed from there by this process.
//!
//! ```text
//!   quarantine/<space>/<segment>.<offset>.<n>
//!                                 |        +-- 0, or the first that is free
//!                                 +----------- where in the segment they lay
//! ```

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{SegmentName, SpaceId};
use crate::limits::VERIFY_PIECE_BYTES;
use crate::state::host::Host;
use crate::wal::search::read_up_to;

/// The quarantine of one space.
#[derive(Debug)]
pub(super) struct Quarantine {
    root: PathBuf,
    directory: PathBuf,
    host: Arc<dyn Host>,
}

impl Quarantine {
    /// Below `root`, which is made when it is first needed.
    pub(super) fn new(host: Arc<dyn Host>, root: &Path, space: &SpaceId) -> Self {
        Self { root: root.to_path_buf(), directory: root.join(space.as_str()), host }
    }

    /// Move a whole file here. Durable when it returns the new path.
    pub(super) fn take(&self, path: &Path, segment: SegmentName) -> io::Result<PathBuf> {
        let (to, _) = self.reserve(segment, 0)?;
        self.host.rename(path, &to)?;
        self.host.sync_directory(&self.directory)?;
        if let Some(parent) = path.parent() {
            self.host.sync_directory(parent)?;
        }
        Ok(to)
    }

    /// Copy everything from `offset` on here, make that durable, then cut the
    /// file there and make that durable too. Returns the copy's path.
    pub(super) fn cut(
        &self,
        path: &Path,
        segment: SegmentName,
        offset: u64,
    ) -> io::Result<PathBuf> {
        let (to, copy) = self.reserve(segment, offset)?;
        let file = self.host.open(OpenOptions::new().read(true).write(true), path)?;
        let mut piece = vec![0; VERIFY_PIECE_BYTES];
        let mut at = offset;
        loop {
            let count = read_up_to(&file, &mut piece, at)?;
            if count == 0 {
                break;
            }
            let bytes = &piece[..count];
            // A tail of zeroes, as a host's crash leaves it, needs no disk.
            if bytes.iter().any(|byte| *byte != 0) {
                self.host.write_at(&copy, bytes, at - offset)?;
            }
            at += count as u64;
        }
        self.host.set_len(&copy, at - offset)?;
        self.host.sync_all(&copy)?;
        self.host.sync_directory(&self.directory)?;

        self.host.set_len(&file, offset)?;
        self.host.sync_all(&file)?;
        Ok(to)
    }

    /// A new, empty file of the first free name.
    fn reserve(&self, segment: SegmentName, offset: u64) -> io::Result<(PathBuf, File)> {
        for directory in [&self.root, &self.directory] {
            match self.host.make_directory(directory) {
                Ok(()) => {
                    self.host.sync_directory(directory.parent().unwrap_or(Path::new("/")))?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let mut number = 0_u64;
        loop {
            let path = self.directory.join(format!("{segment}.{offset}.{number}"));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            match self.host.open(&options, &path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}
