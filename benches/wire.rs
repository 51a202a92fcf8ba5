//! The cost of one connection's bytes: its handshake, its frames, and its outbox.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use std::hint::black_box;

use buddyline::protocol::server::EncodedFrame;
use buddyline::wire::Wire;
use buddyline::wire::outbox::{Ledger, Outbox};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{FrameReader, MESSAGE, TYPING, browser_request, bytes, flush, open_wire, short_run};

fn handshake(criterion: &mut Criterion) {
    let mut reader = FrameReader::new();
    let mut ledger = Ledger::default();
    let request = browser_request();
    criterion.bench_function("handshake", |bencher| {
        bencher.iter(|| {
            let (mut wire, mut outbox) = (Wire::new(bytes::PEER), Outbox::default());
            let opened = reader.read(&mut wire, black_box(&request), &mut outbox, |_| {});
            outbox.consume(outbox.bytes(), &mut ledger);
            opened
        });
    });
}

/// Unmasks frames and validates UTF-8.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    let (mut reader, mut wire) = open_wire();
    let mut outbox = Outbox::default();
    let (typing, message) = (bytes::text(TYPING), bytes::text(MESSAGE));
    let offer = bytes::text(&"v=0 o=- 46117317 2 IN IP4 127.0.0.1 ".repeat(112));
    let full = typing.repeat(16 * 1024 / typing.len());
    let (one, other) = message.split_at(100);
    for (name, reads) in [
        ("typing", &[&typing[..]][..]),
        ("send_message", &[&message]),
        ("send_message in two reads", &[one, other]),
        ("offer of 4 KiB", &[&offer]),
        ("16 KiB of typing", &[&full]),
    ] {
        let total: usize = reads.iter().map(|bytes| bytes.len()).sum();
        group.throughput(Throughput::Bytes(total as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for bytes in reads {
                    let text = |text: &str| {
                        black_box(text);
                    };
                    reader.read(&mut wire, black_box(bytes), &mut outbox, text);
                }
            });
        });
    }
    group.finish();
}

/// Queues frames in an outbox and sends them with one write: copied into one buffer, or only
/// compared because they equal the frames of the previous outbox.
fn outbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox of frames");
    let frames = vec![EncodedFrame::from([b'x'; 60].as_slice()); 64];
    let (mut outbox, mut copies, mut ledger) = (Outbox::default(), Vec::new(), Ledger::default());
    for count in [1, 2, 16, 64] {
        group.bench_function(BenchmarkId::new("copied", count), |bencher| {
            bencher.iter(|| {
                frames[..count].iter().for_each(|frame| outbox.push(EncodedFrame::clone(frame)));
                flush(&mut outbox, &mut copies, &mut ledger)
            });
        });
    }
    for count in [16, 64] {
        group.bench_function(BenchmarkId::new("compared", count), |bencher| {
            bencher.iter(|| {
                frames[..count].iter().for_each(|frame| outbox.push(EncodedFrame::clone(frame)));
                assert!(outbox.starts_with(black_box(&frames[..count])));
                outbox.consume(outbox.bytes(), &mut ledger);
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = short_run(); targets = handshake, frames, outbox }
criterion_main!(benches);
