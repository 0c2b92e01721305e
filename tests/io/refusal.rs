//! A kernel that refuses io_uring: here a seccomp filter does, as container
//! runtimes and hardened services have it.

use std::sync::Arc;
use std::thread;

use saltus::io::{BackendChoice, Op, SlabPool, Socket, open};

use crate::rig::{Rig, STRATEGIES, connection, extent, file_with, pattern};

/// Answer `io_uring_setup` with an error, for this thread and for good.
fn forbid_uring(errno: i32) {
    let statement =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word of what it is given.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_io_uring_setup as u32,
            0,
            1,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter and its program outlive the calls, which copy them.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
        ]
    };
    assert_eq!(results, [0, 0]);
}

fn without_uring(errno: i32, test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        forbid_uring(errno);
        test();
    });
    thread.join().unwrap();
}

#[test]
fn a_refusal_names_its_remedy() {
    without_uring(libc::EPERM, || {
        let error = open(BackendChoice::Uring).err().unwrap().to_string();
        assert!(error.contains("seccomp"), "{error}");
        assert!(error.contains("kernel.io_uring_disabled"), "{error}");
    });
    without_uring(libc::ENOSYS, || {
        let error = open(BackendChoice::Uring).err().unwrap().to_string();
        assert!(error.contains("Linux 6.1"), "{error}");
    });
}

#[test]
fn auto_goes_on_without_uring() {
    without_uring(libc::EPERM, || {
        let mut rig = Rig::new(open(BackendChoice::Auto).unwrap());
        assert_eq!(rig.backend.name(), "portable");
        let file = file_with(&pattern(1000));
        let (socket, peer) = connection();
        let peer = Arc::new(Socket::from(peer));
        peer.set_nonblocking(true).unwrap();
        for strategy in STRATEGIES {
            let token = rig.transmit(&socket, &extent(&file, 0, 1000), strategy);
            rig.end_of(token).unwrap();
            let slab = SlabPool::oversized(1064);
            let token = rig.receive(&peer, slab, 1064, 1064);
            rig.end_of(token).unwrap();
        }
        rig.run(Op::Flush { file }).unwrap();
    });
}
