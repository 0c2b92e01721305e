//! Serves what a node says about itself.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time;

use super::health::{self, Problem};
use super::metrics;
use crate::engine::Engine;
use crate::engine::proof::ProofError;
use crate::engine::proof::chart::{Chart, ChartAsk};
use crate::engine::proof::question::{Answer, Question};
use crate::engine::scrub::ScrubAsk;
use crate::engine::status::NodeStatus;
use crate::limits::{ADMIN_TIMEOUT, MAX_ADMIN_CONNECTIONS, MAX_ADMIN_HEAD_BYTES};

/// The pause after an accept that failed: descriptors may be used up, and
/// will not come back sooner for being asked for in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the text of `/metrics` is called.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why the admin server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be bound. Nothing was started; free the port, or
    /// choose another.
    #[error("cannot listen for administration on {address} ([listen] admin): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be handed to the runtime. Nothing was started.
    #[error("cannot serve administration on {address}: {source}")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound admin address.
#[derive(Debug)]
pub struct Server {
    listener: StdListener,
    address: SocketAddr,
}

impl Server {
    /// Bind the address. Connections queue from here on.
    ///
    /// # Errors
    ///
    /// [`ServerError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address, source };
        let listener = StdListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "the admin address is not a loopback address, and nothing authenticates there: \
                 whoever reaches it can read the status of this node"
            );
        }
        Ok(Self { listener, address })
    }

    /// The address, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answer requests, until the future is dropped. The node is asked on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// [`ServerError::Serve`], at once or never.
    pub async fn serve<N: Node + 'static>(self, node: Rc<N>) -> Result<Infallible, ServerError> {
        let address = self.address;
        let listener = TcpListener::from_std(self.listener)
            .map_err(|source| ServerError::Serve { address, source })?;
        let places = Arc::new(Semaphore::new(MAX_ADMIN_CONNECTIONS));
        // The set ends its tasks when it is dropped, so nothing outlives this
        // future, and nobody else holds the node any longer.
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                loop {
                    let Ok(place) = places.clone().acquire_owned().await else {
                        continue; // the semaphore is never closed
                    };
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let node = Rc::clone(&node);
                            tokio::task::spawn_local(async move {
                                answer(stream, node).await;
                                drop(place);
                            });
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the admin server cannot accept a connection");
                            time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            })
            .await
    }
}

/// What there is to serve: a node, as far as it can be asked from outside.
pub trait Node {
    /// What it says of itself.
    fn status(&self) -> NodeStatus;

    /// Ask for a pass of scrubbing over one space or all, or for the repair of a
    /// space that it ships; see [`Engine::ask_for_scrub`]. Nothing if it takes
    /// no such request now.
    fn scrub(&self, ask: ScrubAsk) -> Option<u64> {
        let _ = ask;
        None
    }

    /// What it knows about a range of a stream.
    fn prove(&self, question: Question) -> impl Future<Output = Result<Answer, ProofError>>;

    /// Where a stream lies.
    fn chart(&self, ask: ChartAsk) -> impl Future<Output = Result<Chart, ProofError>>;
}

impl Node for Engine {
    fn status(&self) -> NodeStatus {
        Engine::status(self)
    }

    fn scrub(&self, ask: ScrubAsk) -> Option<u64> {
        Engine::ask_for_scrub(self, ask)
    }

    fn prove(&self, question: Question) -> impl Future<Output = Result<Answer, ProofError>> {
        Engine::prove(self, question)
    }

    fn chart(&self, ask: ChartAsk) -> impl Future<Output = Result<Chart, ProofError>> {
        Engine::chart(self, ask)
    }
}

