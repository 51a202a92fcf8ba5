//! buddyline.
pub mod hub;
pub mod protocol;
pub mod upstream;
