//! Writing, flushing, prefetching.

use std::fs::OpenOptions;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use saltus::io::{Op, Outcome, SlabPool, Strategy};

use crate::rig::{chill, connection, extent, file_with, on_every_backend, pattern};

#[test]
fn slices_are_written_in_order_and_flushed() {
    on_every_backend(|mut rig| {
        for bulk in [false, true] {
            let file = file_with(b"0123456789");
            let mut slab = SlabPool::oversized(1 << 20);
            let bytes = pattern(1 << 20);
            slab.push(&bytes);
            // More slices than one system call takes, some of them empty.
            let mut slices = vec![slab.slice(0..0)];
            slices.extend((0..3000).map(|at| slab.slice(at * 10..at * 10 + 10)));
            slices.push(slab.slice(5..5));
            slices.push(slab.slice(30_000..1 << 20));
            let written = rig.run(Op::Write { file: Arc::clone(&file), offset: 7, slices, bulk });
            assert!(matches!(written.unwrap(), Outcome::Written));
            let flushed = rig.run(Op::Flush { file: Arc::clone(&file) });
            assert!(matches!(flushed.unwrap(), Outcome::Flushed));
            let mut seen = Vec::new();
            (&*file).rewind().unwrap();
            (&*file).read_to_end(&mut seen).unwrap();
            assert_eq!(&seen[..7], b"0123456");
            assert!(seen[7..] == bytes, "bulk {bulk}");
        }
    });
}

#[test]
fn a_write_with_a_flush_completes_once() {
    on_every_backend(|mut rig| {
        let file = file_with(b"0123456789");
        let bytes = pattern(50_000);
        let mut slab = SlabPool::oversized(50_000);
        slab.push(&bytes);
        let mut wanted = b"0123456".to_vec();
        // Nothing, one slice, several, and more than one system call takes.
        // Once by a worker, once on this thread.
        for (count, alone) in [0, 1, 5, 3000].into_iter().flat_map(|n| [(n, false), (n, true)]) {
            let flushed = rig.run(Op::WriteFlush {
                file: Arc::clone(&file),
                offset: wanted.len() as u64,
                slices: (0..count).map(|at| slab.slice(at * 10..at * 10 + 10)).collect(),
                alone,
            });
            assert!(matches!(flushed.unwrap(), Outcome::Flushed));
            wanted.extend_from_slice(&bytes[..count * 10]);
        }
        let mut seen = Vec::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_end(&mut seen).unwrap();
        assert!(seen[..wanted.len()] == wanted);
    });
}

#[test]
fn many_writes_with_flushes_run_at_the_same_time() {
    on_every_backend(|mut rig| {
        let file = file_with(b"");
        let mut slab = SlabPool::oversized(1000);
        slab.push(&[5; 1000]);
        // More pairs than the ring has room for.
        let tokens: Vec<_> = (0..700)
            .map(|at| {
                rig.submit(Op::WriteFlush {
                    file: Arc::clone(&file),
                    offset: at * 1000,
                    slices: vec![slab.slice(0..1000)],
                    alone: at % 2 == 0,
                })
            })
            .collect();
        for token in tokens {
            assert!(matches!(rig.end_of(token).unwrap(), Outcome::Flushed));
        }
        let mut seen = vec![0; 700_000];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == [5; 700_000]);
    });
}

#[test]
fn nothing_to_write_is_written() {
    on_every_backend(|mut rig| {
        let file = file_with(b"");
        for slices in [vec![], vec![SlabPool::oversized(10).slice(0..0)]] {
            let written =
                rig.run(Op::Write { file: Arc::clone(&file), offset: 3, slices, bulk: true });
            assert!(matches!(written.unwrap(), Outcome::Written));
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    });
}

#[test]
fn many_writes_of_one_file_run_at_the_same_time() {
    on_every_backend(|mut rig| {
        let pool = SlabPool::new(8, 256 << 10);
        let file = file_with(b"");
        let bytes = pattern(256 << 10);
        let tokens: Vec<_> = (0..8_u64)
            .map(|at| {
                let mut slab = pool.take().unwrap();
                slab.push(&bytes);
                rig.submit(Op::Write {
                    file: Arc::clone(&file),
                    offset: at * (256 << 10),
                    slices: vec![slab.slice(0..256 << 10)],
                    bulk: at % 2 == 0,
                })
            })
            .collect();
        for token in tokens {
            rig.end_of(token).unwrap();
        }
        assert_eq!(pool.in_use(), 0);
        for at in 0..8_u64 {
            let mut seen = vec![0; 256 << 10];
            file.read_exact_at(&mut seen, at * (256 << 10)).unwrap();
            assert!(seen == bytes);
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    on_every_backend(|mut rig| {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let full = Arc::new(full);
        let mut slab = SlabPool::oversized(4096);
        slab.push(&[1; 4096]);
        for bulk in [true, false] {
            let error = rig.run(Op::Write {
                file: Arc::clone(&full),
                offset: 0,
                slices: vec![slab.slice(0..10), slab.slice(10..4096)],
                bulk,
            });
            assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        }
        let error = rig.run(Op::WriteFlush {
            file: full,
            offset: 0,
            slices: vec![slab.slice(0..4096)],
            alone: false,
        });
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    });
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    on_every_backend(|mut rig| {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(std::fs::File::open(path.path()).unwrap());
        let mut slab = SlabPool::oversized(10);
        slab.push(b"0123456789");
        rig.run(Op::Write { file, offset: 0, slices: vec![slab.slice(0..10)], bulk: false })
            .unwrap_err();
    });
}

#[test]
fn a_prefetched_range_is_hot() {
    let contents = pattern(8 << 20);
    let file = file_with(&contents);
    on_every_backend(|mut rig| {
        chill(&file);
        let prefetched =
            rig.run(Op::Prefetch { file: Arc::clone(&file), offset: 12_345, bytes: 1 << 30 });
        assert!(matches!(prefetched.unwrap(), Outcome::Prefetched));
        let (socket, mut peer) = connection();
        let reader = thread::spawn(move || {
            let mut seen = vec![0; 64 + (4 << 20)];
            peer.read_exact(&mut seen).unwrap();
            seen
        });
        let token = rig.transmit(&socket, &extent(&file, 1 << 20, 4 << 20), Strategy::Auto);
        let outcome = rig.end_of(token).unwrap();
        if rig.backend.name() == "uring" {
            let hot = matches!(outcome, Outcome::Transmitted(Strategy::Sendfile));
            assert!(hot, "{outcome:?}");
        }
        assert!(reader.join().unwrap()[64..] == contents[1 << 20..5 << 20]);
        // Hot already, and behind the end of the file.
        for offset in [0, 1 << 40] {
            let prefetched =
                rig.run(Op::Prefetch { file: Arc::clone(&file), offset, bytes: 8 << 20 });
            assert!(matches!(prefetched.unwrap(), Outcome::Prefetched));
        }
    });
}
