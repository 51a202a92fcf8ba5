//! Random lives of a whole server, each drawn from a seed: connects, frames, lost, late and lying
//! answers, slow readers, disconnects, clock jumps, drains and ends. After every step it is checked
//! who has heard what.
//!
//! The hub, the wire and the outbox are the real ones. The sockets, the clients, the site and the
//! time are simulated: a run of minutes takes milliseconds, and the same seed gives the same run.
//!
//! A run that fails says its seed. To see it again, with all its steps:
//!
//! ```text
//! BUDDYLINE_SIMULATION_SEED=17 cargo test --test simulation
//! ```
//!
//! To look for more, until it is stopped or something is found:
//!
//! ```text
//! BUDDYLINE_SIMULATION=forever cargo test --release --test simulation -- --nocapture
//! ```

#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/simulation/dice.rs"]
mod dice;
#[path = "support/simulation/ending.rs"]
mod ending;
#[path = "support/simulation/link.rs"]
mod link;
#[path = "support/simulation/outcomes.rs"]
mod outcomes;
#[path = "support/simulation/plan.rs"]
mod plan;
#[path = "support/simulation/script.rs"]
mod script;
#[path = "support/simulation/shadow.rs"]
mod shadow;
#[path = "support/simulation/site.rs"]
mod site;
#[path = "support/town.rs"]
mod town;
#[path = "support/simulation/trace.rs"]
mod trace;
#[path = "support/simulation/words.rs"]
mod words;
#[path = "support/simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

use script::Sum;
use trace::Trace;

/// Seeds of each test run.
const SEEDS: u64 = 256;
/// Lines that are told of a run that fails.
const TOLD: usize = 120;

/// Runs a seed; when it fails, says how to see it again.
fn run(seed: u64, told: usize) -> (Sum, u64) {
    let mut trace = Trace::new(told);
    match catch_unwind(AssertUnwindSafe(|| script::run(seed, &mut trace))) {
        Ok(sum) => (sum, trace.sum()),
        Err(fault) => {
            let (text, steps) = (trace.text(), trace.steps);
            eprintln!(
                "{text}\nseed {seed} fails in step {steps}; to see all of it:\n\
                 BUDDYLINE_SIMULATION_SEED={seed} cargo test --test simulation"
            );
            resume_unwind(fault);
        }
    }
}

fn add(sum: &mut Sum, other: Sum) {
    sum.hearings += other.hearings;
    sum.missed += other.missed;
    sum.restarts += other.restarts;
    for (word, count) in other.outcomes {
        *sum.outcomes.entry(word).or_default() += count;
    }
}

/// Runs every fourth of the seeds.
fn quarter(first: u64) -> Sum {
    let mut sum = Sum::default();
    let only = std::env::var("BUDDYLINE_SIMULATION_SEED");
    if let Ok(seed) = only.map(|seed| seed.parse().expect("a seed is a number")) {
        if seed % 4 == first {
            add(&mut sum, run(seed, usize::MAX).0);
        }
        return sum;
    }
    for seed in (first..SEEDS).step_by(4) {
        add(&mut sum, run(seed, TOLD).0);
    }
    // A script in which nothing happens finds nothing.
    assert!(sum.hearings > 500 && sum.missed > 0 && sum.restarts > 10, "{sum:?}");
    for word in ["message", "unknown_outcome", "site_unavailable", "not_stored", "overloaded"] {
        assert!(sum.outcomes.get(word).is_some_and(|count| *count > 5), "{word}: {sum:?}");
    }
    sum
}

#[test]
fn whatever_happens_everyone_hears_what_they_should_and_nobody_else_does_1() {
    quarter(0);
}

#[test]
fn whatever_happens_everyone_hears_what_they_should_and_nobody_else_does_2() {
    quarter(1);
}

#[test]
fn whatever_happens_everyone_hears_what_they_should_and_nobody_else_does_3() {
    quarter(2);
}

#[test]
fn whatever_happens_everyone_hears_what_they_should_and_nobody_else_does_4() {
    quarter(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..8 {
        let (first, second) = (run(seed, TOLD).1, run(seed, TOLD).1);
        assert_eq!(first, second, "seed {seed} runs differently each time");
        assert_ne!(first, run(seed + 1, TOLD).1, "seed {seed} decides nothing");
    }
}

#[test]
fn it_goes_on_until_it_is_stopped_if_it_is_told_to() {
    if std::env::var("BUDDYLINE_SIMULATION").as_deref() != Ok("forever") {
        return;
    }
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Not the seeds of the last time.
    let first = since_1970.as_secs() << 20;
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut sum = Sum::default();
    for seed in first.. {
        add(&mut sum, run(seed, TOLD).0);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let runs = seed - first + 1;
            println!("{runs} seeds in {} s, up to {seed}: {sum:?}", begun.elapsed().as_secs());
        }
    }
}
