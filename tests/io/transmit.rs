//! Extents to sockets, by every strategy.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use saltus::io::{Outcome, Strategy};

use crate::rig::{STRATEGIES, chill, connection, extent, file_with, on_every_backend, pattern};

/// Far more than the buffers of both sockets hold.
const TOO_MUCH: u32 = 64 << 20;

#[test]
fn bytes_arrive_intact_at_every_size_and_odd_offsets() {
    let contents = pattern((5 << 20) + 2000);
    let file = file_with(&contents);
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            let (socket, mut peer) = connection();
            for bytes in [0, 1, 64, 4095, 1 << 20, 5 << 20] {
                for offset in [0, 777] {
                    for mapped in [true, false] {
                        let mut source = extent(&file, offset, bytes);
                        source.mapped = source.mapped.filter(|_| mapped);
                        let mut wanted = vec![7; 64];
                        let start = offset as usize;
                        wanted.extend_from_slice(&contents[start..start + bytes as usize]);
                        thread::scope(|scope| {
                            let reader = scope.spawn(|| {
                                let mut seen = vec![0; wanted.len()];
                                peer.read_exact(&mut seen).unwrap();
                                seen
                            });
                            let token = rig.transmit(&socket, &source, strategy);
                            let outcome = rig.end_of(token).unwrap();
                            assert!(matches!(outcome, Outcome::Transmitted(_)));
                            assert!(reader.join().unwrap() == wanted, "{strategy:?} {bytes}");
                        });
                    }
                }
            }
        }
    });
}

#[test]
fn cold_bytes_arrive_intact() {
    let contents = pattern(3 << 20);
    let file = file_with(&contents);
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            chill(&file);
            let (socket, mut peer) = connection();
            let source = extent(&file, 1, (3 << 20) - 1);
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let mut seen = vec![0; 64 + contents.len() - 1];
                    peer.read_exact(&mut seen).unwrap();
                    seen
                });
                let token = rig.transmit(&socket, &source, strategy);
                let outcome = rig.end_of(token).unwrap();
                if rig.backend.name() == "uring" && strategy == Strategy::Auto {
                    let way = matches!(outcome, Outcome::Transmitted(Strategy::Splice));
                    assert!(way, "{outcome:?}");
                }
                assert!(reader.join().unwrap()[64..] == contents[1..]);
            });
        }
    });
}

/// What the kernel has begun to read ahead is in the cache, but not there yet.
/// Taken for hot, it would make the shard wait for the disk.
#[test]
fn read_ahead_is_not_taken_for_hot() {
    // More than any system reads ahead of the extents that are sent.
    let file = file_with(&pattern(64 << 20));
    on_every_backend(|mut rig| {
        if rig.backend.name() == "portable" {
            return;
        }
        chill(&file);
        let (socket, mut peer) = connection();
        let reader = thread::spawn(move || peer.read_to_end(&mut Vec::new()).unwrap());
        for at in 0..8 {
            let source = extent(&file, at << 20, 1 << 20);
            let token = rig.transmit(&socket, &source, Strategy::Auto);
            let outcome = rig.end_of(token).unwrap();
            let spliced = matches!(outcome, Outcome::Transmitted(Strategy::Splice));
            assert!(spliced, "extent {at}: {outcome:?}");
        }
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap(), 8 * (64 + (1 << 20)));
    });
}

#[test]
fn a_slow_reader_gets_everything_and_stops_nobody() {
    let contents = pattern(TOO_MUCH as usize);
    let file = file_with(&contents);
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            let (slow, mut slow_peer) = connection();
            let (quick, mut quick_peer) = connection();
            let source = extent(&file, 0, TOO_MUCH);
            let (release, released) = channel::<()>();
            thread::scope(|scope| {
                let reader = scope.spawn(move || {
                    released.recv().unwrap();
                    let mut seen = vec![0; 64 + TOO_MUCH as usize];
                    slow_peer.read_exact(&mut seen).unwrap();
                    seen
                });
                let stuck = rig.transmit(&slow, &source, strategy);
                assert!(rig.is_pending(stuck), "{strategy:?}");
                let small = extent(&file, 5, 1000);
                let token = rig.transmit(&quick, &small, strategy);
                rig.end_of(token).unwrap();
                let mut seen = vec![0; 1064];
                quick_peer.read_exact(&mut seen).unwrap();
                assert!(seen[64..] == contents[5..1005]);
                release.send(()).unwrap();
                rig.end_of(stuck).unwrap();
                assert!(reader.join().unwrap()[64..] == contents);
            });
        }
    });
}

