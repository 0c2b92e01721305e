#![allow(clippy::unwrap_used)]

use super::*;
use crate::engine::status::Seeding;

fn select(space: Option<&str>, replica: Option<&str>, level: Level) -> Selection {
    let space = space.map(|id| id.parse().unwrap());
    Selection::new(space, replica.map(|id| id.parse().unwrap()), level)
}

/// A primary with two spaces of 100 bytes, two replicas each.
fn status(positions: [[(u64, u64); 2]; 2]) -> NodeStatus {
    let replica = |id: &str, (written, flushed): (u64, u64)| {
        serde_json::json!({
            "id": id, "state": "healthy", "sent_lsn": 100, "received_lsn": 100,
            "written_lsn": written, "flushed_lsn": flushed,
            "lag": {"bytes": 100 - flushed, "records": 0, "seconds": null},
            "append_to_flushed_us": {"p50": null, "p99": null, "count": 0},
        })
    };
    let space = |id: &str, of: [(u64, u64); 2]| {
        serde_json::json!({
            "space": id, "role": "primary", "epoch": 1, "head_lsn": 100, "head_sequence": 1,
            "replicas": [replica("beta", of[0]), replica("gamma", of[1])],
        })
    };
    serde_json::from_value(serde_json::json!({
        "node": "alpha", "cluster": "test", "version": "0", "pid": 1, "backend": "portable",
        "replication_address": null, "ships_to": ["beta", "gamma"],
        "spaces": [space("one", positions[0]), space("two", positions[1])],
    }))
    .unwrap()
}

fn look(status: &NodeStatus, mut selection: Selection) -> Looked {
    selection.look(status, &mut Heads::new()).unwrap()
}

fn names(looked: &Looked) -> Vec<(String, String)> {
    let name = |lag: &Laggard| (lag.space.to_string(), lag.replica.clone().unwrap().to_string());
    looked.lagging.iter().map(name).collect()
}

const DONE: (u64, u64) = (100, 100);

fn done() -> NodeStatus {
    status([[DONE, DONE], [DONE, DONE]])
}

#[test]
fn everyone_counts_unless_named() {
    let status = status([[DONE, (100, 40)], [(90, 90), DONE]]);
    let names = |space, replica| names(&look(&status, select(space, replica, Level::Flushed)));
    assert_eq!(names(None, None), [("one".into(), "gamma".into()), ("two".into(), "beta".into())]);
    assert_eq!(names(Some("one"), None), [("one".into(), "gamma".into())]);
    assert_eq!(names(None, Some("beta")), [("two".into(), "beta".into())]);
    assert!(look(&status, select(Some("one"), Some("beta"), Level::Flushed)).is_reached());
}

#[test]
fn a_replica_that_is_being_filled_anew_has_reached_nothing() {
    let mut status = done();
    status.spaces[0].replicas[1].seeding = Some(Seeding {
        base_lsn: 100,
        target_lsn: 200,
        done_bytes: 0,
        total_bytes: 100,
        bytes_per_second: None,
        eta_seconds: None,
    });
    let looked = look(&status, select(None, None, Level::Flushed));
    assert_eq!(names(&looked), [("one".into(), "gamma".into())]);
}

/// While it is cut, its position is the cut, which may be the head.
#[test]
fn a_replica_that_has_not_told_where_it_is_has_reached_nothing() {
    let mut status = done();
    status.spaces[0].replicas[1].state = ReplicaState::Unknown;
    let looked = look(&status, select(None, None, Level::Flushed));
    assert_eq!(names(&looked), [("one".into(), "gamma".into())]);
    let sentence = looked.lagging[0].sentence();
    assert_eq!(sentence, "one on gamma (unknown) has not told how far it is");
}

#[test]
fn written_is_not_flushed() {
    let status = status([[DONE, (100, 40)], [DONE, DONE]]);
    assert!(look(&status, select(None, None, Level::Written)).is_reached());
    assert_eq!(look(&status, select(None, None, Level::Flushed)).lagging.len(), 1);
}

