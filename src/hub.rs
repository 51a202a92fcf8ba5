//! The community as a state machine.
pub mod interface;
