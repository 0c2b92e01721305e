//! What a node asks of its kernel, and what comes of it, when.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use saltus::io::{Completion, Op, Outcome, Slice, Source, Token};

use super::machine::Running;
use super::network::{Process, address, machine_at};
use super::oracle::Sender;
use super::world::{Event, World};

/// An operation that takes its time.
pub struct Operation {
    pub process: Process,
    token: Token,
    work: Work,
    /// Done, seen by the disk, and what came of it.
    result: Option<io::Result<Outcome>>,
}

enum Work {
    Connect(SocketAddr),
    /// Write, then perhaps sync.
    Write {
        file: Arc<File>,
        offset: u64,
        bytes: Vec<u8>,
        flush: bool,
    },
    Flush(Arc<File>),
    Prefetch,
}

impl World {
    pub fn submit(&mut self, process: Process, token: Token, op: Op) {
        let (number, _) = process;
        match op {
            Op::Accept { .. } => {
                if let Some(running) = &mut self.machines[number].running {
                    running.accepting = Some(token);
                }
                self.accept(number);
            }
            Op::Connect { address } => {
                let operation = self.enter(process, token, Work::Connect(address));
                let after = self.chance.delay(self.plan.weather.latency * 2);
                self.after(after, Event::Connect(operation));
            }
            Op::Receive { socket, slab, low_water, most } => {
                self.network.receive(&socket, token, slab, low_water, most);
            }
            Op::Send { socket, bytes } => {
                let connection = self.network.number(&socket);
                self.trace_frames(number, connection, &bytes);
                let machine = &self.machines[number];
                let disk = machine.disk.lock();
                let sender = Sender {
                    machine: number,
                    process: process.1,
                    disk: &disk,
                    databases: &self.databases,
                };
                self.oracle.hears(connection, &sender, &bytes);
                drop(disk);
                self.network.send(&socket, token, bytes, false);
            }
            Op::Transmit { socket, header, source, .. } => {
                let connection = self.network.number(&socket);
                match read(&source) {
                    Ok(bytes) => {
                        self.trace_frames(number, connection, &header);
                        self.oracle.ships(connection, &header, &bytes, &self.databases);
                        let bytes = [header.as_slice(), &bytes].concat();
                        self.network.send(&socket, token, bytes, true);
                    }
                    Err(error) => {
                        self.complete(process, Completion { token, result: Err(error) });
                    }
                }
            }
            Op::Write { file, offset, slices, .. } => {
                let work = Work::Write { file, offset, bytes: join(&slices), flush: false };
                self.disk_work(process, token, work);
            }
            Op::WriteFlush { file, offset, slices, .. } => {
                let work = Work::Write { file, offset, bytes: join(&slices), flush: true };
                self.disk_work(process, token, work);
            }
            Op::Flush { file } => self.disk_work(process, token, Work::Flush(file)),
            Op::Prefetch { .. } => self.disk_work(process, token, Work::Prefetch),
            other => panic!("an operation that is not simulated: {other:?}"),
        }
    }

    fn enter(&mut self, process: Process, token: Token, work: Work) -> u64 {
        let number = self.next_operation;
        self.next_operation += 1;
        self.operations.insert(number, Operation { process, token, work, result: None });
        number
    }

    /// The disk does it some time between now and when its end is told. A
    /// flush that covers no more than it must is done at once.
    fn disk_work(&mut self, process: Process, token: Token, work: Work) {
        let at_once = matches!(work, Work::Flush(_)) && self.chance.percent(50);
        let number = self.enter(process, token, work);
        let usual = self.plan.disk_latency;
        let (first, second) = (self.chance.delay(usual), self.chance.delay(usual));
        if at_once {
            self.execute(number);
        } else {
            self.after(first, Event::Execute(number));
        }
        self.after(first + second, Event::Finish(number));
    }

