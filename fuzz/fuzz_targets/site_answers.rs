#![no_main]

#[path = "../../tests/support/fuzz/site_answers.rs"]
mod site_answers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| site_answers::run(data));
