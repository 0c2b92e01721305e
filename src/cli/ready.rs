//! The ready file: where a script learns that a node is ready, and at which
//! addresses.
//!
//! ```text
//!   claim    before anything starts: is it ours to write?
//!   clear    nobody else runs here: what a killed node left is no longer true
//!   write    whole or not at all, before the log says `ready`
//!   drop     the node has come to its end
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context;

use super::UsageError;
use super::node::Ready;

/// More than the longest ready file.
const MAX_BYTES: u64 = 4096;

/// A ready file that this process may write. Dropping it takes away what it
/// wrote, and nothing else.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
    written: bool,
}

impl ReadyFile {
    /// Take `path`, which is free or holds what an earlier node wrote.
    ///
    /// # Errors
    ///
    /// [`UsageError`]: something else is there, or the directory is not.
    pub(super) fn claim(path: &Path) -> anyhow::Result<Self> {
        let refused =
            |why: String| Err(UsageError(format!("--ready-file {}: {why}", path.display())).into());
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return refused("it is no file".into()),
        };
        if !parent.is_dir() {
            return refused(format!("{} is not a directory", parent.display()));
        }
        match written_by(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return refused(format!(
                    "it is there and was not written by a node ({error}): choose another name, or \
                     take it away"
                ));
            }
        }
        Ok(Self { path: path.to_path_buf(), written: false })
    }

    /// Take away what an earlier node left behind.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the old {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Say that the node is ready. Whoever waits for the file never sees half
    /// of it.
    pub(super) fn write(&mut self, ready: &Ready) -> anyhow::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(format!(".{}.tmp", process::id()));
        let new = PathBuf::from(new);
        let written = File::create_new(&new)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(ready)?))
            .and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // It may not even have been made.
            let _ = fs::remove_file(&new);
        }
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        let ours = || written_by(&self.path).is_ok_and(|ready| ready.pid == process::id());
        if self.written
            && ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the ready file is left behind");
        }
    }
}

/// What a node wrote there; an error of the kind `InvalidData` if it was
/// something else.
fn written_by(path: &Path) -> io::Result<Ready> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ready(pid: u32) -> Ready {
        let admin = "127.0.0.1:7421".parse().unwrap();
        Ready { node: "alpha".parse().unwrap(), pid, admin, replication: None }
    }

    #[test]
    fn a_ready_file_is_gone_with_its_node() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        let mut file = ReadyFile::claim(&path).unwrap();
        file.write(&ready(process::id())).unwrap();
        assert_eq!(written_by(&path).unwrap(), ready(process::id()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_node_wrote_meanwhile_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        let mut file = ReadyFile::claim(&path).unwrap();
        file.write(&ready(process::id())).unwrap();
        fs::write(&path, serde_json::to_vec(&ready(1)).unwrap()).unwrap();
        drop(file);
        assert_eq!(written_by(&path).unwrap(), ready(1));
        // It was left by a node, and so is taken over.
        let file = ReadyFile::claim(&path).unwrap();
        file.clear().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_no_node_wrote_is_refused_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        for text in ["", "[node]\n", "{\"pid\": 1}"] {
            fs::write(&path, text).unwrap();
            let error = ReadyFile::claim(&path).unwrap_err();
            assert!(error.is::<UsageError>(), "{error:#}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        ReadyFile::claim(&path).unwrap_err();
        ReadyFile::claim(&directory.path().join("no/such/ready")).unwrap_err();
    }
}
