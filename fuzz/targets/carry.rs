//! libFuzzer's entry to `carry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringdesk_fuzz::carry::check(input));
