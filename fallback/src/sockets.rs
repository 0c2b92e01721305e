//! Socket options that only some systems have.

use std::io;
use std::time::Duration;

use socket2::Socket;

/// Make the socket refuse more while `bytes` wait unsent, and fail when what
/// was sent stays unacknowledged for `patience`.
///
/// # Errors
///
/// The socket is not TCP, or broken already.
#[cfg(target_os = "linux")]
pub fn bound_unsent(socket: &Socket, bytes: u32, patience: Duration) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)?;
    socket.set_tcp_user_timeout(Some(patience))
}

/// Does nothing here: keepalive and the engine's own time-out stand in.
///
/// # Errors
///
/// None.
#[cfg(not(target_os = "linux"))]
pub fn bound_unsent(_socket: &Socket, _bytes: u32, _patience: Duration) -> io::Result<()> {
    Ok(())
}
