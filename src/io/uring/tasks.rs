//! Operations in flight, and the names under which the ring knows them.

use std::io;

use io_uring::squeue::Entry;

use super::connect::{Accept, Connect};
use super::prefetch::Prefetch;
use super::queue::Result;
use super::receive::{Receive, Send};
use super::transmit::{Linger, Transmit};
use super::write::{Flush, Write};
use super::{Shared, wake, watch};
use crate::io::{Op, Outcome, Token};

/// What a step of a task leads to.
pub(super) enum Next {
    /// The operation has ended.
    Done(io::Result<Outcome>),
    /// The operation goes on when this entry has its result.
    Wait(Entry),
}

impl Next {
    /// The operation has failed with what `result`, a negated error number of
    /// the kernel, says.
    pub(super) fn failed(result: i32) -> Self {
        Self::Done(Err(io::Error::from_raw_os_error(-result)))
    }
}

/// Who is told when a task ends.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Submitter(Token),
    Backend,
}

/// One operation in flight, and all that it owns.
pub(super) enum Task {
    Accept(Accept),
    Connect(Connect),
    Receive(Receive),
    Send(Send),
    Transmit(Box<Transmit>),
    Write(Write),
    Flush(Flush),
    Prefetch(Prefetch),
    Wake(wake::Armed),
    Watch(watch::Reading),
    Linger(Linger),
}

impl Task {
    pub(super) fn of(op: Op) -> Self {
        match op {
            Op::Accept { listener } => Self::Accept(Accept::new(listener)),
            Op::Connect { address } => Self::Connect(Connect::new(address)),
            Op::Receive { socket, slab, low_water, most } => {
                Self::Receive(Receive::new(socket, slab, low_water, most))
            }
            Op::Send { socket, bytes } => Self::Send(Send::new(socket, bytes)),
            Op::Transmit { socket, header, source, strategy } => {
                Self::Transmit(Box::new(Transmit::new(socket, header, source, strategy)))
            }
            Op::Write { file, offset, slices, bulk } => {
                Self::Write(Write::new(file, offset, slices, bulk))
            }
            Op::WriteFlush { file, offset, slices, alone } => {
                Self::Write(Write::and_flush(file, offset, slices, alone))
            }
            Op::Flush { file } => Self::Flush(Flush::new(file)),
            Op::Prefetch { file, offset, bytes } => {
                Self::Prefetch(Prefetch::new(file, offset, bytes))
            }
        }
    }

    /// The first step.
    pub(super) fn begin(&mut self, shared: &mut Shared) -> Next {
        match self {
            Self::Accept(task) => task.begin(),
            Self::Connect(task) => task.begin(),
            Self::Receive(task) => task.begin(shared),
            Self::Send(task) => task.begin(),
            Self::Transmit(task) => task.begin(shared),
            Self::Write(task) => task.begin(shared),
            Self::Flush(task) => task.begin(),
            Self::Prefetch(task) => task.begin(),
            Self::Wake(task) => Next::Wait(task.again()),
            Self::Watch(task) => Next::Wait(task.again()),
            Self::Linger(_) => Next::failed(-libc::EINVAL),
        }
    }

    /// The step after the ring's result.
    pub(super) fn resume(&mut self, outcome: &Result, shared: &mut Shared) -> Next {
        let &Result { value: result, flags, .. } = outcome;
        match self {
            Self::Accept(task) => task.resume(result),
            Self::Connect(task) => task.resume(result),
            Self::Receive(task) => task.resume(result),
            Self::Send(task) => task.resume(result),
            Self::Transmit(task) => task.resume(result, flags, shared),
            Self::Write(task) => task.resume(result, shared),
            Self::Flush(task) => task.resume(result),
            Self::Prefetch(task) => task.resume(result),
            // These two never end by themselves; the backend steps them.
            Self::Wake(task) => Next::Wait(task.again()),
            Self::Watch(task) => Next::Wait(task.again()),
            Self::Linger(_) => Next::failed(-libc::EINVAL),
        }
    }

    /// One notification of a zero-copy send has come. True when the task was
    /// only waiting for it.
    pub(super) fn notified(&mut self) -> bool {
        match self {
            Self::Transmit(task) => {
                task.notified();
                false
            }
            Self::Linger(linger) => linger.notified(),
            _ => false,
        }
    }

    /// What must stay when the task has ended, if anything: `flags` are those
    /// of its last result when that has not been given to it.
    pub(super) fn leave_behind(&mut self, flags: u32) -> Option<Self> {
        match self {
            Self::Transmit(task) => task.leave_behind(flags).map(Self::Linger),
            _ => None,
        }
    }

    /// True for what may wait for ever: for a peer, or for a file to change.
    pub(super) fn waits_for_others(&self) -> bool {
        !matches!(self, Self::Write(_) | Self::Flush(_) | Self::Prefetch(_))
    }
}

#[derive(Default)]
struct Place {
    /// Counts the tasks that have been here, so that a cancellation that comes
    /// too late never meets another task.
    generation: u32,
    task: Option<(Owner, Task)>,
}

/// The table of tasks. A name is the generation and the index of its place.
#[derive(Default)]
pub(super) struct Tasks {
    places: Vec<Place>,
    free: Vec<usize>,
}

impl Tasks {
    pub(super) fn insert(&mut self, owner: Owner, task: Task) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[at];
        place.task = Some((owner, task));
        name(place.generation, at)
    }

    pub(super) fn get(&mut self, name: u64) -> Option<(Owner, &mut Task)> {
        let place = self.places.get_mut(index(name))?;
        if u64::from(place.generation) != name >> 32 {
            return None;
        }
        place.task.as_mut().map(|(owner, task)| (*owner, task))
    }

    pub(super) fn remove(&mut self, name: u64) {
        if self.get(name).is_some() {
            let place = &mut self.places[index(name)];
            place.task = None;
            place.generation = place.generation.wrapping_add(1);
            self.free.push(index(name));
        }
    }

    /// The name of the accept or connect under that token.
    pub(super) fn cancellable(&self, token: Token) -> Option<u64> {
        self.iter()
            .find(|(_, owner, task)| {
                matches!(task, Task::Accept(_) | Task::Connect(_))
                    && matches!(owner, Owner::Submitter(own) if *own == token)
            })
            .map(|(name, ..)| name)
    }

    pub(super) fn names(&self) -> Vec<u64> {
        self.iter().map(|(name, ..)| name).collect()
    }

    /// How many tasks have an entry in the ring that will have a result.
    pub(super) fn in_flight(&self) -> usize {
        self.iter().filter(|(.., task)| !matches!(task, Task::Linger(_))).count()
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Owner, &Task)> {
        self.places.iter().enumerate().filter_map(|(at, place)| {
            let (owner, task) = place.task.as_ref()?;
            Some((name(place.generation, at), owner, task))
        })
    }
}

/// Tasks hold memory, so their number never nears 2^32.
fn name(generation: u32, index: usize) -> u64 {
    u64::from(generation) << 32 | index as u64
}

#[expect(clippy::cast_possible_truncation, reason = "32 bits of it are left")]
fn index(name: u64) -> usize {
    (name & u64::from(u32::MAX)) as usize
}