/// Serve the one request of a connection.
async fn answer<N: Node>(stream: TcpStream, node: Rc<N>) {
    let service = service_fn(|request: Request<Incoming>| {
        let node = Rc::clone(&node);
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri(), &*node).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_TIMEOUT)
        .max_buf_size(MAX_ADMIN_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(ADMIN_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        // The client's fault, and the client has noticed.
        Ok(Err(error)) => tracing::debug!(%error, "an admin request broke off"),
        Err(_) => tracing::debug!("an admin request took longer than {ADMIN_TIMEOUT:?}"),
    }
}

/// The body of every answer that carries no value.
#[derive(Serialize)]
struct Verdict<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

async fn respond(method: &Method, uri: &Uri, node: &impl Node) -> Response<Full<Bytes>> {
    match (uri.path(), method == Method::GET) {
        ("/status", true) => json(StatusCode::OK, &node.status()),
        ("/metrics", true) => {
            body(StatusCode::OK, METRICS_TYPE, metrics::render(&node.status()).into_bytes())
        }
        ("/healthz", true) => healthy(&node.status()),
        // Whoever restarts a process that does not answer asks this: nothing
        // that a restart would not mend may make it fail.
        ("/livez", true) => json(StatusCode::OK, &Verdict { status: Some("ok"), error: None }),
        ("/scrub" | "/repair", _) if method == Method::POST => scrub(uri, node),
        ("/scrub" | "/repair", _) => {
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed here");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            response
        }
        ("/proof", true) => prove(uri.query().unwrap_or_default(), node).await,
        ("/chart", true) => chart(uri.query().unwrap_or_default(), node).await,
        ("/status" | "/metrics" | "/healthz" | "/livez" | "/proof" | "/chart", false) => {
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed here");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            response
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "no such page; there are /status, /metrics, /healthz, /livez, /proof, /chart, /scrub and \
             /repair",
        ),
    }
}

/// What `/healthz` says of a node that is not well.
#[derive(Serialize)]
struct Unwell<'a> {
    status: &'static str,
    /// The first problem, for whoever shows one line.
    error: &'a str,
    problems: &'a [Problem],
}

/// Whether the node and everything on it is well.
fn healthy(status: &NodeStatus) -> Response<Full<Bytes>> {
    let problems = health::problems(status);
    match problems.first() {
        None => json(StatusCode::OK, &Verdict { status: Some("ok"), error: None }),
        Some(first) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &Unwell { status: "failed", error: &first.problem, problems: &problems },
        ),
    }
}

/// The answer to a request that is carried out later.
#[derive(Serialize)]
struct Accepted {
    request: u64,
}

/// Ask the node for a pass over what is at rest.
fn scrub(uri: &Uri, node: &impl Node) -> Response<Full<Bytes>> {
    let query = uri.query().unwrap_or_default();
    let ask = match ScrubAsk::parse(uri.path() == "/repair", query) {
        Ok(ask) => ask,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong),
    };
    match node.scrub(ask) {
        Some(request) => json(StatusCode::ACCEPTED, &Accepted { request }),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "too many such requests wait already"),
    }
}

/// Ask the node about a range of a stream.
async fn prove(query: &str, node: &impl Node) -> Response<Full<Bytes>> {
    let question = match query.parse::<Question>() {
        Ok(question) => question,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
    };
    answered(node.prove(question).await)
}

/// Ask the node where a stream lies.
async fn chart(query: &str, node: &impl Node) -> Response<Full<Bytes>> {
    match query.parse::<ChartAsk>() {
        Ok(ask) => answered(node.chart(ask).await),
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.to_string()),
    }
}

fn answered(answer: Result<impl Serialize, ProofError>) -> Response<Full<Bytes>> {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(failure) => {
            let code = match &failure {
                ProofError::Unknown { .. } => StatusCode::NOT_FOUND,
                ProofError::Busy | ProofError::Late { .. } => StatusCode::SERVICE_UNAVAILABLE,
                other => {
                    tracing::error!(error = %other, "a question about a stream has no answer");
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            error(code, &failure.to_string())
        }
    }
}

fn error(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    json(code, &Verdict { status: None, error: Some(text) })
}

fn json(code: StatusCode, document: &impl Serialize) -> Response<Full<Bytes>> {
    let (code, text) = match serde_json::to_vec(document) {
        Ok(text) => (code, text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, br#"{"error":"internal"}"#.to_vec())
        }
    };
    body(code, "application/json", text)
}

fn body(code: StatusCode, content_type: &'static str, text: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
