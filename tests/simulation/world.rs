//! The world of one seed: machines, a network, databases, and what happens to
//! them, one event after the other in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam::channel::Receiver;
use saltus::engine::keeper::Job;
use saltus::engine::report::ShardReport;
use saltus::ids::{SegmentName, SpaceId};
use saltus::limits::CATALOG_RETRY_DELAY;
use saltus::protocol::frame::{FrameHeader, Kind};
use saltus::protocol::message::Message;

use super::backend::Happened;
use super::chance::Chance;
use super::clock::{MachineClock, Time};
use super::database::{Database, Noise};
use super::disk::Disk;
use super::faults::Missing;
use super::host::{Sectors, SharedDisk};
use super::invariant::Invariant::Bounds;
use super::machine::Machine;
use super::network::{Effect, Network, Process};
use super::operations::Operation;
use super::oracle::Oracle;
use super::plan::Plan;
use super::rot::{self, Passes};
use super::succession::Succession;
use super::trace::{self, Trace};

/// Steps after which a seed must have come to its end: a node that never
/// rests is found by it.
const MOST_STEPS: u64 = 500_000;

/// Operations that one process may have under way.
const MOST_OPERATIONS: usize = 512;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A node takes a turn.
    Turn(Process),
    /// Its keeper does what is queued.
    Keeper(Process),
    /// Its scrubber takes a turn.
    Scrub(Process),
    /// Somebody asks for a pass of scrubbing.
    Pass,
    /// Bits flip at rest on a replica.
    Rot,
    /// Its keeper tries to write what its catalog did not take.
    MendCatalog(Process),
    /// Something has come to the end of its way.
    Look { connection: usize, side: usize },
    /// An operation is done, seen by the disk.
    Execute(u64),
    /// Its end is told.
    Finish(u64),
    /// A node that was started, or not, is to be started.
    Start(usize),
    /// A connection is opened, or not.
    Connect(u64),
    /// A database does something.
    Database(usize),
    /// Something goes wrong.
    Fault,
    /// Something that went wrong is over.
    Mend(usize),
    /// Nothing goes wrong any more.
    Calm,
    /// Has all come to a good end?
    Check,
}

/// All of it.
pub struct World {
    pub chance: Chance,
    pub plan: Plan,
    /// Bits flip at rest on replicas, and passes of scrubbing mend that.
    pub rot: Option<rot::Plan>,
    pub passes: Passes,
    pub time: Time,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub databases: Vec<Database>,
    pub operations: BTreeMap<u64, Operation>,
    pub next_operation: u64,
    pub oracle: Oracle,
    pub trace: Trace,
    pub calm: bool,
    pub succession: Succession,
    pub ended: bool,
    /// One replica is held still until the others have everything.
    pub held: Option<usize>,
    /// Spaces whose status names what was lost for good.
    pub excused: BTreeSet<SpaceId>,
    /// Files that their primary let go of when the slot of every replica was lost.
    pub forsaken: BTreeSet<(SpaceId, SegmentName)>,
    /// Spaces that somebody had compacted, as the status says.
    pub compacted: BTreeSet<SpaceId>,
    /// Copies that wait for a person, as the status says.
    pub given_up: BTreeSet<(usize, SpaceId)>,
    /// What was missing when the primary was asked for its status, and that, once
    /// it has told.
    pub told: Option<(Missing, Receiver<ShardReport>)>,
    pub calm_since: u64,
    pub steps: u64,
    /// Until when a machine is reached by nobody.
    pub cut_off: Vec<u64>,
    /// A machine that dies midway loses its power.
    pub power_goes: Vec<bool>,
    _directory: tempfile::TempDir,
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(seed, &mut chance);
        let rot = rot::Plan::draw(seed, plan.active);
        let directory = private_directory();
        let time = Time::new();
        let mut machines = Vec::new();
        for number in 0..=plan.replicas {
            let root = directory.path().join(number.to_string());
            std::fs::create_dir(&root).unwrap();
            let mut disk = Disk::new(&root, chance.fork());
            disk.logging = trace.is_on();
            disk.receives = number > 0;
            let ships_to = if number == 0 { (1..=plan.replicas).collect() } else { Vec::new() };
            let clock = MachineClock::new(time.clone());
            let mut chance = chance.fork();
            machines.push(Machine::new(
                number,
                SharedDisk::new(disk),
                clock,
                ships_to,
                &plan,
                rot.as_ref().map(|rot| rot.bytes_per_second),
                &mut chance,
            ));
            machines[number].host().fail_reads(Sectors::draw(seed, number, &time));
        }
        let root = machines[0].data_root();
        let databases = (0..plan.spaces)
            .map(|number| {
                let space = format!("space-{number}").parse().unwrap();
                Database::new(space, root.clone(), plan.habits, chance.fork())
            })
            .collect();
        let count = machines.len();
        let network = Network::new(chance.fork(), plan.weather);
        let mut world = Self {
            chance,
            plan,
            rot,
            passes: Passes::default(),
            time,
            queue: BTreeMap::new(),
            next_event: 0,
            machines,
            network,
            databases,
            operations: BTreeMap::new(),
            next_operation: 0,
            oracle: Oracle::default(),
            trace,
            calm: false,
            succession: Succession::default(),
            ended: false,
            held: None,
            excused: BTreeSet::new(),
            forsaken: BTreeSet::new(),
            compacted: BTreeSet::new(),
            given_up: BTreeSet::new(),
            told: None,
            calm_since: 0,
            steps: 0,
            cut_off: vec![0; count],
            power_goes: vec![false; count],
            _directory: directory,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.trace.say(0, || plan);
        for number in 0..self.machines.len() {
            let after = self.chance.delay(Duration::from_millis(20));
            self.after(after, Event::Start(number));
        }
        for number in 0..self.databases.len() {
            let after = self.chance.delay(Duration::from_millis(20));
            self.after(after, Event::Database(number));
        }
        if !self.plan.faults.is_empty() {
            self.after(self.plan.fault_gap, Event::Fault);
        }
        self.after(self.plan.active, Event::Calm);
        self.begin_rot();
    }

