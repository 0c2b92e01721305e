//! One machine: a disk, clocks, and perhaps a node that runs on it. The node
//! is the real one, driven turn by turn.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use saltus::engine::keeper::retention::Rule;
use saltus::engine::keeper::{Job, Keeper, Mailbox, Places, Received};
use saltus::engine::report::ShardReport;
use saltus::engine::scrub::{Mender, ScrubOptions, ScrubTurns, Scrubber};
use saltus::engine::shard::{Command, Setup, Shard};
use saltus::ids::{NodeId, SpaceId};
use saltus::io::{Backend, Socket, Strategy, Token};
use saltus::lsn::Mark;
use saltus::protocol::message::Identity;
use saltus::protocol::sender::BatchRule;
use saltus::state::catalog::Catalog;
use saltus::state::host::Host;
use saltus::state::pins::Pins;
use saltus::wal::discover;
use saltus::wal::record::Checksums;
use socket2::{Domain, Type};

use super::backend::{Kernel, SimulatedBackend};
use super::chance::Chance;
use super::clock::MachineClock;
use super::host::{OpenFiles, SharedDisk, SimulatedHost};
use super::network::{Process, address};
use super::plan::Plan;

/// Passes begin when somebody asks for them.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// A node that runs.
pub struct Running {
    pub shard: Shard,
    pub keeper: Keeper,
    pub jobs: Receiver<Job>,
    commands: Sender<Command>,
    pub kernel: Rc<RefCell<Kernel>>,
    pub received: Received,
    /// In a seed with rot, on a replica.
    pub scrub: Option<ScrubTurns>,
    /// Where its spaces stood, by its catalog, when it was started.
    pub began_at: BTreeMap<SpaceId, Mark>,
    pub catalog: Arc<Catalog>,
    /// The operation that waits for a connection.
    pub accepting: Option<Token>,
    /// Connections that wait to be accepted.
    pub backlog: VecDeque<(Socket, SocketAddr)>,
    /// It was told to stop.
    pub stopping: bool,
}

/// One machine.
pub struct Machine {
    pub number: usize,
    pub name: NodeId,
    pub disk: SharedDisk,
    pub clock: MachineClock,
    host: Arc<SimulatedHost>,
    /// Machines that it ships to; none: it listens.
    ships_to: Vec<usize>,
    batch: BatchRule,
    flush_delay: Duration,
    skips_damage: bool,
    budget: Option<u64>,
    max_age: Option<Duration>,
    /// Who writes to a file, if its file system tells.
    pub open_files: OpenFiles,
    pub incarnation: u64,
    pub running: Option<Running>,
    /// Its keeper is to mend its catalog.
    pub mends: bool,
    pub turn_at: Option<u64>,
    pub keeper_at: Option<u64>,
    pub scrub_at: Option<u64>,
    /// How fast its scrubber reads, if it has one.
    scrubs: Option<u64>,
    /// The process stands still until then.
    pub paused_until: u64,
}

/// What a machine is called.
pub fn name_of(machine: usize) -> NodeId {
    let name = if machine == 0 { "primary".into() } else { format!("replica-{machine}") };
    name.parse().unwrap()
}

impl Machine {
    pub fn new(
        number: usize,
        disk: SharedDisk,
        clock: MachineClock,
        ships_to: Vec<usize>,
        plan: &Plan,
        scrubs: Option<u64>,
        chance: &mut Chance,
    ) -> Self {
        let host = Arc::new(SimulatedHost {
            disk: disk.clone(),
            chance: Mutex::new(chance.fork()),
            sectors: Mutex::default(),
        });
        let batch = BatchRule {
            max_records: *chance.pick(&[1, 3, 100]),
            max_delay: Duration::from_millis(*chance.pick(&[1, 10, 50])),
            max_bytes: *chance.pick(&[2_000, 16_000, 2 << 20]),
        };
        let flush_delay = Duration::from_millis(*chance.pick(&[0, 0, 0, 1000]));
        Self {
            number,
            name: name_of(number),
            disk,
            clock,
            host,
            ships_to,
            batch,
            flush_delay,
            skips_damage: plan.skips_damage,
            budget: plan.budget,
            max_age: plan.max_age,
            open_files: OpenFiles::default(),
            incarnation: 0,
            running: None,
            mends: false,
            turn_at: None,
            keeper_at: None,
            scrub_at: None,
            scrubs: scrubs.filter(|_| number > 0),
            paused_until: 0,
        }
    }

    pub fn is_primary(&self) -> bool {
        !self.ships_to.is_empty()
    }

    pub fn process(&self) -> Process {
        (self.number, self.incarnation)
    }

    pub fn data_root(&self) -> PathBuf {
        self.disk.lock().data_root()
    }

    pub fn host(&self) -> Arc<SimulatedHost> {
        self.host.clone()
    }

