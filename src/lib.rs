//! Real-time messages, presence, typing and call signalling for BuddyBoss communities, in one
//! single-threaded event loop.
//!
//! # Layers
//!
//! A module imports only from lower layers; modules of one layer do not import each other:
//!
//! ```text
//! 6   main   cli               the command line
//! 5   server                   the event loop: mio, the clock   │   journal   log writer
//!     load                     load generator                   │   doctor    diagnosis
//! 4   connection               one socket       │   upstream   HTTP to the site, on worker threads
//!     process                  resource usage of the process, from /proc
//!     ───────── no I/O and no clock below this line ─────────
//! 3   wire                     WebSocket framing (RFC 6455), outboxes
//! 2   hub                      application logic │   http       requests and responses, handshake
//! 1   protocol   config   metrics
//! ```
//!
//! # Where to start reading
//!
//! [`hub::interface`] defines the inputs and effects, [`hub`] has the logic, [`server`] the event
//! loop. `docs/ARCHITECTURE.md` follows one message through all of them.

#![warn(unreachable_pub)]
// The documentation is for engineers who change the server: it may link to private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod cli;
pub mod config;
pub mod connection;
pub mod doctor;
pub mod http;
pub mod hub;
pub mod journal;
pub mod load;
mod metrics;
mod process;
pub mod protocol;
pub mod server;
pub mod upstream;
pub mod wire;