    pub fn now(&self) -> u64 {
        self.time.passed_ns()
    }

    pub fn at(&mut self, at_ns: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((at_ns.max(self.now()), self.next_event), event);
    }

    pub fn after(&mut self, delay: Duration, event: Event) {
        let at = self.now() + u64::try_from(delay.as_nanos()).unwrap();
        self.at(at, event);
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now();
        for machine in &self.machines {
            for line in machine.disk.lock().log.drain(..) {
                self.trace.say(now, || format!("{} disk: {line}", machine.name));
            }
        }
        self.trace.say(now, text);
    }

    /// Let the seed happen, to its end.
    pub fn run(&mut self) {
        while !self.ended {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                panic!("Liveness: nothing happens any more");
            };
            self.steps += 1;
            assert!(self.steps < MOST_STEPS, "Liveness: the world does not come to rest");
            self.time.set(at);
            self.network.set_now(at);
            self.happen(event);
            self.settle();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(process) => self.turn(process),
            Event::Keeper(process) => self.keep(process),
            Event::Scrub(process) => self.scrub(process),
            Event::Pass => self.pass(),
            Event::Rot => self.rot(),
            Event::MendCatalog(process) => self.mend_catalog(process),
            Event::Look { connection, side } => self.network.look(connection, side),
            Event::Execute(number) => self.execute(number),
            Event::Finish(number) => self.finish(number),
            Event::Connect(number) => self.connect(number),
            Event::Start(number) => self.start(number),
            Event::Database(number) => self.database(number),
            Event::Fault => self.fault(),
            Event::Mend(number) => self.mend(number),
            Event::Calm => self.calm_down(),
            Event::Check => self.check(),
        }
    }

    /// What follows from what happened: completions, and nodes to be woken.
    fn settle(&mut self) {
        for effect in std::mem::take(&mut self.network.effects) {
            match effect {
                Effect::Ended(process, completion) => self.complete(process, completion),
                Effect::Look { at_ns, connection, side } => {
                    self.at(at_ns, Event::Look { connection, side });
                }
            }
        }
        self.look_at_let_go();
        self.hear_scrubbers();
        for number in 0..self.machines.len() {
            self.look_at_cuts(number);
            if self.machines[number].disk.lock().is_frozen() {
                self.died_midway(number);
            }
            let machine = &self.machines[number];
            let Some(running) = &machine.running else { continue };
            if running.kernel.borrow().has_news() {
                self.wake(number, Duration::from_micros(5));
            }
        }
    }

    /// A node takes a turn soon.
    pub fn wake(&mut self, number: usize, usual: Duration) {
        let at = self.now() + u64::try_from(self.chance.delay(usual).as_nanos()).unwrap();
        self.turn_at(number, at);
    }

    fn turn_at(&mut self, number: usize, at: u64) {
        let at = at.max(self.machines[number].paused_until);
        let machine = &mut self.machines[number];
        if machine.turn_at.is_none_or(|earlier| earlier > at) {
            machine.turn_at = Some(at);
            let process = machine.process();
            self.at(at, Event::Turn(process));
        }
    }

    fn start(&mut self, number: usize) {
        if self.machines[number].running.is_some() {
            return;
        }
        let mut chance = self.chance.fork();
        let refused = self.machines[number].host().refused();
        let outcome = self.machines[number].start(&mut chance);
        let name = self.machines[number].name.clone();
        if self.machines[number].disk.lock().is_frozen() {
            // It died while it started.
            return self.died_midway(number);
        }
        match outcome {
            Ok(()) => {
                self.say(|| format!("{name} starts"));
                self.network.back(number);
                if number == 0 {
                    self.look_at_source();
                }
                let refused = self.machines[number].host().refused() - refused;
                self.look_at_recovered(number, refused > 0);
                self.collect(number);
                self.wake(number, Duration::from_micros(50));
                self.scrub_soon(number);
            }
            Err(why) => {
                self.say(|| format!("{name} does not start: {why}"));
                let trouble = self.machines[number].disk.lock().trouble;
                assert!(
                    trouble.full || trouble.error_one_in > 0 || trouble.sync_error_one_in > 0,
                    "Liveness: {name} does not start on a good disk: {why}"
                );
                self.after(Duration::from_secs(1), Event::Start(number));
            }
        }
    }

    /// How much of what was shipped is still there for a primary that starts.
    fn look_at_source(&mut self) {
        let disk = self.machines[0].disk.lock();
        for database in &self.databases {
            self.oracle.look_at_source(database, &disk);
        }
    }

    /// What a replica has taken away from its logs must stand in its quarantine.
    fn look_at_cuts(&mut self, number: usize) {
        let cuts = std::mem::take(&mut self.machines[number].disk.lock().cuts);
        let adopted = std::mem::take(&mut self.machines[number].disk.lock().adopted);
        let disk = self.machines[number].disk.lock();
        for cut in cuts {
            self.oracle.cut_off(number, &cut, &disk);
        }
        for adopted in adopted {
            self.oracle.adopted(number, &adopted);
        }
    }

    /// What the primary lets go of, nobody may need.
    fn look_at_let_go(&mut self) {
        let let_go = std::mem::take(&mut self.machines[0].disk.lock().let_go);
        for inode in let_go {
            for database in &mut self.databases {
                if !database.let_go(inode, &self.machines[0].disk.lock()) {
                    // It has another name, or is another database's.
                    continue;
                }
                let running = self.machines[0].running.as_ref();
                let record = running.and_then(|r| r.catalog.space(&database.space).unwrap());
                if let Some(record) = record {
                    let lost = record.slots.values().filter(|slot| !slot.retains()).count();
                    if lost + 1 == self.machines.len() {
                        let log = database.files.iter().find(|log| log.inode() == inode);
                        let name = log.map(|log| (database.space.clone(), log.name));
                        self.forsaken.extend(name);
                    }
                    self.oracle.let_go(database, inode, &record);
                }
            }
        }
    }

    fn look_at_recovered(&mut self, number: usize, unreadable: bool) {
        self.look_at_cuts(number);
        let machine = &self.machines[number];
        let Some(running) = &machine.running else { return };
        let trouble = machine.disk.lock().trouble;
        let bad = trouble.full || trouble.error_one_in > 0 || trouble.sync_error_one_in > 0;
        for status in running.received.statuses().into_values() {
            let unread = |problem: &String| problem.contains("cannot be read at offset");
            let is_unread = unreadable && status.problem.as_ref().is_some_and(unread);
            if is_unread || bad && status.problem.is_some() {
                continue;
            }
            let disk = machine.disk.lock();
            self.oracle.recovered(number, &status, &disk);
            let began_at = running.began_at.get(&status.space);
            let damages = running.received.damages();
            self.oracle.recovered_over_rot(number, &status, began_at, &damages, &disk);
        }
    }

    fn turn(&mut self, process: Process) {
        let (number, incarnation) = process;
        let now = self.now();
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation || machine.turn_at != Some(now) {
            return;
        }
        machine.turn_at = None;
        if machine.paused_until > now {
            return self.turn_at(number, now);
        }
        let Some(running) = &mut machine.running else { return };
        if self.plan.tells_writers && number == 0 {
            let written = self.databases.iter().filter_map(Database::writes_to);
            machine.open_files.set(written.collect());
        }
        running.shard.wait(None).expect("the simulated queue never fails");
        let turn = running.shard.turn();
        self.collect(number);
        match turn {
            saltus::engine::shard::Turn::Ended => self.stopped(number),
            saltus::engine::shard::Turn::Wait(Some(until)) => {
                // A turn takes time, however much there is to do.
                let at = self.time.of(until).max(now + 1_000);
                self.turn_at(number, at);
            }
            saltus::engine::shard::Turn::Wait(None) => {}
        }
    }

    /// Take what a node has asked for.
    pub fn collect(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let process = machine.process();
        let Some(running) = &mut machine.running else { return };
        let submitted = std::mem::take(&mut running.kernel.borrow_mut().submitted);
        let jobs = running.jobs.len();
        for (token, op) in submitted {
            self.submit(process, token, op);
        }
        self.network.notice_closed(process);
        let own = self.operations.values().filter(|operation| operation.process == process);
        let own = own.count();
        assert!(own < MOST_OPERATIONS, "{Bounds}: {own} operations of one process");
        if jobs > 0 {
            self.keeper_soon(number);
        }
    }

    pub fn keeper_soon(&mut self, number: usize) {
        let delay = self.chance.delay(self.plan.keeper_latency);
        let now = self.now();
        let machine = &mut self.machines[number];
        if machine.keeper_at.is_none() {
            let at = now + u64::try_from(delay.as_nanos()).unwrap();
            let at = at.max(machine.paused_until);
            machine.keeper_at = Some(at);
            let process = machine.process();
            self.at(at, Event::Keeper(process));
        }
    }

    fn keep(&mut self, process: Process) {
        let (number, incarnation) = process;
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation {
            return;
        }
        machine.keeper_at = None;
        if machine.paused_until > self.time.passed_ns() {
            return self.keeper_soon(number);
        }
        let Some(running) = &mut machine.running else { return };
        let jobs: Vec<_> = running.jobs.try_iter().collect();
        let name = machine.name.clone();
        for job in jobs.iter().filter(|job| !matches!(job, Job::ScanRoot { .. })) {
            self.trace.say(self.time.passed_ns(), || format!("{name} keeper: {}", job_line(job)));
        }
        running.keeper.batch(jobs.into_iter());
        let searches = running.keeper.is_searching();
        if running.keeper.needs_mending() && !std::mem::replace(&mut machine.mends, true) {
            self.after(CATALOG_RETRY_DELAY, Event::MendCatalog(process));
        }
        if searches {
            self.keeper_soon(number);
        }
    }

    /// A keeper whose catalog could not be written tries it again.
    fn mend_catalog(&mut self, process: Process) {
        let (number, incarnation) = process;
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation {
            return;
        }
        machine.mends = false;
        let Some(running) = &mut machine.running else { return };
        running.keeper.mend();
        if running.keeper.needs_mending() {
            machine.mends = true;
            self.after(CATALOG_RETRY_DELAY, Event::MendCatalog(process));
        }
    }

    fn database(&mut self, number: usize) {
        if !self.calm {
            let after = self.chance.delay(self.plan.database_gap);
            self.after(after, Event::Database(number));
        }
        let noise = {
            let mut disk = self.machines[0].disk.lock();
            if self.calm {
                self.databases[number].finish(&mut disk)
            } else {
                self.databases[number].step(&mut disk)
            }
        };
        self.heard(noise);
    }

    /// What a node says, in one line per frame.
    pub fn trace_frames(&mut self, number: usize, connection: usize, bytes: &[u8]) {
        if !self.trace.is_on() {
            return;
        }
        let name = self.machines[number].name.clone();
        let mut rest = bytes;
        while let Some(raw) = rest.first_chunk::<64>() {
            let Ok(header) = FrameHeader::decode(raw) else { return };
            let end = 64 + usize::try_from(header.payload_bytes).unwrap();
            let line = match rest.get(64..end).map(|body| Message::decode(&header, body)) {
                Some(Ok(Some(message))) => format!("{message:?}"),
                _ => format!("{:?} {} +{}", header.kind, header.start, header.payload_bytes),
            };
            if header.kind != Kind::Heartbeat {
                self.say(|| format!("{name} #{connection} space {}: {line}", header.handle));
            }
            rest = rest.get(end..).unwrap_or_default();
        }
    }

    /// Tell who watches.
    pub fn heard(&mut self, noise: Vec<Noise>) {
        for Noise { directory, name, what } in noise {
            if !matches!(what, Happened::Modified) {
                self.say(|| format!("database: {} {what:?}", name.to_string_lossy()));
            }
            if let Some(running) = &self.machines[0].running {
                running.kernel.borrow_mut().happened(&directory, &name, what);
            }
        }
    }
}

fn job_line(job: &Job) -> String {
    let line = trace::steady(&format!("{job:?}"));
    line.chars().take(300).collect()
}

/// A directory in memory, where there is one.
fn private_directory() -> tempfile::TempDir {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(trace::DIRECTORY);
        builder
    };
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}
