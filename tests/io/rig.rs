//! A backend with its completions sorted by token, and peers to talk to.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::Mmap;
use saltus::io::{
    Backend, BackendChoice, Op, Outcome, Slab, Socket, Source, Strategy, Token, WatchEvent, open,
    sockets,
};

use crate::skipped::skipped;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long a test looks for what must not happen.
pub(crate) const GLANCE: Duration = Duration::from_millis(50);

pub(crate) const STRATEGIES: [Strategy; 5] =
    [Strategy::Auto, Strategy::Sendfile, Strategy::Splice, Strategy::SendZc, Strategy::Copy];

/// Run a test on each backend that opens here.
pub(crate) fn on_every_backend(test: impl Fn(Rig)) {
    for choice in [BackendChoice::Uring, BackendChoice::Portable] {
        match open(choice) {
            Ok(backend) => {
                println!("on {}", backend.name());
                test(Rig::new(backend));
            }
            // Without the feature there is nothing to open.
            Err(_) if choice == BackendChoice::Uring && !cfg!(feature = "uring") => {}
            Err(error) => {
                skipped(&format!("{choice:?}: {error}"));
            }
        }
    }
}

pub(crate) struct Rig {
    pub(crate) backend: Box<dyn Backend>,
    next: u64,
    ended: HashMap<Token, io::Result<Outcome>>,
}

impl Rig {
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, next: 0, ended: HashMap::new() }
    }

    pub(crate) fn submit(&mut self, op: Op) -> Token {
        self.next += 1;
        let token = Token(self.next);
        self.backend.submit(token, op);
        token
    }

    /// Wait once, until `pause` is over at most.
    pub(crate) fn turn(&mut self, pause: Duration) {
        let mut completions = Vec::new();
        self.backend.wait(Some(Instant::now() + pause), &mut completions).unwrap();
        for completion in completions {
            let twice = self.ended.insert(completion.token, completion.result);
            assert!(twice.is_none(), "{:?} completed twice", completion.token);
        }
    }

    /// The end of that operation.
    pub(crate) fn end_of(&mut self, token: Token) -> io::Result<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = self.ended.remove(&token) {
                return result;
            }
            assert!(Instant::now() < deadline, "{token:?} never completed");
            self.turn(PATIENCE);
        }
    }

    pub(crate) fn run(&mut self, op: Op) -> io::Result<Outcome> {
        let token = self.submit(op);
        self.end_of(token)
    }

    /// True while that operation has not completed, after a glance.
    pub(crate) fn is_pending(&mut self, token: Token) -> bool {
        let until = Instant::now() + GLANCE;
        while Instant::now() < until && !self.ended.contains_key(&token) {
            self.turn(until.saturating_duration_since(Instant::now()));
        }
        !self.ended.contains_key(&token)
    }

    /// Watch events until one satisfies `found`; all of them.
    pub(crate) fn events_until(&mut self, found: impl Fn(&WatchEvent) -> bool) -> Vec<WatchEvent> {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Vec::new();
        loop {
            self.backend.take_watch_events(&mut events);
            if events.iter().any(&found) {
                return events;
            }
            assert!(Instant::now() < deadline, "not among {events:?}");
            self.turn(PATIENCE);
        }
    }

    pub(crate) fn receive(
        &mut self,
        socket: &Arc<Socket>,
        slab: Slab,
        low: usize,
        most: usize,
    ) -> Token {
        self.submit(Op::Receive { socket: Arc::clone(socket), slab, low_water: low, most })
    }

    pub(crate) fn transmit(
        &mut self,
        socket: &Arc<Socket>,
        source: &Source,
        strategy: Strategy,
    ) -> Token {
        self.submit(Op::Transmit {
            socket: Arc::clone(socket),
            header: [7; 64],
            source: source.clone(),
            strategy,
        })
    }
}

/// Our end of a connection as a backend wants it, and the peer's.
pub(crate) fn connection() -> (Arc<Socket>, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = Socket::from(listener.accept().unwrap().0);
    socket.set_nonblocking(true).unwrap();
    sockets::tune(&socket).unwrap();
    (Arc::new(socket), peer)
}

/// Bytes that differ from their neighbours at every distance that matters.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    // A prime, so that no power of two maps the pattern onto itself.
    const PERIOD: u32 = 65_521;
    let period: Vec<u8> =
        (0..PERIOD).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut pattern = period.repeat(bytes / period.len() + 1);
    pattern.truncate(bytes);
    pattern
}

/// A file of its own on the disk that the build is on.
pub(crate) fn file_with(contents: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(contents).unwrap();
    Arc::new(file)
}

struct Window {
    map: Mmap,
    start: usize,
    bytes: usize,
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.bytes]
    }
}

/// An extent of the file, mapped.
pub(crate) fn extent(file: &Arc<File>, offset: u64, bytes: u32) -> Source {
    // SAFETY: the tests read the map through the kernel only, which answers a
    // range that went away with an error.
    let map = unsafe { Mmap::map(&**file) }.unwrap();
    Source {
        file: Arc::clone(file),
        offset,
        bytes,
        mapped: Some(Arc::new(Window { map, start: offset as usize, bytes: bytes as usize })),
    }
}

/// Put the file's pages out of the cache.
pub(crate) fn chill(file: &File) {
    file.sync_all().unwrap();
    #[cfg(target_os = "linux")]
    nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .unwrap();
}
