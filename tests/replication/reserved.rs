//! Addresses that nobody else is given.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// An address of this host at which nobody listens, until somebody is told to: as long
/// as this is kept, the system gives it to no other. A listener that was closed would not
/// do: a process that another test is just starting may have inherited it, and answers
/// for a moment. (Where a bound socket keeps out all others, as on BSD, the node is
/// kept out as well.)
pub(crate) struct Reserved(Socket);

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // A node sets it too, which is how it gets by this one.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}
