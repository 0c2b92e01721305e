//! One peer that is slow, mute, mad or hostile hurts nobody else.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use saltus::config::Replica;
use saltus::engine::status::ReplicaState;
use saltus::ids::Epoch;
use saltus::limits::{FRAME_HEADER_BYTES, MAX_CONNECTIONS, MAX_STRANGERS};
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::Message;

use crate::cluster::{BACKENDS, Cluster, DEADLINE, Node, until};
use crate::feed::{Segment, payload};
use crate::pressure::anonymous_bytes;
use crate::talker::Talker;

fn descriptors(node: &mut Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.process().pid())).unwrap().count()
}

/// Connections that say nothing, or nothing sensible, all at once.
fn crowd(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let hello = FrameHeader::bare(Kind::Hello, Handle::CONNECTION, Epoch(0)).encode();
    let mut huge = hello;
    huge[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&huge[..60]);
    huge[60..].copy_from_slice(&crc.to_le_bytes());
    let mut version = hello;
    version[4] = 99;
    let says = [&[][..], &hello[..32], &payload(7, 300), &huge, &version];
    (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            // It may have hung up already.
            let _ = stream.write_all(says[number % says.len()]);
            stream
        })
        .collect()
}

#[test]
fn a_crowd_that_says_nothing_takes_no_place_from_a_primary() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let address = cluster.replicas[0].spec.replication.unwrap();
        let mut segment = cluster.fill("alpha", 3, 100);
        let (memory, files) =
            (anonymous_bytes(&mut cluster.replicas[0]), descriptors(&mut cluster.replicas[0]));
        // More than a replica accepts of all kinds together.
        let crowd = crowd(address, MAX_CONNECTIONS + 500);
        // The connection that stands goes on.
        segment.records(2, 100);
        cluster.await_flushed("alpha", segment.len());
        // A new one is made.
        cluster.primary.kill();
        cluster.primary.restart();
        segment.records(2, 700_000);
        cluster.await_flushed("alpha", segment.len());
        let more = descriptors(&mut cluster.replicas[0]) - files;
        assert!(more <= MAX_STRANGERS + 8, "{more} descriptors more");
        let more = anonymous_bytes(&mut cluster.replicas[0]).saturating_sub(memory);
        assert!(more < 24 << 20, "{more} bytes of anonymous memory more");
        drop(crowd);
        let log = cluster.replicas[0].log();
        let lines = log.lines().filter(|line| line.contains("a connection from 127.0.0.1")).count();
        assert_eq!(lines, 1, "one line a minute");
        cluster.assert_identical("alpha");
    }
}

#[test]
fn a_flood_of_runs_is_held_back_and_nobody_else_is() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 1);
        let segment = cluster.fill("alpha", 3, 100);
        let mut flood =
            Talker::primary(cluster.replicas[0].spec.replication.unwrap(), "somebody-else");
        assert_eq!(flood.open(Handle(0), "beta").unwrap().flushed.0, 0);
        let flooding = std::thread::spawn(move || {
            // Far more than the keeper's queue holds.
            let sent = (0..20_000).take_while(|n| flood.run(Handle(0), *n, u64::from(*n))).count();
            (flood, sent)
        });
        // Each new segment needs the keeper too.
        let mut total = segment.len();
        for number in 2..12 {
            let mut next = Segment::create(&cluster.primary.wal("alpha"), number);
            total += next.records(2, 100).len();
            cluster.await_flushed("alpha", total);
            assert_eq!(cluster.replicas[0].status().problem, None, "every shard answers");
        }
        cluster.replicas[0].signal(nix::sys::signal::Signal::SIGKILL);
        let (_, sent) = flooding.join().unwrap();
        assert!(sent > 0);
    }
}

#[test]
fn a_run_that_comes_twice_ends_its_space_by_name_and_no_more() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    let address = cluster.replicas[0].spec.replication.unwrap();
    let mut first = Talker::primary(address, "somebody");
    first.open(Handle(0), "beta").unwrap();
    assert!(first.run(Handle(0), 0, 1));
    until("the run is recorded", || {
        cluster.replicas[0].wal("beta").join("wal-0000000000000001.log").exists().then_some(())
    });
    drop(first);
    // On a new connection the same run is announced as the next one.
    let standing = until("the space is free again", || {
        let mut second = Talker::primary(address, "somebody");
        let open = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            second.open(Handle(0), "beta")
        }));
        open.ok().flatten().map(|standing| (second, standing))
    });
    let (mut second, standing) = standing;
    assert_eq!(standing.runs, 1);
    assert!(second.run(Handle(0), 1, 1));
    let refusal = loop {
        if let Message::Error(refusal) = second.hear().expect("the connection stands") {
            break refusal;
        }
    };
    assert!(refusal.sentence.contains("a second time"), "{refusal:?}");
    cluster.fill("alpha", 3, 100);
}

