#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::engine::keeper::Job;
use crate::ids::{NodeUuid, SegmentName, StreamId};
use crate::io::Socket;
use crate::limits::COMPARE_PATIENCE;
use crate::lsn::{Chain, Lsn, Mark};
use crate::protocol::frame::{FrameHeader, Kind, VERSION};
use crate::protocol::message::{Fetch, Hello, Identity, Message, OpenSpace, Refusal};
use crate::state::catalog::{Role, SpaceRecord};
use crate::state::runs::Run;
use crate::wal::record::Checksums;

const SPACE: Handle = Handle(0);

fn identity(node: &str, uuid: u128) -> Identity {
    let (cluster, node) = ("test".parse().unwrap(), node.parse().unwrap());
    Identity { cluster, node, uuid: NodeUuid(uuid) }
}

/// A peer, and its primary's end of the connection.
struct Rig {
    peer: Peer,
    now: Now,
    _other_end: UnixStream,
}

impl Rig {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ns: 1 };
        let (socket, other_end) = UnixStream::pair().unwrap();
        let socket = Arc::new(Socket::from(socket));
        let address = "127.0.0.1:1".parse().unwrap();
        let me = identity("replica", 1);
        let peer =
            Peer::new(now, me, socket, address, 0, Checksums::Required, Duration::from_millis(0));
        let mut rig = Self { peer, now, _other_end: other_end };
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            shard: 0,
            features: 0,
            identity: identity("primary", 2),
        };
        rig.hears(Handle::CONNECTION, &Message::Hello(hello));
        assert_eq!(rig.says(), [Kind::HelloAck]);
        rig
    }

    /// The primary says something: what the peer asks for.
    fn hears(&mut self, handle: Handle, message: &Message) -> Vec<Action> {
        let mut frame = Vec::new();
        let epoch = if handle == Handle::CONNECTION { Epoch(0) } else { Epoch::FIRST };
        message.encode(handle, epoch, &mut frame);
        let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
        let intent = self.peer.machine.handle_frame(self.now, &header, &frame[64..]);
        let mut actions = Vec::new();
        if let Some(intent) = intent {
            self.peer.obey(self.now, intent, None, &mut actions);
        }
        self.peer.give_back(&mut actions);
        actions
    }

    /// What the peer answers, by kind.
    fn says(&mut self) -> Vec<Kind> {
        let mut said = Vec::new();
        while let Some(bytes) = self.peer.machine.poll_transmit(self.now) {
            let mut rest = bytes.as_slice();
            while let Some(raw) = rest.first_chunk() {
                let header = FrameHeader::decode(raw).unwrap();
                said.push(header.kind);
                rest = &rest[64 + header.payload_bytes as usize..];
            }
        }
        said
    }

    fn opens(&mut self) {
        let open = OpenSpace {
            space: "alpha".parse().unwrap(),
            stream: StreamId(5),
            history: vec![(Epoch::FIRST, Lsn::ZERO)],
            head: Lsn(500),
        };
        let asked = self.hears(SPACE, &Message::OpenSpace(open));
        assert!(matches!(asked.as_slice(), [Action::Open(..)]), "{asked:?}");
    }

    /// The keeper lends the space.
    fn lends(&mut self) {
        self.lends_up_to(Lsn(200));
    }

    /// The same, of which the primary's epochs have ended what lies behind.
    fn lends_up_to(&mut self, common: Lsn) {
        let history = vec![(Epoch::FIRST, Lsn::ZERO)];
        let mut record = SpaceRecord::new(Role::Replica, StreamId(5), history);
        let segment = SegmentName(1);
        record.runs.open(Run { start: Lsn::ZERO, segment, file: 1, offset: 0, bytes: None });
        let mark = Mark { lsn: Lsn(200), chain: Chain(7), records: 2, ..Mark::START };
        let loan = Loan { record, mark, common };
        self.peer.opened(self.now, SPACE, Ok(loan), &mut Vec::new());
    }
}

/// A session has asked, is over, and the space is opened again before the
/// keeper has answered.
fn question_of_a_session_that_is_over() -> (Rig, u64) {
    let mut rig = Rig::new();
    rig.opens();
    rig.lends();
    assert_eq!(rig.says(), [Kind::OpenAck]);
    let asked = rig.hears(SPACE, &Message::Match(Lsn(100)));
    let [Action::Match(_, _, question, _)] = asked[..] else { panic!("{asked:?}") };
    let refusal = Refusal {
        code: ErrorCode::NewEpoch,
        sentence: "a new epoch begins".to_owned(),
        at: Lsn::ZERO,
    };
    let back = rig.hears(SPACE, &Message::Error(refusal));
    assert!(matches!(back.as_slice(), [Action::Job(Job::CloseReplica { .. })]), "{back:?}");
    assert_eq!(rig.says(), [Kind::Error]);
    rig.opens();
    (rig, question)
}

