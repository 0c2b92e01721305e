//! How a replica is filled anew: at which rate, by which way, and with what.

use std::net::TcpListener;
use std::time::Instant;

use saltus::lsn::Lsn;
use saltus::protocol::frame::{Handle, Kind};
use saltus::protocol::message::{Message, Reseed, Standing};
use saltus::wal::discover;

use crate::cluster::{BACKENDS, Cluster, until};
use crate::compaction::{beginning_gone, compact, pins};
use crate::feed::Segment;
use crate::talker::Talker;

/// How much of a seed the second replica has made durable, and of how much;
/// nothing before it has begun. It is over once it has all of `total`.
fn progress(cluster: &mut Cluster, total: u64) -> Option<(u64, bool)> {
    let replica = cluster.replica(1, "alpha")?;
    let over = replica.seeding.is_none() && replica.flushed_lsn == total;
    let done = replica.seeding.map(|seeding| seeding.done_bytes);
    done.or(over.then_some(replica.flushed_lsn)).map(|done| (done, over))
}

#[test]
fn a_seed_is_no_faster_than_it_may_be() {
    const RATE: u64 = 1 << 20;
    for backend in BACKENDS {
        let (mut cluster, segment, total) = beginning_gone(
            |spec| {
                spec.backend = backend;
                spec.more = format!("[retention]\nseed_bytes_per_second = {RATE}\n");
            },
            80,
        );
        let base = total - segment.len();
        // Before the first byte, and looked at behind the last: a machine that
        // is busy makes the time longer, and never shorter.
        let begun = Instant::now();
        cluster.primary.restart();
        let mut between = 0;
        until("the replica is filled", || {
            let (done, over) = progress(&mut cluster, total)?;
            let done = if over { total - base } else { done };
            // A frame goes before it is paid for: a tenth of a second, or one record.
            let may = u128::from(RATE) * begun.elapsed().as_millis() / 1000;
            assert!(u128::from(done) <= may + u128::from(RATE) / 10 + 65_536, "{done}, {may}");
            between += u32::from(done > 0 && !over);
            over.then_some(())
        });
        assert!(between > 0, "it was seen on its way");
        cluster.await_identical("alpha");
    }
}

#[test]
fn a_slow_seed_holds_up_no_other_space() {
    let slowly = "[retention]\nseed_bytes_per_second = \"64KiB\"\n";
    let (mut cluster, mut segment, _) = beginning_gone(|spec| spec.more = slowly.into(), 1);
    // A record of these is paid for in 16 s.
    segment.records(20, 1 << 20);
    let mut tail = Segment::create(&cluster.primary.wal("beta"), 1);
    cluster.primary.restart();
    until("the seed has begun", || {
        (cluster.replica(1, "alpha")?.seeding?.done_bytes > 1 << 20).then_some(())
    });
    for _ in 0..20 {
        tail.records(1, 1000);
        until("the tail of the other space is there", || {
            (cluster.replica(1, "beta")?.flushed_lsn == tail.len()).then_some(())
        });
    }
    let seeding = cluster.replica(1, "alpha").unwrap().seeding.expect("it goes on");
    assert!(seeding.done_bytes < seeding.total_bytes / 2, "it took its time: {seeding:?}");
}

#[test]
fn a_seed_is_shipped_without_a_copy() {
    for backend in BACKENDS {
        let (mut cluster, segment, total) = beginning_gone(|spec| spec.backend = backend, 40);
        cluster.primary.restart();
        cluster.await_flushed("alpha", total);
        let sent = cluster.replica(1, "alpha").unwrap().sent_bytes_by_strategy;
        let copied = |name: &str| !matches!(name, "sendfile" | "splice");
        assert!(!sent.keys().any(|strategy| copied(strategy)), "{sent:?}");
        assert!(sent.values().sum::<u64>() >= segment.len(), "{sent:?}");
        assert!(cluster.primary.log().contains("filled anew from"), "it was a seed");
    }
}

/// A replica that is told to begin anew, and takes its time.
struct Told {
    talker: Talker,
    handle: Handle,
    epoch: u64,
    reseed: Reseed,
}

