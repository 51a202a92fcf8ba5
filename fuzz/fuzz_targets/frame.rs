#![no_main]

#[path = "../../tests/support/fuzz/frame.rs"]
mod frame;

libfuzzer_sys::fuzz_target!(|data: &[u8]| frame::run(data));
