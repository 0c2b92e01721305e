//! Bits that flip at rest on a replica, and the passes of scrubbing that must
//! find and mend them.
//!
//! It has a chance of its own: a seed without it takes the course that it would
//! take if there was none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam::channel::Receiver;
use saltus::engine::report::ShardReport;
use saltus::engine::scrub::{BadRange, ScrubAsk};
use saltus::ids::SpaceId;

use super::chance::Chance;
use super::copies::places;
use super::faults::problem_of;
use super::invariant::Invariant::{Corrupt, Loss};
use super::network::Process;
use super::rotten::Flipped;
use super::source::Shipped;
use super::world::{Event, World};

/// How long it may take, once nothing goes wrong any more, until passes have
/// mended what can be.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a seed with rot at rest on replicas is about.
#[derive(Clone, Debug)]
pub struct Plan {
    chance: Chance,
    /// The time between two times at which something flips.
    gap: Duration,
    /// The time between two passes.
    pass_gap: Duration,
    /// How late a scrubber has its turns.
    latency: Duration,
    /// How fast it reads.
    pub bytes_per_second: u64,
    /// Nodes die in the midst of passes.
    dies: bool,
}

impl Plan {
    /// One seed in three has it.
    pub fn draw(seed: u64, active: Duration) -> Option<Self> {
        let mut chance = Chance::new(seed ^ 0x726f_7420_6174_2072);
        if !chance.one_in(3) {
            return None;
        }
        let gap = Duration::from_millis(*chance.pick(&[50, 500, 3_000])).max(active / 40);
        Some(Self {
            gap,
            pass_gap: gap * *chance.pick(&[1, 3]),
            latency: Duration::from_millis(*chance.pick(&[1, 5, 20])),
            bytes_per_second: *chance.pick(&[10_000, 1_000_000]),
            dies: chance.percent(50),
            chance,
        })
    }
}

/// Whether a file is called so, or was put aside under that name.
fn is_name_of(name: &str, flipped: &Flipped) -> bool {
    name == flipped.segment.to_string() || name == format!("{:016x}", flipped.file)
}

/// A pass that is under way on a replica.
#[derive(Debug)]
struct Passing {
    number: u64,
    /// What it must come upon.
    flipped: Vec<Flipped>,
}

/// What is known of the passes of the world.
#[derive(Debug, Default)]
pub struct Passes {
    under_way: BTreeMap<usize, Passing>,
    /// Passes that were asked for when all was calm, by replica.
    asked: BTreeMap<usize, u64>,
    /// Replicas that are as they should be.
    whole: Vec<usize>,
    /// When the first of them was asked for.
    since: Option<u64>,
    /// What the primary says meanwhile.
    told: Option<Receiver<ShardReport>>,
}

impl World {
    /// The chance of rot.
    fn luck(&mut self) -> &mut Chance {
        &mut self.rot.as_mut().expect("a seed with rot").chance
    }

    fn a_replica(&mut self) -> usize {
        let replicas = self.machines.len() as u64 - 1;
        usize::try_from(self.luck().within(1, replicas)).unwrap()
    }

    pub fn begin_rot(&mut self) {
        if let Some(plan) = self.rot.clone() {
            let (gap, pass_gap) = (plan.gap, plan.pass_gap);
            self.after(gap, Event::Rot);
            self.after(pass_gap, Event::Pass);
            self.say(|| format!("{plan:?}"));
        }
    }

    /// Bits flip.
    pub fn rot(&mut self) {
        if self.calm {
            return;
        }
        let gap = self.rot.as_ref().unwrap().gap;
        let after = self.luck().delay(gap);
        self.after(after, Event::Rot);
        let replica = self.a_replica();
        let held: Vec<_> = (self.oracle.said.iter())
            .filter(|((of, _), said)| *of == replica && said.flushed > said.base)
            .map(|((_, space), said)| (space.clone(), *said))
            .collect();
        if held.is_empty() {
            return;
        }
        for _ in 0..self.luck().within(1, 3) {
            let (space, said) = self.luck().pick(&held).clone();
            // What lies at the end is read again after each start.
            let near = self.luck().percent(30);
            let from = if near { said.flushed.saturating_sub(300) } else { 0 }.max(said.base);
            let lsn = self.luck().within(from, said.flushed - 1);
            let bits = 1 << self.luck().below(8);
            self.flip(replica, &space, lsn, bits);
        }
    }

