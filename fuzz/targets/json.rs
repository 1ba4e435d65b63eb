//! libFuzzer's entry to `json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::json::check(input));
