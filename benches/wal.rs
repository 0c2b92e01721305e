//! What one record costs: to pass over at the primary, to verify at the
//! replica, to chain on both.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use saltus::lsn::{Chain, Mark};
use saltus::wal::cursor::Cursor;
use saltus::wal::discover;
use saltus::wal::record::{self, Checksums};
use saltus::wal::segment::Segment;
use saltus::wal::writer::{Fsync, Writer, WriterOptions};

/// Bytes of payloads: small ones, and those of a real log.
const PAYLOADS: [usize; 2] = [256, 3238];

/// Bytes of log that one iteration goes over: more than the caches hold.
const LOG_BYTES: usize = 64 << 20;

/// Bytes that are verified at a time: an extent.
const EXTENT_BYTES: usize = 2 << 20;

/// A segment of records with that much payload, and how many they are.
fn segment(payload_bytes: usize) -> (tempfile::TempDir, Arc<Segment>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let options =
        WriterOptions { fsync: Fsync::Never, segment_bytes: u64::MAX, ..Default::default() };
    let mut writer = Writer::open(directory.path(), options).unwrap();
    let records = (LOG_BYTES / (payload_bytes + 64)) as u64;
    let payload = vec![0x5a; payload_bytes];
    for _ in 0..records {
        writer.append(1, &payload).unwrap();
    }
    writer.commit().unwrap();
    let name = discover::segments(directory.path()).unwrap()[0];
    let segment = Segment::open(&directory.path().join(name.to_string())).unwrap();
    (directory, Arc::new(segment), records)
}

fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header walk");
    for payload_bytes in PAYLOADS {
        let (_directory, segment, records) = segment(payload_bytes);
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |bencher| {
            bencher.iter(|| {
                let segment = Arc::clone(&segment);
                let mut cursor = Cursor::new(segment, 0, Mark::START, Checksums::Required);
                let mut seen = 0;
                let advance = cursor.advance(u64::MAX, &mut |_| seen += 1);
                assert_eq!(seen, records);
                advance
            });
        });
    }
    group.finish();
}

fn verify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    for payload_bytes in PAYLOADS {
        let (directory, _segment, _) = segment(payload_bytes);
        let name = discover::segments(directory.path()).unwrap()[0];
        let mut bytes = std::fs::read(directory.path().join(name.to_string())).unwrap();
        bytes.truncate(EXTENT_BYTES / (payload_bytes + 64) * (payload_bytes + 64));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |bencher| {
            bencher.iter(|| {
                record::verify(&Mark::START, black_box(&bytes), Checksums::Required).unwrap()
            });
        });
    }
    group.finish();
}

fn chain(criterion: &mut Criterion) {
    let header = [0x5a; 64];
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(1));
    group.bench_function("extend", |bencher| {
        let mut chain = Chain::START;
        bencher.iter(|| {
            chain = chain.extend(black_box(&header));
            chain
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    targets = walk, verify, chain
}
criterion_main!(benches);