    fn flip(&mut self, replica: usize, space: &SpaceId, lsn: u64, bits: u8) {
        let said = self.oracle.said[&(replica, space.clone())];
        let reign = self.oracle.streams[space].reign(said.reign);
        let pieces = reign.pieces(said.base, said.flushed);
        let piece = pieces.iter().find(|(_, begin, end)| (*begin..*end).contains(&lsn));
        let Some((run, begin, end)) = piece.copied() else { return };
        if reign.is_in_gap(lsn) || self.oracle.is_gone(replica, space, run.file) {
            return;
        }
        let mut disk = self.machines[replica].disk.lock();
        let places = places(&disk.data_root(), space, &run);
        let at = |lsn: u64| run.offset + lsn - run.start.0;
        let there = self.oracle.place_of(&disk, &places, at(begin), reign.slice(begin, end));
        let flipped = there.and_then(|path| disk.flip(&path, at(lsn), bits));
        drop(disk);
        if let Some(all) = flipped {
            let file = (replica, space.clone(), run.file);
            let rotten = self.oracle.rotten.entry(file).or_default();
            rotten.entry(at(lsn)).or_default().push(all);
            self.say(|| format!("rot: lsn {lsn} of {space} on replica {replica}"));
        }
    }

    /// Somebody asks for a pass.
    pub fn pass(&mut self) {
        if self.calm {
            return;
        }
        let pass_gap = self.rot.as_ref().unwrap().pass_gap;
        let after = self.luck().delay(pass_gap);
        self.after(after, Event::Pass);
        let replica = self.a_replica();
        let full_speed = self.luck().percent(50);
        let dies = self.rot.as_ref().unwrap().dies && self.luck().one_in(4);
        let (changes, power) = (self.luck().below(40), self.luck().percent(50));
        let Some(running) = &self.machines[replica].running else { return };
        let asked = running
            .scrub
            .as_ref()
            .unwrap()
            .requests()
            .ask(ScrubAsk { full_speed, ..ScrubAsk::default() });
        self.say(|| format!("replica {replica} is asked for pass {asked:?}"));
        if dies {
            self.power_goes[replica] = power;
            self.machines[replica].disk.lock().set_fuse(changes);
        }
    }

    /// A scrubber has a turn soon.
    pub fn scrub_soon(&mut self, number: usize) {
        let now = self.now();
        self.scrub_at(number, now);
    }

    fn scrub_at(&mut self, number: usize, at: u64) {
        let Some(latency) = self.rot.as_ref().map(|plan| plan.latency) else { return };
        let late = self.luck().delay(latency);
        let machine = &mut self.machines[number];
        if machine.running.as_ref().is_none_or(|running| running.scrub.is_none()) {
            return;
        }
        let at = at.max(machine.paused_until) + u64::try_from(late.as_nanos()).unwrap();
        if machine.scrub_at.is_none_or(|earlier| earlier > at) {
            machine.scrub_at = Some(at);
            let process = machine.process();
            self.at(at, Event::Scrub(process));
        }
    }

    /// Somebody has asked a scrubber for something.
    pub fn hear_scrubbers(&mut self) {
        if self.rot.is_none() {
            return;
        }
        for number in 1..self.machines.len() {
            let running = self.machines[number].running.as_ref();
            let asked = running
                .and_then(|running| running.scrub.as_ref())
                .is_some_and(|scrub| scrub.is_asked());
            let soon =
                self.machines[number].scrub_at.is_some_and(|at| at < self.now() + 1_000_000_000);
            if asked && !soon {
                self.scrub_soon(number);
            }
        }
    }

    /// A scrubber takes a turn.
    pub fn scrub(&mut self, process: Process) {
        let (number, incarnation) = process;
        let now = self.now();
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation || machine.scrub_at != Some(now) {
            return;
        }
        machine.scrub_at = None;
        if machine.paused_until > now {
            return self.scrub_at(number, now);
        }
        let Some(scrub) = machine.running.as_mut().and_then(|running| running.scrub.as_mut())
        else {
            return;
        };
        let before = scrub.report();
        // What a pass that begins now must come upon.
        let flipped = match before.running {
            true => Vec::new(),
            false => self.oracle.flipped_now(number, &machine.disk.lock()),
        };
        let due = scrub.turn().expect("a scrubber does not end by itself");
        let after = scrub.report();
        if machine.disk.lock().is_frozen() {
            return;
        }
        if before.passes < after.passes {
            self.passed(number, after.passes);
        }
        let began = after.running && (!before.running || before.passes < after.passes);
        if began {
            let flipped = match before.running {
                true => self.oracle.flipped_now(number, &self.machines[number].disk.lock()),
                false => flipped,
            };
            let number_of = after.passes + 1;
            self.say(|| {
                format!("replica {number} begins pass {number_of}: {} bytes flipped", flipped.len())
            });
            self.passes.under_way.insert(number, Passing { number: number_of, flipped });
        }
        self.collect(number);
        let at = self.time.of(due);
        self.scrub_at(number, at);
    }

