//! The configuration file: TOML, read once at the start, valid from then on.
//!
//! ```toml
//! [node]
//! id = "alpha-1"                # this node, as its peers name it
//! cluster = "production"        # nodes of another cluster are refused
//! data_root = "/var/lib/engram" # holds <space>/wal/ for every space
//!
//! [listen]
//! replication = "10.0.0.1:7420" # absent: this node receives nothing
//! admin = "127.0.0.1:7421"      # status; not authenticated
//!
//! [[replica]]                   # once for each node to ship to
//! id = "alpha-2"
//! address = "10.0.0.2:7420"
//! ```
//!
//! Everything else has a default. A value is parsed into its valid type here
//! and nowhere else; a key that does not exist, and a value out of its range,
//! are refused with file, line and column, what was found, and what is
//! allowed. Nothing is ignored and nothing is silently clamped.
#![forbid(unsafe_code)]

mod document;
mod error;
mod host;
pub mod quantity;
#[cfg(test)]
mod tests;

use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::error::{ConfigError, Place};

use self::document::{Document, Section, refuse_unknown};
use crate::ids::{ClusterId, NodeId};
use crate::io::{BackendChoice, Strategy};
use crate::limits::{
    MAX_EXTENT_BYTES, MAX_REPLICAS, MAX_SHARDS, RECORD_HEADER_BYTES, SCRUB_BYTES_PER_S,
    SCRUB_INTERVAL,
};

/// Where the admin server listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:7421";

/// `batch.max_records` unless told otherwise.
pub const DEFAULT_BATCH_RECORDS: u32 = 100;

/// `batch.max_delay` unless told otherwise.
pub const DEFAULT_BATCH_DELAY: Duration = Duration::from_millis(10);

/// The name of the state directory inside the data root.
pub const STATE_DIRECTORY: &str = ".saltus";

/// The most that `batch.max_bytes` can be, and its default. Gathering more
/// than that would only make the first record of a batch late; in catch-up
/// nothing is gathered, and extents are as large as the limits allow.
pub const MAX_BATCH_BYTES: u32 = MAX_EXTENT_BYTES;

// A batch is shipped as one extent.
const _: () = assert!(MAX_BATCH_BYTES <= MAX_EXTENT_BYTES);

/// The range of `batch.max_records`: a batch holds no more records than empty
/// ones fit into it.
#[expect(clippy::cast_possible_truncation, reason = "a header is 64 bytes")]
const BATCH_RECORDS: RangeInclusive<u32> = 1..=MAX_BATCH_BYTES / RECORD_HEADER_BYTES as u32;

/// The range of `batch.max_delay`. Past a second, waiting would look like lag.
const BATCH_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

/// The range of `batch.max_bytes`. Below 64 KiB the frame headers and the
/// wake-ups cost more than the bytes.
const BATCH_BYTES: RangeInclusive<u32> = 64 << 10..=MAX_BATCH_BYTES;

/// The keys of `[wal]`.
const WAL: &[&str] = &["checksums", "on_corrupt_source"];

/// The range of `scrub.interval`.
const SCRUB_INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// The range of `scrub.bytes_per_second`. Below, a pass over a few GiB would
/// take longer than an interval.
const SCRUB_SPEEDS: RangeInclusive<u32> = 64 << 10..=2 << 30;

/// The range of `io.first_core` ends here: what the kernel's usual affinity
/// mask can name, less the shards.
const MAX_CORE: u32 = 959;

/// `retention.max_disk_share` unless told otherwise, percent: far from filling
/// a disk, and days of log on most.
pub const DEFAULT_DISK_SHARE: u32 = 20;

/// The range of `retention.max_disk_share`. There is no "without limit": a
/// replica that is away must never fill the disk that the database writes to.
const DISK_SHARE: RangeInclusive<u32> = 1..=90;

/// The range of `retention.max_age`. Below a second a replica could not even
/// be restarted.
const RETENTION_AGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// The range of `retention.max_bytes`. Below, nothing would be kept; above is
/// no disk, but a slip of the pen.
const RETENTION_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 50;

/// The range of `retention.seed_bytes_per_second`. Below, nothing would move;
/// above is no link.
const SEED_SPEEDS: RangeInclusive<u64> = 64 << 10..=1 << 40;

const SECTIONS: &[&str] =
    &["node", "listen", "replica", "io", "batch", "durability", "retention", "wal", "scrub"];