#[test]
fn head_is_the_one_at_the_call() {
    let mut status = done();
    let (mut selection, mut heads) = (select(None, None, Level::Flushed), Heads::new());
    assert!(selection.look(&status, &mut heads).unwrap().is_reached());
    status.spaces[0].head_lsn = 1_000_000;
    let mut later = status.spaces[0].clone();
    later.space = "three".parse().unwrap();
    status.spaces.push(later);
    assert!(selection.look(&status, &mut heads).unwrap().is_reached());
}

#[test]
fn unknown_names_are_usage_errors() {
    let status = done();
    let text = |mut selection: Selection| {
        selection.look(&status, &mut Heads::new()).unwrap_err().to_string()
    };
    assert_eq!(
        text(select(Some("three"), None, Level::Flushed)),
        "alpha does not ship a space three"
    );
    assert_eq!(
        text(select(None, Some("delta"), Level::Flushed)),
        "alpha does not ship to a replica delta"
    );
}

#[test]
fn nothing_to_wait_for_is_not_reached_and_no_usage_error() {
    let mut status = done();
    status.spaces.clear();
    let looked = look(&status, select(None, None, Level::Flushed));
    assert_eq!(looked.problem.as_deref(), Some("alpha ships no space"));
    assert!(!looked.is_reached() && !looked.is_final(), "one may appear");
    status.ships_to.clear();
    let looked = look(&status, select(None, None, Level::Flushed));
    assert!(!looked.is_reached() && looked.is_final(), "settings do not change while it runs");
}

#[test]
fn space_that_vanishes_has_reached_nothing() {
    let mut status = done();
    let (mut selection, mut heads) = (select(None, None, Level::Flushed), Heads::new());
    assert!(selection.look(&status, &mut heads).unwrap().is_reached());
    status.spaces.remove(1);
    let looked = selection.look(&status, &mut heads).unwrap();
    assert_eq!(looked.lagging.len(), 1);
    assert_eq!(looked.lagging[0].space.as_str(), "two");
}

#[test]
fn what_is_not_known_is_not_reached() {
    for state in [ReplicaState::Connecting, ReplicaState::Degraded] {
        let mut status = done();
        status.spaces[0].replicas[0].state = state;
        let looked = look(&status, select(None, None, Level::Flushed));
        assert_eq!(names(&looked), [("one".into(), "beta".into())], "{state:?}");
        assert!(!looked.is_blocked(), "it may come back");
    }
    let mut status = done();
    status.spaces[1].head_known = false;
    let looked = look(&status, select(None, None, Level::Flushed));
    assert_eq!(looked.lagging.len(), 2);
    assert!(!looked.is_blocked());
    for starting in [true, false] {
        let mut status = done();
        status.starting = starting;
        status.problem = (!starting).then(|| "a shard does not answer".into());
        let looked = look(&status, select(None, None, Level::Flushed));
        assert!(looked.problem.is_some() && !looked.is_reached());
    }
}

#[test]
fn what_waiting_does_not_help_is_named_at_once() {
    let mut status = done();
    status.spaces[0].blocked = true;
    status.spaces[0].problem = Some("it may not be read".into());
    status.spaces[1].replicas[1].state = ReplicaState::Failed;
    status.spaces[1].replicas[1].problem = Some("the chain differs".into());
    let looked = look(&status, select(None, None, Level::Flushed));
    assert!(looked.is_blocked());
    let sentences: Vec<_> = looked.lagging.iter().map(Laggard::sentence).collect();
    assert_eq!(sentences.len(), 3);
    assert!(sentences[0].contains("it may not be read"), "{sentences:?}");
    assert!(sentences[2].contains("the chain differs"), "{sentences:?}");
    // Whoever asks for what is well gets his answer.
    assert!(look(&status, select(Some("two"), Some("beta"), Level::Flushed)).is_reached());
}

#[test]
fn a_problem_that_keeps_nothing_from_being_shipped_is_no_obstacle() {
    let mut status = done();
    status.spaces[0].problem = Some("a segment cannot be pinned".into());
    assert!(look(&status, select(None, None, Level::Flushed)).is_reached());
}