    /// A pass has come to its end: whatever it had to come upon holds again, or
    /// is named.
    fn passed(&mut self, number: usize, pass: u64) {
        let machine = &self.machines[number];
        let running = machine.running.as_ref().unwrap();
        let report = running.scrub.as_ref().unwrap().report();
        let line = format!(
            "replica {number} ends pass {pass}: {} bad, {} healed in all, {} unreadable: {:?}",
            report.bad_ranges, report.healed_ranges, report.unreadable, report.bad
        );
        let passing = self.passes.under_way.remove(&number);
        let Some(passing) = passing.filter(|passing| passing.number == pass) else {
            return self.say(|| line);
        };
        let now = self.oracle.flipped_now(number, &machine.disk.lock());
        let statuses = running.received.statuses();
        let unreadable = report.outcomes.back().map_or(0, |outcome| outcome.unreadable);
        // All passes are asked for; those of the keeper are of one space.
        let only = report.outcomes.back().and_then(|outcome| outcome.space.as_ref());
        let covered = |flipped: &Flipped| only.is_none_or(|only| *only == flipped.space);
        for flipped in passing.flipped.into_iter().filter(covered) {
            let same = |other: &&Flipped| {
                (&other.space, other.file, other.offset)
                    == (&flipped.space, flipped.file, flipped.offset)
            };
            let is_healed = |range: &BadRange| {
                let within = range.offset..range.offset + range.bytes;
                let name = range.path.file_name().unwrap().to_string_lossy();
                range.pass == pass
                    && range.space == flipped.space
                    && is_name_of(&name, &flipped)
                    && within.contains(&flipped.offset)
            };
            // What has flipped since at the same place is no matter of this pass.
            let healed = report.healed.iter().any(is_healed);
            if now.iter().find(same).is_none() || unreadable > 0 || healed {
                continue;
            }
            let of = |range: &&BadRange| {
                let name = range.path.file_name().unwrap().to_string_lossy();
                let all = range.bytes == 0;
                let within = range.offset..range.offset + range.bytes;
                range.space == flipped.space
                    && (all || (is_name_of(&name, &flipped) && within.contains(&flipped.offset)))
            };
            let named = report.bad.iter().find(of);
            // One that is not received now ends, for a pass, at its checkpoint.
            // A catalog that waits for its disk says nothing.
            let record = running.catalog.space(&flipped.space).ok().flatten();
            let checkpoint = record.map_or(0, |record| record.checkpoint.lsn.0);
            let broken =
                statuses.get(&flipped.space).is_some_and(|status| status.problem.is_some());
            // One that is being cut ends there, though that be not durable yet.
            let is_cut = flipped.lsn >= self.oracle.common(number, &flipped.space);
            assert!(
                named.is_some() || is_cut || (broken && flipped.lsn >= checkpoint),
                "{Corrupt}: pass {pass} of replica {number} has not found {flipped:?}: \
                 {report:?}"
            );
        }
        self.say(|| line);
    }