/// Every setting of one node, valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this node is and what it replicates.
    pub node: Node,
    /// The sockets it opens.
    pub listen: Listen,
    /// Whom it ships to, in the order of the file; ids and addresses are
    /// distinct, at most [`MAX_REPLICAS`].
    pub replicas: Vec<Replica>,
    /// How bytes move.
    pub io: Io,
    /// When a batch is shipped.
    pub batch: Batch,
    /// What a replica does before it acknowledges.
    pub durability: Durability,
    /// How much is kept for replicas that are behind.
    pub retention: Retention,
    /// What is demanded of the log itself.
    pub wal: Wal,
    /// How what is at rest is verified.
    pub scrub: Scrub,
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct Node {
    /// `id`: this node's name. Required.
    pub id: NodeId,
    /// `cluster`: the name that all its peers share. Required.
    pub cluster: ClusterId,
    /// `data_root`: absolute; holds `<space>/wal/`. Required.
    pub data_root: PathBuf,
    /// `state_dir`: absolute; by default `.saltus` in the data root. Must lie
    /// on the file system of the data root, because pins are hard links.
    pub state_dir: PathBuf,
}

/// `[listen]`. Port 0 lets the system choose a free one.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `replication`: where primaries connect to; `None`: nothing is received.
    pub replication: Option<SocketAddr>,
    /// `admin`: where status is served. Default [`DEFAULT_ADMIN`].
    pub admin: SocketAddr,
}

/// One `[[replica]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// `id`: its `node.id`. The handshake refuses a node of another name.
    pub id: NodeId,
    /// `address`: its `listen.replication`. A number, not a host name.
    pub address: SocketAddr,
}

/// `[io]`.
#[derive(Debug, Clone)]
pub struct Io {
    /// `backend`: how the process talks to the kernel. Default `auto`.
    pub backend: BackendChoice,
    /// `strategy`: how an extent gets from the file to the socket. Default
    /// `auto`.
    pub strategy: Strategy,
    /// `shards`: data-plane threads, 1 to [`MAX_SHARDS`]. Default 1.
    pub shards: u32,
    /// `first_core`: shard `n` is pinned to core `first_core + n`. Default:
    /// not pinned, since a process cannot know which cores its neighbours
    /// (the database, another node) have taken.
    pub first_core: Option<u32>,
}

/// `[batch]`: what is gathered while something is in flight already. With
/// nothing in flight a record is shipped at once.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `max_records`: 1 to 32,768. Default 100.
    pub max_records: u32,
    /// `max_delay`: 0 to 1 s. Default 10 ms.
    pub max_delay: Duration,
    /// `max_bytes`: 64 KiB to 2 MiB. Default 2 MiB.
    pub max_bytes: u32,
}

/// `[durability]`.
#[derive(Debug, Clone)]
pub struct Durability {
    /// `level`, of what this node receives. Default `flushed`.
    pub level: DurabilityLevel,
}

/// How soon a replica makes durable what it has written. At either level a
/// flushed acknowledgement follows an `fdatasync` that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DurabilityLevel {
    /// `fdatasync` as soon as there is something to make durable; what comes
    /// in meanwhile shares the next one.
    #[default]
    Flushed,
    /// `fdatasync` in the background, about once a second: less disk work,
    /// and up to that much more to ship again after a crash of the host. The
    /// flushed position advances at that pace.
    Written,
}

/// `[retention]`: how much is kept for a replica that is behind. Bytes count
/// that would be free otherwise: those of segments that have no name any more
/// and are held for the replica by a pin. Past any of the limits the replica's
/// slot is lost, its pins go, and it is filled anew once it is back.
#[derive(Debug, Clone)]
pub struct Retention {
    /// `max_bytes`, per replica and space, at least 64 KiB. Default: no limit
    /// besides the others.
    pub max_bytes: Option<u64>,
    /// `max_age`: how old the oldest record may be that a replica lacks, 1 s to
    /// 366 d. Looked at while pins are held for it; the time before that counts.
    /// Default: no limit besides the others.
    pub max_age: Option<Duration>,
    /// `max_disk_share`: percent of the file system that bytes may take which
    /// only pins hold, of all spaces and replicas together; 1 to 90. Default
    /// [`DEFAULT_DISK_SHARE`].
    pub max_disk_share: u32,
    /// `seed_bytes_per_second`: at most so fast a replica is filled anew, at
    /// least 64 KiB. Default: as fast as it goes.
    pub seed_bytes_per_second: Option<u64>,
}

/// `[wal]`.
#[derive(Debug, Clone)]
pub struct Wal {
    /// `checksums`. Default `required`.
    pub checksums: Checksums,
    /// `on_corrupt_source`. Default `halt`.
    pub on_corrupt_source: OnCorruptSource,
}