#[test]
fn a_peer_that_closes_midway_is_an_error() {
    let file = file_with(&pattern(TOO_MUCH as usize));
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            let (socket, mut peer) = connection();
            let source = extent(&file, 0, TOO_MUCH);
            let token = rig.transmit(&socket, &source, strategy);
            assert!(rig.is_pending(token));
            peer.read_exact(&mut vec![0; 100_000]).unwrap();
            drop(peer);
            let error = rig.end_of(token).unwrap_err();
            let known = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(known, "{strategy:?}: {error}");
            // And once more, now that the connection is known to be dead.
            let token = rig.transmit(&socket, &source, strategy);
            rig.end_of(token).unwrap_err();
        }
    });
}

#[test]
fn our_own_shutdown_ends_a_stuck_transmit() {
    let file = file_with(&pattern(TOO_MUCH as usize));
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            let (socket, _peer) = connection();
            let token = rig.transmit(&socket, &extent(&file, 0, TOO_MUCH), strategy);
            assert!(rig.is_pending(token));
            socket.shutdown(std::net::Shutdown::Both).unwrap();
            rig.end_of(token).unwrap_err();
        }
    });
}

#[test]
fn a_file_that_shrank_before_is_an_error() {
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            for mapped in [true, false] {
                let file = file_with(&pattern(300_000));
                let (socket, mut peer) = connection();
                let mut source = extent(&file, 0, 300_000);
                source.mapped = source.mapped.filter(|_| mapped);
                // Within the last page that is left, where a map shows zeros.
                file.set_len(299_950).unwrap();
                let reader = thread::spawn(move || peer.read_to_end(&mut Vec::new()));
                let token = rig.transmit(&socket, &source, strategy);
                let error = rig.end_of(token).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{strategy:?}");
                drop(socket);
                reader.join().unwrap().unwrap();
            }
        }
    });
}

#[test]
fn a_file_that_shrinks_under_a_transmit_is_an_error() {
    on_every_backend(|mut rig| {
        for strategy in STRATEGIES {
            let file = file_with(&pattern(TOO_MUCH as usize));
            let (socket, mut peer) = connection();
            let source = extent(&file, 0, TOO_MUCH);
            let token = rig.transmit(&socket, &source, strategy);
            assert!(rig.is_pending(token));
            file.set_len(0).unwrap();
            let reader = thread::spawn(move || peer.read_to_end(&mut Vec::new()));
            let error = rig.end_of(token).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{strategy:?}");
            socket.shutdown(std::net::Shutdown::Both).unwrap();
            drop(socket);
            let _ = reader.join().unwrap();
        }
    });
}

#[test]
fn a_strategy_reports_what_it_did() {
    let file = file_with(&pattern(100_000));
    on_every_backend(|mut rig| {
        let (socket, peer) = connection();
        let reader = thread::spawn(move || {
            let mut peer = peer;
            peer.read_to_end(&mut Vec::new()).unwrap()
        });
        let source = extent(&file, 0, 100_000);
        let token = rig.transmit(&socket, &source, Strategy::Sendfile);
        let outcome = rig.end_of(token).unwrap();
        assert!(matches!(outcome, Outcome::Transmitted(Strategy::Sendfile)));
        let token = rig.transmit(&socket, &source, Strategy::Copy);
        let outcome = rig.end_of(token).unwrap();
        assert!(matches!(outcome, Outcome::Transmitted(Strategy::Copy)));
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        drop(Arc::clone(&socket));
        assert_eq!(reader.join().unwrap(), 2 * 100_064);
    });
}