    /// Nothing goes wrong any more, and everything is everywhere: have passes
    /// bring back what has flipped. True once they have.
    pub fn is_mended(&mut self) -> bool {
        if self.rot.is_none() {
            return true;
        }
        let now = self.now();
        let since = *self.passes.since.get_or_insert(now);
        for number in 1..self.machines.len() {
            if self.passes.whole.contains(&number) {
                continue;
            }
            let Some(running) = &self.machines[number].running else { return false };
            let scrub = running.scrub.as_ref().unwrap();
            let Some(asked) = self.passes.asked.get(&number).copied() else {
                let asked =
                    scrub.requests().ask(ScrubAsk { full_speed: true, ..ScrubAsk::default() });
                self.passes.asked.extend(asked.map(|asked| (number, asked)));
                continue;
            };
            let report = scrub.report();
            let outcome = report.outcomes.iter().find(|outcome| outcome.request == asked);
            let Some(outcome) = outcome.cloned() else { continue };
            self.passes.asked.remove(&number);
            let left = self.oracle.flipped_now(number, &self.machines[number].disk.lock());
            let lost: Vec<_> = left.iter().filter(|left| self.is_lost(number, left)).collect();
            let all_lost = left.iter().all(|left| lost.iter().any(|lost| lost.space == left.space));
            // What a copy holds of files that its primary has none of any more, nobody
            // brings back: it waits for a person.
            let given_up =
                |range: &BadRange| self.given_up.contains(&(number, range.space.clone()));
            let waits = !report.bad.is_empty() && report.bad.iter().all(given_up);
            // Somebody may have copied good bytes since it was read.
            let settled = outcome.found == outcome.healed || !left.is_empty() || waits;
            if outcome.unreadable == 0 && all_lost && settled {
                let named = running.received.damages();
                assert!(
                    named.is_empty() || !left.is_empty() || waits,
                    "{Loss}: all of replica {number} holds, and its status says \
                     {named:?}"
                );
                self.passes.whole.push(number);
                let disk = self.machines[number].disk.lock();
                self.oracle.is_all_there(number, &disk);
                continue;
            }
            assert!(
                u128::from(now - since) < PATIENCE.as_nanos(),
                "Liveness: replica {number} is not mended: {outcome:?}, {left:?}, {report:?}"
            );
            let spaces = left.into_iter().map(|left| left.space).collect();
            self.compact_to_mend(number, &spaces);
        }
        self.passes.whole.len() + 1 == self.machines.len()
    }

    /// A primary ships nothing to a copy that cannot be filled anew either, so that it
    /// mends nothing there: it says what it waits for.
    fn compact_to_mend(&mut self, replica: usize, spaces: &BTreeSet<SpaceId>) {
        let told = self.passes.told.take().and_then(|told| told.try_recv().ok());
        for space in spaces {
            if let Some(why) = told.as_ref().and_then(|told| problem_of(told, space, replica)) {
                self.compact_as_asked(replica, space, why);
            }
        }
        self.passes.told = self.machines[0].ask();
        self.wake(0, Duration::from_micros(10));
    }

    /// A replica cannot compare positions, because what has rotted is in the way;
    /// it says where, and that the file is to be copied. Somebody does.
    pub fn copy_good_bytes(&mut self, replica: usize, space: &SpaceId, problem: &str) {
        let Some((before, _)) = problem.split_once("), where a durable record begins") else {
            return;
        };
        let lsn = before.rsplit_once("(lsn ").and_then(|(_, lsn)| lsn.parse().ok()).unwrap();
        let said = self.oracle.said[&(replica, space.clone())];
        let stream = &self.oracle.streams[space];
        let reign = stream.reign(said.reign);
        // It may have been cut since it was asked: the primary tells what it heard last.
        let is_past = (0..said.reign)
            .any(|reign| self.oracle.had_flipped(replica, space, stream.reign(reign), lsn));
        let is_so = self.oracle.had_flipped(replica, space, reign, lsn);
        assert!(
            is_so || is_past,
            "{Corrupt}: nothing has flipped where replica {replica} says so: {problem}"
        );
        if !is_so {
            // Who looks again does not find it any more.
            return;
        }
        let pieces = reign.pieces(lsn, lsn + 1);
        self.say(|| format!("somebody copies what replica {replica} lacks: {problem}"));
        let mut disk = self.machines[replica].disk.lock();
        for (run, ..) in pieces {
            for path in places(&disk.data_root(), space, &run) {
                disk.write_good_bytes(&path);
            }
        }
    }

    /// Nobody has it any more who could be asked.
    fn is_lost(&self, replica: usize, flipped: &Flipped) -> bool {
        let given_up = self.given_up.contains(&(replica, flipped.space.clone()));
        if given_up {
            return true;
        }
        let stream = &self.oracle.streams[&flipped.space];
        let reign = stream.present();
        if flipped.lsn >= reign.end() || reign.is_in_gap(flipped.lsn) {
            return true;
        }
        let database = self.databases.iter().find(|database| database.space == flipped.space);
        let database = database.unwrap();
        let disk = self.machines[0].disk.lock();
        reign.pieces(flipped.lsn, flipped.lsn + 1).into_iter().any(|piece| {
            let shipped = Shipped::of(reign, piece);
            database.has_released(&shipped, &disk) || database.holds(&shipped, &disk) == 0
        })
    }
}
