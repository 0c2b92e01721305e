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

/// Between two processes of one host nothing is lost and nothing is shared:
/// take the congestion control that costs least. One that paces (BBR, the
/// default of some systems) spends a third of the sender's processor time on
/// timers there. Every Linux lets every user choose `reno`. Across a network
/// the system's choice stands.
#[cfg(target_os = "linux")]
pub fn spare_loopback(socket: &Socket) {
    // Refused, the system's choice stands as well.
    let _ = socket.set_tcp_congestion(b"reno");
}

/// There is no such choice.
#[cfg(not(target_os = "linux"))]
pub fn spare_loopback(_socket: &Socket) {}
