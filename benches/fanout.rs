//! Fan-out of one frame to 10, 100, 1,000 and 10,000 subscribers, through the hub and the outboxes,
//! without sockets. The time per element is the cost of one delivery.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{BenchHub, Outboxes, TYPING, short_run};

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing to subscribers");
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
