//! Helpers that the integration tests share, compiled once for each group of tests.
//!
//! * [`harness`]: a hub under a clock that the test moves; [`call_frames`] and [`diagram`] read the
//!   frames of calls from it.
//! * [`bytes`]: both sides of a WebSocket as bytes in memory; [`strategies`]: random frames.
//! * [`server`]: the built binary on a free port; [`client`], [`client_set`] and [`tls`] connect to
//!   it, [`proxy`] and [`recorder`] stand in between, [`scrape`] reads its metrics; [`tls_front`]
//!   gives a site TLS, [`connect_proxy`] stands before it.
//! * [`site`]: a BuddyBoss site over HTTP that a test starts, breaks and inspects; [`site_model`]
//!   holds its state, [`members`] its users; [`raw`]: a site that a test writes byte by byte.
//! * [`plugin`]: signs and sends what the site's plugin sends.
//! * [`driver`]: runs the pool of upstream workers as the event loop does.
//! * [`fixtures`]: exchanges recorded from a live site; [`jwt`]: valid and invalid tokens.
//! * [`files`], [`gzip`], [`markdown`], [`scanner`]: temporary files, compression, documents, and the
//!   search for leaked secrets.

// Each group of tests uses a part of this.
#![allow(dead_code, clippy::unwrap_used)]

pub mod bytes;
pub mod call_frames;
pub mod client;
pub mod client_set;
pub mod connect_proxy;
pub mod diagram;
pub mod driver;
pub mod files;
pub mod fixtures;
pub mod gzip;
pub mod harness;
pub mod jwt;
pub mod markdown;
pub mod members;
pub mod plugin;
pub mod proxy;
pub mod raw;
pub mod recorder;
pub mod scanner;
pub mod scrape;
pub mod server;
pub mod site;
pub mod site_model;
pub mod strategies;
pub mod tls;
pub mod tls_front;
