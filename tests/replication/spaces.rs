//! Which directories of a data root are shipped, and what is said of others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use saltus::engine::status::Ignored;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::Segment;

fn names(ignored: &Ignored) -> Vec<&str> {
    ignored.directories.iter().map(|directory| directory.name.as_str()).collect()
}

fn listed(cluster: &mut Cluster) -> Vec<String> {
    let spaces = cluster.primary.status().spaces;
    spaces.iter().map(|space| space.space.to_string()).collect()
}

fn root_of(cluster: &Cluster) -> PathBuf {
    cluster.primary.spec.data_root.clone()
}

/// Lines of the primary's log that speak of a name.
fn told(cluster: &Cluster, name: &str) -> usize {
    let name = format!("the directory {name:?} is not shipped");
    cluster.primary.log().lines().filter(|line| line.contains(&name)).count()
}

#[test]
fn log_that_no_space_can_have_is_told_once_and_listed() {
    for backend in BACKENDS {
        let mut cluster = Cluster::with(
            1,
            |spec| spec.backend = backend,
            |root| {
                Segment::create(&root.join("Space Three/wal"), 1).records(3, 100);
                // Hidden, or without a log: nothing to say of them.
                fs::create_dir_all(root.join(".hidden/wal")).unwrap();
                fs::create_dir_all(root.join("Later")).unwrap();
            },
        );
        let mut alpha = Segment::create(&cluster.primary.wal("alpha"), 1);
        alpha.records(3, 100);
        cluster.await_flushed("alpha", alpha.len());
        until("the first one is listed", || {
            (names(&cluster.primary.status().ignored) == ["Space Three"]).then_some(())
        });
        // While it runs: with its log at once, and with a log that comes later.
        Segment::create(&cluster.primary.wal("UPPER"), 1).records(1, 10);
        fs::create_dir(cluster.primary.spec.data_root.join("Later/wal")).unwrap();
        let ignored = until("all are listed", || {
            let ignored = cluster.primary.status().ignored;
            (ignored.count == 3).then_some(ignored)
        });
        assert_eq!(names(&ignored), ["Later", "Space Three", "UPPER"]);
        assert!(ignored.directories[0].reason.contains("3 to 64 characters of a-z"));
        for name in names(&ignored) {
            assert_eq!(told(&cluster, name), 1, "{name}: {}", cluster.primary.log());
        }
        assert_eq!(listed(&mut cluster), ["alpha"]);
        // Who puts it right sees it shipped, and nothing listed.
        let root = root_of(&cluster);
        fs::rename(root.join("UPPER"), root.join("upper")).unwrap();
        let upper = fs::read_dir(root.join("upper/wal")).unwrap().next().unwrap().unwrap();
        let bytes = upper.metadata().unwrap().len();
        cluster.await_flushed("upper", bytes);
        assert_eq!(cluster.primary.status().ignored.count, 2);
        fs::remove_dir_all(root_of(&cluster).join("Later")).unwrap();
        until("what is gone is not listed", || {
            (names(&cluster.primary.status().ignored) == ["Space Three"]).then_some(())
        });
    }
}

#[test]
fn directory_without_a_log_is_listed_once_it_has_one() {
    let mut cluster = Cluster::with(1, |_| {}, |root| fs::create_dir(root.join("empty")).unwrap());
    let mut alpha = Segment::create(&cluster.primary.wal("alpha"), 1);
    alpha.records(3, 100);
    // By then the directory was looked at as well.
    cluster.await_flushed("alpha", alpha.len());
    assert_eq!(listed(&mut cluster), ["alpha"]);
    let mut late = Segment::create(&cluster.primary.wal("empty"), 1);
    late.records(2, 100);
    cluster.await_flushed("empty", late.len());
    assert_eq!(listed(&mut cluster), ["alpha", "empty"]);
}

#[test]
fn link_to_a_log_that_is_shipped_is_no_second_space() {
    for backend in BACKENDS {
        let mut cluster = Cluster::with(
            1,
            |spec| spec.backend = backend,
            |root| {
                Segment::create(&root.join("beta/wal"), 1).records(3, 100);
                symlink("beta", root.join("alias")).unwrap();
                fs::create_dir(root.join("late")).unwrap();
            },
        );
        let root = root_of(&cluster);
        // Nor is one that appears later, whichever part of the path it is.
        symlink("beta", root.join("aaa")).unwrap();
        symlink("../beta/wal", root.join("late/wal")).unwrap();
        let ignored = until("all are listed", || {
            let ignored = cluster.primary.status().ignored;
            (ignored.count == 3).then_some(ignored)
        });
        assert_eq!(names(&ignored), ["aaa", "alias", "late"]);
        assert!(ignored.directories[0].reason.contains("space beta under another name"));
        // The log itself is followed as before.
        let mut more = Segment::create(&cluster.primary.wal("beta"), 2);
        more.records(5, 100);
        let first = fs::metadata(root.join("beta/wal/wal-0000000000000001.log")).unwrap().len();
        cluster.await_flushed("beta", first + more.len());
        more.records(5, 100);
        cluster.await_flushed("beta", first + more.len());
        assert_eq!(listed(&mut cluster), ["beta"]);
        assert!(!cluster.replicas[0].wal("alias").exists());
        cluster.assert_identical("beta");
    }
}
