//! A peer that speaks the protocol by hand: it says what a test wants said,
//! and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use saltus::ids::{Epoch, NodeUuid, SegmentName, StreamId};
use saltus::limits::FRAME_HEADER_BYTES;
use saltus::lsn::{Chain, Lsn};
use saltus::protocol::frame::{FrameHeader, Handle, VERSION};
use saltus::protocol::message::{
    Heartbeat, Hello, HelloAck, Identity, Message, OpenSpace, SegmentOpen, Standing,
};

use crate::cluster::DEADLINE;

pub fn identity(node: &str) -> Identity {
    Identity {
        cluster: "local".parse().unwrap(),
        node: node.parse().unwrap(),
        uuid: NodeUuid(0x7a1c_0000 + node.len() as u128),
    }
}

/// One connection.
#[derive(Debug)]
pub struct Talker {
    pub stream: TcpStream,
}

impl Talker {
    /// Connect to a replica as a primary of that name; the handshake is done.
    pub fn primary(address: SocketAddr, node: &str) -> Self {
        let mut talker = Self::over(TcpStream::connect(address).unwrap());
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            shard: 0,
            features: 0,
            identity: identity(node),
        };
        talker.say(&Message::Hello(hello), Handle::CONNECTION, 0);
        let Some(Message::HelloAck(_)) = talker.hear() else { panic!("no HelloAck") };
        talker
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Say something. False if the other side has hung up.
    pub fn say(&mut self, message: &Message, handle: Handle, epoch: u64) -> bool {
        let mut bytes = Vec::new();
        message.encode(handle, Epoch(epoch), &mut bytes);
        self.stream.write_all(&bytes).is_ok()
    }

    /// The next message; `None` when the other side has hung up.
    pub fn hear(&mut self) -> Option<Message> {
        self.frame().map(|(_, message)| message)
    }

    /// The next message and the frame's header; `None` when the other side has
    /// hung up.
    pub fn frame(&mut self) -> Option<(FrameHeader, Message)> {
        let (header, body) = self.raw_frame()?;
        let message = Message::decode(&header, &body).unwrap().unwrap();
        Some((header, message))
    }

    /// The next frame, whatever it holds; `None` when the other side has hung
    /// up.
    pub fn raw_frame(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let mut header = [0; FRAME_HEADER_BYTES];
        if let Err(error) = self.stream.read_exact(&mut header) {
            assert!(error.kind() != ErrorKind::WouldBlock, "nothing heard within {DEADLINE:?}");
            return None;
        }
        let header = FrameHeader::decode(&header).unwrap();
        let mut body = vec![0; header.payload_bytes as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some((header, body))
    }

    /// Open a space and wait for the answer.
    pub fn open(&mut self, handle: Handle, space: &str) -> Option<Standing> {
        let open = OpenSpace {
            space: space.parse().unwrap(),
            stream: StreamId(0x5eed),
            history: vec![(Epoch(1), Lsn::ZERO)],
            head: Lsn(1 << 40),
        };
        self.say(&Message::OpenSpace(open), handle, 1);
        loop {
            match self.hear()? {
                Message::OpenAck(standing) => return Some(standing),
                Message::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Announce a run.
    pub fn run(&mut self, handle: Handle, ordinal: u32, segment: u64) -> bool {
        let run = SegmentOpen {
            ordinal,
            start: Lsn::ZERO,
            segment: SegmentName(segment),
            file: segment,
            offset: 0,
        };
        self.say(&Message::SegmentOpen(run), handle, 1)
    }

    /// Answer a primary's `Hello` as a replica of that name.
    pub fn greet(&mut self, node: &str) {
        let Some(Message::Hello(hello)) = self.hear() else { panic!("no Hello") };
        let ack = HelloAck { version: hello.max_version, features: 0, identity: identity(node) };
        self.say(&Message::HelloAck(ack), Handle::CONNECTION, 0);
    }

    /// Answer the first `OpenSpace` as a replica that has nothing yet.
    pub fn accept_space(&mut self) {
        loop {
            let (header, message) = self.frame().expect("the primary opens a space");
            if let Message::OpenSpace(open) = message {
                return self.accept(header.handle, &open);
            }
        }
    }

    /// Answer an `OpenSpace` as a replica that has nothing yet.
    pub fn accept(&mut self, handle: Handle, open: &OpenSpace) {
        let epoch = open.epoch().unwrap();
        let standing = Standing {
            flushed: Lsn::ZERO,
            chain: Chain::default(),
            records: 0,
            highest_epoch: epoch,
            runs: 0,
            common: Lsn::ZERO,
        };
        self.say(&Message::OpenAck(standing), handle, epoch.0);
    }

    pub fn heartbeat(&mut self) -> bool {
        self.say(&Message::Heartbeat(Heartbeat { unix_ns: 1 }), Handle::CONNECTION, 0)
    }

    /// Read until the other side hangs up.
    pub fn await_hangup(&mut self) {
        let mut sink = vec![0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
                Ok(_) => {}
            }
        }
    }
}
