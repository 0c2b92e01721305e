//! File systems that a test may break.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Run a program that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// Give the calling thread, and what it starts, mounts of their own. False if
/// that is not to be had here: then the test says so, and ends.
#[must_use]
pub fn own_mounts() -> bool {
    let made = unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && Command::new("mount")
            .args(["--make-rprivate", "/"])
            .status()
            .is_ok_and(|status| status.success());
    if !made {
        println!("SKIPPED: needs root, for mounts of its own");
    }
    made
}

/// A file system of its own. Unmounted when it is dropped.
#[derive(Debug)]
pub struct Disk {
    pub path: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// An ext4 of that size, in an image beside its mount point. `None` where
    /// there are no loop devices.
    pub fn ext4(path: PathBuf, mib: u64) -> Option<Self> {
        let image = path.with_extension("image");
        Self::ext4_in(path, image, mib)
    }

    /// The same, with its image somewhere else.
    pub fn ext4_in(path: PathBuf, image: PathBuf, mib: u64) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run("mkfs.ext4", &[os("-q"), os("-F"), os("-m"), os("0"), image.as_os_str()]);
        let mounted = Command::new("mount")
            .args(["-o", "loop,errors=continue"])
            .args([&image, &path])
            .output()
            .unwrap();
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr);
            println!("SKIPPED: no loop device to be had: {why}");
            return None;
        }
        Some(Self { path, image: Some(image) })
    }

    /// A file system in memory of that size.
    pub fn memory(path: PathBuf, mib: u64) -> Self {
        fs::create_dir_all(&path).unwrap();
        let size = format!("size={mib}m");
        let how = [os("-t"), os("tmpfs"), os("-o"), os(&size), os("tmpfs"), path.as_os_str()];
        run("mount", &how);
        Self { path, image: None }
    }

    /// Write until nothing more fits. What holds the place.
    pub fn fill(&self) -> PathBuf {
        fill(&self.path)
    }

    pub fn remount(&self, how: &str) {
        run("mount", &[os("-o"), os(&format!("remount,{how}")), self.path.as_os_str()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has files open there is about to end.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// Write a file in the directory until the disk takes no more, to the last
/// byte.
pub fn fill(directory: &Path) -> PathBuf {
    use std::io::Write;
    let path = directory.join("ballast");
    let mut file = File::create(&path).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        let block = vec![0x55; bytes];
        while file.write_all(&block).is_ok() {}
    }
    // What was taken is also given a place, as far as there is one.
    let _ = file.sync_all();
    path
}
