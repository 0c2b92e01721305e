//! Sockets as every connection of the process has them.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits::{MAX_CONNECTIONS, MAX_RECEIVE_LOW_WATER_BYTES, PEER_TIMEOUT};

/// Bytes accepted by a socket and not yet sent that make it refuse more. A
/// catch-up then queues at most this far ahead of another space's tail; much
/// less would starve the wire between two wake-ups.
const MAX_UNSENT_BYTES: u32 = 1 << 20;

/// Idle time before the kernel probes a silent peer, and between its probes.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);

/// A listening, non-blocking socket.
///
/// # Errors
///
/// The address is in use, not of this host, or not permitted.
pub fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(MAX_CONNECTIONS).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// A non-blocking socket that can be connected to `address`, tuned.
pub(super) fn unconnected(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    if address.ip().is_loopback() {
        saltus_fallback::spare_loopback(&socket);
    }
    Ok(socket)
}

/// Set the options that every connection has: no delay, keepalive, and where
/// the system has them a bound on unsent bytes and on unacknowledged time.
///
/// # Errors
///
/// The socket is not TCP, or broken already.
pub fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_PAUSE).with_interval(KEEPALIVE_PAUSE);
    socket.set_tcp_keepalive(&keepalive)?;
    let peer = socket.peer_addr().ok().and_then(|address| address.as_socket());
    if peer.is_some_and(|peer| peer.ip().is_loopback()) {
        saltus_fallback::spare_loopback(socket);
    }
    saltus_fallback::bound_unsent(socket, MAX_UNSENT_BYTES, PEER_TIMEOUT)
}

/// Ask that the socket be readable only when `bytes` have arrived.
fn set_receive_low_water(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the pointer and the length name `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Remembers what `SO_RCVLOWAT` each socket was last given, so that it is set
/// only when it changes.
#[derive(Default)]
pub(super) struct LowWater {
    // The weak reference keeps the socket's address from being reused, and so
    // tells a new socket from an old one with the same descriptor.
    last: HashMap<RawFd, (Weak<Socket>, usize)>,
}

impl LowWater {
    /// Wake the socket's reader when `wanted` bytes are there, capped by
    /// [`MAX_RECEIVE_LOW_WATER_BYTES`] and by `most`. Returns what it is now.
    pub(super) fn set(
        &mut self,
        socket: &Arc<Socket>,
        wanted: usize,
        most: usize,
    ) -> io::Result<usize> {
        let wanted = wanted.min(most).clamp(1, MAX_RECEIVE_LOW_WATER_BYTES);
        let fd = socket.as_raw_fd();
        let known = match self.last.get(&fd) {
            Some((owner, bytes)) if owner.as_ptr() == Arc::as_ptr(socket) => *bytes,
            // What a new socket starts with.
            _ => 1,
        };
        if known != wanted {
            set_receive_low_water(socket, wanted)?;
            if self.last.len() >= 2 * MAX_CONNECTIONS {
                self.last.retain(|_, (owner, _)| owner.strong_count() > 0);
            }
            self.last.insert(fd, (Arc::downgrade(socket), wanted));
        }
        Ok(wanted)
    }
}
