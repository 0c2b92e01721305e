//! A primary and its replicas as real processes, and waiting for them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use saltus::cli::node::{NodeProcess, NodeSpec};
use saltus::config::Replica;
use saltus::engine::status::{NodeStatus, ReplicaStatus, SpaceStatus};
use saltus::io::BackendChoice;
use saltus::wal::compare::compare;
use saltus::wal::discover;
use saltus::wal::record::Checksums;
use saltus::wal::scan;
use tempfile::TempDir;

use crate::feed::Segment;

/// How long anything that is waited for may take. Far more than it should:
/// the machine may be busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(45);

/// The pause between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The backend that this build prefers.
pub const NATIVE: BackendChoice =
    if cfg!(feature = "uring") { BackendChoice::Uring } else { BackendChoice::Portable };

/// Both backends, for tests that run on each. Where this build has one, the
/// tests run twice on it.
pub const BACKENDS: [BackendChoice; 2] = [NATIVE, BackendChoice::Portable];

/// Wait until `look` gives something.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, look)
}

/// The same, for what may take longer.
#[track_caller]
pub fn within<T>(time: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.explain());
        }
    }
}

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    running: Option<NodeProcess>,
    /// How it is started again.
    pub spec: NodeSpec,
}

impl Node {
    pub fn start(spec: NodeSpec) -> Self {
        let mut node = Self { running: None, spec };
        node.restart();
        node
    }

    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let process = self.spec.clone().spawn().unwrap();
        // A node that comes back is looked for where it was.
        self.spec.admin = process.ready().admin;
        self.spec.replication = process.ready().replication;
        self.running = Some(process);
    }

    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub fn process(&mut self) -> &mut NodeProcess {
        self.running.as_mut().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        drop(self.running.take().unwrap().kill());
    }

    /// SIGTERM; it must end with exit code 0.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.running.take().unwrap().terminate().unwrap();
    }

    pub fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.process().pid()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    #[track_caller]
    pub fn status(&mut self) -> NodeStatus {
        self.process().status().unwrap()
    }

    #[track_caller]
    pub fn space(&mut self, space: &str) -> Option<SpaceStatus> {
        self.status().spaces.into_iter().find(|status| status.space.as_str() == space)
    }

    /// Wait until what is wrong with a space contains `text`.
    #[track_caller]
    pub fn await_problem(&mut self, space: &str, text: &str) -> SpaceStatus {
        until(&format!("{space} says {text:?} on {}", self.spec.id), || {
            let status = self.space(space)?;
            let says =
                |problem: &Option<String>| problem.as_ref().is_some_and(|p| p.contains(text));
            let found = says(&status.problem) || status.replicas.iter().any(|r| says(&r.problem));
            found.then_some(status)
        })
    }

    /// The code that a page of the admin address answers with, and the answer.
    #[track_caller]
    pub fn get(&self, page: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.spec.admin).unwrap();
        write!(stream, "GET {page} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        (code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}")), answer)
    }

    pub fn as_replica(&self) -> Replica {
        Replica { id: self.spec.id.clone(), address: self.spec.replication.unwrap() }
    }

    pub fn wal(&self, space: &str) -> PathBuf {
        self.spec.data_root.join(space).join("wal")
    }

    /// Where a received file stands that has no name on the primary.
    pub fn retired(&self, space: &str, file: u64) -> PathBuf {
        let retired = self.spec.data_root.join(".saltus/retired").join(space);
        retired.join(format!("{file:016x}"))
    }

    pub fn log(&self) -> String {
        let path = self.spec.directory.join(format!("{}.log", self.spec.id));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }
}

/// A primary that ships to each of the replicas.
#[derive(Debug)]
pub struct Cluster {
    pub primary: Node,
    pub replicas: Vec<Node>,
    pub directory: TempDir,
}

/// A spec for the program under test.
pub fn spec(id: &str, directory: &Path, receives: bool) -> NodeSpec {
    let mut spec = NodeSpec::new(id, directory, receives).unwrap();
    spec.program = env!("CARGO_BIN_EXE_saltus").into();
    spec
}

impl Cluster {
    /// A primary and `replicas` replicas, empty, on this backend.
    pub fn start(backend: BackendChoice, replicas: usize) -> Self {
        Self::with(replicas, |spec| spec.backend = backend, |_| {})
    }

    /// The same, with `each` applied to every spec and `prepare` called on the
    /// primary's data root before anything runs.
    pub fn with(
        replicas: usize,
        each: impl Fn(&mut NodeSpec),
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut primary = spec("primary", directory.path(), false);
        each(&mut primary);
        fs::create_dir_all(&primary.data_root).unwrap();
        prepare(&primary.data_root);
        let replicas: Vec<Node> = (1..=replicas)
            .map(|number| {
                let mut spec = spec(&format!("replica-{number}"), directory.path(), true);
                each(&mut spec);
                Node::start(spec)
            })
            .collect();
        primary.replicas = replicas.iter().map(Node::as_replica).collect();
        Self { primary: Node::start(primary), replicas, directory }
    }

