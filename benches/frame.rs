//! Parsing of one client frame, and encoding of one server frame.
#![allow(missing_docs)] // criterion's macros make functions without any.

mod support;

use buddyline::protocol::Id;
use buddyline::protocol::client::parse;
use buddyline::protocol::server::{Encoder, MessageFrame, ServerFrame};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use support::short_run;

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let sdp = "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\\r\\n".repeat(60);
    let frames = [
        ("typing", r#"{"type":"typing","threadId":"5001"}"#.to_owned()),
        (
            "send_message",
            r#"{"type":"send_message","recipientId":"3","message":"Hello, this is a message.","threadId":"5001","token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"}"#.to_owned(),
        ),
        (
            "offer",
            format!(r#"{{"type":"offer","offer":{{"type":"offer","sdp":"{sdp}"}},"recipientId":"3","senderId":"2","threadId":"1"}}"#),
        ),
        ("not JSON", r#"{"type":"typing","threadId""#.to_owned()),
    ];
    for (name, text) in &frames {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(*name, |bencher| bencher.iter(|| parse(black_box(text)).1.is_ok()));
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut encoder = Encoder::default();
    let (user, thread) = (Id::string("7"), Id::string("5001"));
    group.bench_function("typing", |bencher| {
        bencher.iter(|| {
            encoder.encode(black_box(&ServerFrame::Typing {
                thread_id: &thread,
                user_id: Some(&user),
                typing: true,
                client_id: None,
            }))
        });
    });
    group.bench_function("message", |bencher| {
        bencher.iter(|| {
            encoder.encode(black_box(&ServerFrame::Message(MessageFrame {
                thread_id: &thread,
                sender_id: &user,
                recipient_id: Some(&user),
                message: "Hello, this is a message.",
                message_id: Some(42),
                sent_at: Some("2026-11-22T11:00:38Z"),
                html: Some("<p>Hello, this is a message.</p>\n"),
                attachments: None,
                notice: None,
                inbox: false,
                client_id: None,
            })))
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = short_run(); targets = parsing, encoding }
criterion_main!(benches);
