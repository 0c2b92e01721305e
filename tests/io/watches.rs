//! What happens in directories.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;

use saltus::io::WatchEvent;

use crate::rig::on_every_backend;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn name(name: &str) -> OsString {
    OsString::from(name)
}

#[test]
fn entries_appear_grow_move_and_vanish() {
    on_every_backend(|mut rig| {
        let root = directory();
        let id = rig.backend.watch(root.path()).unwrap();
        let mut file = File::create(root.path().join("a")).unwrap();
        rig.events_until(|event| *event == WatchEvent::Appeared(id, name("a")));
        file.write_all(b"bytes").unwrap();
        rig.events_until(|event| *event == WatchEvent::Modified(id, name("a")));
        fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        let events = rig.events_until(|event| *event == WatchEvent::Appeared(id, name("b")));
        assert!(events.contains(&WatchEvent::Vanished(id, name("a"))));
        fs::remove_file(root.path().join("b")).unwrap();
        rig.events_until(|event| *event == WatchEvent::Vanished(id, name("b")));
        fs::create_dir(root.path().join("space")).unwrap();
        rig.events_until(|event| *event == WatchEvent::Appeared(id, name("space")));
    });
}

// Elsewhere only what has a path is reported: the engine looks at its open
// segments from time to time instead.
#[test]
#[cfg(target_os = "linux")]
fn an_unlinked_file_that_grows_is_still_noticed() {
    on_every_backend(|mut rig| {
        let root = directory();
        let path = root.path().join("wal-0.log");
        let mut file = File::create(&path).unwrap();
        let id = rig.backend.watch(root.path()).unwrap();
        fs::remove_file(&path).unwrap();
        rig.events_until(|event| *event == WatchEvent::Vanished(id, name("wal-0.log")));
        file.write_all(b"bytes").unwrap();
        rig.events_until(|event| *event == WatchEvent::Modified(id, name("wal-0.log")));
    });
}

#[test]
fn a_directory_that_goes_away_ends_its_watch() {
    on_every_backend(|mut rig| {
        let root = directory();
        let (gone, moved) = (root.path().join("gone"), root.path().join("moved"));
        fs::create_dir(&gone).unwrap();
        fs::create_dir(&moved).unwrap();
        let gone_id = rig.backend.watch(&gone).unwrap();
        let moved_id = rig.backend.watch(&moved).unwrap();
        fs::remove_dir(&gone).unwrap();
        rig.events_until(|event| *event == WatchEvent::Ended(gone_id));
        fs::rename(&moved, root.path().join("elsewhere")).unwrap();
        rig.events_until(|event| *event == WatchEvent::Ended(moved_id));
        // The name can be watched anew, under a new id.
        fs::create_dir(&gone).unwrap();
        let id = rig.backend.watch(&gone).unwrap();
        assert_ne!(id, gone_id);
        File::create(gone.join("x")).unwrap();
        rig.events_until(|event| *event == WatchEvent::Appeared(id, name("x")));
    });
}

#[test]
fn watches_are_told_apart_and_can_end() {
    on_every_backend(|mut rig| {
        let (one, two) = (directory(), directory());
        let first = rig.backend.watch(one.path()).unwrap();
        let second = rig.backend.watch(two.path()).unwrap();
        assert_ne!(first, second);
        assert_eq!(rig.backend.watch(one.path()).unwrap(), first);
        rig.backend.unwatch(first);
        File::create(one.path().join("unseen")).unwrap();
        File::create(two.path().join("seen")).unwrap();
        let events = rig.events_until(|event| *event == WatchEvent::Appeared(second, name("seen")));
        let of_first =
            |event: &&WatchEvent| matches!(event, WatchEvent::Appeared(id, _) if *id == first);
        assert_eq!(events.iter().find(of_first), None);
    });
}

#[test]
fn who_watches_names_is_not_told_what_is_written() {
    on_every_backend(|mut rig| {
        let root = directory();
        let id = rig.backend.watch_names(root.path()).unwrap();
        let mut file = File::create(root.path().join("a")).unwrap();
        file.write_all(b"bytes").unwrap();
        fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        file.write_all(b"bytes").unwrap();
        fs::remove_file(root.path().join("b")).unwrap();
        let events = rig.events_until(|event| *event == WatchEvent::Vanished(id, name("b")));
        let written = |event: &&WatchEvent| matches!(event, WatchEvent::Modified(..));
        assert_eq!(events.iter().find(written), None);
        assert!(events.contains(&WatchEvent::Appeared(id, name("a"))));
        assert!(events.contains(&WatchEvent::Vanished(id, name("a"))));
    });
}

#[test]
fn what_is_no_directory_cannot_be_watched() {
    on_every_backend(|mut rig| {
        let root = directory();
        rig.backend.watch(&root.path().join("missing")).unwrap_err();
        File::create(root.path().join("file")).unwrap();
        rig.backend.watch(&root.path().join("file")).unwrap_err();
    });
}
