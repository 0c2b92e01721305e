//! What a seed is about. Each seed leaves out most kinds of faults, so that
//! those that it has come often and in combinations.

use std::time::Duration;

use super::chance::Chance;
use super::database::Habits;
use super::disk::Trouble;
use super::network::Weather;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed.
    Kill,
    /// A process is killed between two changes of its disk.
    KillMidway,
    /// A machine loses its power.
    PowerLoss,
    /// A machine loses its power between two changes of its disk.
    PowerLossMidway,
    /// A process stops in an orderly way.
    Stop,
    /// A process stands still for a while.
    Pause,
    /// A connection is cut.
    Cut,
    /// A connection goes silent in one direction or in both.
    Silence,
    /// Nothing gets to or from a machine for a while.
    Partition,
    /// A disk fails now and then, for a while.
    BadDisk,
    /// A disk has no space left, for a while.
    FullDisk,
    /// The database is restarted.
    Restart,
    /// Watch events are lost.
    LostEvents,
    /// A clock on the wall is set.
    ClockStep,
    /// The database is restarted, and compacts its log.
    Compaction,
    /// A bit of a log of the database flips at rest.
    SourceRot,
    /// A new epoch begins; later the primary's catalog is replaced by one of
    /// the epoch before, and later still by the right one.
    OldCatalog,
}

const ALL: [Fault; 17] = [
    Fault::Kill,
    Fault::KillMidway,
    Fault::PowerLoss,
    Fault::PowerLossMidway,
    Fault::Stop,
    Fault::Pause,
    Fault::Cut,
    Fault::Silence,
    Fault::Partition,
    Fault::BadDisk,
    Fault::FullDisk,
    Fault::Restart,
    Fault::Compaction,
    Fault::LostEvents,
    Fault::ClockStep,
    Fault::SourceRot,
    Fault::OldCatalog,
];

/// The course of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub spaces: usize,
    pub replicas: usize,
    /// How long things go wrong.
    pub active: Duration,
    pub faults: Vec<Fault>,
    /// The time between two faults.
    pub fault_gap: Duration,
    pub weather: Weather,
    pub disk_latency: Duration,
    pub keeper_latency: Duration,
    /// What does not hold at the source is left out.
    pub skips_damage: bool,
    /// How a bad disk is bad.
    pub trouble: Trouble,
    /// Bytes that may be kept for a replica, and for how long.
    pub budget: Option<u64>,
    pub max_age: Option<Duration>,
    /// The file system knows who writes to a file: what nobody writes to any
    /// more is let go of.
    pub tells_writers: bool,
    pub habits: Habits,
    /// The time between two steps of a database.
    pub database_gap: Duration,
}

impl Plan {
    pub fn draw(seed: u64, chance: &mut Chance) -> Self {
        let mut faults: Vec<Fault> = ALL.into_iter().filter(|_| chance.one_in(4)).collect();
        if faults.is_empty() && !chance.one_in(10) {
            faults.push(*chance.pick(&ALL));
        }
        let budget = chance.percent(40).then(|| *chance.pick(&[500, 3_000, 12_000]));
        let max_age = chance.one_in(8).then(|| Duration::from_secs(*chance.pick(&[3, 15])));
        if (budget.is_some() || max_age.is_some()) && chance.percent(70) {
            // Budgets are spent while somebody is away and the log is compacted.
            faults.extend([Fault::Compaction, *chance.pick(&[Fault::Partition, Fault::Kill])]);
        }
        let flips = chance.one_in(6);
        let weather = Weather {
            // With little room, more would be slower than any link that carries
            // a log, and such a peer is refused.
            latency: Duration::from_micros(*chance.pick(&[20, 200, 2_000, 10_000])),
            room: usize::try_from(*chance.pick(&[1_500, 4_000, 64_000])).unwrap(),
            flip_one_in: if flips { chance.within(20, 300) } else { 0 },
        };
        let trouble = Trouble {
            error_one_in: *chance.pick(&[0, 5, 40]),
            sync_error_one_in: *chance.pick(&[0, 2, 10]),
            full: false,
        };
        let habits = Habits {
            most_bytes: usize::try_from(chance.within(2_000, 60_000)).unwrap(),
            segment_bytes: usize::try_from(*chance.pick(&[500, 3_000, 12_000, 50_000])).unwrap(),
            most_files: usize::try_from(*chance.pick(&[3, 8, 20, 40])).unwrap(),
            restarts: chance.percent(60),
            compacts: chance.percent(30),
            dribbles: chance.percent(50),
            clock_steps: chance.percent(30),
            // Of a reign that was set back nobody could tell what was lost from
            // what another reign has written.
            syncs: chance.percent(50) || faults.contains(&Fault::OldCatalog),
            goes_on: chance.percent(40),
            // A chance of its own: the other seeds take the course they would take without.
            takes_names: Chance::new(seed ^ 0x6e61_6d65_2074_616b).one_in(4),
        };
        // An old catalog does not know what was let go of since.
        let old = faults.contains(&Fault::OldCatalog);
        let tells_writers = !old && chance.percent(80);
        let active = Duration::from_millis(*chance.pick(&[300, 3_000, 20_000, 60_000]));
        let gap = Duration::from_micros(*chance.pick(&[100, 5_000, 200_000]));
        Self {
            spaces: usize::try_from(chance.within(1, 3)).unwrap(),
            replicas: 2,
            active,
            faults,
            fault_gap: Duration::from_millis(*chance.pick(&[20, 200, 2_000])).max(active / 60),
            weather,
            disk_latency: Duration::from_micros(*chance.pick(&[10, 200, 5_000])),
            keeper_latency: Duration::from_micros(*chance.pick(&[20, 500, 20_000])),
            skips_damage: chance.percent(50),
            trouble,
            budget,
            max_age,
            tells_writers,
            habits,
            database_gap: gap.max(active / 1_000),
        }
    }
}
