//! `ACCEPT` and `CONNECT`.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use io_uring::{opcode, types};
use socket2::{SockAddr, Socket};

use super::tasks::Next;
use crate::io::{Outcome, sockets};

pub(super) struct Accept {
    listener: Arc<Socket>,
}

impl Accept {
    pub(super) fn new(listener: Arc<Socket>) -> Self {
        Self { listener }
    }

    pub(super) fn begin(&mut self) -> Next {
        let fd = types::Fd(self.listener.as_raw_fd());
        // The address is asked for afterwards: then the kernel has nothing of
        // ours to write to while it waits.
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        Next::Wait(entry)
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        if result == -libc::EINTR || result == -libc::ECONNABORTED {
            return self.begin();
        }
        if result < 0 {
            return Next::failed(result);
        }
        // SAFETY: the descriptor was made for us a moment ago; nobody else
        // owns it.
        let socket = unsafe { Socket::from_raw_fd(result) };
        match introduce(&socket) {
            Ok(peer) => Next::Done(Ok(Outcome::Accepted(socket, peer))),
            // It was reset while it waited in the queue: the next, please.
            Err(_) => self.begin(),
        }
    }
}

fn introduce(socket: &Socket) -> io::Result<SocketAddr> {
    sockets::tune(socket)?;
    let peer = socket.peer_addr()?;
    peer.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

pub(super) struct Connect {
    address: SocketAddr,
    /// The socket and the address in the kernel's form, boxed because the
    /// kernel reads it when the entry is submitted.
    started: Option<(Socket, Box<SockAddr>)>,
}

impl Connect {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, started: None }
    }

    pub(super) fn begin(&mut self) -> Next {
        let socket = match sockets::unconnected(self.address) {
            Ok(socket) => socket,
            Err(error) => return Next::Done(Err(error)),
        };
        let address = Box::new(SockAddr::from(self.address));
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        self.started = Some((socket, address));
        Next::Wait(entry)
    }

    pub(super) fn resume(&mut self, result: i32) -> Next {
        match self.started.take() {
            Some((socket, _)) if result >= 0 => Next::Done(Ok(Outcome::Connected(socket))),
            _ => Next::failed(result),
        }
    }
}
