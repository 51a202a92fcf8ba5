//! Simulation of a whole server, with random scripts drawn from seeds: connects, frames, lost, late and
//! wrong answers of the site, slow readers, disconnects, clock jumps, drains, stops and kills. After
//! every step an oracle checks which frames each connection has received.
//!
//! The hub, the wire and the outbox are the real ones. The sockets, the clients, the site and the
//! time are simulated: a run of minutes takes milliseconds, and the same seed gives the same run.
//!
//! A failed run prints its seed. To repeat it and print all its steps:
//!
//! ```text
//! BUDDYLINE_SIMULATION_SEED=17 cargo test --test simulation
//! ```
//!
//! To run the seeds from 0 to 1,023, instead of the 256 of a test run:
//!
//! ```text
//! BUDDYLINE_SIMULATION_SEEDS=1024 cargo test --release --test simulation
//! ```
//!
//! To run new seeds until you stop it or a run fails:
//!
//! ```text
//! BUDDYLINE_SIMULATION=forever cargo test --release --test simulation -- --nocapture
//! ```

#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/simulation/client_frames.rs"]
mod client_frames;
#[path = "support/harness.rs"]
mod harness;
#[path = "support/simulation/link.rs"]
mod link;
#[path = "support/simulation/oracle.rs"]
mod oracle;
#[path = "support/simulation/outcomes.rs"]
mod outcomes;
#[path = "support/simulation/plan.rs"]
mod plan;
#[path = "support/simulation/rng.rs"]
mod rng;
#[path = "support/simulation/script.rs"]
mod script;
#[path = "support/simulation/shutdown.rs"]
mod shutdown;
#[path = "support/simulation/site.rs"]
mod site;
#[path = "support/simulation/trace.rs"]
mod trace;
#[path = "support/simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

use script::RunStats;
use trace::Trace;

/// How many seeds each test run covers.
const SEEDS: u64 = 256;
/// How many lines of the trace are printed when a run fails.
const TRACE_LINES: usize = 120;

/// Runs a seed; prints how to repeat it when it fails.
fn run(seed: u64, trace_lines: usize) -> (RunStats, u64) {
    let mut trace = Trace::new(trace_lines);
    match catch_unwind(AssertUnwindSafe(|| script::run(seed, &mut trace))) {
        Ok(sum) => (sum, trace.sum()),
        Err(fault) => {
            let (text, steps) = (trace.text(), trace.steps);
            eprintln!(
                "{text}\nseed {seed} fails in step {steps}; to repeat it and print all steps:\n\
                 BUDDYLINE_SIMULATION_SEED={seed} cargo test --test simulation"
            );
            resume_unwind(fault);
        }
    }
}

fn add(sum: &mut RunStats, other: RunStats) {
    sum.deliveries_to_others += other.deliveries_to_others;
    sum.missed += other.missed;
    sum.restarts += other.restarts;
    for (outcome, count) in other.outcomes {
        *sum.outcomes.entry(outcome).or_default() += count;
    }
}

/// Runs every fourth seed from `first` on.
fn run_quarter(first: u64) -> RunStats {
    let mut sum = RunStats::default();
    let only = std::env::var("BUDDYLINE_SIMULATION_SEED");
    if let Ok(seed) = only.map(|seed| seed.parse().expect("a seed is a number")) {
        if seed % 4 == first {
            add(&mut sum, run(seed, usize::MAX).0);
        }
        return sum;
    }
    let seeds = std::env::var("BUDDYLINE_SIMULATION_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a count of seeds"));
    for seed in (first..seeds).step_by(4) {
        add(&mut sum, run(seed, TRACE_LINES).0);
    }
    // Guards against scripts that hardly test anything.
    assert!(sum.deliveries_to_others > 500 && sum.missed > 0 && sum.restarts > 10, "{sum:?}");
    for outcome in ["message", "unknown_outcome", "site_unavailable", "not_stored", "overloaded"] {
        assert!(sum.outcomes.get(outcome).is_some_and(|count| *count > 5), "{outcome}: {sum:?}");
    }
    sum
}

#[test]
fn random_runs_deliver_exactly_what_they_should_1() {
    run_quarter(0);
}

#[test]
fn random_runs_deliver_exactly_what_they_should_2() {
    run_quarter(1);
}

#[test]
fn random_runs_deliver_exactly_what_they_should_3() {
    run_quarter(2);
}

#[test]
fn random_runs_deliver_exactly_what_they_should_4() {
    run_quarter(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..8 {
        let (first, second) = (run(seed, TRACE_LINES).1, run(seed, TRACE_LINES).1);
        assert_eq!(first, second, "seed {seed} runs differently each time");
        assert_ne!(
            first,
            run(seed + 1, TRACE_LINES).1,
            "seeds {seed} and the next give the same run"
        );
    }
}

#[test]
fn soak_run_continues_until_stopped() {
    if std::env::var("BUDDYLINE_SIMULATION").as_deref() != Ok("forever") {
        return;
    }
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Start at seeds that earlier soak runs did not use.
    let first = since_1970.as_secs() << 20;
    let (start, mut reported) = (Instant::now(), Instant::now());
    let mut sum = RunStats::default();
    for seed in first.. {
        add(&mut sum, run(seed, TRACE_LINES).0);
        if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            let runs = seed - first + 1;
            println!("{runs} seeds in {} s, up to {seed}: {sum:?}", start.elapsed().as_secs());
        }
    }
}
