//! When nothing is rebuilt, and what is said then.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;

use crate::cluster::Cluster;
use crate::disk::{own_mounts, run};
use crate::{copy, foreign, lose, rebuild, rebuilding, said, state};

#[test]
fn a_good_catalog_is_left_as_it_is() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.fill("alpha", 5, 400);
    // While the node runs, nobody else may use its catalog.
    let text = said(&rebuild(&cluster, &[]), 3);
    assert!(text.contains("open in another process"), "{text}");
    cluster.replicas[0].terminate();
    for more in [&[][..], &["--space", "alpha"]] {
        let text = said(&rebuild(&cluster, more), 0);
        assert!(text.contains("alpha: in the catalog already"), "{text}");
    }
    let report: serde_json::Value =
        serde_json::from_str(&said(&rebuild(&cluster, &["--json"]), 0)).unwrap();
    assert_eq!(report["spaces"][0]["verdict"], "known");
    assert_eq!((&report["node"], &report["from"]), (&"replica-1".into(), &"primary".into()));
}

#[test]
fn another_log_is_not_taken_for_the_primarys() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 5, 400);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    fs::write(copy(&cluster, &segment), foreign(4)).unwrap();
    let text = said(&rebuild(&cluster, &[]), 1);
    assert!(text.contains("NOT REBUILT") && text.contains("not even the first"), "{text}");
    assert_eq!(fs::read(copy(&cluster, &segment)).unwrap(), foreign(4));
}

#[test]
fn a_wrong_address_is_said_before_anything_is_done() {
    let mut cluster = Cluster::with(2, |_| {}, |_| {});
    cluster.fill("alpha", 5, 400);
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    let from = |admin| rebuilding(&cluster.replicas[0], admin, &[]).output().unwrap();
    // Another replica ships nothing; nobody answers; nothing is here.
    let text = said(&from(cluster.replicas[1].spec.admin), 1);
    assert!(text.contains("ships no space to replica-1"), "{text}");
    let text = said(&from(SocketAddr::from(([127, 0, 0, 1], 1))), 3);
    assert!(text.contains("no saltus answers"), "{text}");
    let text = said(&rebuild(&cluster, &["--space", "alpha", "--space", "nope"]), 2);
    assert!(text.contains("primary has no space nope"), "{text}");
    assert!(!state(&cluster.replicas[0]).exists(), "nothing was begun");
    fs::remove_dir_all(cluster.replicas[0].wal("alpha")).unwrap();
    let text = said(&rebuild(&cluster, &["--space", "alpha"]), 0);
    assert!(text.contains("no segment of it is here"), "{text}");
}

/// A mount that turned read-only, say: nothing is changed, and it is said where.
#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    if !own_mounts() {
        return;
    }
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let segment = cluster.fill("alpha", 5, 400);
    let lsn = segment.len();
    cluster.replicas[0].terminate();
    lose(&cluster.replicas[0]);
    let root = cluster.replicas[0].spec.data_root.clone();
    run("mount", &[OsStr::new("--bind"), root.as_os_str(), root.as_os_str()]);
    // Once without a state directory, once with one from an earlier attempt.
    for begun in [false, true] {
        if begun {
            fs::create_dir(state(&cluster.replicas[0])).unwrap();
        }
        run("mount", &[OsStr::new("-o"), OsStr::new("remount,bind,ro"), root.as_os_str()]);
        let text = said(&rebuild(&cluster, &["--check"]), 0);
        assert!(text.contains(&format!("can be rebuilt up to lsn {lsn}")), "{text}");
        let text = said(&rebuild(&cluster, &[]), 2);
        let place = state(&cluster.replicas[0]).display().to_string();
        assert!(text.contains(&place) && text.contains("nothing was done"), "{text}");
        assert_eq!(text.matches("Read-only file system").count(), 1, "{text}");
        assert!(fs::read(copy(&cluster, &segment)).unwrap() == segment.content);
        run("mount", &[OsStr::new("-o"), OsStr::new("remount,bind,rw"), root.as_os_str()]);
    }
    let text = said(&rebuild(&cluster, &[]), 0);
    assert!(text.contains(&format!("REBUILT up to lsn {lsn}")), "{text}");
    cluster.replicas[0].restart();
    cluster.await_flushed("alpha", lsn);
    cluster.assert_identical("alpha");
}
