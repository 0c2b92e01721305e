//! A replica that failed again and again proves itself with a single space
//! first, whatever happens to that space and to the others meanwhile.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use saltus::config::Replica;
use saltus::ids::Epoch;
use saltus::lsn::Lsn;
use saltus::protocol::frame::{FrameHeader, Handle, Kind};
use saltus::protocol::message::{ErrorCode, Message, OpenSpace, Refusal};
use tempfile::TempDir;

use crate::cluster::{DEADLINE, Node, spec, until};
use crate::feed::Segment;
use crate::talker::Talker;

/// The bytes of the records that each space begins with.
const RECORD_BYTES: u64 = 464;

/// A primary of two spaces, and places where its replicas may listen.
struct Scene {
    primary: Node,
    segments: [Segment; 2],
    _directory: TempDir,
}

fn scene(replicas: &[&TcpListener]) -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec("primary", directory.path(), false);
    spec.shards = 1;
    spec.replicas = (1..)
        .zip(replicas)
        .map(|(number, listener)| Replica {
            id: format!("replica-{number}").parse().unwrap(),
            address: listener.local_addr().unwrap(),
        })
        .collect();
    let segments = ["alpha", "beta"].map(|space| {
        let mut segment = Segment::create(&spec.data_root.join(space).join("wal"), 1);
        segment.records(10, 400);
        segment
    });
    let mut primary = Node::start(spec);
    for space in ["alpha", "beta"] {
        until("all that is there is walked", || {
            (primary.space(space)?.head_lsn == 10 * RECORD_BYTES).then_some(())
        });
    }
    Scene { primary, segments, _directory: directory }
}

fn answer(listener: &TcpListener, node: &str) -> Talker {
    let mut talker = Talker::over(listener.accept().unwrap().0);
    talker.greet(node);
    talker
}

/// The next space that is opened, whatever else is said before.
fn opened(talker: &mut Talker) -> (Handle, OpenSpace) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "no space is opened within {DEADLINE:?}");
        let (header, message) = talker.frame().expect("the primary goes on");
        if let Message::OpenSpace(open) = message {
            return (header.handle, open);
        }
        talker.heartbeat();
    }
}

/// A replica that fails until it is degraded, and then answers: the one space
/// by which it is to prove itself.
fn doubted(scene: &mut Scene, listener: &TcpListener) -> (Talker, Handle, OpenSpace) {
    let mut damaged = FrameHeader::bare(Kind::Heartbeat, Handle::CONNECTION, Epoch(0)).encode();
    damaged[63] ^= 1;
    for _ in 0..3 {
        let mut talker = Talker::over(listener.accept().unwrap().0);
        talker.stream.write_all(&damaged).unwrap();
        talker.await_hangup();
    }
    let status = scene.primary.space("alpha").unwrap();
    assert!(status.replicas[0].connection.failures >= 3, "{status:?}");
    let mut talker = answer(listener, "replica-1");
    let (handle, open) = opened(&mut talker);
    (talker, handle, open)
}

#[test]
fn a_replica_that_has_to_prove_itself_is_asked_for_one_space_until_it_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = scene(&[&listener]);
    let (mut talker, handle, open) = doubted(&mut scene, &listener);
    // With nothing else to say a primary says heartbeats.
    for _ in 0..2 {
        let heard = talker.hear();
        assert!(matches!(heard, Some(Message::Heartbeat(_))), "{heard:?}");
        assert!(talker.heartbeat());
    }
    talker.accept(handle, &open);
    let (_, other) = opened(&mut talker);
    assert_ne!(other.space, open.space);
}

#[test]
fn an_epoch_that_begins_while_a_replica_proves_itself_is_opened_once_it_has() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = scene(&[&listener]);
    let (mut talker, handle, open) = doubted(&mut scene, &listener);
    let other = usize::from(open.space.as_str() == "alpha");
    let name = ["alpha", "beta"][other];
    // Its tail is lost, as after a crash of the host.
    let file = File::options().write(true).open(&scene.segments[other].path).unwrap();
    file.set_len(5 * RECORD_BYTES).unwrap();
    until("a new epoch begins", || (scene.primary.space(name)?.epoch == Epoch(2)).then_some(()));
    talker.accept(handle, &open);
    let (_, open) = opened(&mut talker);
    assert_eq!((open.space.as_str(), open.epoch()), (name, Some(Epoch(2))));
    assert_eq!(scene.primary.status().problem, None);
}

#[test]
fn a_replica_proves_itself_by_another_space_when_the_one_it_was_asked_for_is_fenced() {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let [first, second] = &listeners;
    let mut scene = scene(&[first, second]);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let tell = tell;
        scope.spawn(move || {
            let mut talker = answer(second, "replica-2");
            while talker.hear().is_some() {
                talker.heartbeat();
                match told.try_recv() {
                    Ok(handle) => {
                        let code = ErrorCode::Fenced;
                        let sentence = "a higher epoch was seen".to_owned();
                        let refusal = Refusal { code, sentence, at: Lsn::ZERO };
                        talker.say(&Message::Error(refusal), handle, 5);
                    }
                    Err(mpsc::TryRecvError::Disconnected) => return,
                    Err(mpsc::TryRecvError::Empty) => {}
                }
            }
        });
        let (mut talker, handle, asked) = doubted(&mut scene, first);
        tell.send(handle).unwrap();
        let (handle, open) = opened(&mut talker);
        assert_ne!(open.space, asked.space);
        talker.accept(handle, &open);
        let status = scene.primary.space(asked.space.as_str()).unwrap();
        assert_eq!(status.highest_epoch, Some(Epoch(5)), "{status:?}");
    });
}
