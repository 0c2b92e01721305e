//! Asks a running node for its status, and for digests of what it holds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time;

use super::counted::Counted;
use crate::engine::proof::chart::{Chart, ChartAsk};
use crate::engine::proof::question::{Answer, Question};
use crate::engine::scrub::ScrubAsk;
use crate::engine::status::NodeStatus;
use crate::limits::{ADMIN_TIMEOUT, MAX_ANSWER_BYTES, MAX_STATUS_BYTES};

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
    /// It does not answer this now. Worth another attempt.
    #[error("{address} cannot answer now: {why}")]
    Busy {
        /// Who was asked.
        address: SocketAddr,
        /// What it said.
        why: String,
    },
    /// It will not answer this.
    #[error("{address} answers {status}: {why}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// The status of HTTP.
        status: u16,
        /// What it said.
        why: String,
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
    exchanged: Arc<AtomicU64>,
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
        Ok(Self { runtime, address, exchanged: Arc::default() })
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
        let (status, body) = self.get("/status", MAX_STATUS_BYTES)?;
        if status != StatusCode::OK {
            return Err(self.foreign(format!("it answered {status}")));
        }
        self.read(&body)
    }

    /// What the node knows about a range of a stream. Returns within
    /// [`ADMIN_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but `Client`.
    pub fn ask(&self, question: &Question) -> Result<Answer, ClientError> {
        self.answer(&format!("/proof?{question}"))
    }

    /// Where a stream lies, as the node's catalog has it; in parts, if there are
    /// many runs. Returns within [`ADMIN_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but `Client`.
    pub fn chart(&self, ask: &ChartAsk) -> Result<Chart, ClientError> {
        self.answer(&format!("/chart?{ask}"))
    }

    fn answer<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.get(path, MAX_ANSWER_BYTES)?;
        if status == StatusCode::OK {
            return self.read(&body);
        }
        let address = self.address;
        let Refusal { error: why } = self.read(&body)?;
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => ClientError::Busy { address, why },
            _ => ClientError::Refused { address, status: status.as_u16(), why },
        })
    }

    /// Ask the node for a pass over what is at rest, or for a repair. Returns
    /// the number under which the outcome will stand in the status.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but `Client`.
    pub fn scrub(&self, ask: &ScrubAsk) -> Result<u64, ClientError> {
        let path = if ask.repair { "/repair" } else { "/scrub" };
        let (status, body) =
            self.send(Method::POST, &format!("{path}?{}", ask.query()), MAX_ANSWER_BYTES)?;
        if status == StatusCode::ACCEPTED {
            return self.read(&body).map(|Accepted { request }| request);
        }
        let address = self.address;
        let Refusal { error: why } = self.read(&body)?;
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => ClientError::Busy { address, why },
            _ => ClientError::Refused { address, status: status.as_u16(), why },
        })
    }

    /// Bytes that were sent and received so far, HTTP included.
    #[must_use]
    pub fn exchanged_bytes(&self) -> u64 {
        self.exchanged.load(Ordering::Relaxed)
    }

    fn get(&self, path: &str, most: usize) -> Result<(StatusCode, Bytes), ClientError> {
        self.send(Method::GET, path, most)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        most: usize,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let address = self.address;
        let exchanged = Arc::clone(&self.exchanged);
        let got = self.runtime.block_on(async {
            time::timeout(ADMIN_TIMEOUT, send(address, method, path, most, exchanged)).await
        });
        got.map_err(|_| ClientError::TimedOut { address, after: ADMIN_TIMEOUT })?
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body)
            .map_err(|error| self.foreign(format!("its answer cannot be read ({error})")))
    }

    fn foreign(&self, found: String) -> ClientError {
        ClientError::Foreign { address: self.address, found }
    }
}

/// The body of an answer to a request that is carried out later.
#[derive(Deserialize)]
struct Accepted {
    request: u64,
}

/// The body of an answer that is none.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// One request.
async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    most: usize,
    exchanged: Arc<AtomicU64>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let unreachable = |source| ClientError::Unreachable { address, source };
    let foreign = |found: String| ClientError::Foreign { address, found };
    let broken = |error: hyper::Error| foreign(error.to_string());

    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let stream = TokioIo::new(Counted::new(stream, exchanged));
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| foreign(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most)
            .collect()
            .await
            .map_err(|error| foreign(error.to_string()))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It ends when the answer is here; what goes wrong shows there.
        _ = connection => answer.await,
    }
}
