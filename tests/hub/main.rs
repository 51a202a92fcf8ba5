//! Tests of the hub alone: scripts and random histories under a clock that the test controls.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod basics;
mod call_permission;
mod call_status;
mod calls;
mod calls_documented;
mod calls_edges;
mod calls_properties;
mod calls_random;
mod clocks;
mod group_calls_documented;
mod ice;
mod identity;
mod liveness;
mod membership;
mod outcomes;
mod privacy;
mod properties;
mod rechecks;
mod regressions;
mod site_events;
mod site_events_random;
