//! The control plane's door: status over HTTP, and the client that reads it.
//!
//! ```text
//!   saltus status, saltus wait              saltus run
//!   client ---- GET /status ----> server ---- status() ----> engine
//!          <--- NodeStatus -----         <--- published values
//! ```
//!
//! | request        | answer                                                  |
//! |----------------|---------------------------------------------------------|
//! | `GET /status`  | 200, [`NodeStatus`](crate::engine::status::NodeStatus)  |
//! | `GET /metrics` | 200, the same values as text for Prometheus             |
//! | `GET /proof?`..| 200, digests of a range: [`question`]                 |
//! | `GET /chart?`..| 200, where a stream lies: [`chart`]                    |
//! | `GET /healthz` | 200 `{"status":"ok"}`, or 503 with every problem        |
//! | `GET /livez`   | 200: the process answers, and nothing more is said      |
//! | anything else  | 404 or 405, `{"error":...}`                             |
//!
//! [`question`]: crate::engine::proof::question
//! [`chart`]: crate::engine::proof::chart
//!
//! One request per connection, a bounded number of connections, a bounded
//! head and a deadline for each: a stuck or hostile client costs one of
//! [`MAX_ADMIN_CONNECTIONS`](crate::limits::MAX_ADMIN_CONNECTIONS) places for
//! [`ADMIN_TIMEOUT`](crate::limits::ADMIN_TIMEOUT), and the data plane shares
//! neither thread nor lock with it.
//!
//! It does not authenticate and it does not encrypt. It only reads. It
//! belongs on a loopback address.
#![forbid(unsafe_code)]

pub mod client;
mod counted;
mod exposition;
pub mod health;
mod metrics;
pub mod server;

pub use client::{Client, ClientError};
pub use server::{Node, Server, ServerError};
