//! Bytes that were there and are gone, or cannot be put anywhere.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use saltus::limits::MAX_RECORD_PAYLOAD_BYTES;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::feed::{Segment, record};

#[test]
fn a_replica_that_lost_what_it_had_says_so_and_gets_it_again() {
    for lost in ["shortened", "removed", "damaged"] {
        let mut cluster = Cluster::with(1, |_| {}, |_| {});
        let mut segment = cluster.fill("alpha", 10, 400);
        // A clean stop records how far it is.
        cluster.replicas[0].terminate();
        cluster.primary.terminate();
        let copy = cluster.replicas[0].wal("alpha").join(segment.path.file_name().unwrap());
        let file = File::options().write(true).open(&copy).unwrap();
        match lost {
            "shortened" => file.set_len(3000).unwrap(),
            "removed" => fs::remove_file(&copy).unwrap(),
            _ => file.write_all_at(&[7; 10], 4600).unwrap(),
        }
        drop(file);
        let found = fs::read(&copy).ok();
        cluster.replicas[0].restart();
        let name = copy.file_name().unwrap().to_str().unwrap().to_owned();
        cluster.replicas[0].await_problem("alpha", &name);
        assert_eq!(fs::read(&copy).ok(), found, "nothing of it changes while nobody can help");
        segment.records(1, 400);
        cluster.primary.restart();
        cluster.await_flushed("alpha", segment.len());
        until("what was lost is there again", || {
            (cluster.replicas[0].space("alpha")?.problem.is_none()).then_some(())
        });
        cluster.assert_identical("alpha");
        let scrub = cluster.replicas[0].status().scrub;
        assert_eq!((scrub.healed_ranges, scrub.bad_ranges.len()), (1, 0), "{scrub:?}");
        let kept = cluster.replicas[0].spec.data_root.join(".saltus/quarantine/alpha");
        let kept = fs::read_dir(kept).map_or(0, Iterator::count);
        assert!(kept > 0, "what was there before is kept");
        // And it stays so.
        cluster.replicas[0].kill();
        cluster.replicas[0].restart();
        segment.records(1, 400);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_disk_that_takes_no_more_stops_nothing_else() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        // A limit on the size of files stands in for a full disk.
        let program = cluster.directory.path().join("limited");
        let binary = env!("CARGO_BIN_EXE_saltus");
        let script = format!("#!/bin/bash\ntrap '' XFSZ\nulimit -f 8192\nexec {binary} \"$@\"\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        assert!(Command::new(&program).arg("--version").output().unwrap().status.success());
        let unlimited = std::mem::replace(&mut cluster.replicas[0].spec.program, program);
        cluster.replicas[0].terminate();
        cluster.replicas[0].restart();

        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let mut other = Segment::create(&cluster.primary.wal("beta"), 1);
        other.records(1, 10);
        segment.records(9, 1 << 20).records(100, 1000);
        cluster.primary.await_problem("alpha", "failed");
        other.records(1, 10);
        cluster.await_flushed("beta", other.len());
        until("the other replica has all of it", || {
            (cluster.replica(1, "alpha")?.flushed_lsn == segment.len()).then_some(())
        });
        let flushed = cluster.replica(0, "alpha").unwrap().flushed_lsn;
        assert!(flushed <= 8 << 20, "{flushed} bytes are flushed in a file of 8 MiB");
        cluster.replicas[0].terminate();
        cluster.replicas[0].spec.program = unlimited;
        cluster.replicas[0].restart();
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        assert_eq!(cluster.replica(0, "alpha").unwrap().problem, None);
    }
}

#[test]
fn the_largest_record_is_carried_and_a_larger_one_is_not() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
        let largest = MAX_RECORD_PAYLOAD_BYTES as usize;
        segment.records(1, 10).records(2, largest).records(3, 10);
        cluster.await_flushed("alpha", segment.len());
        cluster.assert_identical("alpha");
        let mut huge = record(9, 100);
        huge[24..28].copy_from_slice(&(MAX_RECORD_PAYLOAD_BYTES + 1).to_le_bytes());
        segment.raw(&huge);
        let status = cluster.primary.await_problem("alpha", "offset");
        assert_eq!(status.head_lsn, segment.len() - huge.len() as u64);
    }
}
