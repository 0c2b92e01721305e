//! Both session machines against each other, in virtual time.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, unreachable_pub, missing_docs)]

#[path = "protocol_session/batching.rs"]
mod batching;
#[path = "protocol_session/epochs.rs"]
mod epochs;
#[path = "protocol_session/faults.rs"]
mod faults;
#[path = "protocol_session/fetching.rs"]
mod fetching;
#[path = "protocol_session/fuzz.rs"]
mod fuzz;
#[path = "protocol_session/handshake.rs"]
mod handshake;
#[path = "protocol_session/pair.rs"]
mod pair;
#[path = "protocol_session/resume.rs"]
mod resume;
#[path = "protocol_session/stale.rs"]
mod stale;
#[path = "protocol_session/timers.rs"]
mod timers;
