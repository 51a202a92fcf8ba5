//! What the hub does for one thing that is said, without what it costs each hearer: its frames go
//! nowhere. Reading the text is part of it; `benches/frame.rs` has that alone.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{
    Community, JOIN, MESSAGE, Nowhere, Outboxes, TYPING, TYPING_ENDS, briefly, user_connected,
};

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub");
    let mut two = Community::of(2);
    group.bench_function("typing goes on", |bencher| {
        bencher.iter(|| two.says(0, TYPING, &mut Nowhere));
    });
    group.bench_function("typing starts and ends", |bencher| {
        bencher.iter(|| {
            two.says(0, TYPING, &mut Nowhere);
            two.says(0, TYPING_ENDS, &mut Nowhere);
        });
    });
    let mut ten = Community::of(10);
    group.bench_function("send_message and its answer", |bencher| {
        bencher.iter(|| ten.says(0, MESSAGE, &mut Nowhere));
    });
    group.bench_function("open, identify, join, close", |bencher| {
        let me = user_connected(11);
        bencher.iter(|| {
            ten.open(10, &mut Nowhere);
            ten.says(10, &me, &mut Nowhere);
            ten.says(10, JOIN, &mut Nowhere);
            ten.close(10, &mut Nowhere);
            // They are gone, and the ten others know it.
            ten.pass(Duration::from_secs(10), &mut Nowhere);
        });
    });
    group.finish();
}

/// Ten thousand a second come, and everyone hears of everyone.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all come at once");
    group.sample_size(10);
    for arrivals in [1_000, 10_000] {
        let users: Vec<String> = (1..=arrivals).map(user_connected).collect();
        group.throughput(Throughput::Elements(arrivals.into()));
        group.bench_function(BenchmarkId::from_parameter(arrivals), |bencher| {
            let nobody = || (Community::new(), Outboxes::new(arrivals));
            bencher.iter_batched_ref(
                nobody,
                |(community, outboxes)| {
                    for (slot, user) in (0..).zip(&users) {
                        community.open(slot, outboxes);
                        community.says(slot, user, outboxes);
                        community.pass(Duration::from_micros(100), outboxes);
                        if slot % 100 == 99 {
                            outboxes.leave();
                        }
                    }
                    community.pass(Duration::from_secs(1), outboxes);
                    outboxes.leave()
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = briefly(); targets = frames, flood }
criterion_main!(benches);
