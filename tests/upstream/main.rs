//! Requests to the BuddyBoss site and its replies, on recorded exchanges and over sockets.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod breaker;
mod buddyboss;
mod checks;
mod failing_site;
mod hostile;
mod jwt;
mod lookups;
mod plugin;
mod pool;
mod posts;
mod requests;
mod site_queries;
mod tickets;
mod wrapped;
