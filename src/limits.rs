//! Every limit of the process, and how the limits relate.
//!
//! Each queue, window, pool, retry and buffer is bounded by a constant of this
//! file. Sizes are bytes. The assertions at the end are checked by the
//! compiler.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes of a record header, on disk.
pub const RECORD_HEADER_BYTES: usize = 64;

/// Bytes of a frame header, on the wire.
pub const FRAME_HEADER_BYTES: usize = 64;

/// The largest payload of a record that is carried. Engram's payloads are a
/// few KiB; a larger length field is damage until proven otherwise.
pub const MAX_RECORD_PAYLOAD_BYTES: u32 = 16 << 20;

/// The largest record: header and payload.
pub const MAX_RECORD_BYTES: u64 = RECORD_HEADER_BYTES as u64 + MAX_RECORD_PAYLOAD_BYTES as u64;

/// The most raw record bytes of one `Data` frame, unless a single record is
/// larger: then that record travels alone.
///
/// Measured: direct writes of 2 MiB are a quarter to two fifths faster than
/// such of 512 KiB, because each one that grows a file takes its inode lock;
/// 4 MiB win nothing more.
pub const MAX_EXTENT_BYTES: u32 = 2 << 20;

/// The largest payload of any frame that a peer may announce.
#[expect(clippy::cast_possible_truncation, reason = "a header is 64 bytes")]
pub const MAX_FRAME_PAYLOAD_BYTES: u32 = RECORD_HEADER_BYTES as u32 + MAX_RECORD_PAYLOAD_BYTES;

/// The largest payload of a frame that is not `Data`.
pub const MAX_CONTROL_PAYLOAD_BYTES: u32 = 64 << 10;

/// The most bytes of a log that one `Fetch` asks for: they travel in a control
/// frame, with their LSN.
pub const MAX_FETCH_BYTES: u32 = 60 << 10;

/// How long a range that was asked for may take before it counts as not to be
/// had: longer than a peer may be silent.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// How long healing waits for a connection over which it could ask. A primary
/// comes back within this after most interruptions; the next pass tries again.
pub const FETCH_PATIENCE: Duration = Duration::from_secs(5);

/// How long a replica that cannot compare histories, because what it holds is
/// damaged, keeps the space open before it says so: its scrubber can ask for good
/// bytes only meanwhile, once it has read up to the damage. Short, as the primary
/// does not know until then what is the matter. At 1 GB/s these are the first 30 GB
/// of a space; one that is longer is mended after a few attempts, which are at most
/// about a minute apart.
pub const COMPARE_PATIENCE: Duration = Duration::from_secs(30);

/// The distance between two remembered record boundaries of a stream: frames
/// of any permitted size are cut without reading the log again.
pub const MARK_SPACING_BYTES: u64 = 256 << 10;

/// Remembered boundaries per space; past it every second one is dropped.
/// 65,536 boundaries of 48 bytes are 3 MiB, and span 16 GiB undiluted. Only a
/// space that is that far ahead of a replica needs them all.
pub const MAX_MARKS_PER_SPACE: usize = 64 << 10;

/// Boundaries per space that the catalog keeps across restarts. At 40 bytes
/// and 1,000 spaces they are 10 MiB of database.
pub const MAX_SAVED_MARKS_PER_SPACE: usize = 256;

/// Of these, the newest that are not thinned out: with two for each
/// [`SAVED_MARK_SPACING_BYTES`] they reach 2 GiB back.
pub const NEWEST_MARKS_PER_SPACE: usize = 64;
const _: () = assert!(NEWEST_MARKS_PER_SPACE >= 2);
const _: () = assert!(NEWEST_MARKS_PER_SPACE < MAX_SAVED_MARKS_PER_SPACE);

/// Epochs in the history of one space. One is added by each promotion and by
/// each damaged tail, both rare; the history travels in one control frame.
pub const MAX_EPOCHS_PER_SPACE: usize = 1024;

/// The most bytes of a quarantine's manifest that are read. One extent takes
/// less than 100, and a file of many runs has one for each.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Bytes that recovery, scrubbing and comparing read at a time.
pub const VERIFY_PIECE_BYTES: usize = 1 << 20;

/// Names that one notice about unknown files holds.
pub const MAX_NAMED_FILES: usize = 16;

