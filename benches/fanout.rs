//! One frame to 10, 100, 1,000 and 10,000 hearers, through the hub into the outboxes: everything
//! but the sockets. Read the time per element.
#![allow(missing_docs)] // criterion's macros make functions without any.

use std::time::{Duration, Instant};

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::Hub;
use buddyline::hub::interface::Settings;
use buddyline::hub::interface::{Bounds, ConnId, Effect, Input, Now, WaitBounds};
use buddyline::wire::outbox::{Ledger, Outbox};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn now() -> Now {
    Now { instant: Instant::now(), unix_s: 1_800_000_000 }
}

fn thread_of(hearers: u32) -> Hub {
    let mut hub = Hub::new(Settings {
        trust: Trust::Open,
        presence: PresenceScope::All,
        membership_lasts: Duration::from_secs(60),
        anonymous_lasts: Duration::from_secs(30),
        checks: 4,
        waiting: WaitBounds {
            total: 100,
            bytes: 10_000,
            per_connection: 8,
            bytes_per_connection: 2_000,
        },
        message_turn_lasts: None,
        typing_lasts: Duration::from_secs(3),
        presence_grace: Duration::from_secs(5),
        joins_per_connection: 1_000,
        threads: 1_000,
        deliveries: Bounds { total: 1_000, per_connection: 1_000, bytes: 10_000 },
    });
    for slot in 0..hearers {
        let conn = ConnId { slot, serial: slot };
        hub.handle(Input::Opened { conn, credential: None }, now());
        let join = r#"{"type":"join_thread","threadId":1}"#;
        hub.handle(Input::Frame { conn, text: join }, now());
    }
    let conn = ConnId { slot: 0, serial: 0 };
    let text = r#"{"type":"user_connected","userId":7}"#;
    hub.handle(Input::Frame { conn, text }, now());
    while hub.next_effect().is_some() {}
    hub
}

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing to hearers");
    for hearers in [10, 100, 1_000, 10_000_u32] {
        let mut hub = thread_of(hearers);
        let mut outboxes: Vec<Outbox> = (0..hearers).map(|_| Outbox::default()).collect();
        let mut ledger = Ledger::default();
        let conn = ConnId { slot: 0, serial: 0 };
        let text = r#"{"type":"typing","threadId":1}"#;
        let at = now();
        group.throughput(Throughput::Elements(hearers.into()));
        group.bench_with_input(BenchmarkId::from_parameter(hearers), &hearers, |bencher, _| {
            bencher.iter(|| {
                hub.handle(Input::Frame { conn, text }, at);
                while let Some(effect) = hub.next_effect() {
                    if let Effect::Spread { to, frame, .. } = effect {
                        for to in hub.receivers(to) {
                            outboxes[to.slot as usize].push(frame.clone());
                        }
                    }
                }
                // As a flush leaves them: empty, and without memory of their own.
                for outbox in &mut outboxes {
                    outbox.consume(outbox.bytes(), &mut ledger);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