#[test]
fn a_primary_that_sends_a_byte_at_a_time_is_given_up() {
    std::thread::scope(|scope| {
        for backend in BACKENDS {
            scope.spawn(move || {
                let mut cluster = Cluster::start(backend, 1);
                let address = cluster.replicas[0].spec.replication.unwrap();
                let mut slow = Talker::primary(address, "slowly");
                slow.open(Handle(0), "beta").unwrap();
                let header = FrameHeader::bare(Kind::Heartbeat, Handle::CONNECTION, Epoch(0));
                // So that it would take longer than anybody waits here to make a
                // frame, or to be none.
                let pause = DEADLINE / u32::try_from(FRAME_HEADER_BYTES).unwrap();
                for byte in header.encode() {
                    if slow.stream.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(pause);
                }
                slow.await_hangup();
                let log = cluster.replicas[0].log();
                assert!(log.contains("the primary sends more slowly than any link"), "{log}");
                cluster.fill("alpha", 3, 100);
            });
        }
    });
}

#[test]
fn a_replica_that_reads_a_byte_at_a_time_is_given_up_and_delays_nobody() {
    std::thread::scope(|scope| {
        for backend in BACKENDS {
            scope.spawn(move || suffer_slow_reader(Cluster::start(backend, 1)));
        }
    });
}

fn suffer_slow_reader(mut cluster: Cluster) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let slow = std::thread::spawn(move || {
        let mut talker = Talker::over(listener.accept().unwrap().0);
        talker.greet("slowly");
        talker.accept_space();
        // It lives, says so, and hardly takes anything.
        let mut byte = [0];
        let began = Instant::now();
        while talker.heartbeat() && talker.stream.read(&mut byte).is_ok_and(|bytes| bytes > 0) {
            assert!(began.elapsed() < DEADLINE, "it is still spoken to");
            // How slow it is.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    cluster.primary.terminate();
    cluster.primary.spec.replicas.push(Replica { id: "slowly".parse().unwrap(), address });
    // More than any socket holds.
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(64, (1 << 20) - 64);
    cluster.primary.restart();
    until("the other replica is served", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == segment.len()).then_some(())
    });
    slow.join().unwrap();
    let status = until("it is told", || {
        let status = cluster.primary.space("alpha")?;
        (status.replicas[1].connection.failures > 0).then_some(status)
    });
    assert!(status.replicas[1].problem.is_some(), "{status:?}");
    assert_eq!(status.replicas[0].state, ReplicaState::Healthy);
}

#[test]
fn a_replica_that_is_away_is_degraded_and_comes_back_by_itself() {
    for backend in BACKENDS {
        let mut cluster = Cluster::start(backend, 2);
        let mut segments: Vec<_> = (0..20)
            .map(|number| {
                let space = format!("space-{number}");
                let segment = Segment::create(&cluster.primary.wal(&space), 1);
                (space, segment)
            })
            .collect();
        for (space, segment) in &mut segments {
            segment.records(2, 100);
            cluster.await_flushed(space, segment.len());
        }
        cluster.replicas[0].kill();
        let status = until("it is degraded", || {
            let status = cluster.replica(0, "space-0")?;
            (status.state == ReplicaState::Degraded).then_some(status)
        });
        let connection = status.connection;
        assert!(!connection.up && connection.failures >= 3, "{connection:?}");
        assert!(connection.since_seconds.is_some_and(|since| since > 0.0), "{connection:?}");
        assert!(status.problem.unwrap().contains("cannot connect"));
        assert!(cluster.primary.log().contains("degraded: 3 attempts in a row have failed"));
        for (space, segment) in &mut segments {
            segment.records(2, 100);
            let other = || (cluster.replica(1, space)?.flushed_lsn == segment.len()).then_some(());
            until("the other one has it meanwhile", other);
        }
        cluster.replicas[0].restart();
        for (space, segment) in &segments {
            cluster.await_flushed(space, segment.len());
            cluster.assert_identical(space);
        }
        let status = cluster.replica(0, "space-0").unwrap();
        assert_eq!(status.state, ReplicaState::Healthy);
        assert!(status.connection.up && status.connection.failures == 0, "{status:?}");
    }
}

#[test]
fn a_primary_that_is_stopped_does_not_speak_of_further_attempts() {
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.fill("alpha", 3, 100);
    // What a busy machine made it say before is no matter.
    let before = cluster.primary.log().len();
    cluster.primary.terminate();
    let log = cluster.primary.log();
    let last = &log[before..];
    assert!(!last.contains("next attempt") && !last.contains("WARN"), "{log}");
}