/// Bytes per second that scrubbing reads: a terabyte in 18 hours, and a small
/// part of what a slow disk can do.
pub const SCRUB_BYTES_PER_S: u32 = 16 << 20;

/// The pause between the beginnings of two passes of scrubbing.
pub const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The pause between the start of the process and the first pass, so that
/// scrubbing does not compete with catching up after a restart.
pub const SCRUB_FIRST_DELAY: Duration = Duration::from_secs(600);

/// How long damage must last before scrubbing reports it. A write in flight
/// ends within milliseconds; a disk that hangs for longer is worth a line.
pub const SCRUB_CONFIRM_DELAY: Duration = Duration::from_secs(1);

/// Passes of scrubbing that wait because somebody asked for them, and outcomes
/// of such passes that are remembered.
pub const MAX_SCRUB_REQUESTS: usize = 64;

/// Bytes of a file that is built in the place of a damaged one that are made
/// durable at once. A stop waits for one sync, and so may the log's own.
pub const MENDING_SYNC_BYTES: u64 = 32 << 20;

/// Bytes of the file system that must be free once such a file is built: a
/// segment of the usual size. Mending may wait; what is received may not.
pub const MENDING_FREE_BYTES: u64 = 64 << 20;

/// Damaged ranges that the report of scrubbing lists; past it they are only
/// counted, and logged.
pub const MAX_LISTED_BAD_RANGES: usize = 256;

/// Directories of a data root that hold a log and are no space, as far as they
/// are named: a person who reads more of them has seen what is wrong.
pub const MAX_LISTED_IGNORED: usize = 64;

/// Directories that can be no space and hold no log yet, as far as they are
/// watched for one. More of them in a data root mean that it is none.
pub const MAX_WATCHED_STRANGERS: usize = 64;

/// Memory that the catalog's database may use for its pages. The process as a
/// whole stays below 64 MiB of anonymous memory.
pub const CATALOG_CACHE_BYTES: usize = 8 << 20;

/// The unit of direct writes: file offset, length and memory address are
/// multiples of it. The page size, which no logical block exceeds.
pub const DIRECT_BLOCK_BYTES: usize = 4096;

/// Frames of at least this much payload are received into place and written
/// past the page cache; smaller ones are written through it.
pub const MIN_DIRECT_BYTES: u32 = 256 << 10;

/// Bytes of one receive slab: an extent, the part of a block before it, and
/// the next frame's header behind it.
pub const SLAB_BYTES: usize = MAX_EXTENT_BYTES as usize + 2 * DIRECT_BLOCK_BYTES;

/// Receive slabs per connection on a replica.
pub const SLABS_PER_CONNECTION: usize = 8;

/// Slabs for single records that are larger than a slab, per connection: one
/// to be received into while the one before is being written. With the others
/// they are 48 MiB.
pub const MAX_OVERSIZED_SLABS: usize = 2;

/// The most bytes for which a receiver asks to be woken: `SO_RCVLOWAT` is
/// raised to what is still missing of a frame, capped here. Measured: 64 KiB
/// wake-ups cost two thirds of the throughput, above 512 KiB nothing is won.
pub const MAX_RECEIVE_LOW_WATER_BYTES: usize = 512 << 10;

/// The most bytes for which a receiver waits while a peer has not shown that
/// it is quick: a link of 2 KB/s is heard of in every [`PEER_TIMEOUT`].
pub const MIN_LOW_WATER_BYTES: usize = 16 << 10;

/// A large frame that took less than this came over a quick link.
pub const QUICK_FRAME: Duration = Duration::from_millis(500);

/// Bytes shipped and not yet flushed, per slot, before the sender waits.
pub const MAX_WINDOW_BYTES: u64 = 256 << 20;

/// Frames shipped and not yet flushed, per slot, before the sender waits.
pub const MAX_WINDOW_FRAMES: usize = 4096;

/// Bytes that one turn of the shard loop walks in one space before it looks
/// after the others; and those that one batch of the keeper walks in all spaces
/// whose boundaries are searched for.
pub const MAX_WALK_BYTES_PER_TURN: u64 = 4 << 20;

/// One request to bring a cold range of a segment into the cache.
pub const PREFETCH_BYTES: u64 = 4 << 20;

/// How far ahead of the walk such requests reach.
pub const PREFETCH_AHEAD_BYTES: u64 = 16 << 20;