    /// Start the node: the catalog is opened, what is received is recovered.
    pub fn start(&mut self, chance: &mut Chance) -> Result<(), String> {
        assert!(self.running.is_none(), "it runs already");
        self.incarnation += 1;
        (self.turn_at, self.keeper_at, self.paused_until) = (None, None, 0);
        self.mends = false;
        self.scrub_at = None;
        let data_root = self.data_root();
        let host: Arc<dyn Host> = self.host.clone();
        let places = Places { state_dir: data_root.join(".saltus"), data_root, host: host.clone() };
        let catalog =
            Catalog::open_on(&host, &places.state_dir).map_err(|error| error.to_string())?;
        let pins = Pins::open_on(&host, &places.state_dir).map_err(|error| error.to_string())?;
        let catalog = Arc::new(catalog);
        let known = catalog.load().map_err(|error| error.to_string())?;
        let began_at =
            known.into_iter().map(|(space, record)| (space, record.checkpoint)).collect();
        let me = Identity {
            cluster: "simulated".parse().unwrap(),
            node: self.name.clone(),
            uuid: catalog.node(),
        };
        let received = Received::default();
        let data_root = places.data_root.clone();
        let replicas: Vec<_> = self.ships_to.iter().map(|n| name_of(*n)).collect();
        let rule =
            Rule { max_bytes: self.budget, max_age: self.max_age, max_disk_share: 90, replicas };
        let mut keeper =
            Keeper::new(places, catalog.clone(), pins, Checksums::Required, rule, received.clone())
                .map_err(|error| error.to_string())?;

        let backend = SimulatedBackend::default();
        let kernel = backend.0.clone();
        kernel.borrow_mut().watches_used_up = chance.one_in(40);
        let (commands, command_queue) = unbounded();
        let (news, news_queue) = unbounded();
        // A full queue is the shard's to deal with.
        let (jobs, job_queue) = bounded(*chance.pick(&[1, 8, 4096]));
        let scrub = self.scrubs.map(|bytes_per_second| {
            let mender = Mender {
                shards: vec![(commands.clone(), backend.waker())],
                keeper: jobs.clone(),
                received: received.clone(),
                state_dir: data_root.join(".saltus"),
                host: host.clone(),
                // What a full disk refuses, it refuses when it is written to.
                free_bytes: |_| Ok(u64::MAX),
            };
            self.scrubber(&data_root, bytes_per_second, mender)
        });
        if let Some(scrub) = &scrub {
            keeper = keeper.with_scrub(scrub.requests());
        }
        keeper.begin(vec![Mailbox { news, waker: backend.waker() }]);
        let setup = Setup {
            shard: 0,
            shards: 1,
            me,
            data_root,
            replicas: self.ships_to.iter().map(|n| (name_of(*n), address(*n))).collect(),
            batch: self.batch,
            strategy: Strategy::Auto,
            seed_bytes_per_second: None,
            checksums: Checksums::Required,
            flush_delay: self.flush_delay,
            skips_damage: self.skips_damage,
            writers: Arc::new(self.open_files.clone()),
            clock: Arc::new(self.clock.clone()),
            jitter_seed: chance.next(),
        };
        let listener = if self.is_primary() {
            None
        } else {
            Some(Socket::new(Domain::UNIX, Type::STREAM, None).unwrap())
        };
        let mut shard = Shard::new(
            setup,
            Box::new(backend),
            command_queue,
            news_queue,
            jobs,
            listener,
            Vec::new(),
        );
        shard.begin();
        self.running = Some(Running {
            shard,
            keeper,
            jobs: job_queue,
            commands,
            kernel,
            received,
            scrub,
            began_at,
            catalog,
            accepting: None,
            backlog: VecDeque::new(),
            stopping: false,
        });
        Ok(())
    }

    /// Its scrubber, which begins no pass by itself but on what is new.
    fn scrubber(&self, data_root: &Path, bytes_per_second: u64, mender: Mender) -> ScrubTurns {
        let mut options = ScrubOptions::default();
        options.bytes_per_second = bytes_per_second;
        (options.first_delay, options.interval) = (NEVER, NEVER);
        let root = data_root.to_path_buf();
        let spaces = move || {
            let spaces = discover::spaces(&root).unwrap_or_default();
            let directory = |space: &SpaceId| discover::wal_directory(&root, space);
            spaces.into_iter().map(|space| (space.clone(), directory(&space))).collect()
        };
        let clock = Arc::new(self.clock.clone());
        Scrubber::in_turns(data_root, Arc::new(spaces), options, mender, clock)
    }

    /// Tell the node to bring everything to an end.
    pub fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            running.stopping = true;
            running.commands.send(Command::Stop).unwrap();
        }
    }

    /// The process is gone, whatever it was doing.
    pub fn kill(&mut self) {
        self.disk.lock().freeze();
        self.running = None;
        self.disk.lock().thaw();
    }

    /// What the node says of itself, at its next turn.
    pub fn ask(&self) -> Option<Receiver<ShardReport>> {
        let (tell, told) = unbounded();
        self.running.as_ref()?.commands.send(Command::Report(tell)).ok()?;
        Some(told)
    }
}