    /// What the primary says of a replica of a space.
    #[track_caller]
    pub fn replica(&mut self, index: usize, space: &str) -> Option<ReplicaStatus> {
        let id = self.replicas[index].spec.id.clone();
        let status = self.primary.space(space)?;
        status.replicas.into_iter().find(|replica| replica.id == id)
    }

    /// The first segment of a space, with that many records of that many payload
    /// bytes, flushed by every replica.
    #[track_caller]
    pub fn fill(&mut self, space: &str, records: usize, bytes: usize) -> Segment {
        let mut segment = Segment::create(&self.primary.wal(space), 1);
        segment.records(records, bytes);
        self.await_flushed(space, segment.len());
        segment
    }

    /// Wait until every replica has flushed exactly that much of a space. How long
    /// that takes is up to the disk; that nothing moves must not last.
    #[track_caller]
    pub fn await_flushed(&mut self, space: &str, lsn: u64) {
        let mut last = None;
        let mut reached = 0;
        let mut deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.primary.space(space);
            if let Some(status) = &status {
                let flushed = || status.replicas.iter().map(|replica| replica.flushed_lsn);
                if status.head_lsn == lsn
                    && !status.replicas.is_empty()
                    && flushed().all(|flushed| flushed == lsn)
                {
                    return;
                }
                let sum: u64 = flushed().sum();
                if sum > reached {
                    (reached, deadline) = (sum, Instant::now() + DEADLINE);
                }
            }
            last = status.or(last);
            assert!(
                Instant::now() < deadline,
                "nothing moves for {DEADLINE:?}, and not yet is {space} flushed up to {lsn} \
                 everywhere; last seen: {last:#?}"
            );
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Everything that helps to tell why something did not happen.
    fn explain(&mut self) -> String {
        let mut text = String::new();
        for node in std::iter::once(&mut self.primary).chain(&mut self.replicas) {
            if node.runs() {
                text += &format!("--- {:#?}\n", node.process().status());
            }
        }
        text + &self.logs()
    }

    pub fn logs(&self) -> String {
        let mut text = format!("--- primary\n{}", self.primary.log());
        for replica in &self.replicas {
            text += &format!("--- {}\n{}", replica.spec.id, replica.log());
        }
        text
    }

    /// Wait until every replica's directory of a space is the primary's:
    /// segments whose names are gone leave it a moment later.
    #[track_caller]
    pub fn await_identical(&self, space: &str) {
        until(&format!("{space} is identical everywhere"), || {
            let same = |replica: &Node| {
                compare(&self.primary.wal(space), &replica.wal(space))
                    .is_ok_and(|comparison| comparison.is_identical())
            };
            self.replicas.iter().all(same).then_some(())
        });
        self.assert_identical(space);
    }

    /// Every replica's directory of a space holds what the primary's holds.
    #[track_caller]
    pub fn assert_identical(&self, space: &str) {
        for replica in &self.replicas {
            let comparison = compare(&self.primary.wal(space), &replica.wal(space)).unwrap();
            assert!(comparison.is_identical(), "{space} on {}: {comparison:?}", replica.spec.id);
            assert_whole(&replica.wal(space));
        }
    }
}

/// Every byte of every segment in the directory belongs to a good record.
#[track_caller]
pub fn assert_whole(wal: &Path) {
    for name in discover::segments(wal).unwrap() {
        let path = wal.join(name.to_string());
        let file = fs::File::open(&path).unwrap();
        let mut bad = Vec::new();
        let mut each = |item: scan::Item| {
            if let scan::Item::Bad(range) = item {
                bad.push(range);
            }
            true
        };
        scan::scan(&file, Checksums::Optional, &mut each).unwrap();
        assert!(bad.is_empty(), "{}: {bad:?}", path.display());
    }
}

/// Every segment of the replica is a beginning of the primary's of that name,
/// and consists of whole records.
#[track_caller]
pub fn assert_prefix(replica: &Path, primary: &Path) {
    if !replica.exists() {
        return;
    }
    assert_whole(replica);
    for name in discover::segments(replica).unwrap() {
        let mut ours = fs::File::open(replica.join(name.to_string())).unwrap();
        let mut theirs = fs::File::open(primary.join(name.to_string())).unwrap();
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut offset = 0_u64;
        loop {
            let have = ours.read(&mut left).unwrap();
            if have == 0 {
                break;
            }
            theirs.read_exact(&mut right[..have]).unwrap_or_else(|error| {
                panic!("{name} is longer than the primary's at {offset}: {error}")
            });
            if left[..have] != right[..have] {
                let at = left.iter().zip(&right).take_while(|(a, b)| a == b).count() as u64;
                panic!("{name} differs from the primary's at {}", offset + at);
            }
            offset += have as u64;
        }
    }
}
