//! Connections between nodes: bytes on their way, in order within one
//! connection and in any order between two; slow, cut, silent, or changed.
//!
//! ```text
//!   side 0                                     side 1
//!   sending --> room? --> wire (arrives at t) --> arrived --> receiving
//! ```
//!
//! A node holds one end of a real socket pair for each connection; that it has
//! closed it shows at the other end, which is held here.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use saltus::io::{Completion, Outcome, Slab, Socket, Strategy, Token};
use socket2::{Domain, Type};

use super::chance::Chance;

/// One process: a machine and how often it was started.
pub type Process = (usize, u64);

/// What follows from what the network did.
#[derive(Debug)]
pub enum Effect {
    /// An operation of a process has ended.
    Ended(Process, Completion),
    /// Look at this side of a connection again, then.
    Look { at_ns: u64, connection: usize, side: usize },
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Closed,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

#[derive(Debug)]
struct Receiving {
    token: Token,
    slab: Slab,
    low_water: usize,
    most: usize,
}

#[derive(Debug)]
struct Sending {
    token: Token,
    bytes: Vec<u8>,
    sent: usize,
    data: bool,
}

/// One end of a connection, and what is on its way to it.
#[derive(Debug)]
struct Side {
    process: Process,
    /// The other end of the pair whose one end the process has.
    held: Option<Socket>,
    receiving: Option<Receiving>,
    sending: Option<Sending>,
    wire: VecDeque<(u64, Piece)>,
    arrived: VecDeque<u8>,
    ended: Option<End>,
    /// The process has closed its end, or is dead.
    closed: bool,
    /// Nothing gets here any more, and nobody is told.
    silent: bool,
    /// Nothing gets here before.
    stalled_until: u64,
    /// When it will be looked at next.
    look_at: u64,
}

/// How the network behaves; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub latency: Duration,
    /// Bytes on their way before a sender must wait.
    pub room: usize,
    /// One in so many pieces is changed on its way, past every checksum of the
    /// network's own.
    pub flip_one_in: u64,
}

#[derive(Debug)]
pub struct Network {
    connections: Vec<[Side; 2]>,
    /// The latest connection of each descriptor.
    by_descriptor: HashMap<RawFd, (usize, usize)>,
    chance: Chance,
    pub weather: Weather,
    pub effects: Vec<Effect>,
    now_ns: u64,
}

impl Network {
    pub fn new(chance: Chance, weather: Weather) -> Self {
        Self {
            connections: Vec::new(),
            by_descriptor: HashMap::new(),
            chance,
            weather,
            effects: Vec::new(),
            now_ns: 0,
        }
    }

    pub fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Connect two processes. Returns what each gets.
    pub fn connect(&mut self, from: Process, to: Process) -> (Socket, Socket) {
        let index = self.connections.len();
        let mut side = |process: Process, side: usize| {
            let (theirs, held) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
            held.set_nonblocking(true).unwrap();
            self.by_descriptor.insert(theirs.as_raw_fd(), (index, side));
            let side = Side {
                process,
                held: Some(held),
                receiving: None,
                sending: None,
                wire: VecDeque::new(),
                arrived: VecDeque::new(),
                ended: None,
                closed: false,
                silent: false,
                stalled_until: 0,
                look_at: u64::MAX,
            };
            (theirs, side)
        };
        let (first, a) = side(from, 0);
        let (second, b) = side(to, 1);
        self.connections.push([a, b]);
        (first, second)
    }

    fn find(&self, socket: &Socket) -> (usize, usize) {
        self.by_descriptor[&socket.as_raw_fd()]
    }

    /// Which connection a process means.
    pub fn number(&self, socket: &Socket) -> usize {
        self.find(socket).0
    }

    pub fn receive(
        &mut self,
        socket: &Socket,
        token: Token,
        slab: Slab,
        low_water: usize,
        most: usize,
    ) {
        let (connection, side) = self.find(socket);
        let here = &mut self.connections[connection][side];
        assert!(here.receiving.is_none(), "two receives on one connection");
        here.receiving = Some(Receiving { token, slab, low_water, most });
        self.look(connection, side);
    }

    pub fn send(&mut self, socket: &Socket, token: Token, bytes: Vec<u8>, data: bool) {
        let (connection, side) = self.find(socket);
        let here = &mut self.connections[connection][side];
        assert!(here.sending.is_none(), "two sends on one connection");
        here.sending = Some(Sending { token, bytes, sent: 0, data });
        self.look(connection, side);
    }

