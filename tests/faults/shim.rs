//! The program under test behind a shim in C, which makes calls fail that
//! nothing else here can. It stands before calls of the C library only, so it
//! is for the portable backend: the ring's operations go past it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skipped::skipped;

#[derive(Debug)]
pub struct Shim {
    directory: PathBuf,
}

impl Shim {
    /// Build it. `None`, said aloud, where there is no C compiler.
    pub fn build(directory: &Path) -> Option<Self> {
        let directory = directory.join("shim");
        fs::create_dir_all(&directory).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&directory.join("shim.so"), &source])
            .arg("-ldl")
            .status();
        if !built.is_ok_and(|status| status.success()) {
            skipped("no C compiler to build the shim with");
            return None;
        }
        Some(Self { directory })
    }

    /// The program, behind the shim.
    pub fn program(&self) -> PathBuf {
        let path = self.directory.join("saltus");
        let script = format!(
            "#!/bin/sh\nSALTUS_SHIM='{0}' LD_PRELOAD='{0}/shim.so' exec '{1}' \"$@\"\n",
            self.directory.display(),
            env!("CARGO_BIN_EXE_saltus")
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Switch a fault on.
    pub fn set(&self, fault: &str, text: &str) {
        // Nobody must see half of it.
        let new = self.directory.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.directory.join(fault)).unwrap();
    }

    /// Switch it off.
    pub fn clear(&self, fault: &str) {
        fs::remove_file(self.directory.join(fault)).unwrap();
    }
}
