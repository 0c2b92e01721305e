//! Accepting, connecting, receiving, sending, waking, and going away.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use saltus::io::{Op, Outcome, SlabPool, Socket, Strategy, Token, sockets};

use crate::rig::{GLANCE, PATIENCE, connection, extent, file_with, on_every_backend, pattern};

fn listener() -> (Arc<Socket>, SocketAddr) {
    let listener = sockets::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    (Arc::new(listener), address)
}

#[test]
fn a_connection_is_accepted_and_opened() {
    on_every_backend(|mut rig| {
        let (listener, address) = listener();
        let accept = rig.submit(Op::Accept { listener });
        let connect = rig.submit(Op::Connect { address });
        let Outcome::Connected(ours) = rig.end_of(connect).unwrap() else {
            panic!("not connected");
        };
        let Outcome::Accepted(theirs, peer) = rig.end_of(accept).unwrap() else {
            panic!("not accepted");
        };
        assert_eq!(ours.local_addr().unwrap().as_socket(), Some(peer));
        assert!(ours.nonblocking().unwrap() && theirs.nonblocking().unwrap());
        assert!(ours.tcp_nodelay().unwrap() && theirs.tcp_nodelay().unwrap());
        let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
        let bytes = pattern(3000);
        let send = rig.submit(Op::Send { socket: ours, bytes: bytes.clone() });
        let mut slab = SlabPool::oversized(4096);
        while slab.filled().len() < 3000 {
            let missing = 3000 - slab.filled().len();
            let token = rig.receive(&theirs, slab, missing, missing);
            let Outcome::Received(filled, _) = rig.end_of(token).unwrap() else {
                panic!("not received");
            };
            slab = filled;
        }
        assert!(matches!(rig.end_of(send).unwrap(), Outcome::Sent));
        assert_eq!(slab.filled(), bytes);
    });
}

#[test]
fn a_refused_connection_is_an_error() {
    on_every_backend(|mut rig| {
        let (listener, address) = listener();
        drop(listener);
        rig.run(Op::Connect { address }).unwrap_err();
    });
}

#[test]
fn accept_and_connect_can_be_cancelled() {
    on_every_backend(|mut rig| {
        let (listener, _) = listener();
        let accept = rig.submit(Op::Accept { listener });
        assert!(rig.is_pending(accept));
        rig.backend.cancel(accept);
        rig.end_of(accept).unwrap_err();

        // A full backlog leaves further connections unanswered.
        let full = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        let mut tokens = Vec::new();
        let stuck = loop {
            assert!(tokens.len() < 10, "the backlog never fills");
            let token = rig.submit(Op::Connect { address });
            if rig.is_pending(token) {
                break token;
            }
            tokens.push(token);
        };
        rig.backend.cancel(stuck);
        rig.end_of(stuck).unwrap_err();
        rig.backend.cancel(stuck);
        rig.backend.cancel(Token(u64::MAX));
        // What was opened stays open.
        for token in tokens {
            rig.end_of(token).unwrap();
        }
    });
}

#[test]
fn a_receive_waits_for_its_low_water_and_takes_no_more_than_asked() {
    on_every_backend(|mut rig| {
        let (socket, mut peer) = connection();
        let pool = SlabPool::new(1, 64 << 10);
        let bytes = pattern(20_000);
        let token = rig.receive(&socket, pool.take().unwrap(), 4000, 6000);
        peer.write_all(&bytes[..1000]).unwrap();
        assert!(rig.is_pending(token));
        peer.write_all(&bytes[1000..5000]).unwrap();
        let Outcome::Received(slab, taken) = rig.end_of(token).unwrap() else {
            panic!("not received");
        };
        assert!((4000..=5000).contains(&taken), "{taken}");
        peer.write_all(&bytes[5000..]).unwrap();
        let token = rig.receive(&socket, slab, 1, 6000);
        let Outcome::Received(mut slab, taken) = rig.end_of(token).unwrap() else {
            panic!("not received");
        };
        assert!(taken <= 6000, "{taken}");
        drop(peer);
        loop {
            let spare = slab.spare();
            let token = rig.receive(&socket, slab, spare, spare);
            let Outcome::Received(filled, taken) = rig.end_of(token).unwrap() else {
                panic!("not received");
            };
            slab = filled;
            if taken == 0 {
                break;
            }
        }
        assert_eq!(slab.filled(), bytes);
    });
}

#[test]
fn a_small_frame_behind_a_large_one_is_not_held_back() {
    on_every_backend(|mut rig| {
        let (socket, mut peer) = connection();
        let mut slab = SlabPool::oversized(1 << 20);
        for (low, bytes) in [(1, 64), (100_000, 100_000), (64, 64), (500_000, 500_000), (1, 1)] {
            let bytes = pattern(bytes);
            let writer = thread::spawn({
                let bytes = bytes.clone();
                let mut peer = peer.try_clone().unwrap();
                move || peer.write_all(&bytes).unwrap()
            });
            let start = slab.filled().len();
            while slab.filled().len() < start + bytes.len() {
                let missing = start + bytes.len() - slab.filled().len();
                let token = rig.receive(&socket, slab, low.min(missing), missing);
                let Outcome::Received(filled, taken) = rig.end_of(token).unwrap() else {
                    panic!("not received");
                };
                assert!(taken > 0);
                slab = filled;
            }
            writer.join().unwrap();
            assert!(slab.filled()[start..] == bytes);
        }
        peer.flush().unwrap();
    });
}

