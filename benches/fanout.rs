//! One frame to 10, 100, 1,000 and 10,000 hearers, through the hub into the outboxes and out of
//! them: everything but the sockets. Read the time per element.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Community, Outboxes, TYPING, briefly};

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing to hearers");
    for hearers in [10, 100, 1_000, 10_000] {
        let mut community = Community::of(hearers);
        let mut outboxes = Outboxes::new(hearers);
        group.throughput(Throughput::Elements(hearers.into()));
        group.bench_function(BenchmarkId::from_parameter(hearers), |bencher| {
            bencher.iter(|| {
                community.says(0, TYPING, &mut outboxes);
                outboxes.leave()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = briefly(); targets = fanout }
criterion_main!(benches);
