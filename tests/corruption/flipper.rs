//! A proxy that flips one bit of what passes through it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Primary to replica.
    Forth,
    /// Replica to primary.
    Back,
}

/// Bytes from the replica after which the connection has made progress: the
/// answers to the handshake and to two spaces, and acknowledgements behind them.
const WARM_BYTES: u64 = 700;

/// One bit to flip.
#[derive(Debug, Clone, Copy)]
pub struct Flip {
    pub way: Way,
    /// Counted from when the connection has made some progress, and not from
    /// its beginning: damage without progress in between is answered by longer
    /// and longer pauses.
    pub warm: bool,
    /// Bytes of that direction that pass before.
    pub byte: u64,
    /// 0 to 7.
    pub bit: u8,
}

/// One connection, and the bit of it that flips.
#[derive(Debug)]
struct Passing {
    flip: Option<Flip>,
    struck: Option<Instant>,
    /// Bytes from the replica.
    back: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Still to do, one on each new connection.
    flips: VecDeque<Flip>,
    open: BTreeMap<u64, Passing>,
    connections: u64,
    /// Flips whose connection one of its ends has ended.
    noticed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The proxy. It never ends a connection by itself. Its threads end with the
/// connections they serve, or with the test.
#[derive(Debug)]
pub struct Flipper {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Flipper {
    /// Passes everything on to `to`, with one of the flips on each connection
    /// while there are some left.
    pub fn start(to: SocketAddr, flips: impl IntoIterator<Item = Flip>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.state().flips.extend(flips);
        let serving = shared.clone();
        thread::spawn(move || {
            for from in listener.incoming() {
                let Ok(from) = from else { return };
                // Refused as the replica refuses: by hanging up.
                let Ok(upstream) = TcpStream::connect(to) else { continue };
                serve(&from, &upstream, &serving);
            }
        });
        Self { address, shared }
    }

    /// Wait until every flip has passed, and the connection that it was on has
    /// been ended by one of its ends. Panics if one of them lives on for
    /// `patience`: then nobody has noticed; also if nothing passes any more.
    #[track_caller]
    pub fn await_noticed(&self, patience: Duration) -> u64 {
        let mut state = self.shared.state();
        let mut progress = (Instant::now(), 0);
        loop {
            let waits = |passing: &Passing| passing.flip.is_some() || passing.struck.is_some();
            if state.flips.is_empty() && !state.open.values().any(waits) {
                return state.noticed;
            }
            for passing in state.open.values() {
                let lives_on = passing.struck.is_some_and(|at| at.elapsed() > patience);
                assert!(!lives_on, "not noticed within {patience:?}: {passing:?}");
            }
            if state.connections != progress.1 {
                progress = (Instant::now(), state.connections);
            }
            assert!(progress.0.elapsed() < 3 * patience, "nothing passes any more: {state:?}");
            state = self.shared.changed.wait_timeout(state, patience / 10).unwrap().0;
        }
    }
}

/// Pass on both ways until either end has had enough.
fn serve(from: &TcpStream, to: &TcpStream, shared: &Arc<Shared>) {
    let number = {
        let mut state = shared.state();
        state.connections += 1;
        let (number, flip) = (state.connections, state.flips.pop_front());
        state.open.insert(number, Passing { flip, struck: None, back: 0 });
        number
    };
    let mut pumps = Vec::new();
    for way in [Way::Forth, Way::Back] {
        let (a, b) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (source, sink) = if way == Way::Forth { (a, b) } else { (b, a) };
        let shared = shared.clone();
        source.set_nodelay(true).unwrap();
        pumps.push(thread::spawn(move || pump(source, sink, way, number, &shared)));
    }
    let shared = shared.clone();
    thread::spawn(move || {
        for pump in pumps {
            pump.join().unwrap();
        }
        let mut state = shared.state();
        if let Some(passing) = state.open.remove(&number) {
            state.noticed += u64::from(passing.struck.is_some());
            // Its turn never came: on another connection, then.
            state.flips.extend(passing.flip);
        }
        shared.changed.notify_all();
    });
}

fn pump(mut source: TcpStream, mut sink: TcpStream, way: Way, number: u64, shared: &Shared) {
    let mut buffer = vec![0; 256 << 10];
    // Since the count began.
    let mut passed = 0_u64;
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        {
            let mut state = shared.state();
            let Some(passing) = state.open.get_mut(&number) else { break };
            let counts = passing.back >= WARM_BYTES || passing.flip.is_none_or(|flip| !flip.warm);
            if way == Way::Back {
                passing.back += count as u64;
            }
            let here = passed..passed + count as u64;
            let mine = |flip: &mut Flip| counts && flip.way == way && here.contains(&flip.byte);
            if let Some(flip) = passing.flip.take_if(mine) {
                buffer[usize::try_from(flip.byte - passed).unwrap()] ^= 1 << flip.bit;
                passing.struck = Some(Instant::now());
            }
            passed += if counts { count as u64 } else { 0 };
        }
        if sink.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Half closed, so that what the other end still has to say gets through.
    let _ = sink.shutdown(Shutdown::Write);
    let _ = source.shutdown(Shutdown::Read);
}