    pub fn execute(&mut self, number: u64) {
        let Some(operation) = self.operations.get_mut(&number) else { return };
        let machine = &self.machines[operation.process.0];
        let mut disk = machine.disk.lock();
        let result = match &operation.work {
            Work::Write { file, offset, bytes, flush } => {
                let names = disk.names_of(file);
                self.oracle.writes(machine.number, &names, *offset, bytes);
                let written = disk.write(file, bytes, *offset).map(|()| Outcome::Written);
                match flush {
                    true => written.and_then(|_| disk.sync(file)).map(|()| Outcome::Flushed),
                    false => written,
                }
            }
            Work::Flush(file) => disk.sync(file).map(|()| Outcome::Flushed),
            Work::Prefetch => Ok(Outcome::Prefetched),
            Work::Connect(_) => return,
        };
        operation.result = Some(result);
    }

    pub fn finish(&mut self, number: u64) {
        let Some(operation) = self.operations.remove(&number) else { return };
        let Some(result) = operation.result else { return };
        let completion = Completion { token: operation.token, result };
        self.complete(operation.process, completion);
    }

    /// A process is gone, and what it had asked for may be done all the same.
    pub fn forsake(&mut self, process: Process) {
        let own: Vec<u64> = (self.operations.iter())
            .filter(|(_, operation)| operation.process == process)
            .map(|(number, _)| *number)
            .collect();
        for number in own {
            let Some(operation) = self.operations.remove(&number) else { continue };
            if operation.result.is_some() || self.chance.percent(50) {
                continue;
            }
            let mut disk = self.machines[process.0].disk.lock();
            match operation.work {
                Work::Write { file, offset, bytes, .. } => disk.write_some(&file, &bytes, offset),
                // Whether it succeeds, nobody is left to hear.
                Work::Flush(file) => drop(disk.sync(&file)),
                Work::Connect(_) | Work::Prefetch => {}
            }
        }
    }

    pub fn complete(&mut self, process: Process, completion: Completion) {
        let machine = &self.machines[process.0];
        if machine.incarnation == process.1
            && let Some(running) = &machine.running
        {
            running.kernel.borrow_mut().ended.push(completion);
        }
    }

    /// An attempt to connect gets to its machine.
    pub fn connect(&mut self, number: u64) {
        let Some(operation) = self.operations.remove(&number) else { return };
        let Work::Connect(to) = operation.work else { return };
        let (from, to) = (operation.process, machine_at(to));
        let token = operation.token;
        if self.machines[from.0].incarnation != from.1 {
            return;
        }
        let cut_off = [from.0, to].iter().any(|number| self.cut_off[*number] > self.now());
        if cut_off {
            // Nobody answers: the kernel gives up long after the node has.
            return;
        }
        if self.machines[to].running.as_ref().is_none_or(|running| running.stopping) {
            let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
            return self.complete(from, Completion { token, result: Err(refused) });
        }
        let (near, far) = self.network.connect(from, self.machines[to].process());
        self.complete(from, Completion { token, result: Ok(Outcome::Connected(near)) });
        if let Some(running) = &mut self.machines[to].running {
            running.backlog.push_back((far, address(from.0)));
        }
        self.accept(to);
    }

    /// Hand a connection that waits to a node that waits for one.
    fn accept(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let process = machine.process();
        let Some(Running { accepting, backlog, .. }) = &mut machine.running else { return };
        if let Some((socket, from)) = backlog.pop_front() {
            match accepting.take() {
                Some(token) => {
                    let result = Ok(Outcome::Accepted(socket, from));
                    self.complete(process, Completion { token, result });
                }
                None => backlog.push_front((socket, from)),
            }
        }
    }
}

/// The bytes of an extent, as the page cache has them now.
fn read(source: &Source) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(source.bytes).unwrap()];
    source.file.read_exact_at(&mut bytes, source.offset)?;
    Ok(bytes)
}

fn join(slices: &[Slice]) -> Vec<u8> {
    slices.iter().flat_map(|slice| slice.as_ref().iter().copied()).collect()
}