/// What a primary does about bytes in mid-file that are no record, with good
/// records behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruptSource {
    /// Ship what lies before them, and wait for a person.
    #[default]
    Halt,
    /// Record them by name as a hole, and go on behind them.
    Skip,
}

/// Whether records without checksums are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// A record whose checksum fields are zero is refused as corrupt.
    #[default]
    Required,
    /// A record whose two checksum fields are both zero is carried unverified,
    /// under a checksum of the frame. For writers built without checksums.
    Optional,
}

/// `[scrub]`: everything at rest is read again, and what is damaged in a
/// received space is mended from its primary.
#[derive(Debug, Clone)]
pub struct Scrub {
    /// `interval`: from the beginning of one pass to that of the next, 1 s to
    /// 366 days. Default 24 h.
    pub interval: Duration,
    /// `bytes_per_second`: how fast a pass reads, 64 KiB to 2 GiB. Default 16
    /// MiB.
    pub bytes_per_second: u32,
}

impl Config {
    /// Read and check a file, and whether this machine is as it says: the
    /// data root is there, `state_dir` can take hard links from it, and the
    /// cores exist. Nothing is changed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the place and the remedy.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
        let name = path.display().to_string();
        let (config, places) = parse(Document::new(&name, &text))?;
        host::check(&config, &places)?;
        Ok(config)
    }

    /// Read and check a text, without looking at the file system. Errors call
    /// the text `name`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the place and the remedy.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        parse(Document::new(name, text)).map(|(config, _)| config)
    }
}

/// The configuration, and where the settings stand that the host must bear.
fn parse(document: Document<'_>) -> Result<(Config, host::Places), ConfigError> {
    let root = &document.parse()?;
    refuse_unknown(document, root, "section", SECTIONS)?;

    let section =
        Section::of(document, root, "node", &["id", "cluster", "data_root", "state_dir"])?;
    let node = node(&section)?;
    let data_root = section.place_of("data_root");
    let state_dir = section.place_of("state_dir");

    let section = Section::of(document, root, "listen", &["replication", "admin"])?;
    let listen = Listen {
        replication: section.address("replication")?,
        admin: match section.address("admin")? {
            Some(address) => address,
            None => SocketAddr::from(([127, 0, 0, 1], 7421)),
        },
    };
    if listen.replication == Some(listen.admin) && listen.admin.port() != 0 {
        let conflict = format!("{} is listen.admin already; use another port", listen.admin);
        return Err(section.conflict("replication", conflict));
    }

    let sections = Section::each(document, root, "replica", &["id", "address"])?;
    let replicas = replicas(&sections, &node, &listen)?;

    let section =
        Section::of(document, root, "io", &["backend", "strategy", "shards", "first_core"])?;
    let io = io(&section)?;
    let first_core = section.place_of("first_core");

    let config = Config {
        io,
        batch: batch(&Section::of(
            document,
            root,
            "batch",
            &["max_records", "max_delay", "max_bytes"],
        )?)?,
        durability: Durability {
            level: Section::of(document, root, "durability", &["level"])?.choice(
                "level",
                DurabilityLevel::default(),
                &[("flushed", DurabilityLevel::Flushed), ("written", DurabilityLevel::Written)],
            )?,
        },
        retention: retention(&Section::of(
            document,
            root,
            "retention",
            &["max_bytes", "max_age", "max_disk_share", "seed_bytes_per_second"],
        )?)?,
        wal: Wal {
            checksums: Section::of(document, root, "wal", WAL)?.choice(
                "checksums",
                Checksums::default(),
                &[("required", Checksums::Required), ("optional", Checksums::Optional)],
            )?,
            on_corrupt_source: Section::of(document, root, "wal", WAL)?.choice(
                "on_corrupt_source",
                OnCorruptSource::default(),
                &[("halt", OnCorruptSource::Halt), ("skip", OnCorruptSource::Skip)],
            )?,
        },
        scrub: scrub(&Section::of(document, root, "scrub", &["interval", "bytes_per_second"])?)?,
        node,
        listen,
        replicas,
    };
    Ok((config, host::Places { data_root, state_dir, first_core }))
}

fn node(section: &Section<'_, '_>) -> Result<Node, ConfigError> {
    const NAME: &str = "3 to 64 characters of a-z, 0-9, '_' and '-', in quotes";
    let data_root = section.required(
        "data_root",
        "the absolute path of the directory that holds <space>/wal/",
        |section| section.absolute_path("data_root"),
    )?;
    Ok(Node {
        id: section.required("id", NAME, |section| section.text("id", NAME))?,
        cluster: section.required("cluster", NAME, |section| section.text("cluster", NAME))?,
        state_dir: match section.absolute_path("state_dir")? {
            Some(path) => path,
            None => data_root.join(STATE_DIRECTORY),
        },
        data_root,
    })
}

