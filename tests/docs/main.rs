//! The documents, the package and the source tree agree with the code.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod documents;
mod packaging;
mod settings;
mod tidy;
