//! File systems that a test may break.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::skipped::skipped;

/// Run a program that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Whether a program is to be had.
pub fn is_here(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// Give the calling thread, and what it starts, mounts of their own. False if
/// that is not to be had here: then the test says so, and ends.
#[must_use]
pub fn own_mounts() -> bool {
    if !is_here("mkfs.ext4") {
        skipped("needs mkfs.ext4, for disks of its own");
        return false;
    }
    let made = unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && Command::new("mount")
            .args(["--make-rprivate", "/"])
            .status()
            .is_ok_and(|status| status.success());
    if !made {
        skipped("needs root, for mounts of its own");
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
        fs::create_dir_all(&path).unwrap();
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run("mkfs.ext4", &[os("-q"), os("-F"), os("-m"), os("0"), image.as_os_str()]);
        Self::mount(path, image)
    }

    fn mount(path: PathBuf, image: PathBuf) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-o", "loop,errors=continue"])
            .args([&image, &path])
            .output()
            .unwrap();
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr);
            skipped(&format!("no loop device to be had: {}", why.trim()));
            return None;
        }
        Some(Self { path, image: Some(image) })
    }

    /// An ext4 on a device that does not have what it promises: its free
    /// blocks get their room, on `below`, only when they are written. Once
    /// there is none, a write fails when it is synced, and data alone is lost.
    pub fn thin(path: PathBuf, below: &Self, mib: u64) -> Option<Self> {
        let image = below.path.join("image");
        fs::create_dir_all(&path).unwrap();
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let how = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0"];
        let how = how.map(OsStr::new);
        run("mkfs.ext4", &[&how[..], &[image.as_os_str()]].concat());
        // What the file system itself needs, its journal above all, has its
        // room once and for all: only then is it data alone that fails.
        let size = format!("{mib}M");
        run("fallocate", &[os("--length"), os(&size), image.as_os_str()]);
        let disk = Self::mount(path, image)?;
        disk.one_page_at_a_time();
        run("fstrim", &[disk.path.as_os_str()]);
        Some(disk)
    }

    /// The loop driver takes a write that was cut short for a whole one, and
    /// would lie. A write of one page is never cut short.
    fn one_page_at_a_time(&self) {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let here = self.path.to_str().unwrap();
        let device = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, rest)| rest.split(' ').next() == Some(here))
            .map(|(device, _)| device.trim_start_matches("/dev/").to_owned())
            .unwrap();
        fs::write(format!("/sys/block/{device}/queue/max_sectors_kb"), "4").unwrap();
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

    /// Let everything that was written get its room. What is written to blocks
    /// that had none is written elsewhere from then on.
    pub fn settle(&self) {
        run("sync", &[os("--file-system"), self.path.as_os_str()]);
    }

    /// Unmount and mount again: what is there then comes from the disk.
    pub fn reread(&mut self) {
        run("umount", &[self.path.as_os_str()]);
        let image = self.image.clone().unwrap();
        let again = Self::mount(self.path.clone(), image).unwrap();
        again.one_page_at_a_time();
        // It is the same disk: only one of the two unmounts it.
        std::mem::forget(again);
    }

    /// Turn read-only under whoever has files open, as ext4 does by itself
    /// when it finds itself damaged.
    pub fn abort(&self) {
        run("mount", &[os("-o"), os("remount,abort"), self.path.as_os_str()]);
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