fn replicas(
    sections: &[Section<'_, '_>],
    node: &Node,
    listen: &Listen,
) -> Result<Vec<Replica>, ConfigError> {
    const NAME: &str = "the node.id of the replica, in quotes";
    const ADDRESS: &str = "the listen.replication of the replica, as \"10.0.0.2:7420\"";
    let mut replicas: Vec<Replica> = Vec::with_capacity(sections.len());
    for section in sections {
        let id: NodeId = section.required("id", NAME, |section| section.text("id", NAME))?;
        let address = section.required("address", ADDRESS, |section| section.address("address"))?;
        if replicas.len() == MAX_REPLICAS {
            let conflict = format!("one node ships to at most {MAX_REPLICAS} replicas");
            return Err(section.conflict("id", conflict));
        }
        if id == node.id {
            let conflict =
                format!("{id} is this node itself (node.id); a node is no replica of itself");
            return Err(section.conflict("id", conflict));
        }
        if replicas.iter().any(|other| other.id == id) {
            let conflict = format!("{id} stands here twice; each replica has an id of its own");
            return Err(section.conflict("id", conflict));
        }
        if let Some(other) = replicas.iter().find(|other| other.address == address) {
            let conflict = format!("{address} is the address of {} already", other.id);
            return Err(section.conflict("address", conflict));
        }
        if address.port() == 0 || address.ip().is_unspecified() {
            let conflict = format!("{address} is no address to connect to; expected {ADDRESS}");
            return Err(section.conflict("address", conflict));
        }
        if listen.replication == Some(address) {
            let conflict = format!("{address} is where this node itself listens");
            return Err(section.conflict("address", conflict));
        }
        replicas.push(Replica { id, address });
    }
    Ok(replicas)
}

fn io(section: &Section<'_, '_>) -> Result<Io, ConfigError> {
    #[expect(clippy::cast_possible_truncation, reason = "the limit is small")]
    const SHARDS: RangeInclusive<u32> = 1..=MAX_SHARDS as u32;
    let io = Io {
        backend: section.choice(
            "backend",
            BackendChoice::default(),
            &[
                ("auto", BackendChoice::Auto),
                ("uring", BackendChoice::Uring),
                ("portable", BackendChoice::Portable),
            ],
        )?,
        strategy: section.choice(
            "strategy",
            Strategy::default(),
            &[
                ("auto", Strategy::Auto),
                ("sendfile", Strategy::Sendfile),
                ("splice", Strategy::Splice),
                ("send_zc", Strategy::SendZc),
                ("copy", Strategy::Copy),
            ],
        )?,
        shards: section.number("shards", 1, SHARDS)?,
        first_core: section.optional_number("first_core", 0..=MAX_CORE)?,
    };
    if io.backend == BackendChoice::Portable && !io.strategy.is_portable() {
        let conflict = format!(
            "{} is a way of io_uring, and io.backend is \"portable\"; expected \"auto\", \
             \"sendfile\" or \"copy\"",
            io.strategy.name()
        );
        return Err(section.conflict("strategy", conflict));
    }
    Ok(io)
}

fn batch(section: &Section<'_, '_>) -> Result<Batch, ConfigError> {
    Ok(Batch {
        max_records: section.number("max_records", DEFAULT_BATCH_RECORDS, BATCH_RECORDS)?,
        max_delay: section.duration("max_delay", DEFAULT_BATCH_DELAY, BATCH_DELAY)?,
        max_bytes: section.bytes("max_bytes", MAX_BATCH_BYTES, BATCH_BYTES)?,
    })
}

fn retention(section: &Section<'_, '_>) -> Result<Retention, ConfigError> {
    Ok(Retention {
        max_bytes: section.optional_bytes("max_bytes", RETENTION_BYTES)?,
        max_age: section.optional_duration("max_age", RETENTION_AGE)?,
        max_disk_share: section.number("max_disk_share", DEFAULT_DISK_SHARE, DISK_SHARE)?,
        seed_bytes_per_second: section.optional_bytes("seed_bytes_per_second", SEED_SPEEDS)?,
    })
}

fn scrub(section: &Section<'_, '_>) -> Result<Scrub, ConfigError> {
    Ok(Scrub {
        interval: section.duration("interval", SCRUB_INTERVAL, SCRUB_INTERVALS)?,
        bytes_per_second: section.bytes("bytes_per_second", SCRUB_BYTES_PER_S, SCRUB_SPEEDS)?,
    })
}
