#![allow(clippy::unwrap_used)]

use super::*;

fn args(space: Option<&str>, replica: Option<&str>, level: Level) -> WaitArgs {
    WaitArgs {
        space: space.map(|id| id.parse().unwrap()),
        replica: replica.map(|id| id.parse().unwrap()),
        level,
        timeout: Duration::ZERO,
        admin: DEFAULT_ADMIN.parse().unwrap(),
    }
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
        "replication_address": null,
        "spaces": [space("one", positions[0]), space("two", positions[1])],
    }))
    .unwrap()
}

fn names(status: &NodeStatus, args: &WaitArgs) -> Vec<(String, String)> {
    let heads = selected(status, args).unwrap();
    lagging(status, &heads, args)
        .into_iter()
        .map(|lag| (lag.space.to_string(), lag.replica.unwrap().to_string()))
        .collect()
}

const DONE: (u64, u64) = (100, 100);

#[test]
fn everyone_counts_unless_named() {
    let status = status([[DONE, (100, 40)], [(90, 90), DONE]]);
    let all = names(&status, &args(None, None, Level::Flushed));
    assert_eq!(all, [("one".into(), "gamma".into()), ("two".into(), "beta".into())]);
    let one = names(&status, &args(Some("one"), None, Level::Flushed));
    assert_eq!(one, [("one".into(), "gamma".into())]);
    let beta = names(&status, &args(None, Some("beta"), Level::Flushed));
    assert_eq!(beta, [("two".into(), "beta".into())]);
    assert!(names(&status, &args(Some("one"), Some("beta"), Level::Flushed)).is_empty());
}

#[test]
fn written_is_not_flushed() {
    let status = status([[DONE, (100, 40)], [DONE, DONE]]);
    assert!(names(&status, &args(None, None, Level::Written)).is_empty());
    assert_eq!(names(&status, &args(None, None, Level::Flushed)).len(), 1);
}

#[test]
fn head_is_the_one_at_the_call() {
    let mut status = status([[DONE, DONE], [DONE, DONE]]);
    let args = args(None, None, Level::Flushed);
    let heads = selected(&status, &args).unwrap();
    status.spaces[0].head_lsn = 1_000_000;
    assert!(lagging(&status, &heads, &args).is_empty());
}

#[test]
fn unknown_names_are_usage_errors() {
    let mut status = status([[DONE, DONE], [DONE, DONE]]);
    let text = |status: &NodeStatus, args| selected(status, &args).unwrap_err().to_string();
    assert_eq!(
        text(&status, args(Some("three"), None, Level::Flushed)),
        "alpha does not ship a space three"
    );
    assert_eq!(
        text(&status, args(None, Some("delta"), Level::Flushed)),
        "alpha does not ship to a replica delta"
    );
    status.spaces.clear();
    let error = text(&status, args(None, None, Level::Flushed));
    assert_eq!(error, "alpha ships no space: nothing to wait for");
}

#[test]
fn space_that_vanishes_has_reached_nothing() {
    let mut status = status([[DONE, DONE], [DONE, DONE]]);
    let args = args(None, None, Level::Flushed);
    let heads = selected(&status, &args).unwrap();
    status.spaces.remove(1);
    let lagging = lagging(&status, &heads, &args);
    assert_eq!(lagging.len(), 1);
    assert_eq!(lagging[0].space.as_str(), "two");
}