    /// Do on this side, and on the other, what can be done now.
    pub fn look(&mut self, connection: usize, side: usize) {
        self.arrive(connection, side);
        self.give(connection, side);
        for side in [side, 1 - side] {
            self.push(connection, side);
            self.arrive(connection, 1 - side);
        }
    }

    /// What has come to the end of its way.
    fn arrive(&mut self, connection: usize, side: usize) {
        let now = self.now_ns;
        let here = &mut self.connections[connection][side];
        while let Some((at, _)) = here.wire.front() {
            let at = (*at).max(here.stalled_until);
            if at > now {
                // Once is enough.
                if here.look_at <= now || at < here.look_at {
                    here.look_at = at;
                    self.effects.push(Effect::Look { at_ns: at, connection, side });
                }
                return;
            }
            match here.wire.pop_front() {
                Some((_, Piece::Bytes(bytes))) => here.arrived.extend(bytes),
                Some((_, Piece::Closed)) => here.ended = here.ended.or(Some(End::Closed)),
                Some((_, Piece::Reset)) => {
                    here.arrived.clear();
                    here.ended = Some(End::Reset);
                }
                None => {}
            }
        }
    }

    /// Hand to the process what it asked for.
    fn give(&mut self, connection: usize, side: usize) {
        let here = &mut self.connections[connection][side];
        let there = here.arrived.len();
        let result = match &here.receiving {
            Some(_) if here.closed => Ok(0),
            Some(_) if here.ended == Some(End::Reset) => Err(libc::ECONNRESET),
            Some(wants) if there >= wants.low_water.min(wants.most) && there > 0 => {
                let most = there.min(wants.most);
                let least = wants.low_water.min(most).max(1);
                Ok(self.chance.within(least as u64, most as u64))
            }
            Some(_) if here.ended.is_some() => Ok(there as u64),
            _ => return,
        };
        let Some(mut wants) = here.receiving.take() else { return };
        let result = match result {
            Ok(bytes) => {
                let bytes = usize::try_from(bytes).unwrap().min(wants.most);
                let taken: Vec<u8> = here.arrived.drain(..bytes).collect();
                wants.slab.push(&taken);
                Ok(Outcome::Received(wants.slab, bytes))
            }
            Err(code) => Err(io::Error::from_raw_os_error(code)),
        };
        let completion = Completion { token: wants.token, result };
        self.effects.push(Effect::Ended(here.process, completion));
    }

    /// Move what is being sent onto the wire, as far as there is room.
    fn push(&mut self, connection: usize, side: usize) {
        let [first, second] = &mut self.connections[connection];
        let (here, there) = if side == 0 { (first, second) } else { (second, first) };
        let Some(sending) = &mut here.sending else { return };
        let broken = here.closed || here.ended.is_some();
        while sending.sent < sending.bytes.len() && !broken {
            let on_its_way: usize = there.wire.iter().map(|(_, piece)| piece.len()).sum();
            let room = self.weather.room.saturating_sub(on_its_way + there.arrived.len());
            if room == 0 && !there.silent {
                return;
            }
            let left = sending.bytes.len() - sending.sent;
            let most = left.min(room.max(1)) as u64;
            let least = if self.chance.one_in(8) { 1 } else { most };
            let take = usize::try_from(self.chance.within(least, most)).unwrap();
            let mut bytes = sending.bytes[sending.sent..sending.sent + take].to_vec();
            sending.sent += take;
            if there.silent {
                // A sender fills its buffer, and then waits for ever.
                if sending.sent > self.weather.room {
                    return;
                }
                continue;
            }
            if self.chance.one_in(self.weather.flip_one_in) {
                let at = usize::try_from(self.chance.below(bytes.len() as u64)).unwrap();
                bytes[at] ^= 1 << self.chance.below(8);
            }
            let latency = self.chance.delay(self.weather.latency);
            lay(there, self.now_ns, latency, Piece::Bytes(bytes));
        }
        let Some(sending) = here.sending.take() else { return };
        let result = match (broken, sending.data) {
            (true, _) => Err(io::Error::from_raw_os_error(libc::EPIPE)),
            (false, true) => Ok(Outcome::Transmitted(Strategy::Sendfile)),
            (false, false) => Ok(Outcome::Sent),
        };
        let completion = Completion { token: sending.token, result };
        self.effects.push(Effect::Ended(here.process, completion));
    }

