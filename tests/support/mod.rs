//! What the tests share. Everything ugly is here.
//!
//! * [`site`]: a BuddyBoss site that a test starts, breaks and questions.
//! * [`fixtures`]: answers recorded from a real one.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod fixtures;
pub mod site;
