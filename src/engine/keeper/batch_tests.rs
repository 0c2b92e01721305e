//! What is let go behind a batch.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::engine::keeper::Job;
use crate::engine::keeper::matched::tests::{Rig, alive};
use crate::lsn::Mark;

/// What was to be let go of all spaces was forgotten, until the next start.
#[test]
fn a_change_that_is_refused_keeps_what_rests_on_it_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(root.path(), &alive());
    let spaces: [SpaceId; 2] = ["beta", "nobody"].map(|name| name.parse().unwrap());
    let pins = spaces.each_ref().map(|space| rig.keeper.pins.path(space, 5));
    for pin in &pins {
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        fs::write(pin, b"pinned").unwrap();
    }
    // The catalog knows of no such space.
    let [_, space] = spaces.clone();
    let change = Change::Checkpoint(Mark::START);
    let mut jobs = vec![Job::Commit { shard: 0, ticket: None, space, change }];
    jobs.extend(spaces.map(|space| Job::Release { shard: 0, space, file: 5 }));
    rig.batch(jobs);
    rig.batch(vec![]);
    assert_eq!(pins.map(|pin| pin.exists()), [false, true]);
}
