//! Where bytes go that do not belong to a stream any more. Nothing is ever
//! removed from there by this process.
//!
//! ```text
//!   quarantine/<space>/<segment>.<offset>.<n>
//!                                 |        +-- 0, or the first that is free
//!                                 +----------- where in the segment they lay
//! ```

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ids::{SegmentName, SpaceId};
use crate::limits::VERIFY_PIECE_BYTES;
use crate::state::sync_directory;
use crate::wal::search::read_up_to;

/// The quarantine of one space.
#[derive(Debug)]
pub(super) struct Quarantine {
    root: PathBuf,
    directory: PathBuf,
}

impl Quarantine {
    /// Below `root`, which is made when it is first needed.
    pub(super) fn new(root: &Path, space: &SpaceId) -> Self {
        Self { root: root.to_path_buf(), directory: root.join(space.as_str()) }
    }

    /// Move a whole file here. Durable when it returns the new path.
    pub(super) fn take(&self, path: &Path, segment: SegmentName) -> io::Result<PathBuf> {
        let (to, _) = self.reserve(segment, 0)?;
        fs::rename(path, &to)?;
        sync_directory(&self.directory)?;
        if let Some(parent) = path.parent() {
            sync_directory(parent)?;
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
        let (to, mut copy) = self.reserve(segment, offset)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
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
                copy.seek(SeekFrom::Start(at - offset))?;
                copy.write_all(bytes)?;
            }
            at += count as u64;
        }
        copy.set_len(at - offset)?;
        copy.sync_all()?;
        sync_directory(&self.directory)?;

        file.set_len(offset)?;
        file.sync_all()?;
        Ok(to)
    }

    /// A new, empty file of the first free name.
    fn reserve(&self, segment: SegmentName, offset: u64) -> io::Result<(PathBuf, File)> {
        for directory in [&self.root, &self.directory] {
            match DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => sync_directory(directory.parent().unwrap_or(Path::new("/")))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let mut number = 0_u64;
        loop {
            let path = self.directory.join(format!("{segment}.{offset}.{number}"));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}
