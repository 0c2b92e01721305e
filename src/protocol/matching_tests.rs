#![allow(clippy::unwrap_used)]

use super::*;
use crate::lsn::Chain;

fn epochs(entries: &[(u64, u64)]) -> Vec<(Epoch, Lsn)> {
    entries.iter().map(|&(epoch, start)| (Epoch(epoch), Lsn(start))).collect()
}

#[test]
fn one_epoch_with_two_beginnings_is_a_collision() {
    let here = epochs(&[(1, 0), (2, 100), (4, 300)]);
    for there in [&[(1, 0)][..], &[(1, 0), (2, 100)], &[(1, 0), (3, 90)], &[(2, 100), (5, 100)]] {
        assert_eq!(collision(&here, &epochs(there)), None, "{there:?}");
    }
    let found = |there: &[(u64, u64)]| collision(&here, &epochs(there));
    assert_eq!(found(&[(1, 0), (2, 90)]), Some((Epoch(2), Lsn(100), Lsn(90))));
    assert_eq!(found(&[(1, 0), (4, 301), (5, 400)]), Some((Epoch(4), Lsn(300), Lsn(301))));
}

#[test]
fn histories_are_common_up_to_the_end_of_the_last_epoch_that_both_have() {
    type Case = (&'static [(u64, u64)], u64, &'static [(u64, u64)], u64);
    let cases: [Case; 12] = [
        // One history: all of it, and more of the primary's.
        (&[(1, 0)], 500, &[(1, 0)], 500),
        (&[(1, 0)], 500, &[(1, 0), (2, 500)], 500),
        (&[(1, 0)], 500, &[(1, 0), (2, 700), (3, 900)], 500),
        // The primary's first epoch ended before what the replica has of it.
        (&[(1, 0)], 500, &[(1, 0), (2, 400)], 400),
        (&[(1, 0)], 500, &[(1, 0), (2, 400), (5, 450)], 400),
        (&[(1, 0)], 500, &[(1, 0), (2, 0)], 0),
        (&[(1, 0), (2, 100)], 150, &[(1, 0), (2, 100), (3, 120)], 120),
        // The replica has an epoch that the primary never had.
        (&[(1, 0), (2, 100)], 150, &[(1, 0), (3, 90)], 90),
        (&[(1, 0), (2, 100)], 150, &[(1, 0), (3, 200)], 100),
        // It heard of an epoch and received nothing in it.
        (&[(1, 0), (2, 100)], 100, &[(1, 0), (3, 90)], 90),
        (&[(1, 0), (2, 100)], 100, &[(1, 0), (3, 120)], 100),
        // Nothing in common.
        (&[(1, 0)], 500, &[(2, 0)], 0),
    ];
    for (here, flushed, there, expected) in cases {
        let found = common_point(&epochs(here), Lsn(flushed), &epochs(there));
        assert_eq!(found, Lsn(expected), "{here:?} up to {flushed}, {there:?}");
    }
}

/// A stream of records of these sizes, every chain made unlike from `from` on.
fn marks(sizes: &[u64], from: usize) -> Vec<Mark> {
    let mut marks = vec![Mark::START];
    for (number, size) in sizes.iter().enumerate() {
        let last = *marks.last().unwrap();
        let salt = if number >= from { 1 << 40 } else { 0 };
        marks.push(Mark {
            lsn: last.lsn.advance(*size),
            chain: Chain(salt + number as u64 + 1),
            records: last.records + 1,
            ..Mark::START
        });
    }
    marks
}

/// The common mark and the number of rounds.
fn search(ours: &[Mark], theirs: &[Mark]) -> (Mark, u32) {
    let mut search = Search::below(theirs.last().unwrap().lsn);
    let mut rounds = 0;
    while let Some(probe) = search.probe() {
        rounds += 1;
        assert!(rounds < 200, "{search:?} does not end");
        let at = theirs.partition_point(|mark| mark.lsn <= probe) - 1;
        let Mark { lsn, chain, records, .. } = theirs[at];
        match ours.iter().find(|mark| (mark.lsn, mark.chain) == (lsn, chain)) {
            Some(mark) => search.same(probe, *mark),
            None => search.differs(&Boundary { lsn, chain, records }),
        }
    }
    (search.common(), rounds)
}

#[test]
fn the_last_common_record_is_found_wherever_the_copies_part() {
    let sizes: Vec<u64> = (0..300).map(|n| 64 + n * n * 37 % 5000).collect();
    let ours = marks(&sizes, usize::MAX);
    for parting in [0, 1, 2, 57, 150, 298, 299] {
        let (common, _) = search(&ours, &marks(&sizes, parting));
        assert_eq!(common, ours[parting], "parting at {parting}");
        // The primary may end there, or hold records of other sizes.
        let (common, _) = search(&ours[..=parting], &marks(&sizes, usize::MAX));
        assert_eq!(common, ours[parting], "ending at {parting}");
        let mut other = sizes.clone();
        other[parting] += 1;
        let (common, _) = search(&marks(&other, usize::MAX), &ours);
        assert_eq!(common, ours[parting], "another size at {parting}");
    }
}

/// The search went below what had been compacted away, and was given up there
/// although the copies part behind it.
#[test]
fn copies_that_part_behind_what_is_gone_are_compared_there() {
    let sizes: Vec<u64> = (0..300).map(|n| 64 + n * n * 37 % 5000).collect();
    let ours = marks(&sizes, usize::MAX);
    for (gone, parting) in [(0, 0), (250, 251), (250, 299), (10, 57), (299, 299)] {
        let theirs = marks(&sizes, parting);
        let mut search = Search::below(theirs.last().unwrap().lsn);
        let mut rounds = 0;
        while let Some(probe) = search.probe() {
            rounds += 1;
            assert!(rounds < 200, "{search:?} does not end");
            let at = theirs.partition_point(|mark| mark.lsn <= probe) - 1;
            let Mark { lsn, chain, records, .. } = theirs[at];
            let known = ours.iter().find(|mark| (mark.lsn, mark.chain) == (lsn, chain));
            match known {
                _ if at < gone => search.unknown(probe),
                Some(mark) => search.same(probe, *mark),
                None => search.differs(&Boundary { lsn, chain, records }),
            }
        }
        assert_eq!(search.common(), ours[parting], "{gone} records are gone");
    }
}

/// Where everything that could be compared differs, nothing is known.
#[test]
fn a_search_that_meets_only_what_is_gone_finds_nothing() {
    let sizes = vec![100; 50];
    let theirs = marks(&sizes, 10);
    let mut search = Search::below(theirs.last().unwrap().lsn);
    while let Some(probe) = search.probe() {
        let at = theirs.partition_point(|mark| mark.lsn <= probe) - 1;
        let Mark { lsn, chain, records, .. } = theirs[at];
        match at < 30 {
            true => search.unknown(probe),
            false => search.differs(&Boundary { lsn, chain, records }),
        }
    }
    assert_eq!(search.common(), Mark::START);
}

#[test]
fn the_search_takes_logarithmic_rounds() {
    let sizes = vec![1 << 20; 100_000];
    let ours = marks(&sizes, usize::MAX);
    for parting in [0, 1, 50_000, 99_990, 99_999] {
        let (common, rounds) = search(&ours, &marks(&sizes, parting));
        assert_eq!(common, ours[parting]);
        assert!(rounds <= 60, "{rounds} rounds over 100 GB, parting at {parting}");
    }
}
