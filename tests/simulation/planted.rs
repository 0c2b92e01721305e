//! The simulator is itself tested: bugs that are put back in must be found.

use std::time::Duration;

use saltus::planted::Bug;

use super::seeds::Seeds;

/// Seeds within which each bug must be found.
const SEEDS: u64 = 1_000;

fn is_found(bug: Bug) {
    let seeds = Seeds { first: 1, count: SEEDS, time: Duration::MAX };
    let (run, found) = seeds.look(Some(bug));
    let Some((seed, violation)) = found else {
        panic!("{bug:?} was not found in {run} seeds");
    };
    eprintln!("{bug:?}: seed {seed}, the {run}th that was run: {violation}");
}

#[test]
fn an_ack_before_the_sync_is_found() {
    is_found(Bug::AckBeforeSync);
}

#[test]
fn a_checksum_that_is_not_compared_is_found() {
    is_found(Bug::SkippedChecksum);
}

#[test]
fn a_byte_behind_the_last_record_is_found() {
    is_found(Bug::OneByteTooMany);
}

#[test]
fn a_name_that_is_not_synced_is_found() {
    is_found(Bug::NameNotSynced);
}

#[test]
fn a_stale_epoch_that_is_obeyed_is_found() {
    is_found(Bug::StaleEpochObeyed);
}

#[test]
fn a_cut_before_the_quarantine_is_durable_is_found() {
    is_found(Bug::CutBeforeSaved);
}

#[test]
fn an_epoch_that_is_obeyed_before_it_is_durable_is_found() {
    is_found(Bug::EpochNotDurable);
}

#[test]
fn a_file_that_is_exchanged_before_it_is_synced_is_found() {
    is_found(Bug::MendedBeforeSync);
}

#[test]
fn a_clean_tree_is_not_accused() {
    let (run, found) = Seeds { first: 1, count: 100, time: Duration::MAX }.look(None);
    assert_eq!(found, None, "{run} seeds");
}
