//! libFuzzer's entry to `record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::record::check(input));