/// The distance between two boundaries that a primary keeps in its catalog;
/// bounds what a restart, or a replica that went back, makes it walk again.
pub const SAVED_MARK_SPACING_BYTES: u64 = 64 << 20;

/// Samples of the head per space, from which lag in seconds is told.
pub const MAX_LAG_SAMPLES: usize = 512;

/// How long a segment whose name is gone must have been left alone before its
/// pin may go. A writer that compacts at its start goes on with the unlinked
/// file for as long as it runs, but not silently for minutes.
pub const RELEASE_AFTER: Duration = Duration::from_secs(600);

/// How long a segment whose name is gone must have been left alone before the
/// kernel is asked whether anybody can still write to it.
pub const RELEASE_PROBE_AFTER: Duration = Duration::from_secs(1);

/// How often a shard tells the keeper how far its replicas are, while that
/// changes: how stale a slot in the catalog can be, and how long after a budget
/// was spent it is noticed. One commit each time, shared by all spaces.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(2);

/// How often a segment whose name is gone is looked at again while something
/// else than a replica holds it: mostly a writer that goes on with it.
pub const LINGER_INTERVAL: Duration = Duration::from_secs(10);

/// How far back a rate looks: long enough to see past bursts, short enough to
/// follow a change.
pub const RATE_WINDOW: Duration = Duration::from_secs(30);

/// The least that a position is looked at before a rate is told.
pub const RATE_LEAST: Duration = Duration::from_secs(3);

/// How far behind a replica must be for its progress to tell what its link
/// carries; closer to the head it waits for the writer.
pub const MEASURED_LAG_BYTES: u64 = 8 * MAX_EXTENT_BYTES as u64;

/// The pause before a replica is filled anew whose last seed was lost; doubled
/// with each that is lost in a row.
pub const SEED_BACKOFF: Duration = Duration::from_secs(600);

/// The longest such pause: someone looks at least four times a day.
pub const SEED_BACKOFF_MOST: Duration = Duration::from_secs(6 * 3600);

/// How much of the end of a seed that was given up is kept if the primary cannot
/// vouch for it, in whole segments: more than what a host that crashed had
/// shipped before it was durable there.
pub const UNVOUCHED_END_BYTES: u64 = 256 << 20;

/// What the keeper walks through, header by header, of the segments that a seed
/// replaces, to see whether the writer's clock was set back: the replica waits for
/// it, other spaces are looked after between.
pub const SEED_WALK_BYTES: u64 = 256 << 20;

/// Files that begin behind another which are asked whether its writer went on in
/// them: the next one, or the one behind the snapshots that were made meanwhile. One
/// that is not asked is taken for what may have replaced it: more may be kept.
pub const CARRIED_ON_WITHIN: usize = 4;

/// A writer's clock that falls by more was set back, nanoseconds: the name of a
/// segment, to which timestamps are held, is no finer.
pub const CLOCK_STEP_NS: u64 = 1_000_000_000;

/// What must stay free on a replica's disk when records that stand nowhere else are
/// copied to its quarantine: they stand where they are, and may wait; what is received
/// by all other spaces may not.
pub const KEEPING_FREE_BYTES: u64 = 64 << 20;

/// Bytes that are copied there without that: a disk which they fill is full anyway.
pub const KEPT_AT_ONCE_BYTES: u64 = 1 << 20;

/// How often the pause before the next attempt at such a copy is doubled,
/// [`CATALOG_RETRY_DELAY`] at first: up to five minutes and twenty seconds.
pub const RETIREMENT_DOUBLINGS: u32 = 6;

/// What must stay free on a replica's disk when a seed has taken its part: the
/// catalog, and the log while it grows meanwhile.
pub const SEED_SPARE_BYTES: u64 = 64 << 20;

/// How far back the growth of a slot's lag is looked at to tell when it will be
/// lost: long enough to see past bursts.
pub const FORECAST_WINDOW: Duration = Duration::from_secs(120);

/// The least that the growth of a lag is looked at before anything is foretold.
pub const FORECAST_LEAST: Duration = Duration::from_secs(4);

/// A lag that is no larger than so long ago does not grow, whatever it did before:
/// long enough to see past the pauses of a writer.
pub const FORECAST_QUIET: Duration = Duration::from_secs(15);

