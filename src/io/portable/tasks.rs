//! Operations of the portable backend, step by step.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use saltus_fallback::{Direction, HAS_SEND_FILE, Job};
use socket2::Socket;

use crate::io::outgoing::{Moved, Outgoing, ReadAhead};
use crate::io::sockets::{self, LowWater};
use crate::io::{Mapped, Op, Outcome, Slab, Slice, Strategy};

/// Bytes read at a time to bring a file into the cache.
const PREFETCH_BYTES: usize = 256 << 10;

/// What a step leads to.
pub(super) enum Next {
    Done(io::Result<Outcome>),
    /// Step again when the task's socket is ready.
    Wait(Direction),
    /// The job's result ends the task.
    Disk(Job),
}

/// What a disk thread does.
#[derive(Clone, Copy)]
pub(super) enum DiskWork {
    Write,
    Flush,
    Prefetch,
}

pub(super) enum Way {
    SendFile,
    CopyMapped(Mapped),
    CopyRead(ReadAhead),
}

pub(super) enum Task {
    Accept {
        listener: Arc<Socket>,
    },
    Connect {
        socket: Option<Arc<Socket>>,
        started: bool,
        address: socket2::SockAddr,
    },
    Receive {
        socket: Arc<Socket>,
        slab: Option<Slab>,
        low_water: usize,
        most: usize,
        /// True once the poller has said that the low water is reached.
        waited: bool,
    },
    Send {
        socket: Arc<Socket>,
        bytes: Vec<u8>,
        sent: usize,
    },
    Transmit {
        outgoing: Box<Outgoing>,
        way: Way,
    },
    Disk {
        work: DiskWork,
        job: Option<Job>,
    },
}

impl Task {
    /// # Errors
    ///
    /// The operation cannot even be started.
    pub(super) fn of(op: Op) -> io::Result<Self> {
        Ok(match op {
            Op::Accept { listener } => Self::Accept { listener },
            Op::Connect { address } => Self::Connect {
                socket: Some(Arc::new(sockets::unconnected(address)?)),
                started: false,
                address: address.into(),
            },
            Op::Receive { socket, slab, low_water, most } => Self::Receive {
                most: most.min(slab.spare()),
                socket,
                slab: Some(slab),
                low_water,
                waited: false,
            },
            Op::Send { socket, bytes } => Self::Send { socket, bytes, sent: 0 },
            Op::Transmit { socket, header, source, strategy } => {
                let outgoing = Box::new(Outgoing::new(socket, header, source));
                let way = way(&outgoing, strategy);
                Self::Transmit { outgoing, way }
            }
            Op::Write { file, offset, slices, bulk: _ } => {
                Self::disk(DiskWork::Write, move || write(&file, offset, &slices))
            }
            Op::WriteFlush { file, offset, slices, alone: _ } => {
                Self::disk(DiskWork::Flush, move || {
                    write(&file, offset, &slices)?;
                    file.sync_data()
                })
            }
            Op::Flush { file } => Self::disk(DiskWork::Flush, move || file.sync_data()),
            Op::Prefetch { file, offset, bytes } => {
                Self::disk(DiskWork::Prefetch, move || prefetch(&file, offset, bytes))
            }
        })
    }

    fn disk(work: DiskWork, job: impl FnOnce() -> io::Result<()> + Send + 'static) -> Self {
        Self::Disk { work, job: Some(Box::new(job)) }
    }

    /// Whose readiness the task waits for.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        match self {
            Self::Accept { listener: socket }
            | Self::Receive { socket, .. }
            | Self::Send { socket, .. } => Some(Arc::clone(socket)),
            Self::Connect { socket, .. } => socket.clone(),
            Self::Transmit { outgoing, .. } => Some(Arc::clone(&outgoing.socket)),
            Self::Disk { .. } => None,
        }
    }

    /// For what it waits there.
    pub(super) fn direction(&self) -> Option<Direction> {
        match self {
            Self::Accept { .. } | Self::Receive { .. } => Some(Direction::Read),
            Self::Connect { .. } | Self::Send { .. } | Self::Transmit { .. } => {
                Some(Direction::Write)
            }
            Self::Disk { .. } => None,
        }
    }

    pub(super) fn is_cancellable(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::Connect { .. })
    }

    /// What the success of the task's disk job means.
    pub(super) fn disk_outcome(&self) -> Outcome {
        match self {
            Self::Disk { work, .. } => super::disk_outcome(*work),
            // Only disk tasks submit jobs.
            _ => Outcome::Written,
        }
    }

    /// Go on as far as possible without waiting.
    pub(super) fn step(&mut self, low_water: &mut LowWater) -> Next {
        let result = match self {
            Self::Accept { listener } => accept(listener),
            Self::Connect { socket, started, address } => connect(socket, started, address),
            Self::Receive { socket, slab, low_water: wanted, most, waited } => {
                let first = !std::mem::replace(waited, true);
                // Where the option does not exist, wake-ups are merely small.
                if first && low_water.set(socket, *wanted, *most).unwrap_or(1) > 1 {
                    return Next::Wait(Direction::Read);
                }
                receive(socket, slab, *most)
            }
            Self::Send { socket, bytes, sent } => send(socket, bytes, sent),
            Self::Transmit { outgoing, way } => transmit(outgoing, way),
            Self::Disk { job, .. } => {
                return job.take().map_or_else(
                    || Next::Done(Err(io::ErrorKind::InvalidInput.into())),
                    Next::Disk,
                );
            }
        };
        match (result, self.direction()) {
            (Ok(None), Some(direction)) => Next::Wait(direction),
            (Ok(Some(outcome)), _) => Next::Done(Ok(outcome)),
            (Ok(None), None) => Next::Done(Err(io::ErrorKind::InvalidInput.into())),
            (Err(error), _) => Next::Done(Err(error)),
        }
    }
}

