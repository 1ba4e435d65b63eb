//! libFuzzer's entry to `proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::proxy::check(input));
