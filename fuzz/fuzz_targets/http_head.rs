#![no_main]

#[path = "../../tests/support/fuzz/http_head.rs"]
mod http_head;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_head::run(data));
