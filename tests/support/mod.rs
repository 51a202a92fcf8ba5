//! What the tests share. Everything ugly is here.
//!
//! * [`site`]: a BuddyBoss site that a test starts, breaks and questions; [`site_model`] is its mind,
//!   [`members`] whom it knows.
//! * [`jwt`]: tokens, good and bad.
//! * [`fixtures`]: answers recorded from a real one.
//! * [`driver`]: the loop's place, for tests of the pool.

// Each test binary uses its own part of this, and a broken helper is a broken test.
#![allow(dead_code, clippy::unwrap_used)]

pub mod driver;
pub mod fixtures;
pub mod gzip;
pub mod jwt;
pub mod members;
pub mod site;
pub mod site_model;