impl Told {
    /// Answer the primary as a replica that has nothing.
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let mut talker = Talker::over(stream);
        talker.greet("replica-1");
        talker.accept_space();
        loop {
            let (header, message) = talker.frame().expect("the primary goes on");
            if let Message::Reseed(reseed) = message {
                let (handle, epoch) = (header.handle, header.epoch.0);
                return Self { talker, handle, epoch, reseed };
            }
        }
    }

    /// Begin anew, and take the stream up to `end`.
    fn take(&mut self, end: Lsn) -> Vec<u8> {
        let Reseed { base, first_run, .. } = self.reseed;
        let standing = Standing {
            flushed: base.lsn,
            chain: base.chain,
            records: base.records,
            highest_epoch: saltus::ids::Epoch(self.epoch),
            runs: first_run,
            common: base.lsn,
        };
        self.talker.say(&Message::OpenAck(standing), self.handle, self.epoch);
        let mut stream = Vec::new();
        while base.lsn.advance(stream.len() as u64) < end {
            let (header, body) = self.talker.raw_frame().expect("the stream goes on");
            if header.kind == Kind::Data {
                assert_eq!(header.start, base.lsn.advance(stream.len() as u64));
                stream.extend(body);
            }
        }
        stream
    }
}

/// What a seed is made of is held from the moment on at which the replica is
/// told of it: it may answer whenever it likes.
#[test]
fn segments_that_are_removed_after_a_seed_was_reserved_are_still_shipped() {
    let limit = "[retention]\nmax_bytes = \"64KiB\"\n";
    let mut cluster = Cluster::with(2, |spec| spec.more = limit.into(), |_| {});
    let wal = cluster.primary.wal("alpha");
    let mut old = Segment::create(&wal, 1);
    old.records(20, 1000);
    cluster.await_flushed("alpha", old.len());
    cluster.replicas[0].kill();
    old.records(100, 1000);
    let mut live = Segment::create(&wal, 2);
    live.records(5, 300);
    let base = old.len() + live.len();
    until("it was noticed", || (cluster.replica(1, "alpha")?.flushed_lsn == base).then_some(()));
    let first = compact(&cluster.primary, "alpha", 3, 9, &[old]);
    live.unlink();
    let mut total = base + first.len();
    until("the slot is lost, and what was kept for it is gone", || {
        let lost = cluster.replica(0, "alpha")?.retention.is_some_and(|kept| kept.lost);
        (lost && pins(&cluster.primary, "alpha").len() == 2).then_some(())
    });
    let mut second = Segment::create(&wal, 4);
    second.records(7, 300);
    total += second.len();
    until("the other replica has it", || {
        (cluster.replica(1, "alpha")?.flushed_lsn == total).then_some(())
    });
    assert_eq!(pins(&cluster.primary, "alpha").len(), 3, "a writer goes on with one of them");

    // In the place of the replica that is away, one that does not hurry.
    cluster.primary.terminate();
    let listener = TcpListener::bind(cluster.replicas[0].spec.replication.unwrap()).unwrap();
    cluster.primary.restart();
    let mut told = Told::accept(&listener);
    assert_eq!((told.reseed.base.lsn, told.reseed.head), (Lsn(base), Lsn(total)));
    let expected = [first.content.as_slice(), &second.content].concat();
    let last = compact(&cluster.primary, "alpha", 5, 3, &[first, second]);
    total += last.len();
    until("the compaction was noticed", || {
        let names = discover::segments(&cluster.replicas[1].wal("alpha")).unwrap();
        (names.len() == 1).then_some(())
    });
    // Whatever nobody needs goes when this one goes, and with it what a seed
    // needs that was not reserved.
    drop(live);
    until("what nobody needs is gone", || {
        (pins(&cluster.primary, "alpha").len() < 4).then_some(())
    });
    assert_eq!(pins(&cluster.primary, "alpha").len(), 3, "only that is gone");
    assert!(told.take(Lsn(total)) == [expected, last.content].concat());
}
