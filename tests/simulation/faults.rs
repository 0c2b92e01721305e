//! What goes wrong, how it ends, and when all is well again.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use saltus::engine::keeper::Job;
use saltus::engine::report::ShardReport;
use saltus::engine::status::{ReplicaState, ReplicaStatus};
use saltus::ids::SpaceId;
use saltus::limits::SEED_BACKOFF;

use super::disk::Trouble;
use super::invariant::Invariant::{Isolation, Loss};
use super::machine::name_of;
use super::plan::Fault;
use super::stream::Stream;
use super::world::{Event, World};

/// How long it may take, in virtual time, until all is well again: longer than
/// every pause and time-out of a node together.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long one replica may be held still at the end, and the others must not
/// care.
const HELD_PATIENCE: Duration = Duration::from_secs(300);

/// How long something may be missing before the primary's status must say so.
const SAYS_SO_WITHIN: Duration = Duration::from_secs(40);

/// What is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    space: SpaceId,
    /// A replica that has not all of the stream; none: a record is not shipped.
    replica: Option<usize>,
}

impl Missing {
    /// Nothing is lost quietly: who looks at the status sees it.
    /// True if the space itself has a problem.
    /// `shipped` is how much the source has of what got to anybody.
    fn is_named_in(&self, told: &ShardReport, shipped: u64) -> bool {
        let space = told.spaces.iter().find(|status| status.space == self.space);
        let Some(space) = space else { panic!("{Loss}: {self:?} of {told:?}") };
        let is_behind = |replica: &ReplicaStatus| {
            let healthy = replica.state == ReplicaState::Healthy && replica.lag.bytes == Some(0);
            replica.problem.is_some() || !healthy
        };
        let is_named = match self.replica.map(name_of) {
            Some(name) => {
                space.replicas.iter().any(|replica| replica.id == name && is_behind(replica))
            }
            // It may be on its way to somebody, or wait for one who cannot take it
            // now: then the primary has more than it has shipped, and says why.
            None => space.replicas.iter().any(|replica| {
                let comes = matches!(replica.state, ReplicaState::Healthy | ReplicaState::Lagging);
                let waits = replica.problem.is_some() && space.head_lsn > shipped;
                replica.lag.bytes.is_none_or(|bytes| bytes > 0) && (comes || waits)
            }),
        };
        assert!(
            is_named || space.problem.is_some(),
            "{Loss}: {self:?}, and the status says {space:?}"
        );
        space.problem.is_some()
    }

    /// A replica's records differ, and where cannot be found out, because it was
    /// compacted away.
    fn asks_for_a_person(&self, told: &ShardReport, replica: usize) -> bool {
        let problem = self.problem_of(told, replica);
        problem.is_some_and(|why| why.contains("where they part cannot be found out"))
    }

    /// The primary leaves damage where it is, as a replica has what was there.
    fn keeps_debris(&self, told: &ShardReport) -> bool {
        let status = told.spaces.iter().find(|status| status.space == self.space);
        let problem = status.and_then(|status| status.problem.as_ref());
        problem.is_some_and(|why| why.contains("has what was there: saltus repair"))
    }

    /// What the primary says of a replica.
    fn problem_of<'a>(&self, told: &'a ShardReport, replica: usize) -> Option<&'a str> {
        problem_of(told, &self.space, replica)
    }
}

/// What the primary says of a replica of a space.
pub fn problem_of<'a>(told: &'a ShardReport, space: &SpaceId, replica: usize) -> Option<&'a str> {
    let mut spaces = told.spaces.iter().filter(|status| status.space == *space);
    let status = spaces
        .find_map(|status| status.replicas.iter().find(|status| status.id == name_of(replica)));
    status.and_then(|status| status.problem.as_deref())
}

