//! Bytes to a socket, without blocking for it.

use std::fs::File;
use std::io;

use socket2::Socket;

/// Whether [`send_file`] exists here.
pub const HAS_SEND_FILE: bool =
    cfg!(any(target_os = "linux", target_os = "macos", target_os = "freebsd"));

#[cfg(target_os = "linux")]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
#[cfg(target_os = "linux")]
const MORE: i32 = libc::MSG_MORE;

#[cfg(not(target_os = "linux"))]
const NO_SIGNAL: i32 = libc::MSG_DONTWAIT;
#[cfg(not(target_os = "linux"))]
const MORE: i32 = 0;

/// Send some of `bytes`; `more` says that others follow at once.
///
/// # Errors
///
/// `WouldBlock` when the socket takes nothing now, or what is wrong with the
/// connection.
pub fn send(socket: &Socket, bytes: &[u8], more: bool) -> io::Result<usize> {
    socket.send_with_flags(bytes, if more { NO_SIGNAL | MORE } else { NO_SIGNAL })
}

/// Send some of the file's bytes, without copying them through the process. 0
/// when the file ends at `offset`. The caller ignores SIGPIPE.
///
/// # Errors
///
/// `WouldBlock` when the (non-blocking) socket takes nothing now, or what is
/// wrong with the connection or the file.
#[cfg(target_os = "linux")]
pub fn send_file(socket: &Socket, file: &File, offset: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = at(offset)?;
    Ok(nix::sys::sendfile::sendfile(socket, file, Some(&mut offset), bytes)?)
}

/// Send some of the file's bytes, without copying them through the process. 0
/// when the file ends at `offset`. The caller ignores SIGPIPE.
///
/// # Errors
///
/// `WouldBlock` when the (non-blocking) socket takes nothing now, or what is
/// wrong with the connection or the file.
#[cfg(target_os = "macos")]
pub fn send_file(socket: &Socket, file: &File, offset: u64, bytes: usize) -> io::Result<usize> {
    let count = at(bytes as u64)?;
    let (result, sent) =
        nix::sys::sendfile::sendfile(file, socket, at(offset)?, Some(count), None, None);
    partial(result, sent)
}

/// Send some of the file's bytes, without copying them through the process. 0
/// when the file ends at `offset`. The caller ignores SIGPIPE.
///
/// # Errors
///
/// `WouldBlock` when the (non-blocking) socket takes nothing now, or what is
/// wrong with the connection or the file.
#[cfg(target_os = "freebsd")]
pub fn send_file(socket: &Socket, file: &File, offset: u64, bytes: usize) -> io::Result<usize> {
    use nix::sys::sendfile::{SfFlags, sendfile};
    let flags = SfFlags::empty();
    let (result, sent) = sendfile(file, socket, at(offset)?, Some(bytes), None, None, flags, 0);
    partial(result, sent)
}

/// There is no such call here: read and [`send`] instead.
///
/// # Errors
///
/// Always `Unsupported`.
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
pub fn send_file(_socket: &Socket, _file: &File, _offset: u64, _bytes: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The BSDs report an error and, beside it, what was sent before it.
#[cfg(any(target_os = "macos", target_os = "freebsd"))]
fn partial(result: nix::Result<()>, sent: libc::off_t) -> io::Result<usize> {
    match (result, usize::try_from(sent)) {
        (_, Ok(sent)) if sent > 0 => Ok(sent),
        (Ok(()), _) => Ok(0),
        (Err(error), _) => Err(error.into()),
    }
}

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
fn at(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