fn over() -> Result<Boundary, Unmatched> {
    let why = "the session that has asked is over".to_owned();
    Err(Unmatched::Refused(ErrorCode::Protocol, why))
}

#[test]
fn an_answer_to_a_session_that_is_over_does_not_stop_the_next_while_it_is_opened() {
    let (mut rig, question) = question_of_a_session_that_is_over();
    rig.peer.matched(rig.now, SPACE, question, over());
    rig.lends();
    assert_eq!(rig.says(), [Kind::OpenAck], "the primary is told that its space is open");
    assert!(rig.peer.logs[&SPACE].stopped().is_none());
}

#[test]
fn an_answer_to_a_session_that_is_over_does_not_stop_the_next_one() {
    let (mut rig, question) = question_of_a_session_that_is_over();
    rig.lends();
    rig.peer.matched(rig.now, SPACE, question, over());
    assert_eq!(rig.says(), [Kind::OpenAck]);
    assert!(rig.peer.logs[&SPACE].stopped().is_none() && rig.peer.ended.is_empty());
    // Its own question is answered.
    let asked = rig.hears(SPACE, &Message::Match(Lsn(100)));
    let [Action::Match(_, _, question, _)] = asked[..] else { panic!("{asked:?}") };
    let found = Boundary { lsn: Lsn(100), chain: Chain(3), records: 1 };
    rig.peer.matched(rig.now, SPACE, question, Ok(found));
    assert_eq!(rig.says(), [Kind::Matched]);
}

/// A question of the primary, to which the answer is that what is here is damaged.
fn damaged_on_the_way() -> Rig {
    let mut rig = Rig::new();
    rig.opens();
    rig.lends_up_to(Lsn(150));
    assert_eq!(rig.says(), [Kind::OpenAck]);
    let asked = rig.hears(SPACE, &Message::Match(Lsn(100)));
    let [Action::Match(_, _, question, _)] = asked[..] else { panic!("{asked:?}") };
    let damage = Unmatched::Damaged("space alpha: a record is damaged".to_owned());
    rig.peer.matched(rig.now, SPACE, question, Err(damage));
    rig
}

/// The session was over at once, again and again, and whoever mends had nobody to
/// ask.
#[test]
fn a_session_that_cannot_compare_stays_for_what_is_damaged_to_be_mended() {
    let mut rig = damaged_on_the_way();
    let space = "alpha".parse().unwrap();
    assert_eq!(rig.peer.handle_of(&space), Some(SPACE));
    let (answer, _mended) = crossbeam::channel::bounded(1);
    rig.peer.fetch(rig.now, SPACE, Fetch { lsn: Lsn(72), bytes: 72 }, answer);
    assert_eq!(rig.says(), [Kind::Fetch], "the question is open, and the range is asked for");
    // Mended: it is let go of, and opened again.
    rig.peer.yield_space(rig.now, SPACE, "its file is exchanged");
    let mut actions = Vec::new();
    rig.peer.give_back(&mut actions);
    assert!(matches!(actions[..], [Action::Job(Job::CloseReplica { .. })]), "{actions:?}");
    assert_eq!(rig.says(), [Kind::Error]);
    assert_eq!(rig.peer.compared_by(), None);
}

#[test]
fn a_session_that_cannot_compare_says_so_if_nobody_mends_what_is_damaged() {
    let mut rig = damaged_on_the_way();
    let due = rig.now.instant + COMPARE_PATIENCE;
    assert_eq!(rig.peer.compared_by(), Some(due));
    let before = Now { instant: due - Duration::from_millis(1), ..rig.now };
    rig.peer.give_up_comparing(before);
    assert_eq!(rig.says(), []);
    rig.peer.give_up_comparing(Now { instant: due, ..rig.now });
    assert_eq!(rig.says(), [Kind::Error]);
    let mut actions = Vec::new();
    rig.peer.give_back(&mut actions);
    assert!(matches!(actions[..], [Action::Job(Job::CloseReplica { .. })]), "{actions:?}");
}
