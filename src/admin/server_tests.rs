#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::sync::mpsc;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::admin::{Client, ClientError};
use crate::engine::status::{NodeStatus, ScrubStatus};

fn status(problem: Option<&str>) -> NodeStatus {
    NodeStatus {
        node: "alpha".parse().unwrap(),
        cluster: "test".parse().unwrap(),
        version: "0.0.0".into(),
        pid: 7,
        backend: "portable".into(),
        replication_address: None,
        problem: problem.map(Into::into),
        starting: false,
        ships_to: Vec::new(),
        spaces: Vec::new(),
        scrub: ScrubStatus::default(),
        corrupt_frames: std::collections::BTreeMap::new(),
        ignored: crate::engine::status::Ignored::default(),
    }
}

/// A node that always says the same.
struct Same(Option<&'static str>);

impl Node for Same {
    fn status(&self) -> NodeStatus {
        status(self.0)
    }

    async fn prove(&self, question: Question) -> Result<Answer, ProofError> {
        match question.space.as_str() {
            "busy" => Err(ProofError::Busy),
            "alpha" => Ok(Answer { stream: "5".into(), to: question.to, ..Answer::default() }),
            _ => Err(ProofError::Unknown { space: question.space }),
        }
    }

    async fn chart(&self, ask: ChartAsk) -> Result<Chart, ProofError> {
        Err(ProofError::Unknown { space: ask.space })
    }
}

/// A server on a thread of its own; it ends when the sender is dropped.
fn serving(problem: Option<&'static str>) -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let (sender, stop) = tokio::sync::oneshot::channel();
    let (ready, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            ready.send(server.address()).unwrap();
            tokio::select! {
                _ = server.serve(Rc::new(Same(problem))) => {}
                _ = stop => {}
            }
        });
    });
    (address.recv().unwrap(), sender)
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = StdStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A refused head may be answered and then reset; what came counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn client_reads_what_the_server_says() {
    let (address, _stop) = serving(None);
    let client = Client::new(address).unwrap();
    assert_eq!(client.status().unwrap(), status(None));
    assert_eq!(client.status().unwrap(), status(None));
}

#[test]
fn metrics_are_text_for_prometheus() {
    let (address, _stop) = serving(None);
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nsaltus_problem 0\n"), "{answer}");
}

#[test]
fn questions_about_ranges_are_answered_or_refused_by_reason() {
    let (address, _stop) = serving(None);
    let client = Client::new(address).unwrap();
    let question = |space: &str| format!("space={space}&from=0&to=7&part=1024").parse().unwrap();
    let answer = client.ask(&question("alpha")).unwrap();
    assert_eq!((answer.stream.as_str(), answer.to), ("5", 7));
    let exchanged = client.exchanged_bytes();
    assert!((100..1000).contains(&exchanged), "{exchanged}");

    let error = client.ask(&question("busy")).unwrap_err();
    assert!(matches!(error, ClientError::Busy { .. }), "{error:?}");
    let error = client.ask(&question("beta")).unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 404, .. }), "{error:?}");
    assert!(error.to_string().contains("no space beta"), "{error}");
    let answer = ask(address, "GET /proof?space=alpha&from=0&to=0 HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("part is missing"), "{answer}");
}

#[test]
fn health_follows_the_problem() {
    let (address, _stop) = serving(None);
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    let (address, _stop) = serving(Some("a shard died"));
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["status"], &body["error"]), (&"failed".into(), &"a shard died".into()));
    assert_eq!(body["problems"][0]["scope"], "node");
    // It answers, so nobody should restart it for that.
    let answer = ask(address, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn unknown_page_and_other_method_are_json_errors() {
    let (address, _stop) = serving(None);
    let answer = ask(address, "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("application/json"), "{answer}");
    let answer = ask(address, "POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET"), "{answer}");
}

#[test]
fn oversized_head_is_refused() {
    let (address, _stop) = serving(None);
    let long = "x".repeat(2 * MAX_ADMIN_HEAD_BYTES);
    let answer = ask(address, &format!("GET /status HTTP/1.1\r\nhost: {long}\r\n\r\n"));
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn silent_clients_do_not_keep_out_a_request_when_places_are_left() {
    let (address, _stop) = serving(None);
    let silent: Vec<_> =
        (1..MAX_ADMIN_CONNECTIONS).map(|_| StdStream::connect(address).unwrap()).collect();
    assert!(Client::new(address).unwrap().status().is_ok());
    drop(silent);
}

#[test]
fn dead_address_is_explained() {
    // Given to nobody else, and nobody listens.
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let unused = reserved.local_addr().unwrap().as_socket().unwrap();
    let error = Client::new(unused).unwrap().status().unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("no saltus answers at {unused} ")), "{text}");
    assert!(text.contains("is it running"), "{text}");
}

#[test]
fn stranger_at_the_address_is_named_as_one() {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stranger = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
    });
    let error = Client::new(address).unwrap().status().unwrap_err();
    assert!(matches!(error, ClientError::Foreign { .. }), "{error:?}");
    stranger.join().unwrap();
}