#[test]
fn one_socket_receives_and_transmits_at_the_same_time() {
    let contents = pattern(32 << 20);
    let file = file_with(&contents);
    on_every_backend(|mut rig| {
        let (socket, mut peer) = connection();
        let receive = rig.receive(&socket, SlabPool::oversized(4096), 100, 4096);
        let transmit = rig.transmit(&socket, &extent(&file, 0, 32 << 20), Strategy::Auto);
        assert!(rig.is_pending(receive));
        assert!(rig.is_pending(transmit));
        peer.write_all(&[9; 100]).unwrap();
        assert!(matches!(rig.end_of(receive).unwrap(), Outcome::Received(_, 100)));
        assert!(rig.is_pending(transmit));
        let receive = rig.receive(&socket, SlabPool::oversized(4096), 1, 4096);
        let reader = thread::spawn(move || {
            let mut seen = vec![0; 64 + (32 << 20)];
            peer.read_exact(&mut seen).unwrap();
            (seen, peer)
        });
        rig.end_of(transmit).unwrap();
        let (seen, peer) = reader.join().unwrap();
        assert!(seen[64..] == contents);
        drop(peer);
        assert!(matches!(rig.end_of(receive).unwrap(), Outcome::Received(_, 0)));
    });
}

#[test]
fn a_shutdown_ends_a_receive() {
    on_every_backend(|mut rig| {
        let (socket, _peer) = connection();
        let receive = rig.receive(&socket, SlabPool::oversized(4096), 4096, 4096);
        assert!(rig.is_pending(receive));
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(matches!(rig.end_of(receive).unwrap(), Outcome::Received(_, 0)));
    });
}

#[test]
fn a_large_send_survives_back_pressure() {
    let bytes = pattern(32 << 20);
    on_every_backend(|mut rig| {
        let (socket, mut peer) = connection();
        let send = rig.submit(Op::Send { socket, bytes: bytes.clone() });
        assert!(rig.is_pending(send));
        let reader = thread::spawn(move || {
            let mut seen = vec![0; 32 << 20];
            peer.read_exact(&mut seen).unwrap();
            seen
        });
        rig.end_of(send).unwrap();
        assert!(reader.join().unwrap() == bytes);
    });
}

#[test]
fn two_hundred_sockets_are_served_at_once() {
    on_every_backend(|mut rig| {
        let pool = SlabPool::new(200, 4096);
        let mut served = Vec::new();
        for at in 0..200_u8 {
            let (socket, peer) = connection();
            let receive = rig.receive(&socket, pool.take().unwrap(), 2, 100);
            let send = rig.submit(Op::Send { socket: Arc::clone(&socket), bytes: vec![at; 50] });
            served.push((at, socket, peer, receive, send));
        }
        for (at, _, peer, ..) in &mut served {
            peer.write_all(&[*at; 2]).unwrap();
        }
        for (at, _, peer, receive, send) in &mut served {
            let Outcome::Received(slab, 2) = rig.end_of(*receive).unwrap() else {
                panic!("not received");
            };
            assert_eq!(slab.filled(), [*at; 2]);
            rig.end_of(*send).unwrap();
            let mut seen = [0; 50];
            peer.read_exact(&mut seen).unwrap();
            assert_eq!(seen, [*at; 50]);
        }
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    on_every_backend(|mut rig| {
        let start = Instant::now();
        rig.turn(GLANCE);
        assert!(start.elapsed() >= GLANCE);
        rig.turn(std::time::Duration::ZERO);
    });
}

#[test]
fn a_waker_ends_a_wait_from_any_thread() {
    on_every_backend(|mut rig| {
        let waker = rig.backend.waker();
        for _ in 0..100 {
            let waker = waker.clone();
            let thread = thread::spawn(move || waker.wake());
            let start = Instant::now();
            rig.turn(PATIENCE);
            assert!(start.elapsed() < PATIENCE);
            thread.join().unwrap();
        }
        // A wake-up that came before the wait counts.
        waker.wake();
        waker.wake();
        let mut completions = Vec::new();
        rig.backend.wait(None, &mut completions).unwrap();
        assert!(completions.is_empty());
    });
}

#[test]
fn dropping_a_backend_releases_everything_in_flight() {
    let file = file_with(&pattern(32 << 20));
    on_every_backend(|mut rig| {
        let pool = SlabPool::new(3, 1 << 20);
        let (listener, _) = listener();
        let (socket, mut peer) = connection();
        let (quiet, mut quiet_peer) = connection();
        rig.submit(Op::Accept { listener: Arc::clone(&listener) });
        rig.receive(&socket, pool.take().unwrap(), 1, 100);
        rig.receive(&quiet, pool.take().unwrap(), 1000, 1000);
        rig.transmit(&socket, &extent(&file, 0, 32 << 20), Strategy::Auto);
        rig.transmit(&quiet, &extent(&file, 0, 32 << 20), Strategy::SendZc);
        let mut slab = pool.take().unwrap();
        slab.push(&pattern(1 << 20));
        rig.submit(Op::Write {
            file: file_with(b""),
            offset: 0,
            slices: vec![slab.slice(0..1 << 20)],
            bulk: true,
        });
        drop(slab);
        rig.turn(GLANCE);
        let waker = rig.backend.waker();
        drop(rig);
        waker.wake();
        assert_eq!(pool.in_use(), 0);
        assert_eq!(Arc::strong_count(&listener), 1);
        assert_eq!(Arc::strong_count(&socket), 1);
        assert_eq!(Arc::strong_count(&quiet), 1);
        drop((socket, quiet));
        // Our ends are closed: the peers see the end, or a reset.
        let _ = peer.read_to_end(&mut Vec::new());
        let _ = quiet_peer.read_to_end(&mut Vec::new());
    });
}
