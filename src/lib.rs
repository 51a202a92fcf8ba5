//! Real-time messages, presence, typing and call signalling for BuddyBoss communities, in one
//! single-threaded event loop.
//!
//! # Floors
//!
//! A file imports only from lower floors, and what stands on one floor does not know its
//! neighbour:
//!
//! ```text
//! 5   main   cli               the command line
//! 4   server                   the loop: mio, the clock   │   journal   the log's writer
//!     load                     many clients               │   doctor    looks, and judges
//! 3   connection               one socket      │   upstream   worker threads, HTTP, the stand-in
//!     process                  what a process has used, from /proc
//!     ───────── nothing below this line does I/O or reads a clock ─────────
//! 2   hub                      logic           │   wire       RFC 6455
//! 1   protocol   config   metrics   words and numbers
//! ```
//!
//! # Where to start reading
//!
//! [`hub::interface`] has the vocabulary, [`hub`] the logic, [`server`] the tick. What happens to
//! one message on its way through all of them is told in `docs/ARCHITECTURE.md`.

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
