//! libFuzzer's entry to `websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::websocket::check(input));
