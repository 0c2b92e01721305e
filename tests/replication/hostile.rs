//! What connects to a replica without being a primary.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use saltus::cli::node::NodeSpec;
use saltus::config::Replica;
use saltus::ids::Epoch;
use saltus::limits::PEER_TIMEOUT;
use saltus::lsn::Lsn;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{ErrorCode, Message, Refusal};

use crate::cluster::{BACKENDS, Cluster, DEADLINE, until};
use crate::feed::{Segment, payload};
use crate::talker::Talker;

/// Read until the replica hangs up. What it said.
#[track_caller]
fn await_hangup(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        // With bytes of ours unread, hanging up is a reset.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => said,
    }
}

fn say(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // It may hang up while we speak.
    let _ = stream.write_all(bytes);
    stream
}

/// A header that is intact, changed as told.
fn forged(kind: Kind, change: impl FnOnce(&mut [u8; 64])) -> [u8; 64] {
    let mut bytes = FrameHeader::bare(kind, Handle(0), Epoch(1)).encode();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn hostile_peers_are_hung_up_on_and_nobody_else_notices() {
    // The silent ones take the time-out, so both backends suffer together.
    std::thread::scope(|scope| {
        for backend in BACKENDS {
            scope.spawn(move || {
                let each = |spec: &mut NodeSpec| spec.backend = backend;
                suffer(Cluster::with(1, each, |_| {}));
            });
        }
    });
}

fn suffer(mut cluster: Cluster) {
    let address = cluster.replicas[0].spec.replication.unwrap();
    let mut segment = cluster.fill("alpha", 3, 100);

    // Those that are given up in time.
    let silent = say(address, &[]);
    let half = say(address, &forged(Kind::Hello, |_| {})[..32]);
    let short = say(address, &forged(Kind::Hello, |b| b[40] = 50));
    // Those that are refused at once.
    let huge = forged(Kind::Hello, |b| b[40..44].copy_from_slice(&u32::MAX.to_le_bytes()));
    let large = forged(Kind::Data, |b| b[40..44].copy_from_slice(&(16_u32 << 20).to_le_bytes()));
    let refused: Vec<Vec<u8>> = vec![
        payload(1, 64),
        payload(2, 5 << 20),
        b"GET / HTTP/1.1\r\nHost: saltus\r\nUser-Agent: a browser, by mistake\r\n\r\n".to_vec(),
        vec![0; 4096],
        huge.to_vec(),
        [large.as_slice(), &payload(3, 16 << 20)].concat(),
        forged(Kind::Hello, |b| b[4] = 99).to_vec(),
        forged(Kind::Hello, |b| b[5] = 99).to_vec(),
        forged(Kind::Ack, |_| {}).to_vec(),
        forged(Kind::Data, |_| {}).to_vec(),
        forged(Kind::OpenSpace, |_| {}).to_vec(),
        forged(Kind::Hello, |_| {}).to_vec(),
    ];
    for bytes in &refused {
        await_hangup(&say(address, bytes));
        segment.records(1, 500);
        cluster.await_flushed("alpha", segment.len());
    }
    // Many at once, who vanish.
    for _ in 0..50 {
        drop(say(address, &refused[0][..20]));
    }
    segment.records(1, 700_000);
    cluster.await_flushed("alpha", segment.len());
    for stream in [&silent, &half, &short] {
        await_hangup(stream);
    }
    assert!(PEER_TIMEOUT < DEADLINE);
    segment.records(1, 500);
    cluster.await_flushed("alpha", segment.len());
    cluster.assert_identical("alpha");
    let there: Vec<_> = fs::read_dir(&cluster.replicas[0].spec.data_root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != ".saltus")
        .collect();
    assert_eq!(there, ["alpha"]);
}

#[test]
fn a_replica_that_is_no_replica_is_given_up() {
    // A listener that accepts and talks nonsense.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&payload(5, 4096)).unwrap();
        await_hangup(&stream);
    });
    let mut cluster = Cluster::with(1, |_| {}, |_| {});
    cluster.primary.terminate();
    let mut nonsense = cluster.replicas[0].as_replica();
    nonsense.id = "nonsense".parse().unwrap();
    nonsense.address = address;
    cluster.primary.spec.replicas.push(nonsense);
    cluster.primary.restart();
    talker.join().unwrap();
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(3, 100);
    until("the other replica is served", || {
        (cluster.replica(0, "alpha")?.flushed_lsn == segment.len()).then_some(())
    });
    let status = cluster.primary.await_problem("alpha", "");
    assert!(status.replicas[1].problem.is_some());
}

#[test]
fn a_replica_that_calls_good_records_damaged_gets_nothing_left_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let skips = |spec: &mut NodeSpec| spec.more = "[wal]\non_corrupt_source = \"skip\"\n".into();
    let mut cluster = Cluster::with(0, skips, |_| {});
    let mut segment = Segment::create(&cluster.primary.wal("alpha"), 1);
    segment.records(5, 300);
    cluster.primary.terminate();
    cluster.primary.spec.replicas.push(Replica { id: "liar".parse().unwrap(), address });
    cluster.primary.restart();
    // Two records that are good, a place within one, one behind the end.
    for at in [0, 2 * 364, 100, 1 << 40] {
        let mut liar = Talker::over(listener.accept().unwrap().0);
        liar.greet("liar");
        liar.accept_space();
        let refusal = Refusal {
            code: ErrorCode::Damaged,
            sentence: "payload CRC32C is wrong".into(),
            at: Lsn(at),
        };
        assert!(liar.say(&Message::Error(refusal), Handle(0), 1));
        if [0, 2 * 364].contains(&at) {
            let said = format!("alpha at lsn {at} came damaged to the replica, and is whole here");
            until(&said, || cluster.primary.log().contains(&said).then_some(()));
        } else {
            let said = format!("a record damaged that begins at {at}, where none does");
            cluster.primary.await_problem("alpha", &said);
        }
    }
    let status = cluster.primary.space("alpha").unwrap();
    assert_eq!((status.holes, status.epoch, status.problem), (vec![], Epoch(1), None));
    assert!(status.head_known && status.head_lsn == segment.len());
}
