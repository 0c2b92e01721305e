//! What a path on the command line leads to.
//!
//! ```text
//!   wal-000000006b01223f.log       one file, whatever it is called
//!   DATA_ROOT/SPACE/wal            one log
//!   DATA_ROOT/SPACE                the same log
//!   DATA_ROOT                      every log in it, by space
//! ```
//!
//! Anything else is refused: of a directory that holds no log nothing can be
//! said, least of all that it is whole.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::UsageError;
use crate::wal::discover;

/// The name of the directory that holds a space's segments.
const WAL: &str = "wal";

/// Where logs lie.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One file.
    File,
    /// One directory of segments, maybe an empty one.
    Log(PathBuf),
    /// Directories of segments, each with the name of its space. At least one.
    Root(Vec<(String, PathBuf)>),
}

impl Place {
    /// Look at a path.
    ///
    /// # Errors
    ///
    /// It cannot be read, or there is no log: a [`UsageError`].
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        if !std::fs::metadata(path).with_context(failed)?.is_dir() {
            return Ok(Self::File);
        }
        if !discover::segments(path).with_context(failed)?.is_empty() {
            return Ok(Self::Log(path.to_path_buf()));
        }
        if let Some(log) = directory(path.join(WAL))? {
            return Ok(Self::Log(log));
        }
        // An empty log is one all the same.
        let name = path.canonicalize().with_context(failed)?;
        if name.file_name().is_some_and(|name| name == WAL) {
            return Ok(Self::Log(path.to_path_buf()));
        }
        let mut logs = Vec::new();
        for space in discover::spaces(path).with_context(failed)? {
            let log = directory(discover::wal_directory(path, &space))?;
            logs.extend(log.map(|log| (space.to_string(), log)));
        }
        if logs.is_empty() {
            return Err(UsageError(format!(
                "no segments in {0}: expected a segment, a directory of segments such as {0}/wal, \
                 the directory of a space, or a data root",
                path.display()
            ))
            .into());
        }
        Ok(Self::Root(logs))
    }
}

/// The path, if it is a directory.
fn directory(path: PathBuf) -> anyhow::Result<Option<PathBuf>> {
    match std::fs::metadata(&path) {
        Ok(found) => Ok(found.is_dir().then_some(path)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::ids::SegmentName;

    #[test]
    fn every_way_to_name_a_log_leads_to_it() {
        let root = tempfile::tempdir().unwrap();
        let wal = |space: &str| root.path().join(space).join(WAL);
        for space in ["alpha", "beta"] {
            fs::create_dir_all(wal(space)).unwrap();
        }
        let segment = wal("alpha").join(SegmentName(1).to_string());
        fs::write(&segment, b"").unwrap();
        // No space, though its name could be one's.
        fs::create_dir(root.path().join("backups")).unwrap();
        assert_eq!(Place::at(&segment).unwrap(), Place::File);
        for space in ["alpha", "beta"] {
            let log = Place::Log(wal(space));
            assert_eq!(Place::at(&wal(space)).unwrap(), log);
            assert_eq!(Place::at(&root.path().join(space)).unwrap(), log);
        }
        let both = ["alpha", "beta"].map(|space| (space.to_owned(), wal(space)));
        assert_eq!(Place::at(root.path()).unwrap(), Place::Root(both.into()));
    }

    #[test]
    fn a_directory_without_a_log_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("backups")).unwrap();
        fs::write(root.path().join("passwd"), b"").unwrap();
        for path in [root.path().to_path_buf(), root.path().join("backups")] {
            let error = Place::at(&path).unwrap_err();
            assert!(error.is::<UsageError>(), "{error:?}");
            assert!(error.to_string().contains(&format!("{}/wal", path.display())), "{error}");
        }
    }
}
