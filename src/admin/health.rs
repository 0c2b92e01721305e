//! What is wrong with a node: the list behind `/healthz`.
//!
//! ```text
//!   node      a shard died or does not answer, the data root is gone
//!   space     its problem, in either role: damage, no permission, gone, ..
//!   replica   it is stopped and will not recover by itself
//!   at_rest   the scrubber found a damaged range
//! ```
//!
//! A replica that is behind, or that is not reached, is no fault of this node:
//! the lag tells of it, and `saltus status --check` counts it.

use serde::Serialize;

use crate::engine::status::{NodeStatus, ReplicaState};

/// What a problem is a problem of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The node as a whole.
    Node,
    /// One space on it.
    Space,
    /// One replica of one space.
    Replica,
    /// A segment at rest.
    AtRest,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is a problem of.
    pub scope: Scope,
    /// The space, unless it is of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// The replica, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// What is wrong, in a sentence.
    pub problem: String,
}

/// Everything that is wrong; empty if the node is well.
#[must_use]
pub fn problems(status: &NodeStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(problem) = &status.problem {
        let problem = problem.clone();
        found.push(Problem { scope: Scope::Node, space: None, replica: None, problem });
    }
    for space in &status.spaces {
        let name = Some(space.space.to_string());
        if let Some(problem) = &space.problem {
            let (space, problem) = (name.clone(), problem.clone());
            found.push(Problem { scope: Scope::Space, space, replica: None, problem });
        }
        let failed = |state| state == ReplicaState::Failed;
        for replica in space.replicas.iter().filter(|replica| failed(replica.state)) {
            let problem = replica.problem.clone().unwrap_or_else(|| "it is stopped".into());
            found.push(Problem {
                scope: Scope::Replica,
                space: name.clone(),
                replica: Some(replica.id.to_string()),
                problem,
            });
        }
    }
    for bad in &status.scrub.bad_ranges {
        found.push(Problem {
            scope: Scope::AtRest,
            space: Some(bad.space.to_string()),
            replica: None,
            problem: format!(
                "{} is damaged at offset {}, {} bytes: {}",
                bad.segment, bad.offset, bad.bytes, bad.problem
            ),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn status(space_problem: Option<&str>, state: &str) -> NodeStatus {
        serde_json::from_value(serde_json::json!({
            "node": "alpha", "cluster": "test", "version": "0", "pid": 1, "backend": "portable",
            "replication_address": null,
            "spaces": [{
                "space": "one", "role": "primary", "epoch": 1, "head_lsn": 0, "head_sequence": 0,
                "problem": space_problem,
                "replicas": [{
                    "id": "beta", "state": state, "sent_lsn": 0, "received_lsn": 0,
                    "written_lsn": 0, "flushed_lsn": 0,
                    "lag": {"bytes": null, "records": null, "seconds": null},
                    "append_to_flushed_us": {"p50": null, "p99": null, "count": 0},
                }],
            }],
        }))
        .unwrap()
    }

    #[test]
    fn any_problem_of_any_space_counts_and_so_does_a_failed_replica() {
        assert_eq!(problems(&status(None, "healthy")), []);
        // That it is behind or away shows in the lag.
        assert_eq!(problems(&status(None, "degraded")), []);
        let found = problems(&status(Some("it may not be read"), "failed"));
        let found: Vec<_> = found.iter().map(|p| (p.scope, p.problem.as_str())).collect();
        assert_eq!(
            found,
            [(Scope::Space, "it may not be read"), (Scope::Replica, "it is stopped")]
        );
    }

    #[test]
    fn damage_at_rest_counts() {
        let mut status = status(None, "healthy");
        status.scrub.bad_ranges.push(crate::engine::status::BadRange {
            space: "one".parse().unwrap(),
            segment: "wal-0000000000000001.log".into(),
            offset: 64,
            bytes: 80,
            problem: "payload".into(),
            lsn: None,
        });
        let found = problems(&status);
        assert_eq!((found.len(), found[0].scope), (1, Scope::AtRest));
        assert!(found[0].problem.contains("offset 64"), "{found:?}");
    }
}
