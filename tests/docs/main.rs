//! Checks that documents, package and source tree match the code and the rules of the project.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod documents;
mod packaging;
mod settings;
mod tidy;
