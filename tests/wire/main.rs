//! The WebSocket handshake and framing on bytes in memory, and which origins may connect.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod framing;
mod handshake;
mod origins;
mod random_input;
mod rfc9112;
mod site_events;
