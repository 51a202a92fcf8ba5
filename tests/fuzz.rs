//! Runs the fuzz targets on stable Rust: their seeds, past findings, and some seconds of generated
//! cases. For long runs see `fuzz/README.md`.

#![allow(clippy::unwrap_used)]

#[path = "support/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[path = "support/fuzz/frame.rs"]
mod frame;
#[path = "support/fuzz/http_head.rs"]
mod http_head;
#[path = "support/fuzz/site_answers.rs"]
mod site_answers;
#[path = "support/strategies.rs"]
mod strategies;
#[path = "support/fuzz/wire.rs"]
mod wire;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("wire", wire::run),
    ("frame", frame::run),
    ("http_head", http_head::run),
    ("site_answers", site_answers::run),
];

/// The stored cases of a target: file names and contents.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    assert!(seeds.len() >= 3, "{target} has seeds");
    seeds.sort();
    seeds
}

#[test]
fn seeds_and_past_findings_pass() {
    for (target, run) in TARGETS {
        for (name, seed) in seeds(target) {
            assert!(catch_unwind(|| run(&seed)).is_ok(), "fuzz/seeds/{target}/{name} fails");
        }
    }
}

#[test]
fn every_truncated_seed_passes() {
    for (target, run) in TARGETS {
        for (name, seed) in seeds(target) {
            // About a hundred prefixes of each seed.
            for end in (0..seed.len()).step_by(1 + seed.len() / 100) {
                let passes = catch_unwind(|| run(&seed[..end])).is_ok();
                assert!(passes, "{end} bytes of fuzz/seeds/{target}/{name} fail");
            }
        }
    }
}

#[test]
fn recorded_site_replies_pass() {
    for name in fixtures::names() {
        site_answers::run(&case_of(&fixtures::load(&name)));
    }
}

/// A recorded site reply as a case of the target `site_answers`.
fn case_of(fixture: &fixtures::Fixture) -> Vec<u8> {
    let header = |name| fixture.header(name).unwrap_or_default();
    let head = format!(
        "{}\n{}\n{}\n{}\n{}\n",
        fixture.status,
        header("content-type"),
        header("retry-after"),
        header("date"),
        header("location")
    );
    [head.into_bytes(), fixture.body.clone()].concat()
}

/// A seed with random bytes changed, removed and inserted.
fn mutations_of(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = seeds(target).into_iter().map(|(_, seed)| seed).collect();
    let piece = prop_oneof![vec(any::<u8>(), 0..4), "[\\[{\":,}\\]a0\n]{0,4}".prop_map(Into::into)];
    let changes = vec((any::<Index>(), 0..6_usize, piece), 0..8);
    (select(seeds), changes).prop_map(|(mut bytes, changes)| {
        for (at, out, with) in changes {
            let start = at.index(bytes.len() + 1);
            let end = bytes.len().min(start + out);
            bytes.splice(start..end, with);
        }
        bytes
    })
}

fn lines_of(line: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    vec(line, 0..24).prop_map(|lines| lines.join("\n").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes_through_the_wire_pass(
        bytes in prop_oneof![vec(any::<u8>(), 0..600), mutations_of("wire")],
    ) {
        wire::run(&bytes);
    }

    #[test]
    fn random_request_heads_pass(
        bytes in prop_oneof![1 => vec(any::<u8>(), 0..200), 5 => mutations_of("http_head")],
    ) {
        http_head::run(&bytes);
    }

    #[test]
    fn random_site_replies_pass(
        bytes in prop_oneof![1 => vec(any::<u8>(), 0..200), 5 => mutations_of("site_answers")],
    ) {
        site_answers::run(&bytes);
    }

    #[test]
    fn random_frame_scripts_pass(
        bytes in prop_oneof![
            mutations_of("frame"),
            lines_of(prop_oneof![
                4 => ("[abc]", strategies::near_valid_frame()).prop_map(|(client, frame)| client + &frame),
                1 => ("[abc]", strategies::any_text()).prop_map(|(client, text)| client + &text),
                2 => "![flsp][0-9]{1,2}(,[1-9]){0,4}",
                1 => "[ABC](user-[1-9])?",
                1 => "\\+[0-9]{1,3}",
            ]),
        ],
    ) {
        frame::run(&bytes);
    }
}