/// The farthest that is foretold: a lag that grows so slowly is measured too
/// roughly to say more.
pub const FORECAST_FARTHEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Forecasts at which the log warns: an hour leaves time to act, ten minutes is
/// the last call.
pub const FORECAST_WARNINGS: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(600)];

/// A flush that took longer on a data core than this is left to workers for
/// [`SLOW_DISK_PAUSE`]. A hundred times the median of the development disk,
/// and a hundredth of what a peer is patient for.
pub const MAX_INLINE_FLUSH: Duration = Duration::from_millis(20);

/// How long flushes stay with workers after one was slow.
pub const SLOW_DISK_PAUSE: Duration = Duration::from_secs(1);

/// How often something that is wrong with a log is looked at again.
pub const ATTENTION_INTERVAL: Duration = Duration::from_secs(1);

/// How often a directory is scanned that cannot be watched.
pub const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that was told to stop may take to bring what it has to
/// the disk.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a replica that was not heard of may keep a damaged record from being
/// left out of the stream: it may have it. A host that restarts is back by then;
/// one that is gone must not hold up the others for ever.
pub const UNHEARD_GRACE: Duration = Duration::from_secs(600);

/// How long a file that was left for a later one, and ends in a record that is
/// not whole, must have stayed as it is before that is named. A write in flight
/// ends within milliseconds; a host under load may stall one for seconds.
pub const UNFINISHED_AFTER: Duration = Duration::from_secs(10);

/// The furthest that a run may begin in a file. Half of what the system has
/// numbers for, so that a position and a length can be added; a peer, or a row of
/// a catalog, that names more is wrong.
pub const MAX_FILE_OFFSET: u64 = 1 << 62;

/// The furthest position of a stream that a frame or a chart may name, for the
/// same reason: at a gigabyte a second it is reached in 146 years.
pub const MAX_LSN: u64 = 1 << 62;

/// What the keeper copies, to the quarantine or to a file that is mended, and
/// syncs before it looks after the other spaces: some ten milliseconds on a disk that makes 1 GB/s durable.
pub const CUT_SLICE_BYTES: u64 = 8 << 20;

/// How long written bytes wait for a flush at durability level `written`.
pub const WRITTEN_FLUSH_DELAY: Duration = Duration::from_secs(1);

/// How old unacknowledged bytes are before a replica counts as lagging.
pub const LAGGING_AFTER: Duration = Duration::from_secs(1);

/// How many bytes that were not walked yet, and whose age is thus unknown, a
/// replica may be behind before it counts as lagging: more than is walked in a
/// second of a busy tail, less than a start finds after an hour of writing.
pub const LAGGING_UNWALKED_BYTES: u64 = 64 << 20;

/// Bytes of one receive slab for control frames: a largest one, its header,
/// and the next header.
pub const CONTROL_SLAB_BYTES: usize = MAX_CONTROL_PAYLOAD_BYTES as usize + DIRECT_BLOCK_BYTES;

/// Spaces of one node.
pub const MAX_SPACES: usize = 16 << 10;

/// Replicas that one node ships to.
pub const MAX_REPLICAS: usize = 64;

/// Connections that one replica accepts at a time.
pub const MAX_CONNECTIONS: usize = 1024;

/// Connections of a shard that have not said who they are. One more, and the
/// oldest of the address that has most of them is ended: whoever says nothing
/// can take no place from whoever does.
pub const MAX_STRANGERS: usize = 256;

/// Strangers that go at once when descriptors have run out.
pub const MAX_TURNED_OUT: usize = 32;

/// The largest payload of a frame before the handshake is done. A `Hello` with
/// two longest names has 162 bytes, an `Error` 516.
pub const MAX_GREETING_BYTES: u32 = 1024;

/// Bytes of the slab that a connection has until it has said who it is: a
/// largest greeting, its header, and the next header.
pub const STRANGER_SLAB_BYTES: usize = DIRECT_BLOCK_BYTES;

/// Jobs of the maintenance plane that one peer may have under way: enough to
/// share a commit, little enough that another peer's wait behind them is one.
pub const MAX_JOBS_PER_PEER: usize = 32;

/// The pause before the keeper's full queue is tried again.
pub const JOB_RETRY_DELAY: Duration = Duration::from_millis(2);

