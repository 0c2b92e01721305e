//! Whether this machine is what the settings take for granted: the directories
//! that must be there, one file system beneath them, and the cores.
//!
//! Looks, and changes nothing: a file can be checked beside a running node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use super::{Config, ConfigError, Place, STATE_DIRECTORY};

/// Where in the file the settings stand that are compared with the machine.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) data_root: Place,
    pub(super) state_dir: Place,
    pub(super) first_core: Place,
}

/// Compare the settings with the machine.
pub(super) fn check(config: &Config, places: &Places) -> Result<(), ConfigError> {
    check_data_root(&config.node.data_root, &places.data_root)?;
    check_state_dir(&config.node.data_root, &config.node.state_dir, &places.state_dir)?;
    check_cores(config, &places.first_core)
}

fn conflict(place: &Place, key: &str, conflict: String) -> ConfigError {
    ConfigError::Conflict { place: place.clone(), key: key.into(), conflict }
}

/// Refuse a data root that is not there: a daemon that creates an empty one
/// after a failed mount would look healthy and replicate nothing.
fn check_data_root(data_root: &Path, place: &Place) -> Result<(), ConfigError> {
    let problem = match fs::metadata(data_root) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(conflict(
        place,
        "node.data_root",
        format!(
            "{} cannot be used: {problem}; create it (mkdir -p) or mount it, and see that this \
             process runs as the user that owns the log",
            data_root.display()
        ),
    ))
}

/// Pins are hard links from the one directory into the other. A state
/// directory that cannot have them would be found out when the first segment
/// is unlinked, which is too late.
fn check_state_dir(data_root: &Path, state_dir: &Path, place: &Place) -> Result<(), ConfigError> {
    const KEY: &str = "node.state_dir";
    if state_dir == data_root {
        let why = format!(
            "{} is node.data_root itself; leave the setting out, and {STATE_DIRECTORY} in there \
             is used",
            state_dir.display()
        );
        return Err(conflict(place, KEY, why));
    }
    let unusable = |path: &Path, problem: &dyn std::fmt::Display| {
        let why = format!(
            "{} cannot be used: {problem}; it must be a directory that this process may write to",
            path.display()
        );
        conflict(place, KEY, why)
    };
    let there = nearest(state_dir).map_err(|error| unusable(state_dir, &error))?;
    if !there.is_dir() {
        return Err(unusable(&there, &"it is not a directory"));
    }
    let look = |path: &Path| mount_of(path).map_err(|error| unusable(path, &error));
    let (data, state) = (look(data_root)?, look(&there)?);
    if data == state {
        return Ok(());
    }
    let how = if data.device == state.device {
        "are two mounts of one file system"
    } else {
        "lie on two file systems"
    };
    Err(conflict(
        place,
        KEY,
        format!(
            "{} and node.data_root {} {how}, and segments are kept for replicas by hard links from \
             the one to the other, which cannot be; leave the setting out, or choose a directory \
             on the file system of the data root",
            state_dir.display(),
            data_root.display()
        ),
    ))
}

/// The directory itself, or the nearest one above it that is there: what is
/// made on the way lies on the same file system.
fn nearest(directory: &Path) -> io::Result<PathBuf> {
    let mut path = directory;
    loop {
        match fs::metadata(path) {
            Ok(_) => return Ok(path.to_path_buf()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
                Some(parent) => path = parent,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

/// What a directory is mounted from. The kernel refuses hard links between
/// two mounts even of one file system, as a service with two `ReadWritePaths=`
/// has them.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    /// The number of the mount, where the system tells it.
    number: Option<String>,
}

fn mount_of(directory: &Path) -> io::Result<Mount> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let opened = fs::File::open(directory)?;
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()));
    let number = told.ok().and_then(|told| {
        let number = told.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        Some(number.trim().to_owned())
    });
    Ok(Mount { device: opened.metadata()?.dev(), number })
}

/// Refuse a core that a shard cannot be pinned to: the operator meant to keep
/// it away from the database's, and it would run on any of them.
fn check_cores(config: &Config, place: &Place) -> Result<(), ConfigError> {
    let Some(first) = config.io.first_core else { return Ok(()) };
    for core in first..first + config.io.shards {
        // On a thread that ends with the question.
        let asked = thread::spawn(move || crate::io::pin_thread(core as usize)).join();
        let Ok(Err(error)) = asked else { continue };
        let cores = thread::available_parallelism().map_or(0, usize::from);
        return Err(conflict(
            place,
            "io.first_core",
            format!(
                "shard {} would run on core {core}, which this process cannot: {error}; it may use \
                 {cores} cores, and they are counted from 0",
                core - first
            ),
        ));
    }
    Ok(())
}
