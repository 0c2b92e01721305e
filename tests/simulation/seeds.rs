//! Running seeds: many, on two threads, or one.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// In this build there is none.
#[cfg(not(feature = "planted-bugs"))]
use std::convert::Infallible as Bug;

#[cfg(feature = "planted-bugs")]
use saltus::planted::{Bug, plant};

use super::trace::{Mode, Trace};
use super::world::World;

/// Threads that run seeds.
const THREADS: usize = 2;

/// Lines of a failing seed that are printed.
const SHOWN_LINES: usize = 60;

thread_local! {
    /// What the last panic of this thread said, and where.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Panics of this thread are findings.
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// A setting of the process, as a number.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(_none: Option<Bug>) {}

/// What became of one seed.
#[derive(Debug)]
pub struct Course {
    pub violation: Option<String>,
    pub digest: u32,
    pub steps: u64,
    pub last: Vec<String>,
}

impl Course {
    pub fn of(seed: u64, mode: Mode) -> Self {
        note_panics();
        QUIET.with_borrow_mut(|quiet| *quiet = true);
        // The world is looked at after a panic for its trace alone.
        let mut world = None;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let world = world.insert(World::new(seed, Trace::new(mode)));
            world.run();
        }));
        QUIET.with_borrow_mut(|quiet| *quiet = false);
        let violation = outcome
            .err()
            .map(|_| SAID.with_borrow_mut(Option::take).unwrap_or_else(|| "it panicked".into()));
        let Some(mut world) = world else {
            return Self { violation, digest: 0, steps: 0, last: Vec::new() };
        };
        // Databases that were broken off write nothing any more.
        for machine in &world.machines {
            machine.disk.lock().freeze();
        }
        world.say(|| "the end".into());
        Self {
            violation,
            digest: world.trace.digest,
            steps: world.steps,
            last: world.trace.last().map(str::to_owned).collect(),
        }
    }
}

/// A row of seeds.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub first: u64,
    pub count: u64,
    /// Ends earlier after that long.
    pub time: Duration,
}

impl Seeds {
    /// Run them all; fail with the first that does not hold.
    pub fn run(self) {
        let begun = Instant::now();
        let (run, found) = self.look(None);
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!(
            "{run} seeds from {} on in {seconds:.1} s, {:.1} a second",
            self.first,
            run as f64 / seconds
        );
        let Some((seed, violation)) = found else { return };
        let again = Course::of(seed, Mode::Keep);
        let from = again.last.len().saturating_sub(SHOWN_LINES);
        for line in &again.last[from..] {
            eprintln!("{line}");
        }
        panic!(
            "seed {seed}: {violation}\nsee it with: SALTUS_SEED={seed} cargo test --test simulation \
             every_invariant -- --nocapture"
        );
    }

    /// How many were run, and the least that failed.
    pub fn look(self, bug: Option<Bug>) -> (u64, Option<(u64, String)>) {
        let begun = Instant::now();
        // Each that fails is told in a line.
        let goes_on = std::env::var_os("SALTUS_GO_ON").is_some();
        let next = AtomicU64::new(0);
        let run = AtomicU64::new(0);
        let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
        let worker = || {
            plant(bug);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let over = index >= self.count || begun.elapsed() >= self.time;
                if over || (found.lock().unwrap().is_some() && !goes_on) {
                    return;
                }
                let seed = self.first + index;
                let course = Course::of(seed, Mode::Off);
                run.fetch_add(1, Ordering::Relaxed);
                if let Some(violation) = course.violation {
                    if goes_on {
                        eprintln!("seed {seed}: {violation}");
                    }
                    let mut found = found.lock().unwrap();
                    if found.as_ref().is_none_or(|(least, _)| seed < *least) {
                        *found = Some((seed, violation));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(worker);
            }
        });
        (run.into_inner(), found.into_inner().unwrap())
    }
}

/// Panics in a seed are what it is looking for: keep what they say.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                SAID.with_borrow_mut(|said| {
                    said.get_or_insert_with(|| {
                        let text = info.payload_as_str().unwrap_or("it panicked");
                        let place = info.location().map_or(String::new(), ToString::to_string);
                        format!("{text} ({place})")
                    });
                });
            } else {
                usual(info);
            }
        }));
    });
}