impl World {
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let after = self.chance.delay(self.plan.fault_gap);
        self.after(after, Event::Fault);
        let faults = self.plan.faults.clone();
        let fault = *self.chance.pick(&faults);
        let number = usize::try_from(self.chance.below(self.machines.len() as u64)).unwrap();
        let name = self.machines[number].name.clone();
        self.say(|| format!("fault: {fault:?} of {name}"));
        match fault {
            Fault::Kill => self.kill(number),
            Fault::PowerLoss => self.lose_power(number),
            Fault::KillMidway | Fault::PowerLossMidway => {
                self.power_goes[number] = fault == Fault::PowerLossMidway;
                let changes = self.chance.below(30);
                self.machines[number].disk.lock().set_fuse(changes);
            }
            Fault::Stop => {
                self.machines[number].stop();
                self.wake(number, Duration::from_micros(10));
            }
            Fault::Pause => {
                let seconds = *self.chance.pick(&[1, 8]);
                let pause = self.chance.delay(Duration::from_secs(seconds));
                self.pause(number, pause);
            }
            Fault::Cut | Fault::Silence => self.harm_connection(number, fault),
            Fault::Partition => {
                let seconds = *self.chance.pick(&[4, 4, 15]);
                let length = self.chance.delay(Duration::from_secs(seconds));
                let until = self.now() + u64::try_from(length.as_nanos()).unwrap();
                self.cut_off[number] = until;
                for connection in self.network.of(number) {
                    self.network.stall(connection, until);
                }
            }
            Fault::BadDisk | Fault::FullDisk => {
                let mut trouble = self.plan.trouble;
                if fault == Fault::FullDisk {
                    trouble = Trouble { full: true, ..Trouble::default() };
                }
                self.machines[number].disk.lock().trouble = trouble;
                let length = self.chance.delay(self.plan.fault_gap * 2);
                self.after(length, Event::Mend(number));
            }
            Fault::Restart | Fault::Compaction => {
                let which =
                    usize::try_from(self.chance.below(self.databases.len() as u64)).unwrap();
                let noise = {
                    let mut disk = self.machines[0].disk.lock();
                    match fault {
                        Fault::Restart => self.databases[which].be_restarted(&mut disk),
                        _ => self.databases[which].be_compacted(&mut disk),
                    }
                };
                self.heard(noise);
            }
            Fault::SourceRot => {
                let which =
                    usize::try_from(self.chance.below(self.databases.len() as u64)).unwrap();
                self.databases[which].rot(&mut self.machines[0].disk.lock());
            }
            Fault::OldCatalog => self.old_catalog(),
            Fault::LostEvents => {
                if let Some(running) = &self.machines[0].running {
                    running.kernel.borrow_mut().lose_events();
                }
            }
            Fault::ClockStep => {
                let step = i64::try_from(self.chance.below(7_200_000_000_000)).unwrap();
                self.machines[number].clock.step(step - 3_600_000_000_000);
            }
        }
    }

    fn harm_connection(&mut self, number: usize, fault: Fault) {
        let connections = self.network.of(number);
        if connections.is_empty() {
            return;
        }
        let connection = *self.chance.pick(&connections);
        if fault == Fault::Cut {
            self.network.cut(connection);
        } else {
            let side = *self.chance.pick(&[Some(0), Some(1), None]);
            self.network.silence(connection, side);
        }
    }

    fn pause(&mut self, number: usize, length: Duration) {
        let until = self.now() + u64::try_from(length.as_nanos()).unwrap();
        self.machines[number].paused_until = until;
        self.wake_at_least(number);
    }

    /// A turn that was due in a pause comes at its end.
    fn wake_at_least(&mut self, number: usize) {
        if self.machines[number].running.is_some() {
            self.machines[number].turn_at = None;
            self.wake(number, Duration::from_micros(10));
        }
    }

    pub fn mend(&mut self, number: usize) {
        self.machines[number].disk.lock().trouble = Trouble::default();
    }

    /// The process is gone; its machine goes on.
    pub fn kill(&mut self, number: usize) {
        self.end(number, true);
        let after = self.chance.delay(Duration::from_millis(100));
        self.after(after, Event::Start(number));
    }

    fn end(&mut self, number: usize, told: bool) {
        if self.machines[number].running.is_none() {
            return;
        }
        let process = self.machines[number].process();
        self.machines[number].disk.lock().freeze();
        self.machines[number].kill();
        self.forsake(process);
        self.network.died(process, told);
    }

    /// The machine is gone, with all that its disk had not synced.
    pub fn lose_power(&mut self, number: usize) {
        self.end(number, false);
        self.machines[number].kill();
        if number == 0 {
            let mut disk = self.machines[0].disk.lock();
            for database in &self.databases {
                database.before_crash(&mut disk);
            }
        }
        self.machines[number].disk.lock().crash();
        if number == 0 {
            for which in 0..self.databases.len() {
                let mut disk = self.machines[0].disk.lock();
                self.databases[which].after_crash(&mut disk);
            }
        }
        let after = self.chance.delay(Duration::from_secs(1));
        self.after(after, Event::Start(number));
    }

    /// A process has died between two changes of its disk.
    pub fn died_midway(&mut self, number: usize) {
        let name = self.machines[number].name.clone();
        self.say(|| format!("{name} dies midway"));
        if std::mem::take(&mut self.power_goes[number]) {
            self.lose_power(number);
        } else {
            self.kill(number);
            // One that died while it started has asked for nothing yet.
            self.machines[number].kill();
        }
    }

    /// A node has come to its end by itself.
    pub fn stopped(&mut self, number: usize) {
        let name = self.machines[number].name.clone();
        self.say(|| format!("{name} has stopped"));
        let process = self.machines[number].process();
        if let Some(mut running) = self.machines[number].running.take() {
            drop(running.scrub.take());
            let jobs: Vec<_> = running.jobs.try_iter().collect();
            running.keeper.batch(jobs.into_iter().chain([Job::Stop]));
        }
        self.forsake(process);
        self.network.died(process, true);
        if self.machines[number].disk.lock().is_frozen() {
            return self.died_midway(number);
        }
        let after = self.chance.delay(Duration::from_millis(100));
        self.after(after, Event::Start(number));
    }

    /// From now on nothing goes wrong, and all must come to a good end.
    pub fn calm_down(&mut self) {
        self.say(|| "all is calm".into());
        self.right_catalog();
        self.calm = true;
        self.calm_since = self.now();
        self.network.weather.flip_one_in = 0;
        self.cut_off.fill(0);
        for number in 0..self.machines.len() {
            self.machines[number].disk.lock().trouble = Trouble::default();
            self.machines[number].disk.lock().thaw();
            self.machines[number].host().fail_reads(None);
            self.machines[number].paused_until = 0;
            // Who looks after the nodes restarts them when a disk was mended.
            self.kill(number);
        }
        for number in 0..self.databases.len() {
            self.database_at_rest(number);
        }
        if self.chance.percent(30) {
            self.held = Some(usize::try_from(self.chance.within(1, 2)).unwrap());
        }
        self.after(Duration::from_secs(1), Event::Check);
    }

    fn database_at_rest(&mut self, number: usize) {
        let mut disk = self.machines[0].disk.lock();
        let mut noise = self.databases[number].finish(&mut disk);
        noise.extend(self.databases[number].be_mended(&mut disk));
        noise.extend(self.databases[number].be_cut(&mut disk));
        drop(disk);
        self.heard(noise);
    }

    /// Is everything everywhere?
    pub fn check(&mut self) {
        if let Some(held) = self.held {
            self.machines[held].paused_until = u64::MAX / 4;
        }
        let waited = self.now() - self.calm_since;
        match self.what_is_missing() {
            None if self.held.is_some() => {
                let held = self.held.take().unwrap();
                self.say(|| format!("replica {held} is let go"));
                self.calm_since = self.now();
                self.machines[held].paused_until = 0;
                self.machines[held].keeper_at = None;
                self.machines[held].scrub_at = None;
                self.wake_at_least(held);
                self.keeper_soon(held);
                self.scrub_soon(held);
                self.after(Duration::from_secs(1), Event::Check);
            }
            None if self.is_mended() => {
                self.say(|| "all is well".into());
                self.ended = true;
            }
            None => self.after(Duration::from_secs(1), Event::Check),
            Some(missing) => {
                let patience = if self.held.is_some() { HELD_PATIENCE } else { PATIENCE };
                let patience = patience + self.seed_pause();
                let (of, told) = self.told.take().unzip();
                let told = told.and_then(|told| told.try_recv().ok());
                let is_late = u128::from(waited) >= patience.as_nanos();
                if let Some(slow) = self.held.filter(|_| is_late) {
                    panic!(
                        "{Isolation}: {missing:?}, {slow} being slow; the primary says {told:?}"
                    );
                }
                assert!(!is_late, "Liveness: {missing:?}; the primary says {told:?}");
                let told = told.filter(|_| u128::from(waited) > SAYS_SO_WITHIN.as_nanos());
                if let Some(told) = &told {
                    // It says what to do, and the world has nobody who does it.
                    let waits = self.waits_for_a_person(&missing, told);
                    let waits = waits.into_iter().map(|replica| (replica, missing.space.clone()));
                    self.given_up.extend(waits);
                }
                for replica in 1..self.machines.len() {
                    let why = told.as_ref().and_then(|told| missing.problem_of(told, replica));
                    if let Some(why) = why {
                        self.copy_good_bytes(replica, &missing.space, why);
                        self.compact_as_asked(replica, &missing.space, why);
                    }
                }
                let stream = self.oracle.streams.get(&missing.space);
                let shipped = stream.map_or(0, |stream| stream.present().end().min(stream.kept));
                // Of what was not missing yet when it was asked, it knows nothing.
                if let Some(told) = told.filter(|_| of.as_ref() == Some(&missing))
                    && missing.is_named_in(&told, shipped)
                    && missing.replica.is_none()
                {
                    // A pin that a bad disk did not take, and then no power: the
                    // database has removed what no node could keep.
                    self.excused.insert(missing.space.clone());
                }
                self.told = self.machines[0].ask().map(|told| (missing, told));
                self.wake(0, Duration::from_micros(10));
                self.after(Duration::from_secs(1), Event::Check);
            }
        }
    }

    /// The copies that wait for a person before what is missing can come. What is
    /// not shipped to anybody waits only if all of them do.
    fn waits_for_a_person(&self, missing: &Missing, told: &ShardReport) -> Vec<usize> {
        // What a crash took, and something else stands in its place, with debris before
        // it: it looks like damage, and nobody can tell it from that.
        let stream = self.oracle.streams.get(&missing.space);
        let is_lost = stream.is_some_and(|stream| stream.kept != u64::MAX);
        let is_kept = is_lost && missing.keeps_debris(told);
        let asks = |replica: &usize| is_kept || missing.asks_for_a_person(told, *replica);
        let listening = match missing.replica {
            Some(replica) => vec![replica],
            None => self.listening().collect(),
        };
        if listening.iter().all(asks) { listening } else { Vec::new() }
    }

    /// Replicas that are not held still.
    fn listening(&self) -> impl Iterator<Item = usize> {
        let held = self.held;
        (1..self.machines.len()).filter(move |replica| held != Some(*replica))
    }

    /// How long a primary may wait before it fills a replica anew that it has
    /// lost before.
    fn seed_pause(&self) -> Duration {
        let Some(running) = &self.machines[0].running else { return Duration::ZERO };
        let spaces = running.catalog.load().unwrap();
        let slots = spaces.values().flat_map(|record| record.slots.values());
        let lost = slots.map(|slot| slot.lost_seeds).max().unwrap_or(0);
        SEED_BACKOFF * ((1 << lost.min(5)) - 1)
    }

    fn what_is_missing(&self) -> Option<Missing> {
        for database in &self.databases {
            let space = &database.space;
            // What the database took away before the primary knew of it is
            // nobody's loss: it is in the compacted segment.
            let running = self.machines[0].running.as_ref();
            let record = running.and_then(|r| r.catalog.space(&database.space).unwrap());
            let holes = record.as_ref().map_or(Vec::new(), |record| record.holes.clone());
            let known = record.map_or(Vec::new(), |record| record.files);
            for hole in &holes {
                let range = hole.offset..hole.offset + hole.bytes;
                assert!(
                    database.was_damaged(hole.segment, &range),
                    "{Loss}: {space} leaves out what was never damaged: {hole:?}"
                );
            }
            let stream = self.oracle.streams.get(space);
            let disk = self.machines[0].disk.lock();
            let seen = |index: usize, offset: u64| {
                let log = &database.files[index];
                let left_out = holes.iter().any(|hole| {
                    let range = hole.offset..hole.offset + hole.bytes;
                    hole.segment == log.name && range.contains(&offset)
                });
                if left_out {
                    return false;
                }
                let inode = log.file.metadata().unwrap().ino();
                let known = known.iter().any(|file| file.inode == inode);
                // What nobody finds any more was shipped, and a new epoch has cut it off.
                let is_gone = log.released || disk.names_of(&log.file).is_empty();
                // Or nobody was shipped anything of it: the status says so for a while. Or it
                // was let go of when no slot held it, and an epoch that begins before it has
                // left no gap there.
                let is_told = !log.released || self.forsaken.contains(&(space.clone(), log.name));
                // Or shipping had stopped before it at a record that has rotted, and the status
                // said so until the file, of which no pin could be made, was gone.
                let stopped = !log.released && database.was_damaged(log.name, &(0..offset + 1));
                let had = |stream: &Stream| {
                    let never_had = is_told && database.never_had(stream, log);
                    database.had(stream, log, offset) || never_had || stopped
                };
                let cut_off = is_gone && stream.is_some_and(had);
                !log.unlinked || (known && !cut_off && !self.excused.contains(space))
            };
            let given_up =
                |replica: usize| self.given_up.contains(&(replica, database.space.clone()));
            // Where every copy waits for a person, there is nobody to ship to.
            let ships = !self.listening().all(given_up);
            if !self.oracle.is_complete(database, seen) && ships {
                return Some(Missing { space: space.clone(), replica: None });
            }
            let Some(stream) = self.oracle.streams.get(&database.space) else { continue };
            for replica in self.listening() {
                if given_up(replica) {
                    continue;
                }
                let said = self.oracle.said.get(&(replica, database.space.clone()));
                // What was shipped, got to nobody, and is lost is no part of it.
                let end = stream.present().end();
                let least = stream.present().boundary(stream.kept).min(end);
                let has_all = said.map_or(least == 0, |said| {
                    // A copy of which nothing has come is of any.
                    let is_of_it = said.reign == stream.last() || said.base == said.flushed;
                    is_of_it && (least..=end).contains(&said.flushed)
                });
                if !has_all {
                    let space = space.clone();
                    return Some(Missing { space, replica: Some(replica) });
                }
            }
        }
        None
    }
}
