//! Real-time messages, presence, typing and call signalling for BuddyBoss communities, in one
//! single-threaded event loop.
//!
//! # Layers
//!
//! A module imports only from lower layers, never from another module of its own layer:
//!
//! ```text
//! 5   main   cli               the command line
//! 4   server                   the event loop: mio, the clock   │   journal   logging
//!     load                     load testing                     │   doctor    checks of a setup
//! 3   connection               one client's socket   │   upstream   the site: threads and HTTP
//!     process                  processor time and memory, from /proc
//!     ───────── nothing below this line does I/O or reads a clock ─────────
//! 2   hub                      the logic             │   wire       WebSocket (RFC 6455), HTTP
//! 1   protocol                 frames and ids        │   config     settings
//!     metrics                  counters and the Prometheus text format
//! ```
//!
//! # Where to start reading
//!
//! [`hub::interface`] defines the inputs and effects, [`hub`] has the logic, [`server`] the event
//! loop. `docs/ARCHITECTURE.md` follows one message through all of them.

pub mod cli;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod hub;
pub mod journal;
pub mod load;
pub mod metrics;
pub mod process;
pub mod protocol;
pub mod server;
pub mod upstream;
pub mod wire;