/// How often one address may have a line in the log for a connection that came
/// to nothing; what is left out meanwhile is counted.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Addresses whose lines are counted apart; all others share one count.
pub const MAX_COMPLAINED_ADDRESSES: usize = 256;

/// Shards of one process.
pub const MAX_SHARDS: usize = 64;

/// Commands waiting for one shard, and jobs waiting for the maintenance plane.
pub const MAX_QUEUED_COMMANDS: usize = 4096;

/// Jobs of the maintenance plane that share one commit of the catalog.
pub const MAX_JOBS_PER_COMMIT: usize = 1024;

/// Files of a received space that are moved aside, or go, before the other spaces are
/// looked after: each takes a few directory syncs, and a compaction lets go of all
/// segments of a log at once.
pub const RETIREMENTS_PER_TURN: u32 = 8;

/// The pause between two attempts to write a catalog that could not be
/// written: each one reads and checks the whole of it.
pub const CATALOG_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Changes that wait for such a catalog; a node with more of them must be
/// started again.
pub const MAX_UNWRITTEN_CHANGES: usize = 64 << 10;

/// How long a start waits for its address if another process has it: one that
/// was killed a moment ago still does. Long enough for the kernel to dismantle
/// a ring on a busy machine, short enough to fail visibly otherwise.
pub const LISTEN_PATIENCE: Duration = Duration::from_secs(2);

/// The pause after a connection that could not be accepted: descriptors or
/// memory have run out, and come back when other connections end.
pub const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer may be silent, or refuse our bytes, before the connection
/// is given up.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// The least that a peer must give or take of the frame that is under way,
/// bytes per second, beyond [`PEER_TIMEOUT`]. A link slower than that carries
/// no log; a peer that is, holds a frame's memory for a few minutes at most.
pub const MIN_PEER_BYTES_PER_S: u64 = 16 << 10;

/// How long the last words to a peer may take, from the decision to end the
/// connection to its end.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Failures of a connection in a row after which it counts as degraded, and
/// has to prove itself before every space is opened on it again.
pub const DEGRADED_AFTER: u32 = 3;

/// The pause between two heartbeats on an idle connection.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The pauses between attempts to connect, the last one repeated.
pub const RECONNECT_DELAYS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// The pause before a space is asked for again that another connection held.
pub const SPACE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// How much new stream a replica gathers between two checkpoints in its
/// catalog; bounds what a restart verifies again.
pub const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Ranges of files that are memory-mapped at a time; past it their bytes are
/// copied. A quarter of what Linux allows a process by default
/// (`vm.max_map_count`, 65,530).
pub const MAX_MAPPED_WINDOWS: usize = 16 << 10;

/// Bytes of a range that stands in for a map by being copied.
pub const MAX_COPIED_WINDOW_BYTES: usize = 256 << 10;

/// Bytes of a segment that a cursor maps at a time. Address space, not memory.
pub const CURSOR_WINDOW_BYTES: usize = 64 << 20;

/// Bytes that one call searches for the next good record behind damage; about
/// a millisecond of work.
pub const MAX_SEARCH_BYTES_PER_TURN: u64 = 1 << 20;

/// Records that a writer gathers before it writes them.
pub const MAX_GROUP_RECORDS: usize = 1000;

/// How long a writer gathers records before it writes them.
pub const MAX_GROUP_DELAY: Duration = Duration::from_millis(10);

/// Bytes that a writer gathers before it writes them, unless a single record
/// is larger.
pub const MAX_GROUP_BYTES: usize = 1 << 20;

// A space's history must fit one control frame, 16 bytes an epoch.
const _: () = assert!(MAX_EPOCHS_PER_SPACE * 16 < MAX_CONTROL_PAYLOAD_BYTES as usize);
// What is fetched must fit one control frame, behind its LSN.
const _: () = assert!(MAX_FETCH_BYTES as usize + 8 <= MAX_CONTROL_PAYLOAD_BYTES as usize);
// A frame that carries a largest record alone must be announceable.
const _: () = assert!(MAX_FRAME_PAYLOAD_BYTES as u64 >= MAX_RECORD_BYTES);
// A slab must hold a full extent at any offset in a block, and one more header.
const _: () =
    assert!(SLAB_BYTES >= MAX_EXTENT_BYTES as usize + DIRECT_BLOCK_BYTES + FRAME_HEADER_BYTES);