    /// Which ends a process has closed since the last look.
    pub fn notice_closed(&mut self, process: Process) {
        for connection in 0..self.connections.len() {
            for side in 0..2 {
                let here = &mut self.connections[connection][side];
                let Some(held) = here.held.as_mut().filter(|_| here.process == process) else {
                    continue;
                };
                if matches!(held.read(&mut [0]), Ok(0)) {
                    self.close(connection, side, Some(Piece::Closed));
                }
            }
        }
    }

    fn close(&mut self, connection: usize, side: usize, last_word: Option<Piece>) {
        self.connections[connection][side].closed = true;
        self.connections[connection][side].held = None;
        if let Some(piece) = last_word {
            self.tell(connection, 1 - side, piece);
        } else {
            self.connections[connection][1 - side].silent = true;
        }
        self.look(connection, side);
    }

    fn tell(&mut self, connection: usize, side: usize, piece: Piece) {
        let there = &mut self.connections[connection][side];
        if there.silent {
            return;
        }
        let latency = self.chance.delay(self.weather.latency);
        lay(there, self.now_ns, latency, piece);
        self.arrive(connection, side);
    }

    /// A process is gone. Its peers are told by its kernel, or with its
    /// machine gone, by nobody.
    pub fn died(&mut self, process: Process, told: bool) {
        for connection in 0..self.connections.len() {
            for side in 0..2 {
                let here = &mut self.connections[connection][side];
                if here.process == process && !here.closed {
                    (here.receiving, here.sending) = (None, None);
                    let word = told.then_some(Piece::Reset);
                    self.close(connection, side, word);
                }
            }
        }
    }

    /// A machine is back, and knows nothing of its old connections.
    pub fn back(&mut self, machine: usize) {
        for connection in 0..self.connections.len() {
            for side in 0..2 {
                let [first, second] = &mut self.connections[connection];
                let (here, there) = if side == 0 { (first, second) } else { (second, first) };
                if here.process.0 == machine && here.closed && there.silent && !there.closed {
                    there.silent = false;
                    self.tell(connection, 1 - side, Piece::Reset);
                }
            }
        }
    }

    /// Connections of a machine that are up.
    pub fn of(&self, machine: usize) -> Vec<usize> {
        let is_up = |sides: &[Side; 2]| sides.iter().all(|side| !side.closed);
        let of = |sides: &[Side; 2]| sides.iter().any(|side| side.process.0 == machine);
        (0..self.connections.len())
            .filter(|index| is_up(&self.connections[*index]) && of(&self.connections[*index]))
            .collect()
    }

    /// Both ends hear that the connection is no more.
    pub fn cut(&mut self, connection: usize) {
        for side in 0..2 {
            self.tell(connection, side, Piece::Reset);
        }
    }

    /// From now on nothing gets to one side, or to either, and nobody hears.
    pub fn silence(&mut self, connection: usize, side: Option<usize>) {
        for (number, here) in self.connections[connection].iter_mut().enumerate() {
            if side.is_none_or(|side| side == number) {
                here.silent = true;
                here.wire.clear();
            }
        }
    }

    /// Nothing gets through before then.
    pub fn stall(&mut self, connection: usize, until_ns: u64) {
        for side in 0..2 {
            let here = &mut self.connections[connection][side];
            here.stalled_until = here.stalled_until.max(until_ns);
        }
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Closed | Self::Reset => 0,
        }
    }
}

/// Put a piece behind what is on its way already.
fn lay(to: &mut Side, now_ns: u64, latency: Duration, piece: Piece) {
    let at = now_ns + u64::try_from(latency.as_nanos()).unwrap();
    let last = to.wire.back().map_or(0, |(at, _)| *at);
    to.wire.push_back((at.max(last), piece));
}

/// Where a machine listens.
pub fn address(machine: usize) -> SocketAddr {
    let last = u8::try_from(machine + 1).unwrap();
    SocketAddr::from(([10, 0, 0, last], 7000))
}

/// The machine that listens there.
pub fn machine_at(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(v4) => usize::from(v4.ip().octets()[3]) - 1,
        SocketAddr::V6(_) => panic!("no such machine: {address}"),
    }
}
