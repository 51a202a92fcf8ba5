//! A whole tick over real sockets: one client types and 1, 10 or 100 subscribers receive it. The
//! server's event loop runs in the thread of the bench, and the clients' reads are included.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::short_run;
use support::sockets::Loopback;

fn tick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing over sockets to subscribers");
    for subscribers in [1, 10, 100] {
        let mut loopback = Loopback::new(subscribers);
        group.throughput(Throughput::Elements(subscribers as u64));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |bencher| {
            bencher.iter(|| loopback.type_once());
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = short_run(); targets = tick }
criterion_main!(benches);
