//! One frame to 10, 100, 1,000 and 10,000 hearers, through the hub into the outboxes and out of
//! them: everything but the sockets. Read the time per element.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{BenchHub, Outboxes, TYPING, short_run};

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing to hearers");
    for subscribers in [10, 100, 1_000, 10_000] {
        let mut hub = BenchHub::of(subscribers);
        let mut outboxes = Outboxes::new(subscribers);
        group.throughput(Throughput::Elements(subscribers.into()));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |bencher| {
            bencher.iter(|| {
                hub.send(0, TYPING, &mut outboxes);
                outboxes.flush()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = short_run(); targets = fanout }
criterion_main!(benches);