/// The outcome, or nothing while the socket is not ready.
type Step = io::Result<Option<Outcome>>;

fn accept(listener: &Socket) -> Step {
    loop {
        match listener.accept() {
            Ok((socket, peer)) => {
                socket.set_nonblocking(true)?;
                // One that was reset while it waited cannot be tuned: next.
                if let (Ok(()), Some(peer)) = (sockets::tune(&socket), peer.as_socket()) {
                    return Ok(Some(Outcome::Accepted(socket, peer)));
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => return Err(error),
            },
        }
    }
}

fn connect(
    socket: &mut Option<Arc<Socket>>,
    started: &mut bool,
    address: &socket2::SockAddr,
) -> Step {
    let Some(ours) = socket else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    if !std::mem::replace(started, true) {
        match ours.connect(address) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(libc::EINPROGRESS)
                    || error.kind() == io::ErrorKind::WouldBlock =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = ours.take_error()? {
        return Err(error);
    }
    if ours.peer_addr().is_err() {
        // Woken too early.
        return Ok(None);
    }
    let ours = socket.take().ok_or(io::ErrorKind::NotConnected)?;
    let ours = Arc::try_unwrap(ours).or_else(|shared| shared.try_clone())?;
    Ok(Some(Outcome::Connected(ours)))
}

fn receive(socket: &Socket, slab: &mut Option<Slab>, most: usize) -> Step {
    let Some(mut filled) = slab.take() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if most == 0 {
        // 0 bytes would mean end of stream.
        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
    }
    loop {
        match filled.receive(socket, most) {
            Ok(bytes) => return Ok(Some(Outcome::Received(filled, bytes))),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    *slab = Some(filled);
                    return Ok(None);
                }
                _ => return Err(error),
            },
        }
    }
}

fn send(socket: &Socket, bytes: &[u8], sent: &mut usize) -> Step {
    while *sent < bytes.len() {
        match saltus_fallback::send(socket, &bytes[*sent..], false) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => *sent += more,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            },
        }
    }
    Ok(Some(Outcome::Sent))
}

fn way(outgoing: &Outgoing, strategy: Strategy) -> Way {
    let copies = matches!(strategy, Strategy::Copy | Strategy::SendZc);
    if HAS_SEND_FILE && !copies {
        return Way::SendFile;
    }
    outgoing.mapped().map_or_else(|| Way::CopyRead(ReadAhead::default()), Way::CopyMapped)
}

fn transmit(outgoing: &mut Outgoing, way: &mut Way) -> Step {
    if !outgoing.send_header()? {
        return Ok(None);
    }
    while outgoing.rest() > 0 {
        let moved = match way {
            Way::SendFile => outgoing.send_file()?,
            Way::CopyMapped(mapped) => outgoing.send_mapped(mapped)?,
            Way::CopyRead(ahead) => outgoing.send_read(ahead)?,
        };
        if moved == Moved::Full {
            return Ok(None);
        }
    }
    let strategy = match way {
        Way::SendFile => Strategy::Sendfile,
        Way::CopyMapped(_) => {
            outgoing.check_not_shrunk()?;
            Strategy::Copy
        }
        Way::CopyRead(_) => Strategy::Copy,
    };
    Ok(Some(Outcome::Transmitted(strategy)))
}

fn write(file: &File, mut offset: u64, slices: &[Slice]) -> io::Result<()> {
    for slice in slices {
        let bytes = slice.as_ref();
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// Read the range and forget it: what the kernel read stays in its cache.
fn prefetch(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; PREFETCH_BYTES];
    let end = offset.saturating_add(bytes).min(file.metadata()?.len());
    let mut at = offset;
    while at < end {
        let most =
            usize::try_from(end - at).map_or(PREFETCH_BYTES, |rest| rest.min(PREFETCH_BYTES));
        match file.read_at(&mut buffer[..most], at)? {
            0 => break,
            read => at += read as u64,
        }
    }
    Ok(())
}
