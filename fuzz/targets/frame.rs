//! libFuzzer's entry to `frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::frame::check(input));
