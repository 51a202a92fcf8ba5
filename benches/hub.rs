//! The cost of one client frame in the hub, without delivery: the resulting frames are discarded.
//! Parsing is included; `benches/frame.rs` measures it alone.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{
    BenchHub, Discard, JOIN, MESSAGE, Outboxes, TYPING, TYPING_ENDS, short_run, user_connected,
};

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub");
    let mut two = BenchHub::of(2);
    group.bench_function("typing continues", |bencher| {
        bencher.iter(|| two.send(0, TYPING, &mut Discard));
    });
    group.bench_function("typing starts and ends", |bencher| {
        bencher.iter(|| {
            two.send(0, TYPING, &mut Discard);
            two.send(0, TYPING_ENDS, &mut Discard);
        });
    });
    let mut ten = BenchHub::of(10);
    group.bench_function("send_message and its answer", |bencher| {
        bencher.iter(|| ten.send(0, MESSAGE, &mut Discard));
    });
    group.bench_function("open, identify, join, close", |bencher| {
        let me = user_connected(11);
        bencher.iter(|| {
            ten.open(10, &mut Discard);
            ten.send(10, &me, &mut Discard);
            ten.send(10, JOIN, &mut Discard);
            ten.close(10, &mut Discard);
            // The grace time ends, and the ten others receive `user_disconnected`.
            ten.advance(Duration::from_secs(10), &mut Discard);
        });
    });
    group.finish();
}

/// A flood of presence: users connect at 10,000 per second, and each learns of all others.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("presence flood");
    group.sample_size(10);
    for arrivals in [1_000, 10_000] {
        let users: Vec<String> = (1..=arrivals).map(user_connected).collect();
        group.throughput(Throughput::Elements(arrivals.into()));
        group.bench_function(BenchmarkId::from_parameter(arrivals), |bencher| {
            let empty = || (BenchHub::new(), Outboxes::new(arrivals));
            bencher.iter_batched_ref(
                empty,
                |(hub, outboxes)| {
                    for (slot, user) in (0..).zip(&users) {
                        hub.open(slot, outboxes);
                        hub.send(slot, user, outboxes);
                        hub.advance(Duration::from_micros(100), outboxes);
                        if slot % 100 == 99 {
                            outboxes.flush();
                        }
                    }
                    hub.advance(Duration::from_secs(1), outboxes);
                    outboxes.flush()
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = short_run(); targets = frames, flood }
criterion_main!(benches);