// Slabs of whole blocks keep every slab aligned.
const _: () = assert!(SLAB_BYTES.is_multiple_of(DIRECT_BLOCK_BYTES));
// Half the slabs may be in flight to the disk while the other half receives.
const _: () = assert!(SLABS_PER_CONNECTION >= 4);
// With one alone, the inbox that holds it would wait for itself.
const _: () = assert!(MAX_OVERSIZED_SLABS >= 2);
// Strangers are few beside those that have a right to be there.
const _: () = assert!(MAX_STRANGERS <= MAX_CONNECTIONS);
const _: () = assert!(STRANGER_SLAB_BYTES >= 2 * FRAME_HEADER_BYTES + MAX_GREETING_BYTES as usize);
const _: () = assert!(MAX_GREETING_BYTES <= MAX_CONTROL_PAYLOAD_BYTES);
// One peer's jobs fit the queue many times over.
const _: () = assert!(MAX_JOBS_PER_PEER * 64 <= MAX_QUEUED_COMMANDS);
// The last words end before a drain does.
const _: () = assert!(FAREWELL_TIMEOUT.as_millis() < DRAIN_TIMEOUT.as_millis());
// A copied range must let a cursor advance.
const _: () = assert!(MAX_COPIED_WINDOW_BYTES > RECORD_HEADER_BYTES);
// The window must hold several extents, or the sender would stop and go.
const _: () = assert!(MAX_WINDOW_BYTES >= 16 * MAX_EXTENT_BYTES as u64);
// An extent holds several marks, so that it is filled well.
const _: () = assert!(MAX_EXTENT_BYTES as u64 >= 4 * MARK_SPACING_BYTES);
// A flush on a data core must not look like a silent peer.
const _: () = assert!(MAX_INLINE_FLUSH.as_millis() * 100 <= PEER_TIMEOUT.as_millis());
// A peer that sends heartbeats must never run into the time-out.
const _: () = assert!(HEARTBEAT_INTERVAL.as_millis() * 4 <= PEER_TIMEOUT.as_millis());

/// Requests that the admin server answers at a time; further connections
/// wait in the listening queue.
pub const MAX_ADMIN_CONNECTIONS: usize = 32;

/// The head of an admin request: its first line and its headers. The least
/// that the HTTP library allows, and far more than a probe sends.
pub const MAX_ADMIN_HEAD_BYTES: usize = 8 << 10;

/// How long one admin request may take, from connecting to the last byte.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer to a question about a range that a client takes: as many
/// findings as there may be parts, each with a path and a sentence.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Questions about ranges of a stream that wait for one thread to answer them.
/// A comparison asks one at a time, so this many go on beside each other.
pub const MAX_PROOF_QUESTIONS: usize = 4;

/// How long the answer to one question may take from the moment at which it
/// was asked: what is not read by then is left to the next question.
pub const PROOF_TIME: Duration = Duration::from_secs(3);

/// Parts into which one question may cut its range. An answer with as many is
/// 3 KiB.
pub const MAX_PROOF_PARTS: usize = 64;

/// The smallest part of which a digest is told. Of a few bytes it would tell
/// the bytes; and a record has 64 of header anyway.
pub const MIN_PROOF_PART_BYTES: u64 = 1 << 10;

/// Runs in one part of a chart. With the boundary at which each begins, 250 bytes
/// together, about half of an answer; what else a part has needs 90 KiB. Each run is
/// a segment, as a rule, so nearly all charts have one part.
pub const MAX_CHART_RUNS: usize = 2048;

/// Records that one answer lists: more than a smallest part can hold.
pub const MAX_PROOF_RECORDS: usize = 32;

// A listed range of the smallest parts must be listed whole.
const _: () =
    assert!(MAX_PROOF_RECORDS as u64 > MIN_PROOF_PART_BYTES / RECORD_HEADER_BYTES as u64 + 1);
// Who waits for an answer must still be there when it comes.
const _: () = assert!(PROOF_TIME.as_millis() < ADMIN_TIMEOUT.as_millis());

/// The largest status that a client takes: [`MAX_SPACES`] spaces with a few
/// replicas each, at about 500 bytes per pair.
pub const MAX_STATUS_BYTES: usize = 64 << 20;
