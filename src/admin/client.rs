//! Asks a running node for its status.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time;

use crate::engine::status::NodeStatus;
use crate::limits::{ADMIN_TIMEOUT, MAX_STATUS_BYTES};

/// Why there is no answer. The node is untouched in every case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing listens there, or the way is barred. Worth another attempt
    /// only if the node is about to start.
    #[error(
        "no saltus answers at {address} ({source}): is it running, and is [listen] admin set \
         to this address?"
    )]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No whole answer in time. Worth another attempt.
    #[error("{address} did not answer within {after:?}: the node is stuck or overloaded")]
    TimedOut {
        /// Who was asked.
        address: SocketAddr,
        /// For how long.
        after: Duration,
    },
    /// The answer is not that of a saltus admin address.
    #[error("what answers at {address} is not the admin address of a saltus: {found}")]
    Foreign {
        /// Who was asked.
        address: SocketAddr,
        /// What came instead.
        found: String,
    },
    /// This process cannot make requests: descriptors or threads ran out.
    #[error("cannot start a client: {source}")]
    Client {
        /// What the system said.
        source: io::Error,
    },
}

/// A client of one admin address. Blocking.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    address: SocketAddr,
}

impl Client {
    /// A client of the node whose `[listen] admin` is `address`. Does not
    /// connect yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Client`].
    pub fn new(address: SocketAddr) -> Result<Self, ClientError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ClientError::Client { source })?;
        Ok(Self { runtime, address })
    }

    /// Who is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node's status now. Returns within [`ADMIN_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but `Client`.
    pub fn status(&self) -> Result<NodeStatus, ClientError> {
        let address = self.address;
        let answer =
            self.runtime.block_on(async { time::timeout(ADMIN_TIMEOUT, get(address)).await });
        let body =
            answer.map_err(|_| ClientError::TimedOut { address, after: ADMIN_TIMEOUT })??;
        serde_json::from_slice(&body).map_err(|error| ClientError::Foreign {
            address,
            found: format!("its status cannot be read ({error})"),
        })
    }
}

/// The body of `/status`.
async fn get(address: SocketAddr) -> Result<Bytes, ClientError> {
    let unreachable = |source| ClientError::Unreachable { address, source };
    let foreign = |found: String| ClientError::Foreign { address, found };
    let broken = |error: hyper::Error| foreign(error.to_string());

    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Drives the connection; what goes wrong shows in the request as well.
    let driver = tokio::spawn(connection);
    let request = Request::get("/status")
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| foreign(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::OK {
        return Err(foreign(format!("it answered {}", response.status())));
    }
    let body = Limited::new(response.into_body(), MAX_STATUS_BYTES)
        .collect()
        .await
        .map_err(|error| foreign(error.to_string()))?;
    driver.abort();
    Ok(body.to_bytes())
}
